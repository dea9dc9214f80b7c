"""One canvas column of one placement, forward and backward, in numba.

Yaw leaves the vertical alone: a canvas column lies between four columns of the prototype with one
set of weights, so these are mixed once (premultiplied) and the mixture is interpolated along z.
``like`` is a tuple as long as there are channels: a length that the compiler knows.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from protoscene import lanes
from protoscene.lanes import FULL, NEXT_TO_NOTHING

FAST = {"contract", "reassoc", "nsz", "arcp"}
"""NaN and infinity keep their meaning."""
compiled = njit(inline="always")
"""Into the passes themselves: a function of its own is optimised once more for each caller."""


@compiled
def mix(mixed, voxels, i0, i1, i2, i3, w0, w1, w2, w3, n, like):
    """mixed[…] = Σₖ wₖ · premultiplied(column k) over n voxels."""
    channels = len(like)
    if channels == 4:
        fours = n // 4 * 16
        for j in range(0, fours, 16):
            lanes.mix(mixed, j, voxels, i0 + j, i1 + j, i2 + j, i3 + j, w0, w1, w2, w3)
        for j in range(fours, n * 4, 4):
            lanes.mix_one(mixed, j, voxels, i0 + j, i1 + j, i2 + j, i3 + j, w0, w1, w2, w3)
    else:
        for last in range(channels - 1, n * channels, channels):
            a0, a1 = w0 * voxels[i0 + last], w1 * voxels[i1 + last]
            a2, a3 = w2 * voxels[i2 + last], w3 * voxels[i3 + last]
            for c in range(last + 1 - channels, last):
                first = a0 * voxels[i0 + c] + a1 * voxels[i1 + c]
                mixed[c] = first + a2 * voxels[i2 + c] + a3 * voxels[i3 + c]
            mixed[last] = a0 + a1 + a2 + a3


@compiled
def add_lerped(sums, o, mixed, low, weights, n, like):
    """sums += the mixture interpolated at n canvas voxels; low counts numbers, not voxels."""
    channels = len(like)
    for z in range(n):
        i = low[z]
        w0, w1 = weights[z, 0], weights[z, 1]
        if channels == 4:
            lanes.lerp_one(sums, o + z * 4, mixed, i, w0, w1)
        else:
            for c in range(channels):
                sums[o + z * channels + c] += w0 * mixed[i + c] + w1 * mixed[i + channels + c]


@compiled
def normalise(sums, o, n, total, k, like):
    """(Σ aᵢcᵢ, A) becomes (rgb, min(A, 1)) over n voxels; total[k…] = A."""
    channels = len(like)
    if channels == 4:
        fours = n // 4 * 4
        for z in range(0, fours, 4):
            lanes.normalise(sums, o + z * 4, total, k + z)
        for z in range(fours, n):
            lanes.normalise_one(sums, o + z * 4, total, k + z)
    else:
        one = sums.dtype.type(1)
        for z in range(n):
            last = o + z * channels + channels - 1
            occupancy = sums[last]
            total[k + z] = occupancy
            for c in range(last + 1 - channels, last):
                sums[c] /= occupancy if occupancy > NEXT_TO_NOTHING else one
            sums[last] = min(occupancy, one)


@compiled
def to_sums(
    sums, o, gradient, i, canvas, j, total, k, inverses, passed, n, smooth, like
):  # fmt: skip
    """The adjoint of normalise and of the cap over n voxels: from the gradient to (rgb, α) that to
    (Σ aᵢcᵢ, A); inverses[…] = 1 / A (0 where A is), passed[…] = dα/dA. ``total`` is read where the
    cap has changed A."""
    channels = len(like)
    if channels == 4 and not smooth:
        fours = n // 4 * 4
        for z in range(0, fours, 4):
            lanes.to_sums(
                sums, o + z * 4, gradient, i + z * 4, canvas, j + z * 4, total, k + z, inverses,
                passed, z,
            )  # fmt: skip
        for z in range(fours, n):
            lanes.to_sums_one(
                sums, o + z * 4, gradient, i + z * 4, canvas, j + z * 4, total, k + z, inverses,
                passed, z,
            )  # fmt: skip
    else:
        for z in range(n):
            first, last = z * channels, z * channels + channels - 1
            alpha, zero = canvas[j + last], sums.dtype.type(0)
            occupancy = total[k + z] if smooth or alpha >= 1 else alpha
            inverses[z] = 1 / occupancy if occupancy > NEXT_TO_NOTHING else zero
            if smooth:
                squared = occupancy * occupancy
                root = 1 / np.sqrt(np.sqrt(1 + squared * squared))
                passed[z] = root * root * root * root * root
            else:
                passed[z] = 1 if occupancy <= FULL else 0
            change = zero
            for c in range(first, last):
                sums[o + c] = gradient[i + c] * inverses[z]
                change += sums[o + c] * canvas[j + c]
            sums[o + last] = gradient[i + last] * passed[z] - change


@compiled
def spread(column, low, weights, sums, o, n, like):
    """The adjoint of add_lerped: n canvas voxels' gradients onto the mixture's voxels."""
    channels = len(like)
    for z in range(n):
        i = low[z]
        w0, w1 = weights[z, 0], weights[z, 1]
        if channels == 4:
            lanes.spread_one(column, i, sums, o + z * 4, w0, w1)
        else:
            for c in range(channels):
                value = sums[o + z * channels + c]
                column[i + c] += w0 * value
                column[i + channels + c] += w1 * value


@compiled
def slopes(moments, mixed, low, rise, sums, o, n, like):
    """moments[0] = Σ g, moments[1] = Σ rise · g, with g the gradient to each canvas voxel's height
    in the mixture, and its rise over the middle; NaN marks a voxel outside."""
    channels = len(like)
    moments[:8] = 0
    for z in range(n):
        i = low[z]
        if np.isnan(rise[z]):
            continue
        if channels == 4:
            lanes.slope_one(moments, mixed, i, sums, o + z * 4, rise[z])
        else:
            for c in range(channels):
                g = sums[o + z * channels + c] * (mixed[i + channels + c] - mixed[i + c])
                moments[0] += g
                moments[4] += rise[z] * g
    moments[0] += moments[1] + moments[2] + moments[3]
    moments[1] = moments[4] + moments[5] + moments[6] + moments[7]


@compiled
def unmix(gradient, voxels, mixed, column, i0, i1, i2, i3, s0, s1, s2, s3, w, n, dots, write, like):
    """The adjoint of mix with weights w · sₖ, and mix with weights sₖ, over n voxels: gradient[iₖ…]
    += … if ``write``; dots[k] = Σ α · (column's occupancy + Σ colour · column's colour), the
    gradient to the weight of term k; mixed[…] = Σₖ sₖ · premultiplied(column k)."""
    channels = len(like)
    dots[:] = 0
    if channels == 4:
        fours = n // 4 * 16
        for j in range(0, fours, 16):
            lanes.unmix(
                gradient, voxels, mixed, column, j, i0 + j, i1 + j, i2 + j, i3 + j, s0, s1, s2, s3,
                w, dots, write,
            )  # fmt: skip
        for j in range(fours, n * 4, 4):
            lanes.unmix_one(
                gradient, voxels, mixed, column, j, i0 + j, i1 + j, i2 + j, i3 + j, s0, s1, s2, s3,
                w, dots, write,
            )  # fmt: skip
        for k in range(4):
            dots[k] = dots[16 * k + 3] + dots[16 * k + 7] + dots[16 * k + 11] + dots[16 * k + 15]
    else:
        mix(mixed, voxels, i0, i1, i2, i3, s0, s1, s2, s3, n, like)
        for k in range(4):
            i = i0 if k == 0 else i1 if k == 1 else i2 if k == 2 else i3
            weight = w * (s0 if k == 0 else s1 if k == 1 else s2 if k == 2 else s3)
            for last in range(channels - 1, n * channels, channels):
                occupancy = voxels[i + last]
                change = column[last]
                for c in range(last + 1 - channels, last):
                    change += voxels[i + c] * column[c]
                    if write:
                        gradient[i + c] += weight * occupancy * column[c]
                if write:
                    gradient[i + last] += weight * change
                dots[k] += occupancy * change
