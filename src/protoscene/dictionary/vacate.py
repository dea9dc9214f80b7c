"""The background without what was found again: what stood there goes, the ground goes on below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage
from scipy.spatial import KDTree

from protoscene.dictionary.find_again import Found
from protoscene.dictionary.portrait import NEAR, Portrait, look
from protoscene.dictionary.share import Kind
from protoscene.geometry import rotation_from_yaw
from protoscene.volume import Background, Volume

RIM_M = 0.025
"""Close to its outline free space eats into a thing by up to so much (m), or by a voxel."""
DEEP = 3
"""How far (voxels) down the ground is laid."""
MOSTLY, CRUMB, FOOT_M = 0.5, 0.05, 0.03
"""What stands there goes as a whole if so much of it is in the thing's box. Fuller voxels than this
are something, and higher above the ground than this (m) they are not the ground's."""
AROUND_M = 0.3
"""Ground within this of a thing's box gives the ground below it its colour."""
FAR_M, FARTHEST_M, COLOURS = 0.15, 0.6, 300
"""Ground from that far (m) from where a thing stood has the ground's colours, not the thing's; how
much farther is looked, and so many of them are compared with."""
SMOOTH = 200
"""Steps of averaging that carry colours from the rim of what nobody saw inwards."""


def vacated(background: Background, kinds: Sequence[Kind], found: Sequence[Found]) -> Background:
    """``background`` without the things ``found``: empty wherever a prototype's box is, but for
    what its kind saw to be free; of what reaches into that only what belongs to something else
    stays. Where a thing stood, and where what nobody saw has its colours, the ground goes on at the
    height that it has around, its colours carried inwards from there (a membrane: each the mean of
    its neighbours); where no ground is known around, nothing is laid."""
    volumes = [background.volume, *background.detail]
    for one in found:
        own = kinds[one.kind].portrait
        if own is not None:
            beyond = max(background.volume.grid.voxel_size, RIM_M)
            around = _ground_around(background.volume, own, one.pose)
            volumes = [_without(volume, own, one.pose, beyond, around) for volume in volumes]
    return replace(background, volume=volumes[0], detail=tuple(volumes[1:]))


