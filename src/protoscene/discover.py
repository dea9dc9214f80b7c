"""The method: a recording in, a scene out, one step a line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from protoscene.backdrop import backdrop
from protoscene.background import BINS, Static, estimate_background, subtract
from protoscene.checkpoints import versions
from protoscene.conventions import require_conventions
from protoscene.crops import Crops
from protoscene.detail import MOST_VOXELS, PICTURES
from protoscene.dictionary import MOST_CELLS, Found, Kind, Portrait, find_again, share, vacated
from protoscene.errors import Refused
from protoscene.files import bytes_in, check_disk_space
from protoscene.follow import follow, merge_fragments
from protoscene.geometry import Grid, centred_grid
from protoscene.lidar import Parked, discover_sweeps
from protoscene.memory import give_back, require
from protoscene.mirror import mirror_plane
from protoscene.observe import Progress, choose_grid, observe
from protoscene.propose import Blob, propose
from protoscene.prototypes import VoxelPrototypes
from protoscene.recording import CACHE_BYTES, Recording
from protoscene.refine import SETTINGS, refine
from protoscene.register import Model
from protoscene.scene import Mirror, Scene, SceneObject, Track
from protoscene.stages import Stages
from protoscene.start import Thing, start
from protoscene.volume import Background, Evidence, Outside, Volume

KEEP_SCORE = 0.3
"""What scores less is not listed at all."""
SCENE_BYTES, STAGE_BYTES = 12 * 2**20, 40 * 2**20
"""Of prototypes and what lies outside; of the kinds while they are being found."""
CLASSES = (Thing, Crops, Kind, Portrait, Model, Grid, Found, Background, Volume, Outside, Parked)
"""Of which the stages' outcomes consist."""


def discover(
    recording: Recording,
    voxel_size: float | None = None,
    bounds: tuple[float, float, float, float, float, float] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    work: Path | None = None,
) -> Scene:
    """Background, moving things, their tracks and prototypes from a posed RGB-D or LiDAR recording.

    ``voxel_size`` (m) and ``bounds`` (x0 y0 z0 x1 y1 z1, m) of the grid are chosen from the data
    when left out. ``seed`` orders the instants of refinement. ``progress(stage, done, total)`` is
    called as the work goes on. In the folder ``work`` finished stages are kept: given again, a run
    that was killed goes on after the last of them, to the same scene.

    Raises Refused for a recording of one instant, without depth, with wrong units or conventions,
    or whose grid does not fit into memory, and where ``work`` is of another run or on a full disk.
    """
    progress = progress or (lambda stage, done, total: None)
    if len(recording) < 2:
        raise Refused(recording.source, "time", "nothing can move in one instant", len(recording),
                      "2 or more instants")  # fmt: skip
    made_by: dict[str, str | int] = {
        "command": "discover",
        "seed": seed,
        "recording_sha256": recording.sha256,
    }
    stages = _stages(work, recording, voxel_size, bounds, seed)
    if recording.sweeps:
        require_conventions(recording)
        scene = discover_sweeps(recording, voxel_size, bounds, progress, stages)
        return replace(scene, made_by=made_by)
    grid = grid_that_fits(recording, voxel_size, bounds)
    if work is not None:
        check_disk_space(work, disk_plan(recording, grid) - bytes_in(work))

    evidence = observe(recording, grid, progress)
    static = estimate_background(recording, grid, progress)
    give_back()
    found = stages.outcome("start", lambda: _started(recording, static, progress))
    kinds, background = stages.outcome(
        "share", lambda: _shared(recording, evidence, static, found, seed, progress)
    )
    again = stages.outcome(
        "find_again", lambda: find_again(recording, evidence, static, kinds, progress)
    )
    return scene_of(kinds, again, vacated(background, kinds, again), recording.times, made_by)


def _stages(
    work: Path | None,
    recording: Recording,
    voxel_size: float | None,
    bounds: tuple[float, float, float, float, float, float] | None,
    seed: int,
) -> Stages:
    """Of the run with these settings. What is none of them takes little time and is done again, and
    refining is kept with sharing: the pictures of all things would have to be written once more."""
    identity = {
        "recording_sha256": recording.sha256, "seed": seed, "voxel_size": voxel_size,
        "bounds": None if bounds is None else str(tuple(bounds)), **versions(),
    }  # fmt: skip
    return Stages(work, identity, *CLASSES)


def _started(recording: Recording, static: Static, progress: Progress) -> list[Thing]:
    """What moves, followed and registered."""
    blobs = propose_all(recording, static, progress)
    trails = merge_fragments(follow(blobs, recording.times))
    things = start(recording, trails, blobs, static.noise, progress)
    return [t for t in things if t.score >= KEEP_SCORE]


def _shared(
    recording: Recording,
    evidence: list[Evidence],
    static: Static,
    found: Sequence[Thing],
    seed: int,
    progress: Progress,
) -> tuple[list[Kind], Background]:
    """Background and things, refined; and the kinds of things, without their pictures, which nobody
    looks at any more."""
    background = backdrop(recording, evidence, static)
    give_back()
    refined = refine(found, evidence, background, replace(SETTINGS, seed=seed), progress)
    give_back()
    kinds = [
        replace(kind, things=tuple(replace(t, crops=None) for t in kind.things))
        for kind in share(refined.things, progress)
    ]
    return kinds, refined.background


