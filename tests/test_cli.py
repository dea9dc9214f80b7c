"""The command line: exit codes, one line per error, results on stdout, nothing half-written."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

import protoscene
from protoscene import cli
from protoscene.cli import commands, synthetic, terminal
from protoscene.cli.command_line import COMMANDS
from protoscene.cli.interrupts import Interrupted
from protoscene.errors import Failed, Refused
from protoscene.files import OutputLock
from protoscene.prototypes import VoxelPrototypes
from protoscene.scene import Scene
from protoscene.store import load_scene, save_scene
from small_scene import a_scene

SOURCE = str(Path(protoscene.__file__).parent.parent)
FRAME = {"transform_matrix": np.eye(4).tolist(), "depth_file_path": "depth.png"}


@pytest.fixture
def scene_folder(tmp_path: Path) -> Path:
    save_scene(a_scene(), tmp_path / "scene")
    return tmp_path / "scene"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    folder = tmp_path / "recording"
    folder.mkdir()
    Image.new("RGB", (8, 6), "red").save(folder / "0.png")
    Image.new("RGB", (8, 6), "blue").save(folder / "1.png")
    depth = Image.fromarray(np.full((6, 8), 1500, np.uint16))
    depth.save(folder / "depth.png")
    frames = [{**FRAME, "file_path": f"{i}.png", "time": i / 3} for i in (0, 1)]
    lens = {"w": 8, "h": 6, "fl_x": 8, "fl_y": 8, "cx": 4, "cy": 3, "depth_unit_scale_factor": 1e-3}
    (folder / "transforms.json").write_text(json.dumps({**lens, "frames": frames}))
    return folder


@pytest.fixture
def fake_discover(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The method in its place: looks at the recording, reports progress, finds ``a_scene``."""
    calls: list[dict[str, Any]] = []

    def discover(
        recording: Any, progress: Callable[[str, int, int], None], **options: Any
    ) -> Scene:
        calls.append(options)
        for i in range(3):
            progress("observe", i, 3)
        progress("follow", 0, 1)
        made_by = {"command": "discover", "seed": options["seed"]}
        return replace(a_scene(), made_by={**made_by, "recording_sha256": recording.sha256})

    module = types.ModuleType("protoscene.discover")
    module.discover = discover  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "protoscene.discover", module)
    return calls


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "protoscene.cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, env=environment, text=True, **pipes)


# Help and usage


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_goes_to_stdout(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    assert out.startswith("usage: protoscene")
    if arguments == ["--help"]:
        assert all(f"• {name} " in out for name in COMMANDS)


def test_the_commands_are_those_that_work() -> None:
    known = "demo check discover learn detect compose render score view export edit synth"
    assert " ".join(COMMANDS) == known


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    program = """
import sys
from protoscene.cli import main
code = main(["discover", "--help"])
heavy = {"torch", "numba", "numpy", "viser", "PIL", "scipy", "rich"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else code)
"""
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    seconds = []
    for _ in range(3):
        before = cpu_seconds_of_children()
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
        seconds.append(cpu_seconds_of_children() - before)
        assert done.returncode == 0, done.stderr
    assert min(seconds) < 0.3  # of the processor, whatever else the machine does


def cpu_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"protoscene {protoscene.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "command line: COMMAND: is missing (expected demo, check, "),
        (["disvocer"], "COMMAND: unknown command; did you mean 'discover'? (got disvocer, "),
        (["discover"], "command line: discover: needs RECORDING and -o SCENE\n"),
        (["compose", "s", "-o", "v.npz"], "command line: compose: needs --time T\n"),
        (["discover", "r", "-o", "s", "--voxelsize", "1"], "did you mean '--voxel-size'?"),
        (["discover", "r", "-o"], "Missing value for argument '-o/--output'."),
        (["discover", "r", "-o", "s", "--bounds", "1"], "expected --bounds X0 Y0 Z0 X1 Y1 Z1\n"),
        (["discover", "r", "-o", "s", "--voxel-size", "a"], "expected --voxel-size M\n"),
        (["compose", "s", "--time", "x", "-o", "f"], "could not convert string to float: 'x'"),
        (["check", "r", "--format", "tumm"], "command line: check: "),
        (["check", "r", "more"], "command line: check: Unrecognized options: more"),
    ],
)
def test_bad_usage_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("protoscene: error: command line: ") and line in err
    assert err.count("\n") == 1 and len(err) <= 241
    assert not re.search("[─│╭╰]", err)


def test_bad_usage_reads_the_same_on_every_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["discover", "r", "-o", "s", "--voxelsize", "1"]
    said = set()
    for encoding in ("ascii", "utf-8"):
        monkeypatch.setenv("PYTHONIOENCODING", encoding)
        said.add(start(*arguments).communicate(timeout=20))
    assert len(said) == 1 and "did you mean '--voxel-size'?" in said.pop()[1]


