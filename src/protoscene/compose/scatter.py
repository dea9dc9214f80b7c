"""The backward passes, in numba: the canvas's gradient to that of the sums, and from these, slab by
slab of the prototypes, to voxels and poses. Piles and Placed are those of :mod:`gather`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from protoscene import lanes
from protoscene.compose import columns
from protoscene.compose.gather import (
    corner,
    heights,
    inlined,
    inner,
    next_run,
    passes,
    runs_of,
    snapped,
)
from protoscene.compose.tiles import SLAB


class Wanted(NamedTuple):
    """Where gradients go: ``voxels`` like the prototypes' (empty if not wanted) and ``pose``
    (n, slabs, 9) float64: sums over a row's canvas voxels, without its presence, of g·∂/∂(x, y, z)
    of the position in its block, these times x, y, z from the middle, ∂x times y, ∂y times x, and
    g times the value."""

    voxels: np.ndarray
    pose: np.ndarray
    wants_pose: bool


@inlined
def tile_of(volume, bounds, runs, thick, like):
    """A tile of a volume, channel last: (values, place of its corner, pitch along y, along x). A
    volume whose columns lie like that itself, else a copy of the rows with a marked voxel."""
    values, strides = volume.values, volume.strides
    channels = len(like)
    z0, y0, x0 = bounds[0], bounds[2], bounds[4]
    n_z, n_y, n_x = bounds[1] - z0, bounds[3] - y0, bounds[5] - x0
    start = z0 * strides[1] + y0 * strides[2] + x0 * strides[3]
    if strides[0] == 1 and strides[1] == channels:
        return values, start, strides[2], strides[3]
    pitch = n_z * channels + 16
    copy = np.empty(n_y * n_x * pitch, values.dtype)
    fours = n_x // 4 * 4 if channels == 4 and strides[3] == 1 else 0
    for y in range(n_y):
        run = np.uint64(0)
        for x in range(n_x):
            run |= runs[y, x]
        for z in range(n_z):
            if not run >> np.uint64(z // thick) & np.uint64(1):
                continue
            i, o = start + z * strides[1] + y * strides[2], y * n_x * pitch + z * channels
            for x in range(0, fours, 4):
                lanes.transpose(copy, o + x * pitch, pitch, values, i + x, strides[0])
            for x in range(fours, n_x):
                for c in range(channels):
                    copy[o + x * pitch + c] = values[i + c * strides[0] + x * strides[3]]
    return copy, 0, n_x * pitch, pitch


@inlined
def to_background(found, ground, sums, o, slope, s, inverses, passed, z0, n, y, x, like):
    """The gradient to the background's straight (c, α) from that to its (αc, α).

    Where nothing else is, it is the canvas's own: the difference of two numbers over a small A
    would be noise."""
    channels = len(like)
    last = channels - 1
    for z in range(n):
        i = (z0 + z) * ground.strides[1] + y * ground.strides[2] + x * ground.strides[3]
        k = (z0 + z) * found.strides[1] + y * found.strides[2] + x * found.strides[3]
        j = o + z * channels
        occupancy = ground.values[i + last * ground.strides[0]]
        alone = occupancy * inverses[z]
        is_alone = abs(alone - 1) < 1e-6 if occupancy > 0 else False
        change = sums[j + last]
        for c in range(last):
            place = k + c * found.strides[0]
            found.values[place] = (
                slope[s + z * channels + c] if is_alone else occupancy * sums[j + c]
            )
            change += sums[j + c] * ground.values[i + c * ground.strides[0]]
        if is_alone:
            change = slope[s + z * channels + last] * passed[z]
        found.values[k + last * found.strides[0]] = change


AHEAD = 4
"""Columns from the one at work to the one whose cache lines are asked for."""


@inner
def _to_sums_tile(j, pile, placed, gradient, canvas, total, ground, found, smooth, like):
    channels = len(like)
    bounds = corner(pile.tiles[j], pile.shape, pile.tile)
    n, has_ground = bounds[1] - bounds[0], len(found.values) > 0
    runs, thick = runs_of(pile.tiles[j], bounds, pile, placed, has_ground)
    dtype = pile.sums.dtype
    slopes, slopes_start, slopes_y, slopes_x = tile_of(gradient, bounds, runs, thick, like)
    values, values_start, values_y, values_x = tile_of(canvas, bounds, runs, thick, like)
    inverses, passed = np.empty(n, dtype), np.empty(n, dtype)
    for y in range(bounds[2], bounds[3]):
        for x in range(bounds[4], bounds[5]):
            first = (y * pile.shape[2] + x) * pile.shape[0] + bounds[0]
            o = pile.offsets[j] + (y - bounds[2]) * pile.pitch[0] + (x - bounds[4]) * pile.pitch[1]
            run = runs[y - bounds[2], x - bounds[4]]
            z0, z1 = next_run(run, 0, n, thick)
            while z0 < n:
                m = z1 - z0
                k = slopes_start + (y - bounds[2]) * slopes_y + (x - bounds[4]) * slopes_x
                k += z0 * channels
                i = values_start + (y - bounds[2]) * values_y + (x - bounds[4]) * values_x
                i += z0 * channels
                # What lies beside it comes next: columns are short, and far apart in memory.
                for line in range(0, m * channels, 64 // slopes.itemsize):
                    lanes.prefetch(slopes, k + AHEAD * slopes_x + line)
                    lanes.prefetch(values, i + AHEAD * values_x + line)
                columns.to_sums(
                    pile.sums, o + z0 * channels, slopes, k, values, i, total, first + z0,
                    inverses, passed, m, smooth, like,
                )  # fmt: skip
                if has_ground:
                    to_background(
                        found, ground, pile.sums, o + z0 * channels, slopes, k, inverses, passed,
                        bounds[0] + z0, m, y, x, like,
                    )  # fmt: skip
                z0, z1 = next_run(run, z1, n, thick)


@passes
def to_sums_tiles(pile, placed, gradient, canvas, total, ground, found, smooth, like):
    """The adjoint of finishing: from the gradient to (rgb, α) that to (Σ aᵢcᵢ, A), into the pile;
    where ``found`` is not empty, also the gradient to the background."""
    for j in prange(len(pile.tiles)):
        _to_sums_tile(
            np.int64(j), pile, placed, gradient, canvas, total, ground, found, smooth, like
        )


@inlined
def _row_range(v, step, low, high, x0, x1):
    """The x from x0 to x1 for which v + step · x can lie in [low, high)."""
    if abs(step) < 1e-9:
        return x0, x1
    a, b = (low - v) / step, (high - v) / step
    a, b = min(a, b), max(a, b)
    return max(x0, int(max(a, -1e9)) - 1), min(x1, int(min(b, 1e9)) + 2)


@inlined
def _scatter_tile(
    sums, offset, pitch, bounds, map_, box, block, slab, voxels, found, wants_voxels, wants_pose,
    pose, mixed, column, low, weights, rise, dots, like,
):  # fmt: skip
    """One placement's part of one tile and one slab: gradients to its voxels, into ``found``, and
    to its pose, added to ``pose`` (see Wanted)."""
    channels = len(like)
    z0, z1 = max(bounds[0], box[4]), min(bounds[1], box[5])
    y0, y1 = max(bounds[2], box[2]), min(bounds[3], box[3])
    n_z, n_y, n_x = block[1] + 2, block[2], block[3]
    per_x = n_z * channels
    per_y = (n_x + 2) * per_x
    first, used = heights(map_, n_z, z0, z1, low, weights, channels)
    middle = map_[6] + map_[7] * (z0 + z1) / 2
    for z in range(z1 - z0):
        w = snapped(map_[6] + map_[7] * (z0 + z))
        rise[z] = w - middle if 0 < w < n_z - 1 else np.nan
    u_middle, v_middle, w_middle = (n_x + 1) / 2, (n_y + 1) / 2, (n_z - 1) / 2
    share, dot = np.empty(4, voxels.dtype), np.empty(4, np.float64)
    presence = voxels.dtype.type(map_[8])
    for y in range(y0, y1):
        x0, x1 = _row_range(
            map_[3] + map_[5] * y, map_[4], slab * SLAB, (slab + 1) * SLAB,
            max(bounds[4], box[0]), min(bounds[5], box[1]),
        )  # fmt: skip
        for x in range(x0, x1):
            u = snapped(map_[0] + map_[1] * x + map_[2] * y)
            v = snapped(map_[3] + map_[4] * x + map_[5] * y)
            if u <= 0 or v <= 0 or u >= n_x + 1 or v >= n_y + 1:
                continue
            i, j = int(u), int(v)
            if j // SLAB != slab:
                continue
            o = offset + (y - bounds[2]) * pitch[0] + (x - bounds[4]) * pitch[1]
            o += (z0 - bounds[0]) * channels
            column[: used * channels] = 0
            columns.spread(column, low, weights, sums, o, z1 - z0, like)
            u1, v1 = u - i, v - j
            u0, v0 = i + 1 - u, j + 1 - v
            share[0], share[1], share[2], share[3] = u0 * v0, u1 * v0, u0 * v1, u1 * v1
            start = block[0] + j * per_y + i * per_x + first * channels
            columns.unmix(
                found, voxels, mixed, column, start, start + per_x, start + per_y,
                start + per_y + per_x, share[0], share[1], share[2], share[3], presence, used,
                dots, wants_voxels, like,
            )  # fmt: skip
            if not wants_pose:
                continue
            for k in range(4):
                dot[k] = dots[k]
            columns.slopes(dots, mixed, low, rise, sums, o, z1 - z0, like)
            dw, dw_rise = np.float64(dots[0]), np.float64(dots[1])
            du = (dot[1] - dot[0]) * v0 + (dot[3] - dot[2]) * v1
            dv = (dot[2] - dot[0]) * u0 + (dot[3] - dot[1]) * u1
            pose[0] += du
            pose[1] += dv
            pose[2] += dw
            pose[3] += du * (u - u_middle)
            pose[4] += dv * (v - v_middle)
            pose[5] += dw_rise + dw * (middle - w_middle)
            pose[6] += du * (v - v_middle)
            pose[7] += dv * (u - u_middle)
            pose[8] += dot[0] * u0 * v0 + dot[1] * u1 * v0 + dot[2] * u0 * v1 + dot[3] * u1 * v1


@inner
def _scatter_slab(unit, units, first, rows, pile, slots, placed, wanted, like):
    k, slab = units[unit]
    channels, tile, dtype = len(like), pile.tile, pile.sums.dtype
    n_y = (pile.shape[1] + tile[1] - 1) // tile[1]
    n_x = (pile.shape[2] + tile[2] - 1) // tile[2]
    tall = placed.blocks[rows[first[k]], 1] + 2
    mixed, column = np.empty(tall * channels, dtype), np.empty(tall * channels, dtype)
    low, weights = np.empty(tile[0], np.int64), np.empty((tile[0], 2), dtype)
    rise, dots = np.empty(tile[0], dtype), np.empty(64, dtype)
    for m in range(first[k], first[k + 1]):
        p = rows[m]
        box = placed.boxes[p]
        for tz in range(box[4] // tile[0], (box[5] - 1) // tile[0] + 1):
            for ty in range(box[2] // tile[1], (box[3] - 1) // tile[1] + 1):
                for tx in range(box[0] // tile[2], (box[1] - 1) // tile[2] + 1):
                    t = (tz * n_y + ty) * n_x + tx
                    if slots[t] < 0:
                        continue
                    _scatter_tile(
                        pile.sums, pile.offsets[slots[t]], pile.pitch,
                        corner(t, pile.shape, tile), placed.maps[p], box, placed.blocks[p], slab,
                        placed.voxels, wanted.voxels, len(wanted.voxels) > 0, wanted.wants_pose,
                        wanted.pose[p, slab], mixed, column, low, weights, rise, dots, like,
                    )  # fmt: skip


@passes
def scatter_slabs(units, first, rows, pile, slots, placed, wanted, like):
    """The pile's gradients to (Σ aᵢcᵢ, A), onto voxels and poses. ``slots`` gives each tile of the
    canvas its place in the pile, or −1; units, first and rows are tiles.Slabs'."""
    for unit in prange(len(units)):
        _scatter_slab(np.int64(unit), units, first, rows, pile, slots, placed, wanted, like)


@inner
def _clear_shell(k, found, table, like):
    channels = len(like)
    start, n_z, n_y, n_x = table[k]
    line = (n_z + 2) * channels
    for y in range(n_y + 2):
        for x in range(n_x + 2):
            o = start + (y * (n_x + 2) + x) * line
            if y in (0, n_y + 1) or x in (0, n_x + 1):
                found[o : o + line] = 0
            else:
                found[o : o + channels] = 0
                found[o + line - channels : o + line] = 0


@passes
def clear_shells(found, table, like):
    """Zero in the padding of every block: it is no variable."""
    for k in prange(len(table)):
        _clear_shell(np.int64(k), found, table, like)
