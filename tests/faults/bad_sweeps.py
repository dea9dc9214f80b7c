"""The part of the corpus of bad inputs that damages LiDAR recordings and robots' logs."""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from damage import Case, instead, line_of, replace_bytes
from sweep_recording import write_sweeps

N = 5
FRAMES = (0, N // 2, N - 1)
LOG = "drive.mcap"
START = 1700000000.0
ROWS = 60
"""Points of each cloud in the log."""
Damage = Callable[[Path], Any]
HAS_MCAP = importlib.util.find_spec("mcap_ros2") is not None


def write_kitti(folder: Path) -> None:
    """The undamaged sweeps: a drive of five instants."""
    random = np.random.default_rng(3)
    poses = [np.eye(4) for _ in range(N)]
    for k, pose in enumerate(poses):
        pose[:2, 3] = 0.5 * k, 0.1 * k
    clouds = [
        np.concatenate([random.uniform(-20, 20, (40 + k, 3)), random.uniform(0, 1, (40 + k, 1))], 1)
        for k in range(N)
    ]
    write_sweeps(folder, clouds, poses, [0.1 * k for k in range(N)])


def sweep(k: int) -> str:
    return f"velodyne/{k:06d}.bin"


def number(k: int, row: int, column: int, value: float) -> Damage:
    """Another number in one place of a sweep."""
    at = 16 * row + 4 * column
    put = struct.pack("<f", value)
    return replace_bytes(sweep(k), lambda data: data[:at] + put + data[at + 4 :])


def word(line: int, index: int, value: str) -> Damage:
    """Another word in a pose."""

    def change(text: str) -> str:
        return " ".join(value if i == index else w for i, w in enumerate(text.split()))

    return line_of("poses.txt", line, change)


def times(*rows: object) -> Damage:
    return replace_bytes("times.txt", lambda _: "".join(f"{row}\n" for row in rows).encode())


def kitti_cases() -> Iterator[Case]:
    def case(name: str, damage: Damage, file: str, field: str, says: str, load: bool) -> Case:
        return Case(f"{name} kitti", "kitti", damage, file, field, says, load)

    for k in FRAMES:
        for n in (1, 4, 12):
            cut = replace_bytes(sweep(k), lambda data, n=n: data[:-n])
            yield case(f"58 cut {k} by {n}", cut, sweep(k), "points", "no whole number", True)
        empty = replace_bytes(sweep(k), lambda data: b"")
        yield case(f"02 {k}", empty, sweep(k), "file", "is empty", True)
        gone = replace_bytes(sweep(k), lambda data: bytes(len(data)))
        yield case(f"37 sweep {k}", gone, sweep(k), "points", "sweep is empty", False)
        for value in (np.nan, np.inf):
            for column in (0, 3):
                bad = number(k, 7, column, value)
                yield case(
                    f"45 {value} {k} {column}", bad, sweep(k), "point 7", "not finite", False
                )
        far = number(k, 3, 1, 1e9)
        yield case(f"52 far {k}", far, sweep(k), "point 3", "out of a scanner's reach", False)
        for value in (-0.1, 255.0, 1.5):
            bad = number(k, 3, 3, value)
            yield case(f"52 grey {value} {k}", bad, sweep(k), "point 3", "out of range", False)
        fewer = instead(sweep(k), lambda file: None)
        says = "more poses than sweeps"
        yield case(f"47 sweep {k}", fewer, "poses.txt", "poses", says, True)
        folder = instead(sweep(k), lambda file: file.mkdir())
        yield case(f"18 {k}", folder, sweep(k), "file", "not a regular file", True)
        line = f"line {k + 1}"
        for index in (0, 5, 10):
            mirror = word(k, index, "-1")
            yield case(f"42 {k} {index}", mirror, "poses.txt", line, "mirror image", True)
        skew = word(k, 1, "0.4")
        yield case(f"43 {k}", skew, "poses.txt", line, "not orthonormal", True)
        small = line_of("poses.txt", k, lambda _: "0.25 0 0 1 0 0.25 0 1 0 0 0.25 1")
        yield case(f"44 {k}", small, "poses.txt", line, "looks like a similarity", True)
        for text in ("nan", "inf", "x", "1_0"):
            bad = word(k, 3, text)
            yield case(f"45 {text} {k}", bad, "poses.txt", line, "not a finite number", True)
        sixteen = line_of("poses.txt", k, lambda text: text + " 0 0 0 1")
        yield case(f"40 16 numbers {k}", sixteen, "poses.txt", line, "wrong number of numb", True)
        yield case(f"45 far {k}", word(k, 3, "1e9"), "poses.txt", line, "further than", True)
    for name in ("poses.txt", "times.txt"):
        what = name[:-4]
        yield case(f"01 {name}", instead(name, lambda f: None), name, "file", "missing", True)
        short = replace_bytes(name, lambda data: data.split(b"\n", 1)[1])
        yield case(f"47 {name}", short, name, what, f"fewer {what} than sweeps", True)
        latin = replace_bytes(name, lambda data: b"\xe9" + data)
        yield case(f"03 {name}", latin, name, "line 1", "not UTF-8", True)
    for rows, field, says in (
        ((0, 0.1, 0.1, 0.3, 0.4), "line 3", "given twice"),
        ((0, 0.1, 0.05, 0.3, 0.4), "line 3", "backwards"),
        ((0, 0.1, "nan", 0.3, 0.4), "line 3", "finite"),
        ((0, 0.1, "0.2 0.3", 0.3, 0.4), "line 3", "wrong number of words"),
        ((1.0, 1.1, 1.2, 1300, 1400), "time", "mix of units"),
        ((1.0, 1.1, 1.2, 1.3e6, 1.4e6), "time", "mix of units"),
    ):
        number_of = {"given twice": 48, "backwards": 49, "mix of units": 50}.get(says, 45)
        yield case(f"{number_of} {says} {rows[-1]:g}", times(*rows), "times.txt", field, says, True)
    for text, says in (("P0: 1\n", "needs one line Tr:"), ("Tr: 1 0 0\n", "wrong number of numb")):

        def calibrate(folder: Path, text: str = text) -> None:
            (folder / "calib.txt").write_text(text)

        yield case(f"40 {text[:2]}", calibrate, "calib.txt", "Tr", says, True)

    def other_files(folder: Path) -> None:
        for file in (folder / "velodyne").iterdir():
            file.rename(file.with_suffix(".pcd"))

    def twice(folder: Path) -> None:
        (folder / "velodyne/2.bin").write_bytes(bytes(16))

    yield case("54 PCD", other_files, "velodyne", "sweeps", "0 sweeps (got only .pcd", True)
    yield case("48 number", twice, "2.bin", "sweeps", "two sweeps have one number", True)
    named = instead(sweep(2), lambda file: (file.parent / "two.bin").write_bytes(bytes(16)))
    yield case("47 name", named, "velodyne/two.bin", "sweeps", "not a number", True)


def write_mcap(folder: Path) -> None:
    """The undamaged log: a base that moves, and clouds of the sensor on it."""
    folder.mkdir()
    _written(_transforms() + _clouds())(folder)


def _written(messages: Any) -> Damage:
    import robot_log

    return lambda folder: robot_log.write_log(folder / LOG, messages)


def _transforms() -> list[Any]:
    import robot_log as robot

    found = [robot.transform("base", "lidar", START, np.eye(4), fixed=True)]
    for k in range(6):
        pose = np.eye(4)
        pose[0, 3] = 0.2 * k
        found.append(robot.transform("odom", "base", START + 0.1 * k, pose))
    return found


def _clouds() -> list[Any]:
    import robot_log as robot

    random = np.random.default_rng(7)
    rows = np.column_stack([random.uniform(-20, 20, (ROWS, 3)), random.uniform(0, 1, ROWS)])
    return [robot.cloud("/points", "lidar", START + 0.1 * k + 0.05, rows) for k in range(4)]


def mcap_cases() -> Iterator[Case]:
    """None where the extra that reads logs is not installed."""
    if not HAS_MCAP:
        return
    import robot_log as robot

    def case(name: str, damage: Damage, field: str, says: str, on_load: bool = True) -> Case:
        return Case(f"{name} mcap", "mcap", damage, LOG, field, says, on_load)

    def changed(k: int, **values: object) -> Damage:
        messages = _clouds()
        messages[k][3].update(values)
        return _written(_transforms() + messages)

    for part in (0.002, 0.02, 0.1, 0.5, 0.9, 0.999):
        cut = replace_bytes(LOG, lambda data, part=part: data[: int(part * len(data))])
        yield case(f"04 cut at {part}", cut, "file", "damaged")
    yield case("02", replace_bytes(LOG, lambda data: b""), "file", "is empty")
    far = replace_bytes(LOG, lambda data: data[:-28] + b"\xff" * 8 + data[-20:])
    yield case("04 summary far away", far, "file", "damaged")
    loud = replace_bytes(LOG, lambda data: data.replace(b"float64 x", b"float64\x1bx"))
    yield case("17 definition", loud, "file", "damaged")
    text = replace_bytes(LOG, lambda data: b"a line of text\n" * 20)
    yield case("18 text", text, "file", "damaged or no MCAP")
    nothing = _written([robot.transform("a", "b", START, np.eye(4))])
    yield case("13", nothing, "topics", "nothing that can be read")
    yield case("47 no transforms", _written(_clouds()), "frame lidar", "no transform says where")
    late = _written([robot.transform("o", "lidar", 5.0, np.eye(4)), *_clouds()])
    yield case("51 other time", late, "topics", "no message has a pose")
    second = robot.transform("x", "lidar", START, np.eye(4))
    parents = _written([*_transforms(), second, *_clouds()])
    yield case("43 two parents", parents, "transform lidar", "two parents")
    twice = _written([*_transforms(), *_clouds(), _clouds()[0]])
    yield case("48", twice, "/points", "given twice")
    for k in (0, 2, 3):
        cut = changed(k, data=bytes(30))
        yield case(f"58 cut {k}", cut, "/points", "cloud is cut", on_load=False)
        empty = changed(k, data=b"", width=0)
        yield case(f"37 {k}", empty, "/points", "sweep is empty", on_load=False)
        far = changed(k, data=np.full(5 * ROWS, 1e7, "<f4").tobytes())
        yield case(f"52 far {k}", far, "/points", "reach", on_load=False)
        none = changed(k, data=np.full(5 * ROWS, np.nan, "<f4").tobytes())
        yield case(f"38 {k}", none, "/points", "sweep is empty", on_load=False)
        for name, fields, says in (
            ("no x", [], "no x, y, z"),
            ("type", [{"name": n, "offset": 0, "datatype": 5, "count": 1} for n in "xyz"], "type"),
            ("row", [{"name": n, "offset": 18, "datatype": 7, "count": 1} for n in "xyz"], "type"),
        ):
            odd = changed(k, fields=fields)
            yield case(f"33 {name} {k}", odd, "/points", says, on_load=False)


def cases() -> Iterator[Case]:
    yield from kitti_cases()
    yield from mcap_cases()
