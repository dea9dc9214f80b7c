"""Things drawn one by one: in the right place, in front of what is behind them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from protoscene.geometry import Camera, Grid, look_at
from protoscene.layers import draw, instances
from protoscene.prototypes import VoxelPrototypes
from protoscene.render import render
from protoscene.scene import Scene, SceneObject, Track
from protoscene.volume import Background, Outside, Volume

CAMERA = Camera(80, 60, 80.0, 80.0, 40.0, 30.0, look_at((0.3, -3, 1.5), (0, 0, 0.3)))
RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def block(colour: tuple[float, float, float], n: int = 8) -> torch.Tensor:
    """n³ voxels around which three are empty, as prototypes have them."""
    rgba = torch.zeros(4, n + 6, n + 6, n + 6)
    rgba[:3] = torch.tensor(colour)[:, None, None, None]
    rgba[3, 3:-3, 3:-3, 3:-3] = 1
    return rgba


def thing(
    k: int, centre: tuple[float, float, float], yaw: float, scale: float = 1.0
) -> SceneObject:
    there = np.ones(1, bool)
    track = Track(np.zeros(1), np.array([centre]), np.array([yaw]), np.array([scale]), there)
    return SceneObject(k, k, 1.0, True, (0.4, 0.4, 0.4), track)


def scene(*things: SceneObject) -> Scene:
    grid = Grid((-1.0, -1.0, -0.1), 0.05, (24, 40, 40))
    floor = torch.zeros(4, *grid.shape)
    floor[:, :2] = torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None, None, None]
    far = Volume(torch.zeros(4, 1, 1, 1), Grid((-2.0, -2.0, -0.1), 4.0, (1, 1, 1)))
    outside = Outside(far, torch.tensor([0.5, 0.5, 0.5]))
    prototypes = VoxelPrototypes.from_rgba([block(RED), block(BLUE)], 0.05)
    return Scene((0.0,), Background(Volume(floor, grid), outside), prototypes, things,
                 ((0.4, 0.4, 0.4),) * 2)  # fmt: skip


def test_without_things_it_is_the_background() -> None:
    alone = scene()
    colour, depth = draw(alone, 0.0, CAMERA)
    back = render(alone.background.volume, CAMERA, alone.background.outside)
    np.testing.assert_allclose(colour, back.colour.numpy(), atol=1e-6)
    np.testing.assert_allclose(depth, back.depth.numpy(), atol=1e-6)


def test_agrees_with_the_composed_scene() -> None:
    # The same voxels, aligned with the grid: only the seams may differ.
    one = scene(thing(0, (0.1, 0.0, 0.2), 0.0))
    colour, depth = draw(one, 0.0, CAMERA)
    whole = render(one.compose(0.0), CAMERA, one.background.outside)
    gap = np.abs(colour - whole.colour.numpy()).max(axis=-1)
    assert (gap < 0.05).mean() > 0.95 and np.median(np.abs(depth - whole.depth.numpy())) < 1e-3
    assert (colour[..., 0] > 0.8).sum() > 60


def test_a_turned_and_scaled_thing_covers_what_its_corners_span() -> None:
    turned = scene(thing(0, (0.2, 0.1, 0.3), 0.6, scale=0.75))
    colour, depth = draw(turned, 0.0, CAMERA)
    red = colour[..., 0] > 0.8
    assert red.sum() > 40
    points = CAMERA.unproject(depth)[red] - (0.2, 0.1, 0.3)
    cos, sin = np.cos(0.6), np.sin(0.6)
    own = points @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    assert np.abs(own).max() < 0.15 + 0.02
    # Every point lies on a face of the cube of 0.3 m.
    np.testing.assert_allclose(np.abs(own).max(axis=1), 0.15, atol=0.02)


def test_the_nearer_thing_hides_the_farther_in_any_order() -> None:
    near, far = thing(0, (0.0, -0.6, 0.2), 0.3), thing(1, (0.0, 0.5, 0.2), 0.3)
    colour, _ = draw(scene(near, far), 0.0, CAMERA)
    swapped, _ = draw(scene(far, near), 0.0, CAMERA)
    np.testing.assert_array_equal(colour, swapped)
    alone, _ = draw(scene(near), 0.0, CAMERA)
    red = alone[..., 0] > 0.8
    np.testing.assert_array_equal(colour[red], alone[red])
    assert (colour[..., 2] > 0.8).any()


def test_things_beyond_the_picture_and_behind_the_camera() -> None:
    for centre in ((0.0, -5.0, 1.5), (9.0, 0.0, 0.2)):
        one = scene(thing(0, centre, 0.0))
        np.testing.assert_array_equal(draw(one, 0.0, CAMERA)[0], draw(scene(), 0.0, CAMERA)[0])
    inside = replace(CAMERA, world_from_camera=look_at((0.0, -0.25, 0.2), (0, 1, 0.2)))
    colour, _ = draw(scene(thing(0, (0.0, 0.0, 0.2), 0.0)), 0.0, inside)
    assert (colour[..., 0] > 0.8).mean() > 0.9  # right before a box: it fills the picture


def test_a_pixel_belongs_to_the_nearest_thing() -> None:
    front, back = thing(0, (0.3, -0.5, 0.2), 0.0), thing(1, (0.2, 0.4, 0.3), 0.5)
    alone = [instances(scene(one), 0.0, CAMERA) for one in (front, back)]
    assert [np.unique(whose).tolist() for whose in alone] == [[0, 1], [0, 2]]
    both = instances(scene(back, front), 0.0, CAMERA)
    assert ((alone[0] == 1) & (alone[1] == 2)).sum() > 20
    np.testing.assert_array_equal(both == 1, alone[0] == 1)
    np.testing.assert_array_equal(both == 2, (alone[1] == 2) & (alone[0] == 0))
