"""Layout ``kitti``: sweeps as they were written, and every damage refused by file and field."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from protoscene.check import check
from protoscene.errors import Refused
from protoscene.formats import load
from protoscene.geometry import rigid_inverse, rotation_from_yaw
from sweep_recording import pose_line, write_sweeps

N = 5
FRAMES = (0, N // 2, N - 1)
Damage = Callable[[Path], object]


def poses(n: int = N) -> list[np.ndarray]:
    found = []
    for k in range(n):
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation_from_yaw(0.1 * k), (0.5 * k, 0.1 * k, 0.0)
        found.append(pose)
    return found


def clouds(n: int = N) -> list[np.ndarray]:
    random = np.random.default_rng(3)
    return [
        np.concatenate([random.uniform(-20, 20, (40 + k, 3)), random.uniform(0, 1, (40 + k, 1))], 1)
        for k in range(n)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sweeps(tmp_path / "drive", clouds(), poses(), [0.1 * k for k in range(N)])


def test_reads_what_was_written(folder: Path) -> None:
    recording = load(folder)
    assert len(recording) == len(recording.sweeps) == N and not recording.frames
    assert recording.times == tuple(float(f"{0.1 * k:.4f}") for k in range(N))
    for k, cloud in enumerate(clouds()):
        sweep = recording.sweep(k)
        np.testing.assert_array_equal(sweep.points, cloud[:, :3].astype(np.float32))
        np.testing.assert_array_equal(sweep.intensity, cloud[:, 3].astype(np.float32))
        there = sweep.points @ poses()[k][:3, :3].T + poses()[k][:3, 3]
        np.testing.assert_allclose(sweep.world_points, there, atol=1e-5)


def test_check_counts_points(folder: Path) -> None:
    checked = check(folder)
    assert not checked.problems and checked.summary is not None
    assert checked.summary.points == sum(len(cloud) for cloud in clouds())


def test_points_at_the_sensor_did_not_return(tmp_path: Path) -> None:
    taken = clouds()
    taken[1][::2, :3] = 0
    recording = load(write_sweeps(tmp_path / "d", taken, poses(), list(range(N))))
    assert len(recording.sweep(1).points) == len(taken[1]) // 2


def test_camera_poses_with_a_calibration_are_the_sensors(folder: Path) -> None:
    """KITTI odometry: poses of the camera (z forward, y down) in the first camera's frame."""
    camera_from_sensor = np.eye(4)
    camera_from_sensor[:3, :3] = [[0, -1, 0], [0, 0, -1], [1, 0, 0]]
    camera_from_sensor[:3, 3] = (0.0, -0.08, -0.27)
    of_camera = [camera_from_sensor @ p @ rigid_inverse(camera_from_sensor) for p in poses()]
    (folder / "poses.txt").write_text("".join(map(pose_line, of_camera)))
    rows = " ".join(map(str, camera_from_sensor[:3].ravel()))
    (folder / "calib.txt").write_text(f"P0: {' '.join(['1'] * 12)}\nTr: {rows}\n")
    for entry, pose in zip(load(folder).sweeps, poses(), strict=True):
        np.testing.assert_allclose(entry.world_from_sensor, pose, atol=1e-9)


def test_the_hash_follows_every_file(folder: Path) -> None:
    before = load(folder).sha256
    assert load(folder).sha256 == before
    data = bytearray((folder / "velodyne/000003.bin").read_bytes())
    data[5] ^= 1
    (folder / "velodyne/000003.bin").write_bytes(bytes(data))
    assert load(folder).sha256 != before


def test_gaps_in_the_numbers_are_told(folder: Path) -> None:
    (folder / "velodyne/000004.bin").rename(folder / "velodyne/000007.bin")
    with pytest.warns(UserWarning, match=r"1 gaps .*after 000003\.bin"):
        load(folder)


def sweep(k: int) -> str:
    return f"velodyne/{k:06d}.bin"


def values(k: int, change: Callable[[np.ndarray], object]) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / sweep(k)
        rows = np.frombuffer(file.read_bytes(), "<f4").reshape(-1, 4).copy()
        change(rows)
        file.write_bytes(rows.tobytes())

    return damage


def put(row: int, column: int, value: float) -> Callable[[np.ndarray], object]:
    return lambda rows: rows.__setitem__((row, column), value)


def line(name: str, k: int, change: Callable[[str], str]) -> Damage:
    def damage(folder: Path) -> None:
        lines = (folder / name).read_text().splitlines()
        lines[k] = change(lines[k])
        (folder / name).write_text("\n".join(lines) + "\n")

    return damage


def cut(k: int, n_bytes: int) -> Damage:
    return lambda d: (d / sweep(k)).write_bytes((d / sweep(k)).read_bytes()[:-n_bytes])


def scaled(text: str) -> str:
    numbers = [float(word) for word in text.split()]
    return " ".join(str(v * (1 if i % 4 == 3 else 0.25)) for i, v in enumerate(numbers))


def mirrored(text: str) -> str:
    numbers = [float(word) for word in text.split()]
    return " ".join(str(-v if i < 4 else v) for i, v in enumerate(numbers))


