"""The dictionary: RGBA volumes in their own frames, sizes free to differ.

A prototype's own frame has its origin at the middle of its volume and its nose along +x; at
scale 1 one of its voxels is ``voxel_size`` metres.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from protoscene.geometry import Grid, centred_grid
from protoscene.packing import block, block_shape, pack, without_shell


class VoxelPrototypes(nn.Module):
    """Free voxels: prototype k is (C, z, y, x) in [0, 1], its last channel occupancy.

    All of them live in one flat tensor, ``voxels``, block after block. Prototype k's block is a
    contiguous (ny+2, nx+2, nz+2, C) array: axes y, x, z, channel, colour straight (not
    premultiplied). Its outermost shell is zero, so that interpolation needs no test for a
    prototype's edge; it is no voxel, and compose's gradient there is zero.

    voxels: (n,) of one float type; a parameter where ``trainable``, else a buffer. Packed by
        differentiable operators where a volume carries a graph, so that gradients reach its maker.
    table: int64 (K, 4), always on the CPU: where block k starts in ``voxels``, then nz, ny, nx.
    channels: C (4 for an empty dictionary).
    voxel_size: K numbers in metres.
    """

    voxels: Float[Tensor, " n"]
    table: Int[Tensor, "K 4"]
    channels: int
    voxel_size: tuple[float, ...]

    def __init__(
        self, rgba: Sequence[Tensor], voxel_size: Sequence[float], trainable: bool = False
    ) -> None:
        """Copies (C, z, y, x) volumes, one voxel size each, to their common float type.

        Raises ValueError naming the prototype whose shape, channels, type or voxel size is wrong.
        """
        super().__init__()
        _check_volumes(rgba)
        channels = rgba[0].shape[0] if len(rgba) else 4
        table = _packed_table([(nz, ny, nx) for _, nz, ny, nx in (v.shape for v in rgba)], channels)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not trainable):
            voxels = _packed(rgba, table, channels)
        self._hold(voxels, table, voxel_size, channels, trainable)

    @classmethod
    def from_rgba(
        cls,
        rgba: Sequence[Tensor],
        voxel_size: float | Sequence[float],
        trainable: bool = False,
    ) -> VoxelPrototypes:
        """From (C, z, y, x) volumes, with one voxel size for all or one each (metres)."""
        volumes = [torch.as_tensor(v) for v in rgba]
        return cls(volumes, one_each(voxel_size, len(volumes)), trainable)

    @classmethod
    def from_voxels(
        cls,
        voxels: Tensor,
        table: Tensor,
        voxel_size: float | Sequence[float],
        channels: int,
        trainable: bool = False,
    ) -> VoxelPrototypes:
        """From the flat tensor itself, which is taken as it is, without a copy.

        Raises ValueError where ``table`` does not fit the number of voxels. That the shells are
        zero is the caller's word: looking would cost a pass over everything.
        """
        table = torch.as_tensor(table).to("cpu", torch.int64)
        _check_packed(voxels, table, channels)
        prototypes = cls.__new__(cls)
        nn.Module.__init__(prototypes)
        prototypes._hold(voxels, table, one_each(voxel_size, len(table)), channels, trainable)
        return prototypes

    def _hold(
        self,
        voxels: Tensor,
        table: Tensor,
        voxel_size: Sequence[float],
        channels: int,
        trainable: bool,
    ) -> None:
        if len(table) != len(voxel_size):
            raise ValueError(f"{len(table)} prototypes but {len(voxel_size)} voxel sizes")
        self.table, self.channels = table, channels
        self.voxel_size = tuple(float(v) for v in voxel_size)
        for k, size in enumerate(self.voxel_size):
            if not (math.isfinite(size) and size > 0):
                raise ValueError(f"prototype {k} has voxel size {size}, expected positive metres")
        if not trainable:
            self.register_buffer("voxels", voxels)
        elif isinstance(voxels, nn.Parameter):  # an optimizer may hold it already
            self.register_parameter("voxels", voxels)
        else:
            self.register_parameter("voxels", nn.Parameter(voxels.detach()))

    def __len__(self) -> int:
        return len(self.table)

    def forward(self) -> VoxelPrototypes:
        """Itself: every dictionary is called for the voxels to compose."""
        return self

    def native(self, k: int) -> Float[Tensor, "y x z C"]:
        """Prototype k's block with its shell of zeros, (ny+2, nx+2, nz+2, C): a view."""
        return block(self.voxels, self.table[k].tolist(), self.channels)

    def rgba(self, k: int) -> Float[Tensor, "C z y x"]:
        """Prototype k as (C, z, y, x): a view, not contiguous; what is written into it stays."""
        return without_shell(self.native(k))

    def grid(self, k: int) -> Grid:
        """Prototype k's grid in its own frame: the frame's origin is the grid's middle."""
        nz, ny, nx = self.table[k, 1:].tolist()
        size = self.voxel_size[k]
        return centred_grid((nx * size, ny * size, nz * size), size)


def _packed_table(shapes: Sequence[tuple[int, int, int]], channels: int) -> Tensor:
    """The table of blocks of (nz, ny, nx) voxels that follow each other."""
    rows, start = [], 0
    for shape in shapes:
        rows.append((start, *shape))
        start += math.prod(block_shape(shape, channels))
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 4)


def _packed(rgba: Sequence[Tensor], table: Tensor, channels: int) -> Tensor:
    """The flat tensor of (C, z, y, x) volumes, on the first one's device, in their common type."""
    if not len(rgba):
        return torch.zeros(0)
    dtype = reduce(torch.promote_types, (v.dtype for v in rgba))
    return pack([v.to(rgba[0].device, dtype) for v in rgba], table.tolist(), channels)


def one_each(voxel_size: float | Sequence[float], n: int) -> Sequence[float]:
    """One voxel size for each of ``n`` prototypes, where one was given for all."""
    return [voxel_size] * n if isinstance(voxel_size, int | float) else voxel_size


def _check_volumes(rgba: Sequence[Tensor]) -> None:
    for k, volume in enumerate(rgba):
        shape = tuple(volume.shape)
        if len(shape) != 4 or min(shape) < 1:
            raise ValueError(
                f"prototype {k} has shape {shape}, expected (C, z, y, x), each at least 1"
            )
        if shape[0] != rgba[0].shape[0]:
            raise ValueError(
                f"prototype {k} has shape {shape}, expected (C, z, y, x) with one C for all: "
                f"prototype 0 has {rgba[0].shape[0]}"
            )
        if not volume.is_floating_point():
            raise ValueError(f"prototype {k} has type {volume.dtype}, expected a float type")


def _check_packed(voxels: Tensor, table: Tensor, channels: int) -> None:
    if voxels.dim() != 1 or not voxels.is_contiguous() or not voxels.is_floating_point():
        raise ValueError(
            f"voxels is {voxels.dtype} {tuple(voxels.shape)}, expected (n,) contiguous floats"
        )
    if table.dim() != 2 or table.shape[1] != 4:
        raise ValueError(f"table has shape {tuple(table.shape)}, expected (K, 4)")
    if channels < 1:
        raise ValueError(f"channels is {channels}, expected at least 1")
    end = 0
    for k, (start, *shape) in enumerate(table.tolist()):
        if min(shape) < 1:
            raise ValueError(f"prototype {k} has (nz, ny, nx) {tuple(shape)}, each at least 1")
        if start != end:
            raise ValueError(f"prototype {k}'s block starts at {start}, expected {end}")
        end += math.prod(block_shape(shape, channels))
    if len(voxels) != end:
        raise ValueError(f"voxels has {len(voxels)} numbers, expected {end} by its table")
