"""Capsules: pieces of a volume, each a pose, which way it looks the same, and a latent of its
content in its own frame, so that the same piece in another pose has the same latent.

The pose is equivariant by its formulas, without being learnt. Places are the modes of the density
of solid voxels, to which mean shift takes every cell; cells that end in the same place are one
capsule, so that a move of the thing against the cells changes nothing. The nose is the angle of a
complex moment of first order, Σ g ρ (x + iy) over the voxels around, of features g; it turns
by θ if the volume does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from protoscene.gains import posed

SIGMA = 5.0
"""Of the density's Gaussian, in voxels."""
STEPS = 40
"""Of mean shift, which ends before if nothing moves."""
SAME = 4.0
"""Voxels: nearer places are one."""
POOLED = 2
"""Voxels along a side of the blocks that stand for what is solid in mean shift and moments."""
ROUND = 0.06
"""A moment that is a smaller part of Σ ρ |g| r says nothing about the nose."""
WEIGHTS = (1.0, 1.3, 0.8, -1.1, 1.7)
"""Of the moments of height, lightness, redness, blueness and of what is solid."""


@dataclass(frozen=True, eq=False)
class Poses:
    """``centre`` x y z in voxels from the corner; ``yaw`` (rad); ``symmetry``: 1 where the nose is
    known, 2 where only the axis is, 0 where the piece is round, its yaw then being 0."""

    centre: Float[Tensor, "n 3"]
    yaw: Float[Tensor, " n"]
    symmetry: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.yaw)


def solid_blocks(
    rgba: Float[Tensor, "4 z y x"],
) -> tuple[Float[Tensor, "m 3"], Float[Tensor, " m"], Float[Tensor, "m 3"]]:
    """Middles of ``POOLED``³ blocks with anything solid (x y z, voxels), how much is solid and its
    mean colour."""
    tinted = torch.cat([rgba[:3] * rgba[3:], rgba[3:]])
    pooled = F.avg_pool3d(tinted[None], POOLED, ceil_mode=True, count_include_pad=False)[0]
    at = pooled[3].nonzero()
    some = pooled[:, at[:, 0], at[:, 1], at[:, 2]]
    return (at.flip(1) + 0.5) * POOLED, some[3], (some[:3] / some[3]).T


