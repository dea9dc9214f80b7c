"""A prototype's colours such that, drawn from the cameras that saw it, it looks as recorded."""

from __future__ import annotations

import numba
import numpy as np
from jaxtyping import Bool, Float

from protoscene.crops import OWN, Crops
from protoscene.geometry import Grid
from protoscene.observe import NEAREST_M, depth_sigma

ROUNDS = 6
"""Times that all pictures are drawn and compared: more fit the recorded pictures by less than
.1 dB each, and what is new in them is noise."""
MOST_CROPS = 128
"""Pictures (evenly chosen) that are drawn."""
PARTS = 4
"""Sums are made in so many parts whatever the number of threads, so that they are the same."""
REACH, SIGMAS = 3.0, 2.0
"""A pixel is compared with the surface within so many voxels, and so often the sensor's noise, of
its depth."""
STEP, MOST_STEPS = 0.5, 64
"""Distance between a ray's samples, in voxels, and how many there are at most."""
OPAQUE = 1e-3
"""A ray that has less light left than this stops."""
LEAST_SHARE = 0.01
"""A voxel that makes up less than this of a pixel, in all pictures together, hardly changes."""


@numba.njit(cache=True, inline="always")
def _in_own_frame(t, a, b, camera, pose):  # type: ignore[no-untyped-def]
    """Where the camera's ray (a, b, 1) has z-depth t, in the frame of a thing at ``pose``."""
    u, v, w = a * t - camera[0, 3], b * t - camera[1, 3], t - camera[2, 3]
    x = camera[0, 0] * u + camera[1, 0] * v + camera[2, 0] * w - pose[0]
    y = camera[0, 1] * u + camera[1, 1] * v + camera[2, 1] * w - pose[1]
    z = camera[0, 2] * u + camera[1, 2] * v + camera[2, 2] * w - pose[2]
    cos, sin = np.cos(pose[3]), np.sin(pose[3])
    return cos * x + sin * y, cos * y - sin * x, z


@numba.njit(cache=True)
def _march(rgba, first, last, n, place, share, seen):  # type: ignore[no-untyped-def]
    """The light that n samples between two positions (voxels, x y z) stop, of 1. Sample s of the
    ``used`` first rows has its lowest voxel in ``place`` and in ``share`` what its eight voxels
    give per occupancy; ``seen`` is Σ share · occupancy · colour."""
    nz, ny, nx = rgba.shape[:3]
    light, used = 1.0, 0
    seen[:] = 0
    for s in range(n):
        f = first + (last - first) * (s / (n - 1))
        x, y, z = int(np.floor(f[0])), int(np.floor(f[1])), int(np.floor(f[2]))
        if x < 0 or y < 0 or z < 0 or x >= nx - 1 or y >= ny - 1 or z >= nz - 1:
            continue
        dx, dy, dz = f[0] - x, f[1] - y, f[2] - z
        alpha = 0.0
        for k in range(8):
            own = (dx if k & 1 else 1 - dx) * (dy if k & 2 else 1 - dy) * (dz if k & 4 else 1 - dz)
            share[used, k] = own
            alpha += own * rgba[z + (k >> 2), y + (k >> 1 & 1), x + (k & 1), 3]
        if alpha <= 0:
            continue
        # As rendered: a step stops 1 − (1 − α)² of the light, (2 − α) of it per occupancy.
        for k in range(8):
            share[used, k] *= light * (2 - alpha)
            voxel = rgba[z + (k >> 2), y + (k >> 1 & 1), x + (k & 1)]
            for channel in range(3):
                seen[channel] += share[used, k] * voxel[3] * voxel[channel]
        place[used, 0], place[used, 1], place[used, 2] = z, y, x
        used += 1
        light *= (1 - alpha) ** 2
        if light < OPAQUE:
            break
    return used, 1 - light


@numba.njit(cache=True)
def _hand_out(missing, opacity, used, place, share, rgba, found):  # type: ignore[no-untyped-def]
    """Adds to ``found`` of each voxel that a ray met its share of what is ``missing`` of the
    pixel's colour, and that share."""
    for s in range(used):
        for k in range(8):
            z, y = place[s, 0] + (k >> 2), place[s, 1] + (k >> 1 & 1)
            x = place[s, 2] + (k & 1)
            weight = share[s, k] * rgba[z, y, x, 3] / opacity
            for channel in range(3):
                found[z, y, x, channel] += weight * missing[channel]
            found[z, y, x, 3] += weight


