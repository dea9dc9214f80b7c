"""Every layout gives back the views that were written into it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import box_recording as box
from protoscene.check import check
from protoscene.errors import Refused
from protoscene.formats import load
from protoscene.recording import Recording

TABLETOP = Path(__file__).parents[2] / "shared" / "data" / "tabletop"


def all_views(recording: Recording) -> list:
    return [recording.view(i) for i in range(len(recording.frames))]


@pytest.mark.parametrize("layout", box.WRITERS)
def test_every_layout_returns_what_was_written(tmp_path: Path, layout: str) -> None:
    taken = box.shots(4, 1)
    box.WRITERS[layout](tmp_path, taken)
    recording = load(tmp_path)
    assert len(recording) == 4
    assert load(tmp_path, format=layout).sha256 == recording.sha256
    for view, shot in zip(all_views(recording), taken, strict=True):
        np.testing.assert_array_equal(view.colour, shot.colour)
        np.testing.assert_array_equal(view.depth, shot.depth.astype(np.float32))
        np.testing.assert_allclose(view.camera.world_from_camera, shot.pose, atol=1e-6)
        camera = view.camera
        focal = (camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy)
        assert focal == (box.WIDTH, box.HEIGHT, box.FX, box.FY, box.CX, box.CY)
    start = recording.times[0]
    step = {"7scenes": 1.0}.get(layout, 0.5)  # that layout has no clock: the frame's number
    np.testing.assert_allclose([t - start for t in recording.times], np.arange(4) * step)
    assert check(tmp_path).problems == []


def test_unprojected_depth_lies_on_the_truth(tmp_path: Path) -> None:
    """Axes and half pixels: floor pixels are at z = 0, and some are on top of a box."""
    box.write_transforms(tmp_path, box.shots())
    for view in all_views(load(tmp_path)):
        heights = view.camera.unproject(view.depth)[..., 2][view.depth > 0]
        assert heights.min() > -0.002
        assert (np.abs(heights) < 0.002).mean() > 0.5
        assert (np.abs(heights - 0.5) < 0.002).sum() > 5


def test_intrinsics_from_the_caller(tmp_path: Path) -> None:
    for layout in ("tum", "7scenes"):
        box.WRITERS[layout](tmp_path / layout, box.shots(2, 1))
        for name in ("calibration.txt", "camera-intrinsics.txt"):
            (tmp_path / layout / name).unlink(missing_ok=True)
        with pytest.raises(Refused, match="intrinsics"):
            load(tmp_path / layout)
        camera = load(tmp_path / layout, intrinsics=(50, 51, 30, 20)).frames[0].camera
        assert (camera.fx, camera.fy, camera.cx, camera.cy) == (50, 51, 30, 20)


def test_hash_covers_every_file_and_nothing_else(tmp_path: Path) -> None:
    box.write_tum(tmp_path, box.shots(2, 1))
    before = load(tmp_path).sha256
    (tmp_path / "notes.txt").write_text("not part of it")
    assert load(tmp_path).sha256 == before
    for name in ("rgb/1.png", "depth/0.png", "groundtruth.txt", "calibration.txt"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data + b"\n")
        assert load(tmp_path).sha256 != before, name
        (tmp_path / name).write_bytes(data)
    assert load(tmp_path).sha256 == before


def test_tum_leaves_out_what_has_no_partner(tmp_path: Path) -> None:
    box.write_tum(tmp_path, box.shots(4, 1))
    lines = (tmp_path / "depth.txt").read_text().splitlines()
    (tmp_path / "depth.txt").write_text("\n".join([lines[0], *lines[2:]]))
    with pytest.warns(UserWarning, match=r"1 of 4 pictures .* are left out"):
        recording = load(tmp_path)
    assert len(recording) == 3
    assert recording.frames[0].depth_file.name == "1.png"


def test_tum_gives_a_depth_picture_to_the_nearest_colour_only(tmp_path: Path) -> None:
    box.write_tum(tmp_path, box.shots(2, 1))
    with (tmp_path / "rgb.txt").open("a") as file:
        file.write("100.512000 rgb/0.png\n")  # 7 ms from depth/1, whose own colour is 5 ms off
    with pytest.warns(UserWarning, match=r"1 of 3 pictures"):
        recording = load(tmp_path)
    assert [f.colour_file.name for f in recording.frames] == ["0.png", "1.png"]


def test_real_recording_loads() -> None:
    if not TABLETOP.is_dir():
        pytest.skip(f"the real recording is not there: {TABLETOP}")
    recording = load(TABLETOP)
    assert (len(recording), len(recording.frames)) == (11, 22)
    assert recording.camera_names == ("0", "1")
    view = recording.view(0)
    assert view.colour.shape == (480, 640, 3)
    heights = view.camera.unproject(view.depth)[..., 2][view.depth > 0]
    on_table = np.abs(heights) < 0.01
    assert on_table.mean() > 0.1  # +z is up and the table top is z = 0
