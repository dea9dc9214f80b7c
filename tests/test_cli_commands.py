"""The commands: what each writes, says and refuses."""

from __future__ import annotations

import json
import os
import re
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from cli_runs import fake_discover, files_of, recording, run, scene_folder
from protoscene.cli import synthetic
from protoscene.files import OutputLock
from protoscene.prototypes import VoxelPrototypes
from protoscene.scene import Scene
from protoscene.store import load_scene
from small_scene import a_scene

__all__ = ["fake_discover", "recording", "scene_folder"]  # fixtures of theirs


def test_check_of_a_good_recording(capsys: pytest.CaptureFixture[str], recording: Path) -> None:
    code, out, err = run(capsys, "check", recording)
    assert (code, err) == (0, "protoscene: check\n")
    assert re.search(r"^instants +2, 0 to 0.333333 s$", out, re.MULTILINE)
    assert re.search(r"^pictures +2 of 8×6 pixels$", out, re.MULTILINE)
    assert re.search(r"^depth +1.50 to 1.50 m ", out, re.MULTILINE)
    code, out, _ = run(capsys, "check", recording, "--json")
    result = json.loads(out)
    assert (code, result["problems"], result["summary"]["pictures"]) == (0, [], 2)


def test_check_lists_every_problem(capsys: pytest.CaptureFixture[str], recording: Path) -> None:
    for name in ("0.png", "1.png"):
        (recording / name).write_bytes(b"no picture")
    code, out, err = run(capsys, "check", recording)
    assert code == 2
    assert "0.png" in out.splitlines()[0] and "1.png" in out.splitlines()[1]
    assert err.endswith("recording: recording: 2 problems found\n") and err.count("error") == 1
    code, out, _ = run(capsys, "check", recording, "--json")
    assert code == 2 and len(json.loads(out)["problems"]) == 2


def test_discover_writes_the_scene_and_says_what_it_found(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    recording: Path,
    fake_discover: list[dict[str, Any]],
) -> None:
    output = tmp_path / "out"
    code, out, err = run(capsys, "discover", recording, "-o", output, "--voxel-size", "0.1")
    assert code == 0
    assert err == "protoscene: observe\nprotoscene: follow\n"
    lines = out.splitlines()
    assert lines[0] == f"{output}: 2 instants, 5 × 4 × 3 voxels of 0.1 m, 2 objects of 2 prototypes"
    assert lines[2].split() == ["0", "1", "moves", *"0.10 × 0.10 × 0.25".split(), "2", "0.970"]  # noqa: SIM905
    work = tmp_path / "out.work"
    assert fake_discover == [{"voxel_size": 0.1, "bounds": None, "seed": 0, "work": work}]
    made_by = load_scene(output).made_by
    assert made_by["command"] == "discover" and len(str(made_by["recording_sha256"])) == 64
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "recording"]


def test_discover_json_is_one_object(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, recording: Path, fake_discover: list
) -> None:
    bounds = ["--bounds", "-1", "-1", "0", "1", "1", "1"]
    code, out, _ = run(capsys, "discover", recording, "-o", tmp_path / "out", "--json", *bounds)
    result = json.loads(out)
    assert (code, result["instants"], result["prototypes"]) == (0, 2, 2)
    assert result["objects"][0]["dims_m"] == [0.1, 0.1, 0.25]
    assert fake_discover[0]["bounds"] == (-1, -1, 0, 1, 1, 1)


def test_discover_refuses_an_existing_output_before_it_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, recording: Path, fake_discover: list
) -> None:
    (tmp_path / "out").mkdir()
    before = files_of(tmp_path)
    code, out, err = run(capsys, "discover", recording, "-o", tmp_path / "out")
    assert (code, out, fake_discover) == (2, "", [])
    assert "output: exists already" in err and err.count("\n") == 1
    assert files_of(tmp_path) == before


def test_discover_refuses_an_output_that_is_being_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, recording: Path, fake_discover: list
) -> None:
    with OutputLock(tmp_path / "out"):
        code, _, err = run(capsys, "discover", recording, "-o", tmp_path / "out")
    assert code == 2 and f"is being written by process {os.getpid()}" in err
    assert fake_discover == []


def test_discover_of_a_bad_recording_writes_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, err = run(capsys, "discover", tmp_path / "gone", "-o", tmp_path / "out")
    assert (code, out) == (2, "") and "gone: recording: " in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", ["0", "-1", "nan", "inf"])
