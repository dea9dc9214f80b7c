"""The method on LiDAR sweeps, one step a line."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from protoscene.files import bytes_in, check_disk_space
from protoscene.follow import Trail, follow
from protoscene.geometry import Grid
from protoscene.lidar.extend import Whereabouts, extended, on_surface
from protoscene.lidar.fuse import (
    Rigid,
    into_own,
    own_points,
    register,
    rigid_of,
)
from protoscene.lidar.ground import Ground, find_ground
from protoscene.lidar.kinds import Kind, kind_of
from protoscene.lidar.movers import Standing, propose_movers, standing
from protoscene.lidar.parked import Parked, find_parked
from protoscene.lidar.rays import CELLS, Rays
from protoscene.lidar.start import first_poses
from protoscene.lidar.stays import Ends, street_grid
from protoscene.memory import require
from protoscene.prototypes import VoxelPrototypes
from protoscene.recording import Recording
from protoscene.scene import Scene, SceneObject, Track
from protoscene.stages import Stages
from protoscene.volume import Background

Progress = Callable[[str, int, int], None]

LEAST_INSTANTS = 5
LEAST_PATH_M = 1.0
"""What moves gets this far (m), and as far as it is long."""
JUMP_M = 1.5
"""A trail is cut where a blob is this far (m) from where the two before it lead."""
BESIDE_M = 0.2
"""What is this near (m) to a thing's box is not taken for background."""
LEAST_SEEN = 5
"""Points on a thing from which on it is called visible."""
THIN_M = 0.1
POINT_BYTES, SCENE_BYTES = 45, 4 * 2**20
"""For each point of all sweeps: those above the ground in the world, with what others say of their
places, and all of it once more while it is sorted; on the disk, of prototypes."""


def discover_sweeps(
    recording: Recording,
    voxel_size: float | None,
    bounds: tuple[float, float, float, float, float, float] | None,
    progress: Progress,
    stages: Stages,
) -> Scene:
    """What moves in a LiDAR recording, its tracks and prototypes, what is parked, what stays.

    A point moves if other sweeps saw through its place. ``voxel_size`` (m) is the background's, 0.2
    if None; ``bounds`` as in :func:`protoscene.discover`; ``stages`` keep what is parked.
    Raises Refused where it does not fit into memory.
    """
    require(memory_plan(recording), "try fewer sweeps")
    if stages.folder is not None:
        needed = 2 * _points(recording) + SCENE_BYTES
        check_disk_space(stages.folder, needed - bytes_in(stages.folder))
    ground, rays, grid = _first_pass(recording, voxel_size, bounds, progress)
    seen = []
    for i in range(len(recording)):
        seen.append(standing(recording.sweep(i), i, ground, rays))
        progress("propose", i + 1, len(recording))
    blobs = [propose_movers(i, one) for i, one in enumerate(seen)]
    trails = [run for trail in follow(blobs, recording.times) for run in runs_of(trail, recording)]
    kinds, rigid = _fused(trails, recording, ground, progress)
    things = [extended(t, k, seen, recording.times) for t, k in zip(rigid, kinds, strict=True)]
    progress("find again", 0, 1)
    parked = stages.outcome(
        "find_again", lambda: find_parked(kinds, _still(seen, kinds, things), rays, ground)
    )
    progress("find again", 1, 1)
    background = _background(recording, ground, seen, kinds, things, parked, Ends(grid), progress)
    scores = [_agreement(k, t) for k, t in zip(kinds, rigid, strict=True)]
    return _scene(recording.times, kinds, things, scores, parked, seen, background)


def memory_plan(recording: Recording) -> dict[str, int]:
    """Bytes that discovery will take besides what the process has already, by what takes them."""
    cells = 2 * math.prod(CELLS) * np.dtype(np.float32).itemsize
    return {
        "points": _points(recording) * POINT_BYTES,
        "rays": len(recording) * cells,
        "program": 100 * 2**20,
    }


def _points(recording: Recording) -> int:
    """Of all sweeps together, by the sizes of their files."""
    return sum(file.stat().st_size for file in {entry.file for entry in recording.sweeps}) // 16


def _first_pass(
    recording: Recording,
    voxel_size: float | None,
    bounds: tuple[float, float, float, float, float, float] | None,
    progress: Progress,
) -> tuple[Ground, list[Rays], Grid]:
    every, rays = [], []
    for i in range(len(recording)):
        sweep = recording.sweep(i)
        rays.append(Rays.of(sweep))
        every.append(sweep.world_points[::2].astype(np.float32))
        progress("observe", i + 1, len(recording))
    points = np.concatenate(every)
    return find_ground(points), rays, street_grid(points, voxel_size, bounds)


def runs_of(trail: Trail, recording: Recording) -> list[Trail]:
    """A trail cut where it jumps; of its runs those that really get somewhere."""
    runs: list[Trail] = []
    for instant in sorted(trail.blobs):
        blob, appearance = trail.blobs[instant], trail.seen[instant]
        if not runs or _jumps(runs[-1], instant, appearance.centre, recording.times):
            runs.append(Trail())
        runs[-1].add(blob, appearance)
    good = []
    for run in runs:
        path = np.array([a.centre[:2] for a in run.seen.values()])
        path = ndimage.median_filter(path, size=(min(5, len(path)), 1), mode="nearest")
        far = np.linalg.norm(path - path[0], axis=1).max()
        if len(path) >= LEAST_INSTANTS and far >= max(LEAST_PATH_M, run.size[0] / 2):
            good.append(run)
    return good


