"""A model and single instants in, a scene without motion out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from protoscene.errors import Refused
from protoscene.geometry import Grid
from protoscene.memory import require
from protoscene.model import Model
from protoscene.network_input import network_input
from protoscene.networks import Detections
from protoscene.networks import detect as detect_in_volume
from protoscene.observe import Progress, ViewStack, choose_grid
from protoscene.recording import CACHE_BYTES, Recording
from protoscene.scene import Scene, SceneObject, Track
from protoscene.volume import Background, Volume

LEAST_SCORE = 0.1
"""What scores less is not listed at all."""
WORKING, PROGRAM_BYTES = 150, 60 * 2**20
"""Bytes for each voxel that the detector reads, its features included; and of code that is used
first when detecting."""
STEP = 0.75
"""From one part of a wide scene to the next, in sides of what the detector reads."""


def detect(
    model: Model,
    recording: Recording,
    time: float | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Scene:
    """What the model's detector finds at each instant of ``recording`` by itself, or only at the
    one nearest to ``time`` (s).

    Every detection is an object of its own whose track is that one instant; whether it moves is not
    asked. The background is empty. Raises Refused where ``time`` is outside of the recording, it
    holds no pictures, or none with any depth, or where the memory does not suffice.
    """
    recording.require_pictures()
    chosen = range(len(recording)) if time is None else [_nearest(recording, time)]
    whole = choose_grid(recording, model.voxel_size)
    parts = parts_of(whole, model)
    require(
        memory_plan(model, recording, parts), "try a model of larger voxels or smaller pictures"
    )
    objects: list[SceneObject] = []
    for n, i in enumerate(chosen):
        stack = ViewStack.of(recording.views(i))
        for k, grid in enumerate(parts):
            volume = network_input(stack, grid)
            if not volume[3].any():  # no surface was seen there
                continue
            found = detect_in_volume(model.detector, volume, grid, LEAST_SCORE)
            own = _nearest_part(found.boxes, parts) == k
            objects += _objects(found, own, recording.times[i], len(objects))
        progress("detect", n + 1, len(chosen))
    return Scene(
        times=tuple(recording.times[i] for i in chosen),
        background=Background(_empty(parts)),
        prototypes=model.prototypes,
        objects=tuple(objects),
        sizes_m=model.sizes_m,
        confidence=model.confidence,
        made_by={
            "command": "detect", "recording_sha256": recording.sha256, "model_sha256": model.sha256,
        },
    )  # fmt: skip


def memory_plan(model: Model, recording: Recording, parts: Sequence[Grid]) -> dict[str, int]:
    """Bytes that detection takes besides what the process has already, by what takes them: pictures
    of one instant and those that the recording keeps, the detector's input and its features, and
    the empty background, which is as wide as all ``parts``."""
    pixels = max(f.camera.width * f.camera.height for f in recording.frames)
    views = max(len(recording.frames_at(i)) for i in range(len(recording)))
    decoded = min(CACHE_BYTES, len(recording.frames) * pixels * 7)
    _, shape = _extent(parts)
    return {
        "pictures": max(decoded - recording.cached_bytes, 0) + 40 * pixels * views,
        "volume": WORKING * math.prod(model.shape),
        "background": 4 * (4 + 2) * math.prod(shape),
        "program": PROGRAM_BYTES,
    }


def _nearest(recording: Recording, time: float) -> int:
    first, last = recording.times[0], recording.times[-1]
    if not first <= time <= last:
        expected = f"{first:g} to {last:g} seconds"
        raise Refused(recording.source, "time", "has no such time", time, expected)
    return int(np.argmin(np.abs(np.array(recording.times) - time)))


def parts_of(whole: Grid, model: Model) -> list[Grid]:
    """Grids of the detector's size that cover the ground of ``whole``, all on its bottom: one in
    the middle of what is not wider, else several that overlap."""
    size = np.array(model.shape[::-1]) * model.voxel_size
    starts = []
    for axis in (0, 1):
        beyond = whole.size_m[axis] - size[axis]
        n = 1 if beyond <= 0 else int(np.ceil(beyond / (STEP * size[axis]))) + 1
        start = np.array([beyond / 2]) if n == 1 else np.linspace(0.0, beyond, n)
        starts.append(whole.lower[axis] + start)
    bottom = float(whole.lower[2])
    return [
        Grid((float(x), float(y), bottom), model.voxel_size, model.shape)
        for y in starts[1]
        for x in starts[0]
    ]


def _nearest_part(boxes: Float[np.ndarray, "n 7"], parts: Sequence[Grid]) -> np.ndarray:
    """Which part's middle is nearest to each box: what another part finds there does not count."""
    middles = np.stack([(grid.lower + grid.upper)[:2] / 2 for grid in parts])
    return np.linalg.norm(boxes[:, None, :2] - middles, axis=2).argmin(axis=1)


def _objects(found: Detections, own: np.ndarray, time: float, first: int) -> list[SceneObject]:
    objects: list[SceneObject] = []
    for row in np.flatnonzero(own):
        x, y, z, length, width, height, yaw = (float(v) for v in found.boxes[row])
        track = Track(
            time=np.array([time]), centre=np.array([[x, y, z]]), yaw=np.array([yaw]),
            scale=np.ones(1), visible=np.ones(1, dtype=bool),
        )  # fmt: skip
        objects.append(
            SceneObject(first + len(objects), int(found.kind[row]), float(found.score[row]), False,
                        (length, width, height), track)
        )  # fmt: skip
    return objects


def _empty(parts: Sequence[Grid]) -> Volume:
    """Nothing, where the parts are."""
    (x, y, z), shape = _extent(parts)
    return Volume(torch.zeros(4, *shape), Grid((x, y, z), parts[0].voxel_size, shape))


def _extent(
    parts: Sequence[Grid],
) -> tuple[tuple[float, float, float], tuple[int, int, int]]:
    """Lower corner (m) and number of voxels (nz, ny, nx) of what the parts cover together."""
    lower = np.min([grid.lower for grid in parts], axis=0)
    size = np.max([grid.upper for grid in parts], axis=0) - lower
    nx, ny, nz = (int(n) for n in np.ceil(size / parts[0].voxel_size - 1e-6))
    x, y, z = (float(v) for v in lower)
    return (x, y, z), (nz, ny, nx)
