"""Ghosts and missing surface of boxes whose errors are known by construction."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from protoscene.geometry import Grid, centred_grid, rotation_from_yaw
from protoscene.matching import Matches, instants, match
from protoscene.prototypes import VoxelPrototypes
from protoscene.scene import SceneObject
from protoscene.shape_errors import (
    covered_shares,
    outside_shares,
    shape_error,
    surface_points,
    true_from_found,
)
from protoscene.volume import Volume
from scored_scenes import thing, with_track

VOXEL = 0.02
CAR = (0.8, 0.4, 0.3)


def full_box(size: tuple[float, float, float], padding: int = 3) -> VoxelPrototypes:
    grid = centred_grid(size, VOXEL, padding)
    rgba = torch.zeros(4, *grid.shape)
    rgba[:, padding:-padding, padding:-padding, padding:-padding] = 1
    return VoxelPrototypes.from_rgba([rgba], VOXEL)


def box_surface(size: tuple[float, float, float], step: float = 0.01) -> np.ndarray:
    x, y, z = (np.arange(step / 2, s, step) - s / 2 for s in size)
    grid = np.stack(np.meshgrid(x, y, z, indexing="ij"), -1).reshape(-1, 3)
    sides = []
    for axis in range(3):
        for sign in (-1, 1):
            face = grid[np.abs(grid[:, axis] - grid[:, axis].max()) < 1e-9].copy()
            face[:, axis] = sign * size[axis] / 2
            sides.append(face)
    return np.concatenate(sides)


def car() -> SceneObject:
    return thing(0, 0, True, (0.3, -0.2, 0.15), (0.4, 0.1, 0))


def matches(found: SceneObject, true: SceneObject) -> Matches:
    return match(instants([found], [true], true.track.time), 0.3, 1, 1)


def test_a_perfect_shape_has_no_ghosts_and_misses_nothing() -> None:
    pairs, prototypes, seen = matches(car(), car()), full_box(CAR), [box_surface(CAR)]
    np.testing.assert_allclose(outside_shares(pairs, 0, car(), prototypes), np.zeros(8))
    np.testing.assert_allclose(covered_shares(pairs, 0, car(), prototypes, seen, 0.015), np.ones(8))
    error = shape_error(pairs, [car()], prototypes)
    assert (error.matched_objects, error.inside, error.inside_worst) == (1, 1, 1)


def test_a_shift_leaves_as_much_outside_as_it_goes_too_far() -> None:
    # 4 of 40 voxels along the nose are outside of the true box, at any yaw.
    track = car().track
    ahead = rotation_from_yaw(track.yaw) @ np.array([0.08, 0, 0])
    found = with_track(car(), centre=track.centre + ahead)
    pairs, prototypes = matches(found, car()), full_box(CAR)
    np.testing.assert_allclose(outside_shares(pairs, 0, found, prototypes), np.full(8, 0.1))
    np.testing.assert_allclose(outside_shares(pairs, 0, found, prototypes, 0.041), np.full(8, 0.05))
    assert shape_error(pairs, [found], prototypes).inside == pytest.approx(0.9)
    # Distance of the true surface from that of the box as found, in closed form.
    seen = box_surface(CAR)
    beyond = np.abs(seen - [0.08, 0, 0]) - np.array(CAR) / 2
    apart = np.linalg.norm(beyond.clip(min=0), axis=1) + np.abs(beyond.max(axis=1).clip(max=0))
    covered = covered_shares(pairs, 0, found, prototypes, [seen], 0.052)
    np.testing.assert_allclose(covered, np.full(8, (apart < 0.051).mean()), atol=0.01)
    assert 0.5 < covered[0] < 0.9


def test_scale_is_the_objects_own() -> None:
    # A prototype of twice the size at scale 1/2 is the thing itself.
    half = with_track(car(), scale=np.full(8, 0.5))
    half = replace(half, dims_m=(1.6, 0.8, 0.6))
    pairs, prototypes = matches(half, car()), full_box((1.6, 0.8, 0.6))
    np.testing.assert_allclose(outside_shares(pairs, 0, half, prototypes), np.zeros(8))
    seen = [box_surface(CAR)]
    np.testing.assert_allclose(covered_shares(pairs, 0, half, prototypes, seen, 0.015), np.ones(8))


def test_half_a_thing_covers_its_half() -> None:
    rgba = full_box(CAR).rgba(0).clone()
    rgba[:, :, :, : rgba.shape[3] // 2] = 0
    front = VoxelPrototypes.from_rgba([rgba], VOXEL)
    seen = [box_surface(CAR)]
    covered = covered_shares(matches(car(), car()), 0, car(), front, seen, 0.03)
    np.testing.assert_allclose(covered, (seen[0][:, 0] > -0.03).mean(), atol=0.02)


def test_nothing_is_no_ghost_and_covers_nothing() -> None:
    nothing = VoxelPrototypes.from_rgba([torch.zeros(4, 5, 5, 5)], VOXEL)
    pairs = matches(car(), car())
    assert np.isnan(outside_shares(pairs, 0, car(), nothing)).all()
    assert (covered_shares(pairs, 0, car(), nothing, [box_surface(CAR)], 0.05) == 0).all()
    error = shape_error(pairs, [car()], nothing)
    assert error.matched_objects == 0 and math.isnan(error.inside)


def test_surface_lies_where_occupancy_crosses_a_half() -> None:
    rgba = torch.zeros(4, 6, 7, 8)
    rgba[3, 2:4, 2:5, 2:6] = 1
    rgba[3, 2:4, 2:5, 6] = 0.25  # crosses a half two thirds of the way from voxel 5 to 6
    points = surface_points(Volume(rgba, Grid((1.0, 2.0, 3.0), 0.1, (6, 7, 8))))
    np.testing.assert_allclose(points.min(axis=0), [1.2, 2.2, 3.2], atol=1e-6)
    np.testing.assert_allclose(points.max(axis=0), [1.55 + 0.2 / 3, 2.5, 3.4], atol=1e-6)
    assert len(points) == 2 * (2 * 3 + 2 * 4 + 3 * 4)


def test_frames_of_boxes() -> None:
    found = np.array([1.0, 2.0, 0.5, 1, 1, 1, 0.3])
    true = np.array([1.5, 1.0, 0.4, 1, 1, 1, -0.9])
    points = np.random.default_rng(0).normal(size=(5, 3))
    back = true_from_found(true_from_found(points, found, true), true, found)
    np.testing.assert_allclose(back, points, atol=1e-12)
    turn = np.array([1.0, 2.0, 0.5, 1, 1, 1, 0.3 + np.pi / 2])
    np.testing.assert_allclose(true_from_found(np.eye(3), found, turn)[0], [0, -1, 0], atol=1e-12)
