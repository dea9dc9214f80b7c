"""The dictionaries of several scenes → one: what is alike in them shares a prototype."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.ndimage import distance_transform_edt, map_coordinates
from torch import Tensor

from protoscene.dictionary.portrait import VOXELS, Portrait, around, of_model
from protoscene.dictionary.share import clusters, compared, frames_from
from protoscene.geometry import Grid, rotation_from_yaw
from protoscene.observe import Progress
from protoscene.prototypes import VoxelPrototypes
from protoscene.register import Model
from protoscene.scene import Scene
from protoscene.shape import CONFIDENT, INWARD, surface_points

SURE = 0.999
"""No confidence counts as more: float16 does not tell it from 1."""
REACH = 3.0
"""Distances are limited to so many voxels before their mean is taken."""


@dataclass(frozen=True, eq=False)
class Merged:
    """One dictionary for several scenes.

    ``which[s][k]`` is the shared prototype of scene s's prototype k; ``frames[s][k]`` is the pose
    x y z yaw (m, rad) of the shared prototype's frame in the frame of the old one, so that objects
    go to ``portrait.placed(poses, frames[s][k])``. ``weights`` counts the objects of each shared
    prototype; ``sizes_m`` and ``confidence`` are as in :class:`protoscene.scene.Scene`.
    """

    prototypes: VoxelPrototypes
    sizes_m: tuple[tuple[float, float, float], ...]
    confidence: tuple[Tensor | None, ...]
    which: list[Int[np.ndarray, " _"]]
    frames: list[Float[np.ndarray, "_ 4"]]
    weights: Int[np.ndarray, " K"]


@dataclass(frozen=True, eq=False)
class _Entry:
    """A prototype of a scene, on its ``grid``: metres from its surface, colours everywhere, and
    how often each voxel was seen (``votes``)."""

    scene: int
    number: int
    size_m: tuple[float, float, float]
    rgba: Float[Tensor, "4 z y x"]
    confidence: Float[Tensor, "z y x"] | None
    grid: Grid
    distance: Float[np.ndarray, "z y x"]
    colour: Float[np.ndarray, "3 z y x"]
    votes: Float[np.ndarray, "z y x"]
    objects: int


def merge(scenes: Sequence[Scene], progress: Progress = lambda stage, done, total: None) -> Merged:
    """One dictionary over all prototypes of the ``scenes``, in the order of the first of each.

    Prototypes are compared by their volumes as :func:`share` compares things by their pictures;
    one without confidence counts as seen all around, above the ground. A shared prototype stands
    in the frame of its best seen member and is the mean of all, weighted by how often each voxel
    was seen.
    """
    entries = [
        _entry(s, scene, k) for s, scene in enumerate(scenes) for k in range(len(scene.prototypes))
    ]
    values, poses = compared([_portrait(entry) for entry in entries], progress)
    which = [np.zeros(len(scene.prototypes), dtype=np.int64) for scene in scenes]
    frames = [np.zeros((len(scene.prototypes), 4)) for scene in scenes]
    shared, roots, weights = [], [], []
    for n, members in enumerate(sorted(clusters(values), key=min)):
        root = max(members, key=lambda m: (_seen(entries[m]), -m))
        of_root = frames_from(root, members, values, poses)
        for m in members:
            which[entries[m].scene][entries[m].number] = n
            frames[entries[m].scene][entries[m].number] = of_root[m]
        members.sort(key=lambda m: m != root)
        shared.append(_fused([entries[m] for m in members], [of_root[m] for m in members]))
        roots.append(entries[root])
        weights.append(sum(entries[m].objects for m in members))
    return Merged(
        VoxelPrototypes([rgba for rgba, _ in shared], [e.grid.voxel_size for e in roots]),
        tuple(entry.size_m for entry in roots),
        tuple(confidence for _, confidence in shared),
        which, frames, np.array(weights, dtype=np.int64),
    )  # fmt: skip


def _entry(s: int, scene: Scene, k: int) -> _Entry:
    rgba, grid = scene.prototypes.rgba(k).detach().cpu().contiguous(), scene.prototypes.grid(k)
    confidence = scene.confidence[k] if scene.confidence else None
    if confidence is None:
        above = grid.axes()[2] > -scene.sizes_m[k][2] / 2
        votes = np.broadcast_to(above[:, None, None], grid.shape).astype(np.float64)
    else:
        votes = -CONFIDENT * np.log(1 - confidence.double().numpy().clip(0, SURE))
    distance, colour = _distance_and_colour(rgba.double().numpy(), votes == 0, grid.voxel_size)
    objects = sum(thing.prototype == k for thing in scene.objects)
    return _Entry(s, k, scene.sizes_m[k], rgba, confidence, grid, distance, colour, votes, objects)


def _distance_and_colour(
    rgba: Float[np.ndarray, "4 z y x"], unseen: Bool[np.ndarray, "z y x"], voxel: float
) -> tuple[Float[np.ndarray, "z y x"], Float[np.ndarray, "3 z y x"]]:
    """(metres from the surface, positive outside, within a voxel of it as the ramp of occupancy
    says; colours, those of the surface spread to where nothing is). What nobody saw is like what
    was seen next to it: behind a wall is inside of it."""
    colour, occupancy = rgba[:3], rgba[3]
    inside = occupancy > 0.5 - INWARD
    if not inside.any():
        return np.full(inside.shape, np.inf), colour
    outwards, nearest = distance_transform_edt(~inside, return_indices=True)
    inwards = distance_transform_edt(inside | unseen)
    seen = distance_transform_edt(unseen, return_distances=False, return_indices=True)
    steps = np.where(inside[tuple(seen)], 0.5 - inwards, outwards - 0.5)
    ramp = ~unseen & (occupancy > 0) & (occupancy < 1)
    distance = voxel * np.where(ramp, 0.5 - INWARD - occupancy, steps)
    return distance, colour[(slice(None), *nearest)]


def _seen(entry: _Entry) -> float:
    """Square metres of the surface that were seen, each as surely as it was."""
    voxel = entry.grid.voxel_size
    at_surface = np.abs(entry.distance) < voxel
    return float((1 - np.exp(-entry.votes[at_surface] / CONFIDENT)).sum()) * voxel**2 / 2


def _sampled(
    entry: _Entry, points: Float[np.ndarray, "*n 3"], reach: float
) -> tuple[Float[np.ndarray, "*n"], Float[np.ndarray, "4 *n"], Float[np.ndarray, "*n"]]:
    """(distance, at most ``reach`` either way; rgba; votes) at points of the entry's own frame.
    What lies beyond its grid is empty, and was seen as the grid's edge was."""
    at = entry.grid.index_from_world(points)[..., ::-1]
    within = at.clip(0, np.array(entry.grid.shape) - 1)
    beyond = entry.grid.voxel_size * np.linalg.norm(at - within, axis=-1)
    where = np.moveaxis(within, -1, 0)
    limited = entry.distance.clip(-reach, reach)
    distance = (map_coordinates(limited, where, order=1) + beyond).clip(-reach, reach)
    channels = [*entry.colour, entry.rgba[3].double().numpy()]
    rgba = np.stack([map_coordinates(channel, where, order=1) for channel in channels])
    rgba[3] = np.where(beyond > 0, 0.0, rgba[3])
    return distance, rgba, entry.votes[tuple(np.rint(where).astype(int))]


