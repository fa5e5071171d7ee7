"""Six places. `amount` in [0, 1] is how much texture: bubbles, blades, clouds, cacti, stars, flakes."""

import math
from collections.abc import Callable
from random import Random

import numpy as np
from PIL import Image
from PIL.ImageDraw import Draw, ImageDraw

from experiments.tiny_model.brush import Colour, mix


def gradient(side: int, top: Colour, bottom: Colour) -> Image.Image:
    share = np.linspace(0, 1, side)[:, None, None]
    rows = np.array(top) * (1 - share) + np.array(bottom) * share
    return Image.fromarray(np.broadcast_to(rows, (side, side, 3)).round().astype(np.uint8))


def dot(canvas: ImageDraw, x: float, y: float, r: float, fill: Colour) -> None:
    canvas.ellipse((x - r, y - r, x + r, y + r), fill=fill)


def hill(canvas: ImageDraw, side: int, height: float, swing: float, phase: float, fill: Colour) -> None:
    """Ground whose edge is a slow wave around `height` (share of the picture from the top)."""
    edge = [(x * side / 16, side * (height + swing * math.sin(phase + x * 0.3))) for x in range(17)]
    canvas.polygon([(0, side), *edge, (side, side)], fill=fill)


def sea(side: int, amount: float, rng: Random) -> Image.Image:
    image = gradient(side, (120, 206, 240), (22, 92, 176))
    canvas = Draw(image)
    hill(canvas, side, 0.92, 0.02, rng.uniform(0, 6), (226, 204, 150))
    for _ in range(round(5 * amount)):
        x, tall = rng.uniform(0, side), rng.uniform(0.12, 0.26) * side
        stem = [(x + 0.025 * side * math.sin(i * 1.1), side - i * tall / 6) for i in range(7)]
        canvas.line(stem, fill=(40, 150, 100), width=round(side / 40), joint="curve")
    for _ in range(round(12 * amount)):
        x, y, r = rng.uniform(0, side), rng.uniform(0, side * 0.85), rng.uniform(0.012, 0.035) * side
        canvas.ellipse((x - r, y - r, x + r, y + r), outline=(220, 244, 255), width=round(side / 90))
    return image


def grass(side: int, amount: float, rng: Random) -> Image.Image:
    image = gradient(side, (140, 206, 250), (222, 242, 252))
    canvas = Draw(image)
    dot(canvas, rng.choice((0.14, 0.86)) * side, 0.13 * side, 0.08 * side, (255, 226, 90))
    hill(canvas, side, 0.55, 0.035, rng.uniform(0, 6), (122, 204, 84))
    hill(canvas, side, 0.74, 0.03, rng.uniform(0, 6), (92, 182, 66))
    for _ in range(round(16 * amount)):
        x, y, h = rng.uniform(0, side), rng.uniform(0.64, 1.0) * side, 0.055 * side
        for lean in (-0.5, 0.5):
            canvas.line([(x, y), (x + lean * h, y - h)], fill=(44, 136, 48), width=round(side / 64))
    for _ in range(round(6 * amount)):
        x, y, r = rng.uniform(0, side), rng.uniform(0.66, 0.97) * side, 0.022 * side
        petal = rng.choice(((255, 255, 255), (255, 190, 214), (255, 236, 120)))
        for dx, dy in ((r, 0), (-r, 0), (0, r), (0, -r)):
            dot(canvas, x + dx, y + dy, r, petal)
        dot(canvas, x, y, r * 0.8, (250, 170, 40))
    return image


def sky(side: int, amount: float, rng: Random) -> Image.Image:
    image = gradient(side, (84, 164, 244), (190, 228, 255))
    canvas = Draw(image)
    for _ in range(round(1 + 4 * amount)):
        x, y, r = rng.uniform(0, side), rng.uniform(0.06, 0.94) * side, rng.uniform(0.05, 0.09) * side
        for dx, dy, size in ((-1.2, 0.2, 0.8), (0, -0.25, 1.15), (1.2, 0.15, 0.9), (0.3, 0.3, 0.9)):
            dot(canvas, x + dx * r, y + dy * r, size * r, (255, 255, 255))
    return image


