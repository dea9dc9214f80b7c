"""No changed byte of a file of ours is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import corruption
from protoscene.errors import Refused
from protoscene.files import write_file
from protoscene.volume_file import load_volume, volume_bytes
from small_scene import a_scene


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> list[corruption.Kind]:
    return corruption.kinds(tmp_path_factory.mktemp("files"))


def test_every_flip_and_every_cut_is_noticed(kinds: list[corruption.Kind]) -> None:
    assert len(kinds) == 12  # 4 of a scene, 4 of a model, 2 of a checkpoint, 2 volumes
    for kind in kinds:
        noticed = corruption.damaged(kind, flips=40, cuts=8, seed=0)
        assert (noticed.flips, noticed.cuts, noticed.missed) == (40, 8, [])


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_composed_volume_is_read_as_it_was_written(tmp_path: Path, suffix: str) -> None:
    volume, file = a_scene().compose(0.0), tmp_path / f"volume{suffix}"
    write_file(file, volume_bytes(volume, suffix))
    read = load_volume(file)
    assert read.grid == volume.grid and torch.equal(read.rgba, volume.rgba.clamp(0, 1))
    assert volume_bytes(volume, suffix) == file.read_bytes()


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_other_programs_read_a_composed_volume(tmp_path: Path, suffix: str) -> None:
    volume, file = a_scene().compose(0.0), tmp_path / f"volume{suffix}"
    write_file(file, volume_bytes(volume, suffix))
    if suffix == ".npz":
        with np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    else:
        from safetensors.numpy import load_file

        found = load_file(file)
    assert set(found) == {"rgba", "origin", "voxel_size"}
    assert np.array_equal(found["rgba"], volume.rgba.clamp(0, 1).numpy())


def test_a_volume_without_its_hash_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", rgba=np.zeros((4, 2, 2, 2)))
    with pytest.raises(Refused, match="sha256: is none, or the file was changed"):
        load_volume(tmp_path / "a.npz")
