"""Read everything of a recording and list every problem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from protoscene.conventions import require_conventions
from protoscene.errors import Refused
from protoscene.formats import open_recording
from protoscene.formats.problems import kept
from protoscene.recording import Recording

_SAMPLES = 4096
"""Depths kept of each picture for the percentiles: memory does not grow with the resolution."""


@dataclass(frozen=True)
class Summary:
    """What a recording holds. Lengths in metres, times in seconds."""

    instants: int
    pictures: int
    cameras: tuple[str, ...]
    sizes: tuple[str, ...]
    first_time: float
    last_time: float
    depth_percentiles: tuple[float, float, float] | None
    """1st, 50th and 99th percentile of all depths that returned."""
    without_depth: float
    """Fraction of pixels where nothing returned."""
    empty_depth_pictures: int
    points: int = 0
    """Points of all LiDAR sweeps; depths are then distances from the sensor."""


@dataclass(frozen=True)
class Checked:
    """Every problem found (none: the recording is good) and, where it could be read, a summary."""

    problems: list[Refused] = field(default_factory=list)
    summary: Summary | None = None


def check(
    path: str | Path,
    format: str | None = None,
    intrinsics: tuple[float, float, float, float] | None = None,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Checked:
    """Open a recording and decode every picture or sweep; never raises Refused.

    One problem is listed for each frame, besides those of the manifest and of the whole: no depth
    in any picture, units or conventions in which the pictures contradict each other. The arguments
    are those of :func:`protoscene.formats.load`;
    ``progress("check", done, total)`` is called for every picture.
    """
    problems: list[Refused] = []
    summary = None
    with kept(problems):
        recording = open_recording(path, format, intrinsics, problems)
        read_all = _read_sweeps if recording.sweeps else _read_pictures
        summary = read_all(recording, problems, progress)
        require_conventions(recording)
    once = {str(problem): problem for problem in problems}  # a fault at the top hits every frame
    return Checked(list(once.values()), summary)


def _read_pictures(
    recording: Recording, problems: list[Refused], progress: Callable[[str, int, int], None]
) -> Summary | None:
    samples, n_pixels, n_returned, n_empty, n_read = [], 0, 0, 0, 0
    for index in range(len(recording.frames)):
        progress("check", index, len(recording.frames))
        with kept(problems):
            depth = recording.view(index).depth
            returned = depth[depth > 0]
            n_read += 1
            n_pixels += depth.size
            n_returned += returned.size
            n_empty += returned.size == 0
            samples.append(returned[:: max(1, returned.size // _SAMPLES)])
    if n_read == 0:
        return None
    if n_returned == 0:
        problem, got = "no picture holds any valid depth", f"{n_read} empty pictures"
        problems.append(Refused(recording.source, "depth", problem, got))
    percentiles = None
    if n_returned:
        low, middle, high = np.percentile(np.concatenate(samples), [1, 50, 99])
        percentiles = (float(low), float(middle), float(high))
    sizes = sorted({(frame.camera.width, frame.camera.height) for frame in recording.frames})
    return Summary(
        instants=len(recording),
        pictures=len(recording.frames),
        cameras=recording.camera_names,
        sizes=tuple(f"{width}×{height}" for width, height in sizes),
        first_time=recording.times[0],
        last_time=recording.times[-1],
        depth_percentiles=percentiles,
        without_depth=1 - n_returned / n_pixels,
        empty_depth_pictures=n_empty,
    )


def _read_sweeps(
    recording: Recording, problems: list[Refused], progress: Callable[[str, int, int], None]
) -> Summary | None:
    samples, n_points = [], 0
    for index in range(len(recording.sweeps)):
        progress("check", index, len(recording.sweeps))
        with kept(problems):
            distance = np.linalg.norm(recording.sweep(index).points, axis=1)
            n_points += distance.size
            samples.append(distance[:: max(1, distance.size // _SAMPLES)])
    if not samples:
        return None
    low, middle, high = np.percentile(np.concatenate(samples), [1, 50, 99])
    return Summary(
        instants=len(recording),
        pictures=0,
        cameras=(),
        sizes=(),
        first_time=recording.times[0],
        last_time=recording.times[-1],
        depth_percentiles=(float(low), float(middle), float(high)),
        without_depth=0.0,
        empty_depth_pictures=0,
        points=n_points,
    )
