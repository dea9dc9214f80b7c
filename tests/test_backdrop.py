"""The background as a volume and as what a picture shows beyond it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from moving_boxes import FLOOR, Box, camera, cast, record, recording_of, ring, views_of
from protoscene.backdrop import COARSER, backdrop, ground_height
from protoscene.background import StaticSurface, estimate_background
from protoscene.geometry import Grid
from protoscene.observe import observe
from protoscene.recording import Recording
from protoscene.render import render
from protoscene.volume import Background

GRID = Grid((-1.2, -1.2, -0.13), 0.05, (18, 48, 48))
STAYS = Box((0.3, 0.2, 0.25), (0.4, 0.4, 0.5), 0.4, (60, 60, 220))
WALL = Box((0.0, -3.0, 1.0), (6.0, 0.2, 2.0), 0.0, (40, 200, 60))  # beyond the grid


def backdrop_of(recording: Recording, grid: Grid = GRID) -> Background:
    evidence = observe(recording, grid)
    return backdrop(recording, evidence, estimate_background(recording, grid))


@pytest.fixture(scope="module")
def behind() -> Background:
    views = [*ring(2), camera((0, 1.5, 1.2), (0, -3, 0.8))]
    return backdrop_of(record(4, views, lambda i: [STAYS, WALL]))


def test_occupancy_is_the_surface_that_stays(behind: Background) -> None:
    volume, centres = behind.volume, GRID.centres()
    assert volume.grid == GRID
    rgba = volume.rgba.numpy()
    assert rgba.dtype == np.float32 and rgba.min() >= 0 and rgba.max() <= 1
    truth = np.minimum(STAYS.distance(centres), centres[..., 2])
    occupancy = volume.occupancy.numpy()
    assert (occupancy[truth > 0.06] == 0).mean() > 0.99
    top = (np.abs(centres[..., 2] - 0.45) < 0.025) & (STAYS.distance(centres) < -0.04)
    assert top.sum() > 20 and (occupancy[top] > 0.9).mean() > 0.95
    assert (occupancy[:, :2, :2][3:] == 0).all()  # a corner that no camera sees stays empty


def test_pictures_of_it_are_what_was_seen(behind: Background) -> None:
    view = ring(1, turn=0.5)[0]
    colour, depth, thing = cast(view, [STAYS, WALL])
    picture = render(behind.volume, view, behind.outside)
    inner = view.unproject(depth)
    inside = ((inner > GRID.lower + 0.1) & (inner < GRID.upper - 0.1)).all(axis=-1) & (thing >= 0)
    off = np.abs(picture.colour.numpy()[inside] - colour[inside] / 255).mean()
    assert inside.sum() > 300 and off < 0.06
    assert np.median(np.abs(picture.depth.numpy() - depth)[inside]) < GRID.voxel_size


def test_a_picture_beyond_the_grid_is_not_black(behind: Background) -> None:
    """A camera that looks out of the grid sees the wall, far floor and sky in their colours."""
    assert behind.outside is not None
    view = camera((0.3, 0.6, 1.0), (0, -3, 1.0))
    colour, depth, _ = cast(view, [WALL])
    picture = render(behind.volume, view, behind.outside).colour.numpy()
    assert picture.max(axis=-1).min() > 0.2
    wall = (colour[..., 1] > 1.5 * colour[..., 0]) & (depth > 0)
    wall = wall & np.roll(wall, 6, 0) & np.roll(wall, -6, 0)
    assert wall.sum() > 300
    off = np.abs(picture[wall] - colour[wall] / 255).max(axis=-1)
    assert np.median(off) < 0.1
    up = camera((0, 0, 0.7), (1, 1, 9))
    sky = render(behind.volume, up, behind.outside).colour.numpy()
    np.testing.assert_allclose(sky[sky.shape[0] // 2 :], behind.outside.colour.expand(36, 96, 3))
    np.testing.assert_allclose(behind.outside.colour.numpy() * 255, [120, 160, 220], atol=25)


def test_outside_is_coarse_and_holds_only_what_is_beyond(behind: Background) -> None:
    assert behind.outside is not None
    around = behind.outside.volume
    assert around.grid.voxel_size >= COARSER * GRID.voxel_size
    assert max(around.grid.shape) <= 66
    deep = np.abs(around.grid.centres() - (GRID.lower + GRID.upper) / 2) < (
        GRID.size_m / 2 - around.grid.voxel_size
    )
    inside = deep.all(axis=-1)
    assert inside.any() and float(around.occupancy.numpy()[inside].max()) == 0
    assert (around.grid.lower <= GRID.lower).all() and (around.grid.upper >= GRID.upper).all()


def test_colours_are_the_median_over_time() -> None:
    """A third of the pictures is lit quite differently: that leaves no trace."""
    plain = [views_of(ring(2), [STAYS], 0.1 * i)[0] for i in range(9)]
    mixed = [
        [replace(v, colour=255 - v.colour // 2) for v in views] if i % 3 == 1 else views
        for i, views in enumerate(plain)
    ]
    a, b = backdrop_of(recording_of(plain)).volume, backdrop_of(recording_of(mixed)).volume
    assert (a.occupancy > 0).sum() > 1000
    torch.testing.assert_close(b.rgba, a.rgba, atol=0.5 / 255, rtol=0)


def test_every_occupied_voxel_has_a_colour(behind: Background) -> None:
    """Also those inside of the surface, in which no pixel ended: their nearest neighbour's."""
    on = behind.volume.occupancy > 0
    assert float(behind.volume.colour[:, on].amax(dim=0).min()) > 0.1


