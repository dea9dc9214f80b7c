"""What is larger than anything that is meant is refused, by its size alone where that can be."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import box_recording
from protoscene.errors import Refused
from protoscene.formats import load, transforms
from protoscene.geometry import Grid
from protoscene.lidar.stays import Ends
from sweep_recording import write_sweeps


def test_a_manifest_of_more_than_64_mb(tmp_path: Path) -> None:
    box_recording.write_transforms(tmp_path, box_recording.shots(1, 1))
    os.truncate(tmp_path / "transforms.json", 64 * 10**6 + 1)  # takes no disk
    with pytest.raises(Refused, match=r"transforms.json: .*too large .*at most 64 MB"):
        load(tmp_path)


def test_more_than_a_million_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert transforms.MAX_FRAMES == 10**6
    monkeypatch.setattr(transforms, "MAX_FRAMES", 3)
    manifest = box_recording.write_transforms(tmp_path, box_recording.shots(3, 1))
    assert len(load(tmp_path).frames) == 3
    box_recording.write_manifest(tmp_path, {**manifest, "frames": [0, 0, 0, 0]})
    with pytest.raises(Refused, match=r"frames: recording has 4 frames \(expected 1\.\.3\)"):
        load(tmp_path)


def test_more_than_50_million_points(tmp_path: Path) -> None:
    write_sweeps(tmp_path / "kitti", [np.ones((1, 4))], [np.eye(4)], [0.0])
    os.truncate(tmp_path / "kitti/velodyne/000000.bin", 50 * 10**6 * 16)
    load(tmp_path / "kitti")
    os.truncate(tmp_path / "kitti/velodyne/000000.bin", 50 * 10**6 * 16 + 16)
    with pytest.raises(Refused, match=r"points: sweep is too large .*50000001 points"):
        load(tmp_path / "kitti")


def test_a_text_of_more_than_4096_characters(tmp_path: Path) -> None:
    manifest = box_recording.write_transforms(tmp_path, box_recording.shots(1, 1))
    box_recording.write_manifest(tmp_path, {**manifest, "applied_transform": "x" * 4096})
    load(tmp_path)
    box_recording.write_manifest(tmp_path, {**manifest, "applied_transform": "x" * 4097})
    with pytest.raises(Refused, match=r"applied_transform: text is longer than 4096 characters"):
        load(tmp_path)


def test_a_picture_of_more_than_64_megapixels(tmp_path: Path) -> None:
    manifest = box_recording.write_transforms(tmp_path, box_recording.shots(1, 1))
    shared = manifest["frames"][0] if "w" in manifest["frames"][0] else manifest
    shared.update(w=8001, h=8000, cx=4000, cy=4000)
    box_recording.write_manifest(tmp_path, manifest)
    with pytest.raises(Refused, match="64"):
        load(tmp_path)


def test_voxels_are_counted_beyond_32_bits() -> None:
    grid = Grid((0.0, 0.0, 0.0), 0.5, (1500, 1500, 1500))
    assert grid.n_voxels > 2**31
    ends = Ends(grid)
    ends.add(np.array([[749.9, 749.8, 749.7], [0.1, 0.1, 749.7]] * 2), np.full(4, 0.5))
    volume = ends.volume()
    assert volume.places.tolist() == [1499 * 1500**2, 1500**3 - 1]
    assert volume.values.tolist() == [[0.5, 0.5, 0.5, 1.0]] * 2
