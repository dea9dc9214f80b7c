"""What symmetry says of the side that nobody saw."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from protoscene.geometry import Grid, centred_grid, wrap_angle
from protoscene.register import Model
from protoscene.shape import surface_points
from protoscene.symmetry import Plane, mirror_planes, round_parts, unseen_half

VOXEL, TURN, MIDDLE = 0.02, 0.35, np.array([0.04, -0.03])
GRID: Grid = centred_grid((1.0, 1.0, 0.5), VOXEL)
HALF = np.array([0.3, 0.16, 0.12])


def own() -> np.ndarray:
    """The grid's voxel centres in the body's frame, which is turned and moved."""
    points = GRID.centres().copy()
    points[..., :2] -= MIDDLE
    cos, sin = np.cos(TURN), np.sin(TURN)
    x, y = points[..., 0].copy(), points[..., 1].copy()
    points[..., 0], points[..., 1] = cos * x + sin * y, cos * y - sin * x
    return points


def box(points: np.ndarray) -> np.ndarray:
    off = np.abs(points) - HALF
    outside = np.linalg.norm(np.maximum(off, 0), axis=-1)
    return np.asarray(outside + np.minimum(off.max(axis=-1), 0))


def roof(points: np.ndarray) -> np.ndarray:
    """A box that slopes to both sides of its length."""
    slope = (points[..., 2] + 0.9 * np.abs(points[..., 1]) - HALF[2]) / np.sqrt(1 + 0.9**2)
    return np.maximum(box(points), slope)


def drum(points: np.ndarray) -> np.ndarray:
    round_about = np.linalg.norm(points[..., :2], axis=-1) - 0.2
    return np.maximum(round_about, np.abs(points[..., 2]) - 0.12)


def seen(body: Callable[[np.ndarray], np.ndarray], hidden_below: float) -> Model:
    """The body's model, where nobody saw what has a smaller y in the body's frame, and nothing
    within it; its colour changes along x."""
    points = own()
    distance = np.clip(body(points), -0.08, 0.08)
    votes = np.where((points[..., 1] < hidden_below) | (distance < -0.05), 0.0, 9.0)
    red = np.clip(0.5 + points[..., 0], 0, 1)
    colour = np.stack([red, np.zeros_like(red), 1 - red], axis=-1)
    coloured = ((votes > 0) & (np.abs(distance) < 0.03)).astype(float)
    return Model(GRID, 0.08, distance, votes, colour, coloured)


def test_the_other_half_comes_back() -> None:
    model = seen(roof, -0.05)
    points = surface_points(model)
    plane = mirror_planes(model, points)[0]
    off = wrap_angle(2 * (plane.turn - TURN - np.pi / 2)) / 2
    assert abs(np.degrees(off)) < 2
    normal = np.array([np.cos(plane.turn), np.sin(plane.turn)])
    assert abs(MIDDLE @ normal - plane.shift) < VOXEL
    other = unseen_half(model, points, plane)
    across = (other[:, :2] - MIDDLE) @ [-np.sin(TURN), np.cos(TURN)]
    assert across.min() == pytest.approx(-HALF[1], abs=2 * VOXEL)  # seen to -0.05 only
    assert across.max() < 0


def test_a_plane_mirrors_twice_to_the_same() -> None:
    points = np.random.default_rng(0).normal(size=(9, 3))
    plane = Plane(1.0, 0.7, -0.2)
    np.testing.assert_allclose(plane.mirror(plane.mirror(points)), points, atol=1e-12)


def test_a_round_part_goes_all_the_way_round() -> None:
    model = seen(drum, 0.0)
    ring = round_parts(model, surface_points(model))
    from_middle = np.linalg.norm(ring[:, :2] - MIDDLE, axis=1)
    np.testing.assert_allclose(from_middle, 0.2, atol=VOXEL)
    across = (ring[:, :2] - MIDDLE) @ [-np.sin(TURN), np.cos(TURN)]
    assert across.min() == pytest.approx(-0.2, abs=VOXEL)


def test_a_box_has_no_round_parts() -> None:
    model = seen(box, -0.1)
    assert len(round_parts(model, surface_points(model))) == 0
