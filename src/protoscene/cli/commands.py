"""The commands: their options, and what each does with the rooms below.

Whatever is slow to import is imported by the command that needs it, after the output was found
to be free: ``--help`` and refusals answer at once.
"""

from __future__ import annotations

import io
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional

from protoscene.cli import interrupts
from protoscene.cli.jobs import Six, discovered, report, scored, settings_of, viewer
from protoscene.cli.options import (
    Common,
    OutputFolder,
    Reading,
    RecordingFolder,
    SceneFolder,
    Switch,
    shown_as,
)
from protoscene.cli.results import say_card, say_result, say_scene, say_summary
from protoscene.cli.terminal import complain, progress, say, say_json
from protoscene.cli.unfinished import remove_work, work_for, work_of
from protoscene.errors import Refused
from protoscene.files import OutputLock, check_disk_space, new_folder, write_file

if TYPE_CHECKING:
    import numpy as np

    from protoscene.recording import Recording
    from protoscene.scene import Scene
    from protoscene.score import ScoreCard

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
COMPOSE_BYTES = 64
"""For each voxel: four float32 channels as composed, clamped, encoded and read back."""
COMPOSE_LEAST = 2**26
"""However few voxels: compiled code and what libraries take when they are first used."""
FROM_DATA = "(default: from the data)"


@dataclass(kw_only=True)
class Check(Reading):
    """Reads everything of a recording and lists every problem."""

    recording: RecordingFolder
    """Folder of the recording."""

    def run(self) -> None:
        from protoscene.check import check

        with progress() as show:
            checked = check(self.recording, self.format, self.intrinsics, show)
        if self.json:
            summary = asdict(checked.summary) if checked.summary else None
            say_json({"problems": [str(p) for p in checked.problems], "summary": summary})
        else:
            for problem in checked.problems:
                say(str(problem))
            if checked.summary:
                say_summary(checked.summary)
        if checked.problems:
            n = len(checked.problems)
            what = "1 problem" if n == 1 else f"{n} problems"
            raise Refused(self.recording, "recording", f"{what} found")


@dataclass(kw_only=True)
class Discover(Reading):
    """Finds background, objects, tracks and prototypes of a recording.

    What an interrupted run has done is kept in SCENE.work."""

    recording: RecordingFolder
    """Folder of the recording."""
    output: Annotated[Path, shown_as("SCENE", "(required)", short="-o")]
    """Folder of the scene to be written; must not exist."""
    voxel_size: Annotated[float | None, shown_as("M", FROM_DATA)] = None
    """Side of a voxel in metres."""
    bounds: Annotated[Six | None, shown_as("X0 Y0 Z0 X1 Y1 Z1", FROM_DATA)] = None
    """The space to be explained, in metres."""
    seed: int = 0
    """Of whatever is drawn at random."""
    resume: Switch = False
    """Go on where an interrupted run was; leave a finished scene as it is."""

    def run(self) -> None:
        if self.voxel_size is not None and not 0 < self.voxel_size < math.inf:
            got, expected = self.voxel_size, "more than 0 metres"
            raise Refused("command line", "--voxel-size", "is no length", got, expected)
        if self.resume and self.output.exists():
            scene = self._finished()
            remove_work(self.output)
            complain("note", f"{self.output} is complete already")
        else:
            with OutputLock(self.output) as lock:
                scene = self._discovered(lock)
        say_scene(scene, self.output, self.json)

    def _discovered(self, lock: OutputLock) -> Scene:
        from protoscene.store import save_scene

        with work_for(self.output, self.resume, "*/stage.json"):
            scene = self._made(self.load(self.recording))
            save_scene(scene, self.output, lock)
        return scene

    def _made(self, recording: Recording) -> Scene:
        work = work_of(self.output)
        return discovered(recording, self.voxel_size, self.bounds, self.seed, work)

    def _finished(self) -> Scene:
        """The scene that is there, if it is what this run would write."""
        from protoscene import __version__
        from protoscene.store import load_scene

        scene = load_scene(self.output)
        wanted = {
            "protoscene": __version__,
            "seed": self.seed,
            "recording_sha256": self.load(self.recording).sha256,
            "settings": settings_of(self.voxel_size, self.bounds),
            "edits": None,
            "command": type(self).__name__.lower(),
        }
        for field, value in wanted.items():
            if (made := scene.made_by.get(field)) != value:
                problem = "exists already, made from another"
                raise Refused(self.output, "output", f"{problem} {field}", made, value)
        return scene


