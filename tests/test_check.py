"""``check`` lists every problem once and sums up what is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import box_recording as box
from protoscene.check import check


def test_check_lists_every_problem_and_sums_up(tmp_path: Path) -> None:
    manifest = box.write_transforms(tmp_path, box.shots(3, 2))
    found = check(tmp_path)
    assert found.problems == []
    summary = found.summary
    assert summary is not None
    assert (summary.instants, summary.pictures, summary.cameras) == (3, 6, ("cam0", "cam1"))
    assert summary.sizes == ("64×48",) and (summary.first_time, summary.last_time) == (0.0, 1.0)
    low, middle, high = summary.depth_percentiles or (0, 0, 0)
    assert 0.5 < low < middle < high < 8
    assert 0.04 < summary.without_depth < 0.3
    (tmp_path / "depth/1_001.png").unlink()
    file = tmp_path / "rgb/0_002.png"
    file.write_bytes(file.read_bytes()[:-30])
    manifest["frames"][3]["transform_matrix"][0][0] = 3.0
    manifest["frames"][4]["camera"] = None
    manifest["frame"] = 1
    box.write_manifest(tmp_path, manifest)
    found = check(tmp_path)
    assert [(Path(p.file).name, p.field) for p in found.problems] == [
        ("transforms.json", "frame"),
        ("transforms.json", "frames[3].transform_matrix"),
        ("transforms.json", "frames[4].camera"),
        ("1_001.png", "frames[1].depth_file_path"),
        ("0_002.png", "frames[2].file_path"),
    ]
    assert found.summary is not None and found.summary.pictures == 3


def test_check_says_a_fault_of_all_frames_once_and_finds_empty_depth(tmp_path: Path) -> None:
    manifest = box.write_transforms(tmp_path, box.shots())
    box.write_manifest(tmp_path, {**manifest, "fl_x": "60"})
    assert [p.field for p in check(tmp_path).problems] == ["fl_x"]
    box.write_manifest(tmp_path, manifest)
    for file in (tmp_path / "depth").iterdir():
        box.write_png(file, np.zeros((box.HEIGHT, box.WIDTH), np.uint16))
    found = check(tmp_path)
    assert [(p.problem, p.got) for p in found.problems] == [
        ("no picture holds any valid depth", "6 empty pictures")
    ]
    assert found.summary is not None and found.summary.depth_percentiles is None
    assert check(tmp_path / "absent").problems[0].problem == "folder does not exist"
