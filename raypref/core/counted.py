"""Numbers of things, in words."""


def counted(number: int | float, noun: str) -> str:
    """As in "1 sampler", "2 samplers", "1.5 CPUs"."""
    return f"{number:g} {noun}{'' if number == 1 else 's'}"
