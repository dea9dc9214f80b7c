"""The study of the tabletop: what it compares, on boxes made by hand."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "studies"))

import tabletop_detector as study

from cart_recordings import PATHS, write_recording
from moving_boxes import CART_DIMS
from protoscene.formats import load
from protoscene.geometry import Grid
from protoscene.networks import Detections
from protoscene.scene import SceneObject, Track
from test_model import a_model

TIMES = (0.0, 1.0, 2.0)


def a_thing(number: int, x: float, yaw: float, score: float = 0.9) -> SceneObject:
    """Goes along y, a centimetre a second."""
    centre = np.array([[x, 0.01 * t, 0.1] for t in TIMES])
    track = Track(np.array(TIMES), centre, np.full(3, yaw), np.ones(3), np.ones(3, bool))
    return SceneObject(number, number, score, True, (0.2, 0.1, 0.2), track)


def moved(thing: SceneObject, x: float, turn: float = 0.0, score: float = 0.9) -> SceneObject:
    return a_thing(thing.id, thing.track.centre[0, 0] + x, thing.track.yaw[0] + turn, score)


def test_what_is_near_is_of_the_thing_and_the_rest_is_counted() -> None:
    things = [a_thing(0, 0.0, 0.5), a_thing(1, 1.0, 0.0)]
    rows, more = study.compare([moved(things[1], 0.02, 0.3), moved(things[0], 0.3)], things, TIMES)
    assert [(r.time, r.thing, r.score > 0) for r in rows] == [
        (t, k, k == 1) for t in TIMES for k in (0, 1)
    ]
    near = [r for r in rows if r.thing == 1]
    assert all(r.off_m == pytest.approx(0.02) and r.kind == 1 for r in near)
    assert all(r.turned == pytest.approx(0.3) and r.larger_m == pytest.approx(0) for r in near)
    assert len(more) == 3  # what is 30 cm off, at each instant
    unsure = [moved(thing, 0.0, score=0.4) for thing in things]
    assert not any(r.score for r in study.compare(unsure, things, TIMES)[0])
    assert all(r.score for r in study.compare(unsure, things, TIMES, 0.1)[0])


def test_a_thing_s_nose_is_where_it_was_at_the_instants_learnt_from() -> None:
    rows = [study.Found(t, 0, 0.9, 0.0, turned, 0.0, 0) for t, turned in
            ((0.0, np.pi - 0.1), (1.0, -np.pi + 0.1), (2.0, np.pi + 0.2))]  # fmt: skip
    turned = [r.turned for r in study.with_common_nose(rows, (0.0, 1.0))]
    np.testing.assert_allclose(turned, [-0.1, 0.1, 0.2], atol=1e-9)


def test_cut_has_the_instants_asked_for_and_no_others(tmp_path: Path) -> None:
    write_recording(tmp_path / "all", PATHS[0][:3])
    whole, part = (
        load(tmp_path / "all"), study.cut(tmp_path / "all", (0.0, 0.2), tmp_path / "part")
    )  # fmt: skip
    assert part.times == (whole.times[0], whole.times[2]) and part.sha256 != whole.sha256
    np.testing.assert_array_equal(part.view(2).depth, whole.view(whole.frames_at(2)[0]).depth)
    names = {f["file_path"] for f in json.loads((tmp_path / "part/transforms.json").read_text())[
        "frames"]}  # fmt: skip
    assert {p.name for p in (tmp_path / "part").glob("*.png")} > names


def test_an_enlarged_table_is_shown_larger_and_its_boxes_are_as_large_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = load(write_recording(tmp_path / "r", PATHS[0][:1]))
    middle = np.array([*PATHS[0][0][:2], 0.0])
    shown = []

    def found(_: object, volume: np.ndarray, grid: Grid) -> Detections:
        shown.append((grid, volume))
        box = np.array([[*(middle * study.ENLARGED), 1.2, 0.8, 0.4, 0.3]])
        return Detections(box, np.array([0.7]), np.array([1]), np.zeros((1, 2)))

    monkeypatch.setattr(study, "detect_in_volume", found)
    (thing,) = study.enlarged(replace(a_model(), voxel_size=0.2), recording, middle)
    np.testing.assert_allclose(thing.track.centre[0], middle, atol=1e-9)
    np.testing.assert_allclose(thing.dims_m, (0.3, 0.2, 0.1))
    assert thing.track.yaw[0] == pytest.approx(0.3) and thing.track.time[0] == recording.times[0]
    ((grid, volume),) = shown
    np.testing.assert_allclose((grid.lower + grid.upper)[:2] / 2, middle[:2] * study.ENLARGED)
    assert grid.lower[2] == pytest.approx(-study.GROUND_AT_M)
    top = int((CART_DIMS[2] * study.ENLARGED + study.GROUND_AT_M) / 0.2)
    assert volume[3, top, 6:10, 9:15].any() and not volume[3, top + 1 :, 6:10, 9:15].any()


def test_table_and_summary() -> None:
    rows = [study.Found(2.0, 0, 0.9, 0.011, -0.1, 0.004, 3), study.Found(2.0, 1)]
    text = study.markdown(rows, [moved(a_thing(0, 0.5, 0.0), 0.0)], ("bag", "carton"))
    assert "| 2 | bag | 0.90 | 1.1 | 6 | 0.4 | 3 |" in text and "| carton | not found |" in text
    assert "at 0 s (0.50, 0.00, 0.10), 0.90" in text
    assert study.summary(rows, []).startswith("1 of 2 found, centres off by 1.1 cm")
    assert study.summary(rows[1:], []) == "0 of 1 found, 0 detected where nothing is"
