"""Rooms cut into what stands on the ground and the ground, and how alike two volumes are."""

from __future__ import annotations

import lzma
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from static_scenes import Room
from torch import Tensor

from protoscene.geometry import Grid

STRIDE = 8
"""Voxels along a cell's side."""


@dataclass(frozen=True, eq=False)
class Halves:
    """A room's things and clutter, up to a cell above the highest of them, and its ground: rgba
    and where (m) each begins."""

    above: Tensor
    below: Tensor
    grid: Grid
    ground: Grid


def halves(room: Room) -> Halves:
    grid, rgba = room.grid, torch.from_numpy(room.rgba)
    layers = round(-grid.origin[2] / grid.voxel_size)
    above = rgba[:, layers:]
    top = int(above[3].flatten(1).any(dim=1).nonzero().max()) + 1 + STRIDE
    x, y, z = grid.origin
    shapes = [tuple(part.shape[1:]) for part in (above[:, :top], rgba[:, :layers])]
    return Halves(
        above[:, :top].contiguous(), rgba[:, :layers].contiguous(),
        Grid((x, y, 0.0), grid.voxel_size, shapes[0]), Grid((x, y, z), grid.voxel_size, shapes[1]),
    )  # fmt: skip


def iou(found: Tensor, true: Tensor) -> float:
    """Of what is solid."""
    a, b = found[3] > 0.5, true[3] > 0.5
    return float((a & b).sum() / (a | b).sum().clamp(min=1))


def colour_psnr(found: Tensor, true: Tensor) -> float:
    """dB, over the voxels that are solid in both."""
    both = (found[3] > 0.5) & (true[3] > 0.5)
    wrong = (found[:3, both] - true[:3, both]).square().mean()
    return -10 * math.log10(max(float(wrong), 1e-10))


@dataclass(frozen=True)
class Coded:
    """A volume on voxels ``factor`` times as large: how alike it is, and its bytes as a sparse grid
    (the set of its solid voxels and 3 bytes of colour each) and by lzma."""

    factor: float
    iou: float
    sparse: float
    lzma: float


FACTORS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)


def coarser(rgba: Tensor, factor: float) -> Coded:
    shape = [max(1, round(n / factor)) for n in rgba.shape[1:]]
    small = F.interpolate(rgba[None], shape, mode="nearest-exact")
    back = F.interpolate(small, rgba.shape[1:], mode="nearest-exact")[0]
    solid = small[0, 3] > 0.5
    colours = (255 * small[0, :3, solid]).byte().T.contiguous().numpy().tobytes()
    data = np.packbits(solid.numpy()).tobytes() + colours
    n, k = solid.numel(), int(solid.sum())
    as_set = (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)
    packed = lzma.compress(data, format=lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2}])
    return Coded(factor, iou(back, rgba), as_set / 8 + 3 * k, len(packed))


def at_equal_iou(rgba: Tensor, least: float) -> Coded:
    """The fewest voxels that are at least as alike as ``least``."""
    coded = [coarser(rgba, factor) for factor in FACTORS]
    return min((c for c in coded if c.iou >= least), key=lambda c: c.lzma)


def tensors_bytes(volumes: list[Tensor]) -> int:
    """Of parts, by lzma: occupancy as bits, colours of what is solid as 3 bytes."""
    data = b""
    for rgba in volumes:
        solid = rgba[3] > 0.5
        data += np.packbits(solid.numpy()).tobytes()
        data += (255 * rgba[:3, solid]).byte().T.contiguous().numpy().tobytes()
    return len(lzma.compress(data))


def mean_over(values: list[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).mean())
