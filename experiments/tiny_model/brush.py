"""A brush that paints outlined shapes in the animal's own coordinates."""

import math
from collections.abc import Sequence

from PIL.ImageDraw import ImageDraw

Point = tuple[float, float]
Colour = tuple[int, int, int]


def mix(colour: Colour, other: Colour, share: float) -> Colour:
    """`colour` with `share` of `other` in it."""
    r, g, b = (round(c + (o - c) * share) for c, o in zip(colour, other, strict=True))
    return r, g, b


class Brush:
    """Paints shapes given in a box from -1 to 1 (x to the animal's front, y down)."""

    def __init__(self, canvas: ImageDraw, centre: Point, scale: float, facing: int, ink: Colour) -> None:
        self.canvas, self.centre, self.scale, self.facing, self.ink = (
            canvas,
            centre,
            scale,
            facing,
            ink,
        )
        self.line = max(3.0, 0.055 * scale + 1.4)

    def place(self, points: Sequence[Point]) -> list[Point]:
        cx, cy = self.centre
        return [(cx + self.facing * self.scale * x, cy + self.scale * y) for x, y in points]

    def polygon(self, points: Sequence[Point], fill: Colour, outline: bool = True) -> None:
        placed = self.place(points)
        self.canvas.polygon(placed, fill=fill)
        if outline:
            closed = [*placed, *placed[:2]]
            self.canvas.line(closed, fill=self.ink, width=round(self.line), joint="curve")

    def ellipse(
        self,
        x: float, y: float, rx: float, ry: float,
        fill: Colour,
        tilt: float = 0.0,
        outline: bool = True,
    ) -> None:  # fmt: skip
        """An ellipse at (x, y), turned by `tilt` degrees."""
        self.polygon(ellipse(x, y, rx, ry, tilt), fill, outline)

    def stroke(self, points: Sequence[Point], width: float, fill: Colour) -> None:
        """A thick outlined line with round ends: a tail, a trunk, a leg."""
        for colour, thick in ((self.ink, width * self.scale + 2 * self.line * 0.5),
                              (fill, width * self.scale - self.line)):  # fmt: skip
            self.trace(points, thick, colour)

    def hair(self, points: Sequence[Point], width: float = 0.7) -> None:
        """A thin line in the colour of the outline."""
        self.trace(points, self.line * width, self.ink)

    def trace(self, points: Sequence[Point], thick: float, colour: Colour) -> None:
        placed = self.place(points)
        self.canvas.line(placed, fill=colour, width=max(1, round(thick)), joint="curve")
        for x, y in (placed[0], placed[-1]):
            r = thick / 2
            self.canvas.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def eye(self, x: float, y: float, r: float = 0.13) -> None:
        self.ellipse(x, y, r, r * 1.1, (255, 255, 255))
        self.ellipse(x + r * 0.25, y, r * 0.6, r * 0.68, (15, 15, 20), outline=False)


def ellipse(x: float, y: float, rx: float, ry: float, tilt: float = 0.0) -> list[Point]:
    c, s = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
    turn = [2 * math.pi * i / 28 for i in range(28)]
    arm = [(rx * math.cos(t), ry * math.sin(t)) for t in turn]
    return [(x + c * u - s * v, y + s * u + c * v) for u, v in arm]


def curve(start: Point, pull: Point, end: Point) -> list[Point]:
    """A quadratic Bézier curve."""
    steps = [i / 10 for i in range(11)]
    return [
        (
            (1 - t) ** 2 * start[0] + 2 * t * (1 - t) * pull[0] + t * t * end[0],
            (1 - t) ** 2 * start[1] + 2 * t * (1 - t) * pull[1] + t * t * end[1],
        )
        for t in steps
    ]
