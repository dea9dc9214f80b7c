"""What the sensors measured, as coloured points: what a scene was found from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from protoscene.geometry import Grid
from protoscene.recording import Recording
from protoscene.report.shapes import Bytes
from protoscene.report.strips import evenly
from protoscene.scene import Scene

MAX_INSTANTS = 40
ALL_POINTS = 300_000
MAX_POINTS = 20_000
"""Of one instant. What is shown is drawn from all that was measured, evenly."""


def evidence(
    pack: Bytes, scene: Scene, recording: Recording | None, origin: Float[np.ndarray, "3"]
) -> list[dict[str, Any]]:
    """Points inside the scene's grid, around ``origin``, at up to 40 of its instants, evenly
    spread; none without a recording. A scene itself remembers nothing of what was measured."""
    if recording is None:
        return []
    instants = {time: i for i, time in enumerate(recording.times)}
    times = evenly([time for time in scene.times if time in instants], MAX_INSTANTS)
    n_points = min(MAX_POINTS, ALL_POINTS // max(1, len(times)))
    rng = np.random.default_rng(0)
    shown = []
    for time in times:
        points, colours = _measured(recording, instants[time], scene.grid)
        kept = rng.permutation(len(points))[:n_points]
        kept.sort()
        shown.append(
            {
                "instant": scene.times.index(time),
                **pack.places(points[kept] - origin, colours[kept]),
            }
        )
    return shown


def _measured(
    recording: Recording, instant: int, grid: Grid
) -> tuple[Float[np.ndarray, "n 3"], UInt8[np.ndarray, "n 3"]]:
    """All that was measured inside of ``grid`` at an instant of the recording."""
    parts = list(_parts(recording, instant))
    points = np.concatenate([part[0] for part in parts])
    colours = np.concatenate([part[1] for part in parts])
    inside = ((points >= grid.lower) & (points <= grid.upper)).all(axis=1)
    return points[inside], colours[inside]


def _parts(recording: Recording, instant: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if recording.sweeps:
        sweep = recording.sweep(instant)
        grey = np.rint(255 * sweep.intensity).astype(np.uint8)
        yield sweep.world_points, np.repeat(grey[:, None], 3, axis=1)
    for view in recording.views(instant):
        known = np.isfinite(view.depth) & (view.depth > 0)
        along = view.camera.directions()[known] * view.depth[known][:, None]
        yield view.camera.centre + along, view.colour[known]
