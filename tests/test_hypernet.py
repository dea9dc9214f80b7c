"""A volume's small networks: blended without seams, refined only where that is wanted."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from protoscene.fields import position_features
from protoscene.geometry import Grid
from protoscene.networks.hypernet import (
    OCTAVES,
    STRIDE,
    FieldGenerator,
    Fields,
    mixed_cells,
    near_surface,
)

GRID = Grid((0.0, 0.0, 0.0), 0.5, (8, 16, 12))
"""Cells: 2 × 4 × 3."""


def generator(seed: int = 0) -> FieldGenerator:
    """One whose networks do say something."""
    torch.manual_seed(seed)
    network = FieldGenerator(features=8, width=6).double()
    torch.nn.init.normal_(network.field.out.weight)
    return network


def block(shape: tuple[int, int, int] = GRID.shape) -> torch.Tensor:
    """A solid block in an empty volume, premultiplied, with some half voxels."""
    volume = torch.zeros(4, *shape, dtype=torch.float64)
    nz, ny, nx = shape
    volume[:, nz // 4 : nz // 2, ny // 3 : ny // 2, nx // 3 : nx // 2] = torch.tensor(
        [0.9, 0.2, 0.1, 1.0]
    ).double()[:, None, None, None]
    volume[:, nz // 2, ny // 3 : ny // 2, nx // 3 : nx // 2] *= 0
    volume[:, nz // 2, ny // 3 : ny // 2, nx // 3] = 0.5
    return volume


def everywhere(volume: torch.Tensor) -> torch.Tensor:
    return torch.ones([n // STRIDE for n in volume.shape[1:]], dtype=torch.bool)


def test_begins_as_interpolation() -> None:
    network = FieldGenerator(features=8, width=6).double()
    volume = torch.rand(4, *GRID.shape, dtype=torch.float64)
    points = 2 * torch.rand(200, 3, dtype=torch.float64) - 1
    share = torch.nn.functional.grid_sample(
        volume[None, 3:], points[None, None, None], padding_mode="border", align_corners=False
    )[0, 0, 0, 0]
    answers = network.answer(network(volume), points)
    torch.testing.assert_close(answers[:, 3], 8 * (share - 0.45))


def logits_of(seen: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    """What is meant, of one point: 27 premultiplied colours and shares, what a network adds."""
    steps = list(itertools.product((-1, 0, 1), repeat=3))
    colour, solid = torch.zeros(3).double(), torch.zeros(()).double()
    for step, weight, (*premultiplied, share) in zip(steps, added[4:], seen, strict=True):
        count = torch.exp(weight - 2 * sum(s * s for s in step))
        colour, solid = colour + count * torch.stack(premultiplied), solid + count * share
    start = torch.logit((colour / solid.clamp(min=1e-6)).clamp(0.01, 0.99))
    return torch.cat([start, 8 * (seen[13, 3:] - 0.45)]) + added[:4]


def test_a_colour_may_be_any_of_those_around() -> None:
    """Where a network says that only the one to the right counts, that is the colour."""
    network, volume = FieldGenerator(features=8, width=6).double(), block()
    volume[:, 2:4, 5:8, 3], volume[:, 2:4, 5:8, 4] = (
        torch.tensor(c).double()[:, None, None] for c in ((0.9, 0.2, 0.1, 1), (0.1, 0.7, 0.3, 1))
    )
    network.field.out.bias.data[4 + 22] = 40.0  # one voxel along x
    points = GRID.sampler_from_world(
        GRID.world_from_voxel(torch.tensor([[3.5, 6.5, 3.0]]).double())
    )
    colour = network.answer(network(volume), points)[0, :3].sigmoid()
    torch.testing.assert_close(colour, torch.tensor([0.1, 0.7, 0.3]).double())


@pytest.mark.parametrize("neighbour", [22, 0], ids=["solid", "empty"])
def test_a_neighbour_may_count_for_any_amount(neighbour: int) -> None:
    """exp(800) is not finite; what is empty has no colour, so that the others' stays."""
    network, volume = FieldGenerator(features=8, width=6).double(), torch.zeros(4, *GRID.shape)
    volume[:, 2:6, 4:12, 4:8] = torch.tensor([0.9, 0.2, 0.1, 1.0])[:, None, None, None]
    network.field.out.bias.data[4 + neighbour] = 800.0
    corner = GRID.sampler_from_world(
        GRID.world_from_voxel(torch.tensor([[4.0, 4.0, 2.0]]).double())
    )
    logits = network.answer(network(volume.double()), corner)[0]
    torch.testing.assert_close(logits[:3].sigmoid(), torch.tensor([0.9, 0.2, 0.1]).double())
    assert logits.isfinite().all()


