"""Objects of a scene or a truth → what a detector is to find."""

from __future__ import annotations

import math

import numpy as np
import pytest

from protoscene.labels import LEAST_SCORE, labels_at
from protoscene.scene import SceneObject, Track


def thing(score: float = 0.9, visible: bool = True, prototype: int = 1) -> SceneObject:
    track = Track(
        time=np.array([0.0, 0.1]),
        centre=np.array([[0.0, 0.0, 0.2], [1.0, 2.0, 0.2]]),
        yaw=np.array([0.0, math.pi / 2]),
        scale=np.array([1.0, 2.0]),
        visible=np.array([True, visible]),
    )
    return SceneObject(3, prototype, score, True, (0.5, 0.3, 0.4), track)


def test_a_box_is_the_tracks_at_its_instant() -> None:
    labels = labels_at([thing()], 0.1)
    assert labels.boxes[0] == pytest.approx([1, 2, 0.2, 1.0, 0.6, 0.8, math.pi / 2])
    assert labels.kind.tolist() == [1] and labels.weight.tolist() == [0.9]


def test_what_does_not_exist_then_is_no_label() -> None:
    assert labels_at([thing()], 0.05).boxes.shape == (0, 7)
    assert labels_at([], 0.1).kind.shape == (0,)


@pytest.mark.parametrize(
    "unsure", [thing(visible=False), thing(score=LEAST_SCORE - 0.01)], ids=["unseen", "low score"]
)
def test_what_is_not_sure_is_a_place_to_be_ignored(unsure: SceneObject) -> None:
    labels = labels_at([unsure, thing()], 0.1)
    assert labels.weight.tolist() == [0.0, 0.9]


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_kind_turns_the_box_where_it_is(quarters: int) -> None:
    turns = np.array([0.3, quarters * math.pi / 2])
    (own,), (box,) = (labels_at([thing()], 0.1, [4, 0], t).boxes for t in (None, turns))
    assert labels_at([thing()], 0.1, [4, 0], turns).kind.tolist() == [0]
    assert box[:3] == pytest.approx(own[:3])
    # The same box: as long along the world's x and y as before.
    extent = [abs(math.cos(b[6])) * b[3] + abs(math.sin(b[6])) * b[4] for b in (own, box)]
    assert extent[1] == pytest.approx(extent[0])
    assert box[6] == pytest.approx(own[6] + turns[1])
