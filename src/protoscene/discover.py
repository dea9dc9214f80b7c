"""The method: a recording in, a scene out, one step a line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from protoscene.backdrop import backdrop
from protoscene.background import BINS, Static, estimate_background, subtract
from protoscene.detail import MOST_VOXELS, PICTURES
from protoscene.errors import Refused
from protoscene.follow import follow, merge_fragments
from protoscene.geometry import Grid, wrap_angle
from protoscene.memory import require
from protoscene.observe import Progress, choose_grid, observe
from protoscene.propose import Blob, propose
from protoscene.prototypes import VoxelPrototypes
from protoscene.recording import CACHE_BYTES, Recording
from protoscene.refine import SETTINGS, refine
from protoscene.scene import Scene, SceneObject, Track
from protoscene.start import Thing, start
from protoscene.volume import Background

KEEP_SCORE = 0.3
"""What scores less is not listed at all."""


def discover(
    recording: Recording,
    voxel_size: float | None = None,
    bounds: tuple[float, float, float, float, float, float] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Scene:
    """Background, moving things, their tracks and prototypes from a posed RGB-D recording.

    ``voxel_size`` (m) and ``bounds`` (x0 y0 z0 x1 y1 z1, m) of the grid are chosen from the data
    when left out. ``seed`` orders the instants of refinement. ``progress(stage, done, total)`` is
    called as the work goes on. Raises Refused for a recording of one instant, without depth, or
    whose grid does not fit into memory.
    """
    progress = progress or (lambda stage, done, total: None)
    if len(recording) < 2:
        raise Refused(recording.source, "time", "nothing can move in one instant", len(recording),
                      "2 or more instants")  # fmt: skip
    grid = choose_grid(recording, voxel_size, bounds)
    require(memory_plan(recording, grid), "try a larger --voxel-size or smaller --bounds")

    evidence = observe(recording, grid, progress)
    static = estimate_background(recording, grid, progress)
    blobs = _propose_all(recording, static, progress)
    trails = merge_fragments(follow(blobs, recording.times))
    things = start(recording, trails, blobs, static.noise, progress)
    found = [t for t in things if t.score >= KEEP_SCORE]
    background = backdrop(recording, evidence, static)
    refined = refine(found, evidence, background, replace(SETTINGS, seed=seed), progress)
    return scene_of(
        refined.things, refined.background, recording.times,
        {"command": "discover", "seed": seed, "recording_sha256": recording.sha256},
    )  # fmt: skip


def scene_of(
    things: list[Thing],
    background: Background,
    times: tuple[float, ...],
    made_by: Mapping[str, str | int] | None = None,
) -> Scene:
    """Things and what stays as a scene: each thing has a prototype of its own."""
    return Scene(
        times=times,
        background=background,
        prototypes=VoxelPrototypes([t.rgba for t in things], [t.voxel_size for t in things]),
        objects=tuple(_object(k, t, times) for k, t in enumerate(things)),
        sizes_m=tuple(_triple(t.dims) for t in things),
        symmetries=[None] * len(things),
        made_by=made_by or {},
    )


def memory_plan(recording: Recording, grid: Grid) -> dict[str, int]:
    """Bytes that discovery takes, by what takes them: at most, unless blobs cover more than a
    twelfth of all pixels or the pictures around all things more than one and a half pictures."""
    pixels = max(f.camera.width * f.camera.height for f in recording.frames)
    views = max(len(recording.frames_at(i)) for i in range(len(recording)))
    return {
        "grid": grid.n_voxels * (BINS + 64),
        "evidence": len(recording) * (grid.n_voxels // 4 + 3 * pixels * views // 4),
        "pictures": CACHE_BYTES + 48 * 4 * pixels + 40 * pixels * views,
        "blobs": len(recording) * views * pixels * 4,
        "detail": MOST_VOXELS * 16 + PICTURES * pixels * 12,
        "things": len(recording) * views * pixels * 12,
        "program": 2**29,
    }


def _propose_all(recording: Recording, static: Static, progress: Progress) -> list[list[Blob]]:
    grid = static.surface.grid
    bounds = np.stack([grid.lower, grid.upper])
    blobs = []
    for i in range(len(recording)):
        views = list(recording.views(i))
        blobs.append(propose(i, views, subtract(views, static), grid.voxel_size / 2, bounds))
        progress("propose", i + 1, len(recording))
    return blobs


def _object(k: int, thing: Thing, times: tuple[float, ...]) -> SceneObject:
    """A thing as scene.json lists it: where it was not seen in between, it is interpolated."""
    own = np.array([times[i] for i in thing.instants])
    between = range(thing.instants[0], thing.instants[-1] + 1)
    yaw = np.unwrap(thing.poses[:, 3])
    time = np.array([times[i] for i in between])
    centre = np.stack([np.interp(time, own, thing.poses[:, a]) for a in range(3)], axis=1)
    track = Track(
        time=time,
        centre=centre,
        yaw=wrap_angle(np.interp(time, own, yaw)),
        scale=np.ones(len(time)),
        visible=np.isin(list(between), thing.instants),
    )
    return SceneObject(k, k, round(thing.score, 4), True, _triple(thing.dims), track)


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z
