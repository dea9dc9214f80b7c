"""Trails to things: pose, size, prototype and score of a cart whose path is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moving_boxes import CART_DIMS, Box, recording_of
from moving_cart import NOISE, Ride, cameras, pose_errors, ride, smooth
from protoscene.follow import Appearance, Trail
from protoscene.start import Thing, start


def things(one: Ride, *more: Trail) -> list[Thing]:
    return start(one.recording, [one.trail, *more], one.blobs, NOISE)


def jumping(n: int = 8) -> np.ndarray:
    """Somewhere else, turned otherwise, at every instant."""
    rng = np.random.default_rng(3)
    return np.column_stack([rng.uniform(-0.6, 0.6, (n, 2)), rng.uniform(-3, 3, n)])


def turning(n: int = 9) -> np.ndarray:
    """A quarter turn from one instant to the next."""
    s = np.arange(n)
    return np.stack([0.05 * s, -0.05 * s, 0.3 + s * np.pi / 2], axis=1)


PATHS = {"smooth": smooth(), "jumping": jumping(), "quarter turns": turning()}


@pytest.mark.parametrize("path", PATHS)
def test_poses_and_size_are_found(path: str) -> None:
    one = ride(PATHS[path])
    (thing,) = things(one)
    metres, degrees = pose_errors(thing.poses, one.poses)
    assert metres.max() < 0.003 and degrees.max() < 0.5
    np.testing.assert_allclose(thing.dims, CART_DIMS, atol=0.02)
    np.testing.assert_allclose(thing.poses[:, :3], one.poses[:, :3], atol=0.008)
    assert np.abs(thing.poses[:, 2] - thing.dims[2] / 2).max() < 0.005
    assert thing.instants == list(range(len(one.poses)))
    assert thing.score > 0.9 and thing.misfits.max() < 0.3
    rgba = thing.rgba.numpy()
    assert rgba.min() >= 0 and rgba.max() <= 1
    full = np.argwhere(rgba[3] > 0.5)
    extents = (full.max(axis=0) - full.min(axis=0) + 1)[::-1] * thing.voxel_size
    np.testing.assert_allclose(extents, thing.dims, atol=3 * thing.voxel_size)


def test_one_camera_is_enough_where_the_thing_turns() -> None:
    one = ride(np.column_stack([smooth()[:, :2], np.arange(12) * 0.5]), cameras(1))
    (thing,) = things(one)
    metres, degrees = pose_errors(thing.poses, one.poses)
    assert np.median(metres) < 0.005 and np.median(degrees) < 1
    np.testing.assert_allclose(thing.dims, CART_DIMS, atol=0.03)


def test_a_thing_hidden_in_part_is_registered_all_the_same() -> None:
    """A post stands before it: its own pixels say nothing about the cart's shape behind it."""
    one = ride(smooth(), besides=lambda i: [Box((0.3, 0.5, 0.5), (0.12, 0.12, 1.0), 0, thing=2)])
    (thing,) = things(one)
    metres, degrees = pose_errors(thing.poses, one.poses)
    assert metres.max() < 0.005 and degrees.max() < 1
    np.testing.assert_allclose(thing.dims, CART_DIMS, atol=0.02)


def test_order_of_trails_is_irrelevant_and_the_surest_comes_first() -> None:
    def box(i: int) -> list[Box]:  # hardly moves
        return [Box((-0.5 + 0.004 * i, -0.7, 0.1), (0.3, 0.2, 0.2), 0.3, (40, 40, 210), 2)]

    one = ride(smooth(8), besides=box)
    slow = Trail()
    for blobs in one.blobs:
        slow.add(blobs[1], Appearance.of(blobs[1]))
    first = start(one.recording, [one.trail, slow], one.blobs, NOISE)
    second = start(one.recording, [slow, one.trail], one.blobs, NOISE)
    assert [t.score for t in first] == sorted((t.score for t in first), reverse=True)
    assert first[0].score > 0.9 and first[1].score < 0.5
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.poses, b.poses)
        assert a.score == b.score


def test_seen_but_twice_is_no_thing() -> None:
    one = ride(smooth(6))
    short = Trail()
    for i in (1, 4):
        short.add(one.blobs[i][0], one.trail.seen[i])
    assert start(one.recording, [short], one.blobs, NOISE) == []
    assert start(one.recording, [], one.blobs, NOISE) == []


def test_pixels_that_fit_no_thing_score_low() -> None:
    """The blobs of an instant are of quite different boxes: there is no shape that fits all."""
    rng = np.random.default_rng(0)
    sizes = rng.uniform(0.1, 0.7, (8, 3))
    sizes[::2, 0] *= 2
    path = jumping(8)
    kinds = [
        [Box((x, y, d[2] / 2), tuple(d), yaw, tuple(rng.integers(0, 255, 3).tolist()), 1)]
        for (x, y, yaw), d in zip(path, sizes, strict=True)
    ]
    odd = ride(np.full((8, 3), 9.0), besides=lambda i: kinds[i])
    assert all(t.score < 0.5 for t in things(odd))


def test_instants_without_it_leave_a_gap() -> None:
    one = ride(smooth())
    kept = [i for i in range(12) if i not in (4, 5)]
    trail = Trail({i: one.trail.blobs[i] for i in kept}, {i: one.trail.seen[i] for i in kept})
    (thing,) = things(replace(one, trail=trail))
    assert thing.instants == kept
    metres, _ = pose_errors(thing.poses, one.poses[kept])
    assert metres.max() < 0.003


def test_pixels_that_agree_on_no_surface_are_no_thing() -> None:
    """At the extreme: no picture shows any depth where the trail has its points."""
    one = ride(smooth(4), cameras(1))
    seen = [list(one.recording.views(i)) for i in range(4)]
    blank = [[replace(v, depth=np.zeros_like(v.depth)) for v in views] for views in seen]
    assert things(replace(one, recording=recording_of(blank))) == []
