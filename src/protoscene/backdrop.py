"""What stays → the background's colours and occupancy, and what lies outside of its grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage

from protoscene.background import Static, StaticSurface
from protoscene.detail import fine_volumes
from protoscene.geometry import Grid
from protoscene.recording import Recording
from protoscene.volume import Background, Evidence, Outside, Volume

COLOUR_INSTANTS = 32
"""Instants (evenly chosen) of which a background voxel's colour is the median."""
COARSER = 4
"""Voxel size outside of the grid, in the grid's."""
OUTSIDE_VIEWS, OUTSIDE_COLUMNS = 40, 160
"""Pictures (evenly chosen), and columns of each, that what lies outside is taken from."""
REACH = 128
"""Most voxels outside of the grid along a side."""
GROUND_SHARE, BELOW_SHARE = 0.25, 0.02
"""A height is the ground's if at least this share of all columns with a surface have it there, and
at most this share has one lower."""
USUAL = 0.98
"""Far ground that returns no depth is told from the sky by its colour: within that of this share of
the ground that does."""
GRAZING = 0.5
"""Rays that graze an occupancy's ramp stop early: beyond the grid, where most do, the ground's lies
this many voxels deeper."""


def backdrop(recording: Recording, evidence: list[Evidence], static: Static) -> Background:
    """The static surface as a volume: occupancy falls from 1 to 0 over one voxel around it, and
    colour is the median over time. What was never seen is empty, but for the ground, which goes on
    in its mean colour where nobody saw it. Outside: a coarse volume of the points beyond the grid
    and of the ground, and the mean colour of the sky."""
    surface = static.surface
    grid, distance = surface.grid, surface.distance
    occupancy = np.clip(0.5 - distance / grid.voxel_size, 0, 1)
    occupancy[np.isnan(distance)] = 0
    colour, known = _median_colour(evidence, occupancy > 0)
    colour = _spread(colour, known)
    height = ground_height(surface)
    if height is not None:
        above = grid.axes()[2][:, None, None] - height
        ground = np.clip(0.5 - above / grid.voxel_size, 0, 1)
        near = known & (np.abs(above) < grid.voxel_size)
        unseen = np.isnan(distance) & (ground > 0) & ~near.any(axis=0)
        occupancy[unseen] = np.broadcast_to(ground, grid.shape)[unseen]
        if near.any():
            colour[unseen] = colour[near].mean(axis=0)
    rgba = np.concatenate([np.moveaxis(colour, -1, 0), occupancy[None]]).astype(np.float32)
    volume = Volume(torch.from_numpy(rgba), grid)
    detail = fine_volumes(recording, static, volume, height)
    return Background(volume, _outside(recording, grid, height), detail)


def ground_height(surface: StaticSurface) -> float | None:
    """The height (m) at which most columns of the grid go from occupied to free, upwards; None
    where too few do (``GROUND_SHARE``), or others do so lower (``BELOW_SHARE``): a table is not
    the ground."""
    distance, voxel = surface.distance, surface.grid.voxel_size
    low, high = distance[:-1], distance[1:]
    with np.errstate(invalid="ignore"):
        up = (low <= 0) & (high > 0)
    levels = np.broadcast_to(surface.grid.axes()[2][:-1, None, None], up.shape)[up]
    heights = levels + voxel * -low[up] / (high[up] - low[up])
    if len(heights) == 0:
        return None
    bins = np.floor((heights - heights.min()) / (voxel / 4)).astype(int)
    counts = np.convolve(np.bincount(bins), np.ones(5), "same")
    mode = heights.min() + (int(np.argmax(counts)) + 0.5) * voxel / 4
    near = np.abs(heights - mode) < voxel
    if near.sum() < GROUND_SHARE * up.any(axis=0).sum():
        return None
    if (heights < mode - 2 * voxel).sum() > BELOW_SHARE * len(heights):
        return None
    return float(np.median(heights[near]))