def scene_of(
    kinds: Sequence[Kind],
    again: Sequence[Found],
    background: Background,
    times: tuple[float, ...],
    made_by: Mapping[str, str | int] | None = None,
) -> Scene:
    """The kinds as prototypes, their things and what was found again as objects, and what stays."""
    of_things = [
        (m, n, t) for n, k in enumerate(kinds) for m, t in zip(k.members, k.things, strict=True)
    ]
    objects = [_object(m, n, t, times) for m, n, t in sorted(of_things, key=lambda row: row[0])]
    objects += [
        _standing(len(objects) + k, one, kinds[one.kind], times) for k, one in enumerate(again)
    ]
    return Scene(
        times=times,
        background=background,
        prototypes=VoxelPrototypes([k.rgba for k in kinds], [k.voxel_size for k in kinds]),
        objects=tuple(objects),
        sizes_m=tuple(_triple(k.dims) for k in kinds),
        symmetries=[_mirror(kind) for kind in kinds],
        confidence=tuple(k.confidence for k in kinds),
        made_by=made_by or {},
    )


def grid_that_fits(
    recording: Recording,
    voxel_size: float | None = None,
    bounds: tuple[float, float, float, float, float, float] | None = None,
) -> Grid:
    """The grid on which the recording is to be explained; arguments as of :func:`discover`. Raises
    Refused where units or conventions contradict the pictures, or the memory does not suffice."""
    require_conventions(recording)
    grid = choose_grid(recording, voxel_size, bounds)
    require(memory_plan(recording, grid), partial(voxel_size_within, recording, grid))
    return grid


def memory_plan(recording: Recording, grid: Grid) -> dict[str, int]:
    """Bytes that discovery will take besides what the process has already, by what takes them: what
    is kept to the end, and of what a stage takes for a while (``working``) the most that any does:
    lattices and volumes of a thing, whose sizes are bounded, and the pictures that are fused. Of a
    recording in which more moves, or less stands on the ground, it is more or less than that."""
    pixels = max(f.camera.width * f.camera.height for f in recording.frames)
    views = max(len(recording.frames_at(i)) for i in range(len(recording)))
    decoded = min(CACHE_BYTES, len(recording.frames) * pixels * 7)
    return {
        "grid": grid.n_voxels * (BINS + 22),
        "evidence": len(recording) * (grid.n_voxels // 4 + 3 * pixels * views // 4),
        "pictures": max(decoded - recording.cached_bytes, 0),
        "blobs": len(recording) * views * pixels * 4,
        "detail": MOST_VOXELS * 16,
        "things": len(recording) * views * pixels * 8,
        "working": MOST_CELLS * 100 + min(PICTURES, len(recording.frames)) * pixels * 8,
        "program": 100 * 2**20,
    }


def voxel_size_within(recording: Recording, grid: Grid, available: int) -> str:
    """Advice: the least voxel size, to two digits, with which discovery takes no more bytes."""
    size = grid.voxel_size
    while size < grid.size_m.max():
        size = float(f"{1.1 * size:.2g}")
        if sum(memory_plan(recording, grid.resampled(size)).values()) <= available:
            return f"try --voxel-size {size:g}, or smaller --bounds"
    return "try fewer instants or smaller pictures"


def scene_bytes(grid: Grid) -> int:
    """Bytes that a scene on ``grid`` takes on the disk at most, give or take its prototypes: four
    float16 channels of the grid, of all finer volumes and of what lies outside."""
    return 8 * (grid.n_voxels + MOST_VOXELS) + SCENE_BYTES


def disk_plan(recording: Recording, grid: Grid) -> int:
    """Bytes that the stages and the scene take on the disk: the things' pictures, the background as
    float32, the kinds with their portraits, and then all of it as a scene."""
    pixels = sum(f.camera.width * f.camera.height for f in recording.frames)
    return 8 * pixels + 16 * (grid.n_voxels + MOST_VOXELS) + STAGE_BYTES + scene_bytes(grid)


def propose_all(
    recording: Recording,
    static: Static,
    progress: Progress = lambda stage, done, total: None,
) -> list[list[Blob]]:
    """Blobs of every instant, read one instant at a time."""
    grid = static.surface.grid
    bounds = np.stack([grid.lower, grid.upper])
    blobs = []
    for i in range(len(recording)):
        views = list(recording.views(i))
        blobs.append(propose(i, views, subtract(views, static), grid.voxel_size / 2, bounds))
        progress("propose", i + 1, len(recording))
    return blobs


def _object(k: int, prototype: int, thing: Thing, times: tuple[float, ...]) -> SceneObject:
    """A thing as scene.json lists it: where it was not seen in between, it is interpolated."""
    track = Track.through(times, thing.instants, thing.poses)
    return SceneObject(k, prototype, round(thing.score, 4), True, _triple(thing.dims), track)


def _mirror(kind: Kind) -> Mirror | None:
    """The plane of which a kind's prototype is a mirror image, as far as it was seen."""
    _, nz, ny, nx = kind.rgba.shape
    size = kind.voxel_size
    volume = Volume(kind.rgba, centred_grid((nx * size, ny * size, nz * size), size))
    known = None if kind.confidence is None else kind.confidence.numpy() > 0
    plane = mirror_plane(volume, known)
    if plane is None:
        return None
    return Mirror((math.cos(plane.turn), math.sin(plane.turn)), plane.shift, plane.evidence)


def _standing(k: int, one: Found, kind: Kind, times: tuple[float, ...]) -> SceneObject:
    """What was found again: at one place at all instants."""
    track = Track.standing(times, one.pose, one.visible)
    return SceneObject(k, one.kind, round(one.score, 4), False, _triple(kind.dims), track)


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z
