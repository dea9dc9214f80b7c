"""What stays of boxes on a floor, fused of some of the instants."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from moving_boxes import Box, record, ring
from protoscene.geometry import Grid

GRID = Grid((-0.4, -0.4, -0.1), 0.025, (16, 32, 32))
STAYS = Box((0.0, 0.0, 0.1), (0.2, 0.2, 0.2))


def there(instant: int) -> list[Box]:
    """Something else stands in another corner each time."""
    x, y = ((0.3, 0.3), (-0.3, 0.3), (0.3, -0.3), (-0.3, -0.3))[instant % 4]
    return [STAYS, Box((x, y, 0.08), (0.14, 0.14, 0.16), colour=(40, 90, 220))]


def test_what_stays_is_fused_without_what_moves(study: Callable[[str], ModuleType]) -> None:
    recording = record(4, ring(4, radius=1.2, focal=120.0), there)
    halves = [study("fused_tabletop").fused(recording, slice(k, None, 2), GRID) for k in (0, 1)]
    centres = GRID.centres()
    truth = np.minimum(STAYS.distance(centres), centres[..., 2])
    for half in halves:
        clear = half.known & (np.abs(truth) > GRID.voxel_size)
        assert clear.mean() > 0.5
        assert ((half.rgba[3].numpy() > 0.5) == (truth < 0))[clear].mean() > 0.99
        top = half.rgba[:3, 11, 15:17, 15:17].mean(dim=(1, 2))  # 17.5 to 20 cm high
        assert top[0].item() > 2 * top[2].item()  # of the box's colour
    _, free_corner = (half.rgba[3, 6, 28, 28] for half in halves)
    assert free_corner == 0


def test_what_nobody_saw_is_as_the_nearest_that_somebody_did(
    study: Callable[[str], ModuleType],
) -> None:
    half = study("fused_tabletop").fused(record(2, ring(2), there), slice(0, 1), GRID)
    nearest = distance_transform_edt(~half.known, return_distances=False, return_indices=True)
    assert not half.known.all()
    assert (half.rgba[3].numpy() == half.rgba[3].numpy()[tuple(nearest)]).all()


def test_a_coarse_voxel_is_known_where_all_of_it_is(study: Callable[[str], ModuleType]) -> None:
    known = np.ones((4, 4, 4), bool)
    known[0, 0, 3] = False
    coarse = study("fused_tabletop").whole(known, 2)
    assert coarse.sum() == 7
    assert not coarse[0, 0, 1]


def test_figures_count_known_voxels_only(study: Callable[[str], ModuleType]) -> None:
    fused_tabletop = study("fused_tabletop")
    truth, said = torch.zeros(2, 4, 2, 2, 2)
    truth[3, 0], said[3, :, 0] = 1, 1
    known = np.ones((2, 2, 2), bool)
    held_out = fused_tabletop.Fused(truth, known)
    assert fused_tabletop.figures({"a": said}, held_out, known) == {"a": pytest.approx(1 / 3)}
    known[1] = False
    assert fused_tabletop.figures({"a": said}, held_out, known) == {"a": pytest.approx(1 / 2)}
