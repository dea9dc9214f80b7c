"""One seeded corpus of bad inputs: every class of fault, in every reader that it can meet.

A case is a copy of a good input, a damage, and what the refusal names. ``python bad_inputs.py``
counts the cases of each class.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import io
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as tensor_bytes

import bad_kinds
import bad_manifests
import bad_pictures
import bad_poses
import bad_results
import bad_sweeps
import box_recording as box
from damage import Case
from protoscene.cli import main
from protoscene.distil import a_detector
from protoscene.model import Model, save_model
from protoscene.store import save_scene
from small_scene import a_scene

CLASSES = 60
LONGEST_S = 2.0
"""Of processor time, for one refusal."""
ACCEPTED = 36
"""Depth of 64 bits or of another byte order is no fault: it is read exactly."""
RECORDINGS = ("transforms", "tum", "7scenes", "kitti", "mcap")


def cases() -> list[Case]:
    """All of them, in the order of their classes."""
    parts = (bad_manifests, bad_poses, bad_pictures, bad_sweeps, bad_results, bad_kinds)
    found = [case for part in parts for case in part.cases()]
    return sorted(found, key=class_of)


def class_of(case: Case) -> int:
    return int(case.name.split()[0])


def write_bases(folder: Path) -> None:
    """The good inputs, one folder a layout."""
    for layout, write in box.WRITERS.items():
        write(folder / layout, box.shots() if layout == "transforms" else box.shots(3, 1))
    bad_sweeps.write_kitti(folder / "kitti")
    if bad_sweeps.HAS_MCAP:
        bad_sweeps.write_mcap(folder / "mcap")
    scene = a_scene()
    for layout in ("scene", "truth", "cameras", "file"):
        (folder / layout).mkdir()
    (folder / "scene").rmdir()
    save_scene(scene, folder / "scene")
    _write_model(folder / "model")
    truth = json.loads((folder / "scene/scene.json").read_bytes())
    for thing in truth["objects"]:
        thing["kind"] = "thing"
    (folder / "truth/truth.json").write_text(json.dumps({**truth, "files": {}}))
    frame = {"file_path": "a/0.png", "transform_matrix": np.eye(4).tolist(), "time": 0.0}
    frames = [{**copy.deepcopy(frame), "file_path": f"a/{i}.png"} for i in range(3)]
    lens = {"w": 8, "h": 6, "fl_x": 8.0, "cx": 4.0, "cy": 3.0}
    (folder / "cameras/cameras.json").write_text(json.dumps({**lens, "frames": frames}))
    other = a_scene(seed=1).prototypes.rgba(1).contiguous()
    (folder / "other.safetensors").write_bytes(tensor_bytes({"rgba": other}))


def _write_model(folder: Path) -> None:
    scene = a_scene()
    detector = a_detector(2, (8, 8, 8), 0)
    sizes, shape = tuple(scene.sizes_m), (8, 8, 8)
    save_model(Model(scene.prototypes, sizes, scene.confidence, detector, 0.1, shape), folder)


def command(case: Case, bases: Path, folder: Path, out: Path) -> list[str]:
    """The command line that reads the damaged input in ``folder``; what it needs besides is good,
    what it would write is ``out``."""
    given: dict[str, list[object]] = {
        "scene": ["compose", folder, "--time", 0, "-o", out.with_suffix(".npz")],
        "model": ["detect", folder, bases / "transforms", "-o", out],
        "truth": ["score", bases / "scene", folder / "truth.json"],
        "cameras": ["render", bases / "scene", "--cameras", folder / "cameras.json", "-o", out],
        "file:recording": ["discover", folder / case.file, "-o", out],
        "file:scene": ["compose", folder / case.file, "--time", 0, "-o", out.with_suffix(".npz")],
        "file:model": ["detect", folder / case.file, bases / "transforms", "-o", out],
    }
    default = ["discover", folder, "-o", out, "--format", case.layout, "--voxel-size", 0.2]
    return [str(word) for word in given.get(case.layout, default)]


def prepare(case: Case, bases: Path, folder: Path) -> None:
    """Makes the damaged input ``folder``."""
    base = bases / case.layout.partition(":")[0]
    shutil.copytree(base, folder)
    if not (folder.parent / "other.safetensors").exists():
        shutil.copy(bases / "other.safetensors", folder.parent)
    case.damage(folder)


def wrong(case: Case, bases: Path, folder: Path) -> str:
    """What is wrong with how the case is refused, or nothing; ``folder`` is empty."""
    given = folder / "r"
    prepare(case, bases, given)
    before, began = tree(folder), time.process_time()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(command(case, bases, given, folder / "out"))
    took = time.process_time() - began
    lines = err.getvalue().splitlines()
    if (code, out.getvalue()) != (2, ""):
        return f"exit code {code}: {out.getvalue()[-200:]} {err.getvalue()[-300:]}"
    if not all(line.isprintable() and len(line) <= 240 for line in lines):
        return f"not printable lines: {lines}"
    if [line.startswith("protoscene: error: ") for line in lines].count(True) != 1:
        return f"not one error: {lines}"
    if tree(folder) != before:
        return "something was written"
    if took > LONGEST_S:
        return f"took {took:.1f} s"
    file, _, problem = lines[-1].removeprefix("protoscene: error: ").partition(": ")
    names = file.endswith(case.file) and case.field in problem and case.says in problem
    return "" if names else f"{lines[-1]} does not name {case.file}, {case.field}: {case.says}"


def tree(folder: Path) -> list[tuple[str, int, int]]:
    """Everything in a folder, with sizes and times of change."""
    found = sorted(folder.rglob("*"))
    return [(str(p), p.lstat().st_size, p.lstat().st_mtime_ns) for p in found]


def count(given: Callable[[], list[Case]] = cases) -> collections.Counter[int]:
    return collections.Counter(map(class_of, given()))


if __name__ == "__main__":
    torch.set_num_threads(1)
    table = count()
    print(f"{sum(table.values())} cases of {len(table)} classes")
    for number in range(1, CLASSES + 1):
        print(f"{number:2} {table[number]}")
