"""Recorded pictures beside rendered ones, and how they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from protoscene.recording import Recording, View
from protoscene.report.pictures import (
    data_uri,
    depth_difference,
    difference,
    resized,
    sampled,
)
from protoscene.report.strips import evenly
from protoscene.scene import Scene
from protoscene.score_pictures import RenderView, layered_view

MAX_CAMERAS = 4
MAX_INSTANTS = 6
RECORDED_WIDTH = 320
RENDERED_WIDTH = 240
"""Rendering is what the page takes longest for."""
DEPTH_VOXELS = 4
"""The depth difference, in voxels, from which its colour no longer changes."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """One camera at one instant, as data URIs."""

    camera_name: str
    recorded: str
    rendered: str
    difference: str
    depth_difference: str


def largest_depth_difference(scene: Scene) -> float:
    """Metres of depth difference from which its colour no longer changes."""
    return DEPTH_VOXELS * scene.grid.voxel_size


def comparisons(scene: Scene, recording: Recording) -> list[tuple[float, list[Comparison]]]:
    """(time, one comparison per camera that saw it), at most 6 instants and 4 cameras."""
    instants = {time: i for i, time in enumerate(recording.times)}
    times = evenly([t for t in scene.times if t in instants], MAX_INSTANTS)
    cameras = _chosen_cameras(recording, [instants[t] for t in times])
    drawn, rows = layered_view(scene), []
    for time in times:
        row = []
        for index in recording.frames_at(instants[time]):
            if recording.frames[index].camera_name in cameras:
                row.append(_comparison(scene, drawn, recording.view(index)))
        rows.append((time, row))
    return rows


def _chosen_cameras(recording: Recording, instants: Sequence[int]) -> set[str]:
    """The cameras with most pictures at these instants, spread over their names."""
    present = [recording.frames[i].camera_name for t in instants for i in recording.frames_at(t)]
    counts = {name: present.count(name) for name in sorted(set(present))}
    most = max(counts.values(), default=0)
    steady = [name for name, count in counts.items() if count == most]
    return (
        {steady[round(i)] for i in np.linspace(0, len(steady) - 1, MAX_CAMERAS)}
        if steady
        else set()
    )


def _comparison(scene: Scene, drawn: RenderView, view: View) -> Comparison:
    camera = view.camera.scaled(min(1.0, RENDERED_WIDTH / view.camera.width))
    rendered, depth = drawn(view.time, camera)
    recorded = resized(view.colour, camera.width, camera.height)
    shown = view.camera.scaled(min(1.0, RECORDED_WIDTH / view.camera.width))
    gap = depth_difference(
        sampled(view.depth, camera.width, camera.height),
        depth,
        largest_depth_difference(scene),
    )
    return Comparison(
        view.camera_name,
        data_uri(resized(view.colour, shown.width, shown.height)),
        data_uri(rendered),
        data_uri(difference(recorded, rendered)),
        data_uri(gap),
    )
