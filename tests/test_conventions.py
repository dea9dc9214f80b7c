"""Wrong units and conventions are noticed, right ones are left alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import box_recording
from moving_boxes import Box, camera, cart, record, recording_of, ring
from protoscene.check import check
from protoscene.conventions import (
    AS_GIVEN,
    READINGS,
    Fit,
    Reading,
    better_reading,
    fitted,
    require_conventions,
)
from protoscene.discover import discover
from protoscene.errors import Refused
from protoscene.geometry import OPENCV_FROM_OPENGL
from protoscene.recording import Recording

FAR = [Box((1.3, 0.9, 0.3), (0.4, 0.6, 0.6), 0.3), Box((-1.2, -0.7, 0.45), (0.5, 0.3, 0.9), 1.0)]


def boxes(i: int) -> list[Box]:
    return [*cart(0.1 * i - 0.3, 0.2, 0.3), *FAR]


def flying(i: int) -> list:
    """One camera on its way around."""
    angle = 0.15 * i
    return [camera((2.6 * np.cos(angle), 2.6 * np.sin(angle), 1.2 + 0.05 * i), (0.2, 0, 0.1))]


RIGHT: dict[str, Callable[[], Recording]] = {
    "four around": lambda: record(3, ring(4, radius=2.4), boxes),
    "two around": lambda: record(4, ring(2, radius=2.4, turn=1.1), boxes),
    "one flying": lambda: record(8, flying, boxes),
    "a far view": lambda: record(3, ring(3, radius=6, above=4, focal=150), boxes),
}


@pytest.mark.parametrize("name", RIGHT)
def test_mistakes_are_noticed_and_what_is_right_is_not(study, name: str) -> None:
    own: ModuleType = study("conventions")
    recording = RIGHT[name]()
    require_conventions(recording)
    for seed in (1, 12, 20):
        require_conventions(own.shaken(recording, seed))
    for what, mistake in own.MISTAKES.items():
        if name == "two around" and mistake.mirrored:
            continue  # too little to tell it from a bad calibration
        wrong = own.with_mistake(recording, mistake)
        assert better_reading(fitted(wrong)) == mistake.reading, what
        with pytest.raises(Refused) as refused:
            require_conventions(wrong)
        assert mistake.reading.words in str(refused.value), what


def test_nothing_is_said_where_nothing_can_be_compared(study) -> None:
    own = study("conventions")
    still = record(5, ring(1), boxes)
    assert fitted(still) == {}
    outwards = [camera((0, 0, 0.6), (np.cos(a), np.sin(a), 0.3)) for a in (0, 2.1, 4.2)]
    without_overlap = record(3, outwards, boxes)
    empty = record(3, ring(3), boxes, np.zeros_like)
    for recording in (still, without_overlap, empty):
        require_conventions(recording)
        for mistake in own.MISTAKES.values():
            require_conventions(own.with_mistake(recording, mistake))


def test_turning_alone_tells_axes_but_no_scale(study) -> None:
    own = study("conventions")
    turning = record(
        8, lambda i: [camera((1.9, 0, 1.2), (0.2, 0.15 * i - 0.5, 0.1 + 0.02 * i))], boxes
    )
    require_conventions(turning)
    for what, mistake in own.MISTAKES.items():
        said = better_reading(fitted(own.with_mistake(turning, mistake)))
        if mistake.reading.scale != 1:
            assert said is None or said.scale == 1, what
        else:
            assert said is not None, what


def test_a_better_fit_must_be_much_better() -> None:
    """By as much as is asked of its kind, and of enough samples; the most contradicted loses."""
    bad = dict.fromkeys(READINGS, Fit(1.0, 0, 500, 3))
    axes, scale = Reading(axes=(1.0, -1.0, -1.0)), Reading(scale=1e-3)

    def said(given: Fit, **others: Fit) -> Reading | None:
        named = {"axes": axes, "scale": scale}
        return better_reading({**bad, AS_GIVEN: given, **{named[k]: f for k, f in others.items()}})

    good = Fit(0.012, 900, 10, 3)
    assert said(Fit(0.023, 600, 10, 3), axes=good) is None
    assert said(Fit(0.025, 600, 10, 3), axes=good) == axes
    assert said(Fit(0.019, 600, 10, 3), axes=Fit(0.004, 900, 10, 3)) is None  # close enough
    assert said(Fit(0.055, 600, 10, 3), scale=good) is None
    assert said(Fit(0.062, 600, 10, 3), scale=good) == scale
    assert said(Fit(0.062, 600, 10, 3), scale=good, axes=Fit(0.012, 900, 5, 3)) == axes
    assert said(Fit(0.9, 0, 600, 3), axes=Fit(0.012, 99, 1, 3)) is None  # too few
    assert said(Fit(0.9, 0, 600, 3), axes=Fit(0.012, 400, 300, 3)) is None  # contradicts itself
    assert said(Fit(0.013, 900, 60, 3), axes=good) == axes
    assert said(Fit(0.013, 900, 34, 3), axes=good) is None
    assert said(Fit(0.013, 900, 60, 2), axes=Fit(0.012, 900, 10, 2)) is None  # of two cameras
    assert better_reading({}) is None


def test_check_and_discover_refuse_with_the_suggestion(tmp_path: Path) -> None:
    manifest = box_recording.write_transforms(tmp_path, box_recording.shots(3, 2))
    assert check(tmp_path).problems == []
    box_recording.write_manifest(tmp_path, {**manifest, "depth_unit_scale_factor": 1.0})
    (problem,) = check(tmp_path).problems
    assert problem.field == "depth"
    assert problem.problem == ("the pictures only agree with depths × 0.001 or translations × 1000")
    for frame in manifest["frames"]:
        pose = np.array(frame["transform_matrix"]) @ OPENCV_FROM_OPENGL
        frame["transform_matrix"] = pose.tolist()
    box_recording.write_manifest(tmp_path, manifest)
    (problem,) = check(tmp_path).problems
    assert problem.field == "poses" and "OpenGL/OpenCV" in problem.problem

    recording = RIGHT["two around"]()
    frames = [
        replace(f, camera=replace(f.camera, world_from_camera=f.camera.camera_from_world))
        for f in recording.frames
    ]
    views = [recording.view(i) for i in range(len(frames))]
    inverted = recording_of(
        [[replace(v, camera=f.camera)] for v, f in zip(views, frames, strict=True)]
    )
    with pytest.raises(Refused, match=r"boxes: poses: .*poses inverted \(got .* % off"):
        discover(inverted)


def test_every_suggestion_can_be_read_to_its_end() -> None:
    for reading in READINGS:
        refused = Refused("f" * 100, "poses", f"the pictures only agree with {reading.words}")
        assert refused.problem.endswith(reading.words)


def test_synthetic_recordings_of_the_study(study, tmp_path: Path) -> None:
    pytest.importorskip("mujoco", reason="the extra `sim` is not installed")
    own = study("conventions")
    results = tmp_path / "results.md"
    try:
        own.main(own.Options(data=tmp_path / "data", first=0, number=1, results=results))
    except Refused as problem:
        pytest.skip(f"no picture can be drawn here: {problem}")
    assert "| as they are | 1 | 0 | – | – |" in results.read_text()
    assert "| **all mistakes** | 10 | 10 (100.0%) | 10 | |" in results.read_text()
