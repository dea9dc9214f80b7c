"""Scene folders: what is saved is what is loaded, and any change to a file is noticed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save as tensor_bytes

from protoscene import scene_json, store
from protoscene.errors import Failed, Refused
from protoscene.files import OutputLock
from protoscene.prototypes import VoxelPrototypes
from protoscene.scene import Mirror
from protoscene.store import load_scene, save_scene
from protoscene.volume import Background
from small_scene import a_scene


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_scene(a_scene(), tmp_path / "scene")
    return tmp_path / "scene"


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_what_is_saved_is_loaded(saved: Path) -> None:
    scene, loaded = a_scene(), load_scene(saved)
    assert loaded.times == scene.times
    assert loaded.grid == scene.grid
    assert loaded.sizes_m == scene.sizes_m
    assert loaded.symmetries == scene.symmetries
    assert loaded.made_by["recording_sha256"] == "0" * 64
    assert loaded.made_by["protoscene"]
    for k in range(2):
        assert loaded.prototypes.grid(k) == scene.prototypes.grid(k)
        assert torch.equal(loaded.prototypes.rgba(k), scene.prototypes.rgba(k).half().float())
    assert torch.equal(loaded.confidence[0], scene.confidence[0].half().float())
    assert loaded.confidence[1] is None
    assert scene.background.outside and loaded.background.outside
    for a, b in [
        (scene.background.volume, loaded.background.volume),
        (scene.background.outside.volume, loaded.background.outside.volume),
    ]:
        assert a.grid == b.grid
        assert torch.equal(a.rgba.half().float(), b.rgba)
    assert torch.equal(loaded.background.outside.colour, scene.background.outside.colour)
    for one, two in zip(scene.objects, loaded.objects, strict=True):
        assert (one.id, one.prototype, one.score, one.moving, one.dims_m, one.kind) == (
            two.id, two.prototype, two.score, two.moving, two.dims_m, two.kind
        )  # fmt: skip
        assert np.array_equal(one.track.time, two.track.time)  # exact, so that covers() is
        assert np.array_equal(one.track.visible, two.track.visible)
        for name in ("centre", "yaw", "scale"):
            np.testing.assert_allclose(
                getattr(one.track, name), getattr(two.track, name), rtol=0, atol=0.5e-6
            )


def test_a_mirror_plane_comes_back(tmp_path: Path) -> None:
    plane = Mirror((0.6, -0.8), 0.012346, 0.93)
    save_scene(replace(a_scene(), symmetries=(plane, None)), tmp_path / "scene")
    assert load_scene(tmp_path / "scene").symmetries == (plane, None)
    entry = json.loads((tmp_path / "scene" / "scene.json").read_bytes())
    assert entry["prototypes"][0]["symmetry"] == {"plane": [0.6, -0.8, 0.012346], "score": 0.93}


def test_a_scene_without_outside_or_objects_comes_back(tmp_path: Path) -> None:
    scene = a_scene()
    bare = replace(scene, background=Background(scene.background.volume), objects=(),
                   prototypes=VoxelPrototypes([], []), sizes_m=(), symmetries=(),
                   confidence=())  # fmt: skip
    save_scene(bare, tmp_path / "scene")
    loaded = load_scene(tmp_path / "scene")
    assert loaded.background.outside is None
    assert len(loaded.prototypes) == len(loaded.objects) == 0


def test_the_same_scene_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    save_scene(a_scene(), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(saved)
    save_scene(load_scene(saved), tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(saved)


def test_the_files_are_those_of_the_contract(saved: Path) -> None:
    assert set(contents(saved)) == {
        "scene.json", "background.safetensors",
        "prototypes/0.safetensors", "prototypes/1.safetensors",
    }  # fmt: skip
    entry = json.loads((saved / "scene.json").read_bytes())
    assert (entry["format"], entry["version"]) == ("protoscene-scene", 1)
    assert entry["grid"] == {"origin": [-0.4, 0.1, -0.05], "voxel_size": 0.1, "shape": [3, 4, 5]}
    assert entry["prototypes"][0] == {
        "id": 0, "file": "prototypes/0.safetensors", "size_m": [0.4, 0.3, 0.2], "symmetry": None
    }  # fmt: skip
    assert "kind" not in entry["objects"][0] and entry["objects"][1]["kind"] == "carton"
    assert entry["objects"][1]["track"]["yaw_rad"] == [0.0]
    for name, listed in entry["files"].items():
        data = (saved / name).read_bytes()
        assert listed == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_nothing_stored_names_a_place_or_a_host(saved: Path) -> None:
    for data in contents(saved).values():
        assert str(saved.parent).encode() not in data
        assert os.uname().nodename.encode() not in data


def test_every_flipped_bit_is_noticed(saved: Path) -> None:
    numbers = np.random.default_rng(0)
    for name, data in contents(saved).items():
        for place in {0, len(data) - 1, *numbers.integers(0, len(data), 60).tolist()}:
            flipped = bytearray(data)
            flipped[place] ^= 1 << int(numbers.integers(8))
            (saved / name).write_bytes(flipped)
            with pytest.raises(Refused) as refused:
                load_scene(saved)
            assert Path(refused.value.file).name == Path(name).name or "…" in refused.value.file
        (saved / name).write_bytes(data)
    load_scene(saved)


def test_every_truncation_and_every_missing_file_is_noticed(saved: Path) -> None:
    for name, data in contents(saved).items():
        for length in (0, 1, len(data) // 2, len(data) - 2):
            (saved / name).write_bytes(data[:length])
            with pytest.raises(Refused):
                load_scene(saved)
        (saved / name).unlink()
        with pytest.raises(Refused, match="missing"):
            load_scene(saved)
        (saved / name).write_bytes(data)


def test_files_of_two_scenes_are_not_mixed(saved: Path, tmp_path: Path) -> None:
    save_scene(a_scene(seed=1), tmp_path / "other")
    (saved / "background.safetensors").write_bytes(
        (tmp_path / "other" / "background.safetensors").read_bytes()
    )
    with pytest.raises(Refused, match="sha256: was changed"):
        load_scene(saved)


def test_a_volume_that_is_not_listed_is_refused(saved: Path) -> None:
    (saved / "notes.txt").write_text("a person's own notes are no matter")
    load_scene(saved)
    (saved / "prototypes" / "2.safetensors").write_bytes(b"")
    with pytest.raises(Refused, match=r"2\.safetensors: file: does not belong"):
        load_scene(saved)


def rewritten(folder: Path, change: Callable[[dict], Any]) -> None:
    """Changes scene.json as a person would: without its hash."""
    entry = json.loads((folder / "scene.json").read_bytes())
    del entry["sha256"]
    change(entry)
    (folder / "scene.json").write_text(json.dumps(entry, indent=1))


def test_a_scene_json_written_by_hand_is_read(saved: Path) -> None:
    rewritten(saved, lambda e: e["objects"][0].update(score=0.5, note="a field of a later version"))
    assert load_scene(saved).objects[0].score == 0.5


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (lambda e: e.update(version=2), "version: made by version 2, this reads ≤ 1"),
        (lambda e: e.update(format="ply"), "format: is not a scene (got ply"),
        (lambda e: e.pop("times"), "missing required field `times`"),
        (lambda e: e["objects"][0].update(id="3"), "objects[0].id: Expected `int`, got `str`"),
        (lambda e: e["objects"][0].update(id=7), "objects: two objects have the same id"),
        (lambda e: e["objects"][0].update(prototype=5), "objects[0].prototype: no prototype has"),
        (lambda e: e["objects"][0]["track"]["scale"].pop(), "objects[0].track.scale: must have a"),
        (lambda e: e["objects"][0]["track"].update(scale=[1, 0]), "track.scale: must be finite"),
        (lambda e: e["objects"][0]["track"].update(time=[1, 1]), "strictly increasing"),
        (lambda e: e["objects"][0]["track"].update(
            time=[], centre_m=[], yaw_rad=[], scale=[], visible=[]), "at least one instant"),
        (lambda e: e.update(times=[1, 0]), "times: must be finite seconds, strictly increasing"),
        (lambda e: e["grid"].update(voxel_size=0), "grid: voxel_size must be positive"),
        (lambda e: e["grid"].update(voxel_size=0.2), "grid: is another than that of scene.json"),
        (lambda e: e["prototypes"][1].update(id=0), "prototypes: two prototypes have the same id"),
        (lambda e: e["prototypes"][0].update(symmetry={"plane": [1, 1, 0], "score": 1}),
         "prototypes[0].symmetry: plane must begin with a normal of length 1 (got 1.414214"),
        (lambda e: e["prototypes"][1].update(symmetry={"plane": [1, 0], "score": 1}),
         "prototypes[1].symmetry.plane: "),
        (lambda e: e["prototypes"][0].update(file="a.safetensors"), "is not listed"),
        (lambda e: e["files"].update({"../a": {"bytes": 0, "sha256": ""}}), "file name leaves"),
        (lambda e: e["files"].update({"/a": {"bytes": 0, "sha256": ""}}), "not relative"),
        (lambda e: e["files"].update({"gone": {"bytes": 0, "sha256": ""}}), "gone: file: file is"),
        (lambda e: e.update(sha257="0" * 64), "did you mean 'sha256'?"),
        (lambda e: e.update(sha256="0" * 64), "sha256: the file was changed"),
        (lambda e: e.update(sha256=""), "sha256: the file was changed"),
    ],
)  # fmt: skip
def test_a_scene_json_that_contradicts_itself_is_refused(
    saved: Path, change: Callable[[dict], Any], refusal: str
) -> None:
    rewritten(saved, change)
    with pytest.raises(Refused) as refused:
        load_scene(saved)
    assert refusal in str(refused.value)
    assert len(str(refused.value)) <= 240


@pytest.mark.parametrize("text", ["", "[]", "{", "\ufeff{}", '{"format": NaN}', "[" * 100_000])
def test_a_file_that_is_no_scene_is_refused(saved: Path, text: str) -> None:
    (saved / "scene.json").write_text(text)
    with pytest.raises(Refused):
        load_scene(saved)


def test_an_infinite_number_is_refused(saved: Path) -> None:
    rewritten(saved, lambda e: e["objects"][0]["track"].update(yaw_rad=[0, 12345]))
    text = (saved / "scene.json").read_text()
    (saved / "scene.json").write_text(text.replace("12345", "1e999"))
    with pytest.raises(Refused):
        load_scene(saved)


def test_a_scene_that_is_missing_or_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="gone: scene: is missing"):
        load_scene(tmp_path / "gone")
    with pytest.raises(Refused, match="file: scene: is not a folder"):
        load_scene(tmp_path / "file")
    with pytest.raises(Refused, match=r"scene\.json: scene: file is missing"):
        load_scene(tmp_path)


@pytest.mark.parametrize("confidence", [torch.ones(2, 3, 3), torch.full((2, 3, 4), torch.nan)])
def test_confidence_that_does_not_fit_is_neither_saved_nor_loaded(
    tmp_path: Path, confidence: torch.Tensor
) -> None:
    scene = replace(a_scene(), confidence=(confidence, None))
    with pytest.raises(Failed, match=r"prototype 0: confidence .* nothing was written"):
        save_scene(scene, tmp_path / "scene")
    assert list(tmp_path.iterdir()) == []
    save_scene(a_scene(), tmp_path / "scene")
    file = tmp_path / "scene" / "prototypes" / "0.safetensors"
    data = tensor_bytes({**read_tensors(file.read_bytes()), "confidence": confidence})
    file.write_bytes(data)
    listed = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    rewritten(tmp_path / "scene", lambda e: e["files"].update({"prototypes/0.safetensors": listed}))
    with pytest.raises(Refused, match=r"0\.safetensors: confidence: must be \(z, y, x\)"):
        load_scene(tmp_path / "scene")


@pytest.mark.parametrize("where", ["track", "volume", "time"])
def test_what_is_not_finite_is_never_saved(tmp_path: Path, where: str) -> None:
    scene = a_scene()
    if where == "track":
        scene.objects[0].track.centre[0, 1] = np.nan
    elif where == "volume":
        scene.background.volume.rgba[0, 0, 0, 0] = torch.inf
    else:
        scene = replace(scene, times=(0.0, np.inf))
    with pytest.raises(Failed, match="nothing was written"):
        save_scene(scene, tmp_path / "scene")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_never_overwritten(saved: Path) -> None:
    before = contents(saved)
    with pytest.raises(Refused, match="exists already"):
        save_scene(a_scene(seed=1), saved)
    assert contents(saved) == before


def test_a_caller_may_hold_the_lock_already(tmp_path: Path) -> None:
    with OutputLock(tmp_path / "scene") as lock:
        with pytest.raises(Refused, match="is being written by process"):
            save_scene(a_scene(), tmp_path / "scene")
        save_scene(a_scene(), tmp_path / "scene", lock)
    assert [p.name for p in tmp_path.iterdir()] == ["scene"]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of a process with threads
def test_killed_at_any_moment_nothing_is_at_the_final_name(tmp_path: Path) -> None:
    """The k-th fsync, write or rename never returns: a fork per k, until one finishes."""
    scene = a_scene()
    folder = tmp_path / "scene"
    finished = False
    for k in range(1, 100):
        child = os.fork()
        if child == 0:
            _die_at_call(k)
            save_scene(scene, folder)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        finished = os.waitstatus_to_exitcode(status) == 0
        if folder.exists():  # killed after the rename, or finished: then it is whole
            assert contents(folder)
            load_scene(folder)
            if finished:
                break
            for file in sorted(folder.rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
            folder.rmdir()
        assert not finished
    assert finished and k > 20
    assert [p.name for p in tmp_path.iterdir()] == ["scene"]


def _die_at_call(k: int) -> None:
    calls = 0

    def counted(function: Callable) -> Callable:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == k:
                os._exit(9)
            return function(*arguments, **options)

        return call

    for name in ("write", "fsync", "rename", "replace"):
        setattr(os, name, counted(getattr(os, name)))


def test_the_public_names_are_found_from_the_package() -> None:
    program = "import protoscene as ps; print(ps.load_scene.__module__, ps.save_scene.__module__)"
    environment = {**os.environ, "PYTHONPATH": str(Path(store.__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
    assert done.stdout.split() == [b"protoscene.store"] * 2, done.stderr
    assert scene_json.VERSION == 1
