"""The part of the corpus of bad inputs that damages scenes, models, truths and lists of cameras."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from damage import Case, instead, put_in, replace_bytes

Damage = Callable[[Path], Any]
READERS = {
    "scene": "scene.json",
    "model": "model.json",
    "truth": "truth.json",
    "cameras": "cameras.json",
}
"""Bases, and the JSON file of each."""


def json_cases() -> Iterator[Case]:
    """What is wrong with any JSON file, in each of ours."""
    for layout, file in READERS.items():

        def case(
            name: str, change: Callable[[bytes], bytes], field: str, says: str,
            layout: str = layout, file: str = file,
        ) -> Case:  # fmt: skip
            return Case(f"{name} {layout}", layout, replace_bytes(file, change), file, field, says)

        for name, make, says in (
            ("01", lambda place: None, "missing"),
            ("18 folder", lambda place: place.mkdir(), "not a regular file"),
            ("18 FIFO", os.mkfifo, "not a regular file"),
            ("18 device", lambda place: place.symlink_to("/dev/zero"), "not a regular file"),
            ("16 loop", lambda place: place.symlink_to(place.name), "cannot be read"),
        ):
            yield Case(f"{name} {layout}", layout, instead(file, make), file, "", says)
        yield case("02", lambda data: b"", "", "file is empty")
        for encoding in ("utf-16", "utf-32"):
            yield case(f"03 {encoding}", lambda d, e=encoding: d.decode().encode(e), "", "")
        for part in (0.1, 0.5, 0.9, 0.99):
            yield case(f"04 {part}", lambda d, p=part: d[: int(len(d) * p)], "", "")
        for name, text in (("list", b"[]"), ("number", b"3"), ("text", b'"a"'), ("null", b"null")):
            yield case(f"08 {name}", lambda d, t=text: t, "", "")
        yield case("10", lambda data: b'{"a":' * 5000 + b"1" + b"}" * 5000, "", "")
        yield case("10 lists", lambda data: b"[" * 100_000, "", "")
        huge = {b'"version": 1': b'"version": 1' + b"0" * 30, b'"w": 8': b'"w": ' + b"9" * 5000}
        old, new = next(
            (o, n) for o, n in huge.items() if (o[1:2] == b"w") == (layout == "cameras")
        )
        yield case("11", lambda data, o=old, n=new: by_hand(data).replace(o, n, 1), "", "")

        def long(folder: Path, file: str = file) -> None:
            with (folder / file).open("r+b") as opened:
                opened.truncate(70 * 10**6)

        yield Case(f"12 {layout}", layout, long, file, "", "too large")
    for layout in ("scene", "model", "truth"):
        file = READERS[layout]
        for word in (b"NaN", b"Infinity", b"1e999", b"-1e400"):

            def odd(data: bytes, word: bytes = word) -> bytes:
                entry = json.loads(by_hand(data))
                entry["prototypes"][0]["size_m"][1] = 123456.5
                return json.dumps(entry).encode().replace(b"123456.5", word)

            damage = replace_bytes(file, odd)
            yield Case(f"05 {word!r} {layout}", layout, damage, file, "", "")
        for field, value in (("format", "a"), ("prototypes", []), ("version", 1)):

            def double(data: bytes, field: str = field, value: object = value) -> bytes:
                return f'{{"{field}": {json.dumps(value)}, '.encode() + by_hand(data)[1:]

            damage = replace_bytes(file, double)
            yield Case(f"06 {field} {layout}", layout, damage, file, field, "given twice")
        for version in (2, 3, 10**6):
            newer = put_in(file, "version", value=version)
            says = f"made by version {version}, this reads ≤ 1"
            yield Case(f"09 {version} {layout}", layout, newer, file, "version", says)
        for keys, value in (
            (("version",), "1"), (("format",), "ply"), (("prototypes",), {}),
            (("prototypes", 0, "id"), "0"), (("prototypes", 0, "size_m"), [1, 2]),
        ):  # fmt: skip
            field = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in keys)[1:]
            wrong = put_in(file, *keys, value=value)
            yield Case(f"08 {field} {layout}", layout, wrong, file, field.partition(".")[0], "")


def by_hand(data: bytes) -> bytes:
    """A JSON file of ours as a person would write it: without its own hash."""
    entry = json.loads(data)
    entry.pop("sha256", None)
    return json.dumps(entry).encode()


def number_cases() -> Iterator[Case]:
    """Contradictions of a scene and of a truth."""
    for layout in ("scene", "truth"):
        file = READERS[layout]
        for i, keys, value, says in (
            (47, ("objects", 0, "prototype"), 99, "prototype"),
            (47, ("objects", 0, "track", "yaw_rad"), [0.0, 0.0, 0.0], ""),
            (47, ("objects", 0, "track", "scale"), [], ""),
            (48, ("times",), [0.0, 0.0], "increas"),
            (49, ("times",), [1.0, 0.5], "increas"),
            (49, ("objects", 0, "track", "time"), [0.2, 0.1], "increas"),
            (52, ("objects", 0, "track", "scale"), [1.0, 0.0], ""),
            (52, ("objects", 0, "track", "scale"), [-1.0, 1.0], ""),
        ):
            wrong = put_in(file, *keys, value=value)
            label = f"{i} {keys[-1]} {str(value)[:12]} {layout}"
            yield Case(label, layout, wrong, file, str(keys[0]), says)
    for value in ("../truth.json", "/etc/hostname", "a\0b", "C:/x", "nowhere.json"):
        number = {"/": 14, "C": 14, "a": 17, ".": 15, "n": 20}[value[0]]
        wrong = put_in("truth.json", "heldout", value=value)
        yield Case(f"{number} {value!r} truth", "truth", wrong, "truth.json", "heldout", "")
    for number, name in ((15, "../a"), (14, "/a"), (14, "b\\c"), (17, "\x1b")):
        for layout in ("scene", "model"):
            file = READERS[layout]
            wrong = put_in(file, "files", name, value={"bytes": 1, "sha256": "0" * 64})
            yield Case(f"{number} {name!r} {layout}", layout, wrong, file, "files", "file name")


def sealed_cases() -> Iterator[Case]:
    """Class 59: what was changed after it was written, or belongs to another."""
    random = np.random.default_rng(59)
    for layout, names in (
        ("scene", ("scene.json", "background.safetensors", "prototypes/1.safetensors")),
        ("model", ("model.json", "weights.safetensors", "prototypes/0.safetensors")),
    ):
        for name in names:
            base = name.rpartition("/")[2]
            for _ in range(3):
                place, bit = random.random(), 1 << int(random.integers(8))

                def flip(data: bytes, place: float = place, bit: int = bit) -> bytes:
                    at = int(place * len(data))
                    return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]

                damage = replace_bytes(name, flip)
                yield Case(f"59 bit {name} {place:.3f}", layout, damage, base, "", "")
            for part in (0.0, 0.4, 0.999):
                cut = replace_bytes(name, lambda data, p=part: data[: int(p * len(data))])
                yield Case(f"59 cut {name} {part}", layout, cut, base, "", "")
            gone = instead(name, lambda file: None)
            yield Case(f"59 missing {name}", layout, gone, base, "", "missing")
            link = instead(name, lambda file: file.symlink_to("/etc/hostname"))
            yield Case(f"16 {name}", layout, link, "", "", "")

        def other(folder: Path, name: str = names[2]) -> None:
            (folder / name).write_bytes((folder.parent / "other.safetensors").read_bytes())

        yield Case(f"59 swapped {layout}", layout, other, names[2].rpartition("/")[2], "", "")
        more = replace_bytes(names[2], lambda data: data + b"\0")
        yield Case(f"59 longer {layout}", layout, more, "", "bytes", "is not whole")

        def stray(folder: Path) -> None:
            (folder / "prototypes/9.safetensors").write_bytes(b"")

        yield Case(f"59 stray {layout}", layout, stray, "9.safetensors", "file", "does not belong")


def cameras_cases() -> Iterator[Case]:
    """What is wrong with a list of cameras to render from."""
    eye = np.eye(4)
    file = "cameras.json"
    for i in (0, 1, 2):
        where = f"frames[{i}]"
        for number, key, value, says in (
            (7, "transform_matrx", 1, "did you mean"),
            (8, "time", "0", "wrong type"),
            (14, "file_path", "/x.png", "not relative"),
            (15, "file_path", "../x.png", "leaves"),
            (17, "file_path", "a\0.png", "control"),
            (34, "file_path", "a.exr", "unknown suffix"),
            (40, "transform_matrix", eye.ravel().tolist(), "not a matrix"),
            (41, "transform_matrix", (eye * 2).tolist(), "last row"),
            (42, "transform_matrix", np.diag([1.0, 1, -1, 1]).tolist(), "mirror image"),
            (43, "transform_matrix", np.diag([1.0, 1, 1.1, 1]).tolist(), "not orthonormal"),
            (44, "transform_matrix", np.diag([0.252] * 3 + [1.0]).tolist(), "similarity"),
            (45, "transform_matrix", np.diag([1.0, 1, 1, float("nan")]).tolist(), "finite"),
            (52, "fl_x", -1.0, "focal"),
            (52, "cx", 1e6, "outside"),
            (52, "time", 99.0, "not a time of the scene"),
            (53, "camera_model", "OPENCV_FISHEYE", "not read"),
        ):
            wrong = put_in(file, "frames", i, key, value=value)
            yield Case(f"{number:02d} {key} {i} cameras", "cameras", wrong, file, where, says)
    none = put_in(file, "frames", value=[])
    yield Case("13 cameras", "cameras", none, file, "frames", "0 frames")
    nothing = put_in("model.json", "prototypes", value=[])
    yield Case("13 model", "model", nothing, "model.json", "prototypes", "there is none")
    twice = put_in(file, "frames", 1, "file_path", value="a/0.png")
    yield Case("19 cameras", "cameras", twice, file, "frames[1]", "writes the same picture")


def cases() -> Iterator[Case]:
    for part in (json_cases, number_cases, sealed_cases, cameras_cases):
        yield from part()
