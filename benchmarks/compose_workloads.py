"""What compose is measured on: random prototypes, pasted fully inside a cube of voxels.

Occupancy and colour are uniform in [0, 1] everywhere, the worst case: no voxel of any prototype is
empty. Centres are uniform, so never on a voxel; yaw is uniform, scale .95 to 1.05, presence .5
to 1. A prototype's voxel is ``covered / size`` of the canvas's voxel of one metre.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from protoscene.geometry import Grid
from protoscene.placements import Placements


@dataclass(frozen=True)
class Workload:
    """``n_placements`` of ``n_prototypes`` prototypes of ``size``³, each on ``covered``³ of the
    canvas's ``canvas``³ voxels at scale 1."""

    name: str
    n_placements: int
    size: int
    covered: int
    n_prototypes: int = 8
    canvas: int = 256
    channels: int = 4

    @property
    def voxel_size(self) -> float:
        """Metres of a prototype's voxel."""
        return self.covered / self.size

    @property
    def grid(self) -> Grid:
        return Grid((0.0, 0.0, 0.0), 1.0, (self.canvas,) * 3)

    @property
    def says(self) -> str:
        return (
            f"{self.n_placements} placements of {self.n_prototypes} prototypes of {self.size}³, "
            f"each on about {self.covered}³ of {self.canvas}³"
        )


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("W8", 8, 128, 64),
        Workload("W64", 64, 128, 64),
        Workload("W512", 512, 32, 16),
        Workload("W32k", 32768, 8, 4),
        Workload("UP", 8, 32, 96),
    )
}
TINY = Workload("tiny", 4, 6, 3, n_prototypes=2, canvas=16)
"""What a first call and the tests are content with."""
SCALES = (0.95, 1.05)


def random_rgba(workload: Workload, seed: int = 0) -> list[Tensor]:
    """The prototypes as people have them: (4, z, y, x) float32, contiguous."""
    generator = torch.Generator().manual_seed(seed)
    shape = (workload.channels, *(workload.size,) * 3)
    return [torch.rand(shape, generator=generator) for _ in range(workload.n_prototypes)]


def random_poses(workload: Workload, seed: int = 1) -> list[Tensor]:
    """centre (n, 3), yaw, scale and presence (n,), float32."""
    generator = torch.Generator().manual_seed(seed)
    n = workload.n_placements
    yaw = torch.rand(n, generator=generator) * 2 * torch.pi - torch.pi
    # Half the box and the half voxel beyond it, at the largest scale, turned, and rounding's voxel.
    half = 0.5 * SCALES[1] * (workload.covered + workload.voxel_size)
    reach = torch.stack([half * (yaw.cos().abs() + yaw.sin().abs())] * 2 + [half + 0 * yaw], dim=1)
    room = workload.canvas - 2 * (reach + 1)
    if room.min() < 0:
        raise ValueError(f"{workload}: the canvas is too small for its prototypes")
    centre = reach + 1 + room * torch.rand(n, 3, generator=generator)
    scale = SCALES[0] + (SCALES[1] - SCALES[0]) * torch.rand(n, generator=generator)
    presence = 0.5 + 0.5 * torch.rand(n, generator=generator)
    return [centre, yaw, scale, presence]


def placed(workload: Workload, poses: list[Tensor]) -> Placements:
    """Row i is of prototype ``i % n_prototypes``."""
    return Placements(torch.arange(workload.n_placements) % workload.n_prototypes, *poses)