def test_a_point_between_cells_has_the_trilinear_mean_of_their_networks() -> None:
    """Of those cells that have one; the answer counts in full where these weigh half and more."""
    network, volume = generator(), block()
    wanted = everywhere(volume)
    wanted[0, 2, 1] = wanted[1, 1, 0] = wanted[0, 1, 0] = False
    fields = network(volume, wanted)
    voxels = torch.tensor([[4.7, 9.1, 3.2], [2.3, 6.9, 4.4], [9.8, 5.5, 5.9]]).double()
    points = GRID.sampler_from_world(GRID.world_from_voxel(voxels))
    weights = []
    for voxel, answer in zip(voxels, network.answer(fields, points), strict=True):
        at = voxel / STRIDE - 0.5
        own, share = torch.zeros(network.field.n_parameters).double(), 0.0
        for corner in itertools.product((0, 1), repeat=3):
            cell = at.floor() + torch.tensor(corner)
            x, y, z = (int(c.clamp(0, n - 1)) for c, n in zip(cell, (3, 4, 2), strict=True))
            weight = float((1 - (at - cell).abs()).prod() * fields.made[z, y, x])
            own, share = own + weight * fields.parameters[:, z, y, x], share + weight
        steps = itertools.product((-1, 0, 1), repeat=3)
        near = torch.stack([voxel + torch.tensor(step) for step in steps])
        seen = torch.nn.functional.grid_sample(
            volume[None],
            GRID.sampler_from_world(GRID.world_from_voxel(near))[None, None, None],
            padding_mode="border",
            align_corners=False,
        )[0, :, 0, 0].T
        told = torch.cat([seen.flatten(), position_features(voxel / STRIDE, OCTAVES, 1.0)])
        weights.append(min(1.0, 2 * share))
        added = weights[-1] * network.field(told[None], own[None] / share)[0]
        torch.testing.assert_close(answer, logits_of(seen, added))
    assert min(weights) < 0.9
    assert max(weights) == 1


def test_no_seam() -> None:
    """From just before a cell's border to just behind it, and at the cells' middles, where the
    neighbours that are blended change."""
    network, volume = generator(), block()
    fields = network(volume)
    for axis, at in itertools.product(range(3), (4.0, 6.0)):
        voxels = torch.rand(40, 3).double() * torch.tensor(GRID.shape[::-1])
        sides = []
        for aside in (-1e-9, 1e-9):
            voxels[:, axis] = at + aside
            sides.append(
                network.answer(fields, GRID.sampler_from_world(GRID.world_from_voxel(voxels)))
            )
        assert (sides[0] - sides[1]).abs().max() < 1e-5
        assert sides[0].std() > 0.1


def test_one_axis_may_be_any_other() -> None:
    """x, y, z of points are the last, middle and first axis of the volume."""
    volume = torch.zeros(4, 8, 8, 8)
    volume[:, 1, 3, 6] = 1
    network = FieldGenerator(features=8, width=6)
    point = (2 * torch.tensor([[6.5, 3.5, 1.5]]) / 8) - 1
    assert network.answer(network(volume), point)[0, 3] > 4
    assert network.answer(network(volume), point.flip(1))[0, 3] < -3


def test_networks_are_made_where_anything_changes() -> None:
    volume = torch.zeros(4, 16, 16, 16)
    assert not mixed_cells(volume).any()
    assert not mixed_cells(volume + 1).any()
    volume[3, 9, 9, 9] = 1  # in cell 2, within reach of 1
    made = mixed_cells(volume)
    assert made[1:3, 1:3, 1:3].all()
    assert made.sum() == 8
    fields = FieldGenerator(features=8, width=6)(volume)
    assert torch.equal(fields.made, made)
    assert not fields.parameters[:, ~made].any()
    assert fields.parameters[:, made].any()


