"""What is fused: surfaces seen from the same side, and nobody who contradicts the others."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from moving_cart import ride, smooth
from protoscene.dictionary.portrait import Portrait, facing, inverse, of_model, placed, zero_level
from protoscene.dictionary.share import CONTRADICTED, facing_each_other, share
from protoscene.geometry import Grid, centred_grid
from protoscene.register import Model
from protoscene.start import Thing

BOARD = np.array([0.6, 0.05, 0.4])
"""Length, thickness and height (m)."""


def board(side: int, at: float = 0.0) -> Portrait:
    """A board that one camera saw, which stood far away along y on this ``side`` (±1): the distance
    along its rays, nothing behind; moved by ``at`` (m) along y."""
    grid: Grid = centred_grid((0.9, 0.5, 0.6), 0.02)
    x, y, z = np.moveaxis(grid.centres(), -1, 0)
    before = side * (y - at) - BOARD[1] / 2
    hit = (np.abs(x) < BOARD[0] / 2) & (np.abs(z) < BOARD[2] / 2)
    seen = ~hit | (before > -0.08)
    distance = np.where(hit, before, 0.08).clip(-0.08, 0.08)
    colour = np.full((*grid.shape, 3), 0.5)
    coloured = (hit & (np.abs(before) < 0.03)).astype(float)
    model = Model(grid, 0.08, distance * seen, 9.0 * seen, colour, coloured)
    return of_model(model, BOARD, zero_level(model))


def test_normals_point_to_who_saw_the_surface() -> None:
    for side in (1, -1):
        seen = board(side)
        middle = (np.abs(seen.points) < [0.25, 1, 0.15]).all(axis=1)
        assert_allclose(seen.outward[middle], np.tile([0, side, 0], (middle.sum(), 1)), atol=0.05)
        assert facing(seen.model, seen.points[middle], seen.outward[middle]).all()
        assert not facing(seen.model, seen.points[middle], -seen.outward[middle]).any()


def test_two_sides_of_a_board_are_two_surfaces() -> None:
    assert_allclose(facing_each_other(board(1), board(-1)), 0, atol=0.003)


def test_one_side_of_a_board_is_one_surface() -> None:
    pose = facing_each_other(board(1), board(1, at=0.04))
    assert_allclose(pose, [0, 0.04, 0, 0], atol=0.003)
    assert_allclose(placed(pose, inverse(pose)), 0, atol=1e-9)


@pytest.mark.parametrize("limit", [CONTRADICTED, 1.0])
def test_who_lies_in_the_free_space_of_the_others_is_not_fused(
    limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turned this way and that, a ride is as wide as a fan: whatever it does to the misfits."""
    file = sys.modules["protoscene.dictionary.share"]
    monkeypatch.setattr(file, "CONTRADICTED", limit)
    monkeypatch.setattr(file, "SPOILT", np.inf)
    monkeypatch.setattr(file, "ALIKE", 0.2)
    true = ride(smooth(8))
    well = Thing(list(range(8)), np.array([0.6, 0.3, 0.36]), true.poses, np.full(8, 0.1),
                 torch.zeros(4, 5, 5, 5), 0.1, 0.9, true.crops)  # fmt: skip
    wrong = true.poses + np.outer((-1.0) ** np.arange(8), [0, 0, 0, 0.6])
    (kind,) = share([well, replace(well, poses=wrong, misfits=np.full(8, 0.3))])
    assert kind.members == (0, 1)
    assert (kind.rgba is well.rgba) == (limit < 1)