# Exit codes


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (Refused("a.json", "fx", "is odd", 1, 2), 2, "a.json: fx: is odd (got 1, expected 2)"),
        (Failed("diverged"), 3, "diverged"),
        (OSError(28, "No space left on device", "out"), 3, "out: No space left on device"),
        (OSError("odd"), 3, "odd"),
        (MemoryError(), 3, "out of memory; try a larger --voxel-size or a smaller --resolution"),
        (Interrupted(signal.SIGINT), 130, "interrupted"),
        (ValueError("a\nb\x1b[0m"), 70, "internal error, please report it with the output of "
         "--debug: ValueError: a\\nb\\x1b[0m"),
        (Refused("f", "g", "x" * 400), 2, "f: g: " + "x" * 119 + "…"),
    ],
)  # fmt: skip
def test_errors_are_one_line_and_have_their_code(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    line: str,
) -> None:
    def fail(_: Any) -> None:
        raise error

    monkeypatch.setattr(commands.Check, "run", fail)
    assert run(capsys, "check", "r") == (code, "", f"protoscene: error: {line}\n")
    got, out, err = run(capsys, "check", "r", "--debug")
    assert (got, out) == (code, "")
    assert "Traceback" in err and err.endswith(f"protoscene: error: {line}\n")


def test_a_warning_is_one_line_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn(_: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("two\nlines", stacklevel=1)

    monkeypatch.setattr(commands.Check, "run", warn)
    assert run(capsys, "check", "r") == (0, "", "protoscene: warning: two\\nlines\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_unwinds_and_nothing_is_left(tmp_path: Path, number: int, code: int) -> None:
    program = """
import sys, time
from pathlib import Path
from protoscene import cli
from protoscene.cli.commands import Check
from protoscene.files import OutputLock, new_folder
def work(_):
    with OutputLock(Path(sys.argv[1])), new_folder(Path(sys.argv[1])):
        print("working", flush=True)
        time.sleep(30)
Check.run = work
sys.exit(cli.main(["check", "r"]))
"""
    command = [sys.executable, "-c", program, str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "working\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
    assert process.returncode == code
    assert err in ("protoscene: error: terminated\n", "protoscene: error: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_a_finaliser_swallows_ends_the_work_all_the_same() -> None:
    program = """
import os, signal, sys
from protoscene import cli
from protoscene.cli.commands import Check
from protoscene.cli.terminal import progress
class Finalised:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass
def work(_):
    sys.unraisablehook = lambda _: print("swallowed", flush=True)
    with progress() as show:
        Finalised()
        show("observe", 0, 2)
        print("went on")
Check.run = work
sys.exit(cli.main(["check", "r"]))
"""
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout) == (143, "swallowed\n")
    assert done.stderr == "protoscene: error: terminated\n"


def test_a_second_signal_ends_the_process_at_once() -> None:
    program = """
import sys, time
from protoscene import cli
from protoscene.cli.commands import Check
def work(_):
    try:
        print("working", flush=True)
        time.sleep(30)
    finally:
        print("clearing up", flush=True)
        time.sleep(30)
Check.run = work
sys.exit(cli.main(["check", "r"]))
"""
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in ("working\n", "clearing up\n"):
            assert process.stdout.readline() == line
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == -signal.SIGINT


def test_torch_is_told_to_wait_without_spinning(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, expected in (("", "PASSIVE"), ("ACTIVE", "ACTIVE")):
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        if given:
            monkeypatch.setenv("OMP_WAIT_POLICY", given)
        assert cli.main(["--version"]) == 0 and os.environ["OMP_WAIT_POLICY"] == expected


def test_a_reader_that_goes_away_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = start("--version", stdout=writing)
    os.close(writing)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_under_stdout_is_said() -> None:
    with Path("/dev/full").open("w") as full:
        process = start("--version", stdout=full)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 3
    assert err == "protoscene: error: No space left on device\n"


# Commands


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
    assert fake_discover == [{"voxel_size": 0.1, "bounds": None, "seed": 0}]
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
    assert (code, out) == (2, "") and "memory: GiB: needs 8.0 (volume 8.0); try a smaller" in err
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


# Progress and tables


def test_progress_is_a_bar_on_a_terminal_and_a_line_per_stage_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal.progress() as show:
        for i in range(5):
            show("observe", i, 5)
    assert capsys.readouterr() == ("", "protoscene: observe\n")
    monkeypatch.setattr(terminal, "LINE_SECONDS", 0)  # as if every step took so long
    with terminal.progress() as show:
        for i in range(3):
            show("observe", i, 5)
    lines = ["protoscene: observe", "protoscene: observe 1/5", "protoscene: observe 2/5"]
    assert capsys.readouterr().err.splitlines() == lines
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with terminal.progress() as show:
        show("observe", 0, 5)
        show("observe", 5, 5)
    out, err = capsys.readouterr()
    assert out == "" and "observe" in err and "5/5" in err


def test_a_table_lines_up_and_hides_no_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal.say_table(("name", "n"), [("a", 1.0), ("long\x1b", float("nan"))])
    assert capsys.readouterr().out == "name          n\na         1.000\nlong\\x1b      –\n"
    terminal.say_table(("name", "n"), [])
    assert capsys.readouterr().out == "name  n\n"


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say_json({"a": [1.5, float("nan")], "b": {"c": float("inf")}})
    assert json.loads(capsys.readouterr().out) == {"a": [1.5, None], "b": {"c": None}}


def test_a_terminal_without_unicode_gets_codes() -> None:
    program = "from protoscene.cli.terminal import say; say('2 × 3')"
    environment = {**os.environ, "PYTHONPATH": SOURCE, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
    assert (done.stdout, done.stderr) == (b"2 \\xd7 3\n", b"")
