"""What a prototype, laid somewhere, explains of what one instant shows.

Of a voxel is seen that it is occupied (o, of colour c), that it is free (f), or nothing. A
prototype of occupancy α and colour p explains

    gain = Σ o (2α − α²) − f α² − β o α mean (c − p)²

voxels more than nothing would: the squared error of occupancy that it saves, less β times what its
colour is off. That is linear in six channels of what was seen, so that the gains of many
prototypes at many places are one matrix product per frequency. Everything stands on the lowest
layer: poses are (x, y, yaw, scale), a turn and a scaling about the middle of the lowest face.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float, Int
from torch import Tensor

DRAWS = 4
"""Of each window's pose, where poses are drawn."""
COLOUR = 5.0
"""β: a colour that is off by .45 costs as much as the voxel is worth."""


def seen_channels(
    rgba: Float[Tensor, "n 4 z y x"], weight: Float[Tensor, "n z y x"]
) -> Float[Tensor, "n 6 z y x"]:
    """o, f, o c (three) and o mean c², from a partial volume and the weight of its voxels (0 is
    unknown)."""
    occupied = rgba[:, 3] * weight
    tinted = rgba[:, :3] * occupied[:, None]
    bright = (rgba[:, :3] * tinted).mean(dim=1)
    return torch.cat([torch.stack([occupied, weight - occupied], 1), tinted, bright[:, None]], 1)


def templates(rgba: Float[Tensor, "n 4 z y x"]) -> Float[Tensor, "n 6 z y x"]:
    """What :func:`seen_channels` are multiplied by, so that the sum is the gain. The colours here
    are times occupancy."""
    alpha, tinted = rgba[:, 3], rgba[:, :3]
    bright = tinted.square().mean(dim=1) / alpha.clamp(min=1e-4)
    own = torch.stack([2 * alpha - alpha**2 - COLOUR * bright, -(alpha**2)], dim=1)
    return torch.cat([own, 2 / 3 * COLOUR * tinted, -COLOUR * alpha[:, None]], dim=1)


def posed(
    volumes: Float[Tensor, "n c z y x"],
    yaw: Float[Tensor, " n"],
    scale: Float[Tensor, " n"],
    offset: Float[Tensor, "n 2"] | None = None,
    shape: tuple[int, int, int] | None = None,
) -> Float[Tensor, "n c d b a"]:
    """Each volume scaled, turned (rad, counter-clockwise) and moved by ``offset`` (x, y in voxels),
    trilinear, zero outside; on (z, b, a) = ``shape`` voxels around the same middle."""
    nz, ny, nx = volumes.shape[2:]
    mz, my, mx = shape or (nz, ny, nx)
    moved = torch.zeros(len(yaw), 2) if offset is None else offset
    cos, sin = torch.cos(yaw) / scale, torch.sin(yaw) / scale
    # affine_grid's coordinates are −1..1 over each side: from the result's to the volume's.
    zero = torch.zeros_like(yaw)
    back_x = -(cos * moved[:, 0] + sin * moved[:, 1]) * 2 / nx
    back_y = -(cos * moved[:, 1] - sin * moved[:, 0]) * 2 / ny
    rows = [
        cos * mx / nx, sin * my / nx, zero, back_x,
        -sin * mx / ny, cos * my / ny, zero, back_y,
        zero, zero, mz / nz / scale, mz / nz / scale - 1,
    ]  # fmt: skip
    theta = torch.stack(rows, dim=-1).reshape(-1, 3, 4)
    at = F.affine_grid(theta, [len(yaw), volumes.shape[1], mz, my, mx], align_corners=False)
    return F.grid_sample(volumes, at, align_corners=False)


def unposed(
    volumes: Float[Tensor, "n c z y x"],
    yaw: Float[Tensor, " n"],
    scale: Float[Tensor, " n"],
    offset: Float[Tensor, "n 2"],
    shape: tuple[int, int, int],
) -> Float[Tensor, "n c d b a"]:
    """The inverse of :func:`posed`: what a prototype's own frame, of ``shape`` voxels, was laid
    on."""
    cos, sin = torch.cos(yaw) / scale, torch.sin(yaw) / scale
    x, y = offset.T
    back = torch.stack([-(cos * x + sin * y), -(cos * y - sin * x)], dim=-1)
    return posed(volumes, -yaw, 1 / scale, back, shape)


def spectra(
    patterns: Float[Tensor, "m 6 z b a"], size: tuple[int, int]
) -> Complex[Tensor, "fy fx p m"]:
    """Of :func:`templates`, for :func:`gains` over ``size`` (y, x) voxels."""
    return torch.fft.rfft2(patterns.flatten(1, 2), s=size).permute(2, 3, 1, 0).conj()


def gains(
    seen: Float[Tensor, "n 6 z y x"], patterns: Complex[Tensor, "fy fx p m"], side: int
) -> Float[Tensor, "n m v u"]:
    """Σ seen · pattern for all (v, u) at which the corner of a pattern of ``side``² columns, as
    high as ``seen``, may lie."""
    size = seen.shape[-2:]
    left = torch.fft.rfft2(seen.flatten(1, 2)).permute(2, 3, 0, 1)
    product = torch.fft.irfft2((left @ patterns).permute(2, 3, 0, 1), s=size)
    return product[..., : size[0] - side + 1, : size[1] - side + 1]


