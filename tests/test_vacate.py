"""What was found is taken out of the background, in made-up volumes and in a discovered scene."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cart_portraits import MIDDLE, UPRIGHT, portrayed, thing_of
from moving_boxes import CART_DIMS, Box, cart, record, ring
from moving_cart import smooth
from protoscene.boxes import iou_3d
from protoscene.dictionary.find_again import Found
from protoscene.dictionary.share import alone
from protoscene.dictionary.vacate import vacated
from protoscene.discover import discover
from protoscene.geometry import Grid, wrap_angle
from protoscene.scene import Scene
from protoscene.volume import Background, Volume


def ground_volume(voxel: float) -> Volume:
    """A floor at z = 0 whose colour changes evenly."""
    nz, n = round(0.8 / voxel), round(1.6 / voxel)
    grid = Grid((-0.8, -0.8, -0.2), voxel, (nz, n, n))
    centres = grid.centres()
    occupancy = np.clip(0.5 - centres[..., 2] / voxel, 0, 1)
    colour = np.stack([0.5 + 0.4 * centres[..., 0], 0.5 - 0.3 * centres[..., 1], 0 * occupancy])
    return Volume(
        torch.tensor(np.concatenate([colour, occupancy[None]]), dtype=torch.float32), grid
    )


def test_where_something_stood_the_ground_goes_on() -> None:
    pose = np.array([0.1, -0.05, MIDDLE[2], 0.7])
    kind = alone(0, thing_of(), portrayed(cart(0, 0, 0), UPRIGHT))
    volumes = []
    for voxel in (0.05, 0.025):
        floor = ground_volume(voxel)
        body = np.min([b.distance(floor.grid.centres()) for b in cart(0.1, -0.05, 0.7)], axis=0)
        stands = torch.from_numpy(np.clip(0.5 - body / voxel, 0, 1)).float()
        rgba = floor.rgba.clone()
        rgba[3] = torch.maximum(rgba[3], stands)
        rgba[:3, stands > 0] = 0.9
        # Nobody saw the ground below.
        rgba[
            3, (stands > 0).any(dim=0)[None] & torch.from_numpy(floor.grid.centres()[..., 2] < 0)
        ] = 0
        volumes.append(Volume(rgba, floor.grid))
    found = [Found(0, pose, 0.9, np.ones(3, bool))]
    background = vacated(Background(volumes[0], None, (volumes[1],)), [kind], found)
    for volume in (background.volume, *background.detail):
        floor = ground_volume(volume.grid.voxel_size)
        above = torch.from_numpy(volume.grid.centres()[..., 2])
        assert float(volume.rgba[3, above > 0].max()) < 0.05
        surface = (above < 0) & (above > -volume.grid.voxel_size)
        assert float((volume.rgba[3] - floor.rgba[3])[surface].abs().max()) < 0.01
        assert float((volume.rgba - floor.rgba)[:3, surface].abs().max()) < 0.05
    assert float(volumes[0].rgba[3].max()) == 1  # what was given is not written to


WALL = Box((0.0, 0.26, 0.2), (1.4, 0.06, 0.4), 0, (90, 90, 90))
HANDLE = Box((0.15, 0.02, 0.24), (0.06, 0.06, 0.1), 0, (30, 30, 200))


def test_a_piece_more_than_its_kind_has_goes_and_the_wall_beside_stays() -> None:
    kind = alone(0, thing_of(), portrayed(cart(0, 0, 0), UPRIGHT))
    floor = ground_volume(0.025)
    centres = floor.grid.centres()
    rgba = floor.rgba.clone()
    for box in (*cart(0, 0, 0), HANDLE, WALL):
        full = torch.from_numpy(np.clip(0.5 - box.distance(centres) / 0.025, 0, 1)).float()
        rgba[3] = torch.maximum(rgba[3], full)
    found = [Found(0, UPRIGHT, 0.9, np.ones(3, bool))]
    emptied = vacated(Background(Volume(rgba, floor.grid)), [kind], found).volume.occupancy.numpy()
    above = centres[..., 2] > 0.03
    assert rgba[3].numpy()[(HANDLE.distance(centres) < 0) & above].min() > 0.5
    assert emptied[(HANDLE.distance(centres) < 0.02) & above].max() < 1e-6
    assert emptied[WALL.distance(centres) < -0.02].min() == 1


def test_ground_that_nobody_saw_loses_the_colours_of_what_hid_it() -> None:
    """And the box's bottom may be a centimetre too high: no hole is left below."""
    kind = alone(0, thing_of(), portrayed(cart(0, 0, 0), UPRIGHT))
    floor = ground_volume(0.025)
    centres = floor.grid.centres()
    hidden = (np.abs(centres[..., 0]) < 0.25) & (centres[..., 1] > 0) & (centres[..., 1] < 0.3)
    rgba = floor.rgba.clone()
    rgba[:3, torch.from_numpy(hidden)] = torch.tensor([200.0, 60, 40])[:, None] / 255
    found = [Found(0, UPRIGHT + [0, 0, 0.015, 0], 0.9, np.ones(3, bool))]
    emptied = vacated(Background(Volume(rgba, floor.grid)), [kind], found).volume
    surface = torch.from_numpy((centres[..., 2] < 0) & (centres[..., 2] > -0.03))
    assert float((emptied.rgba[3] - floor.rgba[3]).abs().max()) < 0.01
    assert float((emptied.rgba - floor.rgba)[:3, surface].abs().max()) < 0.06


