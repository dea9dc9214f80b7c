"""What does not fit on the disk is refused beforehand, with its place and the numbers."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

import street_world as street
from cli_runs import files_of, recording, run, scene_folder
from protoscene.discover import discover, disk_plan, grid_that_fits, scene_bytes
from protoscene.errors import Refused
from protoscene.files import free_bytes
from protoscene.formats import load
from protoscene.geometry import Grid
from protoscene.lidar import sweeps
from protoscene.store import save_scene
from small_scene import a_scene

__all__ = ["recording", "scene_folder"]  # fixtures of theirs

FREE = 100


@pytest.fixture
def nearly_full(monkeypatch: pytest.MonkeyPatch, recording: Path, scene_folder: Path) -> None:
    """Disks of which ``FREE`` bytes are left, and whose every long job fails the test."""
    monkeypatch.setattr("protoscene.files.free_bytes", lambda path: FREE)
    for name in ("discover.observe", "parse.observe", "learn.discover_all"):
        module, _, function = f"protoscene.{name}".rpartition(".")
        __import__(module)
        monkeypatch.setattr(sys.modules[module], function, lambda *_, **__: pytest.fail("begun"))


COMMANDS = {
    "discover": ("discover", "RECORDING", "-o", "out"),
    "discover, resumed": ("discover", "RECORDING", "--resume", "-o", "out"),
    "learn": ("learn", "RECORDING", "RECORDING", "-o", "out"),
    "parse": ("parse", "RECORDING", "-o", "out"),
    "compose": ("compose", "SCENE", "--time", "0", "-o", "out.npz"),
    "compose, safetensors": ("compose", "SCENE", "--time", "0", "-o", "out.safetensors"),
    "export glb": ("export", "SCENE", "--to", "glb", "-o", "out.glb"),
    "export ply": ("export", "SCENE", "--to", "ply", "--time", "0", "-o", "out.ply"),
    "edit": ("edit", "SCENE", "--remove", "0", "-o", "out"),
}


@pytest.mark.usefixtures("nearly_full")
@pytest.mark.parametrize("command", COMMANDS)
def test_too_little_room_is_refused_before_anything_is_done(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, recording: Path, scene_folder: Path,
    command: str,
) -> None:  # fmt: skip
    empty = tmp_path / "empty"
    empty.mkdir()
    before = files_of(tmp_path)
    places = {"RECORDING": recording, "SCENE": scene_folder}
    arguments = [places.get(a, empty / a if a.startswith("out") else a) for a in COMMANDS[command]]
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    (line,) = [line for line in err.splitlines() if "error" in line]
    found = re.search(
        r"error: (\S+): output: not enough room on the disk "
        rf"\(got {FREE} bytes free, expected at least \d+(\.\d MiB| bytes)\)$",
        line,
    )
    assert found and Path(found[1]).name.startswith("out")
    assert files_of(tmp_path) == before and list(empty.iterdir()) == []


def test_pictures_with_masks_are_refused_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, recording: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    save_scene(replace(a_scene(), made_by={}), tmp_path / "scene")
    frames = load(recording).frames
    planned = sum(5 * f.camera.width * f.camera.height + 2**11 for f in frames)
    arguments = ["export", tmp_path / "scene", "--to", "transforms", "--recording", recording]
    monkeypatch.setattr("protoscene.files.free_bytes", lambda path: planned - 1)
    code, _, err = run(capsys, *arguments, "-o", tmp_path / "out")
    assert code == 2 and "not enough room on the disk" in err and not (tmp_path / "out").exists()
    monkeypatch.setattr("protoscene.files.free_bytes", lambda path: planned)
    assert run(capsys, *arguments, "-o", tmp_path / "out")[0] == 0
    assert sum(map(len, files_of(tmp_path / "out").values())) <= planned


@pytest.mark.usefixtures("nearly_full")
def test_a_lidar_recording_is_refused_before_it_is_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = street.write_street(tmp_path / "street", 2, world=())
    before = files_of(tmp_path)
    monkeypatch.setattr(sweeps, "_first_pass", lambda *_: pytest.fail("begun"))
    code, _, err = run(capsys, "discover", folder, "-o", tmp_path / "out")
    assert code == 2 and "out.work: output: not enough room on the disk" in err
    assert files_of(tmp_path) == before


def test_what_an_interrupted_run_has_written_is_not_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recording: Path
) -> None:
    read = load(recording)
    planned = disk_plan(read, grid_that_fits(read))
    monkeypatch.setattr("protoscene.files.free_bytes", lambda path: planned - 1000)
    monkeypatch.setattr(sys.modules["protoscene.discover"], "observe", lambda *_: begun())
    begun = Mock(side_effect=InterruptedError)
    with pytest.raises(Refused, match="not enough room"):
        discover(read, work=tmp_path / "work")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "written").write_bytes(bytes(1000))
    with pytest.raises(InterruptedError):
        discover(read, work=tmp_path / "work")


def test_plans_grow_with_their_causes(recording: Path) -> None:
    read, grid = load(recording), Grid((0, 0, 0), 0.1, (40, 100, 100))
    finer = grid.resampled(0.05)
    assert scene_bytes(finer) - scene_bytes(grid) == 8 * 7 * grid.n_voxels
    assert disk_plan(read, finer) - disk_plan(read, grid) == 24 * 7 * grid.n_voxels
    assert disk_plan(read, grid) > scene_bytes(grid)


def test_free_bytes_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "a/b/c") > 2**20
