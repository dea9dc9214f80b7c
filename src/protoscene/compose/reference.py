"""compose in plain loops: every placement, every prototype, every corner, the whole canvas.

float64, slow, memory for the whole canvas per corner. Differentiable by autograd alone, so that it
is the truth for gradients too. Shares nothing with the other backends.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from protoscene.geometry import Grid
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.volume import Volume


def compose(
    prototypes: VoxelPrototypes,
    placements: Placements,
    grid: Grid,
    background: Volume | Tensor | None = None,
    cap: str = "hard",
) -> Volume:
    """Same meaning and signature as :func:`protoscene.compose.compose`; always float64."""
    world = torch.as_tensor(grid.centres())
    total: Tensor | float = 0.0  # Σ aᵢ
    coloured: Tensor | float = 0.0  # Σ aᵢ cᵢ
    if background is not None:
        volume = background if isinstance(background, Volume) else Volume(background, grid)
        occupancy, colour = _trilinear(volume.rgba.double(), volume.grid, world)
        total, coloured = total + occupancy, coloured + colour
    for i in range(len(placements)):
        local = _local_from_world(placements, i, world)
        for k in range(len(prototypes)):
            weight = placements.presence[i].double() * _weight(placements, i, k)
            occupancy, colour = _trilinear(prototypes.rgba(k).double(), prototypes.grid(k), local)
            total, coloured = total + weight * occupancy, coloured + weight * colour
    if not isinstance(total, Tensor) or not isinstance(coloured, Tensor):  # nothing to compose
        channels = prototypes.rgba(0).shape[0] if len(prototypes) else 4
        return Volume(world.new_zeros((channels, *grid.shape)), grid)
    rgb = torch.where(total > 0, coloured / torch.where(total > 0, total, 1.0), 0.0)
    capped = total.clamp(max=1.0) if cap == "hard" else total / (1 + total**4) ** 0.25
    return Volume(torch.cat([rgb, capped[None]]), grid)


def _weight(placements: Placements, i: int, k: int) -> Tensor | float:
    if placements.which.dim() == 2:
        return placements.which[i, k].double()
    return 1.0 if int(placements.which[i]) == k else 0.0


def _local_from_world(placements: Placements, i: int, world: Tensor) -> Tensor:
    """T⁻¹: world positions (…, 3) in placement i's prototype's own frame."""
    x, y, z = (world - placements.centre[i].double()).unbind(-1)
    cos, sin = placements.yaw[i].double().cos(), placements.yaw[i].double().sin()
    turned = torch.stack([cos * x + sin * y, cos * y - sin * x, z], dim=-1)
    return turned / placements.scale[i].double()


def _trilinear(rgba: Tensor, grid: Grid, points: Tensor) -> tuple[Tensor, Tensor]:
    """Occupancy (…) and occupancy times colour (C−1, …) at ``points`` (…, 3) of its frame."""
    index = grid.index_from_world(points)
    floor = index.floor()
    share = index - floor
    occupancy = points.new_zeros(points.shape[:-1])
    colour = points.new_zeros((rgba.shape[0] - 1, *points.shape[:-1]))
    sizes = torch.tensor(grid.shape[::-1])
    for corner in itertools.product((0, 1), repeat=3):
        offset = torch.tensor(corner)
        weight = torch.where(offset == 1, share, 1 - share).prod(dim=-1)
        voxel = floor.long() + offset
        inside = ((voxel >= 0) & (voxel < sizes)).all(dim=-1)
        x, y, z = torch.minimum(voxel.clamp(min=0), sizes - 1).unbind(-1)
        value = rgba[:, z, y, x] * (weight * inside)
        occupancy = occupancy + value[-1]
        colour = colour + value[:-1] * rgba[-1, z, y, x]
    return occupancy, colour
