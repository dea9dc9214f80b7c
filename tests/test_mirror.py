"""The mirror plane is found where there is one, and only there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from protoscene.geometry import Grid
from protoscene.mirror import mirror_plane
from protoscene.volume import Volume
from test_decoders import wedge

GRID = Grid((-1.2,) * 3, 0.1, (24, 24, 24))


@pytest.mark.parametrize("turn", [0.3, 1.2, 2.5])
def test_finds_the_plane(turn: float) -> None:
    rgba, (_, shift) = wedge(turn)
    plane = mirror_plane(Volume(rgba, GRID))
    assert plane is not None and plane.evidence > 0.85
    normal = np.array([np.cos(plane.turn), np.sin(plane.turn)])
    true = np.array([np.cos(turn), np.sin(turn)])
    side = np.sign(normal @ true)
    assert np.rad2deg(np.arccos(side * normal @ true)) < 1.5
    assert side * plane.shift == pytest.approx(shift, abs=0.02)


def test_what_was_not_seen_does_not_speak_against_a_plane() -> None:
    rgba, _ = wedge(1.2)
    known = np.ones(GRID.shape, dtype=bool)
    known[:, :, :7] = False
    hidden = torch.where(torch.from_numpy(known), rgba, 0.0)
    assert mirror_plane(Volume(hidden, GRID), known) is not None


def test_half_of_it_is_missing_or_of_another_colour() -> None:
    rgba, (turn, shift) = wedge(0.3)
    x, y, _ = np.moveaxis(GRID.centres(), -1, 0)
    beyond = torch.from_numpy(x * np.cos(turn) + y * np.sin(turn) > shift)
    painted = rgba.clone()
    painted[:3, beyond] = 1 - painted[:3, beyond].round()
    assert mirror_plane(Volume(painted, GRID)) is None
    lopsided = rgba.clone()
    lopsided[:, beyond & torch.from_numpy((y > 0) | (x > 0.4))] = 0
    assert mirror_plane(Volume(lopsided, GRID)) is None


def test_nothing_has_no_plane() -> None:
    assert mirror_plane(Volume(torch.zeros(4, 24, 24, 24), GRID)) is None
    solid = torch.ones(4, 24, 24, 24)
    unseen = np.zeros(GRID.shape, dtype=bool)
    assert mirror_plane(Volume(solid, GRID), unseen) is None
