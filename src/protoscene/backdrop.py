"""What stays → the background's colours and occupancy, and what lies outside of its grid."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage

from protoscene.background import Static
from protoscene.geometry import Grid
from protoscene.recording import Recording
from protoscene.volume import Background, Evidence, Outside, Volume

COLOUR_INSTANTS = 32
"""Instants (evenly chosen) of which a background voxel's colour is the median."""
COARSER = 4
"""Voxel size outside of the grid, in the grid's."""
OUTSIDE_VIEWS, OUTSIDE_COLUMNS = 40, 160
"""Pictures (evenly chosen), and columns of each, that what lies outside is taken from."""
REACH = 64
"""Most voxels outside of the grid along a side."""


def backdrop(recording: Recording, evidence: list[Evidence], static: Static) -> Background:
    """The static surface as a volume: occupancy falls from 1 to 0 over one voxel around it, what
    was never seen is empty; colour is the median over time. Outside: a coarse volume of the points
    beyond the grid, and the mean colour of the pixels that no depth explains."""
    surface = static.surface
    occupancy = np.clip(0.5 - surface.distance / surface.grid.voxel_size, 0, 1)
    occupancy[np.isnan(surface.distance)] = 0
    colour = _spread(*_median_colour(evidence, occupancy > 0))
    rgba = np.concatenate([np.moveaxis(colour, -1, 0), occupancy[None]]).astype(np.float32)
    return Background(
        Volume(torch.from_numpy(rgba), surface.grid), _outside(recording, surface.grid)
    )


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


def _outside(recording: Recording, grid: Grid) -> Outside:
    """From a sample of the recording's pixels: those whose points lie beyond the grid, and those
    far from any depth (not the holes at edges of things)."""
    chosen = np.unique(np.linspace(0, len(recording.frames) - 1, OUTSIDE_VIEWS).round().astype(int))
    points, colours, sky = [], [], []
    for index in chosen:
        view = recording.view(int(index))
        step = max(1, view.depth.shape[1] // OUTSIDE_COLUMNS)
        depth, colour = view.depth[::step, ::step], view.colour[::step, ::step].astype(np.float32)
        seen = depth > 0
        rays = view.camera.directions()[::step, ::step][seen]
        world = view.camera.centre + rays * depth[seen, None].astype(np.float64)
        beyond = ((world < grid.lower) | (world >= grid.upper)).any(axis=1)
        points.append(world[beyond])
        colours.append(colour[seen][beyond])
        sky.append(colour[~ndimage.maximum_filter(seen, 5)])
    world, colour, none = (np.concatenate(x) for x in (points, colours, sky))
    if len(none) == 0:
        none = colour if len(colour) else np.full((1, 3), 127, dtype=np.float32)
    volume = _coarse(world, colour, grid)
    return Outside(volume, torch.from_numpy((none.mean(axis=0) / 255).astype(np.float32)))


def _coarse(world: np.ndarray, colour: np.ndarray, grid: Grid) -> Volume:
    """Mean colours of points on a coarse grid around ``grid``; occupied where a point lies."""
    lower, upper = grid.lower, grid.upper
    if len(world):
        lower = np.minimum(lower, np.quantile(world, 0.01, axis=0))
        upper = np.maximum(upper, np.quantile(world, 0.99, axis=0))
    voxel = max(COARSER * grid.voxel_size, float((upper - lower).max()) / REACH)
    counts = np.ceil((upper - lower) / voxel).astype(int) + 1
    x, y, z = (float(v) for v in lower)
    coarse = Grid((x, y, z), voxel, (int(counts[2]), int(counts[1]), int(counts[0])))
    total, count = np.zeros((*coarse.shape, 3)), np.zeros(coarse.shape)
    if len(world):
        cell = np.floor(coarse.voxel_from_world(world)).astype(int)
        inside = ((cell >= 0) & (cell < counts)).all(axis=1)
        index = tuple(cell[inside, ::-1].T)
        np.add.at(total, index, colour[inside])
        np.add.at(count, index, 1)
    rgba = np.zeros((4, *coarse.shape), dtype=np.float32)
    rgba[:3] = np.moveaxis(total / np.maximum(count, 1)[..., None] / 255, -1, 0)
    rgba[3] = count > 0
    return Volume(torch.from_numpy(rgba), coarse)
