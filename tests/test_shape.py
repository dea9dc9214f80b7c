"""The box and the prototype of a registered thing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moving_boxes import CART_DIMS, cart
from moving_cart import Ride, pose_errors, ride, smooth
from protoscene.geometry import centred_grid, rotation_from_yaw, wrap_angle
from protoscene.register import Fusion, Model
from protoscene.shape import (
    Shape,
    _hidden_below,
    _is_free,
    closest_box,
    finish,
    ground_below,
    measure,
    prototype_voxel,
    surface_points,
)
from protoscene.symmetry import NEAR

SHIFT, TURN = np.array([0.05, -0.03, 0.02]), 0.6
"""The frame in which the cart was registered is not its own: it may be any."""


@pytest.fixture(scope="module")
def taken() -> Ride:
    return ride(smooth())


def own_poses(poses: np.ndarray) -> np.ndarray:
    """Poses of the registration's frame that put the cart where it truly was."""
    moved = poses.copy()
    moved[:, 3] += TURN
    moved[:, :3] -= np.einsum("nij,j->ni", rotation_from_yaw(moved[:, 3]), SHIFT)
    return moved


def model_of(one: Ride) -> Model:
    fusion = Fusion(one.crops, centred_grid((0.9, 0.9, 0.7), 0.02), 0.08)
    return fusion.add(own_poses(one.poses), np.ones(len(one.poses), bool)).model()


def finished(one: Ride) -> Shape:
    n = len(one.poses)
    return finish(
        one.crops, model_of(one), own_poses(one.poses), list(range(n)), np.ones(n, bool), 0.008
    )


@pytest.fixture(scope="module")
def shape(taken: Ride) -> Shape:
    return finished(taken)


