"""The forward passes, in numba: placements gathered into tiles of sums, tiles finished.

A :class:`Pile` holds tiles in one flat array: voxel (z, y, x) of its tile j starts at offsets[j] +
y · pitch[0] + x · pitch[1] + z · channels, counted from the tile's corner. So a whole native canvas
(ny, nx, nz, C), some tiles in its midst, and a compact heap of tiles are all the same here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit, prange

from protoscene import lanes
from protoscene.compose import columns
from protoscene.compose.columns import FAST
from protoscene.threads import prefer_tbb

prefer_tbb()

inner = njit(fastmath=FAST, boundscheck=False, error_model="numpy", cache=True)
inlined = njit(inline="always")
passes = njit(parallel=True, fastmath=FAST, boundscheck=False, error_model="numpy", cache=True)


class Pile(NamedTuple):
    """Tiles ``tiles`` of a canvas of ``shape`` cut into ``tile`` (z, y, x); see the module.

    Arrays all: numba hands no tuple within a tuple to parallel work.
    """

    sums: np.ndarray
    offsets: np.ndarray
    pitch: np.ndarray
    tiles: np.ndarray
    shape: np.ndarray
    tile: np.ndarray


class Placed(NamedTuple):
    """The placements on the canvas: tiles.Rows, and tile t's are members[first[t]:first[t + 1]]."""

    first: np.ndarray
    members: np.ndarray
    maps: np.ndarray
    boxes: np.ndarray
    blocks: np.ndarray
    voxels: np.ndarray


@inlined
def corner(t, shape, tile):
    """z0 z1 y0 y1 x0 x1 of tile t."""
    n_y = (shape[1] + tile[1] - 1) // tile[1]
    n_x = (shape[2] + tile[2] - 1) // tile[2]
    z, y, x = t // (n_x * n_y) * tile[0], t // n_x % n_y * tile[1], t % n_x * tile[2]
    return (
        z, min(z + tile[0], shape[0]), y, min(y + tile[1], shape[1]), x, min(x + tile[2], shape[2])
    )  # fmt: skip


@inlined
def snapped(position):
    """A position within rounding of a voxel's centre is put there: a sliver of occupancy from
    cos 90° = 6e-17 would become noise where it is divided by itself."""
    whole = np.floor(position + 0.5)
    return whole if abs(position - whole) < 1e-9 else position


@inlined
def heights(map_, n_z, z0, z1, low, weights, channels):
    """Along z a placement is the same for all columns: which two voxels each canvas voxel lies
    between (``low``, in numbers from the first used one on) and with which weights.
    Returns (first used voxel, number of used voxels)."""
    n = z1 - z0
    for z in range(n):
        w = snapped(map_[6] + map_[7] * (z0 + z))
        lower = int(min(max(np.floor(w), 0), n_z - 2))
        low[z] = lower
        inside = 0 < w < n_z - 1
        weights[z, 0] = lower + 1 - w if inside else 0.0
        weights[z, 1] = w - lower if inside else 0.0
    first, used = low[0], low[n - 1] + 2 - low[0]
    fours = (used + 3) // 4 * 4  # whole fours, where the block has room for them
    if fours <= n_z:
        first, used = min(first, n_z - fours), fours
    for z in range(n):
        low[z] = (low[z] - first) * channels
    return first, used


