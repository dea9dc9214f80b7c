"""The kinds of things: coloured boxes, cylinders, balls and meshes in the thing's own frame.

A thing's nose points along +x. Kinds are written down standing on z = 0 and moved so that the
middle of their tight box is the origin of their frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

Colour = tuple[float, float, float]
Triple = tuple[float, float, float]

DARK: Colour = (0.16, 0.16, 0.18)
PALE: Colour = (0.93, 0.92, 0.88)

SCHEMES: tuple[tuple[Colour, Colour, Colour], ...] = (
    ((0.80, 0.13, 0.12), (0.95, 0.85, 0.35), (0.10, 0.30, 0.75)),
    ((0.12, 0.33, 0.78), (0.75, 0.88, 0.95), (0.98, 0.55, 0.10)),
    ((0.10, 0.55, 0.25), (0.92, 0.92, 0.55), (0.75, 0.12, 0.45)),
    ((0.96, 0.65, 0.08), (0.30, 0.18, 0.50), (0.05, 0.60, 0.60)),
    ((0.50, 0.20, 0.62), (0.85, 0.72, 0.92), (0.95, 0.80, 0.15)),
    ((0.08, 0.58, 0.62), (0.95, 0.60, 0.50), (0.60, 0.10, 0.10)),
    ((0.55, 0.33, 0.16), (0.55, 0.80, 0.35), (0.20, 0.45, 0.90)),
    ((0.90, 0.40, 0.58), (0.30, 0.35, 0.42), (0.35, 0.85, 0.35)),
)
"""Body, second and accent colour: one scheme per kind and recording."""


@dataclass(frozen=True, eq=False)
class Part:
    """One coloured body. ``half`` is the half size along x, y, z of ``shape``:

    "box" and "ball" (ellipsoid) by their half sizes, "cylinder" about ``axis`` 0, 1 or 2 by the
    half sizes of its bounds, "mesh" by ``vertices`` (relative to ``centre``) and ``faces``.
    """

    shape: str
    centre: Triple
    half: Triple
    colour: Colour
    axis: int = 2
    vertices: np.ndarray | None = None
    faces: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Thing:
    """A kind in one size and colour scheme. ``size_m`` is length, width, height of its box."""

    kind: str
    parts: tuple[Part, ...]
    size_m: Triple
    symmetry: str | None

    def scaled(self, factor: float) -> Thing:
        """The same thing ``factor`` times as large."""

        def times(v: Triple) -> Triple:
            return (v[0] * factor, v[1] * factor, v[2] * factor)

        parts = tuple(
            replace(
                p,
                centre=times(p.centre),
                half=times(p.half),
                vertices=None if p.vertices is None else p.vertices * factor,
            )
            for p in self.parts
        )
        return replace(self, parts=parts, size_m=times(self.size_m))


def box(centre: Triple, size: Triple, colour: Colour) -> Part:
    return Part("box", centre, (size[0] / 2, size[1] / 2, size[2] / 2), colour)


def ball(centre: Triple, diameter: float, colour: Colour) -> Part:
    return Part("ball", centre, (diameter / 2, diameter / 2, diameter / 2), colour)


def cylinder(centre: Triple, diameter: float, length: float, colour: Colour, axis: int = 2) -> Part:
    half = [diameter / 2] * 3
    half[axis] = length / 2
    return Part("cylinder", centre, (half[0], half[1], half[2]), colour, axis)


def prism(outline: Float[np.ndarray, "n 2"], width: float, colour: Colour, y: float = 0.0) -> Part:
    """A convex ``outline`` in the x-z plane (counter-clockwise seen from −y), ``width`` along y."""
    n = len(outline)
    side = [np.insert(np.asarray(outline, float), 1, s * width / 2, axis=1) for s in (-1, 1)]
    caps = [[0, k, k + 1] for k in range(1, n - 1)] + [
        [n, n + k + 1, n + k] for k in range(1, n - 1)
    ]
    walls = [[k, n + k, n + (k + 1) % n] for k in range(n)]
    walls += [[k, n + (k + 1) % n, (k + 1) % n] for k in range(n)]
    return mesh(np.concatenate(side) + [0, y, 0], np.array(caps + walls), colour)


def frustum(
    bottom: float, top: float, low: float, high: float, colour: Colour, x: float = 0.0
) -> Part:
    """A cone cut at both ends: diameters at heights ``low`` and ``high``, 48 sides, about z."""
    n = 48
    angle = 2 * np.pi * np.arange(n) / n
    rings = [
        np.stack([x + d / 2 * np.cos(angle), d / 2 * np.sin(angle), np.full(n, z)], axis=1)
        for d, z in ((bottom, low), (top, high))
    ]
    k = np.arange(n)
    nxt = (k + 1) % n
    walls = [np.stack([k, nxt, n + nxt], 1), np.stack([k, n + nxt, n + k], 1)]
    fan = np.arange(1, n - 1)
    caps = [np.stack([0 * fan, fan + 1, fan], 1), np.stack([n + 0 * fan, n + fan, n + fan + 1], 1)]
    return mesh(np.concatenate(rings), np.concatenate(walls + caps), colour)


def mesh(vertices: Float[np.ndarray, "n 3"], faces: Int[np.ndarray, "m 3"], colour: Colour) -> Part:
    lower, upper = vertices.min(axis=0), vertices.max(axis=0)
    middle, half = (lower + upper) / 2, (upper - lower) / 2
    return Part(
        "mesh", _triple(middle), _triple(half), colour, vertices=vertices - middle, faces=faces
    )


def _triple(v: np.ndarray) -> Triple:
    return (float(v[0]), float(v[1]), float(v[2]))


def _wheels(x: tuple[float, ...], y: float, diameter: float, width: float) -> list[Part]:
    return [
        cylinder((px, side * y, diameter / 2), diameter, width, DARK, axis=1)
        for px in x
        for side in (-1, 1)
    ]


def _legs(x: float, y: float, thickness: float, height: float, colour: Colour) -> list[Part]:
    return [
        box((sx * x, sy * y, height / 2), (thickness, thickness, height), colour)
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]


Scheme = tuple[Colour, Colour, Colour]


def _car(c: Scheme) -> list[Part]:
    cabin = np.array([[-0.40, 0.28], [0.18, 0.28], [0.05, 0.46], [-0.32, 0.46]])
    return [
        box((0, 0, 0.18), (0.92, 0.40, 0.20), c[0]),
        prism(cabin, 0.36, c[1]),
        box((0.465, 0, 0.22), (0.03, 0.34, 0.07), PALE),
        box((-0.465, 0, 0.22), (0.03, 0.34, 0.07), c[2]),
        *_wheels((-0.28, 0.28), 0.19, 0.17, 0.07),
    ]


def _truck(c: Scheme) -> list[Part]:
    return [
        box((0, 0, 0.14), (0.96, 0.30, 0.10), DARK),
        box((0.33, 0, 0.32), (0.28, 0.38, 0.28), c[0]),
        box((0.475, 0, 0.38), (0.02, 0.32, 0.12), PALE),
        box((-0.16, 0, 0.41), (0.62, 0.42, 0.46), c[1]),
        box((-0.475, 0, 0.41), (0.03, 0.36, 0.34), c[2]),
        *_wheels((-0.30, 0.32), 0.17, 0.18, 0.06),
    ]


def _robot(c: Scheme) -> list[Part]:
    return [
        cylinder((0, 0, 0.06), 0.44, 0.12, DARK),
        cylinder((0, 0, 0.31), 0.36, 0.38, c[0]),
        ball((0, 0, 0.60), 0.26, c[1]),
        box((0.29, 0.10, 0.38), (0.28, 0.08, 0.08), c[2]),
        box((0.165, 0, 0.26), (0.05, 0.20, 0.12), PALE),
        box((-0.18, 0, 0.34), (0.08, 0.22, 0.20), c[2]),
    ]


def _chair(c: Scheme) -> list[Part]:
    return [
        *_legs(0.19, 0.19, 0.06, 0.36, DARK),
        box((0, 0, 0.39), (0.46, 0.46, 0.07), c[0]),
        box((-0.20, 0, 0.605), (0.06, 0.46, 0.36), c[1]),
        box((0.21, 0, 0.385), (0.06, 0.40, 0.065), c[2]),
    ]


def _crate(c: Scheme) -> list[Part]:
    return [
        box((0, 0, 0.17), (0.60, 0.44, 0.34), c[0]),
        box((0.12, 0, 0.175), (0.10, 0.46, 0.35), c[1]),
        box((0.33, 0.14, 0.22), (0.08, 0.04, 0.05), c[2]),
        box((0.33, -0.14, 0.22), (0.08, 0.04, 0.05), c[2]),
        box((0.38, 0, 0.22), (0.04, 0.32, 0.05), c[2]),
        box((-0.30, 0, 0.20), (0.04, 0.26, 0.16), PALE),
    ]


def _wedge(c: Scheme) -> list[Part]:
    slope = np.array([[-0.34, 0.0], [0.36, 0.0], [0.36, 0.06], [-0.34, 0.40]])
    return [
        prism(slope, 0.44, c[0]),
        box((-0.35, 0, 0.20), (0.04, 0.40, 0.34), c[1]),
        box((0.375, 0, 0.035), (0.05, 0.42, 0.07), c[2]),
    ]


def _corner(c: Scheme) -> list[Part]:
    return [
        box((0, 0.20, 0.16), (0.80, 0.22, 0.32), c[0]),
        box((0.29, -0.125, 0.16), (0.22, 0.43, 0.30), c[1]),
        box((-0.33, 0.20, 0.36), (0.10, 0.16, 0.10), c[2]),
    ]


def _pylon(c: Scheme) -> list[Part]:
    return [
        cylinder((0, 0, 0.02), 0.44, 0.04, DARK),
        frustum(0.34, 0.25, 0.04, 0.26, c[0]),
        frustum(0.25, 0.17, 0.26, 0.44, c[1]),
        frustum(0.17, 0.09, 0.44, 0.64, c[0]),
    ]


def _barrel(c: Scheme) -> list[Part]:
    return [
        cylinder((0, 0, 0.28), 0.40, 0.56, c[0]),
        cylinder((0, 0, 0.18), 0.44, 0.06, c[1]),
        cylinder((0, 0, 0.40), 0.44, 0.06, c[1]),
        cylinder((0, 0, 0.565), 0.28, 0.03, c[2]),
    ]


def _drum(c: Scheme) -> list[Part]:
    return [
        cylinder((0, 0, 0.20), 0.50, 0.40, c[0]),
        box((0.20, 0, 0.20), (0.14, 0.24, 0.385), c[1]),
        box((-0.16, 0, 0.44), (0.08, 0.30, 0.08), c[2]),
    ]


def _lamp(c: Scheme) -> list[Part]:
    return [
        cylinder((-0.10, 0, 0.035), 0.38, 0.07, c[0]),
        box((-0.10, 0, 0.36), (0.07, 0.07, 0.58), DARK),
        box((0.06, 0, 0.64), (0.39, 0.07, 0.07), DARK),
        frustum(0.34, 0.14, 0.38, 0.60, c[1], x=0.20),
        box((-0.20, 0, 0.10), (0.10, 0.16, 0.06), c[2]),
    ]


def _bench(c: Scheme) -> list[Part]:
    return [
        *_legs(0.38, 0.13, 0.08, 0.30, DARK),
        box((0, 0, 0.335), (0.90, 0.38, 0.07), c[0]),
        box((0, 0, 0.375), (0.30, 0.36, 0.03), c[1]),
    ]


def _table(c: Scheme) -> list[Part]:
    return [
        *_legs(0.27, 0.27, 0.08, 0.42, DARK),
        box((0, 0, 0.45), (0.64, 0.64, 0.06), c[0]),
        box((0, 0, 0.49), (0.32, 0.32, 0.05), c[1]),
    ]


_KINDS: dict[str, tuple[Callable[[Scheme], list[Part]], str | None]] = {
    "car": (_car, None),
    "truck": (_truck, None),
    "robot": (_robot, None),
    "chair": (_chair, None),
    "crate": (_crate, None),
    "wedge": (_wedge, None),
    "corner": (_corner, None),
    "drum": (_drum, None),
    "lamp": (_lamp, None),
    "pylon": (_pylon, "round"),
    "barrel": (_barrel, "round"),
    "bench": (_bench, "half_turn"),
    "table": (_table, "quarter_turn"),
}
KINDS = tuple(_KINDS)
NEARLY_ROUND = ("drum",)
"""Kinds that have a yaw which their shape hardly shows: turned by 15° about the vertical through
their box's middle, their surface departs from itself by less than a fifth of how far its points
go (the drum .13; all others with a yaw .29 or more)."""


def build_thing(kind: str, scheme: int = 0, factor: float = 1.0) -> Thing:
    """The thing of a kind in colour scheme ``scheme``, ``factor`` times its usual size.

    Raises KeyError for an unknown kind.
    """
    make, symmetry = _KINDS[kind]
    parts = make(SCHEMES[scheme % len(SCHEMES)])
    lower = np.min([np.subtract(p.centre, p.half) for p in parts], axis=0)
    upper = np.max([np.add(p.centre, p.half) for p in parts], axis=0)
    middle = (lower + upper) / 2
    centred = tuple(replace(p, centre=_triple(np.subtract(p.centre, middle))) for p in parts)
    return Thing(kind, centred, _triple(upper - lower), symmetry).scaled(factor)


def symmetry_of(kind: str) -> str | None:
    """None, "half_turn", "quarter_turn" or "round": turns about z that change nothing."""
    return _KINDS[kind][1]
