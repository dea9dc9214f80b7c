"""The commands: their options, and what each does with the rooms below.

Whatever is slow to import is imported by the command that needs it, after the output was found
to be free: ``--help`` and refusals answer at once.
"""

from __future__ import annotations

import io
import shutil
from dataclasses import asdict, dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from tyro.conf import Positional, arg

from protoscene.cli.results import say_card, say_result, say_scene
from protoscene.cli.terminal import complain, progress, say, say_json, say_table
from protoscene.errors import Refused
from protoscene.files import OutputLock, new_folder, prepare_output, write_file

if TYPE_CHECKING:
    import numpy as np

    from protoscene.recording import Recording
    from protoscene.scene import Scene

SceneFolder = Annotated[Positional[Path], arg(metavar="SCENE")]
OutputFolder = Annotated[Path, arg(aliases=["-o"], metavar="DIR")]
Six = tuple[float, float, float, float, float, float]
Four = tuple[float, float, float, float]
PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
COMPOSE_BYTES = 64
"""For each voxel: four float32 channels as composed, premultiplied and encoded."""
FROM_DATA = "(default: from the data)"


class Command(Protocol):
    def run(self) -> None:
        """Does the command and says its result. Raises Refused or Failed."""


@dataclass(kw_only=True)
class _Common:
    json: bool = False
    """Print the result as one JSON object."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(kw_only=True)
class _FromRecording(_Common):
    recording: Annotated[Positional[Path], arg(metavar="RECORDING")]
    """Folder of the recording."""
    format: Literal["transforms", "tum", "7scenes"] | None = None
    """Layout of the recording; recognised from its files when left out."""
    intrinsics: Annotated[Four | None, arg(metavar="FX FY CX CY")] = None
    """Of the cameras of a tum or 7scenes recording, in pixels."""

    def load(self) -> Recording:
        from protoscene.formats import load

        return load(self.recording, self.format, self.intrinsics)


@dataclass(kw_only=True)
class Check(_FromRecording):
    """Reads everything of a recording and lists every problem."""

    def run(self) -> None:
        from protoscene.check import check

        checked = check(self.recording, self.format, self.intrinsics)
        summary = asdict(checked.summary) if checked.summary else None
        if self.json:
            say_json({"problems": [str(p) for p in checked.problems], "summary": summary})
        else:
            for problem in checked.problems:
                say(str(problem))
            if summary:
                say_table(["recording", "value"], list(summary.items()))
        if checked.problems:
            n = len(checked.problems)
            what = "1 problem" if n == 1 else f"{n} problems"
            raise Refused(self.recording, "recording", f"{what} found")


@dataclass(kw_only=True)
class Discover(_FromRecording):
    """Finds background, objects, tracks and prototypes of a recording."""

    output: Annotated[Path, arg(aliases=["-o"], metavar="SCENE")]
    """Folder of the scene to be written; must not exist."""
    voxel_size: Annotated[float | None, arg(metavar="M", help_behavior_hint=FROM_DATA)] = None
    """Side of a voxel in metres."""
    bounds: Annotated[
        Six | None, arg(metavar="X0 Y0 Z0 X1 Y1 Z1", help_behavior_hint=FROM_DATA)
    ] = None
    """The space to be explained, in metres."""
    seed: int = 0
    resume: bool = False
    """Go on where an interrupted run stopped; a finished one is left as it is."""

    def run(self) -> None:
        if self.resume and self.output.exists():
            scene = self._finished()
            complain("note", f"{self.output} is complete already")
        else:
            with OutputLock(self.output) as lock:
                scene = self._discovered(lock)
        say_scene(scene, self.output, self.json)

    def _discovered(self, lock: OutputLock) -> Scene:
        from protoscene.store import save_scene

        scene = _discover(self.load(), self._settings(), self.voxel_size, self.bounds, self.seed)
        save_scene(scene, self.output, lock)
        return scene

    def _settings(self) -> str:
        settings = {"voxel_size": self.voxel_size, "bounds": self.bounds}
        return ", ".join(f"{name} {value}" for name, value in settings.items() if value is not None)

    def _finished(self) -> Scene:
        """The scene that is there, if it is what this run would write."""
        from protoscene import __version__
        from protoscene.store import load_scene

        scene = load_scene(self.output)
        wanted = {
            "protoscene": __version__,
            "seed": self.seed,
            "recording_sha256": self.load().sha256,
            "settings": self._settings(),
        }
        for field, value in wanted.items():
            if (made := scene.made_by.get(field)) != value:
                problem = "exists already, made from another"
                raise Refused(self.output, "output", f"{problem} {field}", made, value)
        return scene


@dataclass(kw_only=True)
class Compose(_Common):
    """Writes the scene at one time as an RGBA volume."""

    scene: SceneFolder
    time: Annotated[float, arg(metavar="T")]
    """Seconds."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="FILE")]
    """Ends in .safetensors or .npz."""
    resolution: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: own)")] = None
    """Voxels along each side of the volume; the scene's own when left out."""

    def run(self) -> None:
        if self.output.suffix not in (".safetensors", ".npz"):
            expected = ".safetensors or .npz"
            raise Refused(self.output, "output", "unknown suffix", self.output.suffix, expected)
        if self.resolution is not None and not 1 <= self.resolution <= 2048:
            problem = "is no number of voxels"
            raise Refused("command line", "--resolution", problem, self.resolution, "1 to 2048")
        with OutputLock(self.output):
            from protoscene.memory import require
            from protoscene.store import load_scene, volume_bytes

            scene = load_scene(self.scene)
            _check_time(scene, self.time, "command line", "--time")
            n_voxels = self.resolution**3 if self.resolution else scene.grid.n_voxels
            require({"volume": n_voxels * COMPOSE_BYTES}, "try a smaller --resolution")
            volume = scene.compose(self.time, self.resolution)
            write_file(self.output, volume_bytes(volume, self.output.suffix))
        result = {"file": str(self.output), "shape": list(volume.rgba.shape),
                  "voxel_size": volume.grid.voxel_size}  # fmt: skip
        say_result(result, self.json)


