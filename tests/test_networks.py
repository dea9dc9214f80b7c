"""The detector: what it says is read exactly, its losses know right from wrong, and it learns."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from detector_samples import GRID, two_carts
from protoscene.geometry import Grid
from protoscene.networks import (
    Detector,
    Encoder,
    Prediction,
    detect,
    detection_loss,
    detections,
    stride_of,
)
from protoscene.networks.centernet import BINS, bin_centres, read_boxes, read_yaw
from protoscene.networks.detection_loss import focal
from protoscene.samples import Sample, Samples, batch

STRIDE = 2


def a_sample(number: int = 0) -> Sample:
    recording, labels = two_carts()
    return Samples([recording], [labels], [GRID], STRIDE).exactly(number)


def perfect(sample: Sample, sure: float = 12.0) -> Prediction:
    """What a detector that knows the sample would say."""
    apart = sample.box[:, 6:, ...] - bin_centres(sample.box)[:, None, None]
    apart = (apart + math.pi) % (2 * math.pi) - math.pi
    heat = torch.where(sample.heat == 1, sure, -sure)
    shares = (1 - apart.abs() * BINS / (2 * math.pi)).clamp(min=1e-9)
    kind = torch.nn.functional.one_hot(sample.kind.clamp(min=0), 2).movedim(-1, 1) * sure
    return Prediction(
        heat, sample.box[:, :6].clone(), shares.log(), apart * BINS / (2 * math.pi), kind.float()
    )


@pytest.mark.parametrize(
    "shape", [(8, 32, 32), (32, 128, 128), (5, 7, 40), (1, 1, 1), (3, 33, 2)], ids=str
)
def test_any_grid_gives_a_cell_for_every_stride_voxels(shape: tuple[int, int, int]) -> None:
    detector = Detector(3, shape)
    volume = torch.rand(2, 5, *shape)
    with torch.no_grad():
        said = detector(volume)
    cells = tuple(math.ceil(n / stride_of(shape)) for n in shape[1:])
    assert said.heat.shape == (2, *cells) and said.kind.shape == (2, 3, *cells)
    assert said.place.shape == (2, 6, *cells) and said.turn.shape == (2, BINS, *cells)


def test_no_convolution_sees_more_than_32_cells() -> None:
    seen: list[tuple[int, ...]] = []
    detector = Detector(2, (64, 96, 256))
    for part in detector.modules():
        if isinstance(part, (torch.nn.Conv2d, torch.nn.Conv3d)):
            part.register_forward_hook(lambda m, i, out: seen.append(tuple(out.shape[2:])))
    with torch.no_grad():
        detector(torch.zeros(1, 5, 64, 96, 256))
    assert len(seen) >= 10 and max(max(shape) for shape in seen) == 32


@pytest.mark.parametrize("shape", [(12, 32, 32), (8, 32, 80)], ids=["height", "too many cells"])
def test_another_height_or_too_large_a_ground_is_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="cells"):
        Encoder((8, 32, 64))(torch.zeros(1, 5, *shape))


def test_it_has_about_a_million_parameters() -> None:
    assert 0.9e6 < sum(p.numel() for p in Detector(4, (32, 128, 128)).parameters()) < 1.3e6


def test_what_was_wanted_is_what_is_read() -> None:
    for number in (0, 1):
        sample = a_sample(number)
        found = detections(perfect(batch([sample])), GRID, STRIDE, least=0.5)[0]
        _, labels = two_carts()
        wanted = labels[number]
        assert sorted(found.kind.tolist()) == [0, 1]
        for box, kind in zip(found.boxes, found.kind, strict=True):
            true = wanted.boxes[kind]
            assert box[:6] == pytest.approx(true[:6], abs=1e-4)
            assert math.cos(box[6] - true[6]) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("yaw", [0.0, 0.2, math.pi / 12, math.pi - 0.01, -math.pi + 0.01, -1.4])
def test_a_yaw_is_read_from_the_bins_beside_it(yaw: float) -> None:
    apart = (torch.tensor([yaw]) - bin_centres(torch.zeros(1)) + math.pi) % (2 * math.pi) - math.pi
    rest = apart * BINS / (2 * math.pi)
    shares = (1 - rest.abs()).clamp(min=1e-9)
    turn = shares.log()[None].requires_grad_()
    read = read_yaw(turn, rest[None])
    assert math.cos(read.item() - yaw) == pytest.approx(1, abs=1e-6)
    # A bin a quarter turn away is nearly as likely and says its own middle: it must not pull.
    aside = (shares.argmax() + 3) % BINS
    turned, own = turn.detach().clone(), rest[None].clone()
    turned[0, aside], own[0, aside] = turned.max() - 0.1, 0.0
    assert math.cos(read_yaw(turned, own).item() - yaw) == pytest.approx(1, abs=1e-6)


def test_reading_passes_gradients_on() -> None:
    prediction = Prediction(
        *(part.double().requires_grad_() for part in perfect(batch([a_sample()])))
    )
    cells = torch.nonzero(prediction.heat > 0)

    def boxes(place: Tensor, turn: Tensor, rest: Tensor) -> Tensor:
        said = Prediction(prediction.heat, place, turn, rest, prediction.kind)
        return read_boxes(said, cells, GRID, STRIDE)

    inputs = (prediction.place, torch.zeros_like(prediction.turn).requires_grad_(), prediction.rest)
    with torch.no_grad():  # no two bins are the best at once
        inputs[1][:, 4] = 1.0
    grads = torch.autograd.grad(boxes(*inputs).sum(), inputs)
    assert all(bool((g != 0).any()) for g in grads)


@pytest.mark.parametrize("through", ["turn", "rest"])
def test_a_yaw_is_found_by_its_gradient_through_bins_or_residuals_alone(through: str) -> None:
    said = {name: torch.zeros(3, BINS, dtype=torch.float64) for name in ("turn", "rest")}
    for row, best in enumerate((0, 5, 11)):
        said["turn"][row, best] = 2.0
    leaf = said[through].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda own: read_yaw(*(own if n == through else v for n, v in said.items())), (leaf,)
    )
    wanted = read_yaw(**said).detach() + math.radians(8) * torch.tensor([1, -1, 1])
    optimiser = torch.optim.Adam([leaf], 0.02)
    for _ in range(100):
        loss = (1 - torch.cos(read_yaw(**said) - wanted)).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    off = read_yaw(**said).detach() - wanted
    assert float((1 - torch.cos(off)).max()) < 1e-4


def test_of_two_boxes_on_each_other_the_likely_one_stays() -> None:
    prediction = perfect(batch([a_sample()]))
    row, column = torch.nonzero(prediction.heat[0] > 0)[0].tolist()
    prediction.heat[0, row, column + 2] = 3.0
    prediction.place[0, :, row, column + 2] = prediction.place[0, :, row, column]
    prediction.place[0, 0, row, column + 2] -= 2.0
    found = detections(prediction, GRID, STRIDE, least=0.5)[0]
    assert len(found.score) == 2 and found.score.min() > 0.99
    assert (np.diff(found.score) <= 0).all()


def test_right_answers_cost_next_to_nothing_and_each_wrong_one_costs() -> None:
    sample = batch([a_sample()])
    right = {name: v.item() for name, v in detection_loss(perfect(sample), sample).items()}
    assert right["place"] == pytest.approx(0, abs=1e-4)
    assert right["size"] == right["rest"] == pytest.approx(0, abs=1e-5)
    assert right["kind"] < 1e-4
    wrong = perfect(sample)
    wrong.place[:, 0] += 0.5
    wrong.place[:, 4] += 0.5
    spoilt = wrong._replace(heat=-wrong.heat, turn=-wrong.turn, rest=wrong.rest + 1,
                            kind=-wrong.kind)  # fmt: skip
    for name, value in detection_loss(spoilt, sample).items():
        assert value.item() > right[name] + 0.1, name


def test_what_is_not_known_has_no_gradient() -> None:
    sample = batch([a_sample()])
    heat = torch.zeros_like(sample.heat, requires_grad=True)
    known = torch.ones_like(heat)
    known[0, :5] = 0
    focal(heat, sample.heat, known).backward()
    assert heat.grad is not None
    assert bool((heat.grad[0, :5] == 0).all()) and bool((heat.grad[0, 5:] != 0).all())


def test_nothing_to_learn_is_no_loss_and_no_nan() -> None:
    recording, labels = two_carts()
    sample = batch([Samples([recording], [labels], [GRID], stride_of(GRID.shape)).exactly(0)])
    nothing = sample._replace(
        known=torch.zeros_like(sample.known),
        weight=torch.zeros_like(sample.weight),
        kind=torch.full_like(sample.kind, -1),
    )
    detector = Detector(2, GRID.shape)
    losses = detection_loss(detector(sample.volume), nothing)
    total = torch.stack(list(losses.values())).sum()
    assert total.item() == 0
    total.backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in detector.parameters())


def test_an_unknown_kind_is_not_taught() -> None:
    sample = batch([a_sample()])
    unknown = sample._replace(kind=torch.full_like(sample.kind, -1))
    assert detection_loss(perfect(sample), unknown)["kind"].item() == 0


def test_it_learns_what_it_is_shown() -> None:
    torch.manual_seed(0)
    shape = (4, 16, 16)
    grid = Grid((-1.6, -1.6, -0.1), 0.2, shape)
    recording, labels = two_carts()
    samples = Samples([recording], [labels], [grid], stride_of(shape))
    shown = batch([samples.exactly(0), samples.exactly(1)])
    detector = Detector(2, shape)
    optimiser = torch.optim.Adam(detector.parameters(), lr=2e-3)
    first: dict[str, float] = {}
    for _ in range(50):
        optimiser.zero_grad()
        losses = detection_loss(detector(shown.volume), shown)
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
        last = {name: value.item() for name, value in losses.items()}
        first = first or last
    assert all(last[name] < 0.9 * first[name] for name in ("heat", "place", "size", "turn"))
    found = detect(detector, shown.volume[1].numpy(), grid, least=0.3)
    assert len(found.boxes) == 2
    for true in labels[1].boxes:
        assert np.linalg.norm(found.boxes[:, :2] - true[:2], axis=1).min() < 0.1
