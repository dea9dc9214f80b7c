"""The dictionary: RGBA volumes in their own frames, sizes free to differ.

A prototype's own frame has its origin at the middle of its volume and its nose along +x; at
scale 1 one of its voxels is ``voxel_size`` metres.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from protoscene.geometry import Grid, centred_grid


class VoxelPrototypes(nn.Module):
    """Free voxels: ``rgba[k]`` is (C, z, y, x) in [0, 1], its last channel occupancy.

    ``voxel_size[k]`` in metres. The volumes are parameters where ``trainable``, else kept as given.
    """

    def __init__(
        self, rgba: Sequence[Tensor], voxel_size: Sequence[float], trainable: bool = False
    ) -> None:
        super().__init__()
        if len(rgba) != len(voxel_size):
            raise ValueError(f"{len(rgba)} prototypes but {len(voxel_size)} voxel sizes")
        for k, volume in enumerate(rgba):
            if volume.dim() != 4 or volume.shape[0] != rgba[0].shape[0]:
                raise ValueError(
                    f"prototype {k} has shape {tuple(volume.shape)}, expected "
                    "(C, z, y, x) with one C for all"
                )
        self.voxel_size = tuple(float(v) for v in voxel_size)
        # A tensor that carries a graph stays as it is, so that gradients reach its maker.
        self._rgba: list[Tensor] = [nn.Parameter(v) if trainable else v for v in rgba]
        if trainable:
            self._registered = nn.ParameterList(self._rgba)

    @classmethod
    def from_rgba(
        cls,
        rgba: Sequence[Tensor],
        voxel_size: float | Sequence[float],
        trainable: bool = False,
    ) -> VoxelPrototypes:
        """From (C, z, y, x) volumes, with one voxel size for all or one each (metres)."""
        volumes = [torch.as_tensor(v) for v in rgba]
        sizes = [voxel_size] * len(volumes) if isinstance(voxel_size, int | float) else voxel_size
        return cls(volumes, list(sizes), trainable)

    def __len__(self) -> int:
        return len(self._rgba)

    def rgba(self, k: int) -> Tensor:
        """Prototype k as (C, z, y, x)."""
        return self._rgba[k]

    def grid(self, k: int) -> Grid:
        """Prototype k's grid in its own frame: the frame's origin is the grid's middle."""
        nz, ny, nx = self._rgba[k].shape[1:]
        size = self.voxel_size[k]
        return centred_grid((nx * size, ny * size, nz * size), size)