@dataclass(kw_only=True)
class Render(_Common):
    """Writes a picture of the scene for each camera of a file."""

    scene: SceneFolder
    cameras: Annotated[Path, arg(metavar="CAMERAS.json")]
    """A transforms file; its pictures need not exist."""
    output: OutputFolder
    """Folder of the pictures (DIR/file_path); must not exist."""

    def run(self) -> None:
        with OutputLock(self.output):
            from protoscene.formats import read_cameras
            from protoscene.score_pictures import scene_view
            from protoscene.store import load_scene

            scene, cameras = load_scene(self.scene), read_cameras(self.cameras)
            for i, (_, time, name) in enumerate(cameras):
                _check_time(scene, time, self.cameras, f"frames[{i}].time")
                if Path(name).suffix.lower() not in PICTURES:
                    field, known = f"frames[{i}].file_path", ", ".join(PICTURES)
                    raise Refused(self.cameras, field, "unknown suffix", name, known)
            view = scene_view(scene)
            with progress() as show, new_folder(self.output) as folder:
                for i, (camera, time, name) in enumerate(cameras):
                    show("render", i, len(cameras))
                    colour, _ = view(time, camera)
                    _write_picture(folder / name, colour)
        say_result({"folder": str(self.output), "pictures": len(cameras)}, self.json)


@dataclass(kw_only=True)
class Score(_Common):
    """Compares a scene with the truth."""

    scene: SceneFolder
    truth: Annotated[Positional[Path], arg(metavar="TRUTH")]
    """truth.json: a scene.json whose objects also carry their kind."""

    def run(self) -> None:
        from protoscene.score import as_dict, load_truth, score
        from protoscene.store import load_scene

        card = score(load_scene(self.scene), load_truth(self.truth))
        if self.json:
            say_json(as_dict(card))
        else:
            say_card(card)


@dataclass(kw_only=True)
class View(_Common):
    """Writes the report page of a scene: one file to open in a browser."""

    scene: SceneFolder
    html: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: SCENE.html)")] \
        = None  # fmt: skip
    """The page to be written; must not exist."""
    recording: Annotated[Path | None, arg(metavar="RECORDING")] = None
    """Show its pictures beside the rendered ones."""
    truth: Annotated[Path | None, arg(metavar="TRUTH")] = None
    """Show the scores against it."""

    def run(self) -> None:
        page = self.html or Path(f"{self.scene}.html")
        with OutputLock(page):
            from protoscene.formats import load
            from protoscene.report import write_page
            from protoscene.score import load_truth, score
            from protoscene.store import load_scene

            scene = load_scene(self.scene)
            recording = load(self.recording) if self.recording else None
            card = score(scene, load_truth(self.truth)) if self.truth else None
            write_page(scene, page, recording, card)
        say_result({"page": str(page)}, self.json)