def word(index: int, value: str) -> Callable[[str], str]:
    return lambda text: " ".join(value if i == index else w for i, w in enumerate(text.split()))


CASES: list[tuple[str, Damage, str, str, str]] = [
    *[(f"width {k} {n}", cut(k, n), sweep(k), "points", "no whole number of points")
      for k in FRAMES for n in (1, 4, 12)],
    *[(f"empty {k}", lambda d, k=k: (d / sweep(k)).write_bytes(b""), sweep(k), "file", "is empty")
      for k in FRAMES],
    *[(f"nothing returned {k}", values(k, lambda r: r.fill(0)), sweep(k), "points", "is empty")
      for k in FRAMES],
    *[(f"{v} {k} {c}", values(k, put(7, c, v)), sweep(k), "point 7", "not finite")
      for k in FRAMES for c in (0, 3) for v in (np.nan, np.inf)],
    *[(f"far {k}", values(k, put(3, 1, 1e9)), sweep(k), "point 3", "out of a scanner's reach")
      for k in FRAMES],
    *[(f"intensity {v}", values(1, put(3, 3, v)), sweep(1), "point 3", "intensity is out of range")
      for v in (-0.1, 255.0, 1.5)],
    *[(f"missing sweep {k}", lambda d, k=k: (d / sweep(k)).unlink(), "poses.txt", "poses",
       "more poses than sweeps") for k in (0, N - 1)],
    ("no sweeps", lambda d: [f.unlink() for f in (d / "velodyne").iterdir()], "velodyne", "sweeps",
     "0 sweeps"),
    ("a name", lambda d: (d / sweep(2)).rename(d / "velodyne/two.bin"), "velodyne/two.bin",
     "sweeps", "not a number"),
    ("one number twice", lambda d: (d / "velodyne/2.bin").write_bytes(b"\0" * 16),
     "2.bin", "sweeps", "two sweeps have one number"),
    ("a folder", lambda d: ((d / sweep(2)).unlink(), (d / sweep(2)).mkdir()), sweep(2), "file",
     "not a regular file"),
    *[(f"no {name}", lambda d, name=name: (d / name).unlink(), name, "file", "missing")
      for name in ("poses.txt", "times.txt")],
    *[(f"fewer {what}", lambda d, what=what: (d / f"{what}.txt").write_text(
        (d / f"{what}.txt").read_text().split("\n", 1)[1]), f"{what}.txt", what,
       f"fewer {what} than sweeps") for what in ("poses", "times")],
    *[(f"scaled {k}", line("poses.txt", k, scaled), "poses.txt", f"line {k + 1}",
       "looks like a similarity") for k in FRAMES],
    *[(f"mirrored {k}", line("poses.txt", k, mirrored), "poses.txt", f"line {k + 1}",
       "mirror image") for k in FRAMES],
    *[(f"no rotation {k}", line("poses.txt", k, word(1, "0.4")), "poses.txt", f"line {k + 1}",
       "not orthonormal") for k in FRAMES],
    *[(f"pose {v}", line("poses.txt", 2, word(3, v)), "poses.txt", "line 3", "not a finite number")
      for v in ("nan", "inf", "x", "1_0")],
    ("pose of 16", line("poses.txt", 1, lambda t: t + " 0 0 0 1"), "poses.txt", "line 2",
     "wrong number of numbers"),
    ("far pose", line("poses.txt", 1, word(3, "1e9")), "poses.txt", "line 2", "further than"),
    *[(f"time {v}", line("times.txt", 2, lambda t, v=v: v), "times.txt", "line 3", says)
      for v, says in (("0.1000", "given twice"), ("0.05", "backwards"), ("nan", "finite"),
                      ("0.2 0.3", "wrong number of words"))],
    ("times of two units", lambda d: (d / "times.txt").write_text("1.0\n1.1\n1.2\n1300\n1400\n"),
     "times.txt", "time", "mix of units"),
    ("calibration without Tr", lambda d: (d / "calib.txt").write_text("P0: 1\n"), "calib.txt", "Tr",
     "needs one line Tr:"),
    ("calibration cut", lambda d: (d / "calib.txt").write_text("Tr: 1 0 0\n"), "calib.txt", "Tr",
     "wrong number of numbers"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "file", "field", "says"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_refused(folder: Path, damage: Damage, file: str, field: str, says: str) -> None:
    damage(folder)
    with pytest.raises(Refused, match=re.escape(says)) as refusal:
        recording = load(folder)
        for k in range(len(recording.sweeps)):
            recording.sweep(k)
    assert refusal.value.file.endswith(file), refusal.value
    assert field in refusal.value.field, refusal.value
    assert str(refusal.value) in [str(problem) for problem in check(folder).problems]


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / sweep(1)).rename(tmp_path / "elsewhere.bin")
    (folder / sweep(1)).symlink_to(tmp_path / "elsewhere.bin")
    with pytest.raises(Refused, match="leaves the recording's folder"):
        load(folder)


def test_a_lidar_has_no_intrinsics(folder: Path) -> None:
    with pytest.raises(Refused, match="has no cameras"):
        load(folder, intrinsics=(500.0, 500.0, 320.0, 240.0))
