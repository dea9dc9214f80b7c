"""The long jobs that several commands do, each with its progress shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from protoscene.cli.terminal import progress

if TYPE_CHECKING:
    from protoscene.recording import Recording
    from protoscene.scene import Scene
    from protoscene.score import ScoreCard
    from protoscene.viewer import Viewer

Six = tuple[float, float, float, float, float, float]


def settings_of(voxel_size: float | None, bounds: Six | None) -> str:
    """What was asked for, as a scene remembers it; empty where all was chosen from the data."""
    given = {"voxel_size": voxel_size, "bounds": bounds}
    return ", ".join(f"{name} {value}" for name, value in given.items() if value is not None)


def discovered(
    recording: Recording,
    voxel_size: float | None = None,
    bounds: Six | None = None,
    seed: int = 0,
    work: Path | None = None,
) -> Scene:
    """The scene of a recording, marked with the settings that it was made with."""
    from protoscene.discover import discover

    with progress() as show:
        scene = discover(
            recording, voxel_size=voxel_size, bounds=bounds, seed=seed, progress=show, work=work
        )
    return replace(scene, made_by={**scene.made_by, "settings": settings_of(voxel_size, bounds)})


def scored(scene: Scene, truth: Path) -> ScoreCard:
    """The scene's score against a truth.json."""
    from protoscene.score import load_truth, score

    known = load_truth(truth)
    with progress() as show:
        show("score", 0, 1)
        return score(scene, known)


def report(scene: Scene, page: Path, recording: Recording | None, card: ScoreCard | None) -> None:
    """Writes the report page."""
    from protoscene.report import write_page

    with progress() as show:
        show("report", 0, 1)
        write_page(scene, page, recording, card)


def viewer(scene: Scene, recording: Recording | None, card: ScoreCard | None) -> Viewer:
    """A server of the report page, which has its address but does not answer yet."""
    from protoscene.report import page
    from protoscene.viewer import Viewer

    with progress() as show:
        show("report", 0, 1)
        return Viewer(page(scene, recording, card))
