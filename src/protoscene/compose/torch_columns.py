"""Which columns of a prototype lie under which columns of the canvas, for torch's compose.

Yaw leaves the vertical alone: every column of the canvas mixes four columns of the prototype and
then interpolates along z. Positions and weights are float64 (float32 on mps, which has nothing
more): a float32 position lands in the neighbouring cell often enough to spoil pose gradients. f and
1 − f are both taken before they are rounded.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from protoscene.geometry import rotation_from_yaw

SAME_POSITION = 1e-9
"""Voxels. cos 90° is 6e-17: what should be an empty voxel would get that much occupancy, a full
colour, and from 1 / A a gradient that drowns all others. So close to a voxel's centre is on it."""

MOST_NUMBERS = 2**21
"""Numbers in one temporary array."""


def precise_type(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


class Paste(NamedTuple):
    """One placement's crop as plain numbers: the loop over them never waits for the device."""

    row: int
    presence: float
    start: tuple[int, int, int]  # z y x
    stop: tuple[int, int, int]

    def chunks(self, height: int, channels: int) -> Iterator[slice]:
        """Rows (along y) of the crop at a time, for prototype columns of ``height`` entries."""
        width, tallest = self.stop[2] - self.start[2], max(height, self.stop[0] - self.start[0])
        rows = max(1, MOST_NUMBERS // (4 * width * tallest * channels))
        for start in range(self.start[1], self.stop[1], rows):
            yield slice(start, min(start + rows, self.stop[1]))


class Poses:
    """All placements on a canvas, float64: their crops, and positions in their prototypes.

    A position is counted in entries of the prototype's block, shell included: 1 is the centre of
    its first voxel. It is linear in the canvas's voxel indices, counted from the crop's start.
    """

    def __init__(
        self,
        table: Tensor,
        voxel_sizes: Any,
        which: Tensor,
        centre: Tensor,
        yaw: Tensor,
        scale: Tensor,
        presence: Tensor,
        origin: Sequence[float],
        voxel_size: float,
        shape: Sequence[int],
    ) -> None:
        self.which = which.detach().cpu().numpy()
        middle, angle, self.scale, self.presence = (
            v.detach().cpu().double().numpy() for v in (centre, yaw, scale, presence)
        )
        metres = torch.as_tensor(voxel_sizes, dtype=torch.float64).cpu().numpy()[self.which, None]
        reach = 0.5 * (table[:, 1:].numpy()[self.which][:, ::-1] + 1)  # x y z, in entries
        own_from_world = rotation_from_yaw(angle).transpose(0, 2, 1)
        world_reach = _times(np.abs(own_from_world).transpose(0, 2, 1), reach * self.scale * metres)
        offset = np.asarray(origin) + 0.5 * voxel_size - middle  # to canvas voxel 0, metres
        limits = np.array(shape[::-1])
        start = np.ceil((-world_reach - offset) / voxel_size - 1e-6).clip(0, limits)
        stop = np.floor((world_reach - offset) / voxel_size + 1 + 1e-6).clip(0, limits)
        self.start, self.stop = start.astype(int), stop.astype(int)
        self.seen = (start < stop).all(axis=1)
        self.slope = own_from_world / (self.scale * metres)[..., None]  # entries a metre
        first = np.where(self.seen[:, None], offset + voxel_size * start, 0)
        constant = _times(self.slope, first) + reach
        linear = np.concatenate([self.slope * voxel_size, constant[..., None]], axis=2)
        precise = precise_type(centre.device)
        self.linear = torch.from_numpy(linear).to(centre.device, precise)
        self.index = torch.arange(max(shape), device=centre.device).to(precise)

    def pastes(self) -> Iterator[tuple[int, list[Paste]]]:
        """Prototype by prototype, the placements of it that touch the canvas."""
        order = np.argsort(self.which, kind="stable")
        order = order[self.seen[order]]
        crops = self.start[order, ::-1].tolist(), self.stop[order, ::-1].tolist()
        rows = map(Paste, order.tolist(), self.presence[order].tolist(), *crops)
        for k, group in itertools.groupby(rows, key=lambda paste: int(self.which[paste.row])):
            yield k, list(group)

    def horizontal(self, paste: Paste, rows: slice) -> Tensor:
        """(2, columns): positions along own x and own y under these rows of the crop."""
        linear = self.linear[paste.row]
        x = self.index[: paste.stop[2] - paste.start[2]]
        y = self.index[rows.start - paste.start[1] : rows.stop - paste.start[1]]
        along_y = torch.addcmul(linear[:2, 3, None], linear[:2, 1, None], y)
        return (along_y[:, :, None] + linear[:2, 0, None, None] * x).flatten(1)

    def vertical(self, paste: Paste) -> Tensor:
        linear = self.linear[paste.row, 2]
        return torch.addcmul(linear[3], linear[2], self.index[: paste.stop[0] - paste.start[0]])

    def gradients(self, horizontal: Tensor, vertical: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of centre, yaw and scale, from sums over each placement's crop.

        With r the position from the prototype's middle and u the gradient to it at presence 1,
        ``horizontal[i]`` is Σ (u_x, u_y)ᵀ (1, r_x, r_y) and ``vertical[i]`` is Σ u_z (1, r_z).
        """
        h = horizontal.cpu().double().numpy() * self.presence[:, None, None]
        v = vertical.cpu().double().numpy() * self.presence[:, None]
        moved = np.concatenate([h[:, :, 0], v[:, :1]], axis=1)
        centre = -_times(self.slope.transpose(0, 2, 1), moved)
        across, along = (np.hypot(self.slope[:, i, 0], self.slope[:, i, 1]) for i in (0, 1))
        yaw = across / along * h[:, 0, 2] - along / across * h[:, 1, 1]
        scale = -np.stack([h[:, 0, 1], h[:, 1, 2], v[:, 1]], axis=1) / self.scale
        return torch.from_numpy(centre), torch.from_numpy(yaw), torch.from_numpy(scale)


def _times(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return (matrices @ vectors[..., None])[..., 0]


class Between:
    """Linear interpolation at positions among n + 2 entries, the first and last of them zero.

    ``last`` is n + 1, a number or a tensor that broadcasts. ``shares`` (2, …) go to the entries
    ``low`` and ``low + 1``; whatever lies outside stands on the first entry.
    """

    def __init__(self, position: Tensor, last: Tensor | float) -> None:
        self.position, self.last = position, last
        within = (position * (position < last - SAME_POSITION)).clamp_(min=0)
        low = (within + SAME_POSITION).floor_()
        share = F.threshold(within - low, SAME_POSITION, 0.0)
        self.low = low.long()
        self.shares = torch.stack([1 - share, share])

    def inside(self) -> Tensor:
        """Where the position can move the value."""
        return (self.position >= 0) & (self.position < self.last - SAME_POSITION)

    def from_middle(self) -> Tensor:
        return self.position - 0.5 * self.last


class Prototype:
    """A premultiplied copy of one prototype: a row of ``columns`` is all of a column, z by C."""

    def __init__(self, voxels: Tensor, entry: list[int], channels: int, work: torch.dtype) -> None:
        offset, nz, ny, nx = entry
        self.shape = (ny + 2, nx + 2, nz + 2, channels)
        self.place = slice(offset, offset + math.prod(self.shape))
        self.straight = voxels[self.place].view(self.shape)
        block = self.straight.to(work, copy=True)
        block[..., :-1] *= block[..., -1:].clone()
        self.columns = block.view(self.shape[0] * self.shape[1], -1)
        precise = precise_type(voxels.device)
        self.last = torch.tensor([[nx + 1], [ny + 1]], device=voxels.device).to(precise)
        self.steps = torch.tensor([[0], [1], [nx + 2], [nx + 3]], device=voxels.device)

    def vertical(self, poses: Poses, paste: Paste) -> Between:
        return Between(poses.vertical(paste), self.shape[2] - 1)

    def horizontal(self, poses: Poses, paste: Paste, rows: slice) -> tuple[Between, Tensor, Tensor]:
        """Positions, the (4 · columns,) columns around them and their weights (4, columns).

        The four are (y, x) = (0, 0), (0, 1), (1, 0), (1, 1) from the lower one.
        """
        at = Between(poses.horizontal(paste, rows), self.last)
        index = at.low[1] * self.shape[1] + at.low[0] + self.steps
        weights = at.shares[:, None, 1] * at.shares[None, :, 0]
        return at, index.flatten(), weights.flatten(0, 1)

    def around(self, index: Tensor) -> Tensor:
        """(4, columns, (n_z + 2) · C)."""
        return self.columns.index_select(0, index).view(4, -1, self.columns.shape[1])
