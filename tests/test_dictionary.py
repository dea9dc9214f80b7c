"""One dictionary: what is alike is recognised and aligned, fused and found again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from cart_portraits import DIMS, UPRIGHT, VOXEL, placed_points, portrayed, thing_of
from moving_boxes import Box, cart
from moving_cart import pose_errors, ride, smooth
from protoscene.crops import joined
from protoscene.dictionary.correlate import Correlator, Imprint
from protoscene.dictionary.find_again import LEAST, Found, shares_agreement, verdict
from protoscene.dictionary.portrait import (
    Agreement,
    inverse,
    of_model,
    placed,
    unplaced,
    zero_level,
)
from protoscene.dictionary.share import (
    ALIKE,
    clusters,
    compared,
    found_anew,
    share,
    similarity,
)
from protoscene.dictionary.unseen import completed
from protoscene.geometry import centred_grid, wrap_angle
from protoscene.register import Fusion
from protoscene.start import Thing


@pytest.mark.parametrize("pose", [(0.06, -0.04, 0, 0.5), (-0.03, 0.05, 0.01, 2.9), (0, 0, 0, -1.7)])
def test_the_turn_and_shift_between_two_are_found(pose: tuple[float, ...]) -> None:
    body = cart(0, 0, 0)
    one, other = portrayed(body, UPRIGHT), portrayed(body, placed(UPRIGHT, np.array(pose)))
    values, poses = compared([one, other])
    assert values[0, 1] == values[1, 0] > 0.9
    assert_allclose(poses[0, 1][:3], pose[:3], atol=0.004)
    assert abs(wrap_angle(poses[0, 1][3] - pose[3])) < np.deg2rad(0.7)
    assert_allclose(placed(poses[0, 1], poses[1, 0])[:3], 0, atol=1e-9)


def test_what_both_did_not_see_is_not_held_against_them() -> None:
    """One saw the left half, the other most of the right one, and turned."""
    pose = np.array([0.02, 0.03, 0, np.pi - 0.2])
    one = portrayed(cart(0, 0, 0), UPRIGHT, hidden=-0.08)
    other = portrayed(cart(0, 0, 0), placed(UPRIGHT, pose), hidden=-0.06)
    values, poses = compared([one, other])
    assert values[0, 1] > 0.6
    assert_allclose(poses[0, 1][:2], pose[:2], atol=0.01)
    assert abs(wrap_angle(poses[0, 1][3] - pose[3])) < np.deg2rad(2)


def test_another_shape_or_other_colours_are_not_alike() -> None:
    body = cart(0, 0, 0)
    plain = Box((0, 0, 0.18), (0.3, 0.15, 0.36), 0, (200, 60, 40))
    blue = [Box(b.centre, b.dims, b.yaw, (40, 60, 230)) for b in body]
    values, _ = compared([portrayed(b, UPRIGHT) for b in (body, [plain], blue)])
    assert values[0, 1] < ALIKE and values[0, 2] < ALIKE and values[1, 2] < ALIKE
    assert values[0, 1] < values[0, 0] == 1


def test_similarity_is_its_formula() -> None:
    assert similarity(Agreement((1.0, 1.0), (0.0, 0.0), smaller=1.0, colour=0.0)) == 1
    assert similarity(Agreement((1.0, 0.0), (0.0, 1.0), smaller=1.0, colour=0.0)) == 0
    third = similarity(Agreement((1.0, 1.0), (1.0, 0.5), smaller=1.0, colour=0.25))
    assert third == pytest.approx(np.exp(-1) / 3)
    assert similarity(Agreement((0.15, 0.2), (0, 0), 1.0, 0.0)) == pytest.approx(0.5)


def test_clusters_are_as_many_as_there_are() -> None:
    values = np.full((5, 5), 0.1)
    values[np.ix_([0, 3], [0, 3])] = values[np.ix_([1, 2], [1, 2])] = 0.8
    values[4, 4] = 1
    assert sorted(clusters(values)) == [[0, 3], [1, 2], [4]]
    assert clusters(np.ones((1, 1))) == [[0]] and clusters(np.ones((0, 0))) == []
    # A chain: 0 is like 1 and 1 like 2, but on average 2 is not like the two.
    chain = np.array([[1, 0.9, 0.05], [0.9, 1, 0.5], [0.05, 0.5, 1]])
    assert sorted(clusters(chain)) == [[0, 1], [2]]


def test_correlation_is_the_sum_it_stands_for() -> None:
    rng = np.random.default_rng(0)

    def masks(*shape: int) -> Imprint:
        return Imprint(*((rng.random(shape) < 0.4).astype(np.float32) for _ in range(3)))

    fixed, turned = masks(4, 7, 9), masks(3, 4, 5)
    correlator = Correlator(fixed)
    maps = correlator.maps(correlator.turned(turned))
    pairs = ((fixed.thick, turned.surface), (fixed.free, turned.surface),
             (fixed.surface, turned.free))  # fmt: skip
    for got, (a, b) in zip(maps, pairs, strict=True):
        for dy in range(7):
            for dx in range(9):
                moved = np.roll(a[:3], (-dy, -dx), axis=(1, 2))[:, :4, :5]
                assert got[dy, dx] == pytest.approx(float((moved * b).sum()), abs=1e-3)


def test_agreement_is_its_formula() -> None:
    assert shares_agreement(1.0, 0.0, 0.0, 0.0) == pytest.approx(1)
    assert shares_agreement(0.4, 0.4, 0.2, 0.0) == pytest.approx(1 / 4)
    assert shares_agreement(0.15, 0.0, 0.0, 0.2) == pytest.approx(0.5 * np.exp(-1))
    assert Found(0, np.zeros(4), LEAST, np.ones(1, bool)).score == pytest.approx(0.5)


def test_what_was_grazed_is_not_free_at_its_surface() -> None:
    """Rays that pass right beside a side make all before it fully free: 2 cm off, all of a side
    would lie in free space. Another shape still does."""
    whole, middle = portrayed(cart(0, 0, 0), UPRIGHT), np.zeros(4)
    grazed = np.where(whole.model.distance > 0.005, 0.08, whole.model.distance)
    own = of_model(replace(whole.model, distance=grazed), DIMS, zero_level(whole.model))
    shifted = portrayed(cart(0, 0.02, 0), UPRIGHT)
    assert verdict(own, whole, middle) > 0.95
    assert verdict(own, shifted, middle) > 0.8
    longer = portrayed(
        [*cart(0, 0, 0), Box((0, 0, 0.3), (0.5, 0.3, 0.2), 0, (200, 60, 40))], UPRIGHT
    )
    assert verdict(own, longer, middle) < 0.5


def test_the_unseen_half_is_the_mirror_image() -> None:
    """What was seen from the left only agrees with what is seen from the right only."""
    body = [Box((0, 0, 0.1), (0.5, 0.3, 0.2), 0, (200, 60, 40)),
            Box((-0.13, 0, 0.28), (0.18, 0.2, 0.16), 0, (60, 160, 70))]  # fmt: skip
    half_turn = np.array([0, 0, 0, np.pi])
    left = portrayed(body, UPRIGHT, hidden=0.0)
    right = portrayed(body, placed(UPRIGHT, half_turn), hidden=0.02)
    whole = completed(left).portrait
    assert verdict(left, right, half_turn) < LEAST < 0.9 < verdict(whole, right, half_turn)
    true = portrayed(body, UPRIGHT).model
    both = (whole.model.votes > 0) & (true.votes > 0)
    assert both.sum() > 1.9 * ((left.model.votes > 0) & (true.votes > 0)).sum()
    assert_allclose(whole.model.distance[both], true.distance[both], atol=1e-9)
    assert len(whole.points) > 1.8 * len(left.points)


def test_no_mirror_image_where_free_space_forbids_it() -> None:
    """A corner, of which all but a strip was seen."""
    corner = [Box((0, 0.1, 0.18), (0.5, 0.1, 0.36), 0, (200, 60, 40)),
              Box((0.2, -0.05, 0.18), (0.1, 0.2, 0.36), 0, (40, 60, 200))]  # fmt: skip
    seen = portrayed(corner, UPRIGHT, hidden=-0.1)
    assert completed(seen).portrait is seen


def test_a_side_that_nobody_saw_may_be_where_the_box_ends() -> None:
    """Seen from the front, and from behind: what is there of its back confirms a box, and what
    stands where it should end does not."""
    body = Box((0, 0, 0.18), (0.3, 0.3, 0.36), 0, (200, 60, 40))
    dims, end = np.array([0.3, 0.3, 0.36]), placed(UPRIGHT, np.array([0, 0, 0, np.pi / 2]))
    front = portrayed([body], UPRIGHT, dims=dims)
    seen = front.model.grid.centres()[..., 0] > -0.1
    model = replace(front.model, votes=front.model.votes * seen,
                    coloured=front.model.coloured * seen)  # fmt: skip
    own = completed(of_model(model, dims, zero_level(model)))
    back = portrayed([body], end, hidden=0.12, dims=dims)
    turned = np.array([0, 0, 0, -np.pi / 2])
    assert verdict(own.portrait, back, turned) < 0.6 * verdict(
        own.portrait, back, turned, own.sides
    )
    on_box = np.abs(np.abs(own.sides[:, 0]) - 0.15) < VOXEL
    assert (on_box & (own.sides[:, 0] < 0)).sum() > 20
    assert (own.sides[:, 0] < -0.08).all() and (np.abs(own.sides) <= dims / 2 + VOXEL).all()


def test_frames_follow_each_other_and_back() -> None:
    rng = np.random.default_rng(1)
    pose, points = rng.normal(size=4), rng.normal(size=(5, 3))
    assert_allclose(unplaced(placed_points(points, pose), pose), points, atol=1e-12)
    assert_allclose(placed_points(unplaced(points, pose), pose), points, atol=1e-12)
    assert_allclose(placed(pose, inverse(pose)), 0, atol=1e-12)
    other = rng.normal(size=4)
    both = placed(pose[None], other)[0]
    assert_allclose(placed_points(points, both), placed_points(placed_points(points, other), pose))


def test_joined_pictures_fuse_like_the_parts_one_after_the_other() -> None:
    one, other = ride(smooth(3)), ride(smooth(3)[::-1] + [0.1, 0, 0])
    both, grid = joined([one.crops, other.crops]), centred_grid((0.7, 0.7, 0.5), 0.03)
    chosen = np.array([True, False, True])
    separate = Fusion(one.crops, grid, 0.12).add(one.poses, chosen).model()
    second = Fusion(other.crops, grid, 0.12).add(other.poses, chosen).model()
    poses = np.concatenate([one.poses, other.poses])
    together = Fusion(both, grid, 0.12).add(poses, np.tile(chosen, 2)).model()
    assert_allclose(together.votes, separate.votes + second.votes)
    total = separate.distance * separate.votes + second.distance * second.votes
    assert_allclose(together.distance * together.votes, total, atol=1e-9)
    for i in range(3):
        assert_array_equal(both.own_points(3 + i), other.crops.own_points(i))


def test_what_is_alone_stays_as_it_is() -> None:
    lonely, unseen = thing_of(), thing_of()
    kinds = share([lonely, unseen])
    assert [k.members for k in kinds] == [(0,), (1,)]
    assert kinds[0].things[0] is lonely and kinds[0].rgba is lonely.rgba
    assert share([]) == []


def tracked(path: np.ndarray, turned: float, misfit: float) -> Thing:
    """A cart's ride, its instants turned this way and that by ``turned`` rad."""
    true = ride(path)
    poses = true.poses + np.outer((-1.0) ** np.arange(len(path)), [0, 0, 0, turned])
    return Thing(list(range(len(path))), DIMS, poses, np.full(len(path), misfit),
                 torch.rand(4, 5, 5, 5), 0.1, 0.9, true.crops)  # fmt: skip


