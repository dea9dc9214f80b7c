"""Robot logs: clouds and pictures as they were written, posed by the tree of frames."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mcap_ros2")

from mcap.writer import CompressionType

import robot_log as robot
from protoscene.check import check
from protoscene.errors import Refused
from protoscene.formats import load, mcap_chunks
from protoscene.geometry import rotation_from_yaw

START = 1700000000.0
BASE_FROM_SENSOR = np.eye(4)
BASE_FROM_SENSOR[:3, :3], BASE_FROM_SENSOR[:3, 3] = rotation_from_yaw(0.3), (0.2, 0.0, 1.7)


def world_from_base(time: float) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = rotation_from_yaw(0.4 * (time - START))
    pose[:3, 3] = (2.0 * (time - START), -1.0, 0.5)
    return pose


def rows(k: int) -> np.ndarray:
    random = np.random.default_rng(k)
    return np.column_stack([random.uniform(-20, 20, (60 + k, 3)), random.uniform(0, 1, 60 + k)])


def transforms() -> list[robot.Message]:
    """The base at every tenth of a second, the sensor on it for good."""
    found = [robot.transform("base", "lidar", START, BASE_FROM_SENSOR, fixed=True)]
    for k in range(6):
        time = START + 0.1 * k
        found.append(robot.transform("odom", "base", time, world_from_base(time)))
    return found


def clouds(n: int = 4) -> list[robot.Message]:
    return [robot.cloud("/points", "lidar", START + 0.1 * k + 0.05, rows(k)) for k in range(n)]


def test_clouds_are_sweeps_at_their_poses(tmp_path: Path) -> None:
    file = robot.write_log(tmp_path / "drive.mcap", transforms() + clouds())
    for given in (file, tmp_path):  # the log, or the folder that holds it
        recording = load(given)
        assert len(recording.sweeps) == 4 and not recording.frames
        for k, entry in enumerate(recording.sweeps):
            assert entry.time == pytest.approx(START + 0.1 * k + 0.05, abs=1e-6)
            truth = world_from_base(entry.time) @ BASE_FROM_SENSOR  # half-way between two known
            np.testing.assert_allclose(entry.world_from_sensor, truth, atol=1e-5)
            sweep = recording.sweep(k)
            np.testing.assert_array_equal(sweep.points, rows(k)[:, :3].astype(np.float32))
            np.testing.assert_allclose(sweep.intensity, rows(k)[:, 3], atol=1e-6)
    assert not check(file).problems


def test_points_that_are_no_number_did_not_return(tmp_path: Path) -> None:
    taken = rows(0)
    taken[::3, 1] = np.nan
    taken[:, 3] *= 255
    message = robot.cloud("/points", "lidar", START, taken)
    sweep = load(robot.write_log(tmp_path / "d.mcap", [*transforms(), message])).sweep(0)
    kept = np.isfinite(taken[:, 1])
    np.testing.assert_allclose(sweep.points, taken[kept, :3], atol=1e-5)
    np.testing.assert_allclose(sweep.intensity, taken[kept, 3] / 255, atol=1e-6)


def test_clouds_without_a_pose_are_told(tmp_path: Path) -> None:
    late = robot.cloud("/points", "lidar", START + 3.0, rows(9))
    file = robot.write_log(tmp_path / "d.mcap", [*transforms(), *clouds(), late])
    with pytest.warns(UserWarning, match="1 of 5 messages of /points have no pose: left out"):
        assert len(load(file).sweeps) == 4


COLOUR = np.random.default_rng(1).integers(0, 256, (24, 32, 3)).astype(np.uint8)
DEPTH = np.random.default_rng(2).integers(0, 4000, (24, 32)).astype("<u2")


def pictures(depth: np.ndarray = DEPTH, encoding: str = "16UC1") -> list[robot.Message]:
    found = [robot.transform("base", "optical", START, np.eye(4), fixed=True), *transforms()]
    found.append(robot.camera_info("optical", START, 32, 24, 30.0))
    for k in range(3):
        time = START + 0.1 * k
        found.append(robot.image("/camera/colour", "optical", time, COLOUR[..., ::-1], "bgr8"))
        found.append(robot.image("/camera/depth", "optical", time + 0.01, depth, encoding))
    return found


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_pictures_are_views(tmp_path: Path, encoding: str) -> None:
    depth = (
        DEPTH if encoding == "16UC1" else np.where(DEPTH > 0, DEPTH / 1000, np.nan).astype("<f4")
    )
    log = pictures(depth, encoding) + clouds()  # where there are pictures, they are read
    recording = load(robot.write_log(tmp_path / "d.mcap", log))
    assert len(recording.frames) == 3 and not recording.sweeps
    view = recording.view(1)
    np.testing.assert_array_equal(view.colour, COLOUR)
    np.testing.assert_allclose(view.depth, DEPTH / 1000, atol=1e-6)
    assert (view.camera.fx, view.camera.cx, view.camera.cy) == (30.0, 16.0, 12.0)
    np.testing.assert_allclose(view.camera.world_from_camera, world_from_base(view.time), atol=1e-5)
    ceiling = np.full_like(depth, 4000 if encoding == "16UC1" else 4)  # the camera looks up
    robot.write_log(tmp_path / "d.mcap", pictures(ceiling, encoding) + clouds())
    assert not check(tmp_path).problems


def changed(index: int, **values: object) -> list[robot.Message]:
    """The clouds, one of them with other contents."""
    messages = clouds()
    messages[index][3].update(values)
    return transforms() + messages


CASES = [
    ("no topics", [robot.transform("a", "b", START, np.eye(4))], "topics", "nothing that can be"),
    ("no transforms", clouds(), "frame lidar", "no transform says where"),
    ("another time", [robot.transform("o", "lidar", 5.0, np.eye(4)), *clouds()], "topics",
     "no message has a pose"),
    ("two parents", [*transforms(), robot.transform("x", "lidar", START, np.eye(4)), *clouds()],
     "transform lidar", "two parents"),
    ("a ring", [robot.transform("lidar", "base", START, np.eye(4), True),
                robot.transform("base", "lidar", START, np.eye(4), True), *clouds()],
     "frame", "in a ring"),
    *[(f"cut cloud {k}", changed(k, data=b"\0" * 30), "/points", "cloud is cut") for k in (0, 3)],
    ("no x", changed(1, fields=[]), "/points", "no x, y, z"),
    ("big-endian", changed(1, is_bigendian=True), "/points", "little-endian"),
    ("a strange type", changed(1, fields=[
        {"name": n, "offset": 0, "datatype": 5, "count": 1} for n in "xyz"]), "/points x",
     "type of field"),
    ("beyond its row", changed(1, fields=[
        {"name": n, "offset": 18, "datatype": 7, "count": 1} for n in "xyz"]), "/points x",
     "type of field"),
    ("empty", changed(2, data=b"", width=0), "/points", "sweep is empty"),
    ("far", changed(2, data=np.full(20 * 62 // 4, 1e7, "<f4").tobytes()), "/points", "reach"),
    ("time twice", [*transforms(), *clouds(), clouds()[0]], "/points", "given twice"),
    ("no intrinsics", [m for m in pictures() if "CameraInfo" not in m[0]], "frame optical",
     "no CameraInfo"),
    ("fisheye", [*pictures(), robot.camera_info("optical", START, 32, 24, 30.0,
      distortion_model="equidistant", d=[0.1] * 4)], "CameraInfo optical", "not plumb_bob"),
    ("another size", [*pictures(), robot.camera_info("optical", START, 64, 24, 30.0)],
     "/camera/colour", "picture size"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("messages", "field", "says"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
@pytest.mark.filterwarnings("ignore:.*have no pose")
def test_refused(tmp_path: Path, messages: list[robot.Message], field: str, says: str) -> None:
    file = robot.write_log(tmp_path / "d.mcap", messages)
    with pytest.raises(Refused, match=re.escape(says)) as refusal:
        recording = load(file)
        for k in range(len(recording.sweeps)):
            recording.sweep(k)
        for k in range(len(recording.frames)):
            recording.view(k)
    assert refusal.value.file.endswith("d.mcap") and field in refusal.value.field, refusal.value
    assert str(refusal.value) in [str(problem) for problem in check(file).problems]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_cut_log_is_refused(tmp_path: Path, share: float) -> None:
    file = robot.write_log(tmp_path / "d.mcap", transforms() + clouds())
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(Refused, match="damaged"):
        load(file)


def test_flipped_bits_are_refused_or_change_nothing(tmp_path: Path) -> None:
    file = robot.write_log(tmp_path / "d.mcap", transforms() + clouds())
    data = file.read_bytes()
    random = np.random.default_rng(0)
    for place in random.integers(0, len(data), 60):
        flipped = bytearray(data)
        flipped[place] ^= 1 << random.integers(8)
        file.write_bytes(bytes(flipped))
        try:
            recording = load(file)
            for k in range(len(recording.sweeps)):
                np.testing.assert_allclose(recording.sweep(k).points, rows(k)[:, :3], atol=1e-5)
        except Refused:
            continue
        assert len(recording.sweeps) == 4


def test_a_folder_of_two_logs_is_refused(tmp_path: Path) -> None:
    for name in ("a.mcap", "b.mcap"):
        robot.write_log(tmp_path / name, transforms() + clouds())
    with pytest.raises(Refused, match="one log"):
        load(tmp_path)


@pytest.mark.parametrize("compression", [CompressionType.ZSTD, CompressionType.LZ4])
def test_a_chunk_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: CompressionType
) -> None:
    zeros = robot.cloud("/points", "lidar", START, np.zeros((400_000, 4)))  # 8 MB
    file = robot.write_log(tmp_path / "d.mcap", [*transforms(), zeros, *clouds()], compression)
    for free, refused in ((9_000_000, False), (7_000_000, True)):
        monkeypatch.setattr(mcap_chunks, "FREE_BYTES", free)
        if not refused:
            assert len(load(file).sweeps) == 5
            continue
        with pytest.raises(Refused, match="chunk unpacks to too much") as refusal:
            load(file)
        assert "20:1" in str(refusal.value) and "\n" not in str(refusal.value)
        assert [str(refusal.value)] == [str(problem) for problem in check(file).problems]


def test_a_chunk_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    head = bytes.fromhex("28b52ffd e0") + (10**12).to_bytes(8, "little") + bytes([1, 0, 0])
    chunk = struct.pack("<QQQII4sQ", 0, 0, 10, 0, 4, b"zstd", len(head)) + head
    file = robot.write_log(tmp_path / "d.mcap", transforms() + clouds())
    data = file.read_bytes()
    file.write_bytes(data[:8] + struct.pack("<BQ", 6, len(chunk)) + chunk + data[8:])
    with pytest.raises(Refused, match=r"too much \(got 1000000000000 bytes"):
        load(file)
