"""Scenes and targets that compose_loss is tried on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compose_cases import (
    GRID,
    VOXEL,
    Case,
    random,
)
from protoscene.compose import Target
from protoscene.compose import compose_loss as public_compose_loss
from protoscene.geometry import Grid
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.volume import Volume

UNEVEN = Grid((-0.3, -0.25, -0.2), VOXEL, (67, 19, 18))
"""Cut by every side of a tile, with most of it empty."""
ALL = {"mse": 0.7, "bce": 0.3, "colour": 1.3}


def compose_loss(case: Case, target: Target | Volume, **options: Any) -> dict[str, Tensor]:
    prototypes = VoxelPrototypes(list(case.volumes), list(case.voxel_sizes))
    return public_compose_loss(
        prototypes, case.placements, case.grid, target, case.background, **options
    )


def everything(case: Case, target: Target, backend: str, **options: Any) -> dict[str, Tensor]:
    """The loss, its terms and its gradient to every tensor of ``case``."""
    tensors = {name: value.detach().requires_grad_() for name, value in case.tensors().items()}
    found = compose_loss(case.holding(tensors), target, backend=backend, **options)
    slopes = torch.autograd.grad(
        found["loss"], list(tensors.values()), allow_unused=True, materialize_grads=True
    )
    terms = {name: value.detach()[None] for name, value in found.items()}
    return terms | dict(zip(tensors, slopes, strict=True))


def many_channels(channels: int, grid: Grid = GRID, background: bool = True) -> Case:
    """Six placements of two prototypes, some half outside, one covering another, solid ones too:
    A is above 1 in places."""
    n = 6
    placements = Placements(
        which=torch.arange(n) % 2,
        centre=(random(n, 3, seed=1) - 0.5) * 0.6,
        yaw=random(n, seed=2) * 7,
        scale=0.6 + random(n, 3, seed=3),
        presence=0.3 + 0.7 * random(n, seed=4),
    )
    volumes = random(channels, 3, 4, 5, seed=5), random(channels, 6, 5, 4, seed=6)
    ground = 0.6 * random(channels, *grid.shape, seed=7) if background else None
    return Case(volumes, (VOXEL, 0.7 * VOXEL), placements, grid, ground)


def target_of(case: Case, dtype: torch.dtype, weight: torch.dtype | None) -> Target:
    """Random, with half of its voxels empty; a third of the weights 0."""
    shape = case.grid.shape
    rgba = random(case.volumes[0].shape[0], *shape, seed=20)
    rgba[-1] *= random(*shape, seed=21) < 0.5
    if dtype == torch.uint8:
        rgba = (255 * rgba).round()
    weights = 3 * random(*shape, seed=22) * (random(*shape, seed=23) < 0.67)
    if weight in (torch.bool, torch.uint8):
        weights = weights.ceil()
    return Target(rgba.to(dtype), None if weight is None else weights.to(weight))
