"""Sweeps as rays: free space along each, something at its end, unknown beyond.

A sweep's ends are sorted into cells of direction once; then any point can be asked: did this
sweep see through it, confirm it, or not see it at all? Nothing here takes memory for space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from jaxtyping import Float, Int

from protoscene.geometry import rigid_inverse
from protoscene.recording import Sweep

CELL = np.radians([0.4, 0.5])
"""Width and height of a cell (azimuth, elevation): two or three steps of a spinning scanner."""
LOWEST, HIGHEST = np.radians([-45.0, 45.0])
"""Elevations that are kept; ends beyond are in no cell."""
CELLS = int(np.ceil((HIGHEST - LOWEST) / CELL[1])), int(np.ceil(2 * np.pi / CELL[0]))
"""Rows and columns."""
MARGIN_M, MARGIN = 0.4, 0.01
"""An end this much nearer or farther (m, and share of the range) than a point is not of it."""
LEAST_CELLS = 3
"""Of the 3×3 cells around a point so many must hold an end: a sweep with a hole saw nothing."""


@dataclass(frozen=True, eq=False)
class Rays:
    """The nearest end (m) in each cell of direction of one sweep, ∞ where there is none."""

    sensor_from_world: Float[np.ndarray, "4 4"]
    nearest: Float[np.ndarray, "rows columns"]
    farthest: Float[np.ndarray, "rows columns"]

    @classmethod
    def of(cls, sweep: Sweep) -> Rays:
        """The cells of a sweep."""
        nearest = np.full(CELLS, np.inf, dtype=np.float32)
        farthest = np.zeros(CELLS, dtype=np.float32)
        _sort_in(sweep.points, CELL[0], CELL[1], LOWEST, nearest, farthest)
        return cls(rigid_inverse(sweep.world_from_sensor), nearest, farthest)


@numba.njit(cache=True, inline="always")
def _direction(x, y, z, width, height, lowest, rows, columns):  # type: ignore[no-untyped-def]
    """(row, column, range) of a point in the sensor's frame; row −1 out of view."""
    reach = np.sqrt(x * x + y * y + z * z)
    if reach < 1e-3:
        return -1, 0, 0.0
    row = int(np.floor((np.arcsin(z / reach) - lowest) / height))
    column = int(np.floor((np.arctan2(y, x) + np.pi) / width)) % columns
    return (row if 0 <= row < rows else -1), column, reach


@numba.njit(cache=True)
def _sort_in(points, width, height, lowest, nearest, farthest):  # type: ignore[no-untyped-def]
    rows, columns = nearest.shape
    for p in range(points.shape[0]):
        row, column, reach = _direction(
            float(points[p, 0]), float(points[p, 1]), float(points[p, 2]),
            width, height, lowest, rows, columns,
        )  # fmt: skip
        if row >= 0:
            nearest[row, column] = min(nearest[row, column], reach)
            farthest[row, column] = max(farthest[row, column], reach)


@numba.njit(cache=True, parallel=True)
def _ask(points, matrix, width, height, lowest, nearest, farthest, through, confirmed):  # type: ignore[no-untyped-def]
    rows, columns = nearest.shape
    for p in numba.prange(points.shape[0]):
        x, y, z = points[p, 0], points[p, 1], points[p, 2]
        row, column, reach = _direction(
            matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z + matrix[0, 3],
            matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z + matrix[1, 3],
            matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z + matrix[2, 3],
            width, height, lowest, rows, columns,
        )  # fmt: skip
        if row < 0:
            continue
        margin = MARGIN_M + MARGIN * reach
        close, filled, met = np.inf, 0, False
        for r in range(max(row - 1, 0), min(row + 2, rows)):
            for step in range(-1, 2):
                c = (column + step) % columns
                low, high = nearest[r, c], farthest[r, c]
                if high > 0:
                    filled += 1
                    close = min(close, low)
                    if abs(low - reach) < margin or abs(high - reach) < margin:
                        met = True
        if met:
            confirmed[p] += 1
        elif filled >= LEAST_CELLS and close > reach + margin:
            through[p] += 1


def seen_through(
    points: Float[np.ndarray, "n 3"], sweeps: list[Rays]
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """How many of the sweeps saw through each world point, and how many saw something there.

    Through: all ends in the 3×3 cells around its direction (at least three cells) lie farther by
    more than 0.4 m + 1 % of the range. Confirmed: one of them lies within that of it. A sweep
    of which neither holds (hidden, out of view, between rings) says nothing.
    """
    through, confirmed = np.zeros(len(points), np.int32), np.zeros(len(points), np.int32)
    for rays in sweeps:
        _ask(
            points, rays.sensor_from_world, CELL[0], CELL[1], LOWEST, rays.nearest, rays.farthest,
            through, confirmed,
        )  # fmt: skip
    return through, confirmed
