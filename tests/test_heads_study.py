"""Heads for the detector: what each is taught, and that it reads what it was taught to say."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "studies"))

import anchors
import heads as study

from detector_samples import GRID, two_carts
from moving_boxes import CART_DIMS
from protoscene.networks import stride_of
from protoscene.networks.detection_loss import yaw_targets
from protoscene.samples import Sample, Samples, batch

STRIDE = stride_of(GRID.shape)
CELL = STRIDE * GRID.voxel_size
SIZES = np.array([[*CART_DIMS, CART_DIMS[2] / 2 - GRID.origin[2]]] * 2)


@pytest.fixture(scope="module")
def samples() -> Samples:
    recording, labels = two_carts()
    return Samples([recording], [labels], [GRID], STRIDE)


@pytest.fixture
def sample(samples: Samples) -> Sample:
    return batch([samples.exactly(0), samples.exactly(1)])


def true_boxes(instant: int) -> np.ndarray:
    return two_carts()[1][instant].boxes


def test_the_things_are_read_back_from_the_targets(sample: Sample) -> None:
    for i, things in enumerate(anchors.things_in(sample, CELL)):
        order = np.argsort(things.kind)
        boxes = things.boxes[order]
        boxes[:, :3] += GRID.lower
        np.testing.assert_allclose(boxes, true_boxes(i), atol=1e-5)
        assert things.weight[order].tolist() == pytest.approx([1.0, 0.8])


@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.4, 0.0), (-0.25, 0.5)])
def test_an_offset_is_the_middle_of_the_heat_and_passes_gradients_on(
    offset: tuple[float, float],
) -> None:
    dx, dy = torch.tensor(offset)
    share = torch.zeros(5, 6)
    for row, wy in ((2, 1 - dy.abs()), (2 + int(dy.sign()), dy.abs())):
        for column, wx in ((3, 1 - dx.abs()), (3 + int(dx.sign()), dx.abs())):
            share[row, column] += wx * wy
    heat = share.clamp(min=1e-9).log()[None].requires_grad_()
    read = study.offsets(heat)[0, :, 2, 3]
    assert read.tolist() == pytest.approx(offset, abs=1e-5)
    read.sum().backward()
    assert heat.grad is not None and float(heat.grad.abs().sum()) > 0
    assert study.offsets(torch.zeros(1, 5, 6))[0, :, 0, 0].tolist() == pytest.approx([0.5, 0.5])


def test_a_surround_is_highest_at_the_centre_and_as_long_as_the_thing() -> None:
    box = np.array([[1.5, 1.5, 0.2, 0.9, 0.3, 0.4, math.pi / 2]])
    one = anchors.Things(box, np.zeros(1, int), np.ones(1), np.array([15]), np.array([15]))
    wanted = study.surround(one, (32, 32), 0.1)
    assert float(wanted.max()) == float(wanted[15, 15]) == 1
    assert float(wanted[17, 15]) > 0.4 > float(wanted[15, 17])  # along y, not along x
    assert float(wanted[:, :8].max()) == 0


def test_two_that_nearly_touch_have_a_centre_each() -> None:
    boxes = np.array([[1.05, 1.55, 0.2, 0.4, 0.4, 0.4, 0.0], [1.55, 1.55, 0.2, 0.4, 0.4, 0.4, 0.0]])
    at = np.array([15, 15]), np.array([10, 15])
    wanted = study.surround(anchors.Things(boxes, np.zeros(2, int), np.ones(2), *at), (32, 32), 0.1)
    assert float(wanted[15, 10]) == float(wanted[15, 15]) == 1
    assert float(wanted[15, 12:14].max()) < 0.6


def test_what_anchors_are_taught_is_what_is_read(sample: Sample) -> None:
    head = study.AnchorHead(SIZES, GRID)
    for i, things in enumerate(anchors.things_in(sample, CELL)):
        taught, of = head.matched(things, (32, 32))
        assert set(of["thing"].tolist()) == {0, 1}
        assert (taught == 1).sum() == len(of["row"]) > 2 and (taught == -1).any()
        own = head.anchors(of["row"], of["column"], of["number"])
        boxes = things.boxes[of["thing"]]
        assert (of["number"] // anchors.TURNS == things.kind[of["thing"]]).all()
        rest = anchors.residuals(boxes, own, CELL)
        np.testing.assert_allclose(anchors.boxes_from(rest, own, CELL)[:, :6], boxes[:, :6])
        shares, apart = yaw_targets(torch.from_numpy(boxes[:, 6]))
        sure = [np.full((len(rest), 1), 4.0), rest, shares.clamp(min=1e-9).log(), apart]
        said = torch.zeros(1, 32, 32, 2 * anchors.TURNS, anchors.SAID)
        said[..., 0] = -9
        at = 0, of["row"], of["column"], of["number"]
        said[at] = torch.from_numpy(np.column_stack(sure)).float()
        head.forward = lambda volume, said=said: said  # type: ignore[method-assign]
        found = head.found(sample.volume[i].numpy())
        assert sorted(found.kind.tolist()) == [0, 1]
        for box, kind in zip(found.boxes, found.kind, strict=True):
            true = true_boxes(i)[kind]
            assert box[:6] == pytest.approx(true[:6], abs=1e-4)
            assert math.cos(box[6] - true[6]) == pytest.approx(1, abs=1e-6)


def test_right_anchors_cost_less_and_unknown_ground_nothing() -> None:
    taught = torch.tensor([[[[1, 0, -1]]]])
    known = torch.ones(1, 1, 1)
    right, wrong = torch.tensor([[[[4.0, -4, 9]]]]), torch.tensor([[[[-4.0, -4, 9]]]])
    assert anchors.focal(right, taught, known) < 1e-3 < anchors.focal(wrong, taught, known)
    false = torch.tensor([[[[4.0, 4, 0]]]])
    assert anchors.focal(false, taught, known) > 1
    assert anchors.focal(false, taught, 0 * known) < 1e-3


@pytest.mark.parametrize("name", list(study.HEADS))
def test_each_head_learns(name: str, sample: Sample) -> None:
    torch.manual_seed(0)
    head = study.HEADS[name](SIZES, GRID)
    optimiser = torch.optim.Adam(head.parameters(), 1e-3)
    losses = []
    for _ in range(4):
        terms = head.terms(sample)
        assert set(terms) >= {"heat", "place", "size", "turn"}
        total = torch.stack(list(terms.values())).sum()
        optimiser.zero_grad()
        total.backward()
        assert all(p.grad is not None and bool((p.grad != 0).any()) for p in head.parameters())
        optimiser.step()
        losses.append(float(total.detach()))
    assert losses[-1] < losses[0]
    with torch.inference_mode():
        found = head.found(sample.volume[0].numpy())
    assert found.boxes.shape[1] == 7 and (found.score >= study.LEAST_SCORE).all()


def test_usual_sizes_are_means_of_a_kind(samples: Samples) -> None:
    np.testing.assert_allclose(study.usual_sizes(samples, 2), SIZES)


def test_the_table_has_a_row_a_head_and_number_of_cameras() -> None:
    columns = dict.fromkeys(study.COLUMNS, 0.5)
    run = {"several": columns, "one": columns, "training": {"cpu_minutes": 2.0}}
    text = study.markdown(study.Options(), {"CenterNet": [run], "anchors": [run]})
    assert "| anchors | one | 0.500 (0.500) |" in text and text.count("| 2.0 |") == 4
