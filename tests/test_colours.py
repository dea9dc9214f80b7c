"""Colours fitted to pictures: drawn again the thing looks as recorded, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import numba
import numpy as np
import pytest
import torch

from moving_boxes import CART_DIMS
from moving_cart import Ride, ride, smooth
from protoscene.colours import fitted
from protoscene.crops import OWN, Crops
from protoscene.geometry import Grid, centred_grid
from protoscene.layers import _seen_from
from protoscene.register import Fusion
from protoscene.render import render
from protoscene.volume import Volume

STRIPE_M = 0.04


@pytest.fixture(scope="module")
def taken() -> Ride:
    return ride(smooth(8))


def own_x(one: Ride, crops: Crops) -> np.ndarray:
    """Of every pixel of all crops, where along the thing it lies."""
    found = np.zeros(len(crops.depth))
    for c, (i, row0, column0, height, width, offset) in enumerate(crops.window):
        fx, fy, cx, cy = crops.pinhole[c, :4]
        part = slice(offset, offset + height * width)
        at = crops.depth[part].astype(float)
        rows, columns = np.divmod(np.arange(height * width), width)
        camera = np.stack([(columns + column0 + 0.5 - cx) / fx * at,
                           (rows + row0 + 0.5 - cy) / fy * at, at], axis=1)  # fmt: skip
        world = (camera - crops.pose[c, :, 3]) @ crops.pose[c, :, :3] - one.poses[i, :3]
        found[part] = np.cos(one.poses[i, 3]) * world[:, 0] + np.sin(one.poses[i, 3]) * world[:, 1]
    return found


def striped(one: Ride) -> Crops:
    """The crops as if the thing had stripes across."""
    crops = one.crops
    light = np.floor(own_x(one, crops) / STRIPE_M) % 2 == 1
    return replace(
        crops, colour=np.where(light[:, None], [230, 180, 90], [20, 40, 60]).astype("u1")
    )


def grey(one: Ride, crops: Crops) -> tuple[np.ndarray, Grid]:
    """The thing's fused volume, all of one colour."""
    grid = centred_grid(np.array(CART_DIMS), 0.0125, padding=3)
    every = np.ones(len(one.poses), bool)
    model = Fusion(crops, grid, 0.04).add(one.poses, every).model()
    occupancy = np.clip(0.5 - model.distance / grid.voxel_size, 0, 1) * (model.votes > 0)
    return np.concatenate([np.full((3, *grid.shape), 0.5), occupancy[None]]).astype("f4"), grid


def error(one: Ride, crops: Crops, rgba: np.ndarray, grid: Grid) -> float:
    """Mean squared error of the own pixels, drawn by the renderer."""
    volume, off = Volume(torch.from_numpy(rgba), grid), []
    for i, row0, column0, height, width, offset in crops.window:
        frames = one.recording.frames_at(int(i))
        k = int(np.flatnonzero(crops.window[crops.window[:, 0] == i][:, 5] == offset)[0])
        camera = one.recording.frames[frames[k]].camera
        part = replace(camera, width=int(width), height=int(height), cx=camera.cx - float(column0),
                       cy=camera.cy - float(row0))  # fmt: skip
        pose = one.poses[int(i)]
        with torch.no_grad():
            picture = render(volume, _seen_from(part, pose[:3], float(pose[3])))
        pixels = slice(int(offset), int(offset + height * width))
        shown = (picture.opacity.numpy().ravel() > 0.5) & (crops.label[pixels] == OWN)
        drawn = picture.colour.numpy().reshape(-1, 3)[shown] / picture.opacity.numpy().ravel()[
            shown, None
        ]  # fmt: skip
        off.append(((drawn - crops.colour[pixels][shown] / 255) ** 2).mean(axis=1))
    return float(np.concatenate(off).mean())


def fit(
    one: Ride, crops: Crops, chosen: slice = slice(None)
) -> tuple[np.ndarray, np.ndarray, Grid]:
    before, grid = grey(one, one.crops)
    every = np.zeros(len(one.poses), bool)
    every[chosen] = True
    return before, fitted(before, grid, crops, one.poses, every), grid


def test_drawn_again_it_looks_as_recorded(taken: Ride) -> None:
    crops = striped(taken)
    before, after, grid = fit(taken, crops)
    assert error(taken, crops, after, grid) < 0.15 * error(taken, crops, before, grid)
    assert after.min() >= 0 and after.max() <= 1 and after.dtype == before.dtype


def test_pictures_left_out_look_better_too(taken: Ride) -> None:
    crops = striped(taken)
    before, after, grid = fit(taken, crops, slice(0, None, 2))
    others = crops.window[:, 0] % 2 == 1
    left = replace(crops, window=crops.window[others], pose=crops.pose[others],
                   pinhole=crops.pinhole[others])  # fmt: skip
    assert error(taken, left, after, grid) < 0.3 * error(taken, left, before, grid)


def test_only_colours_of_what_is_there_change(taken: Ride) -> None:
    before, after, _ = fit(taken, striped(taken))
    np.testing.assert_array_equal(after[3], before[3])
    changed = (after[:3] != before[:3]).any(axis=0)
    assert changed.any() and not changed[before[3] == 0].any()


def test_no_pictures_no_change(taken: Ride) -> None:
    before, after, _ = fit(taken, striped(taken), slice(0, 0))
    np.testing.assert_array_equal(after, before)


def test_what_hides_it_leaves_no_trace(taken: Ride) -> None:
    crops = striped(taken)
    hidden = np.zeros(len(crops.depth), bool)
    for c, (_, _, _, height, width, offset) in enumerate(crops.window):
        hidden[offset : offset + height * width] = c % 3 == 0
    depth = np.where(hidden, crops.depth - 0.5, crops.depth).astype(crops.depth.dtype)
    colour = np.where(hidden[:, None] | (crops.label != OWN)[:, None], 255, crops.colour)
    window = crops.window[np.arange(len(crops.window)) % 3 != 0]
    seen = np.isin(np.arange(len(crops.pose)) % 3, [1, 2])
    without = replace(crops, window=window, pose=crops.pose[seen], pinhole=crops.pinhole[seen])
    _, dirty, _ = fit(taken, replace(crops, depth=depth, colour=colour.astype(np.uint8)))
    _, clean, _ = fit(taken, without)
    np.testing.assert_allclose(dirty, clean, atol=1e-4)


def test_same_bytes_with_any_number_of_threads(taken: Ride) -> None:
    crops, threads = striped(taken), numba.get_num_threads()
    _, several, _ = fit(taken, crops)
    try:
        numba.set_num_threads(1)
        np.testing.assert_array_equal(fit(taken, crops)[1], several)
    finally:
        numba.set_num_threads(threads)
