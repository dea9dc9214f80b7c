"""One seeded corpus of damaged recordings: each case is a folder, a fault, and what is said of it.

The numbers are those of the fault classes; a class has variants (layout, first, middle or last
frame, kind of damage).
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

N = 6  # frames of the base recording of layout transforms: 3 instants × 2 cameras
FRAMES = (0, N // 2, N - 1)


@dataclass(frozen=True)
class Case:
    """``damage(folder)`` on a copy of the base recording of ``layout``; the rest is expected."""

    name: str
    layout: str
    damage: Callable[[Path], None]
    file: str
    field: str
    says: str
    on_load: bool = True  # else noticed when the picture is read


def edit(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Damage that changes the parsed manifest."""

    def damage(folder: Path) -> None:
        file = folder / "transforms.json"
        manifest = json.loads(file.read_text())
        change(manifest)
        file.write_text(json.dumps(manifest))

    return damage


def put(*keys: Any, value: Any) -> Callable[[Path], None]:
    """Damage that sets one value of the manifest."""

    def change(manifest: dict[str, Any]) -> None:
        place: Any = manifest
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = copy.deepcopy(value)

    return edit(change)


def drop(*keys: Any) -> Callable[[Path], None]:
    def change(manifest: dict[str, Any]) -> None:
        place: Any = manifest
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]

    return edit(change)


def replace_text(file: str, old: str, new: str, count: int = 1) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        text = (folder / file).read_text()
        assert old in text, (file, old)
        (folder / file).write_text(text.replace(old, new, count))

    return damage


