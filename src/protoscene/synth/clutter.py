"""What stands in the world, never moves and is no thing: low walls, posts and blocks, all grey."""

from __future__ import annotations

import numpy as np

from protoscene.synth.settings import SynthSettings
from protoscene.synth.things import Colour, Part, Triple, box, cylinder


def draw_walls(rng: np.random.Generator, settings: SynthSettings) -> tuple[Part, ...]:
    """Low walls along two sides of the area, half a metre outside of it."""
    sides = rng.permutation(4)[:2]
    return tuple(_wall(rng, settings, int(side)) for side in sides)


def _wall(rng: np.random.Generator, settings: SynthSettings, side: int) -> Part:
    height, length = float(rng.uniform(0.5, 0.8)), settings.area + float(rng.uniform(0.2, 0.8))
    away = (settings.area / 2 + 0.55) * (1 if side < 2 else -1)
    centre: Triple = (away, 0.0, height / 2)
    size: Triple = (0.12, length, height)
    if side % 2:
        centre, size = (0.0, away, height / 2), (length, 0.12, height)
    return box(centre, size, _grey(rng, 0.56))


def draw_posts(rng: np.random.Generator, settings: SynthSettings) -> tuple[Part, ...]:
    """A block inside the area, which everybody goes around, and three posts on its rim."""
    half = settings.area / 2
    posts = []
    for n in range(4):
        angle = rng.uniform(0, 2 * np.pi)
        xy = np.array([np.cos(angle), np.sin(angle)])
        xy *= 0.45 * half if n == 0 else (half + 0.25) / np.abs(xy).max()
        scale = 0.5 if settings.size == "small" else 1.0
        width, height = scale * rng.uniform([0.12, 0.15], [0.24, 0.7])
        centre: Triple = (float(xy[0]), float(xy[1]), float(height) / 2)
        size: Triple = (float(width), float(width), float(height))
        grey = _grey(rng, 0.72)
        posts.append(cylinder(centre, size[0], size[2], grey) if n % 2 else box(centre, size, grey))
    return tuple(posts)


def _grey(rng: np.random.Generator, level: float) -> Colour:
    r, g, b = level + rng.uniform(-0.05, 0.05, 3)
    return (float(r), float(g), float(b))
