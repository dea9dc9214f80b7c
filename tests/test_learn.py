"""learn: recordings in, a model out, the same however often it was killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import protoscene
from cart_recordings import PATHS, VOXEL, write_both
from moving_boxes import CART_DIMS
from protoscene import cli
from protoscene.dictionary import merge
from protoscene.distil import a_detector, distil, shared_loss, steps_within
from protoscene.errors import Refused
from protoscene.farm import discover_all
from protoscene.formats import load
from protoscene.learn import region_size, samples_of
from protoscene.model import load_model
from protoscene.observe import choose_grid
from protoscene.ranks import Ranks
from protoscene.store import load_scene

ALONE = Ranks(0, 1, torch.device("cpu"))
OPTIONS = ("--voxel-size", VOXEL, "--steps", 6, "--seed", 1)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_both(tmp_path_factory.mktemp("recordings"))


def files_of(folder: Path) -> dict[str, bytes]:
    found = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def begun(*arguments: object, said: Path) -> subprocess.Popen[bytes]:
    """A process whose output goes to the file ``said``."""
    source = str(Path(protoscene.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    with said.open("w") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file)


def learn_command(recordings: list[Path], model: Path, *more: object) -> list[object]:
    return ["-m", "protoscene.cli", "learn", *recordings, "-o", model, *OPTIONS, *more]


@pytest.fixture(scope="module")
def undisturbed(recordings: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("undisturbed")
    said = place / "said.txt"
    assert begun(*learn_command(recordings, place / "model"), said=said).wait(600) == 0, (
        said.read_text()
    )
    assert sorted(p.name for p in place.iterdir()) == ["model", "said.txt"]  # no work is left
    return place / "model"


def test_both_recordings_share_one_prototype(undisturbed: Path) -> None:
    model = load_model(undisturbed)
    assert len(model.prototypes) == 1
    np.testing.assert_allclose(model.sizes_m[0], CART_DIMS, atol=0.05)
    assert (model.made_by["command"], model.made_by["seed"], model.made_by["steps"]) == (
        "learn", 1, 6
    )  # fmt: skip


def test_killed_and_resumed_it_gives_the_same_model(
    recordings: list[Path], undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, said = tmp_path / "model", tmp_path / "said.txt"
    work = tmp_path / "model.work"
    for done in (work / "scenes" / "0", work / "training" / "step-00000003"):
        process = begun(*learn_command(recordings, model, "--resume"), said=said)
        while not done.exists():
            assert process.poll() is None, said.read_text()
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    assert not model.exists()
    assert cli.main([str(a) for a in learn_command(recordings, model)[2:]]) == 2
    assert "--resume goes on, or remove it" in capsys.readouterr().err
    before = (work / "scenes" / "0" / "scene.json").stat().st_mtime_ns
    process = begun(*learn_command(recordings, model, "--resume"), said=said)
    while process.poll() is None:
        if (work / "scenes" / "0").exists():
            assert (work / "scenes" / "0" / "scene.json").stat().st_mtime_ns == before
        time.sleep(0.05)
    assert process.returncode == 0, said.read_text()
    assert "discover" not in said.read_text() and "observe" not in said.read_text()
    assert files_of(model) == files_of(undisturbed)
    left = {p.name for p in tmp_path.iterdir()}
    assert left <= {"model", "said.txt"}


def test_two_processes_learn_what_one_does(
    recordings: list[Path], undisturbed: Path, tmp_path: Path
) -> None:
    said = tmp_path / "said.txt"
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", 2, "--master-addr", "127.0.0.1",
              "--master-port", 31511 + os.getpid() % 2000]  # fmt: skip
    command = learn_command(recordings, tmp_path / "model", "--json")
    assert begun(*launch, *command, said=said).wait(600) == 0, said.read_text()
    assert said.read_text().count('"prototypes": 1') == 1  # one of them speaks
    one, two = load_model(undisturbed), load_model(tmp_path / "model")
    # A gradient about 0 may change its sign with the rounding, and Adam makes whole steps of those
    # (up to .01 in all here): few weights differ, where other gradients would move them all.
    off = torch.cat([
        (two.detector.state_dict()[name] - weight).abs().flatten()
        for name, weight in one.detector.state_dict().items()
    ])  # fmt: skip
    assert float(off.mean()) < 1e-4 and float((off > 1e-3).float().mean()) < 0.01
    for name in ("prototypes/0.safetensors",):
        assert (undisturbed / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


def test_the_loss_of_two_halves_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their mean, when each is told what both hold, though one has many things and one has few."""
    detector = a_detector(2, (8, 16, 16), 0)
    make = torch.Generator().manual_seed(0)
    heat = torch.rand(4, 16, 16, generator=make) * 0.9
    heat[:3, 2:9, 3] = 1.0
    heat[3, 5, 5] = 1.0
    whole = {
        "volume": torch.rand(4, 5, 8, 16, 16, generator=make), "heat": heat,
        "known": torch.ones(4, 16, 16), "weight": (heat >= 1).float(),
        "box": torch.rand(4, 7, 16, 16, generator=make),
        "kind": torch.randint(0, 2, (4, 16, 16), generator=make),
    }  # fmt: skip
    halves = [{name: t[half::2] for name, t in whole.items()} for half in (0, 1)]
    expected = shared_loss(detector, whole)
    given: list[torch.Tensor] = []
    monkeypatch.setattr("protoscene.distil.mean_over_ranks", lambda v: given.append(v) or v)
    for half in halves:
        shared_loss(detector, half)
    mean = torch.stack(given).mean(dim=0)
    monkeypatch.setattr("protoscene.distil.mean_over_ranks", lambda v: mean)
    terms = [shared_loss(detector, half) for half in halves]
    for name, value in expected.items():
        both = (terms[0][name] + terms[1][name]) / 2
        torch.testing.assert_close(both, value, rtol=1e-5, atol=1e-6)