@settings(max_examples=40, deadline=None)
@given(st.floats(-3, 3), st.floats(0.1, 2), st.floats(0.1, 2), st.integers(0, 99))
def test_closest_box_is_the_rectangle_that_was_filled(
    yaw: float, length: float, width: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    place = rng.uniform(-2, 2, 2)
    corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    own = np.concatenate([rng.uniform(-1, 1, (200, 2)), corners]) * [length / 2, width / 2]
    points = own @ rotation_from_yaw(yaw)[:2, :2].T + place
    middle, angle, extents = closest_box(points, 0.0)
    longer, shorter = max(length, width), min(length, width)
    # One-degree steps: half a step off grows the box by that much of the other side.
    slack = 0.01 * longer + 1e-9
    assert longer - slack <= extents[0] <= longer + slack
    assert shorter - slack <= extents[1] <= shorter + slack
    np.testing.assert_allclose(middle, place, atol=slack)
    if longer > 1.1 * shorter:
        off = wrap_angle(2 * (angle - yaw - (0 if length > width else np.pi / 2))) / 2
        assert abs(off) < np.deg2rad(1.5)


def test_surface_points_lie_on_the_surface(taken: Ride) -> None:
    """Each moved onto the zero level: better than the voxels' centres by far."""
    points = surface_points(model_of(taken))
    half = np.array(CART_DIMS) / 2
    own = (points - SHIFT) @ rotation_from_yaw(-TURN)
    assert len(points) > 500
    beyond = (np.abs(own) - half).max(axis=1)
    assert np.quantile(beyond, 0.95) < 0.01
    top = own[:, 2] > 0.9 * half[2]
    assert np.median(np.abs(own[top, 2] - half[2])) < 0.004


def test_surface_that_showed_a_few_times_counts_and_what_showed_once_does_not(taken: Ride) -> None:
    model = model_of(taken)
    often = float(np.median(model.votes[model.votes > 0]))
    top = (model.grid.centres()[..., 2] > SHIFT[2] + 0.1) & (np.abs(model.distance) < 0.03)
    for share, counts in ((0.18, True), (0.08, False)):
        votes = np.where(top & (model.votes > 0), share * often, model.votes)
        points = surface_points(replace(model, votes=votes))
        assert (points[:, 2] > SHIFT[2] + 0.12).any() == counts


def test_a_surface_is_not_free_space(taken: Ride) -> None:
    """Else a seen top, mirrored onto itself, would speak against its own symmetry."""
    model = model_of(taken)
    points = surface_points(model)
    assert _is_free(model, points, NEAR).mean() < 0.01
    above = points + [0, 0, 2 * NEAR * model.grid.voxel_size]
    top = points[:, 2] > SHIFT[2] + 0.9 * CART_DIMS[2] / 2
    assert _is_free(model, above, NEAR)[top].mean() > 0.95


def test_box_is_the_things(taken: Ride) -> None:
    middle, yaw, dims = measure(model_of(taken), taken.crops, own_poses(taken.poses))
    np.testing.assert_allclose(dims, CART_DIMS, atol=0.03)  # voxels are 2 cm
    np.testing.assert_allclose(middle, SHIFT, atol=0.008)
    assert abs(np.rad2deg(wrap_angle(2 * (yaw + TURN)) / 2)) < 1.5


def test_poses_are_of_the_boxs_middle_and_its_nose(shape: Shape, taken: Ride) -> None:
    np.testing.assert_allclose(shape.dims, CART_DIMS, atol=0.02)
    np.testing.assert_allclose(shape.poses[:, :3], taken.poses[:, :3], atol=0.006)
    np.testing.assert_allclose(shape.poses[:, 3], taken.poses[:, 3], atol=np.deg2rad(1))
    metres, degrees = pose_errors(shape.poses, taken.poses)
    assert metres.max() < 1e-3 and degrees.max() < 1e-6  # it moves the frame, not the thing
    bottom = shape.poses[:, 2] - shape.dims[2] / 2
    assert np.abs(bottom).max() < 0.005


def test_nose_points_where_it_went(taken: Ride) -> None:
    """The same pictures in the opposite order: the other end is the nose."""
    path = smooth()[::-1]
    back = ride(path)
    poses = finished(back).poses
    turned = wrap_angle(poses[:, 3] - back.poses[:, 3] - np.pi)
    assert np.abs(turned).max() < np.deg2rad(1)
    steps = np.diff(poses[:, :2], axis=0)
    heading = np.stack([np.cos(poses[:-1, 3]), np.sin(poses[:-1, 3])], axis=1)
    assert ((steps * heading).sum(axis=1) > 0).all()


def test_prototype_fills_its_box_in_its_colours(shape: Shape) -> None:
    rgba, size = shape.rgba.numpy(), shape.voxel_size
    assert rgba.dtype == np.float32 and rgba.min() >= 0 and rgba.max() <= 1
    full = np.argwhere(rgba[3] > 0.5)
    extents = (full.max(axis=0) - full.min(axis=0) + 1)[::-1] * size
    np.testing.assert_allclose(extents, shape.dims, atol=3 * size)
    middle = ((full.max(axis=0) + full.min(axis=0) + 1) / 2 - np.array(rgba.shape[1:]) / 2) * size
    np.testing.assert_allclose(middle, 0, atol=1.5 * size)
    index = np.argwhere(np.ones(rgba.shape[1:], bool))[:, ::-1]
    own = (index + 0.5 - np.array(rgba.shape[:0:-1]) / 2) * size + [0, 0, CART_DIMS[2] / 2]
    beyond = np.min([b.distance(own) for b in cart(0, 0, 0)], axis=0).reshape(rgba.shape[1:])
    assert rgba[3][beyond > 3 * size].mean() < 0.02 and rgba[3][beyond < -2 * size].mean() > 0.9
    # The cab is green and stands at the tail, to the left; the body is red.
    x, y, z = ((full[:, ::-1] + 0.5 - np.array(rgba.shape[:0:-1]) / 2) * size).T
    red, green, _ = rgba[:3, full[:, 0], full[:, 1], full[:, 2]]
    high = z > 0.23 - CART_DIMS[2] / 2
    assert x[high].mean() == pytest.approx(-0.13, abs=0.02)
    assert y[high].mean() == pytest.approx(0.03, abs=0.02)
    surface = np.abs(z - (0.2 - CART_DIMS[2] / 2)) < 0.02
    assert (green > red)[high].mean() > 0.9
    assert (red > green)[surface & (x > 0)].mean() > 0.9


def test_ground_is_found_below_and_only_there(taken: Ride) -> None:
    poses = own_poses(taken.poses)
    found = ground_below(taken.crops, poses, np.array(CART_DIMS), SHIFT[2] - CART_DIMS[2] / 2)
    assert found == pytest.approx(SHIFT[2] - CART_DIMS[2] / 2, abs=0.004)
    assert ground_below(taken.crops, poses, np.array(CART_DIMS), 0.6) is None
    blind = replace(taken.crops, depth=np.zeros_like(taken.crops.depth))
    assert ground_below(blind, poses, np.array(CART_DIMS), -0.16) is None


def test_same_input_same_bytes(shape: Shape) -> None:
    again = finished(ride(smooth()))
    assert torch.equal(again.rgba, shape.rgba)
    np.testing.assert_array_equal(again.poses, shape.poses)


def test_unseen_is_full_right_below_surface_only() -> None:
    """Columns, top first: surface, unseen; surface, free, unseen; unseen alone."""
    full = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool).T[::-1, :, None]
    unseen = np.array([[0, 1, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1]], bool).T[::-1, :, None]
    hidden = np.array([[0, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]], bool).T[::-1, :, None]
    np.testing.assert_array_equal(_hidden_below(full, unseen), hidden)


def test_prototype_is_empty_beyond_its_box(shape: Shape) -> None:
    own = centred_grid(shape.dims, shape.voxel_size, padding=3)
    beyond = (np.abs(own.centres()) > shape.dims / 2).any(axis=-1)
    assert own.shape == shape.rgba.shape[1:]
    assert float(shape.rgba[3].numpy()[beyond].max()) == 0


@pytest.mark.parametrize(
    ("dims", "finest", "voxel"),
    [
        ((0.5, 0.3, 0.36), 0.003, 0.5 / 96),  # small: 96 voxels
        ((0.5, 0.3, 0.36), 0.009, 0.009),  # its pixels are coarser
        ((1.6, 0.8, 0.7), 0.003, 0.0125),
        ((0.5, 0.3, 0.36), 0.03, 0.0125),  # however coarse the pixels
        ((4.0, 1.8, 1.5), 0.003, 0.025),  # no more than 160 voxels
    ],
)
def test_voxels_of_a_prototype(dims: tuple, finest: float, voxel: float) -> None:
    assert prototype_voxel(np.array(dims), finest) == pytest.approx(voxel)
