"""``export`` and ``edit`` from the command line: what is written, what is refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from cli_runs import fake_discover, files_of, recording, run
from protoscene.store import load_scene, save_scene
from report_scenes import TIMES, toy_scene

__all__ = ["fake_discover", "recording"]  # fixtures of theirs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenes") / "scene"
    save_scene(toy_scene(), path)
    return path


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (("--to", "glb", "-o", "out.glb"), b"glTF"),
        (("--to", "ply", "--time", "0.7", "-o", "out.ply"), b"ply\nformat binary_little_endian"),
        (("--to", "kitti", "-o", "out.txt"), b"0 0 Misc -1 0 -10"),
    ],
)
def test_export_writes_one_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    folder: Path, arguments: tuple[str, ...], start: bytes,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "export", folder, *arguments, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"file": arguments[-1], "objects": 2}
    assert [p.name for p in tmp_path.iterdir()] == [arguments[-1]]
    assert (tmp_path / arguments[-1]).read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--to", "glb", "-o", "out.gltf"), "out.gltf: output: unknown suffix (got .gltf, "),
        (("--to", "ply", "-o", "out.ply"), "--time: is needed by --to ply"),
        (("--to", "ply", "-o", "out.ply", "--time", "2.5"), "--time: is not a time of the scene"),
        (("--to", "glb", "-o", "out.glb", "--time", "1"), "--time: is not used by --to glb"),
        (("--to", "transforms", "-o", "out"), "--recording: is needed by --to transforms"),
        (("--to", "kitti", "-o", "o.txt", "--recording", "r"), "--recording: is not used by"),
        (("--to", "obj", "-o", "out.obj"), "command line: export: "),
        (("-o", "out.glb"), "needs --to {glb,ply,kitti,transforms}"),
    ],
)
def test_export_refuses_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    folder: Path, arguments: tuple[str, ...], line: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "export", folder, *arguments)
    assert (code, out) == (2, "") and line in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_export_with_masks_asks_for_the_scene_s_own_recording(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, folder: Path, recording: Path
) -> None:
    code, out, err = run(
        capsys, "export", folder, "--to", "transforms", "--recording", recording,
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert (code, err) == (0, "protoscene: export\n") and "folder: " in out
    parts = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert parts == ["depth", "instances", "masks", "rgb", "transforms.json"]
    other = replace(toy_scene(), made_by={"recording_sha256": "0" * 64})
    save_scene(other, tmp_path / "other")
    code, _, err = run(
        capsys, "export", tmp_path / "other", "--to", "transforms", "--recording",
        recording, "-o", tmp_path / "out2",
    )  # fmt: skip
    assert code == 2 and "recording: is not the one that the scene was made from" in err
    assert not (tmp_path / "out2").exists()


def test_an_export_that_fails_leaves_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    folder: Path,
) -> None:  # fmt: skip
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 100:  # the lock's few bytes still fit
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr("protoscene.files.os.write", full)
    code, _, _ = run(capsys, "export", folder, "--to", "kitti", "-o", tmp_path / "out.txt")
    assert code == 3 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "edits", "ids"),
    [
        (("--remove", "1"), "remove 1", [0]),
        (("--remove", "1", "--time", "0.5"), "remove 1 at 0.5", [0, 1, 2]),
        (("--move", "0", "-0.5", "0", "0.2"), "move 0 -0.5 0 0.2", [0, 1]),
        (("--move", "0", "-0.5", "0", "0.2", "-1", "--time", "1"), "move 0 -0.5 0 0.2 -1 at 1",
         [0, 1]),
        (("--insert", "1", "-0.5", "0", "0.35", "0.1"), "insert 1 -0.5 0 0.35 0.1", [0, 1, 2]),
        (("--swap", "0", "1"), "swap 0 1", [0, 1]),
    ],
)  # fmt: skip
def test_edit_writes_the_changed_scene(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, folder: Path,
    arguments: tuple[str, ...], edits: str, ids: list[int],
) -> None:  # fmt: skip
    before = files_of(folder)
    code, out, err = run(capsys, "edit", folder, "-o", tmp_path / "out", *arguments, "--json")
    assert (code, err) == (0, "") and [o["id"] for o in json.loads(out)["objects"]] == ids
    edited = load_scene(tmp_path / "out")
    assert [thing.id for thing in edited.objects] == ids and edited.times == TIMES
    assert (edited.made_by["command"], edited.made_by["edits"]) == ("edit", edits)
    assert files_of(folder) == before


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "edit: needs exactly one edit (got none, expected one of --remove, --move, "),
        (("--remove", "0", "--swap", "0", "1"), "needs exactly one edit (got --remove --swap, "),
        (("--move", "0", "1", "2"), "--move: cannot be read (got 0 1 2, expected ID X Y Z [YAW])"),
        (("--move", "0.5", "1", "2", "3"), "--move: cannot be read (got 0.5 1 2 3, "),
        (("--remove", "x"), "command line: edit: "),
        (("--remove", "9"), "scene: object: no object has this id (got 9, expected 0, 1)"),
    ],
)
def test_edit_refuses_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, folder: Path,
    arguments: tuple[str, ...], line: str,
) -> None:  # fmt: skip
    code, out, err = run(capsys, "edit", folder, "-o", tmp_path / "out", *arguments)
    assert (code, out) == (2, "") and line in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_edited_scene_is_not_taken_for_what_discover_would_write(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, recording: Path, fake_discover: list
) -> None:
    found, edited = tmp_path / "found", tmp_path / "edited"
    assert run(capsys, "discover", recording, "-o", found)[0] == 0
    assert run(capsys, "edit", found, "--remove", "7", "-o", edited)[0] == 0
    assert run(capsys, "discover", recording, "-o", found, "--resume")[0] == 0
    code, _, err = run(capsys, "discover", recording, "-o", edited, "--resume")
    assert code == 2 and "exists already, made from another edits (got remove 7)" in err
