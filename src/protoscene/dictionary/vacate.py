"""The background without what was found again: what stood there goes, the ground goes on below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from protoscene.dictionary.find_again import Found
from protoscene.dictionary.portrait import NEAR, Portrait, look
from protoscene.dictionary.share import Kind
from protoscene.geometry import rotation_from_yaw
from protoscene.volume import Background, Volume

RIM_M = 0.025
"""Close to its outline free space eats into a thing by up to so much (m), or by a voxel."""
DEEP = 3
"""How far (voxels) down the ground is laid."""
AROUND_M = 0.3
"""Ground within this of a thing's box gives the ground below it its colour."""
SMOOTH = 200
"""Steps of averaging that carry colours from the rim of what nobody saw inwards."""


def vacated(background: Background, kinds: Sequence[Kind], found: Sequence[Found]) -> Background:
    """``background`` without the things ``found``: empty wherever a prototype's box is, but for
    what its kind saw to be free. Where a thing stood the ground goes on at the height of its
    bottom, its colours carried inwards from around (a membrane: each the mean of its neighbours);
    where no ground is known around, nothing is laid."""
    volumes = [background.volume, *background.detail]
    for one in found:
        own = kinds[one.kind].portrait
        if own is not None:
            beyond = max(background.volume.grid.voxel_size, RIM_M)
            volumes = [_without(volume, own, one.pose, beyond) for volume in volumes]
    return replace(background, volume=volumes[0], detail=tuple(volumes[1:]))


def _without(volume: Volume, own: Portrait, pose: Float[np.ndarray, "4"], beyond: float) -> Volume:
    """``volume`` without the thing ``own`` at ``pose``, and its smear ``beyond`` its box (m)."""
    grid, voxel = volume.grid, volume.grid.voxel_size
    reach = float(np.hypot(own.dims[0], own.dims[1])) / 2 + AROUND_M
    half = np.array([reach, reach, own.dims[2] / 2 + (DEEP + 1) * voxel])
    ends = grid.voxel_from_world(np.stack([pose[:3] - half, pose[:3] + half]))[:, ::-1]
    first = np.clip(np.floor(ends[0]).astype(int), 0, grid.shape)
    last = np.clip(np.ceil(ends[1]).astype(int), 0, grid.shape)
    if (last <= first).any():
        return volume
    window = (slice(None), *(slice(a, b) for a, b in zip(first, last, strict=True)))
    part = grid.cropped(first, last)
    rgba = volume.rgba.clone()
    inside = rgba[window].numpy()
    points = (part.centres() - pose[:3]) @ rotation_from_yaw(pose[3])
    taken = _taken(own, points, voxel, beyond)
    if not taken.any():
        return volume
    inside[3][taken] = 0
    above = points[:, 0, 0, 2] - own.bottom
    _lay_ground(inside, taken, above / voxel)
    return Volume(rgba, grid)


def _taken(
    own: Portrait, points: Float[np.ndarray, "z y x 3"], voxel: float, beyond: float
) -> Bool[np.ndarray, "z y x"]:
    """Which points (the kind's frame) are the thing's: in its box, grown by a voxel of the
    scene, and not where it is known to be free, nor ``RIM_M`` from there."""
    within = (np.abs(points) <= own.dims / 2 + beyond).all(axis=-1)
    distance, known, _ = look(own.model, points)
    free = min(max(beyond, NEAR * own.model.grid.voxel_size), 0.9 * own.model.truncation)
    rim = max(1, round(RIM_M / voxel))
    its = ndimage.binary_dilation(within & ~(known & (distance > free)), iterations=rim)
    return np.asarray(its & within)


def _lay_ground(
    rgba: Float[np.ndarray, "4 z y x"], taken: Bool[np.ndarray, "z y x"],
    above: Float[np.ndarray, " z"],
) -> None:  # fmt: skip
    """Lays (in place) the ground where the thing stood; ``above`` is how many voxels each layer
    lies above it."""
    low = (above > 0) & (above < 2)
    at = int(np.argmin(np.abs(above + 0.5)))
    if not low.any():
        return
    stood = taken[low].any(axis=0)
    open_ground = (rgba[3, at] > 0.5) & (rgba[3, (above > 1) & (above < 3)] < 0.5).all(axis=0)
    known = open_ground & ~stood
    if not known.any():
        return
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    colour = rgba[:3, at][:, nearest[0], nearest[1]]
    for _ in range(SMOOTH):
        around = np.pad(colour, ((0, 0), (1, 1), (1, 1)), mode="edge")
        mean = (
            around[:, :-2, 1:-1] + around[:, 2:, 1:-1]
            + around[:, 1:-1, :-2] + around[:, 1:-1, 2:]
        ) / 4  # fmt: skip
        colour = np.where(known, colour, mean)
    for k in np.nonzero((above < 1) & (above > -DEEP))[0]:
        rgba[3, k][stood] = np.clip(0.5 - above[k], 0, 1)
        rgba[:3, k][:, stood] = colour[:, stood]
