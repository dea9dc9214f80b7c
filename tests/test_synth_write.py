"""Synthetic pictures against geometry that is known without them, and the files against truth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from ctypes.util import find_library
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protoscene.errors import Refused
from protoscene.geometry import OPENCV_FROM_OPENGL, Camera, look_at, rotation_from_yaw
from protoscene.synth import TINY, write_recording
from protoscene.synth.layout import Actor, Layout
from protoscene.synth.things import KINDS, box, build_thing
from protoscene.synth.world import World

pytest.importorskip("mujoco", reason="the extra `sim` is not installed")


SOURCE = Path(__file__).resolve().parent.parent / "src"


def camera_at(eye: tuple[float, float, float], target: tuple[float, float, float]) -> Camera:
    return Camera(200, 160, 230.0, 230.0, 100.0, 80.0, look_at(eye, target))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synth") / "tiny"
    write_recording(replace(TINY, noise=False), folder)
    return folder


def manifest_cameras(folder: Path) -> list[tuple[dict[str, object], Camera]]:
    manifest = json.loads((folder / "transforms.json").read_text())
    intrinsics = [manifest[k] for k in ("w", "h", "fl_x", "fl_y", "cx", "cy")]
    return [
        (f, Camera(*intrinsics, np.array(f["transform_matrix"]) @ OPENCV_FROM_OPENGL))
        for f in manifest["frames"]
    ]


def read_png(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


@pytest.mark.parametrize("kind", KINDS)
def test_unprojected_pixels_fill_the_true_box(kind: str) -> None:
    thing, yaw = build_thing(kind), 0.4
    x, y, z = 0.1, 0.2, thing.size_m[2] / 2
    actor = Actor(thing, 0, "parked", np.array([[x, y, yaw]]))
    eyes = [(1.6 * np.cos(a), 1.6 * np.sin(a), 0.9) for a in (0.5, 2.6, 4.7)]
    points = []
    with World(Layout((thing,), (actor,), ()), 200, 160) as world:
        world.at(0)
        for eye in [*eyes, (x, y, 1.9)]:
            camera = camera_at(eye, (x, y, 0.2))
            _, depth, actors = world.picture(camera)
            world_points = camera.unproject(depth)
            assert np.abs(world_points[(actors < 0) & (depth > 0)][:, 2]).max() < 0.002  # ground
            points.append(world_points[actors == 0])
    own = (np.concatenate(points) - [x, y, z]) @ rotation_from_yaw(yaw)
    half = np.array(thing.size_m) / 2
    assert (np.abs(own) <= half + 0.01).all()
    np.testing.assert_allclose(own.max(axis=0), half, atol=0.006)
    np.testing.assert_allclose(own.min(axis=0), -half, atol=0.006)


def test_pixels_and_depth_mean_what_the_conventions_say() -> None:
    """A box face that spans known pixels: u = fx·x/z + cx, pixel (0, 0) spans 0..1, z-depth."""
    slab = box((0.0, 0.0, 0.0), (0.02, 0.6, 0.4), (1.0, 0.0, 0.0))
    clutter = replace(slab, centre=(2.01, 0.05, 1.0))
    camera = camera_at((0.0, 0.0, 1.0), (1.0, 0.0, 1.0))
    with World(Layout((), (), (clutter,)), 200, 160) as world:
        world.at(0)
        _, depth, _ = world.picture(camera)
    face = np.abs(depth - 2.0) < 0.002  # the same depth all over: z-depth, not range
    corners = camera.project(np.array([[2.0, 0.35, 1.2], [2.0, -0.25, 0.8]]))
    v, u = (np.arange(n) + 0.5 for n in depth.shape)
    inside = (
        (corners[0, 0] < u)
        & (u < corners[1, 0])
        & ((corners[0, 1] < v) & (v < corners[1, 1]))[:, None]
    )
    assert (face == inside).all() and face.any()


def test_cameras_of_one_instant_agree(tiny: Path) -> None:
    frames = manifest_cameras(tiny / "recording")
    (first, a), (second, b) = frames[:2]
    assert first["time"] == second["time"] and first["camera"] != second["camera"]
    depth_a, depth_b = (
        read_png(tiny / "recording" / str(f["depth_file_path"])) / 1000 for f in (first, second)
    )
    uvz = b.project(a.unproject(depth_a)[depth_a > 0])
    inside = (uvz[:, 2] > 0) & (uvz[:, :2] > 0).all(1) & (uvz[:, :2] < [b.width, b.height]).all(1)
    column, row = uvz[inside, 0].astype(int), uvz[inside, 1].astype(int)
    seen, expected = depth_b[row, column], uvz[inside, 2]
    # Beside an edge of b's picture the nearest pixel may be the other side's.
    spread = np.ptp([np.roll(depth_b, s, (0, 1)) for s in np.ndindex(3, 3)], axis=0)
    spread = np.roll(spread, (-1, -1), (0, 1))[row, column]
    sure = (spread < 0.1 * expected) & (seen > 0)
    wrong = sure & (np.abs(seen - expected) > 0.005 + spread)
    hidden = wrong & (seen < expected)
    assert sure.mean() > 0.7 and (wrong & ~hidden).sum() <= 0.001 * sure.sum()
    assert 0.0 < hidden.mean() < 0.25


def test_truth_counts_the_pixels_that_see_a_thing(tiny: Path) -> None:
    truth = json.loads((tiny / "truth.json").read_text())
    assert (truth["format"], truth["version"]) == ("protoscene-truth", 1)
    assert truth["heldout"] == "heldout/transforms.json"
    for item in truth["objects"]:
        track = item["track"]
        assert track["visible"] == [n >= 30 for n in track["visible_pixels"]]
        assert any(track["visible"])
        np.testing.assert_allclose(item["dims_m"], truth["prototypes"][item["prototype"]]["size_m"])
        assert all(c[2] == item["dims_m"][2] / 2 for c in track["centre_m"])


def test_instances_lie_in_their_boxes(tiny: Path) -> None:
    objects = json.loads((tiny / "truth.json").read_text())["objects"]
    times = json.loads((tiny / "truth.json").read_text())["times"]
    checked = 0
    for frame, camera in manifest_cameras(tiny / "heldout"):
        name = Path(str(frame["file_path"])).name
        ids = read_png(tiny / "heldout" / "instances" / name)
        depth = read_png(tiny / "heldout" / str(frame["depth_file_path"])) / 1000
        points = camera.unproject(depth)
        assert ids.max() <= len(objects)
        for item in objects:
            i = times.index(frame["time"])
            own = points[ids == item["id"] + 1] - item["track"]["centre_m"][i]
            own = own @ rotation_from_yaw(item["track"]["yaw_rad"][i])
            assert (np.abs(own) <= np.array(item["dims_m"]) / 2 + 0.01).all()
            checked += len(own)
    assert checked > 1000


def test_visible_pixels_agree_with_boxes_in_the_recording(tiny: Path) -> None:
    """Pixels whose points lie in an object's box, off the ground, are the pixels counted."""
    truth = json.loads((tiny / "truth.json").read_text())
    for item in truth["objects"]:
        counts = dict.fromkeys(truth["times"], 0)
        for frame, camera in manifest_cameras(tiny / "recording"):
            depth = read_png(tiny / "recording" / str(frame["depth_file_path"])) / 1000
            i = truth["times"].index(frame["time"])
            own = camera.unproject(depth) - item["track"]["centre_m"][i]
            own = own @ rotation_from_yaw(item["track"]["yaw_rad"][i])
            half = np.array(item["dims_m"]) / 2
            off_ground = own[..., 2] > -half[2] + 0.01
            counts[frame["time"]] += int(((np.abs(own) <= half + 0.005).all(-1) & off_ground).sum())
        np.testing.assert_allclose(
            item["track"]["visible_pixels"], list(counts.values()), rtol=0.2, atol=15
        )


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    small = replace(TINY, n_instants=3, width=80, height=60)
    write_recording(small, tmp_path / "a")
    write_recording(small, tmp_path / "b")
    write_recording(replace(small, seed=1), tmp_path / "c")
    names = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(names) == 3 * (2 * 2 + 3) + 3
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    truths = [(tmp_path / folder / "truth.json").read_text() for folder in "ac"]
    assert truths[0] != truths[1]


