"""What stays and what is new, against plain numpy and against worlds that are known exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from moving_boxes import FLOOR, Box, holes, record, ring, views_of
from protoscene.background import (
    BEFORE,
    BEHIND,
    BINS,
    MARGIN_M,
    NEW,
    PRESENT_SHARE,
    SURE,
    Static,
    StaticSurface,
    estimate_background,
    static_surface,
    subtract,
)
from protoscene.geometry import Camera, Grid
from protoscene.observe import ViewStack, depth_noise, signed_distance
from protoscene.propose import propose
from protoscene.recording import Recording, View

GRID = Grid((-1.2, -1.2, -0.13), 0.05, (18, 48, 48))
STAYS = Box((-0.4, 0.4, 0.25), (0.4, 0.4, 0.5), 0.4, (60, 60, 220), thing=1)
N = 40


def leaves(i: int) -> Box:
    """Stands still for 32 of 40 instants, then is somewhere else."""
    x, y = (0.3, -0.5) if i < 32 else (0.6 + 0.03 * (i - 32), 0.5)
    return Box((x, y, 0.2), (0.4, 0.3, 0.4), 0.2, thing=2)


def moving_cameras(i: int) -> list[Camera]:
    return ring(2, turn=0.4 + 0.04 * i, above=1.5 + 0.01 * i)


RIGS = [pytest.param(ring(2), id="fixed"), pytest.param(moving_cameras, id="moving")]


@pytest.mark.parametrize("holey", [0.0, 0.3])
@pytest.mark.parametrize("cameras", RIGS)
def test_what_leaves_is_not_part_of_the_surface_and_what_stays_is(cameras, holey: float) -> None:
    recording = record(N, cameras, lambda i: [STAYS, leaves(i)], holes(holey))
    surface = static_surface(recording, GRID)
    centres, distance = GRID.centres(), surface.distance
    stood = leaves(0).distance(centres) < -0.05
    assert np.isfinite(distance[stood]).mean() > 0.5
    assert (np.nan_to_num(distance[stood], nan=1.0) > 0).mean() > 0.98

    truth = np.minimum(STAYS.distance(centres), centres[..., 2])
    just_inside = (truth < -0.02) & (truth > -0.06) & np.isfinite(distance)
    just_outside = (truth > 0.05) & np.isfinite(distance)
    assert just_inside.sum() > 1000 and (distance[just_inside] < 0).mean() > 0.97
    assert just_outside.sum() > 5000 and (distance[just_outside] > 0).mean() > 0.99


def test_holes_that_flicker_hardly_move_the_surface() -> None:
    def boxes(i: int) -> list[Box]:
        return [STAYS, leaves(i)]

    whole = static_surface(record(N, ring(2), boxes), GRID).distance
    holey = static_surface(record(N, ring(2), boxes, holes(0.3)), GRID).distance
    assert np.isfinite(holey[np.isfinite(whole)]).mean() > 0.995
    both = np.isfinite(whole) & np.isfinite(holey)
    assert (np.abs(whole - holey)[both] < 0.5 * GRID.voxel_size).mean() > 0.9


def test_surface_is_the_quantile_over_time() -> None:
    """Of what is clipped to the distances told apart, to one bin."""
    grid = Grid((-0.9, -0.8, -0.3), 0.11, (9, 11, 13))
    recording = record(11, moving_cameras, lambda i: [leaves(32 + i % 4)], holes(0.4))
    voxel, distances = grid.voxel_size, []
    for i in range(len(recording)):
        views = ViewStack.of(recording.views(i))
        distances.append(
            signed_distance(grid.origin, voxel, grid.shape, views.depth, views.pose,
                            views.pinhole, BEHIND * voxel)
        )  # fmt: skip
    seen = np.sort(np.clip(distances, -BEHIND * voxel, BEFORE * voxel), axis=0)  # NaN comes last
    votes = np.isfinite(seen).sum(axis=0)
    place = PRESENT_SHARE * np.maximum(votes - 1, 0)
    below, above = (
        np.take_along_axis(seen, f(place).astype(int)[None], 0)[0] for f in (np.floor, np.ceil)
    )
    got = static_surface(recording, grid).distance
    np.testing.assert_array_equal(np.isnan(got), votes == 0)
    known = votes > 0
    assert 0.3 < known.mean() < 1
    bin_width = (BEFORE + BEHIND) / BINS * voxel + 1e-5
    assert (got[known] >= below[known] - bin_width).all()
    assert (got[known] <= above[known] + bin_width).all()


def trilinear(surface: StaticSurface, points: np.ndarray) -> np.ndarray:
    """NaN outside of the outermost voxel centres and beside a NaN."""
    index = surface.grid.index_from_world(points)
    low = np.floor(index).astype(int)
    inside = ((low >= 0) & (low < np.array(surface.grid.shape[::-1]) - 1)).all(axis=-1)
    low[~inside] = 0
    share, value = index - low, np.zeros(points.shape[:-1])
    for corner in np.ndindex(2, 2, 2):
        weight = np.where(np.array(corner) == 1, share, 1 - share).prod(axis=-1)
        x, y, z = np.moveaxis(low + corner, -1, 0)
        value += weight * surface.distance[z, y, x]
    return np.where(inside, value, np.nan)


def slow_subtract(view: View, static: Static) -> np.ndarray:
    """For a sensor without noise, whose share of the margin is tested below."""
    assert static.noise == 0
    far = MARGIN_M + 0.5 * view.depth / view.camera.fx  # half of what a pixel covers
    at = trilinear(static.surface, view.camera.unproject(view.depth))
    behind = trilinear(static.surface, view.camera.unproject(view.depth + far))
    new = (view.depth > 0) & ((behind > 0) | (np.isnan(behind) & (at > far)))
    if view.camera_name in static.pixel_depth:
        stays = static.pixel_depth[view.camera_name]
        new &= (stays == 0) | (view.depth < stays - MARGIN_M)
    return new & (ndimage.convolve(new.astype(int), np.ones((3, 3)), mode="constant") >= 5)


def random_world() -> tuple[Recording, Static]:
    """Smooth random distances with places never seen, cameras inside and outside of the grid."""
    rng = np.random.default_rng(0)
    recording = record(2, ring(2, radius=1.3), lambda i: [STAYS, leaves(33 + i)], holes(0.2))
    distance = ndimage.gaussian_filter(rng.normal(size=GRID.shape), 2)
    distance = (0.15 * distance / distance.std()).astype(np.float32)
    distance[ndimage.gaussian_filter(rng.normal(size=GRID.shape), 2) > 0.06] = np.nan
    static = estimate_background(recording, GRID)
    surface = StaticSurface(distance, GRID)
    return recording, replace(static, surface=surface, pixel_depth={}, noise=0.0)


def test_new_pixels_agree_with_plain_numpy() -> None:
    recording, static = random_world()
    rng = np.random.default_rng(1)
    for history in (False, True):
        for i in range(2):
            views = list(recording.views(i))
            if history:
                stays = rng.uniform(0, 4, views[0].depth.shape).astype(np.float32)
                stays[stays < 1] = 0
                static = replace(static, pixel_depth={"c0": stays})
            for view, mask in zip(views, subtract(views, static), strict=True):
                expected = slow_subtract(view, static)
                assert 0.02 < expected.mean() < 0.8
                np.testing.assert_array_equal(mask > 0, expected)


def test_margin_grows_with_the_sensors_noise() -> None:
    """A wall at 3 m, and a plane that comes from it towards the camera: new from where its
    distance is the margin, which lies between none and three standard deviations more."""
    _, static = random_world()
    wide = replace(ring(1)[0], width=400)
    depth = np.tile(np.linspace(2.5, 3, 400, dtype=np.float32), (72, 1))
    view = View(wide, "c0", 0.0, np.zeros((72, 400, 3), np.uint8), depth)
    free = StaticSurface(np.full(GRID.shape, 0.2, np.float32), Grid((-9, -9, -9), 1, GRID.shape))
    wall, gaps = np.full(depth.shape, 3.0, np.float32), []
    for noise in (0.0, 1.0, 2.0, 4.0):
        (mask,) = subtract([view], replace(static, surface=free, pixel_depth={"c0": wall},
                                           noise=noise))  # fmt: skip
        assert mask[30, 0] and not mask[30, -1]
        gaps.append(float(3 - depth[30][mask[30] > 0].max()))
        sigma = noise * float(depth_noise(np.array(3 - gaps[-1])))
        assert MARGIN_M - 0.003 <= gaps[-1] <= MARGIN_M + 3 * sigma + 0.003
    assert (np.diff(gaps) > 0.005).all()


@pytest.mark.parametrize("cameras", RIGS)
def test_new_pixels_are_the_movers_down_to_its_feet(cameras) -> None:
    def rig(i: int) -> list[Camera]:
        return [one.scaled(2) for one in (cameras(i) if callable(cameras) else cameras)]

    recording = record(N, rig, lambda i: [STAYS, leaves(i)], holes(0.02))
    static = estimate_background(recording, GRID)
    for i in (5, 34, 39):
        _, things = views_of(rig(i), [STAYS, leaves(i)])
        views = list(recording.views(i))
        marks: dict[str, list[np.ndarray]] = {"own": [], "feet": []}
        for view, thing, mask in zip(views, things, subtract(views, static), strict=True):
            own = (thing == 2) & (view.depth > 0)
            assert (mask[thing == FLOOR] > 0).mean() < 0.005
            # Where a camera moves, what it sees aslant may look new, but never surely so.
            assert (mask[thing == 1] == SURE).mean() < 0.01
            assert callable(cameras) or (mask[thing == 1] > 0).mean() < 0.02
            assert (mask[view.depth == 0] == 0).all()
            height = view.camera.unproject(view.depth)[..., 2]
            marks["own"].append(mask[own])
            marks["feet"].append(mask[own & (height > 0.03) & (height < 0.08)])
        assert (np.concatenate(marks["own"]) > 0).mean() > 0.9
        assert (np.concatenate(marks["own"]) == SURE).mean() > 0.5
        assert (np.concatenate(marks["feet"]) > 0).mean() > 0.8


def test_masks_hold_nothing_but_old_new_and_sure() -> None:
    recording, static = random_world()
    views = list(recording.views(0))
    for view, mask in zip(views, subtract(views, static), strict=True):
        assert mask.dtype == np.uint8 and mask.shape == view.depth.shape
        assert set(np.unique(mask)) <= {0, NEW, SURE}


@pytest.mark.parametrize("cameras", RIGS)
def test_a_recording_without_movers_has_no_blobs(cameras) -> None:
    rng = np.random.default_rng(3)

    def noisy(depth: np.ndarray) -> np.ndarray:
        shaken = depth + 0.5 * depth_noise(depth) * rng.normal(size=depth.shape)
        return np.where((depth > 0) & (rng.random(depth.shape) > 0.05), shaken, 0).astype(
            np.float32
        )

    recording = record(N, cameras, lambda i: [STAYS, leaves(0)], noisy)
    static = estimate_background(recording, GRID)
    bounds = np.stack([GRID.lower, GRID.upper])
    for i in range(0, N, 3):
        views = list(recording.views(i))
        assert propose(i, views, subtract(views, static), GRID.voxel_size / 2, bounds) == []


def test_pixel_history_is_kept_for_cameras_that_stand_still() -> None:
    def cameras(i: int) -> list[Camera]:
        return [ring(2)[0], moving_cameras(i)[1]]

    recording = record(N, cameras, lambda i: [STAYS, leaves(i)], holes(0.2))
    static = estimate_background(recording, GRID)
    assert set(static.pixel_depth) == {"c0"}
    views, things = views_of(ring(2)[:1], [STAYS])
    kept = static.pixel_depth["c0"]
    settled = (things[0] == 1) | (things[0] == FLOOR) & (views[0].depth < 4)
    assert (np.abs(kept - views[0].depth)[settled] < 0.01).mean() > 0.95
    assert (kept[views[0].depth == 0] == 0).all()  # the sky returns nothing, ever
