"""Eight animals, each with a silhouette of its own at 64 pixels. All face right."""

import math
from collections.abc import Callable

from experiments.tiny_model.brush import Brush, Colour, curve, mix

WHITE: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)
BEAK: Colour = (255, 178, 40)
BLUSH: Colour = (255, 176, 190)


def pale(colour: Colour) -> Colour:
    return mix(colour, WHITE, 0.45)


def deep(colour: Colour) -> Colour:
    return mix(colour, BLACK, 0.22)


def fish(b: Brush, colour: Colour) -> None:
    b.polygon([(-0.4, 0.0), (-1.0, -0.58), (-0.8, 0.0), (-1.0, 0.58)], deep(colour))
    b.polygon([(-0.3, -0.38), (-0.1, -0.8), (0.45, -0.68), (0.5, -0.35)], deep(colour))
    b.polygon([(-0.15, 0.4), (-0.2, 0.74), (0.3, 0.44)], deep(colour))
    b.ellipse(0.15, 0.0, 0.8, 0.52, colour)
    b.ellipse(0.2, 0.24, 0.5, 0.17, pale(colour), outline=False)
    b.polygon(curve((-0.1, -0.12), (-0.62, 0.1), (-0.06, 0.3)), deep(colour))
    b.hair(curve((0.3, -0.44), (0.12, 0.0), (0.3, 0.44)))
    b.eye(0.58, -0.12, 0.16)
    b.hair(curve((0.7, 0.22), (0.8, 0.28), (0.88, 0.18)))


def bird(b: Brush, colour: Colour) -> None:
    b.polygon([(-0.4, 0.1), (-1.05, -0.12), (-0.98, 0.16), (-1.05, 0.42), (-0.4, 0.35)],
              deep(colour))  # fmt: skip
    for x in (-0.05, 0.2):
        b.hair([(x, 0.5), (x - 0.08, 0.86), (x + 0.12, 0.88)], 1.0)
    b.ellipse(0.02, 0.22, 0.62, 0.42, colour)
    b.ellipse(0.14, 0.38, 0.4, 0.2, pale(colour), outline=False)
    b.polygon([(0.8, -0.28), (1.2, -0.1), (0.76, 0.02)], BEAK)
    b.ellipse(0.55, -0.2, 0.36, 0.34, colour)
    b.polygon([(0.25, 0.22), (0.2, -0.15), (-0.1, -0.62), (-0.62, -0.98), (-0.56, -0.7),
               (-0.72, -0.62), (-0.58, -0.4), (-0.68, -0.28), (-0.4, 0.12)], deep(colour))  # fmt: skip
    b.eye(0.63, -0.25)


def butterfly(b: Brush, colour: Colour) -> None:
    for side in (-1, 1):
        b.ellipse(side * 0.44, 0.45, 0.42, 0.32, deep(colour), tilt=side * 40)
        b.ellipse(side * 0.56, -0.28, 0.56, 0.4, colour, tilt=side * -38)
        b.ellipse(side * 0.64, -0.34, 0.26, 0.17, pale(colour), tilt=side * -38, outline=False)
        b.ellipse(side * 0.46, 0.48, 0.16, 0.13, pale(colour), outline=False)
        b.hair(curve((0.0, -0.5), (side * 0.06, -0.9), (side * 0.32, -0.95)))
    b.ellipse(0.0, 0.08, 0.11, 0.62, (60, 46, 44))
    b.ellipse(0.0, -0.5, 0.15, 0.15, (60, 46, 44))


def turtle(b: Brush, colour: Colour) -> None:
    skin = mix(pale(colour), (190, 214, 150), 0.45)
    b.polygon([(-0.8, 0.3), (-1.1, 0.5), (-0.72, 0.5)], skin)
    for x in (-0.5, 0.34):
        b.ellipse(x, 0.58, 0.2, 0.28, skin)
    b.stroke([(0.5, 0.4), (0.82, 0.16)], 0.3, skin)
    b.ellipse(0.88, 0.02, 0.27, 0.26, skin)
    dome = [(-0.08 + 0.78 * math.cos(t), 0.44 - 1.0 * math.sin(t))
            for t in (math.pi * i / 16 for i in range(17))]  # fmt: skip
    b.polygon(dome, colour)
    b.polygon([(-0.34, -0.08), (-0.08, -0.28), (0.18, -0.08), (0.08, 0.22), (-0.24, 0.22)],
              pale(colour))  # fmt: skip
    for near, far in (((-0.34, -0.08), (-0.62, -0.18)), ((0.18, -0.08), (0.46, -0.18)),
                      ((-0.24, 0.22), (-0.36, 0.42)), ((0.08, 0.22), (0.2, 0.42))):  # fmt: skip
        b.hair([near, far])
    b.stroke([(-0.8, 0.44), (0.64, 0.44)], 0.17, deep(colour))
    b.eye(0.94, -0.04, 0.11)


