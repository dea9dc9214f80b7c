"""The dictionaries of several scenes become one: what is alike shares a prototype, in one frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from moving_boxes import Box, cart
from protoscene.dictionary import Merged, merge
from protoscene.dictionary.portrait import placed
from protoscene.geometry import Grid, centred_grid, rotation_from_yaw, wrap_angle
from protoscene.prototypes import VoxelPrototypes
from protoscene.scene import Scene, SceneObject, Track
from protoscene.volume import Background, Volume

VOXEL = 0.0125
RED, BLUE, GREEN = (200, 60, 40), (40, 60, 200), (60, 160, 60)
CART = cart(0, 0, 0)
# Both ends have the same shape: only colours tell them apart.
BARGE = [
    Box((0.15, 0, 0.1), (0.3, 0.3, 0.2), 0, RED),
    Box((-0.15, 0, 0.1), (0.3, 0.3, 0.2), 0, BLUE),
]
TOWER = [Box((0, 0, 0.25), (0.25, 0.2, 0.5), 0, GREEN), Box((0.2, 0, 0.1), (0.2, 0.2, 0.2), 0, RED)]


def volume(
    boxes: Sequence[Box], pose: Sequence[float], size: Sequence[float], hidden: float = -np.inf
) -> tuple[torch.Tensor, torch.Tensor]:
    """(rgba, confidence) of boxes on the floor as a prototype whose frame stands at ``pose``: their
    inside, and what of them has a smaller y there than ``hidden``, nobody saw."""
    grid = centred_grid(np.array(size), VOXEL, padding=3)
    own = grid.centres()
    each = np.stack([box.distance(world(own, np.array(pose))) for box in boxes])
    distance = each.min(axis=0)
    colour = np.array([box.colour for box in boxes])[each.argmin(axis=0)] / 255
    unseen = ((own[..., 1] < hidden) & (distance < 0.04)) | (distance < -3 * VOXEL)
    occupancy = (0.4 - distance / VOXEL).clip(0, 1)
    occupancy[unseen] = 0
    rgba = np.concatenate([np.moveaxis(colour, -1, 0), occupancy[None]])
    return torch.from_numpy(rgba).float(), torch.from_numpy(np.where(unseen, 0.0, 0.9)).float()


def world(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    return points @ rotation_from_yaw(pose[3]).T + pose[:3]


def scene(
    bodies: Sequence[tuple[Sequence[Box], Sequence[float]]], hidden: Sequence[float] | None = None,
    objects: int = 1,
) -> Scene:  # fmt: skip
    """Prototypes of bodies on the floor, their frames at x y yaw; ``objects`` of the first, one of
    each other."""
    grid = Grid((-1, -1, 0), 0.5, (2, 4, 4))
    rgba, confidence, sizes = [], [], []
    for k, (boxes, (x, y, yaw)) in enumerate(bodies):
        top = max(box.centre[2] + box.dims[2] / 2 for box in boxes)
        size = (0.66, 0.62, top)
        behind = -np.inf if hidden is None else hidden[k]
        one, seen = volume(boxes, (x, y, top / 2, yaw), size, behind)
        rgba.append(one)
        confidence.append(seen)
        sizes.append(size)
    track = Track(np.zeros(1), np.zeros((1, 3)), np.zeros(1), np.ones(1), np.ones(1, bool))
    which = [0] * (objects - 1) + list(range(len(bodies)))
    things = [SceneObject(i, k, 1.0, True, sizes[k], track) for i, k in enumerate(which)]
    return Scene(
        (0.0,), Background(Volume(torch.zeros(4, 2, 4, 4), grid)),
        VoxelPrototypes.from_rgba(rgba, VOXEL), tuple(things), tuple(sizes), (), tuple(confidence),
    )  # fmt: skip


FRAMES = [
    [(CART, (0, 0, 0)), (BARGE, (0.03, 0.02, 2.0))],
    [(TOWER, (0.02, 0, 0)), (CART, (0.05, -0.02, 2.4))],
    [(BARGE, (0, 0, -1.0)), (CART, (-0.04, 0.03, -0.9)), (TOWER, (0, 0.03, 1.6))],
]


@pytest.fixture(scope="module")
def merged() -> Merged:
    return merge([scene(bodies, objects=n) for bodies, n in zip(FRAMES, (3, 2, 1), strict=True)])


def test_what_is_alike_in_three_scenes_shares_a_prototype(merged: Merged) -> None:
    """In the order of first appearance: cart, barge, tower."""
    assert [which.tolist() for which in merged.which] == [[0, 1], [2, 0], [1, 0, 2]]
    assert len(merged.prototypes) == len(merged.sizes_m) == len(merged.confidence) == 3
    assert merged.weights.tolist() == [3 + 1 + 1, 1 + 1, 2 + 1]


def test_all_stand_in_one_frame_nose_with_nose(merged: Merged) -> None:
    """Where a shared frame stands in the world: at the same place and turn through each scene's
    own prototype, also of what only its colours tell from behind."""
    for n in range(3):
        stands = [
            placed(np.array([[x, y, 0.0, yaw]]), merged.frames[s][k])[0]
            for s, bodies in enumerate(FRAMES)
            for k, (_, (x, y, yaw)) in enumerate(bodies)
            if merged.which[s][k] == n
        ]
        for one in stands[1:]:
            assert_allclose(one[:3], stands[0][:3], atol=0.006)
            assert abs(wrap_angle(one[3] - stands[0][3])) < np.deg2rad(1)


def test_a_shared_prototype_is_complete_where_its_members_are_not() -> None:
    """One scene saw the left, the other the right; each frame's y points to what was seen."""
    halves = [scene([(CART, (0, 0, yaw))], hidden=[-0.1]) for yaw in (0.0, np.pi)]
    found = merge(halves)
    assert found.which[0] == found.which[1] == 0
    truth = volume(CART, (0, 0, halves[0].sizes_m[0][2] / 2, 0), halves[0].sizes_m[0])[0]
    shared = found.prototypes.rgba(0)
    if abs(wrap_angle(found.frames[0][0, 3])) > 1:  # the second one's frame is shared
        shared = shared.flip(2, 3)

    def covered(rgba: torch.Tensor) -> float:
        return float((rgba[3] > 0.5)[truth[3] > 0.5].float().mean())

    assert covered(halves[0].prototypes.rgba(0)) < 0.85
    assert covered(shared) > 0.97
    assert_allclose(found.confidence[0].amax(), 0.99, atol=0.01)  # seen twice: 1 − .1²
    colours = (shared[:3] - truth[:3]).abs().amax(0)[(shared[3] > 0.9) & (truth[3] > 0.9)]
    assert colours.quantile(0.9) < 0.1


