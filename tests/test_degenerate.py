"""Recordings of which there is little to make: a scene, or a refusal in one line, never a crash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moving_boxes import Box, camera, cart, holes, record, recording_of, ring
from protoscene.detect import detect
from protoscene.discover import discover
from protoscene.errors import Refused
from protoscene.learn import Learning, learn
from protoscene.model import Model
from protoscene.parse import parse
from protoscene.recording import Recording
from protoscene.scene import Scene

SMALL = {"width": 48, "height": 36, "focal": 45.0}
AROUND = ring(2, **SMALL)
VOXEL_M = 0.1


def moving(i: int) -> list[Box]:
    return cart(0.15 * i - 0.3, 0.2, 0.3)


def still(_: int) -> list[Box]:
    return cart(0.1, 0.2, 0.3)


def turning(i: int) -> list:
    return [camera((1.9, 0, 1.2), (0.2, 0.15 * i - 0.4, 0.1), **SMALL)]


def recoloured(recording: Recording, colour: int) -> Recording:
    instants = [list(recording.views(i)) for i in range(len(recording))]
    return recording_of(
        [[replace(v, colour=np.full_like(v.colour, colour)) for v in own] for own in instants]
    )


def nearly_all(depth: np.ndarray) -> np.ndarray:
    """Nothing but one pixel."""
    kept = np.zeros_like(depth)
    kept[20, 20] = depth[20, 20]
    return kept


RECORDINGS: dict[str, Callable[[], Recording]] = {
    "one instant": lambda: record(1, AROUND, moving),
    "one picture": lambda: record(1, ring(1, **SMALL), moving),
    "two instants": lambda: record(2, AROUND, moving),
    "identical instants": lambda: record(5, AROUND, still),
    "one unmoved camera": lambda: record(5, ring(1, **SMALL), moving),
    "pure rotation": lambda: record(5, turning, moving),
    "camera inside a thing": lambda: record(
        5, [camera((0.2, 0.2, 0.2), (1, 0.5, 0.1), **SMALL), AROUND[0]], moving
    ),
    "all pictures empty": lambda: record(4, AROUND, moving, np.zeros_like),
    "one pixel": lambda: record(4, AROUND, moving, nearly_all),
    "constant depth": lambda: record(4, AROUND, moving, lambda d: np.full_like(d, 1.5)),
    "nine pixels in ten lost": lambda: record(4, AROUND, moving, holes(0.9)),
    "constant colour": lambda: recoloured(record(5, AROUND, moving), 127),
    "black": lambda: recoloured(record(5, AROUND, moving), 0),
    "nothing stands": lambda: record(4, AROUND, lambda _: []),
    "a thing of a voxel": lambda: record(
        5, AROUND, lambda i: [Box((0.1 * i, 0, 0.02), (0.04, 0.04, 0.04))]
    ),
    "a flat thing": lambda: record(
        5, AROUND, lambda i: [Box((0.1 * i, 0, 0.0005), (0.5, 0.4, 0.001))]
    ),
    "two things at one place": lambda: record(5, AROUND, lambda i: moving(i) + moving(i)),
    "a thing seen once": lambda: record(5, AROUND, lambda i: moving(i) if i == 2 else []),
    "a thing never seen": lambda: record(5, AROUND, lambda i: [Box((50, 50, 0.2), (1, 1, 1))]),
    "everything moves": lambda: record(
        4, AROUND, lambda i: [Box((0.3 * i, 0, 0.5), (4.0, 4.0, 0.2))]
    ),
}


def in_one_line(problem: Refused) -> None:
    text = str(problem)
    assert "\n" not in text and len(text) <= 240 and problem.field and problem.problem


@pytest.mark.parametrize("name", RECORDINGS)
@pytest.mark.parametrize("method", [discover, parse])
def test_a_scene_or_a_refusal(name: str, method: Callable[..., Scene]) -> None:
    try:
        scene = method(RECORDINGS[name](), voxel_size=VOXEL_M)
    except Refused as problem:
        in_one_line(problem)
        return
    for thing in scene.objects:
        assert np.isfinite(thing.track.centre).all() and np.isfinite(thing.track.yaw).all()
        assert np.isfinite(thing.score) and np.isfinite(thing.dims_m).all()
    assert bool(scene.background.volume.rgba.isfinite().all())
    assert bool(scene.compose(scene.times[0]).rgba.isfinite().all())


@pytest.mark.parametrize("name", ["all pictures empty", "one pixel"])
def test_a_grid_chosen_from_the_data(name: str) -> None:
    for method in (discover, parse):
        try:
            method(RECORDINGS[name]())
        except Refused as problem:
            in_one_line(problem)


@pytest.mark.parametrize(
    "names",
    [
        ("one instant",), ("all pictures empty",), ("nothing stands",),
        ("constant colour", "nothing stands"),
    ],
)  # fmt: skip
def test_a_model_or_a_refusal(names: tuple[str, ...], tmp_path: Path) -> None:
    recordings = [RECORDINGS[name]() for name in names]
    try:
        model, fitted = learn(recordings, tmp_path / "work", Learning(VOXEL_M, steps=2))
    except Refused as problem:
        in_one_line(problem)
        return
    assert fitted.steps == 2 and all(bool(p.isfinite().all()) for p in model.detector.parameters())
    detect_all(model)


def detect_all(model: Model) -> None:
    """The model's detector on all the others."""
    for make in RECORDINGS.values():
        recording = make()
        try:
            scene = detect(model, recording, recording.times[0])
        except Refused as problem:
            in_one_line(problem)
            continue
        assert all(np.isfinite(thing.track.centre).all() for thing in scene.objects)
