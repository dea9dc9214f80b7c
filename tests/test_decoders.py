"""Latents and mirrored halves: what they decode to, and that gradients reach what is stored."""

from __future__ import annotations

import math

import pytest
import torch

from protoscene.compose import compose
from protoscene.decoders import LatentPrototypes, MirroredPrototypes
from protoscene.geometry import Grid
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes

LENGTHWAYS = (math.pi / 2, 0.0)
"""The plane y = 0."""


def volume(nz: int = 3, ny: int = 6, nx: int = 5, seed: int = 0) -> torch.Tensor:
    return 0.1 + 0.9 * torch.rand(4, nz, ny, nx, generator=torch.Generator().manual_seed(seed))


def symmetric(nz: int = 3, ny: int = 6, nx: int = 5) -> torch.Tensor:
    half = volume(nz, ny // 2, nx)
    return torch.cat([half.flip(2), half], dim=2)


def wedge(turn: float, size: int = 24) -> tuple[torch.Tensor, tuple[float, float]]:
    """A tapered solid with a colour gradient, alike on both sides of a plane at ``turn``."""
    axis = (torch.arange(size) + 0.5 - size / 2) * 0.1
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    away = x * math.cos(turn) + y * math.sin(turn) - 0.13
    along = y * math.cos(turn) - x * math.sin(turn)
    inside = (away.abs() < 0.5 - 0.3 * along) & (along.abs() < 0.8) & (z.abs() < 0.6)
    colour = torch.stack([0.5 + 0.4 * along, 0.5 + 0.4 * away.abs(), 0.5 + 0.4 * z])
    return torch.cat([colour.clamp(0, 1) * inside, inside[None].float()]), (turn, 0.13)


def test_half_of_what_is_symmetric_gives_it_all_back() -> None:
    rgba = symmetric()
    half = MirroredPrototypes([rgba], 0.1, [LENGTHWAYS])
    assert sum(p.numel() for p in half.parameters()) == rgba.numel() // 2
    torch.testing.assert_close(half().rgba(0), rgba)
    across = MirroredPrototypes([rgba.transpose(2, 3)], 0.1, [(0.0, 0.0)])
    torch.testing.assert_close(across().rgba(0), rgba.transpose(2, 3))
    assert across.stored[0].shape == (4, 3, 5, 3)


def test_a_plane_beside_the_middle() -> None:
    rgba = torch.zeros(4, 3, 8, 5)
    rgba[:, :, 2:8] = symmetric()
    half = MirroredPrototypes([rgba], 0.1, [(math.pi / 2, 0.1)])
    assert half.stored[0].shape == (4, 3, 5, 3)
    torch.testing.assert_close(half().rgba(0)[3], rgba[3])
    torch.testing.assert_close(half().rgba(0)[:3] * rgba[3], rgba[:3] * rgba[3])


@pytest.mark.parametrize("turn", [0.3, 1.2, 2.5])
def test_any_plane_loses_little(turn: float) -> None:
    rgba, plane = wedge(turn)
    half = MirroredPrototypes([rgba], 0.1, [plane])
    found, true = half().rgba(0)[3] > 0.5, rgba[3] > 0.5
    assert float((found & true).sum() / (found | true).sum()) > 0.97
    both = found & true
    assert float((half().rgba(0)[:3] - rgba[:3])[:, both].abs().mean()) < 0.02
    wrong = MirroredPrototypes([rgba], 0.1, [(turn + 0.5, plane[1])])().rgba(0)[3] > 0.5
    assert float((wrong & true).sum() / (wrong | true).sum()) < 0.9


def test_a_side_that_nobody_saw_is_what_its_mirror_image_shows() -> None:
    rgba = symmetric()
    seen = torch.zeros(3, 6, 5)
    seen[:, 3:] = 1
    guessed = torch.where(seen.bool(), rgba, 0.3)
    half = MirroredPrototypes([guessed], 0.1, [LENGTHWAYS], [seen])
    torch.testing.assert_close(half().rgba(0), rgba)


def test_what_has_no_plane_is_whole_and_nothing_keeps_its_box() -> None:
    rgba = volume()
    mixed = MirroredPrototypes([rgba, symmetric(4, 2, 2)], [0.1, 0.2], [None, LENGTHWAYS])
    assert len(mixed) == 2 and mixed().voxel_size == (0.1, 0.2)
    assert torch.equal(mixed().rgba(0), rgba)
    empty = MirroredPrototypes([torch.zeros(4, 2, 4, 3)], 0.1, [LENGTHWAYS])
    assert empty.stored[0].shape == (4, 2, 3, 2) and empty().rgba(0).shape == (4, 2, 4, 3)
    with pytest.raises(ValueError, match="2 prototypes but 1 mirror planes"):
        MirroredPrototypes([rgba, rgba], 0.1, [None])


def test_both_sides_pull_at_the_half() -> None:
    half = MirroredPrototypes([symmetric()], 0.1, [LENGTHWAYS], trainable=True)
    grid = Grid((-0.25, -0.3, -0.15), 0.1, (3, 6, 5))
    canvas = compose(half(), Placements([0], torch.zeros(1, 3)), grid)
    canvas.rgba[3, 1, 4, 2].backward(retain_graph=True)
    one = half.stored[0].grad.clone()
    canvas.rgba[3, 1, 1, 2].backward()
    torch.testing.assert_close(half.stored[0].grad, 2 * one)
    assert one[3].count_nonzero() == 1
    frozen = MirroredPrototypes([symmetric()], 0.1, [LENGTHWAYS])
    assert not frozen().voxels.requires_grad


def test_latents_of_mixed_sizes() -> None:
    shapes = [(8, 8, 8), (3, 7, 20), (4, 2, 1)]
    latents = LatentPrototypes(shapes, 0.1, features=16)
    prototypes = latents()
    assert isinstance(prototypes, VoxelPrototypes) and len(latents) == 3
    assert [tuple(row) for row in prototypes.table[:, 1:].tolist()] == shapes
    assert all(0 < prototypes.rgba(k).min() < prototypes.rgba(k).max() < 1 for k in range(3))
    state = torch.get_rng_state()
    again = LatentPrototypes(shapes, 0.1, features=16)
    assert torch.equal(again().voxels, prototypes.voxels)
    other = LatentPrototypes(shapes, 0.1, features=16, seed=1)
    assert not torch.equal(other().voxels, prototypes.voxels)
    assert torch.equal(torch.get_rng_state(), state)


def test_latents_learn_what_compose_shows() -> None:
    target = torch.stack([torch.zeros(8, 8, 8), torch.zeros(8, 8, 8)])
    target[0, :4], target[1, :, 4:] = 1, 1
    latents = LatentPrototypes([(8, 8, 8)] * 2, 0.1, latent_dim=4, features=16)
    optimiser = torch.optim.Adam(latents.parameters(), lr=0.02)
    grid = Grid((-0.4,) * 3, 0.1, (8, 8, 8))
    errors = []
    for _ in range(60):
        prototypes = latents()
        loss = torch.zeros(())
        for k in range(2):
            placements = Placements([k], torch.zeros(1, 3))
            loss = (
                loss + (compose(prototypes, placements, grid).occupancy - target[k]).square().mean()
            )
        optimiser.zero_grad()
        loss.backward()
        assert (latents.latents.grad.abs().sum(dim=1) > 0).all()
        optimiser.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.1 * errors[0]


def test_voxels_are_called_like_the_others() -> None:
    prototypes = VoxelPrototypes.from_rgba([volume()], 0.1)
    assert prototypes() is prototypes
