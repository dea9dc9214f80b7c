"""The part of the corpus of bad inputs that damages poses, times and lenses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from damage import (
    FRAMES,
    Case,
    drop,
    edit,
    line_of,
    put,
    replace_bytes,
)


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


def cases() -> Iterator[Case]:
    yield from pose_cases()
    yield from time_and_lens_cases()
