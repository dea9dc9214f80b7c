"""How far found shapes are off: occupancy where nothing is, and surface that is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

from protoscene.geometry import rotation_from_yaw
from protoscene.matching import Matches
from protoscene.prototypes import VoxelPrototypes
from protoscene.scene import SceneObject
from protoscene.volume import Volume

SURFACE = 0.5
"""The occupancy at which a volume's surface lies."""


@dataclass(frozen=True)
class ShapeError:
    """``inside``: share of the occupancy of matched objects (IoU ≥ .5) that lies inside the true
    box, at their instants; mean and worst over objects. What is missing from 1 is ghosts."""

    matched_objects: int
    inside: float
    inside_worst: float


def shape_error(
    matches: Matches, predicted: Sequence[SceneObject], prototypes: VoxelPrototypes
) -> ShapeError:
    """Ghosts of all matched objects that have any occupancy; NaN where there is none."""
    shares = [
        outside_shares(matches, i, predicted[i], prototypes).mean()
        for i in np.unique(matches.pairs[:, 1]).tolist()
    ]
    inside = [1 - float(share) for share in shares if not math.isnan(share)]
    if not inside:
        return ShapeError(0, math.nan, math.nan)
    return ShapeError(len(inside), float(np.mean(inside)), min(inside))


def outside_shares(
    matches: Matches, i: int, thing: SceneObject, prototypes: VoxelPrototypes, margin: float = 0.0
) -> Float[np.ndarray, " k"]:
    """Per matched instant of predicted object ``i`` (which is ``thing``): Σ occupancy of its
    prototype's voxels whose middles lie outside of the true box (grown by ``margin`` metres at
    every side), over Σ occupancy of all of them; NaN without occupancy."""
    grid = prototypes.grid(thing.prototype)
    occupancy = prototypes.rgba(thing.prototype)[-1].detach().double().numpy()
    own, mass = grid.centres()[occupancy > 0], occupancy[occupancy > 0]
    shares = []
    for found, true in matches.boxes[matches.pairs[:, 1] == i]:
        in_box = true_from_found(own * _scale(thing, found), found, true)
        beyond = (np.abs(in_box) > true[3:6] / 2 + margin).any(axis=1)
        shares.append(mass[beyond].sum() / mass.sum() if len(mass) else math.nan)
    return np.array(shares)


def covered_shares(
    matches: Matches,
    i: int,
    thing: SceneObject,
    prototypes: VoxelPrototypes,
    seen: Sequence[Float[np.ndarray, "n 3"]],
    within: float,
) -> Float[np.ndarray, " k"]:
    """Per matched instant of predicted object ``i`` (which is ``thing``): the share of the true
    object's points ``seen[j]`` (own frame, m) that lie within ``within`` metres of the
    prototype's surface, both placed as found and as true, so that errors of the pose count. NaN
    where no camera saw the true object."""
    volume = Volume(prototypes.rgba(thing.prototype), prototypes.grid(thing.prototype))
    surface = surface_points(volume)
    ours = matches.pairs[:, 1] == i
    if len(surface) == 0:
        return np.zeros(int(ours.sum()))
    tree, shares = KDTree(surface), []
    for (_, _, j), (found, true) in zip(matches.pairs[ours], matches.boxes[ours], strict=True):
        scale = _scale(thing, found)
        own = true_from_found(seen[j], true, found) / scale
        near = tree.query(own, distance_upper_bound=within / scale)[0] <= within / scale
        shares.append(near.mean() if len(near) else math.nan)
    return np.array(shares)


def true_from_found(
    points: Float[np.ndarray, "n 3"], found: Float[np.ndarray, "7"], true: Float[np.ndarray, "7"]
) -> Float[np.ndarray, "n 3"]:
    """Points (m) in the frame of one box x y z l w h yaw, in the frame of another."""
    world = points @ rotation_from_yaw(found[6]).T + found[:3]
    return (world - true[:3]) @ rotation_from_yaw(true[6])


def surface_points(volume: Volume) -> Float[np.ndarray, "n 3"]:
    """Points (m, frame of the grid) where occupancy crosses ``SURFACE`` between the middles of
    neighbouring voxels, linearly interpolated; beyond the grid it is 0."""
    first = np.array([middles[0] for middles in volume.grid.axes()])
    padded = np.pad(volume.occupancy.detach().double().numpy(), 1)
    points = []
    for axis in range(3):  # of the array: z y x
        low = np.moveaxis(padded, axis, 0)[:-1]
        high = np.moveaxis(padded, axis, 0)[1:]
        crossing = (low >= SURFACE) != (high >= SURFACE)
        index = np.stack(np.nonzero(crossing), axis=-1).astype(np.float64)
        index[:, 0] += (SURFACE - low[crossing]) / (high[crossing] - low[crossing])
        # nonzero counts from the moved axis on; back to z y x, then without the padding.
        back = np.insert(index[:, 1:], axis, index[:, 0], axis=1) - 1
        points.append(first + back[:, ::-1] * volume.grid.voxel_size)
    return np.concatenate(points)


def _scale(thing: SceneObject, found: Float[np.ndarray, "7"]) -> float:
    """The scale at which the object was placed: its box's length over that at scale 1."""
    return float(found[3] / thing.dims_m[0])
