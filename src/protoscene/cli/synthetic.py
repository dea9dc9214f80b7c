"""The commands for recordings that protoscene made up itself: ``synth`` and ``demo``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Literal

from protoscene.cli.jobs import discovered, report, scored
from protoscene.cli.options import Common, Number, OutputFolder, shown_as
from protoscene.cli.results import card_as_dict, say_headlines, say_result, say_scene
from protoscene.cli.terminal import progress, say, say_json
from protoscene.errors import Refused
from protoscene.files import OutputLock, new_folder, prepare_output, write_file

DEMO_VOXEL_M = 0.05
Name = Literal[
    "four_cameras", "one_camera", "moving_rig", "one_camera_moving", "crowd", "stop_and_go",
    "small", "jumps", "reversing_sideways", "tiny", "demo",
]  # fmt: skip
"""As in synth's NAMED, which is too slow to import for --help."""


@dataclass(kw_only=True)
class Synth(Common):
    """Makes a recording with known truth (needs the extra: pip install 'protoscene[sim]')."""

    output: OutputFolder
    """Folder to be written: recording/, heldout/ and truth.json; must not exist."""
    seed: int = 0
    """Of the things, their paths, the cameras and the noise."""
    like: Annotated[Name | None, shown_as("NAME")] = None
    """Begin with the settings of a recording of the suite: four_cameras, one_camera, moving_rig,
    one_camera_moving, crowd, stop_and_go, small, jumps, reversing_sideways; or of tiny, demo."""
    n_instants: Number = None
    """Moments at which every camera takes a picture."""
    n_cameras: Number = None
    """Cameras of the recording, besides those that are held out."""
    n_moving: Number = None
    """Things that move."""
    n_parked: Number = None
    """Things that stand still, of the same kinds."""
    rig: Annotated[Literal["fixed", "moving"] | None, shown_as("{fixed,moving}")] = None
    """Whether the cameras stand still or move."""
    size: Annotated[Literal["large", "small"] | None, shown_as("{large,small}")] = None
    """Of the things: large ones, or small ones of 0.2 to 0.25 m."""
    width: Number = None
    """Of the pictures, in pixels."""
    height: Number = None
    """Of the pictures, in pixels."""

    def run(self) -> None:
        prepare_output(self.output)
        from protoscene.synth import NAMED, SynthSettings, write_recording

        settings = NAMED[self.like](self.seed) if self.like else SynthSettings(seed=self.seed)
        own = ("n_instants", "n_cameras", "rig", "n_moving", "n_parked", "size", "width", "height")
        given = {name: getattr(self, name) for name in own if getattr(self, name) is not None}
        with progress() as show:
            write_recording(replace(settings, **given), self.output, show)
        result = {
            "recording": str(self.output / "recording"),
            "truth": str(self.output / "truth.json"),
        }
        say_result(result, self.json)


@dataclass(kw_only=True)
class Demo(Common):
    """Discovers the recording that comes with protoscene, scores it and writes the report."""

    output: Annotated[Path, shown_as("DIR", "(default: protoscene-demo)", short="-o")] = Path(
        "protoscene-demo"
    )
    """Folder to be written: recording/, truth.json, scene/ and report.html; must not exist."""

    def run(self) -> None:
        with OutputLock(self.output), new_folder(self.output) as folder:
            _unpack_demo(folder)
            from protoscene.formats import load
            from protoscene.store import save_scene

            recording = load(folder / "recording")
            scene = discovered(recording, voxel_size=DEMO_VOXEL_M)
            save_scene(scene, folder / "scene")
            card = scored(scene, folder / "truth.json")
            report(scene, folder / "report.html", recording, card)
        where, page = self.output / "scene", self.output / "report.html"
        if self.json:
            say_json({"scene": str(where), "page": str(page), "score": card_as_dict(card)})
            return
        say_scene(scene, where, as_json=False)
        say("")
        say_headlines(card)
        say("")
        say(f"All scores, the scene in 3-D and every picture: {page}")


def _unpack_demo(folder: Path) -> None:
    with as_file(files("protoscene") / "demo") as embedded:
        if not (embedded / "recording").is_dir():
            raise Refused("demo", "recording", "is not part of this installation")
        for file in sorted(p for p in embedded.rglob("*") if p.is_file()):
            copy = folder / file.relative_to(embedded)
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_file(copy, file.read_bytes())
