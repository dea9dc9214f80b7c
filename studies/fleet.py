"""A world of four kinds of things that look alike in every recording, seen by several rigs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from protoscene.discover import discover
from protoscene.formats import load
from protoscene.geometry import Grid
from protoscene.recording import Recording
from protoscene.scene import Scene, SceneObject
from protoscene.store import load_scene, save_scene
from protoscene.synth import SynthSettings, write_recording
from protoscene.truth import Truth, TruthPrototype, load_truth

KINDS = ("car", "robot", "crate", "chair")
SCHEMES = (0, 1, 2, 3)
RIGS: dict[str, dict[str, Any]] = {
    "four": {},
    "moving": {"rig": "moving"},
    "three": {"n_cameras": 3},
    "crowd": {"n_moving": 6, "n_parked": 4, "min_gap": 0.06, "max_gap": 0.25},
    "five": {"n_cameras": 5, "rig": "moving"},
    "one": {"n_cameras": 1},
    "one_moving": {"n_cameras": 1, "rig": "moving"},
}
Name = tuple[str, int]
"""A rig and a seed."""
TRAIN: tuple[Name, ...] = (
    ("four", 0), ("moving", 1), ("three", 2), ("crowd", 3), ("four", 4), ("moving", 5),
    ("four", 6), ("moving", 7),
)  # fmt: skip
TEST: tuple[Name, ...] = (("four", 20), ("moving", 21), ("five", 22), ("crowd", 23))
TEST_ONE: tuple[Name, ...] = (
    ("one", 20), ("one_moving", 21), ("one", 22), ("one_moving", 23),
)  # fmt: skip
GRID = Grid((-3.2, -3.2, -0.1), 0.05, (32, 128, 128))


def settings(rig: str, seed: int) -> SynthSettings:
    turned = seed % len(KINDS)  # so that each kind comes in every style of motion
    return SynthSettings(
        seed=90000 + 1000 * list(RIGS).index(rig) + seed,
        kinds=KINDS[turned:] + KINDS[:turned],
        schemes=SCHEMES[turned:] + SCHEMES[:turned],
        n_heldout=0,
        **RIGS[rig],
    )


def folder(data: Path, name: Name) -> Path:
    """Of the recording, which is made if it is missing."""
    path = data / f"fleet_{name[0]}-{name[1]}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_recording(settings(*name), path)
    return path


def recordings(data: Path, names: tuple[Name, ...]) -> tuple[list[Recording], list[Truth]]:
    folders = [folder(data, name) for name in names]
    return [load(f / "recording") for f in folders], [load_truth(f / "truth.json") for f in folders]


APART_S = 1000.0
"""Between recordings that are put one after the other."""


def later(objects: list[SceneObject], seconds: float, first_id: int) -> list[SceneObject]:
    return [
        replace(o, id=first_id + k, track=replace(o.track, time=o.track.time + seconds))
        for k, o in enumerate(objects)
    ]


def one_after_another(truths: list[Truth]) -> Truth:
    """All of them as one, ``APART_S`` apart, each kind one prototype."""
    objects: list[SceneObject] = []
    times: list[float] = []
    kinds = {p.kind: p for truth in truths for p in truth.prototypes}
    prototypes = [TruthPrototype(k, p.size_m, p.symmetry) for k, p in sorted(kinds.items())]
    names = [p.kind for p in prototypes]
    for r, truth in enumerate(truths):
        own = [replace(o, prototype=names.index(str(o.kind))) for o in truth.objects]
        objects += later(own, r * APART_S, len(objects))
        times += [t + r * APART_S for t in truth.times]
    return Truth(tuple(np.array(times).tolist()), objects, prototypes)


def scenes(data: Path, out: Path, names: tuple[Name, ...]) -> list[Scene]:
    """What is discovered in the recordings, kept in ``out``."""
    found = []
    for name in names:
        kept = out / f"fleet_{name[0]}-{name[1]}"
        if not kept.exists():
            out.mkdir(parents=True, exist_ok=True)
            recording = load(folder(data, name) / "recording")
            bounds = (*GRID.lower.tolist(), *GRID.upper.tolist())
            save_scene(discover(recording, voxel_size=GRID.voxel_size, bounds=bounds), kept)
        found.append(load_scene(kept))
    return found