@dataclass(kw_only=True)
class Compose(Common):
    """Writes the scene at one time as an RGBA volume."""

    scene: SceneFolder
    """Folder of the scene."""
    time: Annotated[float, shown_as("T", "(required)")]
    """Seconds."""
    output: Annotated[Path, shown_as("FILE", "(required)", short="-o")]
    """The volume to be written: .safetensors or .npz; must not exist."""
    resolution: Annotated[int | None, shown_as("N")] = None
    """Voxels along each side of the volume; the scene's own grid when left out."""

    def run(self) -> None:
        if self.output.suffix not in (".safetensors", ".npz"):
            expected = ".safetensors or .npz"
            raise Refused(self.output, "output", "unknown suffix", self.output.suffix, expected)
        if self.resolution is not None and not 1 <= self.resolution <= 2048:
            problem = "is no number of voxels"
            raise Refused("command line", "--resolution", problem, self.resolution, "1 to 2048")
        with OutputLock(self.output):
            from protoscene.memory import require
            from protoscene.store import load_scene
            from protoscene.volume_file import volume_bytes

            scene = load_scene(self.scene)
            check_time(scene, self.time, "command line", "--time")
            n_voxels = self.resolution**3 if self.resolution else scene.grid.n_voxels
            plan = {"volume": n_voxels * COMPOSE_BYTES, "program": COMPOSE_LEAST}
            require(plan, resolution_within)
            check_disk_space(self.output, n_voxels * 16)
            volume = scene.compose(self.time, self.resolution)
            write_file(self.output, volume_bytes(volume, self.output.suffix))
        result = {"file": str(self.output), "shape": list(volume.rgba.shape),
                  "voxel_size": volume.grid.voxel_size}  # fmt: skip
        say_result(result, self.json)


@dataclass(kw_only=True)
class Render(Common):
    """Writes a picture of the scene for each camera of a file."""

    scene: SceneFolder
    """Folder of the scene."""
    cameras: Annotated[Path, shown_as("CAMERAS.json", "(required)")]
    """A transforms file; its pictures need not exist."""
    output: OutputFolder
    """Folder of the pictures (DIR/file_path); must not exist."""

    def run(self) -> None:
        with OutputLock(self.output):
            from protoscene.formats import read_cameras
            from protoscene.score_pictures import layered_view
            from protoscene.store import load_scene

            scene, cameras = load_scene(self.scene), read_cameras(self.cameras)
            for i, (_, time, name) in enumerate(cameras):
                check_time(scene, time, self.cameras, f"frames[{i}].time")
                if Path(name).suffix.lower() not in PICTURES:
                    field, known = f"frames[{i}].file_path", ", ".join(PICTURES)
                    raise Refused(self.cameras, field, "unknown suffix", name, known)
            view = layered_view(scene)
            with progress() as show, new_folder(self.output) as folder:
                for i, (camera, time, name) in enumerate(cameras):
                    show("render", i, len(cameras))
                    colour, _ = view(time, camera)
                    _write_picture(folder / name, colour)
        say_result({"folder": str(self.output), "pictures": len(cameras)}, self.json)


@dataclass(kw_only=True)
class Score(Common):
    """Compares a scene with the truth."""

    scene: SceneFolder
    """Folder of the scene."""
    truth: Annotated[Positional[Path], shown_as("TRUTH")]
    """truth.json: a scene.json whose objects also carry their kind."""

    def run(self) -> None:
        from protoscene.store import load_scene

        say_card(scored(load_scene(self.scene), self.truth), self.json)


@dataclass(kw_only=True)
class View(Reading):
    """Shows the report page of a scene: serves it to browsers on this machine, or writes it.

    The address is printed, opens with its token only, and ends with Ctrl-C.
    """

    scene: SceneFolder
    """Folder of the scene."""
    html: Annotated[Path | None, shown_as("FILE")] = None
    """Write the page, as one file to open in a browser, instead of serving it; must not exist."""
    recording: Annotated[Path | None, shown_as("RECORDING")] = None
    """Show what was measured, and its pictures beside the rendered ones."""
    truth: Annotated[Path | None, shown_as("TRUTH")] = None
    """Show the scores against it."""

    def run(self) -> None:
        if self.html is None:
            self._serve()
            return
        with OutputLock(self.html):
            scene, recording, card = self._shown()
            report(scene, self.html, recording, card)
        say_result({"page": str(self.html)}, self.json)

    def _shown(self) -> tuple[Scene, Recording | None, ScoreCard | None]:
        from protoscene.store import load_scene

        scene = load_scene(self.scene)
        recording = self.load(self.recording) if self.recording else None
        return scene, recording, scored(scene, self.truth) if self.truth else None

    def _serve(self) -> None:
        with viewer(*self._shown()) as serving:
            say_result({"url": serving.url}, self.json)
            sys.stdout.flush()
            serving.serve(interrupts.check)


def resolution_within(available: int) -> str:
    """Advice: the largest volume that takes no more bytes."""
    return f"try --resolution {int((max(available - COMPOSE_LEAST, 0) / COMPOSE_BYTES) ** (1 / 3))}"


def check_time(scene: Scene, time: float, file: object, field: str) -> None:
    """Raises Refused where ``time`` is not between the scene's first and last instant."""
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
