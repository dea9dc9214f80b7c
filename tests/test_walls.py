"""Walls: long upright planes, whatever stands against them; long things are none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from protoscene.geometry import rotation_from_yaw
from protoscene.walls import THICK, walls

VOXEL = 0.02


def plane(
    length: float, height: float, at: tuple[float, float], yaw: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Points a voxel apart, off by a third of one, on an upright rectangle that begins at ``at``
    and goes along ``yaw``; their normals, off by some degrees."""
    random = np.random.default_rng(seed)
    t, z = np.meshgrid(np.arange(0, length, VOXEL), np.arange(0, height, VOXEL))
    local = np.stack([t, random.normal(0, VOXEL / 3, t.shape), z], axis=-1).reshape(-1, 3)
    turn = rotation_from_yaw(yaw)
    normals = random.normal((0, -1, 0), 0.1, local.shape)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return local @ turn.T + [*at, 0], normals @ turn.T


def together(*parts: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    points, normals = zip(*parts, strict=True)
    return np.concatenate(points), np.concatenate(normals)


@pytest.mark.parametrize("yaw", [0.0, 0.4, 1.6, 3.0, -2.2])
def test_a_wall_is_found_and_a_box_that_stands_against_it_is_not(yaw: float) -> None:
    turn = rotation_from_yaw(yaw)[:2, :2]
    wall = plane(3.0, 0.8, (0.5, -0.2), yaw)
    corner = turn @ [1.0, -0.3] + [0.5, -0.2]
    front = plane(0.4, 0.4, tuple(corner), yaw, 1)
    side = plane(0.3, 0.4, tuple(corner), yaw + math.pi / 2, 2)
    points, normals = together(wall, front, side)
    (found,) = walls(points, normals, VOXEL)
    assert found.last - found.first == pytest.approx(3.0, abs=0.2)
    assert abs(found.normal @ turn[:, 0]) < 0.01
    held = found.holds(points, THICK * VOXEL)
    n, m = len(wall[0]), len(front[0])
    assert held[:n].mean() > 0.99 and not held[n : n + m].any()
    assert held[n + m :].mean() < 0.25  # but for where it touches the wall


def test_two_walls_of_a_corner_are_found_the_longer_first() -> None:
    points, normals = together(plane(2.0, 0.8, (0, 0), 0), plane(1.6, 0.8, (0, 0), math.pi / 2, 1))
    found = walls(points, normals, VOXEL)
    assert [w.last - w.first for w in found] == pytest.approx([2.0, 1.6], abs=0.15)


def test_short_planes_rows_of_things_and_nothing_are_no_wall() -> None:
    one = plane(1.0, 0.8, (0, 0), 0)
    apart = [plane(0.4, 0.4, (x, 2.0), 0, x) for x in range(4)]
    assert walls(*together(one, *apart), VOXEL) == []
    assert walls(np.zeros((0, 3)), np.zeros((0, 3)), VOXEL) == []
    lying = np.random.default_rng(0).uniform(0, 3, (500, 3)) * [1, 1, 0]
    assert walls(lying, np.tile([0.0, 0.0, 1.0], (500, 1)), VOXEL) == []
