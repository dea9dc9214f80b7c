"""Portraits of a cart: what a dictionary keeps of a thing that was seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from moving_boxes import CART_DIMS, Box
from protoscene.dictionary.portrait import (
    Portrait,
    of_model,
    zero_level,
)
from protoscene.geometry import centred_grid, rotation_from_yaw
from protoscene.register import Model
from protoscene.start import Thing

VOXEL = 0.02
DIMS = np.array(CART_DIMS)
MIDDLE = np.array([0, 0, CART_DIMS[2] / 2])


def portrayed(
    boxes: Sequence[Box], pose: np.ndarray, hidden: float = -np.inf, dims: np.ndarray = DIMS
) -> Portrait:
    """Boxes on the floor, seen in a frame that stands at ``pose`` in the world, all but their
    inside and what has a smaller y there than ``hidden``."""
    grid = centred_grid((1.1, 1.1, 0.5), VOXEL)
    points = placed_points(grid.centres(), pose)
    each = np.stack([box.distance(points) for box in boxes])
    distance = np.clip(each.min(axis=0), -0.08, 0.08)
    unseen = (distance < -0.05) | (grid.centres()[..., 1] < hidden)
    colour = np.array([box.colour for box in boxes])[each.argmin(axis=0)] / 255
    coloured = (~unseen & (np.abs(distance) < 0.03)).astype(float)
    model = Model(grid, 0.08, distance, np.where(unseen, 0.0, 9.0), colour, coloured)
    return of_model(model, dims, zero_level(model))


def placed_points(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    return points @ rotation_from_yaw(pose[3]).T + pose[:3]


UPRIGHT = np.array([*MIDDLE, 0.0])


def thing_of() -> Thing:
    poses = np.zeros((3, 4))
    return Thing([0, 1, 2], DIMS, poses, np.zeros(3), torch.rand(4, 5, 5, 5), 0.1, 0.9)
