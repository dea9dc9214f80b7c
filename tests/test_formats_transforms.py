"""What a ``transforms`` file may say, what it may leave out, and what is then made up."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest

import box_recording as box
from protoscene.errors import Refused
from protoscene.formats import load, read_cameras
from protoscene.formats.frames import require_one_unit
from protoscene.formats.manifest import edits
from protoscene.recording import Recording


def written(folder: Path, manifest: dict) -> Recording:
    box.write_manifest(folder, manifest)
    return load(folder)


def test_instants_cameras_and_order_of_the_manifest(tmp_path: Path) -> None:
    taken = box.shots()
    manifest = box.write_transforms(tmp_path, taken)
    recording = load(tmp_path)
    assert recording.times == (0.0, 0.5, 1.0)
    assert recording.camera_names == ("cam0", "cam1")
    assert [len(recording.frames_at(i)) for i in range(3)] == [2, 2, 2]
    random.Random(0).shuffle(manifest["frames"])
    names = [frame.colour_file.name for frame in written(tmp_path, manifest).frames]
    assert names == [frame.colour_file.name for frame in recording.frames]


def test_intrinsics_defaults_and_overrides(tmp_path: Path) -> None:
    manifest = box.write_transforms(tmp_path, box.shots(2, 1))
    for key in ("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_model"):
        del manifest[key]
    manifest["camera_angle_x"] = 2 * np.arctan(32 / 50)
    manifest["frames"][1].update(fl_x=70.0, cx=30.0)
    first, second = (frame.camera for frame in written(tmp_path, manifest).frames)
    np.testing.assert_allclose([first.fx, first.fy, first.cx, first.cy], [50, 50, 32, 24])
    assert (first.width, first.height) == (64, 48)
    assert (second.fx, second.fy, second.cx, second.cy) == (70, 70, 30, 24)


def test_times_and_cameras_that_are_made_up(tmp_path: Path) -> None:
    manifest = box.write_transforms(tmp_path, box.shots())
    without_time = [{**f} for f in manifest["frames"]]
    for frame in without_time:
        del frame["time"]
    recording = written(tmp_path, {**manifest, "frames": without_time})
    assert recording.times == (0.0, 1.0, 2.0) and recording.camera_names == ("cam0", "cam1")
    neither = [{k: v for k, v in f.items() if k != "camera"} for f in without_time]
    recording = written(tmp_path, {**manifest, "frames": neither})
    assert len(recording) == 6 and recording.camera_names == ("0",)
    no_camera = [{k: v for k, v in f.items() if k != "camera"} for f in manifest["frames"]]
    recording = written(tmp_path, {**manifest, "frames": no_camera[::-1]})
    assert len(recording) == 3 and recording.camera_names == ("0", "1")
    assert [f.colour_file.name[0] for f in recording.frames] == ["0", "1"] * 3
    numbered = [{**f, "camera": int(f["camera"][3])} for f in manifest["frames"]]
    assert written(tmp_path, {**manifest, "frames": numbered}).camera_names == ("0", "1")


def test_three_by_four_poses_and_printed_decimals(tmp_path: Path) -> None:
    taken = box.shots(2, 1)
    manifest = box.write_transforms(tmp_path, taken)
    exact = [frame["transform_matrix"] for frame in manifest["frames"]]

    def rounded(decimals: int) -> dict:
        frames = [
            {**f, "transform_matrix": np.round(m, decimals)[:3].tolist()}
            for f, m in zip(manifest["frames"], exact, strict=True)
        ]
        return {**manifest, "frames": frames}

    for decimals in (15, 7):
        recording = written(tmp_path, rounded(decimals))
        np.testing.assert_allclose(
            recording.frames[0].camera.world_from_camera, taken[0].pose, atol=10.0**-decimals
        )
    with pytest.warns(UserWarning, match="2 rotations are off orthonormal .*: repaired"):
        recording = written(tmp_path, rounded(3))
    rotation = recording.frames[0].camera.world_from_camera[:3, :3]
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(rotation, taken[0].pose[:3, :3], atol=1e-3)
    with pytest.raises(Refused, match=r"frames\[0\].transform_matrix.*not orthonormal"):
        written(tmp_path, rounded(1))


def test_known_keys_are_silent_and_unknown_ones_named_once(tmp_path: Path) -> None:
    manifest = box.write_transforms(tmp_path, box.shots(2, 1))
    manifest.update(
        aabb_scale=16, applied_transform=[[1, 0, 0, 0]] * 3, orientation_override="none"
    )
    manifest.update(k4=0, is_fisheye=False, train_filenames=["a"], ply_file_path="x.ply")
    for frame in manifest["frames"]:
        frame.update(colmap_im_id=3, sharpness=20.5, mask_path="m.png")
    assert len(written(tmp_path, manifest)) == 2
    manifest["photographer"] = "somebody"
    for frame in manifest["frames"]:
        frame["weather"] = 1
    with pytest.warns(UserWarning) as warned:
        written(tmp_path, manifest)
    assert [str(w.message).split(": ", 1)[1] for w in warned] == [
        "unknown keys are ignored: 'photographer', 'weather'"
    ]


def test_edits_is_levenshtein_up_to_two() -> None:
    def slow(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))

    words = ["".join(w) for n in range(4) for w in itertools.product("ab", repeat=n)]
    for a, b in itertools.product(words, words):
        assert edits(a, b) == min(slow(a, b), 3)


def test_even_and_uneven_clocks_are_not_a_mix_of_units() -> None:
    rng = np.random.default_rng(0)
    for times in (
        np.arange(50) / 30,
        1.3e9 + np.arange(50) / 30,
        np.arange(30).repeat(2) + np.tile([0, 0.001], 30),  # two cameras, 1 ms apart
        np.concatenate([np.arange(30) / 10, 4000 + np.arange(30) / 10]),  # a long pause
        np.cumsum(rng.exponential(1.0, 200)),
        np.geomspace(0.001, 1e5, 40),
    ):
        require_one_unit(times.tolist(), Path("x"), "time")
    for factor, split in itertools.product((1e3, 1e6, 1e9), (2, 5, 19)):
        for start in (0.1, 1.3e9):
            times = start + np.arange(20) / 10
            times[split:] *= factor
            with pytest.raises(Refused, match="mix of units"):
                require_one_unit(times.tolist(), Path("x"), "time")


def test_cameras_to_render_need_no_pictures(tmp_path: Path) -> None:
    taken = box.shots(2, 1)
    manifest = box.manifest_of(taken)
    for frame in manifest["frames"]:
        del frame["depth_file_path"]
    file = tmp_path / "cameras.json"
    file.write_text(json.dumps(manifest))
    cameras = read_cameras(file)
    assert [(time, name) for _, time, name in cameras] == [
        (0.0, "rgb/0_000.png"),
        (0.5, "rgb/0_001.png"),
    ]
    np.testing.assert_allclose(cameras[1][0].world_from_camera, taken[1].pose, atol=1e-12)
    for change, says in (
        ({"file_path": "../x.png"}, "leaves"),
        ({"file_path": "rgb/0_000.png"}, "same picture"),
        ({"fl_x": -1}, "focal"),
    ):
        manifest["frames"][1] = {**box.manifest_of(taken)["frames"][1], **change}
        file.write_text(json.dumps(manifest))
        with pytest.raises(Refused, match=rf"frames\[1\]\.{next(iter(change))}.*{says}"):
            read_cameras(file)
    del manifest["w"]
    file.write_text(json.dumps(manifest))
    with pytest.raises(Refused, match="w: picture size"):
        read_cameras(file)