def test_nothing_found_nothing_changed() -> None:
    background = Background(ground_volume(0.05))
    assert vacated(background, [], []).volume is background.volume


PARKED = (-0.75, 0.75, 2.0)
OTHER = Box((0.85, 0.75, 0.2), (0.35, 0.25, 0.4), 0.4, (60, 60, 220), thing=4)


def two_carts(i: int) -> list[Box]:
    x, y, yaw = smooth()[i]
    return [*cart(x, y, yaw), *cart(0.5 - 0.09 * i, -0.75, 3.0, thing=2), *cart(*PARKED, thing=3),
            OTHER]  # fmt: skip


@pytest.fixture(scope="module")
def found() -> Scene:
    cameras = ring(3, radius=2.2, above=1.6, width=160, height=120, focal=130)
    return discover(record(10, cameras, two_carts), 0.05, (-1.4, -1.3, -0.11, 1.4, 1.4, 0.84))


def test_two_that_move_and_one_that_stands_are_one_kind(found: Scene) -> None:
    assert len(found.prototypes) == len(found.sizes_m) == 1
    assert [(o.prototype, o.moving) for o in found.objects] == [(0, True), (0, True), (0, False)]
    assert [o.id for o in found.objects] == [0, 1, 2]
    standing = found.objects[2].track
    assert list(standing.time) == list(found.times) and standing.visible.all()
    box = np.array([[*standing.centre[0], *found.objects[2].dims_m, standing.yaw[0]]])
    true = np.array([[*PARKED[:2], MIDDLE[2], *CART_DIMS, PARKED[2]]])
    assert iou_3d(box, true)[0, 0] > 0.8
    assert found.objects[2].score > 0.5


def test_their_yaws_are_those_of_one_frame(found: Scene) -> None:
    """The three tracks are off by the same turn: nose and tail are told apart, reversing or not."""
    offsets = []
    for thing in found.objects:
        first = thing.track.centre[0, :2]
        truths = [*smooth()[:1], np.array([0.5, -0.75, 3.0]), np.array(PARKED)]
        true = min(truths, key=lambda t: float(np.linalg.norm(t[:2] - first)))
        offsets.append(thing.track.yaw[0] - true[2])
    turned = np.abs(wrap_angle(np.array(offsets) - offsets[0]))
    assert np.rad2deg(turned).max() < 3


def test_its_place_in_the_background_is_empty(found: Scene) -> None:
    for volume in (found.background.volume, *found.background.detail):
        centres, occupancy = volume.grid.centres(), volume.occupancy.numpy()
        gone = np.min([b.distance(centres) for b in cart(*PARKED)], axis=0) < 0.03
        above = centres[..., 2] > volume.grid.voxel_size
        assert occupancy[gone & above].max(initial=0) < 0.01
    centres = found.grid.centres()
    below = (np.abs(centres[..., 2] + 0.025) < 0.02) & (
        np.min([b.distance(centres * [1, 1, 0] + [0, 0, 0.1]) for b in cart(*PARKED)], axis=0) < 0
    )
    assert found.background.volume.occupancy.numpy()[below].min() > 0.5
    other = OTHER.distance(centres)
    assert found.background.volume.occupancy.numpy()[(other < -0.01) & (other > -0.05)].mean() > 0.7
