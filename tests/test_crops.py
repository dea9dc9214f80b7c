"""The pictures around a thing: nothing of it is cut off, and every pixel has its owner."""

from __future__ import annotations

import numpy as np
import pytest

from moving_boxes import Box, camera
from moving_cart import Ride, ride, smooth
from protoscene.crops import BACKGROUND, OTHER, OWN, POINTS, Crops
from protoscene.geometry import rigid_inverse


def other(i: int) -> list[Box]:
    return [Box((0.3, -0.5, 0.15), (0.2, 0.2, 0.3), 0.3, (40, 40, 210), thing=2)]


@pytest.fixture(scope="module")
def taken() -> tuple[Ride, Crops]:
    one = ride(smooth(4), besides=other)
    return one, one.crops


def test_windows_hold_what_the_pictures_hold(taken: tuple[Ride, Crops]) -> None:
    one, crops = taken
    assert crops.n_instants == 4 and len(crops.window) == 12
    for c, (i, row, column, height, width, offset) in enumerate(crops.window):
        view = list(one.recording.views(int(i)))[c % 3]
        there = (slice(row, row + height), slice(column, column + width))
        flat = slice(offset, offset + height * width)
        np.testing.assert_array_equal(crops.depth[flat], view.depth[there].ravel())
        np.testing.assert_array_equal(crops.colour[flat], view.colour[there].reshape(-1, 3))
        whose = np.full(view.depth.shape, BACKGROUND)
        for label, blob in ((OTHER, one.blobs[i][1]), (OWN, one.blobs[i][0])):
            whose[tuple(blob.pixels[blob.pixels[:, 0] == c % 3, 1:].T)] = label
        np.testing.assert_array_equal(crops.label[flat], whose[there].ravel())
        # The window holds all own pixels and a margin of what is around them.
        assert (crops.label[flat] == OWN).sum() == (whose == OWN).sum()
        edge = np.ones((height, width), bool)
        edge[1:-1, 1:-1] = False
        assert (whose[there][edge] != OWN).all()
        world = view.camera
        np.testing.assert_allclose(crops.pose[c], rigid_inverse(world.world_from_camera)[:3])
        assert crops.pinhole[c].tolist() == [
            world.fx, world.fy, world.cx, world.cy, world.width, world.height
        ]  # fmt: skip
    assert len(crops.depth) == crops.window[:, 3:5].prod(axis=1).sum()
    assert [crops.of(i).tolist() for i in range(4)] == [
        [0, 1, 2],
        [3, 4, 5],
        [6, 7, 8],
        [9, 10, 11],
    ]


def test_points_are_evenly_chosen_own_pixels(taken: tuple[Ride, Crops]) -> None:
    one, crops = taken
    for i in range(4):
        blob, points = one.blobs[i][0], crops.own_points(i)
        assert len(points) == min(POINTS, len(blob.points))
        known = set(map(tuple, blob.points.tolist()))
        assert all(tuple(p) in known for p in points.tolist())
        np.testing.assert_allclose(points.mean(axis=0), blob.points.mean(axis=0), atol=0.01)
    assert crops.point_colour.min() >= 0 and crops.point_colour.max() <= 1


def test_windows_stay_in_the_picture_and_need_the_thing_in_front() -> None:
    """One camera sees it at its very edge; one stands in the midst of it, sees nothing of it, and
    is left out."""
    edge, within = (
        camera((1.2, -0.9, 0.8), (1.2, 0.4, 0)),
        camera((-0.4, 0.05, 0.2), (1, 0.05, 0.2)),
    )
    front = camera((0.2, 1.5, 1.0), (-0.4, 0, 0))
    crops = ride(smooth(3)[:2], [front, edge, within]).crops
    first, size = crops.window[:, 1:3], crops.window[:, 3:5]
    assert (first >= 0).all() and (size > 0).all()
    assert (first + size <= crops.pinhole[:, [5, 4]]).all()
    eyes = -np.einsum("cji,cj->ci", crops.pose[:, :, :3], crops.pose[:, :, 3])
    assert not (np.abs(eyes - within.centre) < 1e-6).all(axis=1).any()
    assert (np.abs(eyes - front.centre) < 1e-6).all(axis=1).sum() == 2


def test_a_thing_right_before_the_camera_is_cut_from_the_whole_picture() -> None:
    """The space around it reaches behind the camera, where nothing can be projected."""
    close = camera((0, 0, 0.5), (1, 0, 0.45))
    wide = [Box((1.0, 0.1, 0.45), (0.5, 1.0, 0.9), thing=3)]
    one = ride(np.full((3, 3), 9.0), [close], besides=lambda i: wide)
    crops = one.crops
    assert crops.window[:, 1:5].tolist() == [[0, 0, close.height, close.width]] * 3
    assert (crops.label == OWN).sum() == sum(len(b[0].points) for b in one.blobs)
