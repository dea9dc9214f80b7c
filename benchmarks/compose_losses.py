"""The fused loss: a workload's placements on canvases that grow around them, and what it replaces.

The target is the same prototypes at other poses, and nothing farther out: half of what there is to
compare is empty in one of both, and all of what the canvas grows by is empty in both. It lies in
memory as compose's own results do, (y, x, z, C), as uint8 or float16; or in a file like it, sparse
where it is empty, that is mapped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from compose_contenders import CONTENDERS, leaves_of
from compose_workloads import Workload, placed, random_poses, random_rgba
from torch import Tensor

from protoscene.compose import Target, compose, compose_loss
from protoscene.geometry import Grid
from protoscene.prototypes import VoxelPrototypes


@dataclass(frozen=True)
class Compared:
    """``loss()`` has a graph to ``leaves``."""

    loss: Callable[[], Tensor]
    leaves: list[Tensor]

    def forward_backward(self) -> None:
        self.loss().backward()
        for leaf in self.leaves:
            leaf.grad = None


def fused(workload: Workload, size: int, kind: str, folder: Path) -> Compared:
    """Loss and gradients on ``size``³ voxels with a target of ``kind``: "uint8", "float16", or
    "memory map" (uint8, in ``folder``, made if it is not there)."""
    prototypes = _prototypes(workload)
    poses = leaves_of(random_poses(workload))
    placements, grid = placed(workload, poses), widened(workload.grid, size)
    if kind == "memory map":
        target = Target(mapped(workload, size, folder))
    else:
        target = Target(in_memory(workload, size, torch.uint8 if kind == "uint8" else torch.half))

    def loss() -> Tensor:
        return compose_loss(prototypes, placements, grid, target)["loss"]

    return Compared(loss, [prototypes.voxels, *poses])


def unfused(workload: Workload, contender: str) -> Compared:
    """The same loss in torch's operators, on the volume that ``contender`` makes; the float32
    target has that volume's layout."""
    made = CONTENDERS[contender](workload)
    target = torch.empty_like(made.gradient).copy_(wanted(workload))

    return Compared(lambda: torch_loss(made.compose(), target), made.leaves)


def torch_loss(rgba: Tensor, target: Tensor) -> Tensor:
    """compose_loss's formula with its default weights: squared error of occupancy, and of colour
    weighted by the target's occupancy."""
    error = (rgba[-1] - target[-1]).square().mean()
    return error + (target[-1] * (rgba[:-1] - target[:-1]).square().mean(dim=0)).mean()


def widened(grid: Grid, size: int) -> Grid:
    """``grid`` in the middle of a cube of ``size``³ of its voxels."""
    margin = (size - np.array(grid.shape)) // 2
    return grid.cropped(-margin, -margin + size)


@torch.no_grad()
def wanted(workload: Workload) -> Tensor:
    """The target on the workload's own canvas, float32 (C, z, y, x), native layout."""
    placements = placed(workload, random_poses(workload, seed=2))
    return compose(_prototypes(workload), placements, workload.grid).rgba


@lru_cache(1)
def _prototypes(workload: Workload) -> VoxelPrototypes:
    """Shared by all the losses of a workload."""
    return VoxelPrototypes.from_rgba(random_rgba(workload), workload.voxel_size, trainable=True)


def in_memory(workload: Workload, size: int, dtype: torch.dtype) -> Tensor:
    """(C, z, y, x), native layout."""
    target = torch.zeros(size, size, size, workload.channels, dtype=dtype)
    _middle(target, workload).copy_(_stored(workload, dtype))
    return target.permute(3, 2, 0, 1)


def mapped(workload: Workload, size: int, folder: Path) -> np.memmap:
    """(C, z, y, x), native layout, uint8, read only."""
    file, shape = folder / f"{workload.name}-{size}", (size, size, size, workload.channels)
    if not file.exists():
        target = np.memmap(file, np.uint8, "w+", shape=shape)
        _middle(torch.from_numpy(target), workload).copy_(_stored(workload, torch.uint8))
        target.flush()
    return np.memmap(file, np.uint8, "r", shape=shape).transpose(3, 2, 0, 1)


def _middle(target: Tensor, workload: Workload) -> Tensor:
    start = (len(target) - workload.canvas) // 2
    inside = slice(start, start + workload.canvas)
    return target[inside, inside, inside]


def _stored(workload: Workload, dtype: torch.dtype) -> Tensor:
    """(y, x, z, C)."""
    rgba = wanted(workload).permute(2, 3, 1, 0)
    return (rgba * 255).round().to(dtype) if dtype == torch.uint8 else rgba.to(dtype)