def rabbit(b: Brush, colour: Colour) -> None:
    b.ellipse(-0.74, 0.56, 0.2, 0.2, WHITE)
    b.ellipse(-0.2, 0.42, 0.56, 0.5, colour)
    b.ellipse(0.08, 0.84, 0.36, 0.14, pale(colour))
    for x, tilt in ((0.1, -14), (0.5, 8)):
        b.ellipse(x, -0.68, 0.15, 0.42, colour, tilt=tilt)
        b.ellipse(x, -0.64, 0.06, 0.28, BLUSH, tilt=tilt, outline=False)
    b.ellipse(0.36, -0.06, 0.43, 0.38, colour)
    b.ellipse(0.56, 0.1, 0.2, 0.15, pale(colour), outline=False)
    b.eye(0.44, -0.12)
    b.ellipse(0.76, 0.02, 0.07, 0.05, (230, 90, 120), outline=False)


def cat(b: Brush, colour: Colour) -> None:
    b.stroke(curve((-0.2, 0.74), (-1.15, 0.9), (-0.82, 0.1))
             + curve((-0.82, 0.1), (-0.72, -0.14), (-0.6, 0.06)), 0.2, colour)  # fmt: skip
    b.ellipse(0.08, 0.5, 0.46, 0.46, colour)
    b.ellipse(0.12, 0.56, 0.24, 0.3, pale(colour), outline=False)
    for x in (-0.1, 0.3):
        b.ellipse(x, 0.88, 0.16, 0.11, pale(colour))
    for side in (-1, 1):
        b.polygon([(0.1 + side * 0.54, -0.95), (0.1 + side * 0.06, -0.62),
                   (0.1 + side * 0.52, -0.2)], colour)  # fmt: skip
        b.polygon([(0.1 + side * 0.45, -0.76), (0.1 + side * 0.2, -0.58),
                   (0.1 + side * 0.44, -0.44)], BLUSH, outline=False)  # fmt: skip
    b.ellipse(0.1, -0.25, 0.56, 0.44, colour)
    for side in (-1, 1):
        b.eye(0.1 + side * 0.24, -0.3, 0.13)
        for y in (-0.1, 0.06):
            b.hair([(0.1 + side * 0.3, -0.04), (0.1 + side * 0.78, y)], 0.5)
    b.polygon([(0.02, -0.16), (0.18, -0.16), (0.1, -0.04)], (230, 90, 120), outline=False)


def snail(b: Brush, colour: Colour) -> None:
    skin = mix(pale(colour), (250, 222, 180), 0.6)
    for x in (0.62, 0.94):
        b.hair([(0.72, -0.02), (x, -0.46)], 1.1)
        b.ellipse(x, -0.5, 0.1, 0.1, WHITE)
        b.ellipse(x + 0.02, -0.5, 0.05, 0.05, (15, 15, 20), outline=False)
    b.polygon([(-1.1, 0.82), (-0.7, 0.56), (0.4, 0.46), *curve((0.48, 0.3), (0.46, -0.14), (0.78, -0.12)),
               *curve((0.84, -0.1), (1.12, 0.0), (0.98, 0.3)), *curve((0.96, 0.34), (0.92, 0.82), (0.6, 0.82))],
              skin)  # fmt: skip
    b.ellipse(-0.2, 0.0, 0.64, 0.62, colour)
    b.ellipse(-0.32, -0.2, 0.3, 0.26, pale(colour), outline=False)
    spiral = [(-0.16 + 0.5 * (1 - t / 11) * math.cos(t), 0.04 + 0.48 * (1 - t / 11) * math.sin(t))
              for t in (i * 0.3 for i in range(33))]  # fmt: skip
    b.hair(spiral, 1.1)
    b.hair(curve((0.72, 0.24), (0.82, 0.32), (0.9, 0.2)), 0.8)


def elephant(b: Brush, colour: Colour) -> None:
    b.hair(curve((-0.78, -0.1), (-1.0, 0.05), (-0.96, 0.34)), 1.1)
    for x, tint in ((-0.5, deep(colour)), (0.22, deep(colour)), (-0.28, colour), (0.0, colour)):
        b.polygon([(x - 0.15, 0.2), (x + 0.15, 0.2), (x + 0.16, 0.9), (x - 0.16, 0.9)], tint)
    b.ellipse(-0.2, 0.04, 0.64, 0.52, colour)
    trunk = curve((0.72, -0.1), (0.98, 0.4), (0.8, 0.74))
    b.stroke([*trunk, *curve((0.8, 0.74), (0.82, 0.92), (1.08, 0.74))], 0.26, colour)
    b.ellipse(0.5, -0.22, 0.42, 0.42, colour)
    b.polygon([(0.56, 0.16), (0.7, 0.14), (0.66, 0.5)], WHITE)
    b.ellipse(0.12, -0.2, 0.32, 0.44, pale(colour), tilt=10)
    b.eye(0.64, -0.28, 0.11)


PAINTERS: dict[str, Callable[[Brush, Colour], None]] = {
    painter.__name__: painter for painter in (fish, bird, butterfly, turtle, rabbit, cat, snail, elephant)
}
