"""What stays, on sparse voxels: the ends of all rays but those on things, ground and all."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int

from protoscene.geometry import Grid
from protoscene.volume import SparseVolume

VOXEL_M = 0.2
LEAST_ENDS = 2
"""A voxel in which a single ray ever ended is noise."""
REACH = (0.0005, 0.9995)
"""Quantiles of the ends within which the grid lies: a reflection does not size it."""


def street_grid(
    points: Float[np.ndarray, "n 3"],
    voxel_size: float | None,
    bounds: tuple[float, float, float, float, float, float] | None,
) -> Grid:
    """The grid around world points; ``voxel_size`` is 0.2 m and ``bounds`` (x0 y0 z0 x1 y1 z1, m)
    are those of nearly all points unless given."""
    voxel = voxel_size or VOXEL_M
    if bounds is None:
        lower, upper = np.quantile(points, REACH, axis=0)
        lower = np.floor((lower - voxel) / voxel) * voxel
        upper = upper + voxel
    else:
        lower, upper = np.array(bounds[:3]), np.array(bounds[3:])
    nx, ny, nz = np.maximum(np.ceil((upper - lower) / voxel - 1e-6), 1).astype(int).tolist()
    return Grid(tuple(lower.tolist()), voxel, (nz, ny, nx))


class Ends:
    """Running sums of ray ends in the voxels of a grid: memory follows what was hit, not space."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._places: Int[np.ndarray, " n"] = np.zeros(0, dtype=np.int64)
        self._sums: Float[np.ndarray, "n 2"] = np.zeros((0, 2))

    def add(self, points: Float[np.ndarray, "n 3"], intensity: Float[np.ndarray, " n"]) -> None:
        """Count the ends inside the grid and add up their intensities."""
        nz, ny, nx = self.grid.shape
        x, y, z = np.floor(self.grid.voxel_from_world(points)).astype(np.int64).T
        inside = (x >= 0) & (y >= 0) & (z >= 0) & (x < nx) & (y < ny) & (z < nz)
        flat = ((z * ny + y) * nx + x)[inside]
        places, which = np.unique(np.concatenate([self._places, flat]), return_inverse=True)
        added = np.column_stack([np.ones(len(flat)), intensity[inside]])
        rows = np.concatenate([self._sums, added])
        self._sums = np.stack(
            [np.bincount(which, rows[:, c], minlength=len(places)) for c in range(2)], axis=1
        )
        self._places = places

    def volume(self) -> SparseVolume:
        """Occupied where two rays or more ended, mean intensity as grey."""
        kept = self._sums[:, 0] >= LEAST_ENDS
        grey = self._sums[kept, 1] / self._sums[kept, 0]
        values = np.column_stack([grey, grey, grey, np.ones(len(grey))])
        return SparseVolume(
            torch.from_numpy(self._places[kept]), torch.from_numpy(values).float(), self.grid
        )
