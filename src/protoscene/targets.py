"""Labels → what a detector is to say of each cell: a cell is stride × stride voxels of ground."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numba import njit

from protoscene.geometry import Grid
from protoscene.labels import Labels

SIGMA_CELLS = 0.7
"""Spread of a centre on the heat map."""
LEAST_VOXELS = 4
"""A thing of which fewer voxels are occupied can be in any pose: its place is ignored."""


class Targets(NamedTuple):
    """Per cell. ``heat`` is 1 where a centre is and exp(−d²/2σ²) at d cells from it; ``known`` 0
    where heat is not to be learnt; ``weight`` of ``box`` and ``kind``, 0 away from centres.

    ``box``: x and y of the centre from the cell's, in cells; z above the grid's floor (m); log of
    length, width, height (m); yaw. ``kind`` −1 where not known.
    """

    heat: Float[np.ndarray, "y x"]
    known: Float[np.ndarray, "y x"]
    weight: Float[np.ndarray, "y x"]
    box: Float[np.ndarray, "7 y x"]
    kind: Int[np.ndarray, "y x"]


def targets(
    labels: Labels, volume: Float[np.ndarray, "5 z y x"], grid: Grid, stride: int
) -> Targets:
    """Targets of one instant whose evidence is ``volume`` (as ``network_input`` gives it).

    Heat is not learnt where nothing at all is known of a cell's column, nor at the places of labels
    of weight 0, of labels with fewer than ``LEAST_VOXELS`` occupied voxels, and of those whose
    centre is outside of the grid. Of two things near a cell the nearer one's box is learnt.
    """
    cells = [math.ceil(n / stride) for n in grid.shape[1:]]
    cell = stride * grid.voxel_size
    heat, weight = np.zeros((2, *cells), dtype=np.float32)
    box = np.zeros((7, *cells), dtype=np.float32)
    kind = np.full(cells, -1, dtype=np.int64)
    known = _columns_seen(volume, stride).astype(np.float32)
    y, x = np.meshgrid(*(np.arange(n) + 0.5 for n in cells), indexing="ij")
    seen = count_inside(volume[3], np.array(grid.origin), grid.voxel_size, labels.boxes)
    sure = np.where(seen >= LEAST_VOXELS, labels.weight, 0.0)
    middle = (labels.boxes[:, :2] - grid.lower[:2]) / cell
    sure[((middle < 0) | (middle >= cells[::-1])).any(axis=1)] = 0.0
    for row in np.flatnonzero(sure == 0):  # before the sure ones, which may stand beside them
        known[_footprint(labels.boxes[row], x * cell, y * cell, grid, cell)] = 0.0
    for row in np.flatnonzero(sure):
        dx, dy = middle[row, 0] - x, middle[row, 1] - y
        near = np.exp(-(dx**2 + dy**2) / (2 * SIGMA_CELLS**2)).astype(np.float32)
        at = int(middle[row, 1]), int(middle[row, 0])
        near[at] = 1.0
        own = (np.maximum(np.abs(dx), np.abs(dy)) < 1.5) & (near > heat)
        heat = np.maximum(heat, near)
        known[at] = sure[row]
        weight[own] = near[own] * sure[row]
        kind[own] = labels.kind[row]
        _, _, z, *dims, yaw = labels.boxes[row]
        box[0][own], box[1][own] = dx[own], dy[own]
        rest = np.array([z - grid.origin[2], *np.log(dims), yaw], dtype=np.float32)
        box[2:, own] = rest[:, None]
    return Targets(heat, known, weight, box, kind)


def _columns_seen(volume: np.ndarray, stride: int) -> Bool[np.ndarray, "y x"]:
    """Cells of whose column some voxel is occupied or free."""
    seen = (volume[3] + volume[4]).max(axis=0) > 0
    pad = [(0, -n % stride) for n in seen.shape]
    seen = np.pad(seen, pad)
    ny, nx = seen.shape[0] // stride, seen.shape[1] // stride
    return np.asarray(seen.reshape(ny, stride, nx, stride).any(axis=(1, 3)))


def _footprint(
    box: np.ndarray, x: np.ndarray, y: np.ndarray, grid: Grid, cell: float
) -> Bool[np.ndarray, "y x"]:
    """Cells (centres x, y in metres from the grid's corner) that the box reaches, and one more."""
    dx, dy = x - (box[0] - grid.origin[0]), y - (box[1] - grid.origin[1])
    cos, sin = math.cos(box[6]), math.sin(box[6])
    along, across = np.abs(cos * dx + sin * dy), np.abs(cos * dy - sin * dx)
    return np.asarray((along <= box[3] / 2 + cell) & (across <= box[4] / 2 + cell))


@njit(cache=True)
def count_inside(occupied, origin, voxel, boxes):  # type: ignore[no-untyped-def]
    """(n,) occupied voxels of ``occupied`` (z, y, x) whose centres are in each of ``boxes`` (n, 7),
    but for the lowest voxel, which is the ground's as well."""
    nz, ny, nx = occupied.shape
    counts = np.zeros(len(boxes), dtype=np.int64)
    for n in range(len(boxes)):
        reach = 0.5 * math.hypot(boxes[n, 3], boxes[n, 4])
        cos, sin = math.cos(boxes[n, 6]), math.sin(boxes[n, 6])
        bottom, top = boxes[n, 2] - boxes[n, 5] / 2, boxes[n, 2] + boxes[n, 5] / 2
        x0 = max(0, int((boxes[n, 0] - reach - origin[0]) / voxel))
        y0 = max(0, int((boxes[n, 1] - reach - origin[1]) / voxel))
        z0 = max(0, int((bottom - origin[2]) / voxel))
        x1 = min(nx, int((boxes[n, 0] + reach - origin[0]) / voxel) + 1)
        y1 = min(ny, int((boxes[n, 1] + reach - origin[1]) / voxel) + 1)
        z1 = min(nz, int((top - origin[2]) / voxel) + 1)
        for iz in range(z0, z1):
            z = origin[2] + (iz + 0.5) * voxel
            if z < bottom + voxel or z > top:
                continue
            for iy in range(y0, y1):
                for ix in range(x0, x1):
                    if occupied[iz, iy, ix] <= 0:
                        continue
                    dx = origin[0] + (ix + 0.5) * voxel - boxes[n, 0]
                    dy = origin[1] + (iy + 0.5) * voxel - boxes[n, 1]
                    if (
                        abs(cos * dx + sin * dy) <= boxes[n, 3] / 2
                        and abs(cos * dy - sin * dx) <= boxes[n, 4] / 2
                    ):
                        counts[n] += 1
    return counts
