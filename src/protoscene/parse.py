"""A recording in which nothing moves in, a scene of things out: what stands is covered by parts,
parts are grouped into things, things of a kind share a prototype."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from protoscene.backdrop import backdrop
from protoscene.background import estimate_background
from protoscene.crops import Crops
from protoscene.detail import PICTURES
from protoscene.dictionary import Found, Kind, alone, share, vacated
from protoscene.dictionary.find_again import LEAST, SEEN, verdict
from protoscene.dictionary.portrait import Portrait, portrait
from protoscene.discover import grid_that_fits, scene_of
from protoscene.geometry import centred_grid
from protoscene.grouping import grouped
from protoscene.observe import Progress, observe
from protoscene.recording import Recording
from protoscene.register import Fusion, misfit, total_misfit
from protoscene.scene import Scene
from protoscene.shape import finish
from protoscene.standing import Standing, floor_of, pictures_of, standing
from protoscene.start import Thing
from protoscene.undersides import opened
from protoscene.volume import Evidence

ONLY = np.ones(1, dtype=bool)
"""All pictures are one instant."""
MODEL_VOXELS = 40
"""Voxels along a thing's longest side when it is first fused."""


def parse(
    recording: Recording,
    voxel_size: float | None = None,
    bounds: tuple[float, float, float, float, float, float] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Scene:
    """Background, things that stand and their prototypes, from posed RGB-D in which nothing moves.

    ``voxel_size`` (m) and ``bounds`` (x0 y0 z0 x1 y1 z1, m) of the grid are chosen from the data
    when left out. Nothing is drawn at random: ``seed`` is only written down.
    ``progress(stage, done, total)`` is called as the work goes on. Every object stands at one pose
    at all instants. Raises Refused for a recording without pictures or depth, whose units or
    conventions contradict its pictures, or whose grid does not fit into memory.
    """
    progress = progress or (lambda stage, done, total: None)
    recording.require_pictures()
    grid = grid_that_fits(recording, voxel_size, bounds)
    made_by: dict[str, str | int] = {
        "command": "parse", "seed": seed, "recording_sha256": recording.sha256,
    }  # fmt: skip

    evidence = observe(recording, grid, progress)
    static = estimate_background(recording, grid, progress)
    background = backdrop(recording, evidence, static)
    found = standing(recording, static, floor_of(static.surface))
    labels = grouped(found, progress)
    pictures = pictures_of(recording, static, found, labels, _instants(recording), progress)
    things, seen = [], []
    for done, (label, crops) in enumerate(pictures.items()):
        thing = thing_of(crops)
        if thing is not None:
            things.append(thing)
            seen.append(_visible(found, labels == label, evidence))
        progress("shape", done + 1, len(pictures))
    kinds = share(things, progress)
    kinds, objects = placed_things(kinds, seen)
    background = vacated(background, kinds, objects)
    kinds = [replace(_opened(kind), members=(), things=()) for kind in kinds]
    return scene_of(kinds, objects, background, recording.times, made_by)


def _instants(recording: Recording) -> list[int]:
    """Instants, evenly chosen, of at most ``PICTURES`` pictures together."""
    views = max(len(recording.frames_at(i)) for i in range(len(recording)))
    n = max(1, min(len(recording), PICTURES // views))
    return np.unique(np.linspace(0, len(recording) - 1, n).round().astype(int)).tolist()


def thing_of(crops: Crops) -> Thing | None:
    """The thing that ``crops`` of one instant show, with its box, pose and prototype; None where
    its pixels agree on no surface."""
    points = crops.own_points(0)
    lower, upper = np.quantile(points, [0.005, 0.995], axis=0)
    pose = np.array([[*(lower + upper) / 2, 0.0]])
    size = upper - lower
    voxel = max(float(size.max()) / MODEL_VOXELS, 0.6 * crops.pixel_size)
    around = centred_grid(1.2 * size, voxel, padding=6)
    fusion = Fusion(crops, around, max(4 * voxel, 0.07 * float(np.hypot(size[0], size[1]))))
    model = fusion.add(pose, ONLY).model()
    shape = finish(crops, model, pose, [0], ONLY, 0.5 * crops.pixel_size)
    if shape is None:
        return None
    off = total_misfit(misfit(model, model.surface(), crops, 0, pose[0]))
    return Thing([0], shape.dims, shape.poses, np.array([off]), shape.rgba, shape.voxel_size, 1.0,
                 crops, shape.confidence)  # fmt: skip


def placed_things(
    kinds: Sequence[Kind], seen: Sequence[Bool[np.ndarray, " i"]]
) -> tuple[list[Kind], list[Found]]:
    """The kinds, and where the things of all of them stand, in the order of things; ``seen[k]``: at
    which instants thing k was. The agreement is that of a kind's portrait with a thing's own
    pictures; a thing of which its kind says too little (``LEAST``) is a kind of its own."""
    kinds, objects = list(kinds), {}
    for n, kind in enumerate(kinds.copy()):
        for member, thing in zip(kind.members, kind.things, strict=True):
            agreement, which = _agreement(kind, thing), n
            if agreement < LEAST and len(kind.things) > 1:
                own = thing_of(thing.crops) if thing.crops is not None else None
                if own is None:
                    continue
                thing, agreement, which = own, 1.0, len(kinds)
                kinds.append(alone(member, own, _portrait(own)))
            objects[member] = Found(which, thing.poses[0], agreement, seen[member])
    return kinds, [objects[k] for k in sorted(objects)]


def _opened(kind: Kind) -> Kind:
    if kind.confidence is None:
        return kind
    return replace(kind, rgba=opened(kind.rgba, kind.confidence))


def _portrait(thing: Thing) -> Portrait | None:
    return portrait(thing.crops, thing.poses, ONLY, thing.dims) if thing.crops else None


def _agreement(kind: Kind, thing: Thing) -> float:
    own = _portrait(thing)
    return 1.0 if kind.portrait is None or own is None else verdict(kind.portrait, own, np.zeros(4))


def _visible(
    found: Standing, own: Bool[np.ndarray, " n"], evidence: Sequence[Evidence]
) -> Bool[np.ndarray, " i"]:
    """At which instants there was occupied evidence in ``SEEN`` voxels where its surface is."""
    grid = evidence[0].grid
    points: Float[np.ndarray, "n 3"] = found.points[own]
    index = np.unique(np.floor(grid.voxel_from_world(points)).astype(int)[:, ::-1], axis=0)
    index = index[((index >= 0) & (index < grid.shape)).all(axis=1)]
    least = min(SEEN, len(index))
    return np.array([e.occupied[tuple(index.T)].sum() >= least for e in evidence])