def places(
    at: Float[Tensor, "m 3"], mass: Float[Tensor, " m"], stride: int
) -> Float[Tensor, "n 3"]:
    """Modes of Σ mass · exp(−r² / 2σ²) that mean shift finds from the middle of mass of each
    cell of ``stride``³ voxels; of those closer than ``SAME`` the densest."""
    cell, inverse = torch.unique((at // stride).long(), dim=0, return_inverse=True)
    total = mass.new_zeros(len(cell)).index_add(0, inverse, mass)
    now = at.new_zeros(len(cell), 3).index_add(0, inverse, at * mass[:, None]) / total[:, None]
    density = mass.new_zeros(len(now))
    for some in torch.arange(len(now), device=now.device).split(512):
        for _ in range(STEPS):
            weights = mass * torch.exp(-torch.cdist(now[some], at).square() / (2 * SIGMA**2))
            density[some] = weights.sum(dim=1)
            moved = weights @ at / density[some, None]
            far = (moved - now[some]).abs().max()
            now[some] = moved
            if far < 0.02:
                break
    kept: list[int] = []
    for i in density.argsort(descending=True, stable=True).tolist():
        if not kept or float((now[kept] - now[i]).norm(dim=1).min()) > SAME:
            kept.append(i)
    return now[kept]


def moments(
    offset: Float[Tensor, "n m 2"],
    mass: Float[Tensor, "n m"],
    features: Float[Tensor, "n m f"],
    order: int,
) -> Float[Tensor, "n f 2"]:
    """Σ mass · g · r · e^(i · order · φ) of horizontal offsets r e^iφ, over Σ mass · |g| · r."""
    r = offset.norm(dim=2).clamp(min=1e-6)
    angle = order * torch.atan2(offset[..., 1], offset[..., 0])
    turned = torch.stack([angle.cos(), angle.sin()], dim=2) * (mass * r)[..., None]
    size = torch.einsum("nm,nmf->nf", mass * r, features.abs())
    return torch.einsum("nmf,nmk->nfk", features, turned) / size.clamp(min=1e-6)[..., None]


def poses(rgba: Float[Tensor, "4 z y x"], stride: int = 8, reach: float = 16.0) -> Poses:
    """The capsules' poses of a volume: :func:`places`, and noses from what is within ``reach``."""
    at, mass, colour = solid_blocks(rgba)
    centre = places(at, mass, stride)
    yaws, symmetries = [], []
    for some in centre.split(64):
        apart = at - some[:, None]
        weight = mass * torch.exp(-apart.square().sum(dim=2) / (2 * (reach / 2) ** 2))
        weight = weight * (apart.square().sum(dim=2) < reach**2)
        # Height, and how light, red and blue it is, less their means around.
        own = torch.cat([apart[..., 2:] / reach, _features(colour).expand(len(some), -1, -1)], 2)
        mean = (own * weight[..., None]).sum(1, keepdim=True) / weight.sum(1)[:, None, None]
        own = torch.cat([own - mean, torch.ones_like(own[..., :1])], dim=2)
        first = _summed(moments(apart[..., :2], weight, own, 1))
        second = _summed(moments(apart[..., :2], weight, own, 2))
        has_nose = first.norm(dim=1) > ROUND
        has_axis = second.norm(dim=1) > ROUND
        nose = torch.atan2(first[:, 1], first[:, 0])
        axis = torch.atan2(second[:, 1], second[:, 0]) / 2
        yaws.append(torch.where(has_nose, nose, torch.where(has_axis, axis, 0.0)))
        symmetries.append(torch.where(has_nose, 1, torch.where(has_axis, 2, 0)))
    return Poses(centre, torch.cat(yaws), torch.cat(symmetries))


def _features(colour: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
    light = colour.mean(dim=1)
    return torch.stack([light, colour[:, 0] - light, colour[:, 2] - light], dim=1)


def _summed(found: Float[Tensor, "n f 2"]) -> Float[Tensor, "n 2"]:
    """One moment of all features'. Any fixed weights would do that are not all alike."""
    return (found * found.new_tensor(WEIGHTS)[:, None]).sum(dim=1)


def canonical(
    rgba: Float[Tensor, "4 z y x"], where: Poses, side: int
) -> Float[Tensor, "n 4 side side side"]:
    """Each capsule's surroundings in its own frame, ``side``³ voxels, trilinear: colours times
    occupancy, and occupancy."""
    tinted = torch.cat([rgba[:3] * rgba[3:], rgba[3:]])
    margin = math.ceil(side * 0.71) + 2
    padded = F.pad(tinted, (margin,) * 6)
    around, wide = [], 2 * margin - 2
    corner = (where.centre + 0.5).floor().long() - wide // 2 + margin
    for x, y, z in corner.tolist():
        around.append(padded[:, z : z + wide, y : y + wide, x : x + wide])
    if not around:
        return rgba.new_zeros(0, 4, side, side, side)
    pieces = torch.stack(around)
    part = where.centre - (corner - margin + wide // 2)
    # A shift by the part of a voxel, first along z, which `posed` does not do.
    up = part[:, 2].reshape(-1, 1, 1, 1, 1)
    above, below = pieces.roll(-1, 2), pieces.roll(1, 2)
    pieces = pieces * (1 - up.abs()) + above * up.clamp(min=0) + below * (-up).clamp(min=0)
    low = (wide - side) // 2
    pieces = pieces[:, :, low : low + side]
    # In the own frame the volume is turned back by yaw, after its shift.
    cos, sin = torch.cos(where.yaw), torch.sin(where.yaw)
    x, y = part[:, 0], part[:, 1]
    back = torch.stack([-(cos * x + sin * y), -(cos * y - sin * x)], dim=1)
    shape = (side, side, side)
    return posed(pieces, -where.yaw, torch.ones_like(x), back, shape)


class CapsuleNet(nn.Module):
    """Canonical windows of 32³ voxels ⇄ spatial latents of ``width`` × 4³ numbers."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.into = nn.Sequential(
            nn.AvgPool3d(2), nn.Conv3d(4, 24, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv3d(24, 48, 4, stride=2, padding=1), nn.ReLU(), nn.Conv3d(48, width, 1),
        )  # fmt: skip
        self.out = nn.Sequential(
            nn.Conv3d(width, 48, 1), nn.ReLU(),
            nn.ConvTranspose3d(48, 24, 4, stride=2, padding=1), nn.ReLU(),
            nn.ConvTranspose3d(24, 16, 4, stride=2, padding=1), nn.ReLU(),
            nn.ConvTranspose3d(16, 4, 4, stride=2, padding=1),
        )  # fmt: skip

    def encode(self, windows: Float[Tensor, "n 4 32 32 32"]) -> Float[Tensor, "n w 4 4 4"]:
        """The latents."""
        latents: Tensor = self.into(windows)
        return latents

    def decode(self, latents: Float[Tensor, "n w 4 4 4"]) -> Float[Tensor, "n 4 32 32 32"]:
        """Colours times occupancy, and occupancy, in [0, 1]."""
        windows: Tensor = self.out(latents).sigmoid()
        return torch.cat([windows[:, :3] * windows[:, 3:], windows[:, 3:]], dim=1)


def codebook(
    latents: Float[Tensor, "n d"], k: int, passes: int = 20
) -> Float[Tensor, "k d"]:  # fmt: skip
    """K-means from a farthest-first start; a code that nothing is nearest to becomes the latent
    that is farthest from its own."""
    chosen = [0]
    nearest = (latents - latents[0]).norm(dim=1)
    while len(chosen) < min(k, len(latents)):
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (latents - latents[chosen[-1]]).norm(dim=1))
    codes = latents[chosen].clone()
    for _ in range(passes):
        apart, which = torch.cdist(latents, codes).min(dim=1)
        count = torch.bincount(which, minlength=len(codes))
        total = torch.zeros_like(codes).index_add(0, which, latents)
        codes = total / count.clamp(min=1)[:, None]
        dead = (count == 0).nonzero()[:, 0]
        codes[dead] = latents[apart.argsort(descending=True)[: len(dead)]]
    return codes
