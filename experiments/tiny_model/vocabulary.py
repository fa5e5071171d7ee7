"""The words of a caption: "a [small |big ]<colour> <animal> <place phrase>", or "an orange ..."."""

from itertools import product
from typing import NamedTuple

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (226, 44, 48),
    "orange": (250, 140, 30),
    "yellow": (252, 218, 50),
    "green": (58, 176, 72),
    "blue": (44, 104, 226),
    "purple": (138, 66, 198),
    "pink": (255, 146, 190),
    "brown": (138, 84, 46),
    "black": (52, 52, 60),
    "white": (246, 246, 248),
}
ANIMALS = ("fish", "bird", "butterfly", "turtle", "rabbit", "cat", "snail", "elephant")
PLACES = {
    "sea": "in the sea",
    "grass": "on the grass",
    "sky": "in the sky",
    "desert": "in the desert",
    "night": "at night",
    "snow": "in the snow",
}
SIZES = {"small": 0.48, "": 0.64, "big": 0.8}
"""Half-width of the animal over half-width of the picture; the empty word is the usual size."""


class Caption(NamedTuple):
    """What a picture shows, attribute by attribute."""

    size: str
    colour: str
    animal: str
    place: str

    def __str__(self) -> str:
        noun = f"{self.size} {self.colour} {self.animal}".strip()
        return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun} {PLACES[self.place]}"


def every_caption() -> list[Caption]:
    """All captions, in a fixed order."""
    return [Caption(*words) for words in product(SIZES, COLOURS, ANIMALS, PLACES)]
