"""Rooms as a volume fused of real depth pictures would show them, to learn from in implicit.py.

What is fused of a real table lies on no voxel's border and is not flat: its surface goes up and
down by a voxel of 5 mm, at all scales, and what other instants saw of it differs by .8 of one, over
about two voxels. The numbers here are that of half of the tabletop's instants.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

WAVES = ((64, 1.0), (21, 0.6), (8, 0.6), (3, 0.5))
"""Of the ground's height, in voxels: how long, and the standard deviation of each."""
HIGHEST, SHIFT = 6.0, 2.0
"""Waves together reach no further up or down; half of the range in which the whole is moved."""
BLUR, MOST_NOISE, NOISE_LENGTH = 0.7, 0.6, 3
"""Voxels of the blur, most noise of what is blurred, and how long that is."""


def on_uneven_ground(
    rgba: Float[Tensor, "4 z y x"], random: np.random.Generator
) -> tuple[Float[Tensor, "4 z y x"], int]:
    """Each column moved up or down by whole voxels, and by how much the highest is. The lowest
    voxels are repeated."""
    nz, ny, nx = rgba.shape[1:]
    height = torch.full((ny, nx), float(random.uniform(-SHIFT, SHIFT)))
    waves = torch.zeros(ny, nx)
    for length, deviation in WAVES:
        raster = _normal(random, 1, 1, max(ny // length, 1), max(nx // length, 1))
        waves += deviation * F.interpolate(raster, size=(ny, nx), mode="bicubic")[0, 0]
    moved = (height + waves.clamp(-HIGHEST, HIGHEST)).round().long()
    from_ = (torch.arange(nz)[:, None, None] - moved).clamp(0, nz - 1)
    return rgba.gather(1, from_.expand(4, -1, -1, -1)), int(moved.max())


def as_fused(
    rgba: Float[Tensor, "4 z y x"], random: np.random.Generator
) -> Float[Tensor, "4 z y x"]:
    """Surfaces moved by up to about a voxel, as noise in depth does."""
    blurred = _blurred(torch.cat([rgba[:3] * rgba[3:], rgba[3:]]))
    share = blurred[3]
    raster = _normal(random, 1, 1, *(-(-n // NOISE_LENGTH) for n in share.shape))
    noise = F.interpolate(raster, size=share.shape, mode="trilinear")[0, 0]
    near = 4 * share * (1 - share)  # none in the middle of what is empty or solid
    moved = share + random.uniform(0, MOST_NOISE) * near * noise / noise.std()
    return torch.cat([blurred[:3] / share.clamp(min=0.05), (moved > 0.5)[None].to(rgba)])


def _normal(random: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(random.standard_normal(shape).astype(np.float32))


def _blurred(channels: Float[Tensor, "c z y x"]) -> Float[Tensor, "c z y x"]:
    kernel = torch.exp(-0.5 * (torch.arange(-2, 3) / BLUR) ** 2)
    kernel /= kernel.sum()
    for shape, pad in (
        ((5, 1, 1), (0, 0, 0, 0, 2, 2)),
        ((1, 5, 1), (0, 0, 2, 2, 0, 0)),
        ((1, 1, 5), (2, 2, 0, 0, 0, 0)),
    ):
        padded = F.pad(channels[:, None], pad, mode="replicate")
        channels = F.conv3d(padded, kernel.reshape(1, 1, *shape))[:, 0]
    return channels
