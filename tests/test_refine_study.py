"""The study that says what refinement must reach: what a row says, and how values are pooled."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from protoscene.geometry import rotation_from_yaw

STUDIES = str(Path(__file__).resolve().parent.parent / "studies")


@pytest.fixture
def studies(monkeypatch):
    monkeypatch.syspath_prepend(STUDIES)
    yield
    for name in ("refine", "measures", "recovery", "results_page"):
        sys.modules.pop(name, None)


def result(right: int, said: int, found: int, true: int, centre: list[float]) -> dict:
    counts = {"right": right, "said": said, "found": found, "true": true}
    objects = [{"kind": "car", "outside": 0.01, "far_outside": 0.0, "covered": 0.9, "points": 300},
               {"kind": "drum", "outside": 0.03, "far_outside": 0.0, "covered": 0.5,
                "points": 100}]  # fmt: skip
    return {
        "centre": centre,
        "size": [[0.1, 0.2, 0.3], [0.0, 0.1, 0.9]],
        "yaw": [],
        "boxes": counts,
        "objects": objects,
        "pictures": {"movers": 20.0, "objects": 21.0, "whole": 22.0},
        "background": {"movers": 11.0, "objects": 13.0, "whole": 20.0},
    }


def test_a_row_says_whether_its_figure_holds(studies):
    from refine import Row

    assert Row("a", 0.149, 0.15, True, "°").cells() == ["a", "0.15°", "≤ 0.15°", "ok"]
    assert Row("a", 0.151, 0.15, True).cells()[-1] == "**short**"
    assert Row("a", 95.0, 95, False, " %", 1).cells() == ["a", "95.0 %", "≥ 95 %", "ok"]
    assert Row("a", 94.9, 95, False).cells()[-1] == "**short**"
    assert Row("a", 1.0, math.nan, True).cells()[1::2] == ["1.00", "–"]
    assert Row("a", math.nan, 1, True).cells()[1::2] == ["not measured", "–"]


def test_values_are_pooled_over_recordings_by_boxes_objects_and_points(studies):
    import refine

    first, second = result(8, 10, 8, 8, [0.1, 0.2, 0.3]), result(1, 2, 1, 4, [0.9, 1.0])
    both = [first, second]
    assert refine.quantile(both, "centre", 0.5) == 0.3
    assert refine.quantile(both, "size", 1.0) == 0.9
    assert math.isnan(refine.quantile(both, "yaw", 0.5))
    # Precision 9 of 12, recall 9 of 12.
    assert refine.moving_f1(both) == pytest.approx(0.75)
    assert refine.moving_f1([result(0, 0, 0, 4, [])]) == 0
    assert refine.outside(both) == pytest.approx(2.0)
    assert refine.covered(both) == pytest.approx(100 * (300 * 0.9 + 100 * 0.5) / 400)
    assert refine.above_background(both) == pytest.approx(9.0)
    lost = refine.most_lost({"k": [second, first]}, {"k": [first, first]})
    assert lost == pytest.approx(refine.moving_f1([first]) - refine.moving_f1([second]))


def test_disturbed_about_its_middle_and_back(studies):
    import recovery

    rng = np.random.default_rng(0)
    poses = np.column_stack([rng.normal(size=(200, 3)), rng.uniform(-3, 3, 200)])
    middle = np.array([0.4, -0.1, 0.2])
    moved = recovery.disturbed(poses, middle, rng)

    def at(where: np.ndarray) -> np.ndarray:
        turned = np.einsum("nij,j->ni", rotation_from_yaw(where[:, 3]), middle)
        return turned + where[:, :3]

    gone = at(moved) - at(poses)
    assert np.allclose(gone[:, 2], 0) and 0.5 < np.linalg.norm(gone, axis=1).max() <= 0.6
    turn = np.abs(moved[:, 3] - poses[:, 3])
    assert 1.4 < turn.max() <= np.pi / 2

    model = SimpleNamespace(bounds=lambda: np.stack([middle, middle]))
    thing = SimpleNamespace(poses=poses, model=model)

    def back(period: float, found: np.ndarray, common: bool) -> np.ndarray:
        one = recovery.Followed(thing, at(poses), period)
        return recovery.back(one, found, common)

    assert back(2 * np.pi, poses, False).all() and back(2 * np.pi, poses, True).all()
    assert back(2 * np.pi, moved, False).mean() < 0.05
    # Another own frame for all: the same turn and shift in it moves nothing.
    other = poses.copy()
    other[:, 3] += 0.5
    other[:, :3] += rotation_from_yaw(poses[:, 3]) @ np.array([0.3, 0.2, 0.1])
    assert back(2 * np.pi, other, True).all() and not back(2 * np.pi, other, False).any()
    half = poses.copy()
    half[:50, 3] += np.pi
    half[:, :3] += at(poses) - at(half)
    assert back(np.pi, half, False).all() and back(0.0, half, False).all()
    assert back(2 * np.pi, half, False).mean() == 0.75
    for degrees, expected in ((4.9, True), (5.1, False)):
        off = poses + [0.0, 0.0, 0.0, np.radians(degrees)]
        off[:, :3] += at(poses) - at(off) + [0.03, -0.03, 0.0]
        assert (back(2 * np.pi, off, False) == expected).all() and back(0.0, off, False).all()
    assert not back(2 * np.pi, poses + [0.0, 0.06, 0.0, 0.0], False).any()
