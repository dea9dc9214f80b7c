"""The detector's study: what it measures of single instants, on truths made by hand."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "studies"))

import detector as study
import fleet

from protoscene.networks import Detections
from protoscene.scene import SceneObject, Track
from protoscene.truth import Truth, TruthPrototype

TIMES = (0.0, 0.1)


def a_thing(number: int, kind: int, x: float, moving: bool) -> SceneObject:
    track = Track(
        np.array(TIMES), np.array([[x, 0, 0.2], [x, 0.5, 0.2]]), np.array([0.3, 0.4]), np.ones(2),
        np.ones(2, bool),
    )  # fmt: skip
    name = ("car", "robot")[kind]
    return SceneObject(number, kind, 1.0, moving, (0.8, 0.4, 0.4), track, name)


def a_truth(swapped: bool = False) -> Truth:
    """Two cars and a robot; ``swapped`` lists the kinds the other way round."""
    kinds = (0, 0, 1)
    things = [a_thing(k, kind, 2.0 * k, k > 0) for k, kind in enumerate(kinds)]
    prototypes = [TruthPrototype(name, (0.8, 0.4, 0.4)) for name in ("car", "robot")]
    if swapped:
        things = [replace(o, prototype=1 - o.prototype) for o in things]
        prototypes = prototypes[::-1]
    return Truth(TIMES, things, prototypes)


def perfect(truths: list[Truth]) -> list[SceneObject]:
    """Each box of each instant found by itself, its prototype the kind's number in KINDS."""
    objects: list[SceneObject] = []
    for r, truth in enumerate(truths):
        for i, t in enumerate(truth.times):
            boxes = [[*o.track.centre[i], *o.dims_m, o.track.yaw[i]] for o in truth.objects]
            kinds = np.array([fleet.KINDS.index(str(o.kind)) for o in truth.objects])
            found = Detections(np.array(boxes), np.full(len(kinds), 0.9), kinds, np.zeros((3, 4)))
            objects += fleet.later(study.as_objects(found, t), r * fleet.APART_S, len(objects))
    return objects


def test_finding_everything_is_perfect_over_recordings_that_name_kinds_differently() -> None:
    truths = [a_truth(), a_truth(swapped=True)]
    card = study.measures(perfect(truths), truths)
    for name in ("ap50", "ap70", "precision", "moving_recall", "parked_recall", "kind"):
        assert card[name] == pytest.approx(1.0), name
    assert card["flips"] == card["centre_voxels"] == 0 and card["yaw_deg"] == pytest.approx(0)


def test_each_fault_is_seen() -> None:
    truths = [a_truth(), a_truth()]
    right = perfect(truths)
    missed = study.measures([o for o in right if o.track.centre[0, 0] > 0], truths)
    assert missed["parked_recall"] == 0 and missed["moving_recall"] == 1
    assert missed["ap50"] == pytest.approx(2 / 3)
    turned = [replace(o, track=replace(o.track, yaw=o.track.yaw + math.pi)) for o in right[:2]]
    assert study.measures([*turned, *right[2:]], truths)["flips"] == pytest.approx(2 / 12)
    renamed = [replace(o, prototype=1 - o.prototype) for o in right[:2]]
    assert study.measures([*renamed, *right[2:]], truths)["kind"] == pytest.approx(10 / 12)
    shifted = [
        replace(o, track=replace(o.track, centre=o.track.centre + [0.15, 0, 0])) for o in right
    ]
    loose = study.measures(shifted, truths)
    assert loose["ap50"] == 1.0 and loose["ap70"] == 0.0


def test_the_table_names_the_worst() -> None:
    run = {"several": dict.fromkeys(study.COLUMNS, 0.5), "one": dict.fromkeys(study.COLUMNS, 0.25)}
    worse = {**run, "several": dict.fromkeys(study.COLUMNS, 0.1)}
    runs = [{**r, "training": {"cpu_minutes": 3.0}} for r in (run, run, worse)]
    text = study.markdown(study.Options(), {"true": runs})
    assert (
        "| true | several | 0.367 (0.100) |" in text and "| 0.367 (0.500) | 0.37 (0.50) |" in text
    )
    assert "| true | one | 0.250 (0.250) |" in text
