"""A network's input says what the evidence says."""

from __future__ import annotations

import numpy as np
import pytest

from detector_samples import GRID, two_carts
from moving_boxes import holes
from protoscene.geometry import Grid
from protoscene.network_input import network_input
from protoscene.observe import ViewStack, observe_instant

GRIDS = [
    GRID,
    Grid((-0.73, -0.9, -0.11), 0.043, (19, 33, 41)),
    Grid((0.2, 0.1, 0.0), 0.4, (1, 1, 1)),
]


@pytest.mark.parametrize("grid", GRIDS, ids=["all", "off the lattice", "one voxel"])
def test_it_is_the_evidence_unpacked(grid: Grid) -> None:
    recording, _ = two_carts()
    views = ViewStack.of(recording.views(1))
    volume, evidence = network_input(views, grid), observe_instant(views, grid, 0.0)
    assert volume.dtype == np.float32
    # Rays that graze a pixel's edge may fall into either: float32 here, float64 there.
    assert (volume[3] != evidence.occupied).sum() == 0
    assert (volume[4] != evidence.free).mean() < 1e-3
    assert volume[:3] == pytest.approx(evidence.rgb, abs=0.5 / 255 + 1e-6)
    assert (volume[3] * volume[4]).max() == 0


def test_a_pixel_without_depth_says_nothing() -> None:
    recording, _ = two_carts()
    views = ViewStack.of(recording.views(0))
    blind = ViewStack(views.depth * 0, views.colour, views.pose, views.pinhole)
    assert network_input(blind, GRID).max() == 0
    fewer = ViewStack(holes(0.5)(views.depth), views.colour, views.pose, views.pinhole)
    assert (network_input(fewer, GRID)[3] <= network_input(views, GRID)[3]).all()
