"""Walls: upright planes that are long for the room, also where things stand against them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

LENGTH = 0.4
"""A wall is longer than this share of all that stands."""
THICK = 2.5
"""Within so many voxels of a wall's plane points are of it."""
UPRIGHT, ALONG = 0.3, 0.95
"""Of normals: at most so much upwards, and at least so much along the wall's own."""
FULL = 0.5
"""The share of a wall's rectangle that is seen."""
DIRECTIONS, PATCH = 144, 4.0
"""Directions that planes are sought in; voxels along a patch of wall, of which gaps are counted."""
MOST = 8
"""Walls."""


@dataclass(frozen=True, eq=False)
class Wall:
    """Where x y · ``normal`` is within ``thick`` of ``offset`` (m), from ``first`` to ``last`` (m)
    along x y · (−normal_y, normal_x)."""

    normal: Float[np.ndarray, "2"]
    offset: float
    first: float
    last: float

    def holds(self, points: Float[np.ndarray, "n 3"], thick: float) -> Bool[np.ndarray, " n"]:
        """Which points are within ``thick`` (m) of it."""
        away, along = _turned(points[:, :2], self.normal)
        inside = (along >= self.first - thick) & (along <= self.last + thick)
        return (np.abs(away - self.offset) <= thick) & inside


def walls(
    points: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"], voxel: float
) -> list[Wall]:
    """The walls among points on surfaces, ``voxel`` (m) apart; one after the other, of most points
    first."""
    longest = float(np.ptp(points[:, :2], axis=0).max(initial=0)) if len(points) else 0.0
    found: list[Wall] = []
    left = np.abs(normals[:, 2]) <= UPRIGHT
    while len(found) < MOST:
        own, flat = points[left], normals[left, :2]
        flat = flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-9)
        plane = _of_most(own[:, :2], flat, voxel)
        if plane is None:
            break
        on, wall = _fitted(own, flat, *plane, voxel)
        if wall is None or wall.last - wall.first < LENGTH * longest:
            break
        found.append(wall)
        left[np.flatnonzero(left)[on]] = False
    return found


def _turned(
    flat: Float[np.ndarray, "n 2"], normal: Float[np.ndarray, "2"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    return flat @ normal, flat @ np.array([-normal[1], normal[0]])


def _of_most(
    flat: Float[np.ndarray, "n 2"], normals: Float[np.ndarray, "n 2"], voxel: float
) -> tuple[Float[np.ndarray, "2"], float] | None:
    """Normal and offset (m) of the plane that most points with such a normal lie on."""
    best, most = None, 0
    for angle in 2 * np.pi / DIRECTIONS * np.arange(DIRECTIONS):
        normal = np.array([np.cos(angle), np.sin(angle)])
        away = flat[normals @ normal >= ALONG] @ normal
        if len(away) > most:
            bins = np.floor(away / voxel).astype(int)
            count = np.bincount(bins - bins.min())
            pairs = np.convolve(count, np.ones(3, int), "same")
            if pairs.max() > most:
                most = int(pairs.max())
                best = normal, float((pairs.argmax() + bins.min() + 0.5) * voxel)
    return best


def _fitted(
    points: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 2"],
    normal: Float[np.ndarray, "2"], offset: float, voxel: float,
) -> tuple[Bool[np.ndarray, " n"], Wall | None]:  # fmt: skip
    """The points on a plane, which is moved and turned to fit them, and their longest run without
    a gap as a wall; None where less than half of its rectangle is there."""
    for _ in range(3):
        on = (np.abs(points[:, :2] @ normal - offset) <= THICK * voxel) & (
            normals @ normal >= ALONG
        )
        if on.sum() < 2:
            return on, None
        middle = points[on, :2].mean(axis=0)
        way = np.linalg.svd(points[on, :2] - middle, full_matrices=False)[2][0]
        turned = np.array([way[1], -way[0]])
        normal = turned * np.sign(turned @ normal)
        offset = float(middle @ normal)
    _, along = _turned(points[on, :2], normal)
    cells = np.floor(np.stack([along, points[on, 2]], axis=1) / (PATCH * voxel)).astype(int)
    cells -= cells.min(axis=0)
    seen = np.zeros(cells.max(axis=0) + 1, dtype=bool)
    seen[tuple(cells.T)] = True
    column = np.concatenate([[False], seen.any(axis=1), [False]])
    starts, ends = np.flatnonzero(np.diff(column.astype(int))).reshape(-1, 2).T
    longest = int((ends - starts).argmax())
    first, last = starts[longest], ends[longest]
    rows = np.flatnonzero(seen[first:last].any(axis=0))
    if seen[first:last, rows[0] : rows[-1] + 1].mean() < FULL:
        return on, None
    zero = along.min() // (PATCH * voxel)
    reach = (zero + np.array([first, last])) * (PATCH * voxel)
    return on, Wall(normal, offset, *reach.tolist())