def cactus(canvas: ImageDraw, x: float, y: float, h: float) -> None:
    green, thick = (70, 150, 84), max(2, round(h * 0.24))
    arms = ([(x, y), (x, y - h)], [(x, y - 0.4 * h), (x + 0.36 * h, y - 0.4 * h), (x + 0.36 * h, y - 0.8 * h)],
            [(x, y - 0.3 * h), (x - 0.36 * h, y - 0.3 * h), (x - 0.36 * h, y - 0.62 * h)])  # fmt: skip
    for arm, width in zip(arms, (thick, 0.7 * thick, 0.7 * thick), strict=True):
        canvas.line(arm, fill=green, width=round(width), joint="curve")
        dot(canvas, *arm[-1], width / 2, green)


def desert(side: int, amount: float, rng: Random) -> Image.Image:
    image = gradient(side, (252, 206, 136), (255, 238, 200))
    canvas = Draw(image)
    dot(canvas, rng.choice((0.16, 0.84)) * side, 0.16 * side, 0.1 * side, (255, 250, 220))
    hill(canvas, side, 0.5, 0.06, rng.uniform(0, 6), (240, 190, 112))
    hill(canvas, side, 0.68, 0.05, rng.uniform(0, 6), (226, 168, 88))
    for _ in range(round(4 * amount)):
        cactus(canvas, rng.uniform(0.04, 0.96) * side, rng.uniform(0.62, 0.92) * side,
               rng.uniform(0.16, 0.26) * side)  # fmt: skip
    for _ in range(round(5 * amount)):
        x, y, w = rng.uniform(0, side), rng.uniform(0.74, 0.98) * side, 0.07 * side
        canvas.arc((x - w, y - w / 3, x + w, y + w / 3), 190, 350, fill=(196, 138, 66), width=round(side / 80))
    return image


def night(side: int, amount: float, rng: Random) -> Image.Image:
    image = gradient(side, (22, 24, 74), (70, 62, 132))
    canvas = Draw(image)
    x = rng.choice((0.16, 0.84)) * side
    dot(canvas, x, 0.15 * side, 0.1 * side, (255, 244, 190))
    dot(canvas, x + 0.045 * side, 0.125 * side, 0.08 * side, (28, 28, 80))
    for _ in range(round(22 * amount)):
        dot(canvas, rng.uniform(0, side), rng.uniform(0, 0.8) * side, rng.uniform(0.008, 0.018) * side,
            (255, 248, 214))  # fmt: skip
    hill(canvas, side, 0.82, 0.03, rng.uniform(0, 6), (36, 50, 84))
    return image


def fir(canvas: ImageDraw, x: float, y: float, h: float) -> None:
    green = (60, 128, 104)
    for low, width in ((0.0, 0.34), (0.3, 0.27), (0.58, 0.19)):
        base = y - low * h
        canvas.polygon([(x - width * h, base), (x + width * h, base), (x, base - 0.5 * h)], fill=green)
        canvas.line([(x - width * h, base), (x + width * h, base)], fill=(250, 252, 255), width=max(2, round(h / 14)))


def snow(side: int, amount: float, rng: Random) -> Image.Image:
    image = gradient(side, (164, 186, 216), (218, 228, 242))
    canvas = Draw(image)
    hill(canvas, side, 0.56, 0.03, rng.uniform(0, 6), mix((236, 242, 250), (190, 208, 232), 0.4))
    for _ in range(round(4 * amount)):
        fir(canvas, rng.uniform(0.04, 0.96) * side, rng.uniform(0.56, 0.72) * side,
            rng.uniform(0.22, 0.34) * side)  # fmt: skip
    hill(canvas, side, 0.72, 0.03, rng.uniform(0, 6), (242, 246, 252))
    for _ in range(round(24 * amount)):
        dot(canvas, rng.uniform(0, side), rng.uniform(0, side), rng.uniform(0.01, 0.02) * side, (255, 255, 255))
    return image


PAINTERS: dict[str, Callable[[int, float, Random], Image.Image]] = {
    painter.__name__: painter for painter in (sea, grass, sky, desert, night, snow)
}