def test_an_existing_output_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(Refused, match="output: exists"):
        write_recording(TINY, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_progress_counts_the_instants(tmp_path: Path) -> None:
    said: list[tuple[str, int, int]] = []
    settings = replace(TINY, n_instants=2, width=32, height=24)
    write_recording(settings, tmp_path / "out", lambda *step: said.append(step))
    assert said == [(f"draw {what}", i, 2) for what in ("recording", "held-out") for i in (1, 2)]


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("protoscene.synth.write._write_heldout", fail)
    with pytest.raises(OSError, match="disk full"):
        write_recording(replace(TINY, n_instants=2), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(find_library("OSMesa") is None, reason="libOSMesa is not installed")
def test_osmesa_takes_over_where_egl_has_no_device(tmp_path: Path) -> None:
    script = (
        "import dataclasses, sys; from protoscene.synth import TINY, write_recording;"
        "write_recording(dataclasses.replace(TINY, n_instants=2), sys.argv[1])"
    )
    environment = {k: v for k, v in os.environ.items() if "GL" not in k}
    environment |= {"MUJOCO_EGL_DEVICE_ID": "99", "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path / "out")]
    subprocess.run(command, env=environment, check=True, timeout=60)
    assert (tmp_path / "out" / "truth.json").exists()


def test_missing_mujoco_is_one_line_that_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(
        Refused, match=r"mujoco: not installed \(expected pip install 'protoscene\[sim\]'"
    ):
        write_recording(TINY, tmp_path / "out")
    assert not list(tmp_path.iterdir())
