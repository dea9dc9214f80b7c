"""What stays: the surface that is there whenever somebody looks, and what it cannot explain."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from jaxtyping import Bool, Float, UInt8

from protoscene.geometry import Grid
from protoscene.observe import (
    Progress,
    ViewStack,
    depth_noise,
    depth_sigma,
    noise_scale,
    signed_distance,
)
from protoscene.recording import Recording, View

BINS, BEFORE, BEHIND = 36, 5.0, 4.0
"""Bins of a voxel's distances, and how far (voxels) before and behind the surface they reach."""
PRESENT_SHARE = 0.9
"""A thing that is away in more than a tenth of the instants is not background."""
MAX_INSTANTS = 240
"""Instants (evenly chosen) that vote on the background: what a byte can count."""
NEW, SURE = 1, 2
"""What a pixel can be: before what stays; with nothing but clearly free voxels around its point."""
MARGIN_M, MARGIN_SIGMAS, MARGIN_PIXELS = 0.01, 1.5, 0.5
"""A pixel must lie this much, and this often the sensor's noise, and this often what a pixel covers
before the background to be new."""
SURE_M, SURE_SIGMAS = 0.04, 4.0
"""The voxels around a sure pixel's point lie this much, and this often the sensor's noise, before
the background, or at 80 % of what is told apart."""
HISTORY = 48
"""Pictures (evenly chosen) of a camera that never moves from which its pixels' depth is taken."""


@dataclass(frozen=True, eq=False)
class StaticSurface:
    """Signed distance (m, positive in free space) of the static surface at voxel centres; NaN
    where it was never seen."""

    distance: Float[np.ndarray, "z y x"]
    grid: Grid


@numba.njit(cache=True, parallel=True)
def _vote(histogram, distance, voxel):  # type: ignore[no-untyped-def]
    """Count each voxel's distance in its bin; what lies farther before goes to the last bin."""
    n, bins = histogram.shape
    scale = bins / (BEFORE + BEHIND)
    flat = distance.reshape(n)
    for i in numba.prange(n):
        value = flat[i]
        if not np.isnan(value):
            k = int((value / voxel + BEHIND) * scale)
            histogram[i, min(max(k, 0), bins - 1)] += 1


@numba.njit(cache=True, parallel=True)
def _quantile(histogram, share, voxel):  # type: ignore[no-untyped-def]
    """The ``share`` quantile of each voxel's distances, linear inside a bin; NaN without votes."""
    n, bins = histogram.shape
    out = np.empty(n, dtype=np.float32)
    width = (BEFORE + BEHIND) / bins
    for i in numba.prange(n):
        votes = 0
        for k in range(bins):
            votes += histogram[i, k]
        out[i] = np.nan
        if votes == 0:
            continue
        # Between order statistics: the middle of the sorted votes at that share of their way.
        wanted, below = share * (votes - 1) + 0.5, 0.0
        for k in range(bins):
            here = histogram[i, k]
            if here > 0 and below + here >= wanted:
                out[i] = ((k + (wanted - below) / here) * width - BEHIND) * voxel
                break
            below += here
    return out


def static_surface(
    recording: Recording, grid: Grid, progress: Progress = lambda stage, done, total: None
) -> StaticSurface:
    """The ``PRESENT_SHARE`` quantile over time of each voxel's signed distance: a surface stays
    only where nothing was seen behind it in more than a tenth of the instants, so that what stood
    still for long, and left, is not part of it. Works for moving cameras alike.
    """
    histogram = np.zeros((grid.n_voxels, BINS), dtype=np.uint8)
    instants = np.unique(np.linspace(0, len(recording) - 1, MAX_INSTANTS).round().astype(int))
    for done, i in enumerate(instants):
        views = ViewStack.of(recording.views(int(i)))
        distance = signed_distance(
            grid.origin, grid.voxel_size, grid.shape, views.depth, views.pose, views.pinhole,
            BEHIND * grid.voxel_size,
        )  # fmt: skip
        _vote(histogram, distance, grid.voxel_size)
        progress("background", done + 1, len(instants))
    distance = _quantile(histogram, PRESENT_SHARE, grid.voxel_size)
    return StaticSurface(distance.reshape(grid.shape), grid)


@numba.njit(cache=True, inline="always")
def _interpolated(distance, origin, voxel, x, y, z):  # type: ignore[no-untyped-def]
    """Distance at a world point, trilinear, and the least of the 8 voxels around; both NaN outside
    or beside a voxel never seen."""
    fx, fy = (x - origin[0]) / voxel - 0.5, (y - origin[1]) / voxel - 0.5
    fz = (z - origin[2]) / voxel - 0.5
    ix, iy, iz = int(np.floor(fx)), int(np.floor(fy)), int(np.floor(fz))
    nz, ny, nx = distance.shape
    if ix < 0 or iy < 0 or iz < 0 or ix >= nx - 1 or iy >= ny - 1 or iz >= nz - 1:
        return np.nan, np.nan
    u, v, w = fx - ix, fy - iy, fz - iz
    value, least = 0.0, np.inf
    for k in range(8):
        dz, dy, dx = k >> 2, k >> 1 & 1, k & 1
        here = distance[iz + dz, iy + dy, ix + dx]
        share = (u if dx else 1 - u) * (v if dy else 1 - v) * (w if dz else 1 - w)
        value += share * here
        least = here if np.isnan(here) else min(least, here)
    return value, (np.nan if np.isnan(value) else least)


