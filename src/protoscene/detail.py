"""What stands on the ground and never moves, on finer voxels than the scene's grid; without a
ground, all that never moves."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage

from protoscene.background import Static, subtract
from protoscene.crops import OTHER, OWN, Crops
from protoscene.geometry import Grid
from protoscene.observe import camera_arrays
from protoscene.recording import Recording
from protoscene.register import Fusion, Model
from protoscene.volume import Volume

FINER = 4
"""Voxels of the grid are divided by this, or by less where that would be too many."""
LEAST_FINER = 1.25
"""Less is not worth a volume of its own."""
MOST_VOXELS, SLAB_VOXELS = 4_000_000, 1_000_000
"""Of all finer volumes together (64 MB), and of what is fused at once."""
PICTURES = 48
"""Pictures (evenly chosen) that are fused."""
LEAST_VOXELS = 4
"""What stands on fewer voxels of the grid is noise."""
RIM = 2
"""Pixels around what passes by that do not count."""
INWARD = 0.15
"""How far (voxels) the middle of a surface's ramp lies within it: rays that do not meet it head on
are stopped early."""
AROUND = 1.5
"""Voxels of the grid around what stands."""


def fine_volumes(
    recording: Recording, static: Static, coarse: Volume, height: float | None
) -> tuple[Volume, ...]:
    """A volume for each connected part of ``coarse`` that stands above the ground at ``height``
    (m), down to the bottom of the grid; one of everything where no ground is known. Fused (signed
    distance, mean colour) from the pixels that the static surface explains; what nobody saw is as
    in ``coarse``. Empty where there is nothing, or too much for finer voxels."""
    if height is None:
        grids = [coarse.grid] if bool((coarse.occupancy > 0.5).any()) else []
    else:
        above = coarse.grid.axes()[2][:, None, None] - height
        standing = (coarse.occupancy.numpy() > 0.5) & (above > coarse.grid.voxel_size)
        grids = _parts(coarse.grid, standing)
    finer = _finer(grids, whole=height is None)
    if finer is None:
        return ()
    pictures = static_pictures(recording, static)
    fine = [g.resampled(g.voxel_size / finer) for g in grids]
    return tuple(Volume(torch.from_numpy(_fused(pictures, grid, coarse)), grid) for grid in fine)


def _finer(grids: list[Grid], whole: bool) -> float | None:
    """By what to divide the grids' voxels: a whole number for parts of one grid."""
    if not grids:
        return None
    most = min(float(FINER), (MOST_VOXELS / sum(g.n_voxels for g in grids)) ** (1 / 3))
    most = most if whole else float(np.floor(most))
    return most if most >= LEAST_FINER else None


def _fused(pictures: Crops, grid: Grid, coarse: Volume) -> Float[np.ndarray, "4 z y x"]:
    """Slab by slab, as fusing takes many times the memory of its result."""
    truncation = max(4 * grid.voxel_size, 0.03)
    nz, ny, nx = grid.shape
    thick = max(1, SLAB_VOXELS // (nz * nx))
    slabs = []
    for y in range(0, ny, thick):
        slab = grid.cropped((0, y, 0), (nz, min(y + thick, ny), nx))
        model = Fusion(pictures, slab, truncation).add(np.zeros((1, 4)), np.ones(1, bool)).model()
        slabs.append(_rgba(model, coarse))
    return np.concatenate(slabs, axis=2)


def _parts(grid: Grid, standing: np.ndarray) -> list[Grid]:
    """The part of the grid around each connected part, and below it."""
    labels, _ = ndimage.label(standing, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())
    parts = []
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None or sizes[label] < LEAST_VOXELS:
            continue
        first = np.array([0, *(max(int(s.start - np.ceil(AROUND)), 0) for s in box[1:])])
        last = [min(int(s.stop + np.ceil(AROUND)), n) for s, n in zip(box, grid.shape, strict=True)]
        parts.append(grid.cropped(first, last))
    return parts


def static_pictures(recording: Recording, static: Static) -> Crops:
    """Whole pictures whose own pixels are those of what stays, as fusion reads them."""
    chosen = np.unique(np.linspace(0, len(recording.frames) - 1, PICTURES).round().astype(int))
    views = [recording.view(int(i)) for i in chosen]
    window, labels, offset = [], [], 0
    for view in views:
        # At the rim of what passes, a pixel is a bit of it before it is told from what stays.
        passing = ndimage.binary_dilation(subtract([view], static)[0] > 0, iterations=RIM)
        labels.append(np.where(passing, OTHER, OWN).astype(np.uint8).ravel())
        window.append([0, 0, 0, *view.depth.shape, offset])
        offset += view.depth.size
    pose, pinhole = camera_arrays([v.camera for v in views])
    return Crops(
        np.array(window), pose, pinhole, np.concatenate([v.depth.ravel() for v in views]),
        np.concatenate(labels), np.concatenate([v.colour.reshape(-1, 3) for v in views]),
        np.zeros(2, dtype=int), np.zeros((0, 3)), np.zeros((0, 3)), static.noise,
    )  # fmt: skip


def _rgba(model: Model, coarse: Volume) -> Float[np.ndarray, "4 z y x"]:
    """Occupancy falls from 1 to 0 over a voxel around the surface, ``INWARD`` of it, and is
    ``coarse``'s where nobody looked; colours spread from the nearest that was seen."""
    grid = model.grid
    occupancy = np.clip(0.5 - INWARD - model.distance / grid.voxel_size, 0, 1)
    unseen = model.votes == 0
    place = coarse.grid.index_from_world(grid.centres()[unseen])[:, ::-1]
    occupancy[unseen] = ndimage.map_coordinates(
        coarse.occupancy.numpy(), place.T, order=1, mode="nearest"
    )
    seen, colour = model.coloured > 0, model.colour
    if seen.any():
        nearest = ndimage.distance_transform_edt(~seen, return_distances=False, return_indices=True)
        colour = colour[tuple(nearest)]
    return np.concatenate([np.moveaxis(colour, -1, 0), occupancy[None]]).astype(np.float32)
