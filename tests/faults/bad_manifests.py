"""The part of the corpus of bad inputs that damages manifests, and the names in them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from damage import (
    FRAMES,
    Case,
    depth,
    instead,
    line_of,
    put,
    replace_bytes,
    replace_text,
    rgb,
)


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
    for i, first, second in (
        (0, "Rgb/A.png", "Rgb/a.png"),
        (2, "A.PNG", "A.png"),
        (2, "STRASSE.png", "straße.png"),
        (4, "é.png", "e\u0301.png"),
        (4, "ﬁ/É.png", "ﬁ/e\u0301.png"),
    ):

        def twins(folder: Path, i: int = i, first: str = first, second: str = second) -> None:
            for k, name in ((i, first), (i + 1, second)):
                (folder / name).parent.mkdir(exist_ok=True)
                shutil.copy(folder / rgb(k), folder / name)
                put("frames", k, "file_path", value=name)(folder)

        yield Case(f"19 {first}", "transforms", twins, "", f"frames[{i + 1}]", "differs only")


def cases() -> Iterator[Case]:
    yield from text_cases()
    yield from path_cases()
