"""Scene: where its objects are at any time, and what it composes there."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from protoscene.geometry import Grid
from protoscene.prototypes import VoxelPrototypes
from protoscene.scene import Scene, SceneObject, Track
from protoscene.volume import Background, Volume

GRID = Grid((-0.8, -0.4, -0.1), 0.1, (4, 8, 16))
DIMS = (0.2, 0.2, 0.2)


def track(time: list[float], x: list[float], yaw: list[float], scale: float = 1.0) -> Track:
    n = len(time)
    centre = np.stack([np.array(x), np.zeros(n), np.full(n, 0.1)], axis=-1)
    return Track(np.array(time), centre, np.array(yaw), np.full(n, scale), np.ones(n, dtype=bool))


def scene_of(*tracks: Track) -> Scene:
    background = torch.zeros(4, *GRID.shape)
    background[:, 0] = 1.0  # a white floor, one voxel thick
    red = torch.zeros(4, 2, 2, 2)
    red[0], red[3] = 1.0, 1.0
    objects = tuple(SceneObject(i, 0, 1.0, True, DIMS, t) for i, t in enumerate(tracks))
    return Scene(
        times=(0.0, 1.0, 2.0),
        background=Background(Volume(background, GRID)),
        prototypes=VoxelPrototypes.from_rgba([red], 0.1),
        objects=objects,
        sizes_m=(DIMS,),
    )


def test_a_track_is_its_instants_and_linear_between_them() -> None:
    path = track([0.0, 1.0, 3.0], [0.0, 1.0, 2.0], [0.0, 0.2, 1.0])
    for time, x, yaw in [(0, 0, 0), (0.25, 0.25, 0.05), (1, 1, 0.2), (2, 1.5, 0.6), (3, 2, 1)]:
        centre, angle, scale = path.pose(time)
        np.testing.assert_allclose(centre, [x, 0, 0.1])
        assert angle == pytest.approx(yaw) and scale == 1.0


@pytest.mark.parametrize(("first", "second"), [(3.0, -3.0), (-3.0, 3.0), (0.1, 6.2), (9.0, 3.0)])
def test_yaw_goes_the_short_way_round(first: float, second: float) -> None:
    path = track([0.0, 1.0], [0.0, 0.0], [first, second])
    turns = [path.pose(t)[1] for t in (0.0, 0.25, 0.5, 1.0)]
    apart = math.remainder(second - first, 2 * math.pi)
    for share, yaw in zip((0.0, 0.25, 0.5, 1.0), turns, strict=True):
        assert math.remainder(yaw - first - share * apart, 2 * math.pi) == pytest.approx(0)


def test_a_track_of_one_instant() -> None:
    path = track([1.0], [0.3], [0.5], scale=1.2)
    assert path.covers(1.0) and not path.covers(0.9) and not path.covers(1.1)
    assert path.pose(1.0)[0][0] == 0.3 and path.pose(1.0)[1:] == (0.5, 1.2)


def test_only_objects_that_exist_are_placed() -> None:
    scene = scene_of(
        track([0.0, 1.0], [-0.4, 0.0], [0.0, 0.0]),
        track([1.0, 2.0], [0.4, 0.4], [0.0, 1.0], scale=0.5),
    )
    assert [len(scene.at(t)) for t in (-0.1, 0.0, 0.5, 1.0, 1.5, 2.0, 2.1)] == [0, 1, 1, 2, 1, 1, 0]
    placements = scene.at(0.5)
    torch.testing.assert_close(placements.centre, torch.tensor([[-0.2, 0.0, 0.1]]))
    assert placements.which.tolist() == [0] and placements.presence.tolist() == [1.0]
    assert scene.at(1.5).scale.tolist() == [0.5] and scene.at(1.5).yaw.tolist() == [0.5]


def test_compose_puts_objects_on_the_background() -> None:
    volume = scene_of(track([0.0, 2.0], [-0.4, 0.4], [0.0, 0.0])).compose(time=1.0)
    assert volume.grid == GRID and volume.rgba.dtype == torch.float32
    assert volume.occupancy[0].min() == 1  # the floor
    red = (volume.rgba[0] == 1) & (volume.rgba[1] == 0)
    expected = torch.zeros(GRID.shape, dtype=torch.bool)
    expected[1:3, 3:5, 7:9] = True
    assert torch.equal((volume.occupancy > 0.5)[1:], expected[1:])
    assert torch.equal(red[expected], torch.ones(8, dtype=torch.bool))


@pytest.mark.parametrize("resolution", [8, 16, 40])
def test_resolution_is_a_free_choice(resolution: int) -> None:
    """N³ voxels over the grid's longest side: the object keeps its place and volume in metres."""
    scene = scene_of(track([0.0, 2.0], [-0.4, 0.4], [0.0, 0.3]))
    volume = scene.compose(time=1.0, resolution=resolution)
    assert volume.rgba.shape == (4, resolution, resolution, resolution)
    assert volume.grid.origin == GRID.origin
    assert volume.grid.size_m.tolist() == pytest.approx([1.6, 1.6, 1.6])
    red = volume.occupancy * (volume.rgba[0] - volume.rgba[1])
    assert float(red.sum()) * volume.grid.voxel_size**3 == pytest.approx(0.008, rel=0.15)
    weights = (red / red.sum()).numpy()
    middle = (volume.grid.centres() * weights[..., None]).sum(axis=(0, 1, 2))
    np.testing.assert_allclose(middle, [0.0, 0.0, 0.1], atol=0.25 * volume.grid.voxel_size)


def test_a_scene_without_objects_is_its_background() -> None:
    scene = scene_of()
    assert torch.equal(scene.compose(0.0).rgba, scene.background.volume.rgba)
