"""Numbers of things, in words."""


def counted(number: int, noun: str) -> str:
    """As in "1 sampler", "2 samplers"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