def refined_in_a_corner(network: FieldGenerator) -> tuple[Fields, Fields]:
    coarse = network(block())
    wanted = torch.zeros(4, 8, 6, dtype=torch.bool)
    wanted[:3, :4, :3] = True
    return coarse, network.refined(coarse, block((16, 32, 24)), wanted)


def test_what_is_not_refined_answers_as_before() -> None:
    network = generator()
    coarse, fine = refined_in_a_corner(network)
    far = GRID.sampler_from_world(
        GRID.world_from_voxel(torch.tensor([[8.0, 13.0, 7.0], [1.0, 9.5, 1.0]]).double())
    )
    torch.testing.assert_close(network.answer(fine, far), network.answer(coarse, far))


def test_what_is_refined_asks_the_fine_network_alone() -> None:
    network = generator()
    coarse, fine = refined_in_a_corner(network)
    inside = GRID.sampler_from_world(
        GRID.world_from_voxel(torch.tensor([[3.0, 5.0, 3.0], [2.5, 4.0, 4.0]]).double())
    )
    alone = Fields(fine.volume, fine.codes, fine.parameters, fine.made, None)
    torch.testing.assert_close(network.answer(fine, inside), network.answer(alone, inside))
    assert (network.answer(fine, inside) - network.answer(coarse, inside)).abs().max() > 0.01


def test_a_child_depends_on_its_parent_and_on_which_child_it_is() -> None:
    """Where the raw voxels in and around cells are alike."""
    network = generator()
    coarse = network(block((16, 16, 16)))
    alike = replace(coarse, codes=torch.ones_like(coarse.codes))
    tiles = block((4, 4, 4)).repeat(1, 8, 8, 8)
    wanted = torch.ones(8, 8, 8, dtype=torch.bool)
    codes = network.refined(alike, tiles, wanted).codes
    torch.testing.assert_close(codes[:, 1, 1, 1], codes[:, 3, 3, 3])
    children = codes[:, 1:3, 1:3, 1:3].flatten(1).T
    assert (torch.cdist(children, children) + torch.eye(8)).min() > 1e-3
    changed = network.refined(replace(coarse, codes=2 * alike.codes), tiles, wanted).codes
    assert (codes - changed)[:, 1, 1, 1].abs().max() > 1e-3


def test_decoded_is_the_answer_at_the_middles_of_voxels() -> None:
    network, volume = generator(), block()
    fields = network(volume)
    decoded = network.decode(fields, 3)
    fine = GRID.resampled(GRID.voxel_size / 3)
    points = torch.from_numpy(GRID.sampler_from_world(fine.centres()).reshape(-1, 3))
    answers = network.answer(fields, points).sigmoid().T.reshape(4, *fine.shape)
    asked = near_surface(volume[3])
    for axis in range(3):
        asked = asked.repeat_interleave(3, dim=axis)
    torch.testing.assert_close(decoded[:, asked], answers[:, asked])
    assert not decoded[3, ~asked].any()
    assert asked.any()


def test_gradients_reach_every_weight() -> None:
    network = generator()
    _, fine = refined_in_a_corner(network)
    points = 2 * torch.rand(64, 3, dtype=torch.float64) - 1
    network.answer(fine, points).square().sum().backward()
    still = [name for name, weight in network.named_parameters() if not weight.grad.any()]
    assert still == []


def test_gradients_are_those_of_differences() -> None:
    network = generator()
    fields = network(block(), everywhere(block()))
    points = 2 * torch.rand(3, 3, dtype=torch.float64) - 1
    own = fields.parameters.detach()[:, :1, :2, :2].clone().requires_grad_()
    volume = block()[:, :4, :8, :8]

    def answers(parameters: torch.Tensor) -> torch.Tensor:
        made = torch.ones(parameters.shape[1:], dtype=torch.bool)
        some = Fields(volume, fields.codes[:, :1, :2, :2], parameters, made)
        return network.answer(some, points)

    assert torch.autograd.gradcheck(answers, own)


def test_only_whole_cells() -> None:
    with pytest.raises(ValueError, match="whole cells"):
        FieldGenerator(features=8, width=6)(torch.zeros(4, 8, 8, 6))
