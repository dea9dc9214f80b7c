"""The network of fat voxels: its losses mean what they say, and it learns a code by heart."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from protoscene.compose import Target, compose
from protoscene.geometry import Grid
from protoscene.networks.fat_voxels import (
    BINS,
    Cells,
    FatVoxels,
    Taught,
    binned,
    code_loss,
    composed_loss,
    likely,
    said_poses,
)
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes

TAUGHT = Taught(
    torch.tensor([[0, 1, 2, 0], [0, 0, 1, 2]]), torch.tensor([1, 0]), torch.tensor([0.5, 4.0]),
    torch.tensor([[0.2, -0.4, 0.1], [0.0, 0.3, -0.2]]), torch.tensor([1.0, 3.0]),
)  # fmt: skip


def truly(taught: Taught, k: int = 2, shape: tuple[int, int, int] = (2, 3, 3)) -> Cells:
    """What a network would say that knows."""
    scores = torch.zeros(1, k + 1, *shape)
    scores[:, -1] = 20
    turn, offset = torch.zeros(1, 2, BINS, *shape), torch.zeros(1, 3, *shape)
    nearest, left = binned(taught.yaw)
    for i, (b, z, y, x) in enumerate(taught.cell.tolist()):
        scores[b, -1, z, y, x], scores[b, taught.which[i], z, y, x] = 0, 20
        turn[b, 0, nearest[i], z, y, x] = 20
        turn[b, 1, nearest[i], z, y, x] = left[i]
        offset[b, :, z, y, x] = taught.offset[i]
    return Cells(scores, turn, offset)


def test_bins_of_yaw_put_together_are_the_yaw() -> None:
    yaw = torch.linspace(-7, 7, 57)
    nearest, left = binned(yaw)
    assert left.abs().max() <= 0.5
    again = (nearest + left) * (2 * math.pi / BINS)
    torch.testing.assert_close(torch.cos(again - yaw), torch.ones(57))


def test_who_knows_has_no_loss_and_says_what_was_taught() -> None:
    cells = truly(TAUGHT)
    assert all(float(term) < 1e-6 for term in code_loss(cells, TAUGHT).values())
    cell, which = likely(cells)
    order = [cell.tolist().index(row) for row in TAUGHT.cell.tolist()]
    assert len(cell) == 2 and which[order].tolist() == [1, 0]
    centre, yaw = said_poses(cells, TAUGHT.cell, 0.1, (1.0, 2.0, 3.0), stride=4)
    x = 1 + (0 + 0.5 + 0.2) * 0.4
    assert centre[0].tolist() == pytest.approx([x, 2 + 2.1 * 0.4, 3 + 1.6 * 0.4])
    torch.testing.assert_close(torch.cos(yaw - TAUGHT.yaw), torch.ones(2))


@pytest.mark.parametrize("what", ["part", "bin", "turn", "offset"])
def test_each_term_sees_what_it_is_about(what: str) -> None:
    wrong = {
        "part": replace(TAUGHT, which=1 - TAUGHT.which),
        "bin": replace(TAUGHT, yaw=TAUGHT.yaw + math.pi),
        "turn": replace(TAUGHT, yaw=TAUGHT.yaw - 0.05),
        "offset": replace(TAUGHT, offset=TAUGHT.offset + 0.2),
    }[what]
    terms = code_loss(truly(TAUGHT), wrong)
    assert float(terms[what].detach()) > 1e-3


def test_a_part_of_no_weight_may_be_wrong_and_only_ratios_of_weights_count() -> None:
    wrong = replace(
        TAUGHT, which=torch.tensor([1, 1]), yaw=TAUGHT.yaw + torch.tensor([0, 1.0]),
        offset=TAUGHT.offset + torch.tensor([[0.0], [0.3]]),
    )  # fmt: skip
    ignored = replace(wrong, weight=torch.tensor([1.0, 0.0]))
    assert all(float(term) < 1e-6 for term in code_loss(truly(TAUGHT), ignored).values())
    once, twice = (
        code_loss(truly(TAUGHT), replace(wrong, weight=w * wrong.weight)) for w in (1, 2)
    )
    for name in once:
        torch.testing.assert_close(once[name], twice[name])
        assert float(once[name]) > 1e-3


def test_the_next_yaw_and_the_next_part_are_said_on_demand() -> None:
    cells = truly(TAUGHT)
    b, z, y, x = TAUGHT.cell[0].tolist()
    cells.turn[b, 0, 5, z, y, x] = 19
    cells.scores[b, :, z, y, x] = torch.tensor([1.0, 2.0, -9.0])
    _, again = said_poses(cells, TAUGHT.cell, 0.1, (0.0, 0.0, 0.0), rank=1)
    assert float(again[0]) == pytest.approx(5 * 2 * math.pi / BINS)
    cell, which = likely(cells, 0.1)
    assert which.tolist() == [0, 1, 0]
    assert cell[1:].tolist() == [TAUGHT.cell[0].tolist()] * 2
    assert likely(cells)[1].tolist() == [0, 1]


def test_what_the_cells_say_is_composed_and_its_gradients_move_it_there() -> None:
    voxel, shape = 0.1, (16, 24, 24)
    random = torch.Generator().manual_seed(0)
    rgba = [torch.rand(4, 8, 8, 8, generator=random) for _ in range(2)]
    prototypes = VoxelPrototypes.from_rgba(rgba, voxel)
    grid = Grid((0.0, 0.0, 0.0), voxel, shape)
    cells = truly(TAUGHT)
    centre, yaw = said_poses(cells, TAUGHT.cell, voxel, grid.origin)
    made = compose(prototypes, Placements(TAUGHT.which, centre, yaw), grid)
    target = Target(made.rgba.detach())
    exact = composed_loss(cells, TAUGHT.cell, prototypes, target, grid)
    moved = Cells(cells.scores, cells.turn, (cells.offset + 0.1).requires_grad_())
    off = composed_loss(moved, TAUGHT.cell, prototypes, target, grid)
    off.backward()
    assert float(off.detach()) > float(exact) + 1e-4
    assert moved.offset.grad is not None
    assert float((moved.offset.grad * 0.1).sum()) > 0  # downhill is back
    unsure = Cells((cells.scores / 10).requires_grad_(), cells.turn, cells.offset)
    composed_loss(unsure, TAUGHT.cell, prototypes, target, grid).backward()
    b, z, y, x = TAUGHT.cell[0].tolist()
    assert float(unsure.scores.grad[b, TAUGHT.which[0], z, y, x]) < 0


def test_a_code_is_learnt_by_heart() -> None:
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(1)
    rgba = (torch.rand(1, 4, 16, 24, 24, generator=random) > 0.7).float()
    net = FatVoxels(2, 8, width=16, depth=1)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(60):
        loss = torch.stack(list(code_loss(net(rgba), TAUGHT).values())).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        cell, which = likely(net(rgba))
    said = {tuple(c): int(k) for c, k in zip(cell.tolist(), which, strict=True)}
    assert said == {
        tuple(c): int(k) for c, k in zip(TAUGHT.cell.tolist(), TAUGHT.which, strict=True)
    }


def test_too_many_cells_and_parts_of_cells_are_refused() -> None:
    net = FatVoxels(2, 8, width=8, depth=1)
    with pytest.raises(ValueError, match="multiples of 8"):
        net(torch.zeros(1, 4, 8, 8, 12))
    with pytest.raises(ValueError, match="at most 256"):
        net(torch.zeros(1, 4, 8, 8, 264))
    assert net(torch.zeros(1, 4, 8, 16, 24)).scores.shape == (1, 3, 1, 2, 3)
    assert np.isfinite(float(code_loss(net(torch.ones(1, 4, 16, 24, 24)), TAUGHT)["part"].detach()))
