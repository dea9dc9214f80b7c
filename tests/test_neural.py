"""Prototypes that are networks compose like voxels, at any resolution, with true gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

from protoscene.compose import compose
from protoscene.geometry import Grid
from protoscene.neural import CodedField, NeuralPrototypes, voxel_positions
from protoscene.placements import Placements

GRID = Grid((-0.4, -0.4, -0.4), 0.1, (8, 8, 8))


def placements() -> Placements:
    return Placements(torch.tensor([0, 1]), torch.tensor([[-0.1, 0.0, 0.0], [0.15, 0.1, 0.05]]))


def test_compose_takes_them_in_the_place_of_voxels() -> None:
    nets = NeuralPrototypes([(4, 4, 6), (3, 5, 4)], 0.05)
    volume = compose(nets(), placements(), GRID)
    assert [tuple(nets().rgba(k).shape) for k in range(2)] == [(4, 4, 4, 6), (4, 3, 5, 4)]
    volume.rgba.sum().backward()
    assert nets.codes.grad is not None and (nets.codes.grad.abs().sum(dim=1) > 0).all()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in nets.field.parameters())


def test_gradients_through_compose_are_those_of_differences() -> None:
    nets = NeuralPrototypes([(2, 3, 2)], 0.1, code_dim=3, hidden=4).double()
    where = Placements(torch.tensor([0]), torch.zeros(1, 3).double())
    grid = Grid((-0.2, -0.2, -0.2), 0.1, (4, 4, 4))

    def composed(codes: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(nets, {"codes": codes}, ()).voxels.square().sum() + (
            compose(torch.func.functional_call(nets, {"codes": codes}, ()), where, grid)
            .rgba.square()
            .sum()
        )

    assert torch.autograd.gradcheck(composed, nets.codes.detach().requires_grad_())


def test_finer_voxels_are_the_same_function_asked_more_often() -> None:
    nets = NeuralPrototypes([(2, 2, 4)], 0.2)
    fine = nets(3)
    assert fine.voxel_size == (0.2 / 3,) and tuple(fine.rgba(0).shape) == (4, 6, 6, 12)
    # The middle one of three finer voxels has its middle where the coarse one has.
    torch.testing.assert_close(fine.rgba(0)[:, 1::3, 1::3, 1::3], nets().rgba(0))


def test_each_net_has_its_own_function_and_only_its_code_makes_it() -> None:
    field = CodedField(code_dim=5, hidden=8)
    codes = torch.randn(3, 5)
    positions = voxel_positions((2, 3, 4)).expand(3, -1, -1)
    logits = field(positions, codes)
    assert (logits[0] - logits[1]).abs().max() > 1e-3
    torch.testing.assert_close(field(positions[:1], codes[1:2])[0], logits[1])


def test_positions_are_middles_in_a_cube_of_the_longest_side() -> None:
    positions = voxel_positions((1, 2, 4)).reshape(1, 2, 4, 3)
    torch.testing.assert_close(positions[0, 0, :, 0], torch.tensor([-0.75, -0.25, 0.25, 0.75]))
    torch.testing.assert_close(positions[0, :, 0, 1], torch.tensor([-0.25, 0.25]))
    assert (positions[..., 2] == 0).all()


def test_the_same_seed_gives_the_same() -> None:
    a, b = (NeuralPrototypes([(2, 2, 2)], 0.1, seed=4)().voxels for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, NeuralPrototypes([(2, 2, 2)], 0.1, seed=5)().voxels)


def test_one_setting_swaps_voxels_for_networks(
    study: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    nets = study("nets")
    page = tmp_path / "results.md"
    found = nets.main(nets.Options(kinds=("crate", "car"), resolution=12, steps=60, results=page))
    assert found["voxels"]["IoU"] > 0.7 and found["neural"]["IoU"] > 0.5
    assert found["neural"]["IoU, twice as fine"] > 0.4
    assert f"| neural | {found['neural']['IoU']:.3f} |" in page.read_text()
