"""Colours read anew from pictures: the thing's own, sharp, and the same every time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moving_boxes import CART_DIMS
from moving_cart import Ride, ride, smooth
from protoscene.crops import OWN
from protoscene.paint import paint


@pytest.fixture(scope="module")
def taken() -> Ride:
    return ride(smooth())


def top(n: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Points on the body's top before the cab, away from its edges, and their normals."""
    x, y = np.meshgrid(np.linspace(0.05, 0.2, n), np.linspace(-0.1, 0.1, n))
    z = np.full(x.size, 0.2 - CART_DIMS[2] / 2)
    return np.stack([x.ravel(), y.ravel(), z], axis=1), np.tile([0.0, 0.0, 1.0], (x.size, 1))


def painted(one: Ride, crops=None) -> tuple[np.ndarray, np.ndarray]:
    crops = crops or one.crops
    return paint(crops, one.poses, np.ones(len(one.poses), bool), *top(), 0.01)


def test_a_surface_has_the_colour_that_was_seen(taken: Ride) -> None:
    colours, seen = painted(taken)
    assert seen.all()
    np.testing.assert_allclose(255 * colours, np.tile([184, 55, 36], (len(colours), 1)), atol=1)


def test_print_comes_back_sharp(taken: Ride) -> None:
    """Stripes of 3 cm in every picture, in the thing's own frame: each point has its stripe's."""
    crops = taken.crops
    colour = crops.colour.copy()
    for c, (i, row0, column0, height, width, offset) in enumerate(crops.window):
        fx, fy, cx, cy = crops.pinhole[c, :4]
        part = slice(offset, offset + height * width)
        at = crops.depth[part].astype(float)
        rows, columns = np.divmod(np.arange(height * width), width)
        camera = np.stack([(columns + column0 + 0.5 - cx) / fx * at,
                           (rows + row0 + 0.5 - cy) / fy * at, at], axis=1)  # fmt: skip
        world = (camera - crops.pose[c, :, 3]) @ crops.pose[c, :, :3] - taken.poses[i, :3]
        own = np.cos(taken.poses[i, 3]) * world[:, 0] + np.sin(taken.poses[i, 3]) * world[:, 1]
        colour[part] = np.where((np.floor(own / 0.03) % 2)[:, None] == 1, 250, 20)
    colours, seen = painted(taken, replace(crops, colour=colour))
    x = top()[0][:, 0] / 0.03
    inner = seen & (np.abs(x - np.round(x)) > 0.3)  # a pixel covers 1 to 2 cm
    stripe = np.where(np.floor(x) % 2 == 1, 250, 20) / 255
    assert inner.sum() > 30
    assert (np.abs(colours[:, 0] - stripe)[inner] < 0.25).mean() > 0.95


def test_colours_never_come_from_what_hides_it(taken: Ride) -> None:
    """Something black stands before the thing in half of the pictures, and others' pixels are
    white: neither leaves a trace."""
    crops = taken.crops
    hidden = np.zeros(len(crops.depth), bool)
    for c, (_, _, _, height, width, offset) in enumerate(crops.window):
        hidden[offset : offset + height * width] = c % 2 == 0
    depth = np.where(hidden, crops.depth - 0.3, crops.depth).astype(np.float32)
    colour = np.where(hidden[:, None], 0, crops.colour).astype(np.uint8)
    colour[crops.label != OWN] = 255
    colours, seen = painted(taken, replace(crops, depth=depth, colour=colour))
    assert seen.all()
    np.testing.assert_allclose(255 * colours, np.tile([184, 55, 36], (len(colours), 1)), atol=1)


def test_one_bad_picture_leaves_no_trace(taken: Ride) -> None:
    crops = taken.crops
    colour = crops.colour.copy()
    colour[crops.window[3, 5] : crops.window[4, 5]] = [0, 255, 0]
    np.testing.assert_allclose(painted(taken, replace(crops, colour=colour))[0], painted(taken)[0],
                               atol=1e-6)  # fmt: skip


def test_what_no_picture_shows_has_no_colour(taken: Ride) -> None:
    points, normals = top()
    everything = np.ones(len(taken.poses), bool)
    assert not paint(taken.crops, taken.poses, everything, points, -normals, 0.01)[1].any()
    assert not paint(taken.crops, taken.poses, ~everything, points, normals, 0.01)[1].any()


def test_same_input_same_bytes(taken: Ride) -> None:
    np.testing.assert_array_equal(painted(taken)[0], painted(taken)[0])
