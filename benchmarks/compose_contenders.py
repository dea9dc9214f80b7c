"""Ours and the cropped rivals, as things to be timed: each with leaves and a fixed gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from compose_rivals import cropped
from compose_workloads import Workload, placed, random_poses, random_rgba
from torch import Tensor

from protoscene.compose import compose
from protoscene.prototypes import VoxelPrototypes


@dataclass(frozen=True)
class Contender:
    """``compose()`` gives the (C, z, y, x) volume; ``gradient`` to it has that volume's layout."""

    compose: Callable[[], Tensor]
    leaves: list[Tensor]
    gradient: Tensor

    def forward(self) -> Tensor:
        with torch.no_grad():
            return self.compose()

    def forward_backward(self) -> None:
        """Gradients of every leaf: voxels, centre, yaw, scale, presence."""
        self.compose().backward(self.gradient)
        for leaf in self.leaves:
            leaf.grad = None


def native(workload: Workload) -> Contender:
    """Ours, the prototypes' native tensor being the parameter, the result in native layout."""
    prototypes = VoxelPrototypes.from_rgba(
        random_rgba(workload), workload.voxel_size, trainable=True
    )
    poses = leaves_of(random_poses(workload))
    placements, grid = placed(workload, poses), workload.grid
    gradient = torch.rand(*(workload.canvas,) * 3, workload.channels).permute(3, 2, 0, 1)
    return Contender(
        lambda: compose(prototypes, placements, grid).rgba, [prototypes.voxels, *poses], gradient
    )


def torch_layout(workload: Workload) -> Contender:
    """Ours, from (C, z, y, x) leaves, packed each time, to a contiguous (C, z, y, x) result."""
    rgba, poses, gradient = _in_torch_layout(workload)
    placements, grid = placed(workload, poses), workload.grid

    def composed() -> Tensor:
        prototypes = VoxelPrototypes.from_rgba(rgba, workload.voxel_size)
        return compose(prototypes, placements, grid, contiguous=True).rgba

    return Contender(composed, [*rgba, *poses], gradient)


def crop_by_crop(workload: Workload) -> Contender:
    return _rival(workload, in_batches=False)


def crops_in_batches(workload: Workload) -> Contender:
    return _rival(workload, in_batches=True)


CONTENDERS = {
    "native": native,
    "torch layout": torch_layout,
    "crop by crop": crop_by_crop,
    "crops in batches": crops_in_batches,
}


def _rival(workload: Workload, in_batches: bool) -> Contender:
    rgba, poses, gradient = _in_torch_layout(workload)
    placements, grid = placed(workload, poses), workload.grid
    return Contender(
        lambda: cropped(rgba, workload.voxel_size, placements, grid, in_batches),
        [*rgba, *poses],
        gradient,
    )


def leaves_of(tensors: list[Tensor]) -> list[Tensor]:
    return [t.requires_grad_() for t in tensors]


@lru_cache(1)
def _in_torch_layout(workload: Workload) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Volumes, poses and gradient, which the contenders of one workload share."""
    gradient = torch.rand(workload.channels, *(workload.canvas,) * 3)
    return leaves_of(random_rgba(workload)), leaves_of(random_poses(workload)), gradient
