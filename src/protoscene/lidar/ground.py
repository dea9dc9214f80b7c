"""The ground under a LiDAR recording: a height for each square metre, sloping and robust."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from protoscene.geometry import array_from_pixel

CELL_M = 1.0
STEEPEST = 0.25
"""A metre ahead the ground is not higher than this (m): what is stands on it."""
LOW_QUANTILE = 0.05
"""Of the heights in a cell: lower ones are reflections."""
LEAST_POINTS = 5
PIT_M = 0.4
"""A cell this much below the middle of its surroundings is a pit of false echoes."""
GROUND_M = 0.3
"""What is less above the ground is taken for ground: kerbs, grass, the sweeps' own errors."""


@dataclass(frozen=True, eq=False)
class Ground:
    """``height[i, j]`` (m) at the middle of the cell that begins at ``corner`` + (j, i) metres."""

    corner: Float[np.ndarray, "2"]
    height: Float[np.ndarray, "ny nx"]

    def under(self, points: Float[np.ndarray, "n columns"]) -> Float[np.ndarray, " n"]:
        """Height of the ground (m) under world points (x, y and what else there is), bilinear;
        beyond the rim that of the rim."""
        place = array_from_pixel((points[:, :2] - self.corner) / CELL_M)
        return ndimage.map_coordinates(self.height, place[:, ::-1].T, order=1, mode="nearest")

    def stands_on(self, points: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
        """Which points are above the ground, not of it."""
        return points[:, 2] - self.under(points) > GROUND_M


def find_ground(points: Float[np.ndarray, "n 3"]) -> Ground:
    """The ground under world points of all sweeps together.

    In each cell of 1 m the 5 % quantile of heights; empty cells and pits take the nearest one's; a
    cell is no higher than its neighbours allow (slope of at most 25 %), so that walls and trees
    take the height around them; then a 3×3 median.
    """
    corner = np.floor(points[:, :2].min(axis=0))
    column, row = ((points[:, :2] - corner) / CELL_M).astype(np.int64).T
    shape = int(row.max()) + 1, int(column.max()) + 1
    height = _low_heights(row * shape[1] + column, points[:, 2], shape)
    height = _filled(height, np.isfinite(height))
    known = height >= ndimage.median_filter(height, size=7, mode="nearest") - PIT_M
    height = _filled(height, known)
    diagonal = np.hypot(1, 1)
    step = (
        STEEPEST * CELL_M * np.array([[diagonal, 1, diagonal], [1, 0, 1], [diagonal, 1, diagonal]])
    )
    for _ in range(60):
        lower = ndimage.grey_erosion(height, structure=-step, mode="nearest")
        if np.array_equal(lower, height):
            break
        height = lower
    return Ground(corner, ndimage.median_filter(height, size=3, mode="nearest"))


def _filled(height: Float[np.ndarray, "ny nx"], known: Bool[np.ndarray, "ny nx"]) -> np.ndarray:
    """Unknown cells take the nearest known one's height."""
    _, (i, j) = ndimage.distance_transform_edt(~known, return_indices=True)
    return height[i, j]


def _low_heights(
    cell: np.ndarray, z: Float[np.ndarray, " n"], shape: tuple[int, int]
) -> Float[np.ndarray, "ny nx"]:
    """The low quantile of z in each cell, NaN where there are too few points."""
    order = np.lexsort((z, cell))
    count = np.bincount(cell, minlength=shape[0] * shape[1])
    first = np.cumsum(count) - count
    place = first + (LOW_QUANTILE * count).astype(np.int64)
    enough = count >= LEAST_POINTS
    low = np.full(len(count), np.nan)
    low[enough] = z[order][place[enough]]
    return low.reshape(shape)