def test_another_colour_is_another_prototype_and_stays_as_it_was() -> None:
    painted = [Box(b.centre, b.dims, b.yaw, GREEN) for b in BARGE]
    scenes = [scene([(BARGE, (0, 0, 0))]), scene([(painted, (0, 0, 0))])]
    found = merge(scenes)
    assert [w.tolist() for w in found.which] == [[0], [1]]
    for k, one in enumerate(scenes):
        assert_array_equal(found.prototypes.rgba(k), one.prototypes.rgba(0))
        assert_array_equal(found.confidence[k], one.confidence[0])
        assert_array_equal(found.frames[k], np.zeros((1, 4)))


def test_scenes_without_confidence_are_merged_too() -> None:
    scenes = [replace(scene([body]), confidence=()) for body in (FRAMES[0][0], FRAMES[1][1])]
    found = merge([*scenes, replace(scenes[0], prototypes=VoxelPrototypes([], []), objects=(),
                                    sizes_m=(), symmetries=())])  # fmt: skip
    assert found.which[0] == found.which[1] == 0 and len(found.which[2]) == 0
    assert found.confidence == (None,) and found.frames[2].shape == (0, 4)
    assert abs(wrap_angle(found.frames[1][0, 3] - found.frames[0][0, 3] + 2.4)) < np.deg2rad(1)


def test_no_scenes_are_an_empty_dictionary() -> None:
    found = merge([])
    assert len(found.prototypes) == len(found.weights) == 0 and found.which == []