@inlined
def _add_placement(
    sums, offset, pitch, bounds, map_, box, block, voxels, mixed, low, weights, like
):
    channels = len(like)
    z0, z1 = max(bounds[0], box[4]), min(bounds[1], box[5])
    y0, y1 = max(bounds[2], box[2]), min(bounds[3], box[3])
    x0, x1 = max(bounds[4], box[0]), min(bounds[5], box[1])
    if z0 >= z1 or y0 >= y1 or x0 >= x1:
        return
    n_z, n_y, n_x = block[1] + 2, block[2], block[3]
    per_x = n_z * channels
    per_y = (n_x + 2) * per_x
    first, used = heights(map_, n_z, z0, z1, low, weights, channels)
    share = np.empty(4, voxels.dtype)
    for y in range(y0, y1):
        for x in range(x0, x1):
            u = snapped(map_[0] + map_[1] * x + map_[2] * y)
            v = snapped(map_[3] + map_[4] * x + map_[5] * y)
            if u <= 0 or v <= 0 or u >= n_x + 1 or v >= n_y + 1:
                continue
            i, j = int(u), int(v)
            u1, v1 = u - i, v - j
            u0, v0 = i + 1 - u, j + 1 - v
            share[0], share[1] = u0 * v0 * map_[8], u1 * v0 * map_[8]
            share[2], share[3] = u0 * v1 * map_[8], u1 * v1 * map_[8]
            start = block[0] + j * per_y + i * per_x + first * channels
            columns.mix(
                mixed, voxels, start, start + per_x, start + per_y, start + per_y + per_x,
                share[0], share[1], share[2], share[3], used, like,
            )  # fmt: skip
            # The neighbour's columns are asked for while this one is computed.
            u, v = u + map_[1], v + map_[4]
            if 0 < u < n_x + 1 and 0 < v < n_y + 1:
                ahead = block[0] + int(v) * per_y + int(u) * per_x + first * channels
                for line in range(0, used * channels, 64 // voxels.itemsize):
                    for shift in (0, per_x, per_y, per_y + per_x):
                        lanes.prefetch(voxels, ahead + shift + line)
            o = offset + (y - bounds[2]) * pitch[0] + (x - bounds[4]) * pitch[1]
            o += (z0 - bounds[0]) * channels
            columns.add_lerped(sums, o, mixed, low, weights, z1 - z0, like)


@inlined
def _begin(sums, offset, pitch, bounds, ground, like):
    """The tile holds the background's own (αc, α), or zeros where there is none."""
    background, strides = ground.values, ground.strides
    channels = len(like)
    n_z = bounds[1] - bounds[0]
    for y in range(bounds[2], bounds[3]):
        for x in range(bounds[4], bounds[5]):
            o = offset + (y - bounds[2]) * pitch[0] + (x - bounds[4]) * pitch[1]
            if len(background) == 0:
                sums[o : o + n_z * channels] = 0
                continue
            b = bounds[0] * strides[1] + y * strides[2] + x * strides[3]
            for z in range(n_z):
                i, j = b + z * strides[1], o + z * channels
                occupancy = background[i + (channels - 1) * strides[0]]
                for c in range(channels - 1):
                    sums[j + c] = background[i + c * strides[0]] * occupancy
                sums[j + channels - 1] = occupancy


@inlined
def runs_of(t, bounds, pile, placed, all_of_it):
    """Which canvas voxels of tile t any placement's support can touch: a bit for each run of
    ``thick`` voxels of a column, for whole columns where ``all_of_it``. (runs (y, x), thick)"""
    thick = max(4, (pile.tile[0] + 63) // 64)
    runs = np.zeros((pile.tile[1], pile.tile[2]), np.uint64)
    one = np.uint64(1)
    if all_of_it:
        runs[:] = ~np.uint64(0)
        return runs, thick
    for m in range(placed.first[t], placed.first[t + 1]):
        p = placed.members[m]
        map_, box, block = placed.maps[p], placed.boxes[p], placed.blocks[p]
        z0, z1 = max(bounds[0], box[4]) - bounds[0], min(bounds[1], box[5]) - bounds[0]
        mask = np.uint64(0)
        for k in range(z0 // thick, (z1 - 1) // thick + 1):
            mask |= one << np.uint64(k)
        for y in range(max(bounds[2], box[2]), min(bounds[3], box[3])):
            for x in range(max(bounds[4], box[0]), min(bounds[5], box[1])):
                u = map_[0] + map_[1] * x + map_[2] * y
                v = map_[3] + map_[4] * x + map_[5] * y
                if u > 0 and v > 0 and u < block[3] + 1 and v < block[2] + 1:
                    runs[y - bounds[2], x - bounds[4]] |= mask
    return runs, thick


@inlined
def next_run(run, z, n, thick):
    """The next (start, stop) of a column's marked voxels from z on; start = n where none is."""
    one = np.uint64(1)
    while z < n and not run >> np.uint64(z // thick) & one:
        z += thick
    start = min(z, n)
    while z < n and run >> np.uint64(z // thick) & one:
        z += thick
    return start, min(z, n)


@inlined
def _finish(sums, offset, pitch, bounds, runs, thick, total, shape, smooth, like):
    """(Σ aᵢcᵢ, A) becomes (rgb, α) where marked; ``total`` (ny, nx, nz), if not empty, keeps A."""
    channels, is_kept, n = len(like), len(total) > 0, bounds[1] - bounds[0]
    kept = total if is_kept else np.empty(n, total.dtype)
    for y in range(bounds[2], bounds[3]):
        for x in range(bounds[4], bounds[5]):
            o = offset + (y - bounds[2]) * pitch[0] + (x - bounds[4]) * pitch[1]
            first = (y * shape[2] + x) * shape[0] + bounds[0] if is_kept else 0
            run = runs[y - bounds[2], x - bounds[4]]
            z0, z1 = next_run(run, 0, n, thick)
            while z0 < n:
                i, k = o + z0 * channels, first + z0 if is_kept else 0
                columns.normalise(sums, i, z1 - z0, kept, k, like)
                if smooth:
                    for z in range(z1 - z0):
                        sums[i + z * channels + channels - 1] = smoothly_capped(kept[k + z])
                z0, z1 = next_run(run, z1, n, thick)


@inner
def smoothly_capped(occupancy):
    """A / (1 + A⁴)^¼"""
    squared = occupancy * occupancy
    return occupancy / np.sqrt(np.sqrt(1 + squared * squared))


@inlined
def gather_tile(j, pile, placed, ground, is_clear, like):
    """The sums (Σ aᵢcᵢ, A) of the pile's tile j, which holds zeros if ``is_clear``."""
    t = pile.tiles[j]
    bounds = corner(t, pile.shape, pile.tile)
    if not is_clear or len(ground.values) > 0:
        _begin(pile.sums, pile.offsets[j], pile.pitch, bounds, ground, like)
    tallest = 0
    for m in range(placed.first[t], placed.first[t + 1]):
        tallest = max(tallest, placed.blocks[placed.members[m], 1] + 2)
    mixed = np.empty(tallest * len(like), placed.voxels.dtype)
    low = np.empty(pile.tile[0], np.int64)
    weights = np.empty((pile.tile[0], 2), placed.voxels.dtype)
    for m in range(placed.first[t], placed.first[t + 1]):
        p = placed.members[m]
        _add_placement(
            pile.sums, pile.offsets[j], pile.pitch, bounds, placed.maps[p], placed.boxes[p],
            placed.blocks[p], placed.voxels, mixed, low, weights, like,
        )  # fmt: skip


@inlined
def room_for(j, pile, like):
    """A pile of its own for tile j, in memory that stays in a processor's own cache."""
    nz, ny, nx = pile.tile
    per_x = nz * len(like) + 16  # else columns of a power of two share their cache lines
    sums = np.empty(ny * nx * per_x, pile.sums.dtype)
    pitch = np.array([nx * per_x, per_x])
    return Pile(sums, np.zeros(1, np.int64), pitch, pile.tiles[j : j + 1], pile.shape, pile.tile)


@inlined
def _write_rows(sums, pitch, bounds, out, like):
    """A tile, alone in its pile, into the volume ``out`` whose innermost axis is x."""
    channels = len(like)
    n_x = bounds[5] - bounds[4]
    fours = n_x // 4 * 4 if channels == 4 else 0
    for z in range(bounds[0], bounds[1]):
        for y in range(bounds[2], bounds[3]):
            i = (y - bounds[2]) * pitch[0] + (z - bounds[0]) * channels
            o = z * out.strides[1] + y * out.strides[2] + bounds[4]
            for x in range(0, fours, 4):
                lanes.transpose(out.values, o + x, out.strides[0], sums, i + x * pitch[1], pitch[1])
            for c in range(channels):
                for x in range(fours, n_x):
                    out.values[o + c * out.strides[0] + x] = sums[i + x * pitch[1] + c]


@inner
def _compose_tile(j, pile, placed, ground, total, out, smooth, like):
    writes_rows = len(out.values) > 0
    if writes_rows:
        pile, j = room_for(j, pile, like), 0
    gather_tile(j, pile, placed, ground, not writes_rows, like)
    bounds = corner(pile.tiles[j], pile.shape, pile.tile)
    runs, thick = runs_of(pile.tiles[j], bounds, pile, placed, len(ground.values) > 0)
    _finish(
        pile.sums, pile.offsets[j], pile.pitch, bounds, runs, thick, total, pile.shape, smooth, like
    )  # fmt: skip
    if writes_rows:
        _write_rows(pile.sums, pile.pitch, bounds, out, like)


@passes
def compose_tiles(pile, placed, ground, total, out, smooth, like):
    """Each tile's (rgb, α): into the pile, which holds zeros, or into the volume ``out``, x
    innermost, if that is not empty; the pile then has room for nothing."""
    for j in prange(len(pile.tiles)):
        _compose_tile(np.int64(j), pile, placed, ground, total, out, smooth, like)