def _portrait(entry: _Entry) -> Portrait:
    """As coarse as a portrait made from pictures."""
    dims = np.array(entry.size_m)
    voxel = max(float(dims.max()) / VOXELS, entry.grid.voxel_size)
    grid, truncation = around(dims, voxel), max(4 * voxel, 0.03)
    distance, rgba, votes = _sampled(entry, grid.centres(), truncation)
    coloured = np.where(np.abs(distance) < 1.5 * voxel, votes, 0.0)
    model = Model(grid, truncation, distance, votes, np.moveaxis(rgba[:3], 0, -1), coloured)
    return of_model(model, dims, surface_points(model))


def _fused(
    entries: Sequence[_Entry], frames: Sequence[Float[np.ndarray, "4"]]
) -> tuple[Tensor, Tensor | None]:
    """(rgba, confidence) on the grid of the first entry, whose frame stands at ``frames`` in each
    one's own; what is alone stays as it is. Where somebody saw, the mean of signed distances and
    colours weighted by how often; elsewhere the plain mean of what all have there."""
    first = entries[0]
    if len(entries) == 1:
        return first.rgba, first.confidence
    points, voxel = first.grid.centres(), first.grid.voxel_size
    seen, guessed = np.zeros((2, 4, *first.grid.shape))
    votes = np.zeros(first.grid.shape)
    for entry, frame in zip(entries, frames, strict=True):
        own = points @ rotation_from_yaw(frame[3]).T + frame[:3]
        distance, rgba, often = _sampled(entry, own, REACH * voxel)
        seen += often * np.concatenate([rgba[:3], distance[None]])
        guessed += rgba / len(entries)
        votes += often
    seen /= np.maximum(votes, 1e-9)
    seen[3] = (0.5 - INWARD - seen[3] / voxel).clip(0, 1)
    mean = torch.from_numpy(np.where(votes > 0, seen, guessed)).float()
    if any(entry.confidence is None for entry in entries):
        return mean, None
    return mean, torch.from_numpy(1 - np.exp(-votes / CONFIDENT)).float()
