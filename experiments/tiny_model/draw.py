"""Draws captioned pictures: `draw(caption, rng)`. Look at a sheet: `python -m experiments.tiny_model.draw`.

What a caption leaves open varies freely (texture, saturation, brightness, position, facing), so that
a reward has something to move without changing what the prompt asked for.
"""

import argparse
from random import Random

from PIL import Image, ImageDraw, ImageEnhance

from experiments.tiny_model import animals, places
from experiments.tiny_model.brush import Brush
from experiments.tiny_model.vocabulary import ANIMALS, COLOURS, PLACES, SIZES, Caption

SIDE = 64
CANVAS = 192
"""Drawn three times larger, then reduced, for smooth edges."""
INK = (26, 20, 30)


def draw(caption: Caption, rng: Random) -> Image.Image:
    """A 64x64 picture of the caption."""
    image = places.PAINTERS[caption.place](CANVAS, rng.random(), rng)
    half = CANVAS / 2
    scale = half * SIZES[caption.size] * rng.uniform(0.95, 1.06)
    room = (half - 1.06 * scale) * 0.75
    centre = (half + rng.uniform(-room, room), half + rng.uniform(-0.5, 1.0) * room)
    brush = Brush(ImageDraw.Draw(image), centre, scale, rng.choice((-1, 1)), INK)
    animals.PAINTERS[caption.animal](brush, COLOURS[caption.colour])
    image = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    image = ImageEnhance.Color(image).enhance(rng.uniform(0.55, 1.15))
    return ImageEnhance.Brightness(image).enhance(rng.uniform(0.8, 1.12))


def sheet(pictures: list[Image.Image], columns: int, zoom: int = 1) -> Image.Image:
    """Pictures side by side, `columns` a row."""
    side = pictures[0].width * zoom
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * side, rows * side))
    for i, picture in enumerate(pictures):
        big = picture.resize((side, side), Image.Resampling.BICUBIC)
        page.paste(big, (i % columns * side, i // columns * side))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="sheet.png")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = Random(args.seed)
    captions = [
        Caption(rng.choice(list(SIZES)), rng.choice(list(COLOURS)), animal, place)
        for animal in ANIMALS
        for place in PLACES
    ]
    sheet([draw(caption, rng) for caption in captions], len(PLACES), zoom=2).save(args.out)


if __name__ == "__main__":
    main()
