"""Laws of heat maps: positions, the evidence that fills them, and what they refuse."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from protoscene.geometry import Grid
from protoscene.heatmap import (
    FLOOR,
    argmax,
    birds_eye,
    centre_surround,
    centre_surround_loss,
    draw,
    encouragement,
    occupancy_error,
    peaks,
    product_of_evidence,
    sample,
    shares,
    soft_argmax,
)

GRID = Grid((-1.0, 0.5, 0.25), 0.1, (9, 16, 20))
BOX = torch.tensor([0.6, 0.4, 0.3], dtype=torch.float64)
RING = 0.2


def centres(grid=GRID):
    return torch.tensor(grid.centres())


def gaussian(middle, sigma=0.15, grid=GRID):
    """Logarithm of a bell around a world position."""
    middle = torch.as_tensor(middle, dtype=torch.float64)
    return -((centres(grid) - middle) ** 2).sum(-1) / (2 * sigma**2)


def solid(start, count, grid=GRID):
    """Evidence 1 in ``count`` voxels (x y z) from ``start`` on, and the middle of that box (m)."""
    evidence = torch.zeros(grid.shape, dtype=torch.float64)
    (x, y, z), (nx, ny, nz) = start, count
    evidence[z : z + nz, y : y + ny, x : x + nx] = 1
    return evidence, torch.tensor(grid.world_from_voxel(np.add(start, np.divide(count, 2))))


@pytest.mark.parametrize("window", [None, 0.6])
def test_soft_argmax_is_the_place_of_a_single_peak_between_voxels(window):
    middle = torch.tensor([0.013, 1.271, 0.684], dtype=torch.float64)
    found = soft_argmax(gaussian(middle, 0.1), GRID, window_m=window)
    assert (found - middle).abs().max() < (1e-3 if window else 2e-4)
    share = torch.zeros(GRID.shape, dtype=torch.float64)
    share[4, 7, 9], share[4, 7, 10] = 0.7, 0.3
    expected = GRID.world_from_voxel(np.array([9.8, 7.5, 4.5]))
    found = soft_argmax(share.log(), GRID, window_m=window)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_shifted_map_gives_a_shifted_place():
    scores = gaussian([-0.2, 1.1, 0.6], 0.1)
    shifted = torch.roll(scores, (1, 2, -3), dims=(0, 1, 2))
    moved = soft_argmax(shifted, GRID, window_m=0.3) - soft_argmax(scores, GRID, window_m=0.3)
    np.testing.assert_allclose(moved, [-0.3, 0.2, 0.1], atol=1e-9)


def test_two_peaks_average_without_a_window_and_do_not_with_one():
    first, second = [-0.6, 1.0, 0.6], [0.6, 1.5, 0.8]
    two = torch.logaddexp(gaussian(first, 0.1), gaussian(second, 0.1) + 0.1)
    whole, local = soft_argmax(two, GRID), soft_argmax(two, GRID, window_m=0.4)
    assert (local - torch.tensor(second)).norm() < 0.01
    assert min((whole - torch.tensor(p)).norm() for p in (first, second)) > 0.5


def test_low_temperature_gives_argmax_and_high_temperature_the_middle():
    scores = torch.randn(2, *GRID.shape, generator=torch.Generator().manual_seed(0))
    cold = soft_argmax(scores, GRID, temperature=1e-4)
    torch.testing.assert_close(cold, argmax(scores, GRID), atol=1e-5, rtol=0)
    index = np.unravel_index(int(scores[1].argmax()), GRID.shape)
    np.testing.assert_allclose(cold[1], GRID.centres()[index], atol=1e-5)
    hot = soft_argmax(scores, GRID, temperature=1e6)
    np.testing.assert_allclose(hot[0], (GRID.lower + GRID.upper) / 2, atol=1e-4)


def test_a_place_that_cannot_be_gets_no_share():
    scores = torch.zeros(GRID.shape)
    scores[:, :, 10:] = -math.inf
    assert shares(scores)[:, :, 10:].sum() == 0 and abs(shares(scores).sum() - 1) < 1e-5
    assert abs(soft_argmax(scores, GRID)[0] - (-0.5)) < 1e-5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_refuses_scores_that_are_no_numbers(bad):
    scores = torch.zeros(2, *GRID.shape)
    scores[1, 2, 3, 4] = bad
    calls = [
        lambda: shares(scores),
        lambda: argmax(scores, GRID),
        lambda: soft_argmax(scores, GRID, window_m=0.2),
        lambda: draw(scores, GRID, torch.Generator()),
        lambda: peaks(scores[1], GRID, 0.5, 0.2),
        lambda: centre_surround_loss(scores, torch.zeros_like(scores), GRID, BOX, RING),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="heat map holds NaN"):
            call()


def test_refuses_what_has_no_place_or_no_size():
    evidence = torch.zeros(GRID.shape)
    with pytest.raises(ValueError, match="nothing but −∞"):
        soft_argmax(torch.full(GRID.shape, -math.inf), GRID)
    with pytest.raises(ValueError, match="temperature must be > 0"):
        shares(evidence, 0.0)
    with pytest.raises(ValueError, match="expected"):
        argmax(torch.zeros(9, 16, 21), GRID)
    with pytest.raises(ValueError, match="sizes must be > 0"):
        centre_surround(evidence, GRID, torch.tensor([0.6, 0.0, 0.3]), RING)
    evidence[0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="evidence must be finite"):
        occupancy_error(evidence, GRID, BOX, RING)


def test_draws_as_often_as_the_shares_say():
    scores = torch.full((4000, *GRID.shape), -math.inf)
    scores[:, 1, 2, 3], scores[:, 4, 5, 6] = math.log(3), 0.0
    positions, log_share = draw(scores, GRID, torch.Generator().manual_seed(1))
    first = (positions - torch.tensor(GRID.centres()[1, 2, 3])).norm(dim=1) < 1e-6
    assert 0.72 < first.double().mean() < 0.78
    expected = torch.where(first, math.log(0.75), math.log(0.25))
    torch.testing.assert_close(log_share, expected)


def test_sample_is_the_voxel_at_its_centre_and_linear_between():
    values = torch.arange(GRID.n_voxels, dtype=torch.float64).reshape(GRID.shape)
    at = centres()[4, 5, 6]
    step = torch.tensor([0.025, 0.0, 0.0], dtype=torch.float64)
    assert sample(values, GRID, at) == pytest.approx(float(values[4, 5, 6]))
    assert sample(values, GRID, at + step) == pytest.approx(float(values[4, 5, 6]) + 0.25)
    outside = torch.tensor([99.0, 99.0, 99.0], dtype=torch.float64)
    assert sample(values, GRID, outside) == pytest.approx(float(values[-1, -1, -1]))


def test_encouragement_is_one_where_nothing_is_wrong_and_falls_with_the_error():
    error = (centres() - centres()[4, 8, 10]).norm(dim=-1)
    rewards = [float(encouragement(error, GRID, centres()[4, 8, x])) for x in range(10, 20)]
    assert rewards[0] == pytest.approx(1) and rewards[3] == pytest.approx(math.exp(-0.3))
    assert all(a > b for a, b in pairwise(rewards))


def test_centre_surround_peaks_at_the_centre_of_a_box_of_its_size():
    evidence, middle = solid((7, 5, 3), (6, 4, 3))
    grid = GRID.cropped((0, 0, 0), (9, 15, 19))  # its centres include the box's middle, in z
    evidence = evidence[:, :15, :19]
    dims = BOX + torch.tensor([0.1, 0.1, 0.0])
    for size in (BOX, dims):
        score = centre_surround(evidence, grid, size, RING)
        best = torch.tensor(grid.centres())[torch.nonzero(score > score.max() - 1e-9).unbind(1)]
        torch.testing.assert_close(best.mean(0), middle)
    assert centre_surround(solid((7, 5, 3), (7, 5, 3))[0], GRID, dims, RING).max() == (
        pytest.approx(1)
    )


def test_centre_surround_is_negative_beside_and_zero_where_evidence_is_even():
    evidence, _ = solid((7, 5, 3), (7, 5, 3))
    score = centre_surround(evidence, GRID, BOX, RING)
    assert score[4, 7, 10] > 0.9
    assert score[4, 7, 3] < -0.02 and score[4, 7, 17] < -0.02 and score[4, 12, 10] < -0.02
    assert score[8, 15, 0] == pytest.approx(0, abs=1e-9)
    even = centre_surround(torch.full((2, *GRID.shape), 0.7), GRID, BOX, RING)
    assert even.abs().max() < 1e-5  # also at the grid's edges
    corner = centre_surround(solid((0, 0, 0), (4, 3, 2))[0], GRID, BOX, RING)
    assert corner[0, 0, 0] > 0.9  # what is outside counts neither way
    for opposite in (corner[-1], corner[:, -1], corner[:, :, -1]):
        assert opposite.abs().max() < 1e-9


def test_a_turned_box_is_found_at_its_own_yaw():
    grid = birds_eye(Grid((0.0, 0.0, 0.0), 0.05, (10, 60, 60)))
    assert grid.shape == (1, 60, 60) and grid.axes()[2][0] == pytest.approx(0.25)
    x, y = (centres(grid)[..., i] - 1.525 for i in (0, 1))
    turn = math.radians(30)
    along = x * math.cos(turn) + y * math.sin(turn)
    across = y * math.cos(turn) - x * math.sin(turn)
    evidence = ((along.abs() < 0.5) & (across.abs() < 0.2)).double()
    dims = torch.tensor([1.0, 0.4, 0.05], dtype=torch.float64)
    best = {
        yaw: float(centre_surround(evidence, grid, dims, RING, math.radians(yaw)).max())
        for yaw in range(0, 180, 15)
    }
    assert max(best, key=best.__getitem__) == 30 and best[30] > 0.9


def test_error_of_a_box_is_what_differs_from_it():
    evidence, _ = solid((7, 5, 3), (7, 5, 3))
    size = torch.tensor([0.7, 0.5, 0.3], dtype=torch.float64)
    error = occupancy_error(evidence, GRID, size, RING)
    outer = 11 * 9 * 7
    assert error[4, 7, 10] == pytest.approx(0, abs=1e-9)
    # One voxel to the side, a face of 5 × 3 voxels is missing, and one is too many.
    assert error[4, 7, 11] == pytest.approx(2 * 5 * 3 / outer)


def test_product_needs_all_three_witnesses():
    thing, _ = solid((7, 5, 3), (7, 5, 3))
    size = torch.tensor([0.7, 0.5, 0.3], dtype=torch.float64)
    nothing, all_free = torch.zeros_like(thing), 1 - thing
    at = (4, 7, 10)

    def score(*witnesses):
        return float(product_of_evidence(*witnesses, GRID, size, RING)[at])

    silent = math.log(FLOOR / (FLOOR + 1))
    assert score(thing, all_free, thing) == pytest.approx(0, abs=1e-9)
    assert score(thing, all_free, nothing) == pytest.approx(silent)
    assert score(nothing, nothing, nothing) == pytest.approx(3 * silent)
    scores = product_of_evidence(thing, all_free, thing, GRID, size, RING)
    torch.testing.assert_close(argmax(scores, GRID), centres()[at])


def test_as_a_regression_target_it_teaches_a_heat_map_where_the_box_is():
    evidence, middle = solid((7, 5, 3), (7, 5, 3))
    size = torch.tensor([0.7, 0.5, 0.3], dtype=torch.float64)
    scores = torch.zeros(GRID.shape, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([scores], lr=0.2)
    for _ in range(100):
        optimiser.zero_grad()
        centre_surround_loss(scores, evidence.requires_grad_(), GRID, size, RING).backward()
        optimiser.step()
    assert evidence.grad is None
    torch.testing.assert_close(argmax(scores, GRID), middle)
    assert torch.sigmoid(scores.detach()).max() > 0.9


def test_peaks_are_apart_best_first_and_high_enough():
    scores = torch.zeros(GRID.shape)
    scores[2, 3, 4], scores[2, 3, 6], scores[6, 10, 15], scores[6, 2, 17] = 0.9, 0.8, 0.95, 0.4
    positions, values = peaks(scores, GRID, 0.5, 0.3)
    assert values.tolist() == pytest.approx([0.95, 0.9])
    np.testing.assert_allclose(positions, GRID.centres()[[6, 2], [10, 3], [15, 4]], atol=1e-6)
    flat, _ = peaks(torch.ones(GRID.shape), GRID, 0.5, 5.0)
    assert len(flat) == 1
    assert peaks(scores, GRID, 2.0, 0.3)[0].shape == (0, 3)


def test_gradients():
    grid = Grid((0.0, -0.2, 0.1), 0.1, (3, 5, 4))
    random = torch.Generator().manual_seed(2)
    scores = torch.randn(2, *grid.shape, generator=random, dtype=torch.float64)
    evidence = torch.rand(grid.shape, generator=random, dtype=torch.float64)
    dims = torch.tensor([0.17, 0.23, 0.12], dtype=torch.float64)
    yaw = torch.tensor(0.3, dtype=torch.float64)
    at = torch.tensor([0.17, 0.03, 0.24], dtype=torch.float64)
    for value in (scores, evidence, dims, yaw, at):
        value.requires_grad_()

    def product(e, d, y):
        return product_of_evidence(e, 1 - e, e**2, grid, d, 0.13, y)

    check = torch.autograd.gradcheck
    assert check(lambda s: soft_argmax(s, grid, 0.7), scores)
    assert check(lambda s: soft_argmax(s, grid, 0.7, 0.15), scores)
    assert check(lambda s: draw(s, grid, torch.Generator().manual_seed(0), 0.7)[1], scores)
    assert check(lambda e, p: encouragement(e, grid, p), (evidence, at))
    assert check(lambda e, d, y: centre_surround(e, grid, d, 0.13, y), (evidence, dims, yaw))
    assert check(lambda e, d, y: occupancy_error(e, grid, d, 0.13, y), (evidence, dims, yaw))
    assert check(product, (evidence, dims, yaw))
