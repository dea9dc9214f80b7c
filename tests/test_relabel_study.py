"""The study of relabelling: which detections become labels, on boxes made by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "studies"))

import relabel as study

from protoscene.labels import Labels
from protoscene.networks import Detections
from protoscene.scene import SceneObject, Track
from protoscene.truth import Truth, TruthPrototype

TIMES = (0.0, 0.1, 0.2, 0.3)
MOVER, PARKED, CHANCE, UNSURE = (0.0, 0.0), (2.0, 0.0), (0.0, 2.0), (-2.0, 0.0)


def box(place: tuple[float, float], x: float = 0.0) -> list[float]:
    return [place[0] + x, place[1], 0.2, 0.8, 0.4, 0.4, 0.0]


def known() -> list[Labels]:
    """The mover, at each instant farther along y."""
    return [Labels(np.array([1]), np.array([box((MOVER[0], -t))]), np.array([0.9])) for t in TIMES]


def found() -> list[Detections]:
    """Beside the mover what stands, a few centimetres off by turns, and what was seen once."""
    result = []
    for i, t in enumerate(TIMES):
        rows = [(box((MOVER[0], -t)), 0.95), (box(PARKED, 0.05 * (-1) ** i), (0.6, 0.4)[i % 2])]
        rows += [(box(CHANCE), 0.7), (box(UNSURE), 0.8)][: 2 if i == 0 else 0]
        if i == 1:
            rows.append((box(UNSURE), 0.3))
        boxes = np.array([row for row, _ in rows])
        score = np.array([s for _, s in rows])
        kind = (boxes[:, 0] > 1).astype(np.int64)
        result.append(Detections(boxes, score, kind, np.zeros((len(rows), 2))))
    return result


def test_what_is_found_again_and_again_stands() -> None:
    labels = study.relabelled("standing", found(), known())
    for before, after in zip(known(), labels, strict=True):
        np.testing.assert_array_equal(after.boxes[0], before.boxes[0])  # the mover, once
        places = {tuple(b[:2].round(1)): w for b, w in zip(after.boxes, after.weight, strict=True)}
        # Half of (.6, .4, .6, .4) by turns; (.8 + .3) / 4 and .7 / 4 are too little: ignored.
        assert places == {
            tuple(before.boxes[0, :2].round(1)): 0.9,
            (2.0, 0.0) if (2.0, 0.0) in places else (2.1, 0.0): pytest.approx(0.5),
            UNSURE: 0.0,
            CHANCE: 0.0,
        }
        assert after.kind[np.argmax(after.boxes[:, 0])] == 1


def test_each_instant_by_itself_takes_whatever_is_sure() -> None:
    counts = [
        (len(labels.boxes), (labels.weight > 0).all())
        for labels in study.relabelled("each instant", found(), known())
    ]
    # The mover, and what stands where it scores .6; at first the two that are there by chance.
    assert counts == [(4, True), (1, True), (2, True), (1, True)]


def test_a_label_is_not_added_where_one_is_already() -> None:
    here = [Labels(np.array([0]), np.array([box(PARKED, 0.2)]), np.array([0.7])) for _ in TIMES]
    for way in ("standing", "each instant"):
        for labels in study.relabelled(way, found(), here):
            assert (labels.boxes[:, 0] > 1).sum() == 1


def test_rightness_counts_added_labels_only() -> None:
    def thing(number: int, place: tuple[float, float], moving: bool) -> SceneObject:
        centre = np.array([box(place if not moving else (0.0, -t))[:3] for t in TIMES])
        track = Track(np.array(TIMES), centre, np.zeros(4), np.ones(4), np.ones(4, bool))
        return SceneObject(number, 0, 1.0, moving, (0.8, 0.4, 0.4), track, "car")

    things = [thing(0, MOVER, True), thing(1, PARKED, False), thing(2, (4.0, 0.0), False)]
    truth = Truth(TIMES, things, [TruthPrototype("car", (0.8, 0.4, 0.4))])
    learnt = study.Learnt([], [truth], [known()], [known()], 2)
    said = study.rightness(learnt, [study.relabelled("standing", found(), known())])
    assert said == {"labels": 4, "label_precision": 1.0, "label_recall": 0.5}
    said = study.rightness(learnt, [study.relabelled("each instant", found(), known())])
    assert said == {"labels": 4, "label_precision": 0.5, "label_recall": 0.25}
    assert np.isnan(study.rightness(learnt, [known()])["label_precision"])