def _jumps(
    run: Trail, instant: int, centre: Float[np.ndarray, "3"], times: tuple[float, ...]
) -> bool:
    before = sorted(run.seen)[-2:]
    here = run.seen[before[-1]].centre
    if len(before) > 1:
        step = (here - run.seen[before[0]].centre) / (times[before[1]] - times[before[0]])
        here = here + step * (times[instant] - times[before[1]])
    return bool(np.linalg.norm((centre - here)[:2]) > JUMP_M + run.size[0] / 4)


def _fused(
    trails: list[Trail], recording: Recording, ground: Ground, progress: Progress
) -> tuple[list[Kind], list[Rigid]]:
    """Every trail's prototype and registered poses."""
    kinds, things = [], []
    for n, trail in enumerate(trails):
        thing = rigid_of(trail, recording, first_poses(trail, recording, ground))
        kind, thing = kind_of(register(thing, ground))
        kinds.append(kind)
        things.append(thing)
        progress("refine", n + 1, len(trails))
    return kinds, things


def _inside(
    points: Float[np.ndarray, "n 3"], kind: Kind, pose: Float[np.ndarray, "4"], beside: float
) -> Bool[np.ndarray, " n"]:
    """Which world points are in a thing's box, or as near as ``beside`` (m)."""
    near = np.abs(points[:, :2] - pose[:2]).max(axis=1) < np.linalg.norm(kind.dims) / 2 + beside
    inside = np.zeros(len(points), dtype=bool)
    inside[near] = (np.abs(into_own(points[near], pose)) < kind.dims / 2 + beside).all(axis=1)
    return inside


def _still(
    seen: list[Standing], kinds: list[Kind], things: list[Whereabouts]
) -> Float[np.ndarray, "n 3"]:
    """What stands and does not move, of all sweeps, thinned to one point in each 0.1 m."""
    parts = []
    for i, one in enumerate(seen):
        kept = ~one.moves & (one.confirmed >= one.through)
        points = one.points[kept]
        for kind, thing in zip(kinds, things, strict=True):
            if i in thing.instants:
                pose = thing.poses[thing.instants.index(i)]
                points = points[~_inside(points, kind, pose, BESIDE_M)]
        parts.append(points)
    points = np.concatenate(parts)
    keys = np.floor(points / THIN_M).astype(np.int64)
    keys -= keys.min(axis=0)
    extent = keys.max(axis=0) + 1
    flat = (keys[:, 2] * extent[1] + keys[:, 1]) * extent[0] + keys[:, 0]
    return points[np.unique(flat, return_index=True)[1]]


def _background(
    recording: Recording,
    ground: Ground,
    seen: list[Standing],
    kinds: list[Kind],
    things: list[Whereabouts],
    parked: list[Parked],
    ends: Ends,
    progress: Progress,
) -> Background:
    """Ground and standing points that do not move, but those of things, moving or parked."""
    for i, one in enumerate(seen):
        sweep = recording.sweep(i)
        world = sweep.world_points
        kept = np.ones(len(world), dtype=bool)
        kept[np.flatnonzero(ground.stands_on(world))[one.moves]] = False
        for kind, thing in zip(kinds, things, strict=True):
            if i in thing.instants:
                kept &= ~_inside(world, kind, thing.poses[thing.instants.index(i)], BESIDE_M)
        for other in parked:
            inside = _inside(world, kinds[other.kind], other.pose, BESIDE_M)
            kept &= ~(inside & ground.stands_on(world))
        ends.add(world[kept], sweep.intensity[kept])
        progress("background", i + 1, len(seen))
    return Background(ends.volume())


def _scene(
    times: tuple[float, ...],
    kinds: list[Kind],
    things: list[Whereabouts],
    scores: list[float],
    parked: list[Parked],
    seen: list[Standing],
    background: Background,
) -> Scene:
    objects = []
    for k, (kind, thing) in enumerate(zip(kinds, things, strict=True)):
        track = Track.through(times, thing.instants, thing.poses)
        score = round(scores[k], 4)
        objects.append(SceneObject(k, k, score, True, _triple(kind.dims), track))
    for other in parked:
        kind = kinds[other.kind]
        points = [_inside(one.points, kind, other.pose, 0.0).sum() for one in seen]
        track = Track.standing(times, other.pose, np.array(points) >= LEAST_SEEN)
        objects.append(
            SceneObject(
                len(objects), other.kind, round(other.score, 4), False, _triple(kind.dims), track
            )
        )
    return Scene(
        times=times,
        background=background,
        prototypes=VoxelPrototypes(
            [kind.rgba for kind in kinds], [kind.model.grid.voxel_size for kind in kinds]
        ),
        objects=tuple(objects),
        sizes_m=tuple(_triple(kind.dims) for kind in kinds),
        symmetries=[None] * len(kinds),
        confidence=tuple(kind.confidence for kind in kinds),
    )


def _agreement(kind: Kind, thing: Rigid) -> float:
    """Share of a thing's points that lie on its fused surface, less for fewer than ten instants."""
    points = np.concatenate([own_points(thing, n) for n in range(len(thing.points))])
    return on_surface(kind.model, points) * min(1.0, len(thing.points) / 10)


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z