def _ground_around(
    volume: Volume, own: Portrait, pose: Float[np.ndarray, "4"]
) -> Float[np.ndarray, "n 3"]:
    """Colours of open ground around a thing, too far from it (``FAR_M``) to have its own."""
    grid, rgba = volume.grid, volume.rgba.numpy()
    x, y, z = grid.axes()
    reach = float(np.hypot(own.dims[0], own.dims[1])) / 2 + FAR_M
    far = np.hypot(x - pose[0], y[:, None] - pose[1])
    ring = (far > reach) & (far < reach + FARTHEST_M)
    above = z - pose[2] - own.bottom
    above = (above - _rise(rgba[3], ~ring, above, grid.voxel_size)) / grid.voxel_size
    at = int(np.argmin(np.abs(above + 0.5)))
    ground = ring & (rgba[3, at] > 0.5) & (rgba[3, (above > 1) & (above < 3)] < 0.5).all(axis=0)
    colours = rgba[:3, at][:, ground].T
    return np.asarray(colours[:: max(1, len(colours) // COLOURS)])


def _without(
    volume: Volume, own: Portrait, pose: Float[np.ndarray, "4"], beyond: float,
    around: Float[np.ndarray, "n 3"],
) -> Volume:  # fmt: skip
    """``volume`` without the thing ``own`` at ``pose``, and its smear ``beyond`` its box (m), on
    ground of the colours ``around``."""
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
    within = (np.abs(points) <= own.dims / 2 + beyond).all(axis=-1)
    above = points[:, 0, 0, 2] - own.bottom
    above -= _rise(inside[3], within.any(axis=0), above, voxel)
    taken |= _standing(inside[3], within, taken, above, voxel)
    if not taken.any():
        return volume
    inside[3][taken] = 0
    _lay_ground(inside, taken, above / voxel, voxel, own.colours, around)
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


def _standing(
    occupancy: Float[np.ndarray, "z y x"], within: Bool[np.ndarray, "z y x"],
    taken: Bool[np.ndarray, "z y x"], above: Float[np.ndarray, " z"], voxel: float,
) -> Bool[np.ndarray, "z y x"]:  # fmt: skip
    """What stands there in one piece and hardly reaches out of the box (``within``), be it where
    the thing's kind is free or beyond its box: kinds and poses are known to some centimetres.
    Close to the ground, all in the box that is near what was taken."""
    high = above > max(voxel, FOOT_M)
    full = occupancy > CRUMB
    labels, n = ndimage.label(full & high[:, None, None], np.ones((3, 3, 3)))
    share = ndimage.mean(within, labels, np.arange(n + 1)) if n else np.zeros(1)
    its = (np.asarray(share) >= MOSTLY)[labels] & (labels > 0)
    foot = ndimage.binary_dilation((its | taken).any(axis=0), iterations=2)
    low = ((above > 0) & ~high)[:, None, None]
    return np.asarray(its | (full & low & within & foot))


def _lay_ground(
    rgba: Float[np.ndarray, "4 z y x"], taken: Bool[np.ndarray, "z y x"],
    above: Float[np.ndarray, " z"], voxel: float, colours: Float[np.ndarray, "n 3"],
    around: Float[np.ndarray, "m 3"],
) -> None:  # fmt: skip
    """Lays (in place) the ground where the thing stood, and where it has the thing's ``colours``
    rather than those ``around``; ``above`` is how many voxels each layer lies above it."""
    low = (above > 0) & (above < 2)
    at = int(np.argmin(np.abs(above + 0.5)))
    if not low.any():
        return
    stood = ndimage.binary_dilation(
        taken[low].any(axis=0), iterations=max(1, round(FOOT_M / voxel))
    )
    bare = (rgba[3, (above > 1) & (above < 3)] < 0.5).all(axis=0)
    open_ground = (rgba[3, at] > 0.5) & bare
    stood |= open_ground & _tinged(rgba[:3, at], colours, around)
    stood &= bare
    known = open_ground & ~stood
    if known.any():
        colour = _membrane(rgba[:3, at], known)
    elif len(around):
        colour = np.broadcast_to(np.median(around, axis=0)[:, None, None], rgba[:3, at].shape)
    else:
        return
    rgba[3, low] = np.where(stood, 0, rgba[3, low])
    for k in np.nonzero((above < 1) & (above > -DEEP))[0]:
        rgba[3, k][stood] = np.clip(0.5 - above[k], 0, 1)
        rgba[:3, k][:, stood] = colour[:, stood]


def _membrane(
    colour: Float[np.ndarray, "3 y x"], known: Bool[np.ndarray, "y x"]
) -> Float[np.ndarray, "3 y x"]:
    """``colour`` where it is ``known``, carried inwards elsewhere: each the mean of its
    neighbours, from the nearest known one on."""
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    colour = colour[:, nearest[0], nearest[1]]
    for _ in range(SMOOTH):
        around = np.pad(colour, ((0, 0), (1, 1), (1, 1)), mode="edge")
        mean = (
            around[:, :-2, 1:-1] + around[:, 2:, 1:-1]
            + around[:, 1:-1, :-2] + around[:, 1:-1, 2:]
        ) / 4  # fmt: skip
        colour = np.where(known, colour, mean)
    return colour


def _rise(
    occupancy: Float[np.ndarray, "z y x"], within: Bool[np.ndarray, "y x"],
    above: Float[np.ndarray, " z"], voxel: float,
) -> float:  # fmt: skip
    """How much higher (m) than the thing's bottom the ground around it is (median): a thing's
    lowest centimetres look like ground to who tracked it."""
    close = np.nonzero(np.abs(above) < max(voxel, 2 * FOOT_M))[0]
    if len(close) == 0:
        return 0.0
    part = occupancy[close]
    open_ground = (part[0] > 0.5) & (part[-1] < 0.5) & ~within
    if not open_ground.any():
        return 0.0
    lowest = above[close[0]] - voxel / 2
    return float(np.median(lowest + voxel * part.sum(axis=0)[open_ground]))


def _tinged(
    colour: Float[np.ndarray, "3 y x"], own: Float[np.ndarray, "n 3"],
    around: Float[np.ndarray, "m 3"],
) -> Bool[np.ndarray, "y x"]:  # fmt: skip
    """Where a colour is the thing's ``own`` rather than one ``around``: nobody saw that ground, and
    what was nearest to it gave it its colour."""
    own, asked = own[~np.isnan(own).any(axis=1)], np.moveaxis(colour, 0, -1)
    if len(own) == 0 or len(around) == 0:
        return np.zeros(colour.shape[1:], dtype=bool)
    tinged = KDTree(own).query(asked)[0] < KDTree(around).query(asked)[0]
    return np.asarray(ndimage.binary_dilation(tinged, iterations=2))
