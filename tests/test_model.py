"""Model folders: what is saved is what is loaded, and any change to a file is noticed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from protoscene.distil import a_detector
from protoscene.errors import Failed, Refused
from protoscene.model import Model, load_model, save_model
from protoscene.prototypes import VoxelPrototypes


def a_model(seed: int = 0) -> Model:
    make = torch.Generator().manual_seed(seed)
    rgba = [torch.rand(4, 2, 3, 4, generator=make), torch.rand(4, 5, 2, 2, generator=make)]
    return Model(
        prototypes=VoxelPrototypes(rgba, [0.1, 0.05]),
        sizes_m=((0.4, 0.3, 0.2), (0.1, 0.1, 0.25)),
        confidence=(None, torch.rand(5, 2, 2, generator=make)),
        detector=a_detector(2, (8, 16, 24), seed),
        voxel_size=0.05,
        shape=(8, 16, 24),
        made_by={"command": "learn", "seed": seed, "steps": 3, "recordings_sha256": "0" * 64},
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(a_model(), tmp_path / "model")
    return tmp_path / "model"


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_what_is_saved_is_loaded(saved: Path) -> None:
    model, loaded = a_model(), load_model(saved)
    assert (loaded.sizes_m, loaded.shape, loaded.voxel_size) == (
        model.sizes_m, model.shape, model.voxel_size
    )  # fmt: skip
    for name, tensor in model.detector.state_dict().items():
        assert torch.equal(loaded.detector.state_dict()[name], tensor)
    for k in range(2):
        assert torch.equal(loaded.prototypes.rgba(k), model.prototypes.rgba(k).half().float())
    assert loaded.confidence[0] is None and loaded.confidence[1] is not None
    assert loaded.made_by["steps"] == 3
    assert loaded.sha256 == json.loads((saved / "model.json").read_bytes())["sha256"]
    assert not loaded.detector.training
    volume = torch.zeros(1, 5, 8, 16, 24)
    for one, two in zip(model.detector(volume), loaded.detector(volume), strict=True):
        assert torch.equal(one.detach(), two)


def test_the_same_model_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    save_model(a_model(), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(saved)
    save_model(load_model(saved), tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(saved)
    save_model(a_model(seed=1), tmp_path / "other")
    assert contents(tmp_path / "other") != contents(saved)


def test_every_flipped_bit_and_every_missing_file_is_noticed(saved: Path) -> None:
    numbers = np.random.default_rng(0)
    for name, data in contents(saved).items():
        for place in {0, len(data) - 1, *numbers.integers(0, len(data), 20).tolist()}:
            flipped = bytearray(data)
            flipped[place] ^= 1 << int(numbers.integers(8))
            (saved / name).write_bytes(flipped)
            with pytest.raises(Refused):
                load_model(saved)
        (saved / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(Refused):
            load_model(saved)
        (saved / name).unlink()
        with pytest.raises(Refused, match="missing"):
            load_model(saved)
        (saved / name).write_bytes(data)
    load_model(saved)


def test_weights_of_another_model_are_not_mixed_in(saved: Path, tmp_path: Path) -> None:
    save_model(a_model(seed=1), tmp_path / "other")
    (saved / "weights.safetensors").write_bytes(
        (tmp_path / "other" / "weights.safetensors").read_bytes()
    )
    with pytest.raises(Refused, match="sha256: was changed"):
        load_model(saved)


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (lambda e: e.update(version=2), "version: made by version 2, this reads ≤ 1"),
        (lambda e: e.update(format="protoscene-scene"), "format: is not a model"),
        (lambda e: e.pop("input"), "missing required field `input`"),
        (lambda e: e["input"].update(shape=[8, 16]), "input.shape"),
        (lambda e: e["input"].update(shape=[8, 16, 0]), "input.shape: is none of a volume"),
        (lambda e: e["input"].update(shape=[64, 16, 24]), "is not what this version's detector"),
        (lambda e: e["input"].update(voxel_size=0), "input.voxel_size: is no length"),
        (lambda e: e.update(prototypes=[]), "prototypes: there is none"),
        (lambda e: e["prototypes"].pop(), "is not what this version's detector"),
        (lambda e: e["prototypes"][0].update(id=1), "two prototypes have the same id"),
        (lambda e: e.update(weights="w.safetensors"), "is not listed"),
    ],
)
def test_a_model_json_that_contradicts_itself_is_refused(
    saved: Path, change: Callable[[dict], Any], refusal: str
) -> None:
    entry = json.loads((saved / "model.json").read_bytes())
    del entry["sha256"]
    change(entry)
    (saved / "model.json").write_text(json.dumps(entry))
    with pytest.raises(Refused) as refused:
        load_model(saved)
    assert refusal in str(refused.value) and len(str(refused.value)) <= 240


def test_a_scene_is_no_model_and_pickles_are_not_read(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"\x80\x04")
    with pytest.raises(Refused, match=r"model\.pt: model: a pickle is never loaded"):
        load_model(tmp_path / "model.pt")
    with pytest.raises(Refused, match="gone: model: is missing"):
        load_model(tmp_path / "gone")


def test_weights_that_are_not_finite_are_neither_saved_nor_read(saved: Path) -> None:
    model = a_model()
    with torch.no_grad():
        model.detector.head.weight[0] = torch.nan
    with pytest.raises(Failed, match="nothing was written"):
        save_model(model, saved.parent / "new")
    assert [p.name for p in saved.parent.iterdir()] == ["model"]
    path = saved / "weights.safetensors"
    weights = load_file(path)
    weights["head.bias"][0] = torch.inf
    save_file(weights, path)
    entry = json.loads((saved / "model.json").read_bytes())
    del entry["sha256"]
    from hashlib import sha256

    data = path.read_bytes()
    entry["files"][path.name] = {"bytes": len(data), "sha256": sha256(data).hexdigest()}
    (saved / "model.json").write_text(json.dumps(entry))
    with pytest.raises(Refused, match=r"head\.bias: holds a number that is not finite"):
        load_model(saved)


def test_an_existing_folder_is_never_overwritten(saved: Path) -> None:
    before = contents(saved)
    with pytest.raises(Refused, match="exists already"):
        save_model(replace(a_model(), voxel_size=0.1), saved)
    assert contents(saved) == before