@dataclass(frozen=True, eq=False)
class Poses:
    """Which prototype, turned, scaled and placed how (x y from the slot's middle), and its gain."""

    which: Int[Tensor, " n"]
    yaw: Float[Tensor, " n"]
    scale: Float[Tensor, " n"]
    offset: Float[Tensor, "n 2"]
    gain: Float[Tensor, " n"]

    def __getitem__(self, rows: Tensor) -> Poses:
        return Poses(*(getattr(self, f.name)[rows] for f in fields(self)))


@dataclass(frozen=True, eq=False)
class Looks:
    """The turns (rad) and scales that are tried."""

    yaw: Float[Tensor, " t"]
    scale: Float[Tensor, " t"]

    @classmethod
    def of(cls, n_yaws: int, scales: tuple[float, ...] = (1.0,)) -> Looks:
        yaw = torch.arange(n_yaws) * (2 * math.pi / n_yaws)
        return cls(yaw.repeat(len(scales)), torch.tensor(scales).repeat_interleave(n_yaws))


def explain(
    seen: Float[Tensor, "n 6 z b a"],
    prototypes: Float[Tensor, "K 4 z q p"],
    looks: Looks,
    temperature: float = 0.0,
    random: torch.Generator | None = None,
) -> Poses:
    """The pose of most gain in each window, to a part of a voxel and of a turn; with a temperature,
    ``DRAWS`` of each by softmax(gain / (temperature · occupied voxels)), row after row."""
    k, t = len(prototypes), len(looks.yaw)
    laid = posed(prototypes.repeat_interleave(t, 0), looks.yaw.repeat(k), looks.scale.repeat(k))
    side = prototypes.shape[-1]
    maps = gains(seen, spectra(templates(laid), (seen.shape[-2], seen.shape[-1])), side)
    n, _, v, u = maps.shape
    flat = maps.flatten(1)
    if temperature:
        size = seen[:, 0].sum(dim=(1, 2, 3)).clamp(min=1)
        likely = torch.softmax(flat / (temperature * size[:, None]), dim=1)
        chosen = torch.multinomial(likely, DRAWS, replacement=True, generator=random).flatten()
        row = torch.arange(n).repeat_interleave(DRAWS)
    else:
        chosen, row = flat.argmax(dim=1), torch.arange(n)
    look, at_y, at_x = chosen // (v * u), chosen // u % v, chosen % u
    offset = torch.stack([at_x - (u - 1) / 2, at_y - (v - 1) / 2], dim=1)
    yaw = looks.yaw[look % t]
    if not temperature:
        step = 2 * math.pi / len(torch.unique(looks.yaw))
        yaw = yaw + step * _between(maps, row, look, at_y, at_x, len(torch.unique(looks.yaw)))
        offset = offset + _beside(maps, row, look, at_y, at_x)
    return Poses(look // t, yaw, looks.scale[look % t], offset, flat[row, chosen])


def _between(
    maps: Tensor, row: Tensor, look: Tensor, y: Tensor, x: Tensor, n_yaws: int
) -> Float[Tensor, " n"]:
    """The part of a yaw's step at which the parabola through three has its top."""
    if n_yaws == 1:
        return torch.zeros(len(row))
    first = look // n_yaws * n_yaws
    around = [maps[row, first + (look - first + d) % n_yaws, y, x] for d in (-1, 0, 1)]
    return _top(*around)


def _beside(maps: Tensor, row: Tensor, look: Tensor, y: Tensor, x: Tensor) -> Float[Tensor, "n 2"]:
    """The parts of a voxel, x y, likewise; none at the windows' edges."""
    v, u = maps.shape[-2:]
    parts = []
    for d_y, d_x, inside in ((0, 1, (x > 0) & (x < u - 1)), (1, 0, (y > 0) & (y < v - 1))):
        around = [
            maps[row, look, (y + s * d_y).clamp(0, v - 1), (x + s * d_x).clamp(0, u - 1)]
            for s in (-1, 0, 1)
        ]
        parts.append(torch.where(inside, _top(*around), 0.0))
    return torch.stack(parts, dim=1)


def _top(before: Tensor, at: Tensor, after: Tensor) -> Tensor:
    bend = (2 * at - before - after).clamp(min=1e-6)
    return (0.5 * (after - before) / bend).clamp(-0.5, 0.5)


def averaged(
    seen: Float[Tensor, "n 6 z b a"], poses: Poses, old: Float[Tensor, "K 4 z q p"]
) -> Float[Tensor, "K 4 z q p"]:
    """Prototypes as means of what was seen under them, turned back: occupancy by how often a voxel
    was seen, 0 where it hardly was; one that has no slot stays as it is."""
    per_slot = len(poses.which) // len(seen)
    shown = seen.repeat_interleave(per_slot, 0) if per_slot > 1 else seen
    back = unposed(
        shown[:, :5],
        poses.yaw,
        poses.scale,
        poses.offset,
        (old.shape[2], old.shape[3], old.shape[4]),
    )
    total = torch.zeros(len(old), *back.shape[1:]).index_add_(0, poses.which, back)
    share = total[:, :2].sum(dim=1, keepdim=True)
    alpha = total[:, :1] / (share + 0.2 * per_slot)
    fresh = torch.cat([total[:, 2:] / total[:, :1].clamp(min=1e-3) * alpha, alpha], dim=1)
    used = torch.bincount(poses.which, minlength=len(old)) > 0
    return torch.where(used[:, None, None, None, None], fresh, old)