def _median_colour(
    evidence: list[Evidence], wanted: np.ndarray
) -> tuple[Float[np.ndarray, "z y x 3"], np.ndarray]:
    """Per wanted voxel the median colour of the instants at which it was occupied, and whether
    there was one."""
    instants = np.unique(np.linspace(0, len(evidence) - 1, COLOUR_INSTANTS).round().astype(int))
    chosen = [evidence[i] for i in instants]
    place = np.cumsum(wanted.ravel()) - 1
    stack = np.full((len(chosen), int(wanted.sum()), 3), np.nan, dtype=np.float32)
    for i, instant in enumerate(chosen):
        occupied = instant.occupied
        both = wanted[occupied]
        stack[i, place[(occupied & wanted).ravel()]] = instant.colours[both]
    seen = ~np.isnan(stack[..., 0]).all(axis=0)
    colour = np.zeros((*wanted.shape, 3), dtype=np.float32)
    known = np.zeros(wanted.shape, dtype=bool)
    known[wanted] = seen
    colour[known] = np.nanmedian(stack[:, seen], axis=0) / 255
    return colour, known


def _spread(colour: np.ndarray, known: np.ndarray) -> Float[np.ndarray, "z y x 3"]:
    """``colour``, with every voxel that is not ``known`` given its nearest known one's."""
    if not known.any():
        return colour
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return colour[tuple(nearest)]


@dataclass(frozen=True, eq=False)
class _Pixels:
    """Points (m) beyond the grid, where the rays of pixels without depth meet the ground (NaN where
    they do not), and their colours (0..255)."""

    points: Float[np.ndarray, "n 3"]
    colours: Float[np.ndarray, "n 3"]
    landed: Float[np.ndarray, "m 3"]
    far_colours: Float[np.ndarray, "m 3"]


