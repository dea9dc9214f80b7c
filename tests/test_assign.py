"""Soft choices among prototypes: laws of the weights, of the losses, and of where to start."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from protoscene import assign


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scores(n: int = 6, k: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, k, generator=seeded(seed))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 7), st.integers(1, 6), st.integers(0, 9))
def test_every_choice_gives_weights(n: int, k: int, seed: int) -> None:
    given_scores = 3 * scores(n, k, seed)
    for weights in (
        assign.softmax(given_scores, 0.5, 1.0, seeded(seed)),
        assign.gumbel(given_scores, 0.5, seeded(seed)),
        assign.epsilon_greedy(given_scores, 0.5, seeded(seed)),
        assign.balanced(given_scores),
        assign.hardened(assign.softmax(given_scores)),
    ):
        assert weights.shape == (n, k) and (weights >= 0).all()
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(n))


def test_temperature_and_noise() -> None:
    plain = assign.softmax(scores())
    torch.testing.assert_close(plain, torch.softmax(scores(), dim=1))
    assert (assign.softmax(scores(), 0.1).amax(dim=1) > plain.amax(dim=1)).all()
    noisy = assign.softmax(scores(), 1.0, 2.0, seeded(1))
    assert not torch.allclose(noisy, plain)
    assert torch.equal(noisy, assign.softmax(scores(), 1.0, 2.0, seeded(1)))


def test_gumbel_draws_with_the_probabilities_of_softmax() -> None:
    probabilities = torch.tensor([0.6, 0.3, 0.1])
    drawn = assign.gumbel(probabilities.log().expand(20000, 3), 0.01, seeded()).argmax(dim=1)
    share = torch.bincount(drawn, minlength=3) / 20000
    torch.testing.assert_close(share, probabilities, atol=0.015, rtol=0)


def test_epsilon_greedy_explores_as_often_as_told() -> None:
    many = torch.tensor([0.0, 1.0, 0.0, 0.0]).expand(20000, 4).clone().requires_grad_()
    weights = assign.epsilon_greedy(many, 0.4, seeded())
    share = weights.detach().mean(dim=0)
    # The best is among those that are drawn, too.
    torch.testing.assert_close(share, torch.tensor([0.1, 0.7, 0.1, 0.1]), atol=0.015, rtol=0)
    assert torch.equal(weights.detach().amax(dim=1), torch.ones(20000))
    (weights[:, 2]).sum().backward()
    expected = many.detach().clone().requires_grad_()
    torch.softmax(expected, dim=1)[:, 2].sum().backward()
    torch.testing.assert_close(many.grad, expected.grad)


def test_balanced_gives_every_prototype_its_even_share() -> None:
    one_takes_all = scores(8, 4) + torch.tensor([9.0, 0, 0, 0])
    weights = assign.balanced(one_takes_all, 1.0, 100)
    torch.testing.assert_close(weights.sum(dim=0), torch.full((4,), 2.0), atol=1e-3, rtol=0)
    # What is added to a whole row or a whole column changes nothing.
    torch.testing.assert_close(weights, assign.balanced(scores(8, 4), 1.0, 100), atol=1e-3, rtol=0)


def test_decayed_by_equal_factors() -> None:
    assert [assign.decayed(8, 2, p) for p in (-1, 0, 0.5, 1, 2)] == pytest.approx([8, 8, 4, 2, 2])


def test_losses_are_zero_where_they_should_be() -> None:
    even, taken = torch.eye(4).repeat(2, 1), torch.eye(4)[[1] * 8]
    hazy = torch.full((8, 4), 0.25)
    assert assign.frequency_loss(even) == 0 and assign.frequency_loss(hazy) == 0
    assert assign.frequency_loss(taken) == pytest.approx(0.75)
    assert assign.frequency_loss(taken, 0.2) == pytest.approx(0.75)
    assert assign.binarisation_loss(even) == 0 and assign.binarisation_loss(hazy) == 1
    weights = torch.softmax(scores(), dim=1)
    by_hand = (weights.minimum(1 - weights)).sum() / 6
    assert float(assign.binarisation_loss(weights)) == pytest.approx(float(by_hand))


def test_the_frequency_loss_pulls_a_dead_prototype_up() -> None:
    logits = torch.tensor([[4.0, 0.0]] * 3, requires_grad=True)
    assign.frequency_loss(torch.softmax(logits, dim=1)).backward()
    assert (logits.grad[:, 1] < 0).all() and (logits.grad[:, 0] > 0).all()


def test_usage_and_who_replaces_the_dead() -> None:
    used = assign.usage(torch.eye(4)[[0, 0, 0, 2]])
    assert used.shares == (0.75, 0, 0.25, 0) and used.dead == (1, 3)
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(4)
    assert used.entropy == pytest.approx(expected, abs=1e-6)
    assert assign.usage(torch.full((3, 4), 0.25)).entropy == pytest.approx(1)
    assert assign.usage(torch.ones(3, 1)).entropy == 1
    errors = torch.tensor([0.1, 0.9, 0.3, 0.5])
    assert assign.replacements(torch.eye(4)[[0, 0, 0, 2]], errors) == [(1, 1), (3, 3)]
    assert assign.replacements(torch.eye(4), errors) == []


def by_definition(rgba: torch.Tensor, known: torch.Tensor, i: int, j: int) -> float:
    total = union = 0.0
    for voxel in (known[i] & known[j]).nonzero().tolist():
        a, b = rgba[(i, slice(None), *voxel)], rgba[(j, slice(None), *voxel)]
        both = a[3] * b[3]
        total += float((a[3] - b[3]) ** 2 + both * (a[:3] - b[:3]).square().mean())
        union += float(a[3] + b[3] - both)
    return total / union


def test_differences_are_those_of_what_both_saw() -> None:
    random = seeded(3)
    rgba = torch.rand(4, 4, 2, 3, 3, generator=random)
    known = torch.rand(4, 2, 3, 3, generator=random) < 0.7
    found = assign.differences(rgba, known)
    for i in range(4):
        for j in range(4):
            if i != j:
                assert float(found[i, j]) == pytest.approx(by_definition(rgba, known, i, j), 1e-4)
    elsewhere = torch.where(known[:, None], rgba, torch.rand(rgba.shape, generator=random))
    torch.testing.assert_close(assign.differences(elsewhere, known), found)


def test_views_with_nothing_in_common_are_neither_near_nor_far() -> None:
    rgba = torch.ones(3, 4, 1, 1, 2)
    rgba[2, :3] = 0
    known = torch.tensor([[[[True, False]]], [[[False, True]]], [[[True, True]]]])
    found = assign.differences(rgba, known)
    assert found[0, 2] == found[1, 2] == 1
    assert 0 < found[0, 1] < 1


def test_farthest_first_takes_one_of_each_kind() -> None:
    random = seeded(2)
    points = torch.tensor([0.0, 5.0, 11.0]).repeat(5) + 0.1 * torch.rand(15, generator=random)
    chosen = assign.farthest_first((points[:, None] - points).abs(), 3)
    assert sorted(i % 3 for i in chosen) == [0, 1, 2]
    assert len(set(assign.farthest_first(torch.zeros(4, 4), 4))) == 4
    with pytest.raises(ValueError, match="k is 5, expected 1 to 4"):
        assign.farthest_first(torch.zeros(4, 4), 5)