@numba.njit(cache=True, parallel=True)
def _compare(  # type: ignore[no-untyped-def]
    rgba, origin, voxel, poses, part, window, pose, pinhole, depth, label, colour, noise, found,
):  # fmt: skip
    """``found`` (part, z, y, x, 4) receives for every voxel Σ share · missing colour and Σ share
    over the own pixels of the crops ``part[q] .. part[q + 1]``."""
    for q in numba.prange(len(part) - 1):
        place, share = np.zeros((MOST_STEPS, 3), np.int64), np.zeros((MOST_STEPS, 8))
        seen, missing, first, last = np.zeros(3), np.zeros(3), np.zeros(3), np.zeros(3)
        for c in range(part[q], part[q + 1]):
            own, width = poses[window[c, 0]], window[c, 4]
            for k in range(window[c, 3] * width):
                pixel = window[c, 5] + k
                t = depth[pixel]
                if label[pixel] != OWN or t < NEAREST_M:
                    continue
                column, row = window[c, 2] + k % width + 0.5, window[c, 1] + k // width + 0.5
                a = (column - pinhole[c, 2]) / pinhole[c, 0]
                b = (row - pinhole[c, 3]) / pinhole[c, 1]
                reach = REACH * voxel + SIGMAS * noise * depth_sigma(t)
                n = min(int(2 * reach / (STEP * voxel)) + 1, MOST_STEPS)
                reach = 0.5 * (n - 1) * STEP * voxel / np.sqrt(a * a + b * b + 1)
                start = _in_own_frame(t - reach, a, b, pose[c], own)
                end = _in_own_frame(t + reach, a, b, pose[c], own)
                for d in range(3):
                    first[d] = (start[d] - origin[d]) / voxel - 0.5
                    last[d] = (end[d] - origin[d]) / voxel - 0.5
                used, opacity = _march(rgba, first, last, n, place, share, seen)
                if opacity > 0.5:
                    for channel in range(3):
                        missing[channel] = colour[pixel, channel] / 255.0 - seen[channel] / opacity
                    _hand_out(missing, opacity, used, place, share, rgba, found[q])


def fitted(
    rgba: Float[np.ndarray, "4 z y x"], grid: Grid, crops: Crops, poses: Float[np.ndarray, "i 4"],
    chosen: Bool[np.ndarray, " i"],
) -> Float[np.ndarray, "4 z y x"]:  # fmt: skip
    """``rgba``, on a ``grid`` in the thing's own frame, with colours that fit the own pixels of the
    crops of the ``chosen`` instants at their ``poses`` (x y z yaw) in the least-squares sense.

    Occupancy and poses are held, so that a pixel's colour as :mod:`render` makes it, its thing
    opaque, is a mean of voxels' colours with known weights w. Each of ``ROUNDS`` times all pixels
    are drawn, and a voxel's colour changes by Σ w · (recorded − drawn) / Σ w: steepest descent on
    the squared error, each voxel's step as long as its weights allow (SIRT: Gilbert 1972). The
    first steps bring what most pixels agree on, the later ones what a pixel's blur hides. Voxels
    that no own pixel shows keep their colour.
    """
    crop = np.nonzero(chosen[crops.window[:, 0]])[0]
    if len(crop) > MOST_CROPS:
        crop = crop[np.linspace(0, len(crop) - 1, MOST_CROPS).round().astype(int)]
    part = np.linspace(0, len(crop), PARTS + 1).round().astype(np.int64)
    now = np.ascontiguousarray(np.moveaxis(rgba, 0, -1), dtype=np.float64)
    for _ in range(ROUNDS):
        found = np.zeros((PARTS, *now.shape), dtype=np.float32)
        _compare(
            now, np.array(grid.origin), grid.voxel_size, poses, part, crops.window[crop],
            crops.pose[crop], crops.pinhole[crop], crops.depth, crops.label, crops.colour,
            crops.noise, found,
        )  # fmt: skip
        total = found.sum(axis=0, dtype=np.float64)
        step = total[..., :3] / np.maximum(total[..., 3:], LEAST_SHARE)
        now[..., :3] = (now[..., :3] + step).clip(0, 1)
    return np.moveaxis(now, -1, 0).astype(rgba.dtype)
