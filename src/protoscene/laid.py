"""A part laid in what is left of a volume: what it explains, how it lies best, what it hides.

What is left to explain is a field of six channels per voxel (:func:`protoscene.gains.seen_channels`
of weight 1 where nothing has explained the voxel, 0 where something has), so that the gain of any
part at any pose is one sum of products.

A pose is five integers: x, y, z of the part's middle in half voxels from the volume's corner, yaw
in ``YAWS``-ths of a turn, and the exponent of the scale 1.02^k.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from protoscene.gains import seen_channels

YAWS = 128
SCALE_STEP = 1.02
SCALES = (-4, 3)
TINT = 2.0
"""Colours are that many times as far apart as :mod:`protoscene.gains` has them: a part's colours
are all that tells some ways to lay it apart, and what is laid wrong blurs it."""


@numba.njit(cache=True)
def _sample(field, x, y, z, out):  # type: ignore[no-untyped-def]
    """The field's six channels at a place in voxels from the corner; nothing outside."""
    out[:] = 0
    gx, gy, gz = x - 0.5, y - 0.5, z - 0.5
    i, j, k = int(np.floor(gx)), int(np.floor(gy)), int(np.floor(gz))
    for dz in range(2):
        for dy in range(2):
            for dx in range(2):
                a, b, c = i + dx, j + dy, k + dz
                inside = 0 <= a < field.shape[2] and 0 <= b < field.shape[1]
                if inside and 0 <= c < field.shape[0]:
                    w = 1 - abs(gx - a)
                    w *= 1 - abs(gy - b)
                    w *= 1 - abs(gz - c)
                    for n in range(6):
                        out[n] += w * field[c, b, a, n]


@numba.njit(cache=True)
def _gain(points, weights, field, pose):  # type: ignore[no-untyped-def]
    """The gain, and how many voxels under the part are still to be explained."""
    scale = SCALE_STEP ** pose[4]
    cos, sin = np.cos(2 * np.pi * pose[3] / YAWS), np.sin(2 * np.pi * pose[3] / YAWS)
    out, total, known = np.zeros(6), 0.0, 0.0
    for n in range(points.shape[0]):
        x, y, z = points[n, 0] * scale, points[n, 1] * scale, points[n, 2] * scale
        _sample(
            field, pose[0] / 2 + cos * x - sin * y, pose[1] / 2 + sin * x + cos * y,
            pose[2] / 2 + z, out,
        )  # fmt: skip
        known += out[0] + out[1]
        for c in range(6):
            total += weights[n, c] * out[c]
    return total * scale**3, known * scale**3


