"""Recordings in, a model out: each is discovered, the dictionaries become one, and a detector of
single instants is trained with what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protoscene.dictionary import Merged, merge
from protoscene.discover import disk_plan, grid_that_fits, scene_bytes
from protoscene.distil import (
    STEPS,
    a_detector,
    checkpoint_bytes,
    distil,
    hash_of,
    memory_plan,
    steps_within,
)
from protoscene.errors import Refused
from protoscene.farm import discover_all
from protoscene.files import bytes_in, check_disk_space
from protoscene.geometry import Grid
from protoscene.labels import labels_at
from protoscene.memory import available_bytes, give_back, require
from protoscene.model import Model
from protoscene.networks import stride_of
from protoscene.observe import Progress, choose_grid
from protoscene.ranks import ranks
from protoscene.recording import Recording
from protoscene.samples import Samples
from protoscene.scene import Scene
from protoscene.training import Fitted

MARGIN = 0.5
"""Room around where things were, in lengths of the longest thing."""


@dataclass(frozen=True)
class Learning:
    """What :func:`learn` is asked for. ``voxel_size`` (m) is of the discoveries, from the data when
    None; ``steps`` of the training, or as many as fit into ``minutes``."""

    voxel_size: float | None = None
    seed: int = 0
    steps: int = STEPS
    minutes: float | None = None

    @property
    def words(self) -> str:
        """What a model remembers of it, beside the seed."""
        length = f"steps {self.steps}" if self.minutes is None else f"minutes {self.minutes}"
        return length if self.voxel_size is None else f"voxel_size {self.voxel_size}, {length}"


def learn(
    recordings: Sequence[Recording],
    work: str | Path,
    settings: Learning = Learning(),
    ray: str | None = None,
    workers: int = 0,
    progress: Progress = lambda stage, done, total: None,
) -> tuple[Model, Fitted]:
    """A dictionary over all ``recordings`` and a detector distilled from what was discovered.

    ``work`` (made if missing) holds the scenes found, N as ``scenes``/N, and the training's last
    checkpoints: a run that was killed goes on from there to the same model. ``ray`` as in
    :func:`protoscene.farm.discover_all`; ``workers`` prepare samples, fewer where memory is short.
    Of five recordings or more every fifth, the last ones, is held out of the training and ends it
    early.

    Raises Refused where nothing that moved is found, where memory or disk will not suffice, or
    where ``work`` is of another run; Failed where the training diverges.
    """
    work = Path(work)
    with ranks() as group:
        workers = workers_that_fit(recordings, work, settings, workers)
        scenes = discover_all(
            recordings, work / "scenes", group, settings.voxel_size, settings.seed, ray, progress
        )
        merged = merge(scenes, progress)
        if len(merged.prototypes) == 0:
            problem = "nothing that moved was found in any recording"
            raise Refused(recordings[0].source, "objects", problem)
        size = region_size(scenes)
        region = choose_grid(recordings[0], None, (0.0, 0.0, 0.0, *size))
        detector = a_detector(len(merged.prototypes), region.shape, settings.seed)
        samples = samples_of(recordings, scenes, merged, region)
        give_back()
        steps, training = settings.steps, work / "training"
        if settings.minutes is not None:
            steps = steps_within(settings.minutes, detector, samples, training, group)
        fitted = distil(detector, samples, training, steps, settings.seed, workers, progress)
    model = Model(
        prototypes=merged.prototypes,
        sizes_m=merged.sizes_m,
        confidence=merged.confidence,
        detector=detector.cpu(),
        voxel_size=region.voxel_size,
        shape=region.shape,
        made_by={
            "command": "learn", "seed": settings.seed, "steps": fitted.steps,
            "settings": settings.words, "recordings_sha256": hash_of(recordings),
        },
    )  # fmt: skip
    return model, fitted


def workers_that_fit(
    recordings: Sequence[Recording], work: Path, settings: Learning, workers: int
) -> int:
    """How many of the ``workers`` the memory has room for, before anything is discovered: judged
    by the recording of the most pixels, on the whole of whose grid training would take the most.

    Raises Refused where it cannot be discovered, where training does not fit without any worker,
    or the disk that holds ``work`` has no room for the scenes and checkpoints.
    """
    for recording in recordings:
        recording.require_pictures()
    largest = max(recordings, key=lambda r: sum(f.camera.width * f.camera.height for f in r.frames))
    grid = grid_that_fits(largest, settings.voxel_size)
    shape = choose_grid(largest).shape
    while workers and sum(memory_plan(recordings, shape, workers).values()) > available_bytes():
        workers -= 1
    require(memory_plan(recordings, shape, workers), "try fewer recordings, or smaller pictures")
    stages = disk_plan(largest, grid) - scene_bytes(grid)
    needed = stages + len(recordings) * scene_bytes(grid) + checkpoint_bytes(shape)
    check_disk_space(work, needed - bytes_in(work))  # a run that goes on has written some of it
    return workers


def region_size(scenes: Sequence[Scene]) -> tuple[float, float, float]:
    """Metres along x, y, z that hold the objects of every scene, each about its own middle, with
    room around them; z from the bottom of the scene's grid."""
    sizes = []
    for scene in scenes:
        if scene.objects:
            lower, upper = _reach(scene)
            sizes.append([*(upper - lower)[:2], upper[2] - scene.grid.lower[2]])
    x, y, z = (float(v) for v in np.max(sizes, axis=0))
    return x, y, z


def _reach(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """(lower, upper) corner of where the scene's objects were, with room around them."""
    centres = np.concatenate([thing.track.centre for thing in scene.objects])
    longest = max(max(thing.dims_m) for thing in scene.objects)
    around = np.array([1.0, 1.0, 0.0]) * longest * (0.5 + MARGIN)
    above = max(thing.dims_m[2] for thing in scene.objects) * np.array([0.0, 0.0, 0.75])
    return centres.min(axis=0) - around, centres.max(axis=0) + around + above


def grid_of(scene: Scene, whole: Grid, region: Grid) -> Grid:
    """``region`` where the scene's things are: in their middle, at the bottom of ``whole``."""
    lower, upper = _reach(scene) if scene.objects else (scene.grid.lower, scene.grid.upper)
    x, y = ((lower + upper) / 2 - region.size_m / 2)[:2]
    return Grid((float(x), float(y), whole.origin[2]), region.voxel_size, region.shape)


def samples_of(
    recordings: Sequence[Recording], scenes: Sequence[Scene], merged: Merged, region: Grid
) -> Samples:
    """Every instant of every recording, labelled with what was discovered in it."""
    labels = [
        [labels_at(scene.objects, t, which, frames[:, 3]) for t in recording.times]
        for recording, scene, which, frames in zip(
            recordings, scenes, merged.which, merged.frames, strict=True
        )
    ]
    wholes = [choose_grid(recording, region.voxel_size) for recording in recordings]
    grids = [grid_of(s, w, region) for s, w in zip(scenes, wholes, strict=True)]
    return Samples(recordings, labels, grids, stride_of(region.shape), wholes=wholes)
