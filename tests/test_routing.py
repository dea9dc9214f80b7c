"""Candidates share what they claim; none gains from what another explains better."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from protoscene.routing import route, shares


def claims(seed: int, n: int = 5, m: int = 40, voxels: int = 12):
    random = torch.Generator().manual_seed(seed)
    pairs = torch.randperm(n * voxels, generator=random)[:m]
    value = torch.rand(m, generator=random) * 1.3 - 0.3
    return value, pairs // voxels, pairs % voxels


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_shares_of_a_voxel_sum_to_one(seed: int) -> None:
    _, owner, voxel = claims(seed)
    part = shares(torch.rand(5), owner, voxel, 0.5)
    total = torch.zeros(12).index_add(0, voxel, part)
    torch.testing.assert_close(total[voxel.unique()], torch.ones(len(voxel.unique())))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_nobody_gains_more_than_alone_nor_all_more_than_there_is(seed: int) -> None:
    value, owner, voxel = claims(seed)
    alone, routed = route(value, owner, voxel, 5, ()), route(value, owner, voxel, 5)
    assert (routed <= alone + 1e-5).all()
    most = torch.zeros(12).scatter_reduce(0, voxel, value.clamp(min=0), "amax")
    assert routed.sum() <= most.sum() + 1e-5


def test_what_is_claimed_once_counts_in_full() -> None:
    value, owner, voxel = torch.ones(3), torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2])
    torch.testing.assert_close(route(value, owner, voxel, 2), torch.tensor([2.0, 1.0]))


def test_the_better_one_takes_what_both_claim() -> None:
    # 0 explains voxels 0..9, and 1 only five of them.
    owner = torch.tensor([0] * 10 + [1] * 5)
    voxel = torch.cat([torch.arange(10), torch.arange(5)])
    routed = route(torch.ones(15), owner, voxel, 2)
    assert routed[0] > 9.9 and routed[1] < 0.1
    assert route(torch.ones(15), owner, voxel, 2, ()).tolist() == [10, 5]


def test_nothing_is_claimed() -> None:
    none = torch.zeros(0, dtype=torch.long)
    assert route(torch.zeros(0), none, none, 2).tolist() == [0, 0]