@numba.njit(cache=True)
def _refine(points, weights, field, pose, steps):  # type: ignore[no-untyped-def]
    """Coordinate ascent: each of the five up or down by its step, which halves down to 1."""
    best, known = _gain(points, weights, field, pose)
    steps = steps.copy()
    while True:
        moved = True
        tries = 0
        while moved and tries < 4:
            moved = False
            tries += 1
            for axis in range(5):
                for sign in (-1, 1):
                    other = pose.copy()
                    other[axis] += sign * steps[axis]
                    if axis == 4 and not SCALES[0] <= other[4] <= SCALES[1]:
                        continue
                    gain, mass = _gain(points, weights, field, other)
                    if gain > best:
                        best, known, moved = gain, mass, True
                        pose = other
                        break
        if steps.max() <= 1:
            pose[3] %= YAWS
            return pose, best, known
        steps = np.maximum(steps // 2, 1)


@numba.njit(cache=True)
def _window(field, pose, side):  # type: ignore[no-untyped-def]
    """The field in a part's own frame, (z, y, x, 6)."""
    scale = SCALE_STEP ** pose[4]
    cos, sin = np.cos(2 * np.pi * pose[3] / YAWS), np.sin(2 * np.pi * pose[3] / YAWS)
    out = np.zeros((side, side, side, 6))
    for k in range(side):
        for j in range(side):
            for i in range(side):
                x, y = (i + 0.5 - side / 2) * scale, (j + 0.5 - side / 2) * scale
                _sample(
                    field, pose[0] / 2 + cos * x - sin * y, pose[1] / 2 + sin * x + cos * y,
                    pose[2] / 2 + (k + 0.5 - side / 2) * scale, out[k, j, i],
                )  # fmt: skip
    return out


@numba.njit(cache=True)
def _covered(shape, part, pose):  # type: ignore[no-untyped-def]
    """(n, 2): numbers of the voxels in which the part, laid, is solid, and of its own there."""
    scale = SCALE_STEP ** pose[4]
    cos, sin = np.cos(2 * np.pi * pose[3] / YAWS), np.sin(2 * np.pi * pose[3] / YAWS)
    side = part.shape[0]
    reach, rise = side * 0.71 * scale + 1, side / 2 * scale + 1
    x0, y0, z0 = pose[0] / 2, pose[1] / 2, pose[2] / 2
    found = np.empty((int((2 * reach + 2) ** 2 * (2 * rise + 2)), 2), np.int64)
    n = 0
    for k in range(max(0, int(z0 - rise)), min(shape[0], int(z0 + rise) + 1)):
        w = int(np.floor((k + 0.5 - z0) / scale + side / 2))
        if not 0 <= w < side:
            continue
        for j in range(max(0, int(y0 - reach)), min(shape[1], int(y0 + reach) + 1)):
            for i in range(max(0, int(x0 - reach)), min(shape[2], int(x0 + reach) + 1)):
                x, y = (i + 0.5 - x0) / scale, (j + 0.5 - y0) / scale
                u = int(np.floor(cos * x + sin * y + side / 2))
                v = int(np.floor(-sin * x + cos * y + side / 2))
                if 0 <= u < side and 0 <= v < side and part[w, v, u] > 0.5:
                    found[n, 0] = (k * shape[1] + j) * shape[2] + i
                    found[n, 1] = (w * side + v) * side + u
                    n += 1
    return found[:n]


def left_of(rgba: Float[Tensor, "4 z y x"]) -> Float[np.ndarray, "z y x 6"]:
    """The field of a volume of which nothing is explained."""
    tinted = torch.cat([TINT * rgba[:3], rgba[3:]])
    seen = seen_channels(tinted[None], torch.ones(1, *rgba.shape[1:]))[0]
    return seen.movedim(0, -1).contiguous().numpy()


def covered(
    shape: tuple[int, ...], part: Float[Tensor, "4 p q r"], pose: Int[np.ndarray, "5"]
) -> Int[np.ndarray, "n 2"]:
    """Numbers (z·y·x) of the voxels of ``shape`` in which the part, laid, is solid, and of the
    part's own voxels there (the nearest)."""
    return _covered(shape, part[3].numpy(), pose)


def explain(
    field: Float[np.ndarray, "z y x 6"], part: Float[Tensor, "4 p q r"], pose: Int[np.ndarray, "5"]
) -> None:
    """Where the part, laid, is solid, ``field`` has nothing left to explain."""
    field.reshape(-1, 6)[covered(field.shape[:3], part, pose)[:, 0]] = 0


def refined(
    points: Float[np.ndarray, "n 3"],
    weights: Float[np.ndarray, "n 6"],
    field: Float[np.ndarray, "z y x 6"],
    pose: Int[np.ndarray, "5"],
    steps: Int[np.ndarray, "5"],
) -> tuple[Int[np.ndarray, "5"], float, float]:
    """The pose of most gain that coordinate ascent by ``steps``, halved down to 1, finds from
    ``pose``, its gain, and how many voxels under the part were still to be explained. ``points``:
    x y z of a part's solid voxels from its middle; ``weights``: what the field's channels gain
    there."""
    return _refine(points, weights, field, pose, steps)


def window(
    field: Float[np.ndarray, "z y x 6"], pose: Int[np.ndarray, "5"], side: int
) -> np.ndarray:
    """(p, p, p, 6): what the field shows to a part of ``side`` at ``pose``, trilinear."""
    return _window(field, pose, side)