# In this process


@pytest.fixture(scope="module")
def scenes(recordings: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("discovered") / "scenes"
    discover_all([load(r) for r in recordings], folder, ALONE, VOXEL)
    return folder


def test_labels_are_where_the_cart_is(recordings: list[Path], scenes: Path) -> None:
    read = [load(r) for r in recordings]
    found = [load_scene(scenes / str(k)) for k in range(2)]
    region = choose_grid(read[0], None, (0.0, 0.0, 0.0, *region_size(found)))
    samples = samples_of(read, found, merge(found), region)
    for r in range(2):
        grid = samples.grids[r]
        for i, labels in enumerate(samples.labels[r]):
            (box,) = labels.boxes[labels.weight > 0]
            assert np.linalg.norm(box[:2] - PATHS[r][i, :2]) < 0.03
            assert labels.kind.tolist() == [0] * len(labels.kind)
            inside = (box[:3] > grid.lower + 0.1) & (box[:3] < grid.upper - 0.1)
            assert inside.all()
    # Both carts have one prototype, so their noses must be the same end.
    off = [samples.labels[r][3].boxes[0, 6] - PATHS[r][3, 2] for r in range(2)]
    assert abs(np.angle(np.exp(1j * (off[0] - off[1])))) < 0.1


def test_a_scene_of_another_run_is_refused(recordings: list[Path], scenes: Path) -> None:
    read = [load(r) for r in recordings]
    for wrong, field in (
        ((read[::-1], scenes, ALONE, VOXEL), "recording_sha256"),
        ((read, scenes, ALONE, None), "settings"),
        ((read, scenes, ALONE, VOXEL, 7), "seed"),
    ):
        with pytest.raises(Refused, match=f"{field}: the interrupted run had another"):
            discover_all(*wrong)


FARM = """
import sys
from pathlib import Path
import torch
from protoscene.errors import Refused
from protoscene.farm import discover_all
from protoscene.formats import load
from protoscene.ranks import Ranks

address, voxel, folder, *recordings = sys.argv[1:]
read, alone = [load(r) for r in recordings], Ranks(0, 1, torch.device("cpu"))
show = lambda *step: print(*step, flush=True)
try:
    discover_all(read, Path(folder), alone, float(voxel), ray=address, progress=show)
except Refused as refused:
    sys.exit(str(refused))
"""


def test_a_farm_finds_the_same(recordings: list[Path], scenes: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    said = tmp_path / "said.txt"
    arguments = ("-c", FARM, "local", VOXEL, tmp_path / "farmed", *recordings)
    assert begun(*arguments, said=said).wait(600) == 0, said.read_text()
    assert said.read_text().startswith("discover 0 2\n")
    assert files_of(tmp_path / "farmed") == files_of(scenes)


def test_what_a_farm_refuses_is_said(recordings: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    said, one = tmp_path / "said.txt", tmp_path / "one"
    shutil.copytree(recordings[0], one)
    whole = (one / "c0-3.png").read_bytes()
    (one / "c0-3.png").write_bytes(whole[: len(whole) // 2])  # its header is right
    for address, recording, refusal in (
        ("local", one, "c0-3.png: "), ("no such address", recordings[0], "--ray: no cluster"),
    ):  # fmt: skip
        arguments = ("-c", FARM, address, VOXEL, tmp_path / "farmed", recording)
        assert begun(*arguments, said=said).wait(600) == 1
        assert refusal in said.read_text().splitlines()[-1]


def test_without_anything_that_moves_there_is_no_model(
    recordings: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("protoscene.farm.discover", _nothing)
    model = tmp_path / "model"
    assert cli.main(["learn", str(recordings[0]), "-o", str(model)]) == 2
    assert "objects: nothing that moved was found in any recording" in capsys.readouterr().err
    assert not model.exists()


def _nothing(recording: Any, *_: Any, **__: Any) -> Any:
    from dataclasses import replace

    from protoscene.prototypes import VoxelPrototypes
    from small_scene import a_scene

    made_by = {"command": "discover", "seed": 0, "recording_sha256": recording.sha256}
    return replace(a_scene(), objects=(), prototypes=VoxelPrototypes([], []), sizes_m=(),
                   symmetries=(), confidence=(), made_by=made_by)  # fmt: skip


def test_held_out_recordings_decide_when_to_stop(
    recordings: list[Path], scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protoscene.distil.HELD_OUT", 2)
    read = [load(r) for r in recordings]
    found = [load_scene(scenes / str(k)) for k in range(2)]
    region = choose_grid(read[0], None, (0.0, 0.0, 0.0, *region_size(found)))
    samples = samples_of(read, found, merge(found), region)
    fitted = distil(a_detector(1, region.shape, 0), samples, tmp_path / "run", steps=2)
    assert fitted.held_out is not None and len(fitted.history) == 2


# The command line


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["-o", "m"], "command line: learn: needs RECORDING..."),
        (["r"], "command line: learn: needs -o MODEL"),
        (["r", "-o", "m", "--steps", "5", "--minutes", "1"], "--minutes: cannot be given with"),
        (["r", "-o", "m", "--steps", "0"], "--steps: is out of range (got 0, expected more than 0"),
        (["r", "-o", "m", "--minutes", "nan"], "--minutes: is out of range"),
        (["gone", "-o", "m"], "gone"),
    ],
)
def test_bad_usage_is_refused_and_writes_nothing(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.main(["learn", *arguments]) == 2
    said = capsys.readouterr().err
    assert line in said and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_finished_model_is_left_as_it_is(
    recordings: list[Path], undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_of(undisturbed)
    command = [str(a) for a in learn_command(recordings, undisturbed, "--resume")[2:]]
    assert cli.main(command) == 0
    assert "is complete already" in capsys.readouterr().err
    for option, value, refusal in (
        ("--seed", "2", "made from another seed (got 1, expected 2)"),
        ("--steps", "7", "another settings (got voxel_size 0.05, steps 6, expected voxel_size"),
    ):
        assert cli.main([*command, option, value]) == 2
        assert refusal in capsys.readouterr().err
    assert files_of(undisturbed) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_says_how_to_go_on(
    recordings: list[Path], scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int,
) -> None:  # fmt: skip
    shutil.copytree(scenes, tmp_path / "model.work" / "scenes")
    steps = 0

    def interrupted(detector: Any, batch: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 2:
            os.kill(os.getpid(), number)
        return shared_loss(detector, batch)

    monkeypatch.setattr("protoscene.distil.shared_loss", interrupted)
    command = ["learn", *map(str, recordings), "-o", str(tmp_path / "model"), "--resume",
               "--voxel-size", str(VOXEL), "--steps", "45"]  # fmt: skip
    assert cli.main(command) == code
    note, error = capsys.readouterr().err.splitlines()[-2:]
    assert note.endswith("model.work; --resume goes on from there") and "error: " in error
    assert (tmp_path / "model.work" / "training" / "step-00000002").is_dir()
    assert not (tmp_path / "model").exists()


def test_a_run_that_diverges_fails_and_keeps_its_last_good_state(
    recordings: list[Path], scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    shutil.copytree(scenes, tmp_path / "model.work" / "scenes")
    steps = 0

    def diverging(detector: Any, batch: Any) -> Any:
        nonlocal steps
        steps += 1
        terms = shared_loss(detector, batch)
        return terms if steps < 3 else {**terms, "turn": terms["turn"] * torch.inf}

    monkeypatch.setattr("protoscene.distil.shared_loss", diverging)
    command = ["learn", *map(str, recordings), "-o", str(tmp_path / "model"), "--resume",
               "--voxel-size", str(VOXEL), "--steps", "6"]  # fmt: skip
    assert cli.main(command) == 3
    assert "training diverged at step 2: turn is inf" in capsys.readouterr().err
    assert (tmp_path / "model.work" / "training" / "step-00000002").is_dir()


def test_the_minutes_are_planned_once(
    recordings: list[Path], scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = [load(r) for r in recordings]
    found = [load_scene(scenes / str(k)) for k in range(2)]
    region = choose_grid(read[0], None, (0.0, 0.0, 0.0, *region_size(found)))
    samples = samples_of(read, found, merge(found), region)
    detector = a_detector(1, region.shape, 0)
    before = [p.clone() for p in detector.parameters()]
    steps = steps_within(1.0, detector, samples, tmp_path, ALONE)
    assert 1 < steps < 6000
    assert all(torch.equal(p, q) for p, q in zip(before, detector.parameters(), strict=True))
    monkeypatch.setattr("protoscene.distil._seconds_a_step", lambda *_: 1e9)
    assert steps_within(1.0, detector, samples, tmp_path, ALONE) == steps
    assert steps_within(2.0, detector, samples, tmp_path, ALONE) == 1
