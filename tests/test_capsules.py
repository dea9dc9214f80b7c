"""Capsules turn and move with what they stand for, and see it the same."""

from __future__ import annotations

import math

import torch

from protoscene.networks.capsules import CapsuleNet, Poses, canonical, codebook, places, poses


def thing() -> torch.Tensor:
    """A red bar with a blue tip and a small green knob, off the middle of 48³."""
    rgba = torch.zeros(4, 48, 48, 48)
    for colour, z, y, x in (
        ((0.9, 0.1, 0.1), slice(18, 26), slice(20, 27), slice(12, 30)),
        ((0.1, 0.2, 0.9), slice(18, 26), slice(20, 27), slice(30, 35)),
        ((0.1, 0.8, 0.2), slice(26, 32), slice(21, 25), slice(14, 20)),
    ):
        rgba[:3, z, y, x] = torch.tensor(colour).reshape(3, 1, 1, 1)
        rgba[3, z, y, x] = 1
    return rgba


def matched(a: Poses, b: Poses, expected: torch.Tensor) -> torch.Tensor:
    """Rows of b nearest to ``expected`` (n, 3), all within a tenth of a voxel."""
    assert len(a) == len(b)
    apart, rows = torch.cdist(expected, b.centre).min(dim=1)
    assert float(apart.max()) < 0.1
    assert len(rows.unique()) == len(rows)
    return rows


def test_a_move_that_is_no_cell_moves_the_places_alone() -> None:
    here, there = thing(), thing().roll((3, 2), (3, 2))
    # Blocks of two voxels stand for solid voxels, so a move by one is not exact.
    there = there.roll((1,), (3,))
    a, b = poses(here), poses(there)
    rows = matched(a, b, a.centre + torch.tensor([4.0, 2.0, 0.0]))
    torch.testing.assert_close(b.yaw[rows], a.yaw, atol=2e-3, rtol=0)
    windows = canonical(here, a, 32), canonical(there, b, 32)[rows]
    assert float((windows[0] - windows[1]).abs().mean()) < 1e-3


def test_a_turn_by_90_degrees_turns_places_and_noses_and_no_window() -> None:
    here = thing()
    turned = torch.rot90(here, -1, (2, 3)).contiguous()  # x, y → −y, x
    a, b = poses(here), poses(turned)
    x, y, z = a.centre.T
    rows = matched(a, b, torch.stack([48 - y, x, z], dim=1))
    assert torch.equal(a.symmetry, b.symmetry[rows])
    off = (b.yaw[rows] - a.yaw - math.pi / 2 + math.pi) % (2 * math.pi) - math.pi
    assert float(off[a.symmetry == 1].abs().max()) < 1e-3
    sharp = a.symmetry == 1
    assert sharp.any()
    windows = canonical(here, a, 32)[sharp], canonical(turned, b, 32)[rows][sharp]
    assert float((windows[0] - windows[1]).abs().max()) < 0.02


def test_a_window_is_the_volume_in_its_own_frame() -> None:
    here = thing()
    plain = Poses(torch.tensor([[24.0, 24.0, 24.0]]), torch.zeros(1), torch.ones(1).long())
    torch.testing.assert_close(
        canonical(here, plain, 32)[0], here[:, 8:40, 8:40, 8:40], atol=1e-4, rtol=0
    )
    quarter = Poses(plain.centre, torch.tensor([math.pi / 2]), plain.symmetry)
    # What lies to the north is ahead of a nose that points north.
    ahead = torch.rot90(here[:, 8:40, 8:40, 8:40], 1, (2, 3))
    torch.testing.assert_close(canonical(here, quarter, 32)[0], ahead, atol=1e-3, rtol=0)
    half = Poses(torch.tensor([[24.0, 24.0, 24.5]]), plain.yaw, plain.symmetry)
    between = (here[:, 8:40] + here[:, 9:41])[:, :, 8:40, 8:40] / 2
    between[:3] = ((here[:3] * here[3:])[:, 8:40] + (here[:3] * here[3:])[:, 9:41])[
        :, :, 8:40, 8:40
    ] / 2
    torch.testing.assert_close(canonical(here, half, 32)[0], between, atol=1e-4, rtol=0)


def test_a_disc_has_no_nose_and_a_bar_only_an_axis() -> None:
    rgba = torch.zeros(4, 48, 48, 48)
    z, y, x = torch.meshgrid(*[torch.arange(48) - 23.5] * 3, indexing="ij")
    rgba[:, (x**2 + y**2 < 60) & (z.abs() < 4)] = 1
    assert poses(rgba).symmetry.tolist() == [0]
    bar = torch.zeros(4, 48, 48, 48)
    bar[:, (x.abs() < 8) & (y.abs() < 3) & (z.abs() < 3)] = 1
    found = poses(bar)
    middle = (found.centre - 24).norm(dim=1).argmin()
    assert found.symmetry[middle] == 2
    assert float(found.yaw[middle].sin().abs()) < 0.05


def test_places_are_modes_and_far_ones_are_kept_apart() -> None:
    random = torch.Generator().manual_seed(0)
    middles = torch.tensor([[20.0, 20.0, 20.0], [60.0, 20.0, 20.0]])
    at = (middles[:, None] + torch.randn(2, 200, 3, generator=random)).reshape(-1, 3)
    found = places(at, torch.ones(400), 8)
    assert torch.cdist(middles, found).min(dim=1).values.max() < 0.5 and len(found) == 2


def test_a_net_learns_to_draw_what_it_is_shown() -> None:
    torch.manual_seed(0)
    window = canonical(thing(), poses(thing()), 32)[:1]
    net = CapsuleNet(2)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = (net.decode(net.encode(window)) - window).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert net.encode(window).shape == (1, 2, 4, 4, 4)
    assert losses[-1] < 0.6 * losses[0]


def test_every_code_of_the_codebook_is_used() -> None:
    random = torch.Generator().manual_seed(0)
    groups = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    latents = (groups[:, None] + 0.1 * torch.randn(3, 30, 2, generator=random)).reshape(-1, 2)
    codes = codebook(latents, 3)
    assert torch.cdist(groups, codes).min(dim=1).values.max() < 0.2
    assert len(codebook(latents[:2], 8)) == 2