@dataclass(kw_only=True)
class Synth(_Common):
    """Makes a recording with known truth (needs the extra: pip install 'protoscene[sim]')."""

    output: OutputFolder
    """Folder to be written: recording/, heldout/ and truth.json; must not exist."""
    seed: int = 0
    like: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: none)")] = None
    """Begin with the settings of a named recording, such as crowd, jumps or stop_and_go."""
    n_instants: int | None = None
    n_cameras: int | None = None
    rig: Literal["fixed", "moving"] | None = None
    n_moving: int | None = None
    n_parked: int | None = None
    size: Literal["large", "small"] | None = None
    width: int | None = None
    height: int | None = None

    def run(self) -> None:
        prepare_output(self.output)
        from protoscene.synth import SUITE, SynthSettings, write_recording

        if self.like is not None and self.like not in SUITE:
            raise Refused("command line", "--like", "unknown", self.like, ", ".join(SUITE))
        settings = SUITE[self.like](self.seed) if self.like else SynthSettings(seed=self.seed)
        own = ("n_instants", "n_cameras", "rig", "n_moving", "n_parked", "size", "width", "height")
        given = {name: getattr(self, name) for name in own if getattr(self, name) is not None}
        write_recording(replace(settings, **given), self.output)
        result = {
            "recording": str(self.output / "recording"),
            "truth": str(self.output / "truth.json"),
        }
        say_result(result, self.json)


@dataclass(kw_only=True)
class Demo(_Common):
    """Discovers the recording that comes with protoscene, scores it and writes the report."""

    output: OutputFolder = Path("protoscene-demo")
    """Folder to be written: recording/, truth.json, scene/ and report.html; must not exist."""

    def run(self) -> None:
        with OutputLock(self.output), new_folder(self.output) as folder:
            _unpack_demo(folder)
            from protoscene.formats import load
            from protoscene.report import write_page
            from protoscene.score import as_dict, load_truth, score
            from protoscene.store import save_scene

            recording = load(folder / "recording")
            scene = _discover(recording, settings="")
            save_scene(scene, folder / "scene")
            card = score(scene, load_truth(folder / "truth.json"))
            write_page(scene, folder / "report.html", recording, card)
        page = self.output / "report.html"
        if self.json:
            say_json(
                {"scene": str(self.output / "scene"), "page": str(page), "score": as_dict(card)}
            )
            return
        say_scene(scene, self.output / "scene", as_json=False)
        say("")
        say_card(card)
        say(f"\nThe report is {page}")


def _discover(
    recording: Recording,
    settings: str,
    voxel_size: float | None = None,
    bounds: Six | None = None,
    seed: int = 0,
) -> Scene:
    """The scene of a recording, with progress shown, marked with what it was made from."""
    from protoscene.discover import discover

    with progress() as show:
        scene = discover(recording, voxel_size=voxel_size, bounds=bounds, seed=seed, progress=show)
    made_by: dict[str, str | int] = {
        "command": "discover",
        "seed": seed,
        "recording_sha256": recording.sha256,
        "settings": settings,
    }
    return replace(scene, made_by={**scene.made_by, **made_by})


def _unpack_demo(folder: Path) -> None:
    with as_file(files("protoscene") / "demo") as embedded:
        if not (embedded / "recording").is_dir():
            raise Refused("demo", "recording", "is not part of this installation")
        shutil.copytree(embedded, folder, dirs_exist_ok=True)


def _check_time(scene: Scene, time: float, file: object, field: str) -> None:
    first, last = scene.times[0], scene.times[-1]
    if not first <= time <= last:
        expected = f"{first:g} to {last:g} seconds"
        raise Refused(file, field, "is not a time of the scene", time, expected)


def _write_picture(path: Path, colour: np.ndarray) -> None:
    from PIL import Image

    encoded = io.BytesIO()
    kind = PICTURES[path.suffix.lower()]
    Image.fromarray(colour).save(encoded, kind, **({"quality": 95} if kind == "JPEG" else {}))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, encoded.getvalue())


COMMANDS: dict[str, Any] = {
    "demo": Demo,
    "check": Check,
    "discover": Discover,
    "compose": Compose,
    "render": Render,
    "score": Score,
    "view": View,
    "synth": Synth,
}