@numba.njit(cache=True, parallel=True)
def _foreground(distance, origin, voxel, depth, pose, pinhole, noise):  # type: ignore[no-untyped-def]
    """Which pixels the static surface cannot explain, and which surely: 0, NEW or SURE each."""
    out = np.zeros(depth.shape, dtype=np.uint8)
    n, height = depth.shape[:2]
    for k in numba.prange(n * height):
        view, row = k // height, k % height
        turn, shift = pose[view, :, :3], pose[view, :, 3]
        for column in range(int(pinhole[view, 4])):
            seen = depth[view, row, column]
            if seen <= 0:
                continue
            sigma = depth_sigma(seen)
            # How free the point itself is, and the point as far behind it as the background must
            # be; where nobody ever saw behind it, it must itself float in free space.
            far = MARGIN_M + MARGIN_SIGMAS * noise * sigma + MARGIN_PIXELS * seen / pinhole[view, 0]
            # Distances are told apart up to BEFORE only.
            sure = min(SURE_M + SURE_SIGMAS * noise * sigma, 0.8 * BEFORE * voxel)
            clear, around, behind = np.nan, np.nan, np.nan
            for push in range(2):
                at = seen + far * push
                a = (column + 0.5 - pinhole[view, 2]) / pinhole[view, 0] * at - shift[0]
                b = (row + 0.5 - pinhole[view, 3]) / pinhole[view, 1] * at - shift[1]
                c = at - shift[2]
                x = turn[0, 0] * a + turn[1, 0] * b + turn[2, 0] * c
                y = turn[0, 1] * a + turn[1, 1] * b + turn[2, 1] * c
                z = turn[0, 2] * a + turn[1, 2] * b + turn[2, 2] * c
                value, least = _interpolated(distance, origin, voxel, x, y, z)
                if push == 0:
                    clear, around = value, least
                else:
                    behind = value
            if behind > 0 or (np.isnan(behind) and clear > far):
                out[view, row, column] = SURE if around > sure else NEW
    return out


@dataclass(frozen=True, eq=False)
class Static:
    """What stays, as two witnesses that must agree: the surface in space, and for each camera
    that never moves the depth its own pixels show (m, 0 where they mostly show none). ``noise`` is
    the sensor's, as a multiple of ``depth_noise``."""

    surface: StaticSurface
    pixel_depth: dict[str, Float[np.ndarray, "h w"]]
    noise: float


def estimate_background(
    recording: Recording, grid: Grid, progress: Progress = lambda stage, done, total: None
) -> Static:
    """The static surface over all instants, and the pixels' own depth where a camera is fixed."""
    surface = static_surface(recording, grid, progress)
    histories = {name: _history(recording, own) for name, own in _fixed(recording).items()}
    return Static(surface, histories, noise_scale(recording))


def _fixed(recording: Recording) -> dict[str, list[int]]:
    """Frames of each camera that stands still (to 1 mm and 0.05°) for at least 4 pictures."""
    by_name: dict[str, list[int]] = {}
    for i, frame in enumerate(recording.frames):
        by_name.setdefault(frame.camera_name, []).append(i)
    fixed = {}
    for name, indices in by_name.items():
        cameras = [recording.frames[i].camera for i in indices]
        poses = np.stack([c.world_from_camera for c in cameras])
        same_size = len({(c.width, c.height) for c in cameras}) == 1
        if len(indices) >= 4 and same_size and np.ptp(poses, axis=0).max() < 1e-3:
            fixed[name] = indices
    return fixed


def _history(recording: Recording, indices: list[int]) -> Float[np.ndarray, "h w"]:
    """The ``PRESENT_SHARE`` quantile of each pixel's valid depths; 0 where most are invalid."""
    chosen = np.unique(np.linspace(0, len(indices) - 1, HISTORY).round().astype(int))
    stack = np.stack([recording.view(indices[i]).depth for i in chosen])
    valid = (stack > 0).sum(axis=0)
    # Invalid depths are 0 and sort to the front: the quantile of the rest counts from the end.
    stack.sort(axis=0)
    place = len(chosen) - 1 - (1 - PRESENT_SHARE) * np.maximum(valid - 1, 0)
    below = np.floor(place).astype(int)
    low = np.take_along_axis(stack, below[None], axis=0)[0]
    high = np.take_along_axis(stack, np.minimum(below + 1, len(chosen) - 1)[None], axis=0)[0]
    depth = low + (place - below).astype(np.float32) * (high - low)
    return np.where(valid * 2 > len(chosen), depth, 0).astype(np.float32)


def subtract(views: list[View], static: Static) -> list[UInt8[np.ndarray, "h w"]]:
    """Per view, the pixels that lie before what stays, by ``MARGIN_M`` and the sensor's noise along
    their ray (so that the lowest centimetres of a thing, close to the ground, are kept): 1, and 2
    where all voxels around the point itself are clearly free; 0 elsewhere."""
    surface = static.surface
    stack = ViewStack.of(views)
    masks = _foreground(
        surface.distance, surface.grid.origin, surface.grid.voxel_size, stack.depth, stack.pose,
        stack.pinhole, static.noise,
    )  # fmt: skip
    result = []
    for i, view in enumerate(views):
        mask = masks[i, : view.camera.height, : view.camera.width]
        stays = static.pixel_depth.get(view.camera_name)
        if stays is not None:
            margin = MARGIN_M + MARGIN_SIGMAS * static.noise * depth_noise(view.depth)
            mask = np.where((stays == 0) | (view.depth < stays - margin), mask, 0)
        result.append(np.where(_without_specks(mask > 0), mask, 0).astype(np.uint8))
    return result


def _without_specks(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Drop pixels of which fewer than 5 of the 3×3 around (itself included) are new."""
    padded = np.pad(mask, 1).astype(np.uint8)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    around = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    return mask & (around >= 5)