def _beyond(recording: Recording, grid: Grid, height: float | None) -> _Pixels:
    """From a sample of the recording's pixels: those whose points lie beyond the grid, and those
    far from any depth (not the holes at edges of things)."""
    chosen = np.unique(np.linspace(0, len(recording.frames) - 1, OUTSIDE_VIEWS).round().astype(int))
    points, colours, landed, far_colours = [], [], [], []
    for index in chosen:
        view = recording.view(int(index))
        step = max(1, view.depth.shape[1] // OUTSIDE_COLUMNS)
        depth, colour = view.depth[::step, ::step], view.colour[::step, ::step].astype(np.float32)
        eye, rays = view.camera.centre, view.camera.directions()[::step, ::step]
        seen = depth > 0
        world = eye + rays[seen] * depth[seen, None].astype(np.float64)
        beyond = ((world < grid.lower) | (world >= grid.upper)).any(axis=1)
        points.append(world[beyond])
        colours.append(colour[seen][beyond])
        none = ~ndimage.maximum_filter(seen, 5)
        far_colours.append(colour[none])
        ray = rays[none]
        down = (ray[:, 2] < 0) & (height is not None and eye[2] > height)
        at = np.full(len(ray), np.nan)
        at[down] = ((height or 0.0) - eye[2]) / ray[down, 2]
        landed.append(eye + ray * at[:, None])
    return _Pixels(*(np.concatenate(x) for x in (points, colours, landed, far_colours)))


def _outside(recording: Recording, grid: Grid, height: float | None) -> Outside:
    """Points beyond the grid as a coarse volume, the ground as far as any side shows it, and the
    colour of the pixels that neither explains."""
    pixels = _beyond(recording, grid, height)
    points, colours = pixels.points, pixels.colours
    low = points[:, 2] < (-np.inf if height is None else height + 0.5 * COARSER * grid.voxel_size)
    ground, ground_colours = points[low], colours[low]
    sky = np.isnan(pixels.landed[:, 0])
    if low.any():
        sky |= ~_like(pixels.far_colours, ground_colours)
        ground = np.concatenate([ground, pixels.landed[~sky]])
        ground_colours = np.concatenate([ground_colours, pixels.far_colours[~sky]])
    coarse = _around(grid, points[~low], ground, height)
    rgba = _mean_colours(points[~low], colours[~low], coarse)
    if height is not None and len(ground):
        _lay_ground(rgba, coarse, grid, height, ground, ground_colours)
    none = next((c for c in (pixels.far_colours[sky], colours) if len(c)), np.full((1, 3), 127))
    far = torch.from_numpy((none.mean(axis=0) / 255).astype(np.float32))
    return Outside(Volume(torch.from_numpy(rgba), coarse), far)


def _like(
    colours: Float[np.ndarray, "n 3"], known: Float[np.ndarray, "k 3"]
) -> Bool[np.ndarray, " n"]:
    """Which colours are no farther from the median of the ``known`` than most of those are."""
    middle = np.median(known, axis=0)
    off, usual = (np.abs(c - middle).max(axis=1) for c in (colours, known))
    return off <= np.quantile(usual, USUAL)


def _around(
    grid: Grid, points: Float[np.ndarray, "n 3"], ground: Float[np.ndarray, "m 3"],
    height: float | None,
) -> Grid:  # fmt: skip
    """The coarse grid that holds ``grid``, the points, and of the ground a square around it."""
    lower, upper = grid.lower, grid.upper
    if len(points):
        lower = np.minimum(lower, np.quantile(points, 0.01, axis=0))
        upper = np.maximum(upper, np.quantile(points, 0.99, axis=0))
    voxel = COARSER * grid.voxel_size
    if height is not None and len(ground):
        middle = (grid.lower + grid.upper)[:2] / 2
        reach = np.quantile(np.abs(ground[:, :2] - middle).max(axis=1), 0.99)
        lower[:2] = np.minimum(lower[:2], middle - reach)
        upper[:2] = np.maximum(upper[:2], middle + reach)
        voxel = max(voxel, float((upper - lower).max()) / REACH)
        lower[2] = min(lower[2], height - 3 * voxel)
    voxel = max(voxel, float((upper - lower).max()) / REACH)
    counts = np.ceil((upper - lower) / voxel).astype(int) + 1
    x, y, z = (float(v) for v in lower)
    return Grid((x, y, z), voxel, (int(counts[2]), int(counts[1]), int(counts[0])))


def _mean_colours(
    points: Float[np.ndarray, "n 3"], colours: Float[np.ndarray, "n 3"], grid: Grid
) -> Float[np.ndarray, "4 z y x"]:
    """Mean colours (0..1) of the points in each voxel; occupied where there is one."""
    total, count = np.zeros((*grid.shape, 3)), np.zeros(grid.shape)
    cell = np.floor(grid.voxel_from_world(points)).astype(int)[:, ::-1]
    inside = ((cell >= 0) & (cell < grid.shape)).all(axis=1)
    index = tuple(cell[inside].T)
    np.add.at(total, index, colours[inside])
    np.add.at(count, index, 1)
    mean = np.moveaxis(total / np.maximum(count, 1)[..., None] / 255, -1, 0)
    return np.concatenate([mean, (count > 0)[None]]).astype(np.float32)


def _lay_ground(
    rgba: Float[np.ndarray, "4 z y x"], coarse: Grid, inner: Grid, height: float,
    ground: Float[np.ndarray, "m 3"], colours: Float[np.ndarray, "m 3"],
) -> None:  # fmt: skip
    """Fills (in place) what lies below ``height`` and not deep within the ``inner`` grid; colours
    are the mean of what was seen in each column, or of all of them."""
    nz, ny, nx = coarse.shape
    flat = Grid(coarse.origin[:2] + (0.0,), coarse.voxel_size, (1, ny, nx))
    seen = _mean_colours(ground * [1, 1, 0], colours, flat)[:, 0]
    unknown = seen[3] == 0
    seen[:3, unknown] = seen[:3, ~unknown].mean(axis=1)[:, None]
    above = (coarse.axes()[2] - height) / coarse.voxel_size + GRAZING
    full = np.clip(0.5 - above, 0, 1)[:, None, None]
    middle, reach = (inner.lower + inner.upper) / 2, inner.size_m / 2 - coarse.voxel_size
    deep = (np.abs(coarse.centres() - middle) < reach).all(axis=-1)
    take = (full > rgba[3]) & ~deep
    rgba[:3, take] = np.broadcast_to(seen[:3, None], (3, nz, ny, nx))[:, take]
    rgba[3, take] = np.broadcast_to(full, coarse.shape)[take]
