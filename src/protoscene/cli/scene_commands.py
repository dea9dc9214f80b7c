"""The commands that write a scene anew: ``export`` for other tools, ``edit`` with a change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from protoscene.cli.commands import check_time
from protoscene.cli.options import Common, OutputFolder, Reading, SceneFolder, shown_as
from protoscene.cli.results import say_result, say_scene
from protoscene.cli.terminal import progress
from protoscene.errors import Refused
from protoscene.files import OutputLock, check_disk_space, write_file

if TYPE_CHECKING:
    from protoscene.scene import Scene

SUFFIX = {"glb": ".glb", "ply": ".ply", "kitti": ".txt", "transforms": ""}


@dataclass(kw_only=True)
class Export(Reading):
    """Writes a scene for other tools.

    glb: background, a mesh for each prototype, and an animation of each track (three.js, Blender).
    ply: the coloured mesh at one --time.
    kitti: boxes and tracks as KITTI tracking labels. Its axes are x right, y down, z forward: here
    those of a camera at the world's origin that looks along +x (x = -y, y = -z, z = x of the
    world); rotation_y is -yaw - 90 degrees; frames count the scene's instants.
    transforms: the --recording written anew (nerfstudio's layout), with masks of each object.
    """

    scene: SceneFolder
    """Folder of the scene."""
    to: Annotated[
        Literal["glb", "ply", "kitti", "transforms"],
        shown_as("{glb,ply,kitti,transforms}", "(required)"),
    ]
    """What to write."""
    output: Annotated[Path, shown_as("FILE", "(required)", short="-o")]
    """The file (.glb, .ply, .txt), or for transforms the folder, to be written; must not exist."""
    time: Annotated[float | None, shown_as("T")] = None
    """Seconds; for ply."""
    recording: Annotated[Path | None, shown_as("RECORDING")] = None
    """The recording of the scene; for transforms."""

    def run(self) -> None:
        self._check_usage()
        with OutputLock(self.output):
            from protoscene.store import load_scene

            scene = load_scene(self.scene)
            if self.recording is not None:
                self._write_masked(scene, self.recording)
            else:
                data = self._encoded(scene)
                check_disk_space(self.output, len(data))
                write_file(self.output, data)
        what = "folder" if self.to == "transforms" else "file"
        say_result({what: str(self.output), "objects": len(scene.objects)}, self.json)

    def _check_usage(self) -> None:
        suffix = SUFFIX[self.to]
        if suffix and self.output.suffix.lower() != suffix:
            raise Refused(self.output, "output", "unknown suffix", self.output.suffix, suffix)
        needed = {"--time": "ply", "--recording": "transforms"}
        for option, value in (("--time", self.time), ("--recording", self.recording)):
            if (value is None) == (self.to == needed[option]):
                problem = "is needed" if value is None else "is not used"
                raise Refused("command line", option, f"{problem} by --to {self.to}")

    def _encoded(self, scene: Scene) -> bytes:
        if self.to == "kitti":
            from protoscene.export.kitti import scene_kitti

            return scene_kitti(scene)
        if self.time is not None:
            from protoscene.export.ply import scene_ply

            check_time(scene, self.time, "command line", "--time")
            return scene_ply(scene, self.time)
        from protoscene.export.glb import scene_glb

        return scene_glb(scene)

    def _write_masked(self, scene: Scene, recording: Path) -> None:
        from protoscene.export.transforms import write_masked

        recorded = self.load(recording)
        made_from = scene.made_by.get("recording_sha256")
        if made_from not in (None, recorded.sha256):
            problem = "is not the one that the scene was made from"
            raise Refused(recording, "recording", problem, recorded.sha256, made_from)
        with progress() as show:
            write_masked(scene, recorded, self.output, show)


@dataclass(kw_only=True)
class Edit(Common):
    """Writes a scene with one change: exactly one of --remove, --move, --insert, --swap.

    Lengths are metres, yaw radians (counter-clockwise, 0 along +x).
    """

    scene: SceneFolder
    """Folder of the scene."""
    output: OutputFolder
    """Folder of the changed scene; must not exist."""
    remove: Annotated[int | None, shown_as("ID")] = None
    """Take this object away."""
    move: Annotated[tuple[float, ...] | None, shown_as("ID X Y Z [YAW]")] = None
    """Put its centre there at its first instant and take its whole track along; with --time, move
    it at that instant only."""
    insert: Annotated[
        tuple[int, float, float, float, float] | None, shown_as("PROTOTYPE X Y Z YAW")
    ] = None
    """Put another object of this prototype there, at all instants."""
    swap: Annotated[tuple[int, int] | None, shown_as("ID PROTOTYPE")] = None
    """Make the object one of this prototype."""
    time: Annotated[float | None, shown_as("T", "(default: all the time)")] = None
    """Only at this instant, in seconds."""

    def run(self) -> None:
        self._check_usage()
        with OutputLock(self.output) as lock:
            from protoscene.store import load_scene, save_scene

            scene = self._edited(load_scene(self.scene))
            save_scene(scene, self.output, lock)
        say_scene(scene, self.output, self.json)

    def _check_usage(self) -> None:
        given = [n for n in ("remove", "move", "insert", "swap") if getattr(self, n) is not None]
        if len(given) != 1:
            expected = "one of --remove, --move, --insert, --swap"
            got = " ".join(f"--{name}" for name in given) or "none"
            raise Refused("command line", "edit", "needs exactly one edit", got, expected)
        if self.move is not None and (len(self.move) not in (4, 5) or self.move[0] % 1 != 0):
            got = " ".join(f"{number:g}" for number in self.move)
            raise Refused("command line", "--move", "cannot be read", got, "ID X Y Z [YAW]")

    def _edited(self, scene: Scene) -> Scene:
        from protoscene.edit import insert_object, move_object, remove_object, swap_prototype

        if self.remove is not None:
            return remove_object(scene, self.remove, self.time)
        if self.swap is not None:
            return swap_prototype(scene, *self.swap, self.time)
        if self.insert is not None:
            prototype, x, y, z, yaw = self.insert
            return insert_object(scene, prototype, (x, y, z), yaw, self.time)
        assert self.move is not None
        id, x, y, z, *turn = self.move
        return move_object(scene, int(id), (x, y, z), turn[0] if turn else None, self.time)