WELL = tracked(smooth(8), 0, 0.1)
BACK = smooth(8)[::-1] * [1, -1, 1] + [0.1, 0.1, 1.0]


def test_what_is_tracked_well_is_fused_and_the_best_keeps_its_poses() -> None:
    (kind,) = share([tracked(BACK, 0.05, 0.2), WELL])
    assert kind.members == (1, 0)
    best, other = kind.things
    for got, true in ((best.poses, WELL.poses), (other.poses, ride(BACK).poses)):
        metres, degrees = pose_errors(got, true)
        assert metres.max() < 0.01 and degrees.max() < 1.0
    assert pose_errors(best.poses, WELL.poses)[1].max() < 1e-6
    assert best.rgba is kind.rgba is not WELL.rgba
    assert_allclose(kind.dims, DIMS, atol=0.03)


def test_what_is_tracked_badly_spoils_nobody_and_is_found_anew_on_its_kind() -> None:
    bad = tracked(BACK, 0.6, 0.3)
    (kind,) = share([bad, WELL])
    assert kind.members == (1, 0) and kind.rgba is WELL.rgba
    best, left_out = kind.things
    assert best is WELL
    assert left_out.rgba is WELL.rgba and left_out.dims is WELL.dims
    metres, degrees = pose_errors(left_out.poses, ride(BACK).poses)
    assert metres.max() < 0.02 and degrees.max() < 2.0


def test_what_its_kind_does_not_explain_stays_where_it_was() -> None:
    (kind,) = share([tracked(BACK, 0.6, 0.3), WELL])
    certain = tracked(BACK, 0.6, -1.0)
    assert found_anew(certain, kind) is certain


def test_a_third_is_fused_though_the_second_is_left_out() -> None:
    third = tracked(smooth(8) * [-1, 1, -1] + [0, 0, np.pi], 0, 0.4)
    (kind,) = share([WELL, tracked(BACK, 0.6, 0.3), third])
    assert kind.members == (0, 2, 1) and kind.rgba is not WELL.rgba
    assert kind.things[1].rgba is kind.rgba
