"""Where placements fall: their affine maps, their boxes on the canvas, and the tiles they touch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numba import njit

from protoscene.geometry import Grid, rotation_from_yaw

SLAB = 8
"""Cells of a prototype, along its y, that the backward pass gives to one worker at a time."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Placements as the kernels want them.

    ``maps`` (n, 9): with canvas voxel (ix, iy, iz), the position in the prototype's padded block,
    in voxels, is x = m₀ + m₁ix + m₂iy, y = m₃ + m₄ix + m₅iy, z = m₆ + m₇iz; m₈ is presence.
    ``boxes`` (n, 6): x0 x1 y0 y1 z0 z1 of the canvas voxels that the support can reach.
    ``blocks`` (n, 4): the prototype's row of VoxelPrototypes.table.
    """

    maps: Float[np.ndarray, "n 9"]
    boxes: Int[np.ndarray, "n 6"]
    blocks: Int[np.ndarray, "n 4"]
    which: Int[np.ndarray, " n"]


def rows_of(
    grid: Grid,
    table: Int[np.ndarray, "k 4"],
    voxel_sizes: Float[np.ndarray, " k"],
    which: Int[np.ndarray, " n"],
    centre: Float[np.ndarray, "n 3"],
    yaw: Float[np.ndarray, " n"],
    scale: Float[np.ndarray, "n 3"],
    presence: Float[np.ndarray, " n"],
) -> Rows:
    """The rows in float64: a float32 position lands in the neighbouring cell often enough to
    spoil the gradients of poses."""
    blocks, size = table[which], voxel_sizes[which, None] * scale
    sides = blocks[:, :0:-1]  # x, y, z
    first = np.array([axis[0] for axis in grid.axes()]) - centre
    turn = rotation_from_yaw(yaw)  # world_from_own
    step = grid.voxel_size
    maps = np.empty((len(which), 9))
    for axis in range(3):
        own = turn[:, :, axis] / size[:, axis, None]  # voxels per metre along the world's axes
        start = (own * first).sum(axis=1) + (sides[:, axis] + 1) / 2
        if axis < 2:
            maps[:, 3 * axis : 3 * axis + 3] = np.stack(
                [start, own[:, 0] * step, own[:, 1] * step], axis=1
            )
        else:
            maps[:, 6:8] = np.stack([start, own[:, 2] * step], axis=1)
    maps[:, 8] = presence
    # Support reaches half a voxel beyond the prototype's box: one voxel more in all.
    reach = (np.abs(turn) @ (0.5 * (sides + 1) * size)[:, :, None])[:, :, 0]
    limits = np.array(grid.shape[::-1])
    low = np.floor(grid.voxel_from_world(centre - reach)).clip(0, limits).astype(np.int64)
    high = np.ceil(grid.voxel_from_world(centre + reach)).clip(0, limits).astype(np.int64)
    boxes = np.stack([low, high], axis=2).reshape(-1, 6)
    boxes[(high <= low).any(axis=1)] = 0
    return Rows(maps, boxes, blocks, which)


@dataclass(frozen=True)
class Tiling:
    """A canvas of ``shape`` (nz, ny, nx) cut into tiles of ``tile`` (z, y, x) voxels, the last of
    an axis shorter. Tiles are numbered with x fastest, then y, then z."""

    shape: tuple[int, int, int]
    tile: tuple[int, int, int]

    @property
    def counts(self) -> tuple[int, int, int]:
        nz, ny, nx = (-(-n // t) for n, t in zip(self.shape, self.tile, strict=True))
        return nz, ny, nx

    @property
    def n_tiles(self) -> int:
        nz, ny, nx = self.counts
        return nz * ny * nx

    @property
    def n_voxels(self) -> int:
        """Of a whole tile."""
        return self.tile[0] * self.tile[1] * self.tile[2]

    def columns(self) -> Int[np.ndarray, " n"]:
        """All tiles, those above each other in sequence."""
        return np.arange(self.n_tiles).reshape(self.counts).transpose(1, 2, 0).reshape(-1)

    def members(self, boxes: Int[np.ndarray, "n 6"]) -> tuple[np.ndarray, np.ndarray]:
        """(first, rows): the placements that can touch tile t are rows[first[t]:first[t + 1]],
        in their own order."""
        first = np.zeros(self.n_tiles + 1, np.int64)
        none = np.empty(0, np.int64)
        _count(boxes, self.tile, self.counts, first, none, False)
        first = np.concatenate([[0], np.cumsum(first[:-1])])
        rows = np.empty(first[-1], np.int64)
        _count(boxes, self.tile, self.counts, first[:-1].copy(), rows, True)
        return first, rows


@njit(cache=True)
def _count(boxes, tile, counts, cursor, rows, fill):
    """Count each tile's placements into ``cursor``, or fill them in where it points."""
    for p in range(len(boxes)):
        x0, x1, y0, y1, z0, z1 = boxes[p]
        if x0 >= x1:
            continue
        for tz in range(z0 // tile[0], (z1 - 1) // tile[0] + 1):
            for ty in range(y0 // tile[1], (y1 - 1) // tile[1] + 1):
                for tx in range(x0 // tile[2], (x1 - 1) // tile[2] + 1):
                    t = (tz * counts[1] + ty) * counts[2] + tx
                    if fill:
                        rows[cursor[t]] = p
                    cursor[t] += 1


@dataclass(frozen=True, eq=False)
class Slabs:
    """The backward pass's units of work: (prototype, slab) pairs whose gradients do not overlap.

    A slab of SLAB cells along y touches SLAB + 1 rows of voxels, so even slabs may run at once,
    and then the odd ones. ``first`` and ``rows`` list each prototype's placements.
    """

    even: Int[np.ndarray, "u 2"]
    odd: Int[np.ndarray, "v 2"]
    first: Int[np.ndarray, " k1"]
    rows: Int[np.ndarray, " n"]
    most: int


def slabs_of(rows: Rows, table: Int[np.ndarray, "k 4"]) -> Slabs:
    """Every slab of every prototype that has a placement on the canvas."""
    there = np.flatnonzero(rows.boxes[:, 0] < rows.boxes[:, 1])
    order = there[np.argsort(rows.which[there], kind="stable")]
    first = np.searchsorted(rows.which[order], np.arange(len(table) + 1))
    used = np.flatnonzero(np.diff(first))
    counts = table[used, 2] // SLAB + 1  # ny + 1 cells
    units = np.concatenate(
        [np.stack([np.full(n, k), np.arange(n)], axis=1) for k, n in zip(used, counts, strict=True)]
        or [np.empty((0, 2), np.int64)]
    )
    is_even = units[:, 1] % 2 == 0
    most = int(counts.max(initial=0))
    return Slabs(units[is_even], units[~is_even], first, order, most)