def test_nothing_beyond_the_grid_still_has_a_sky() -> None:
    """All depth within the grid and no pixel without depth: the colour behind is still one."""
    high = [camera((0.1, 0.1, 1.8), (0, 0, 0)), camera((-0.1, 0.2, 1.8), (0, 0, 0))]
    grid = Grid((-2.5, -2.5, -0.1), 0.1, (9, 50, 50))
    around = backdrop_of(record(4, high, lambda i: [STAYS]), grid).outside
    assert around is not None
    assert torch.isfinite(around.volume.rgba).all() and float(around.volume.occupancy.max()) == 0
    assert float(around.colour.min()) > 0 and float(around.colour.max()) < 1


def test_ground_that_nobody_saw_goes_on() -> None:
    """One camera leaves shadows and sides: from elsewhere the floor is whole, near and far, and
    does not reach up above itself."""
    seen = record(4, [camera((1.8, 0.4, 1.5))], lambda i: [STAYS])
    around = backdrop_of(seen)
    view = camera((-1.6, -0.9, 1.4), (0.4, 0.3, 0.0))
    colour, depth, thing = cast(view, [STAYS])
    picture = render(around.volume, view, around.outside)
    floor = (thing == FLOOR) & (depth < 5)  # nobody saw farther
    unseen = GRID.centres()[0, ..., :2][np.isnan(static_of(seen).distance[:4]).all(axis=0)]
    assert floor.sum() > 2000 and len(unseen) > 100
    off = np.abs(picture.colour.numpy() - colour / 255).max(axis=-1)
    assert np.quantile(off[floor], 0.9) < 0.25  # a chequer's half: no sky shows through (0.45)
    drawn = picture.depth.numpy()
    assert (np.abs(drawn - depth)[floor] < 0.1 * depth[floor]).mean() > 0.95
    high = around.volume.occupancy[4:].numpy()  # 7 cm above the floor and higher
    assert (high[:, np.isnan(static_of(seen).distance[2:]).all(axis=0)] == 0).all()


def static_of(recording: Recording) -> StaticSurface:
    return estimate_background(recording, GRID).surface


def test_ground_is_found_and_a_table_is_not_it() -> None:
    floor = record(4, ring(2), lambda i: [STAYS])
    assert ground_height(static_of(floor)) == pytest.approx(0, abs=0.01)
    table = Box((0.0, 0.0, 0.15), (1.8, 1.8, 0.3), 0.0)
    assert ground_height(static_of(record(4, ring(2), lambda i: [table]))) is None


def test_far_ground_without_depth_is_ground_and_not_sky() -> None:
    """Half of the floor is out of the sensor's reach: the sky keeps its colour all the same."""
    level = camera((0, 1.5, 1.2), (0, -3, 0.8))
    seen = record(4, [*ring(2), level], lambda i: [STAYS], lambda d: np.where(d < 3, d, 0))
    around = backdrop_of(seen).outside
    assert around is not None
    np.testing.assert_allclose(around.colour.numpy() * 255, [120, 160, 220], atol=2)