def test_discover_refuses_a_voxel_size_that_is_none(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, recording: Path, size: str
) -> None:
    command = ["discover", recording, "-o", tmp_path / "out", "--voxel-size", size]
    code, out, err = run(capsys, *command)
    assert (code, out) == (2, "") and "--voxel-size: is no length (got " in err


def test_discover_says_where_nothing_moved(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    recording: Path,
    fake_discover: list,
) -> None:
    scene = a_scene()
    empty = replace(scene, objects=(), prototypes=VoxelPrototypes([], []), sizes_m=())
    module = sys.modules["protoscene.discover"]
    monkeypatch.setattr(module, "discover", lambda *_, **__: replace(empty, symmetries=()))
    code, out, _ = run(capsys, "discover", recording, "-o", tmp_path / "out")
    assert code == 0 and out.endswith("voxels of 0.1 m, nothing that moved\n")


def test_resume_leaves_a_finished_scene_and_refuses_another(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, recording: Path, fake_discover: list
) -> None:
    command = ["discover", recording, "-o", tmp_path / "out", "--resume"]
    code, first, _ = run(capsys, *command)
    assert code == 0 and len(fake_discover) == 1  # nothing to resume: from the start
    before = files_of(tmp_path)
    code, second, err = run(capsys, *command)
    assert (code, second) == (0, first) and len(fake_discover) == 1
    assert err == f"protoscene: note: {tmp_path / 'out'} is complete already\n"
    for change, field in [(["--seed", "1"], "seed"), (["--voxel-size", "0.2"], "settings")]:
        code, _, err = run(capsys, *command, *change)
        assert code == 2 and f"exists already, made from another {field}" in err
    Image.new("RGB", (8, 6), "green").save(recording / "0.png")
    code, _, err = run(capsys, *command)
    assert code == 2 and "made from another recording_sha256" in err
    assert len(fake_discover) == 1
    assert {k: v for k, v in files_of(tmp_path / "out").items()} == {
        k: v for k, v in before.items() if "/out/" in k
    }


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_compose_writes_the_volume(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scene_folder: Path, suffix: str
) -> None:
    command = ["compose", scene_folder, "--time", "0.1", "--resolution", "8", "-o"]
    code, out, err = run(capsys, *command, tmp_path / f"a{suffix}")
    assert (code, err) == (0, "") and "shape: [4, 8, 8, 8]" in out
    run(capsys, *command, tmp_path / f"b{suffix}")
    data = (tmp_path / f"a{suffix}").read_bytes()
    assert data == (tmp_path / f"b{suffix}").read_bytes()
    if suffix == ".npz":
        with np.load(tmp_path / "a.npz", allow_pickle=False) as volume:
            expected = load_scene(scene_folder).compose(0.1, 8)
            np.testing.assert_array_equal(volume["rgba"], expected.rgba.numpy())
            np.testing.assert_array_equal(volume["origin"], expected.grid.origin)
            assert volume["voxel_size"] == expected.grid.voxel_size


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            ["-o", "a.ply"],
            "a.ply: output: unknown suffix (got .ply, expected .safetensors or .npz)",
        ),
        (
            ["--time", "9", "-o", "a.npz"],
            "--time: is not a time of the scene (got 9.0, expected 0 ",
        ),
        (["--time", "nan", "-o", "a.npz"], "--time: is not a time of the scene (got nan, "),
        (["--resolution", "0", "-o", "a.npz"], "--resolution: is no number of voxels (got 0"),
    ],
)
def test_compose_refuses(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    scene_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: list[str],
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = change if "--time" in change else ["--time", "0", *change]
    code, out, err = run(capsys, "compose", scene_folder, *given)
    assert (code, out) == (2, "") and line in err
    assert [p.name for p in tmp_path.iterdir()] == ["scene"]


def test_compose_refuses_more_than_fits_into_memory(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    scene_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("protoscene.memory.available_bytes", lambda: 2**30)
    command = ["compose", scene_folder, "--time", "0", "--resolution", "512", "-o"]
    code, out, err = run(capsys, *command, tmp_path / "a.npz")
    assert (code, out) == (
        2,
        "",
    ) and "memory: GiB: needs 8.1 (volume 8.0, program 0.1); try --resolution 250 (" in err
    assert [p.name for p in tmp_path.iterdir()] == ["scene"]


def cameras_file(recording: Path, **change: Any) -> Path:
    content = json.loads((recording / "transforms.json").read_text())
    for frame in content["frames"]:
        frame["file_path"] = f"pictures/{frame['file_path']}"
        del frame["depth_file_path"]
        frame.update(change)
    (recording / "cameras.json").write_text(json.dumps(content))
    return recording / "cameras.json"


def test_render_writes_a_picture_for_each_camera(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scene_folder: Path, recording: Path
) -> None:
    cameras, output = cameras_file(recording), tmp_path / "out"
    code, out, err = run(capsys, "render", scene_folder, "--cameras", cameras, "-o", output)
    assert (code, err) == (0, "protoscene: render\n")
    assert out == f"folder: {output}\npictures: 2\n"
    names = sorted(str(p.relative_to(output)) for p in output.rglob("*.*"))
    assert names == ["pictures/0.png", "pictures/1.png"]
    with Image.open(output / names[0]) as picture:
        assert (picture.size, picture.mode, picture.format) == ((8, 6), "RGB", "PNG")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"time": 9.0}, "cameras.json: frames[0].time: is not a time of the scene (got 9.0, "),
        ({"file_path": "a.exr"}, "file_path"),
        ({"file_path": "../a.png"}, "file_path"),
    ],
)
def test_render_refuses(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    scene_folder: Path,
    recording: Path,
    change: dict[str, Any],
    line: str,
) -> None:
    cameras = cameras_file(recording, **change)
    if "file_path" in change:  # one frame, so that the name is not refused for being there twice
        content = json.loads(cameras.read_text())
        content["frames"] = content["frames"][:1]
        cameras.write_text(json.dumps(content))
    command = ["render", scene_folder, "--cameras", cameras, "-o", tmp_path / "out"]
    code, out, err = run(capsys, *command)
    assert (code, out) == (2, "") and line in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["recording", "scene"]


