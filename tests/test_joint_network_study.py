"""The network form of joint training: what a detector says, through compose, onto the evidence."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from protoscene.geometry import Grid
from protoscene.joint import Joint
from protoscene.networks import Detector
from protoscene.slots import Finds

GRID = Grid((-1.6, -1.6, 0.0), 0.1, (8, 32, 32))


@pytest.fixture
def study(study: Any) -> Any:
    return study("joint_network")


@pytest.fixture
def joint() -> Joint:
    """A red block 6 × 4 × 4, found once, at (20, 12) voxels."""
    prototypes = torch.zeros(2, 4, 8, 12, 12)
    prototypes[0, :, :4, 4:8, 3:9] = torch.tensor([0.9, 0.1, 0.1, 1.0])[:, None, None, None]
    prototypes[1, :, :6, 5:7, 5:7] = torch.tensor([0.1, 0.1, 0.9, 1.0])[:, None, None, None]
    one = torch.ones(1)
    finds = Finds(
        torch.zeros(1).long(), torch.zeros(1).long(), torch.tensor([[20.0, 12.0]]), 0 * one, one,
        one,
    )  # fmt: skip
    return Joint(prototypes, torch.zeros(2, 4, 1, 1, 1), 1.0, finds)


@pytest.fixture
def volume() -> torch.Tensor:
    """The evidence of that block, all of it known."""
    seen = torch.zeros(5, 8, 32, 32)
    seen[4] = 1
    seen[:, :4, 10:14, 17:23] = torch.tensor([0.9, 0.1, 0.1, 1, 0])[:, None, None, None]
    return seen


def test_labels_stand_on_what_was_seen_and_turn_with_it(study, joint, volume) -> None:
    labels = study.labels_of(joint, joint.finds, GRID, 0)
    assert labels.boxes[0].tolist() == pytest.approx([0.4, -0.4, 0.2, 0.6, 0.4, 0.4, 0], abs=1e-6)
    turned = study.turned_sample(volume, labels, GRID, 1, math.pi / 2)
    y, x = torch.nonzero(turned.volume[3, 0]).float().mean(dim=0).tolist()
    assert ((x + 0.5) * 0.1 - 1.6, (y + 0.5) * 0.1 - 1.6) == pytest.approx((0.4, 0.4), abs=0.06)
    assert np.argwhere(turned.heat.numpy() == 1).tolist() == [[20, 20]]
    assert turned.box[6, 20, 20] == pytest.approx(math.pi / 2)


def test_the_gradient_through_compose_reaches_network_and_prototypes(study, joint, volume) -> None:
    torch.manual_seed(0)
    detector = Detector(2, GRID.shape)
    reconstruction = study.Reconstruction(joint, GRID)
    prediction = detector(volume[None])
    heat = torch.full_like(prediction.heat, -9.0)
    heat[0, 12, 19] = 3.0  # x .8 of a cell off, and everything else as it comes
    prediction = prediction._replace(heat=heat + 0 * prediction.heat)
    reconstruction.loss(prediction, volume[None], detector.stride).backward()
    assert float(detector.head.weight.grad.abs().sum()) > 0
    assert float(reconstruction.prototypes.voxels.grad.abs().sum()) > 0


def test_it_is_least_where_the_thing_is(study, joint, volume) -> None:
    detector = Detector(2, GRID.shape)
    reconstruction = study.Reconstruction(joint, GRID)
    with torch.no_grad():
        said = detector(volume[None])
        kind = torch.zeros_like(said.kind)
        kind[:, 0] = 9
        turn = torch.zeros_like(said.turn)
        turn[:, 0] = 20
        said = said._replace(
            kind=kind, turn=turn, rest=0 * said.rest, place=torch.full_like(said.place, -0.5)
        )
        losses = []
        for x, which in ((20, 0), (22, 0), (20, 1)):
            heat = torch.full_like(said.heat, -9.0)
            heat[0, 12, x] = 9.0
            own = said._replace(heat=heat, kind=kind.roll(which, dims=1))
            losses.append(float(reconstruction.loss(own, volume[None], detector.stride)))
    assert losses[0] < 0.2 * min(losses[1:])


def test_a_step_is_taken_apart(study) -> None:
    said = study.step_cost(16)
    assert said.startswith("One step at 16³") and "of which compose_loss" in said


def test_a_detector_learns_what_was_found(study, joint, volume) -> None:
    torch.manual_seed(0)
    detector = Detector(2, GRID.shape)
    labels = [study.labels_of(joint, joint.finds, GRID, 0)]
    options = study.Options(steps=70, joint_steps=2, batch=2)
    random = np.random.default_rng(0)
    study.train(detector, volume[None], labels, GRID, options, random)
    study.train(
        detector,
        volume[None],
        labels,
        GRID,
        options,
        random,
        study.Reconstruction(joint, GRID),
        100.0,
    )
    finds, seconds = study.said(detector, volume[None], GRID)
    best = finds[finds.score.argmax()[None]]
    assert best.place[0].tolist() == pytest.approx([20, 12], abs=2)
    assert int(best.which) == 0 and seconds > 0
    assert len(replace(joint, finds=finds).finds) >= 1
