"""The fused loss, in numba: a tile's sums are made, compared with the target and replaced by the
loss's gradient while they are in the cache. Piles and Placed are those of :mod:`gather`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import prange, types
from numba.extending import overload

from protoscene import lanes
from protoscene.compose import columns
from protoscene.compose.gather import (
    corner,
    gather_tile,
    inlined,
    inner,
    next_run,
    passes,
    runs_of,
    smoothly_capped,
)
from protoscene.compose.scatter import to_background

SOFT = 1e-3
"""Keeps the logarithms of the cross entropy finite."""


class Wish(NamedTuple):
    """The target, flat with strides like Flat (``weights`` empty: all 1). Integers are looked up
    in ``decoding``. ``shares`` are the weights of squared error, cross entropy and colour."""

    values: np.ndarray
    strides: np.ndarray
    decoding: np.ndarray
    weights: np.ndarray
    weight_strides: np.ndarray
    shares: np.ndarray


def decoded(value: Any, decoding: Any) -> Any:
    raise NotImplementedError  # only within kernels


@overload(decoded, inline="always")
def _decoded(value, decoding):
    if isinstance(value, types.Integer):
        return lambda value, decoding: decoding[value]
    return lambda value, decoding: value


@inlined
def _weight_of(wish, z, y, x):
    if len(wish.weights) == 0:
        return 1.0
    s = wish.weight_strides
    return float(wish.weights[z * s[0] + y * s[1] + x * s[2]])


@inlined
def _compare(canvas, slope, sums_of_terms, wish, z0, n, y, x, like):
    """Adds a column's terms to (mse, bce, colour, weight); ``slope`` becomes the gradient to its
    (rgb, α), not yet divided by the sum of weights."""
    channels = len(like)
    last = channels - 1
    square, entropy, colour = wish.shares[0], wish.shares[1], wish.shares[2]
    for z in range(n):
        w = _weight_of(wish, z0 + z, y, x)
        i = (z0 + z) * wish.strides[1] + y * wish.strides[2] + x * wish.strides[3]
        j = z * channels
        slope[j : j + channels] = 0
        if w == 0:
            continue
        sums_of_terms[3] += w
        wanted = float(decoded(wish.values[i + last * wish.strides[0]], wish.decoding))
        alpha = float(canvas[j + last])
        off = alpha - wanted
        sums_of_terms[0] += w * off * off
        change = 2 * square * off
        if entropy != 0:
            full, empty = alpha + SOFT, 1 - alpha + SOFT
            sums_of_terms[1] -= w * (
                wanted * np.log(full) + (1 - wanted) * np.log(empty) - np.log(1 + 2 * SOFT)
            )
            change += entropy * ((1 - wanted) / empty - wanted / full)
        slope[j + last] = w * change
        if wanted != 0 and colour != 0:
            share = w * wanted / max(1, last)
            for c in range(last):
                off = float(canvas[j + c]) - float(
                    decoded(wish.values[i + c * wish.strides[0]], wish.decoding)
                )
                sums_of_terms[2] += share * off * off
                slope[j + c] = 2 * colour * share * off


@inlined
def _is_blank(wish, z0, n, y, x, like):
    """Whether the target holds nothing in a column that lies in one piece: a loop over plain
    numbers, which the compiler makes many times as fast as one over voxels."""
    strides, values, channels = wish.strides, wish.values, len(like)
    if strides[0] != 1 or strides[1] != channels or len(wish.weights) > 0:
        return False
    start = z0 * channels + y * strides[2] + x * strides[3]
    for line in range(start, start + n * channels, 64 // values.itemsize):
        lanes.prefetch(values, line + strides[3])
    found = False
    for value in values[start : start + n * channels]:
        found |= value != 0
    return not found


@inlined
def _compare_nothing(sums_of_terms, wish, z0, n, y, x, like):
    """As _compare, of a column where the canvas is empty and no gradient leads anywhere."""
    last = len(like) - 1
    entropy_of_none = np.log(1 + 2 * SOFT) - np.log(1 + SOFT)
    if _is_blank(wish, z0, n, y, x, like):
        sums_of_terms[3] += n
        sums_of_terms[1] += n * entropy_of_none
        return
    for z in range(n):
        w = _weight_of(wish, z0 + z, y, x)
        if w == 0:
            continue
        i = (z0 + z) * wish.strides[1] + y * wish.strides[2] + x * wish.strides[3]
        wanted = float(decoded(wish.values[i + last * wish.strides[0]], wish.decoding))
        sums_of_terms[3] += w
        sums_of_terms[1] += w * entropy_of_none
        if wanted == 0:
            continue
        sums_of_terms[0] += w * wanted * wanted
        sums_of_terms[1] += w * wanted * (np.log(1 + SOFT) - np.log(SOFT))
        for c in range(last):
            value = float(decoded(wish.values[i + c * wish.strides[0]], wish.decoding))
            sums_of_terms[2] += w * wanted / last * value * value


@inner
def _compare_tile(
    j, pile, placed, ground, found, wish, terms, smooth, wants_slopes, like
):  # fmt: skip
    channels, t = len(like), pile.tiles[j]
    has_ground = len(ground.values) > 0
    bounds = corner(t, pile.shape, pile.tile)
    n, dtype = bounds[1] - bounds[0], placed.voxels.dtype
    is_empty = placed.first[t] == placed.first[t + 1] and not has_ground
    if not is_empty:
        gather_tile(j, pile, placed, ground, False, like)
    runs, thick = runs_of(t, bounds, pile, placed, has_ground)
    slope, value = np.empty(n * channels, dtype), np.empty(n * channels, dtype)
    total, inverses, passed = np.empty(n, dtype), np.empty(n, dtype), np.empty(n, dtype)
    for y in range(bounds[2], bounds[3]):
        for x in range(bounds[4], bounds[5]):
            o = (y - bounds[2]) * pile.pitch[0] + (x - bounds[4]) * pile.pitch[1]
            o += 0 if is_empty else pile.offsets[j]
            run = runs[y - bounds[2], x - bounds[4]]
            done = 0
            z0, z1 = next_run(run, 0, n, thick)
            while done < n:
                if done < z0:  # nothing is here: only the target counts
                    _compare_nothing(terms[j], wish, bounds[0] + done, z0 - done, y, x, like)
                    done = z0
                    continue
                m, i = z1 - z0, o + z0 * channels
                columns.normalise(pile.sums, i, m, total, 0, like)
                value[: m * channels] = pile.sums[i : i + m * channels]
                if smooth:
                    for z in range(m):
                        value[z * channels + channels - 1] = smoothly_capped(total[z])
                _compare(value, slope, terms[j], wish, bounds[0] + z0, m, y, x, like)
                if wants_slopes:
                    columns.to_sums(
                        pile.sums, i, slope, 0, value, 0, total, 0, inverses, passed, m, smooth,
                        like,
                    )  # fmt: skip
                if len(found.values) > 0:
                    to_background(
                        found, ground, pile.sums, i, slope, 0, inverses, passed, bounds[0] + z0, m,
                        y, x, like,
                    )  # fmt: skip
                done = z1
                z0, z1 = next_run(run, z1, n, thick)


@passes
def compare_tiles(pile, placed, ground, found, wish, terms, smooth, wants_slopes, like):
    """Each tile's terms (tiles, 4): Σ w·(squared error, cross entropy, colour error, 1). The pile
    receives the gradient to (Σ aᵢcᵢ, A), and ``found``, if not empty, that to the background, both
    not yet divided by Σ w. Tiles that nothing touches have no room in the pile."""
    for j in prange(len(pile.tiles)):
        _compare_tile(
            np.int64(j), pile, placed, ground, found, wish, terms, smooth, wants_slopes, like
        )