def truth_of(scene: Scene, folder: Path) -> Path:
    """The scene's own objects as truth."""
    content = json.loads((folder / "scene.json").read_text())
    for thing in content["objects"]:
        thing["kind"] = f"kind {thing['prototype']}"
    path = folder.parent / "truth.json"
    path.write_text(json.dumps(content))
    return path


def test_score_says_the_card(capsys: pytest.CaptureFixture[str], scene_folder: Path) -> None:
    truth = truth_of(a_scene(), scene_folder)
    code, out, err = run(capsys, "score", scene_folder, truth)
    assert (code, err) == (0, "protoscene: score\n")
    assert re.search(r"^Boxes at IoU ≥ .5 +precision +1\.000\n +recall +1\.000$", out, re.MULTILINE)
    code, out, _ = run(capsys, "score", scene_folder, truth, "--json")
    assert code == 0 and json.loads(out)["at_iou_50"]["recall"] == 1.0


def test_view_writes_the_page_that_it_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, scene_folder: Path
) -> None:
    written = []
    report = types.ModuleType("protoscene.report")
    report.write_page = lambda *given: written.append(given)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "protoscene.report", report)
    page = scene_folder.parent / "page.html"
    code, out, err = run(capsys, "view", scene_folder, "--html", page)
    assert (code, out, err) == (0, f"page: {page}\n", "protoscene: report\n")
    truth = truth_of(a_scene(), scene_folder)
    run(capsys, "view", scene_folder, "--html", page, "--truth", truth)
    assert [given[1] for given in written] == [page, page]
    assert written[0][2:] == (None, None) and written[1][3].at_iou_50.recall == 1.0
    page.write_text("")
    code, _, err = run(capsys, "view", scene_folder, "--html", page)
    assert code == 2 and "exists already" in err


def test_synth_passes_its_settings_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from protoscene import synth

    made = []
    monkeypatch.setattr(synth, "write_recording", lambda *given: made.append(given[:2]))
    out_folder = tmp_path / "out"
    code, out, _ = run(capsys, "synth", "-o", out_folder, "--seed", "5", "--n-cameras", "1")
    assert code == 0 and f"truth: {out_folder / 'truth.json'}" in out
    run(capsys, "synth", "-o", out_folder, "--like", "crowd", "--width", "64")
    assert made == [
        (synth.SynthSettings(seed=5, n_cameras=1), out_folder),
        (replace(synth.SUITE["crowd"](0), width=64), out_folder),
    ]
    code, _, err = run(capsys, "synth", "-o", out_folder, "--like", "crowds")
    assert code == 2 and "invalid choice 'crowds' for argument '--like'" in err
    assert get_args(synthetic.Name) == tuple(synth.NAMED)
    assert all(name in run(capsys, "synth", "--help")[1] for name in synth.NAMED)
    code, _, err = run(capsys, "synth", "-o", out_folder, "--n-cameras", "99")
    assert code == 2 and "n_cameras: out of range" in err
