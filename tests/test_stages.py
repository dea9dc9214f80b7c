"""A job that was killed goes on after its last whole stage, to the same bytes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cart_recordings import VOXEL, write_recording
from moving_boxes import ring
from moving_cart import smooth
from protoscene import cli
from protoscene.errors import Failed, Refused
from protoscene.records import name_of, packed, unpacked
from protoscene.stages import Stages


@dataclass(frozen=True, eq=False)
class Leaf:
    values: np.ndarray
    weight: float


@dataclass(frozen=True, eq=False)
class Branch:
    leaves: tuple[Leaf, ...]
    words: list[Any]
    tensor: torch.Tensor


def a_branch() -> Branch:
    one = Leaf(np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2].T, 0.1)
    two = Leaf(np.array(7.5), float("nan"))
    words = ["é", None, True, 3, -0.0, float("inf"), np.float32(0.1), np.int64(-2), np.bool_(True)]
    return Branch((one, two, one), [*words, [], ()], torch.arange(6.0)[2:5])


def again(value: Any) -> Any:
    classes = {name_of(one): one for one in (Leaf, Branch)}
    return unpacked(*packed(value), classes)


def test_what_is_packed_comes_back_bit_for_bit() -> None:
    before, after = a_branch(), again(a_branch())
    assert isinstance(after, Branch) and isinstance(after.leaves, tuple)
    for a, b in zip(before.leaves, after.leaves, strict=True):
        assert (a.values.dtype, a.values.shape) == (b.values.dtype, b.values.shape)
        np.testing.assert_array_equal(a.values, b.values)
        assert repr(a.weight) == repr(b.weight) and type(b.weight) is float
    assert [repr(w) for w in before.words] == [repr(w) for w in after.words]
    assert [type(w) for w in before.words] == [type(w) for w in after.words]
    assert torch.equal(before.tensor, after.tensor)


def test_what_is_there_twice_is_kept_once() -> None:
    _, tensors = packed(a_branch())
    array = np.ones(1000)
    _, same = packed([array, array, Leaf(array, 1.0)])
    assert len(same) == 1 and all(t.is_contiguous() for t in tensors.values())


def test_only_what_is_known_is_kept_and_made() -> None:
    for unknown in ({"a": 1}, object(), Leaf, lambda: 0, {1}, b"x", np.array([object()])):
        with pytest.raises(TypeError):
            packed([unknown])
    with pytest.raises(KeyError, match="Leaf"):
        unpacked(*packed(a_branch()), {name_of(Branch): Branch})


def stages(folder: Path | None, **identity: Any) -> Stages:
    return Stages(folder, {"seed": 0, **identity}, Leaf, Branch)


def never(*_: Any) -> Any:
    pytest.fail("computed again")


def test_a_stage_is_computed_once(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    job = stages(folder)
    assert not folder.exists()  # until something is finished
    first = job.outcome("first", a_branch)
    second = stages(folder).outcome("first", never)
    for a, b in zip(first.leaves, second.leaves, strict=True):
        np.testing.assert_array_equal(a.values, b.values)
    assert stages(folder).outcome("second", lambda: [first.leaves[0]])[0].weight == 0.1
    assert sorted(p.name for p in folder.iterdir()) == ["first", "second"]
    nowhere = stages(None)
    assert nowhere.outcome("first", lambda: 1) == 1 and nowhere.outcome("first", lambda: 2) == 2


def test_another_run_is_refused_before_any_work(tmp_path: Path) -> None:
    stages(tmp_path, bounds=None).outcome("first", a_branch)
    with pytest.raises(Refused, match=r"first: seed: is another than .* \(got 1, expected 0\)"):
        stages(tmp_path, bounds=None, seed=1)
    with pytest.raises(Refused, match=r"bounds: .* \(got \(0, 1\)\)"):
        stages(tmp_path, bounds="(0, 1)")


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 8
    file.write_bytes(data)


@pytest.mark.parametrize("name", ["stage.json", "state-0.safetensors"])
@pytest.mark.parametrize(
    "damage", [flip, lambda f: f.write_bytes(f.read_bytes()[:-1]), Path.unlink],
    ids=["flipped", "cut", "gone"],
)  # fmt: skip
def test_a_damaged_stage_is_done_again(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    stages(tmp_path).outcome("first", a_branch)
    stages(tmp_path).outcome("second", lambda: 2)
    damage(tmp_path / "first" / name)
    with pytest.warns(UserWarning, match="first.*doing this part again"):
        job = stages(tmp_path)
        assert job.outcome("first", lambda: "anew") == "anew"
    assert job.outcome("second", never) == 2
    assert stages(tmp_path).outcome("first", never) == "anew"


def test_a_full_disk_fails_with_what_is_finished_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = stages(tmp_path)
    job.outcome("first", lambda: 1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(Failed, match="second: output: not enough room on the disk"):
        job.outcome("second", a_branch)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["first"]
    assert stages(tmp_path).outcome("first", never) == 1


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }  # fmt: skip


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recording(tmp_path_factory.mktemp("recording") / "r", smooth(5), ring(2))


def test_interrupted_in_each_stage_discover_goes_on_to_the_same_scene(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    command = ["discover", str(recording), "--voxel-size", str(VOXEL), "-o"]
    assert cli.main([*command, str(tmp_path / "undisturbed")]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["undisturbed"]
    output, work = tmp_path / "out", tmp_path / "out.work"
    command = [*command, str(output)]
    module = sys.modules["protoscene.discover"]
    begun = ["propose_all", "share", "find_again", "vacated"]
    stages_of = [[], ["start"], ["share", "start"], ["find_again", "share", "start"]]
    for k, (begins, finished) in enumerate(zip(begun, stages_of, strict=True)):
        number = (signal.SIGINT, signal.SIGTERM)[k % 2]
        with monkeypatch.context() as patch:
            for name in begun[: max(k - 1, 0)]:  # what is finished is not begun again
                patch.setattr(module, name, never)
            patch.setattr(module, begins, lambda *_, n=number: os.kill(os.getpid(), n))
            assert cli.main([*command, "--resume"]) == 128 + number
        said = capsys.readouterr().err
        assert ("out.work; --resume goes on from there" in said) == bool(finished)
        assert not output.exists() and work.exists() == bool(finished)
        assert sorted(p.name for p in work.glob("*")) == finished
    assert cli.main(command) == 2
    assert "--resume goes on, or remove it" in capsys.readouterr().err
    assert cli.main([*command, "--resume", "--seed", "1"]) == 2
    assert "seed: is another than that of the interrupted run" in capsys.readouterr().err
    assert work.exists()
    assert cli.main([*command, "--resume"]) == 0
    assert files_of(output) == files_of(tmp_path / "undisturbed")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "undisturbed"]