def replace_bytes(file: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes(change((folder / file).read_bytes())) and None


def instead(file: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Damage that removes a file and makes something else in its place."""

    def damage(folder: Path) -> None:
        (folder / file).unlink()
        make(folder / file)

    return damage


def line_of(file: str, number: int, change: Callable[[str], str]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        lines = (folder / file).read_text().split("\n")
        lines[number] = change(lines[number])
        (folder / file).write_text("\n".join(lines))

    return damage


def rgb(i: int) -> str:
    return f"rgb/{i % 2}_{i:03d}.png"


def depth(i: int) -> str:
    return f"depth/{i % 2}_{i:03d}.png"


def text_cases() -> Iterator[Case]:
    manifest = "transforms.json"

    def case(name: str, damage: Callable[[Path], None], field: str, says: str) -> Case:
        return Case(name, "transforms", damage, manifest, field, says)

    for layout, missing, field in (
        ("tum", "groundtruth.txt", "file"),
        ("tum", "depth.txt", "file"),
        ("tum", "calibration.txt", "intrinsics"),
        ("7scenes", "camera-intrinsics.txt", "intrinsics"),
        ("7scenes", "frame-000001.pose.txt", "frame-000001"),
    ):
        says = "no intrinsics" if missing == "calibration.txt" else "missing"

        def unlink(folder: Path, missing: str = missing) -> None:
            (folder / missing).unlink()

        yield Case(f"01 missing {missing}", layout, unlink, missing, field, says)
    for layout, file in (
        ("transforms", manifest),
        ("tum", "rgb.txt"),
        ("tum", "groundtruth.txt"),
        ("7scenes", "camera-intrinsics.txt"),
        ("7scenes", "frame-000002.pose.txt"),
    ):
        empty = replace_bytes(file, lambda data: b"")
        yield Case(f"02 empty {file}", layout, empty, file, "", "file is empty")
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        recoded = replace_bytes(manifest, lambda d, e=encoding: d.decode().encode(e))
        yield case(f"03 {encoding}", recoded, "", "not")
    for layout, file in (("transforms", manifest), ("tum", "rgb.txt"), ("tum", "calibration.txt")):
        broken = replace_bytes(file, lambda data: data[:20] + b"\xff\xe9" + data[20:])
        yield Case(f"03 latin {file}", layout, broken, file, "line ", "not UTF-8")
    for part in (0.1, 0.5, 0.9, 0.999):
        cut = replace_bytes(manifest, lambda data, part=part: data[: int(len(data) * part)])
        yield case(f"04 cut at {part}", cut, "line 1:", "not valid JSON")
    for word in ("NaN", "Infinity", "-Infinity", "1e999", "-1e400"):
        bad = replace_text(manifest, '"cx": 31.0', f'"cx": {word}')
        yield case(f"05 {word}", bad, "cx", "not a finite number")
    for i in FRAMES:
        nan = put("frames", i, "transform_matrix", 1, 2, value=float("nan"))
        yield case(f"05 pose {i}", nan, f"frames[{i}].transform_matrix[1][2]", "finite")
    for key, twice in (
        ("w", '"w": 64, "w": 32'),
        ("frames", '"frames": [], "w": 64'),
        ("fl_x", '"w": 64, "fl_x": 60.0'),
    ):
        double = replace_text(manifest, '"w": 64', twice)
        yield case(f"06 {key} twice", double, key, "given twice")
    yield case("06 in a frame", replace_text(manifest, '"time"', '"camera"'), "camera", "twice")
    for wrong, right in {
        "frame": "frames",
        "fl_X": "fl_x",
        "fx": "fl_x",
        "depth_unit_scale_facter": "depth_unit_scale_factor",
        "camera_mode1": "camera_model",
        "camera_angel_x": "camera_angle_x",
        "W": "w",
    }.items():
        says = f'did you mean "{right}"?'
        yield case(f"07 {wrong}", put(wrong, value=1), wrong, says)
    for i, wrong, right in (
        (0, "transform_matrx", "transform_matrix"),
        (3, "filepath", "file_path"),
        (5, "Time", "time"),
        (5, "depth_file_pth", "depth_file_path"),
    ):
        says = f'did you mean "{right}"?'
        misspelt = put("frames", i, wrong, value=1)
        yield case(f"07 frame {wrong}", misspelt, f"frames[{i}].{wrong}", says)
    for key, value in (
        ("fl_x", "60"),
        ("w", [64]),
        ("h", True),
        ("cx", None),
        ("frames", {}),
        ("camera_model", 3),
        ("depth_unit_scale_factor", "0.001"),
        ("w", 64.5),
    ):
        wrong_type = put(key, value=value)
        yield case(f"08 {key} {value}", wrong_type, key, "size" if value == 64.5 else "wrong type")
    for i, key, value in (
        (0, "file_path", 3),
        (3, "depth_file_path", None),
        (5, "time", "0.5"),
        (0, "camera", 1.5),
        (3, "camera", True),
    ):
        wrong_type = put("frames", i, key, value=value)
        yield case(f"08 frame {key} {value}", wrong_type, f"frames[{i}].{key}", "wrong type")
    for value in ([], 3, "text", None):
        odd = put("frames", 3, value=value)
        yield case(f"08 frame is {value}", odd, "frames[3]", "wrong type")
        whole = replace_bytes(manifest, lambda data, value=value: json.dumps(value).encode())
        yield case(f"08 manifest is {value}", whole, "file", "wrong type")
    for depth_of, text in {
        70: "[" * 70 + "]" * 70,
        100_000: "[" * 100_000 + "]" * 100_000,
        300: '{"a":' * 300 + "1" + "}" * 300,
    }.items():
        deep = replace_text(manifest, '"w": 64', f'"w": 64, "metadata": {text}')
        yield case(f"10 nested {depth_of}", deep, "", "nested deeper than 64")
    for digits in ("9" * 5000, "9" * 25, str(2**63), "-" + str(2**63 + 1)):
        huge = replace_text(manifest, '"w": 64', f'"w": {digits}')
        yield case(f"11 {len(digits)} digits", huge, "w", "too large")

    def sparse(folder: Path) -> None:
        with (folder / manifest).open("r+b") as file:
            file.truncate(65 * 10**6)

    yield case("12 65 MB", sparse, "file", "too large")
    yield case("13 no frames", put("frames", value=[]), "frames", "0 frames")
    empty_list = replace_bytes("rgb.txt", lambda data: b"# nothing\n")
    yield Case("13 no lines", "tum", empty_list, "rgb.txt", "file", "0 lines")


def path_cases() -> Iterator[Case]:
    manifest = "transforms.json"
    for i, key in zip(FRAMES, ("file_path", "depth_file_path", "file_path"), strict=True):
        for number, name, says in (
            (14, "/etc/hostname", "not relative"),
            (14, "C:/x.png", "not relative"),
            (14, "\\\\host\\x.png", "not relative"),
            (15, "../x.png", "leaves"),
            (15, "rgb/../../x.png", "leaves"),
            (15, "rgb/..", "leaves"),
            (17, "rgb/\x00.png", "control"),
            (17, "rgb/a\nb.png", "control"),
            (17, "rgb/\x1b[31m.png", "control"),
            (17, "rgb/\ud800.png", "control"),
            (17, "x" * 5000, "4096"),
            (17, "", "empty"),
        ):
            field = f"frames[{i}].{key}"
            bad = put("frames", i, key, value=name)
            label = f"{number} {name[:9]!r} {i}"
            yield Case(label, "transforms", bad, manifest, field, says)
        long = put("frames", i, key, value="x" * 300 + ".png")
        yield Case(f"17 long {i}", "transforms", long, "png", f"frames[{i}].{key}", "cannot be")
    for number, name in ((1, "../x.png"), (2, "/etc/hostname"), (3, "rgb/\x1b.png")):
        bad = line_of("rgb.txt", number, lambda line, name=name: f"{line.split()[0]} {name}")
        yield Case(f"15 tum {name!r}", "tum", bad, "rgb.txt", f"line {number + 1}", "file name")
    for layout, names in (
        ("transforms", (rgb(0), depth(3), rgb(5))),
        ("tum", ("rgb/0.png", "depth/1.png")),
        ("7scenes", ("frame-000000.depth.png", "frame-000001.pose.txt")),
    ):
        for name in names:

            def away(file: Path, depth: int = name.count("/")) -> None:
                outside = file.parents[depth + 1] / "outside"
                outside.write_bytes(b"secret")
                file.symlink_to(outside)

            link = instead(name, away)
            yield Case(f"16 link {name}", layout, link, "", "", "symbolic link leaves")
            loop = instead(name, lambda file: file.symlink_to(file.name))
            yield Case(f"16 loop {name}", layout, loop, "", "", "cannot be")
            folder = instead(name, lambda file: file.mkdir())
            yield Case(f"18 folder {name}", layout, folder, name, "", "not a regular file")
            fifo = instead(name, os.mkfifo)
            yield Case(f"18 FIFO {name}", layout, fifo, name, "", "not a regular file")
            yield Case(f"20 {name}", layout, instead(name, lambda f: None), name, "", "missing")
            empty = replace_bytes(name, lambda data: b"")
            yield Case(f"02 empty {name}", layout, empty, name, "", "file is empty")
    for name in ("transforms.json",):
        yield Case("18 manifest FIFO", "transforms", instead(name, os.mkfifo), name, "file", "FIFO")
        zero = instead(name, lambda file: file.symlink_to("/dev/zero"))
        yield Case("18 manifest device", "transforms", zero, name, "file", "not a regular file")
    for i, first, second in ((2, "Rgb/A.png", "Rgb/a.png"), (4, "é.png", "e\u0301.png")):

        def twins(folder: Path, i: int = i, first: str = first, second: str = second) -> None:
            for k, name in ((i, first), (i + 1, second)):
                (folder / name).parent.mkdir(exist_ok=True)
                shutil.copy(folder / rgb(k), folder / name)
                put("frames", k, "file_path", value=name)(folder)

        yield Case(f"19 {first}", "transforms", twins, "", f"frames[{i + 1}]", "differs only")


def pose_cases() -> Iterator[Case]:
    rng = np.random.default_rng(0)

    def case(name: str, i: int, matrix: Any, says: str) -> Case:
        damage = put("frames", i, "transform_matrix", value=matrix)
        field = f"frames[{i}].transform_matrix"
        return Case(f"{name} {i}", "transforms", damage, "transforms.json", field, says)

    eye = np.eye(4)
    for i in FRAMES:
        yield case("40 16 numbers", i, eye.ravel().tolist(), "not a matrix")
        yield case("40 3×3", i, eye[:3, :3].tolist(), "wrong shape")
        yield case("40 ragged", i, [[1, 0, 0, 0], [0, 1, 0], [0, 0, 1, 0]], "wrong shape")
        yield case("40 empty", i, [], "wrong shape")
        yield case("40 text", i, "identity", "not a matrix")
        yield case("40 quoted", i, [["1", 0, 0, 0], *eye[1:].tolist()], "not a number")
        yield case("40 null", i, [[None, 0, 0, 0], *eye[1:].tolist()], "not a number")
        yield case("41 last row", i, np.vstack([eye[:3], [0, 0, 0, 2]]).tolist(), "last row")
        yield case("41 transposed", i, (eye + np.eye(4, k=-3)).tolist(), "last row")
        yield case("42 mirror", i, np.diag([1.0, 1, -1, 1]).tolist(), "mirror image")
        yield case("42 inverted", i, np.diag([-1.0, -1, -1, 1]).tolist(), "mirror image")
        skew = eye.copy()
        skew[0, 1] = 0.02 + 0.1 * rng.random()
        yield case("43 skew", i, skew.tolist(), "not orthonormal")
        yield case("43 stretched", i, np.diag([1, 1, 1.1, 1]).tolist(), "not orthonormal")
        yield case("43 zero", i, np.diag([0.0, 0, 0, 1]).tolist(), "not orthonormal")
        yield case("43 huge", i, np.diag([1e200, 1, 1, 1]).tolist(), "not a rotation")
        for scale in (0.252, 1.01, 1000.0):
            scaled = np.diag([scale, scale, scale, 1]).tolist()
            yield case(f"44 {scale}", i, scaled, f"similarity, scale {scale:g}")
        far = eye.copy()
        far[0, 3] = 1e12
        yield case("45 far", i, far.tolist(), "10000 km")
        lacking = drop("frames", i, "transform_matrix")
        field = f"frames[{i}].transform_matrix"
        yield Case(f"47 none {i}", "transforms", lacking, "transforms.json", field, "missing")

    def truth(line: int, change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
        return line_of("groundtruth.txt", line, lambda text: " ".join(change(text.split())))

    for line in (1, 3, 6):
        for name, change, says in (
            ("45 NaN", lambda w: [w[0], "nan", *w[2:]], "not a finite number"),
            ("45 word", lambda w: [*w[:4], "0,5", *w[5:]], "not a finite number"),
            ("46 zero", lambda w: [*w[:4], "0", "0", "0", "0"], "not of unit length"),
            ("46 long", lambda w: [*w[:7], str(float(w[7]) + 0.1)], "not of unit length"),
            ("47 short", lambda w: w[:7], "wrong number of words"),
            ("47 long", lambda w: [*w, "1"], "wrong number of words"),
        ):
            bad = truth(line, change)
            label = f"{name} line {line}"
            yield Case(label, "tum", bad, "groundtruth.txt", f"line {line + 1}", says)
    for i in range(3):
        file = f"frame-00000{i}.pose.txt"
        for name, damage, field, says in (
            ("45 NaN", line_of(file, 1, lambda t: t.replace(t.split()[0], "nan")), "line 2", "fin"),
            ("45 IND", line_of(file, 0, lambda t: "-1.#IND 0 0 0"), "pose", "wrong shape"),
            ("40 rows", replace_bytes(file, lambda d: d[: d.index(b"\n")]), "pose", "wrong shape"),
            ("41 row", line_of(file, 3, lambda t: "0 0 0 0"), "pose", "last row"),
            ("43 skew", line_of(file, 0, lambda t: "1 0.5 0 0"), "pose", "not orthonormal"),
        ):
            yield Case(f"{name} 7scenes {i}", "7scenes", damage, file, field, says)


def time_and_lens_cases() -> Iterator[Case]:
    manifest = "transforms.json"

    def case(name: str, damage: Callable[[Path], None], field: str, says: str) -> Case:
        return Case(name, "transforms", damage, manifest, field, says)

    for i, j in ((2, 0), (4, 2), (5, 3)):
        same = put("frames", i, "time", value=0.5 * (j // 2))
        yield case(f"48 {i}", same, f"frames[{i}].time", f"same time and camera as frames[{j}]")
        yield case(f"48 no time {i}", drop("frames", i, "time"), f"frames[{i}].time", "not for oth")
        no_name = drop("frames", i, "camera")
        yield case(f"48 no camera {i}", no_name, f"frames[{i}].camera", "not for others")
        for name in ("", "a\nb", "x" * 300):
            odd = put("frames", i, "camera", value=name)
            yield case(f"17 camera {name[:3]!r} {i}", odd, f"frames[{i}].camera", "not a name")
    for file in ("rgb.txt", "depth.txt", "groundtruth.txt"):
        twice = line_of(file, 2, lambda text: text + "\n" + text)
        yield Case(f"48 {file}", "tum", twice, file, "line 4", "time is given twice")
        back = line_of(file, 2, lambda text: "7" + text[3:])
        yield Case(f"49 {file}", "tum", back, file, "line 3", "time goes backwards")
        word = line_of(file, 3, lambda text: "x" + text)
        yield Case(f"49 word {file}", "tum", word, file, "line 4", "not a finite number")
    for scale in (1e3, 1e6, 1e9):

        def faster(data: dict[str, Any], scale: float = scale) -> None:
            for i, frame in enumerate(data["frames"]):
                frame["time"] = (1 + i) * (scale if i >= 3 else 1)

        yield case(f"50 {scale:g}", edit(faster), "frames[].time", "mix of units")

        def late(folder: Path, scale: float = scale) -> None:
            lines = (folder / "depth.txt").read_text().splitlines()
            moved = [f"{float(t) * scale:.3f} {name}" for t, name in map(str.split, lines[1:])]
            (folder / "depth.txt").write_text("\n".join(moved))

        says = "3 of 3 pictures have no depth and pose"
        yield Case(f"51 unit {scale:g}", "tum", late, "rgb.txt", "line", says)
    for file, gap in (("depth.txt", 0.1), ("groundtruth.txt", 0.1), ("groundtruth.txt", 1000)):

        def shift(folder: Path, file: str = file, gap: float = gap) -> None:
            lines = (folder / file).read_text().splitlines()[1:]
            rows = [line.split(" ", 1) for line in lines]
            (folder / file).write_text("\n".join(f"{float(t) + gap} {rest}" for t, rest in rows))

        yield Case(f"51 {file} {gap}", "tum", shift, "rgb.txt", "line", "3 of 3 pictures have no")
    for key, value, says in (
        ("fl_x", 0, "focal"),
        ("fl_x", -60, "focal"),
        ("fl_y", 0.0, "focal"),
        ("cx", -1, "outside"),
        ("cx", 65, "outside"),
        ("cy", 1e9, "outside"),
        ("w", 0, "no pixels"),
        ("h", -48, "no pixels"),
        ("w", 10**9, "too large"),
        ("camera_angle_y", 4.0, "field of view"),
        ("depth_unit_scale_factor", 0, "not a unit"),
        ("depth_unit_scale_factor", -0.001, "not a unit"),
    ):

        def change(data: dict[str, Any], key: str = key, value: float = value) -> None:
            if key == "camera_angle_y":
                del data["fl_y"]
            data[key] = value

        yield case(f"52 {key} {value}", edit(change), key, says)
        if key[0] == "f" or (key[0] == "c" and key[1] != "a"):
            own = put("frames", 3, key, value=value)
            yield case(f"52 own {key} {value}", own, f"frames[3].{key}", says)
    yield case("52 no fl_x", drop("fl_x"), "fl_x", "focal length is missing")
    for text, says in (
        ("0 60 31 24", "focal"),
        ("60 60 31", "3 numbers"),
        ("60 60 99 24", "outside"),
        ("60 60 nan 24", "not a finite"),
        ("60 60 31 24\n1 2 3", "wrong number of lines"),
    ):
        bad = replace_bytes("calibration.txt", lambda data, text=text: text.encode())
        yield Case(f"52 tum {text!r}", "tum", bad, "calibration.txt", "", says)
    for text, says in (
        ("60 0 31\n0 60 24", "3×3"),
        ("60 1 31\n0 60 24\n0 0 1", "not a pinhole"),
        ("60 0 31\n0 60 24\n0 0 0", "not a pinhole"),
        ("60 0 99\n0 60 24\n0 0 1", "outside"),
        ("-60 0 31\n0 60 24\n0 0 1", "focal"),
    ):
        bad = replace_bytes("camera-intrinsics.txt", lambda data, text=text: text.encode())
        yield Case(f"52 7scenes {text!r}", "7scenes", bad, "camera-intrinsics.txt", "", says)
    for model in ("OPENCV_FISHEYE", "EQUIRECTANGULAR", "SIMPLE_RADIAL", "pinhole", ""):
        says = "camera model is not read"
        yield case(f"53 {model}", put("camera_model", value=model), "camera_model", says)
        own = put("frames", 3, "camera_model", value=model)
        yield case(f"53 own {model}", own, "frames[3].camera_model", says)
    for key, value in (("k4", 0.1), ("is_fisheye", True), ("ftheta_p1", 0.2), ("k6", -1)):
        yield case(f"53 {key}", put(key, value=value), key, "camera model is not read")
    for key in ("k1", "k2", "k3", "p1", "p2"):
        yield case(f"53 pinhole {key}", put(key, value=0.1), key, "PINHOLE camera has no distort")


def cases() -> list[Case]:
    every = (text_cases, path_cases, pose_cases, time_and_lens_cases)
    return [case for generate in every for case in generate()]
