"""Which columns of a prototype lie under which columns of the canvas, for torch's compose.

Yaw leaves the vertical alone: every column of the canvas mixes four columns of the prototype and
then interpolates along z. Positions and weights are float64 (float32 on mps, which has nothing
more): a float32 position lands in the neighbouring cell often enough to spoil pose gradients. f and
1 − f are both taken before they are rounded.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

SAME_POSITION = 1e-9
"""Voxels. cos 90° is 6e-17: what should be an empty voxel would get that much occupancy, a full
colour, and from 1 / A a gradient that drowns all others. So close to a voxel's centre is on it."""

MOST_NUMBERS = 2**20
"""Numbers in one temporary array."""


class Paste(NamedTuple):
    """One placement as plain numbers, so that the loop never waits for the device."""

    row: int
    start: tuple[int, int, int]  # z y x of its crop
    stop: tuple[int, int, int]
    offset: tuple[float, float, float]  # x y z, metres: from its centre to canvas voxel 0's centre
    cos: float
    sin: float
    per_metre: tuple[float, float, float]  # x y z: prototype voxels in a metre
    presence: float


class Poses:
    """All placements at once, float64 numpy."""

    def __init__(
        self,
        sizes: np.ndarray,
        voxel_sizes: Any,
        which: Tensor,
        centre: Tensor,
        yaw: Tensor,
        scale: Tensor,
        presence: Tensor,
    ) -> None:
        self.which, self.centre, yaw_numbers, self.scale, self.presence = (
            v.detach().cpu().to(t).numpy()
            for v, t in zip(
                (which, centre, yaw, scale, presence),
                (torch.int64, *[torch.float64] * 4),
                strict=True,
            )
        )
        self.cos, self.sin = np.cos(yaw_numbers), np.sin(yaw_numbers)
        metres = torch.as_tensor(voxel_sizes, dtype=torch.float64).cpu().numpy()[self.which, None]
        self.per_metre = 1 / (self.scale * metres)
        # x y z; support reaches half a voxel beyond the prototype's box.
        self.half = 0.5 * (sizes[self.which][:, ::-1] + 1) / self.per_metre

    def pastes(
        self, origin: Sequence[float], voxel_size: float, shape: Sequence[int]
    ) -> Iterator[tuple[int, list[Paste]]]:
        """Prototype by prototype, the placements of it that touch the canvas."""
        offset = np.asarray(origin) + 0.5 * voxel_size - self.centre
        cos, sin = np.abs(self.cos), np.abs(self.sin)
        along_x, along_y, along_z = self.half.T
        reach = np.stack([cos * along_x + sin * along_y, sin * along_x + cos * along_y, along_z], 1)
        limits = np.array(shape[::-1])
        start = np.ceil((-reach - offset) / voxel_size - 1e-6).clip(0, limits).astype(int)
        stop = np.floor((reach - offset) / voxel_size + 1 + 1e-6).clip(0, limits).astype(int)
        order = np.argsort(self.which, kind="stable")
        order = order[(start < stop).all(axis=1)[order]]
        columns = (
            values[order].tolist()
            for values in (
                np.arange(len(offset)),
                start[:, ::-1],
                stop[:, ::-1],
                offset,
                self.cos,
                self.sin,
                self.per_metre,
                self.presence,
            )
        )
        rows = map(Paste._make, zip(*columns, strict=True))
        for k, group in itertools.groupby(rows, key=lambda paste: int(self.which[paste.row])):
            yield k, list(group)

    def gradients(self, horizontal: Tensor, vertical: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of centre, yaw and scale, from the sums that the backward pass makes for every row.

        ``horizontal[i]`` is Σ (u_x, u_y)ᵀ (1, r_x, r_y) and ``vertical[i]`` Σ u_z (1, r_z): r is
        the position from the prototype's middle in its voxels, u the gradient to it at presence 1.
        """
        (x, x_rx, x_ry), (y, y_rx, y_ry) = (
            horizontal.cpu().double().numpy() * self.presence[:, None, None]
        ).transpose(1, 2, 0)
        z, z_rz = (vertical.cpu().double().numpy() * self.presence[:, None]).T
        mx, my, mz = self.per_metre.T
        centre = np.stack(
            [
                self.sin * my * y - self.cos * mx * x,
                -self.sin * mx * x - self.cos * my * y,
                -mz * z,
            ],
            axis=1,
        )
        yaw = mx / my * x_ry - my / mx * y_rx
        scale = -np.stack([x_rx, y_ry, z_rz], axis=1) / self.scale
        return torch.from_numpy(centre), torch.from_numpy(yaw), torch.from_numpy(scale)


class Axis:
    """Interpolation along one axis of a prototype of n voxels and a shell: n + 2 entries."""

    def __init__(self, position: Tensor, n: int) -> None:
        nearest = position.round()
        position = torch.where((position - nearest).abs_() < SAME_POSITION, nearest, position)
        # Outside, all weight falls on the shell, which is zero.
        clamped = position.clamp(0, n + 1)
        low = clamped.floor().clamp_(max=n)
        self.position, self.n = position, n
        self.low = low.long()
        self.share = clamped - low
        self.rest = 1 - self.share

    def inside(self) -> Tensor:
        """Where the position can move the value, towards larger positions."""
        return (self.position >= 0) & (self.position < self.n + 1)

    def from_middle(self) -> Tensor:
        return self.position - 0.5 * (self.n + 1)


class Prototype:
    """A premultiplied copy of one prototype: a row of ``columns`` is all of a column, z by C."""

    def __init__(self, voxels: Tensor, entry: list[int], channels: int, work: torch.dtype) -> None:
        offset, self.nz, self.ny, self.nx = entry
        self.shape = (self.ny + 2, self.nx + 2, self.nz + 2, channels)
        self.place = slice(offset, offset + int(np.prod(self.shape)))
        self.straight = voxels[self.place].view(self.shape)
        block = self.straight.to(work, copy=True)
        block[..., :-1] *= block[..., -1:].clone()
        self.columns = block.view(self.shape[0] * self.shape[1], -1)
        self.precise = torch.float32 if voxels.device.type == "mps" else torch.float64

    def vertical(self, paste: Paste, voxel_size: float) -> Axis:
        z = self._metres(paste, 2, paste.start[0], paste.stop[0], voxel_size)
        return Axis(z * paste.per_metre[2] + 0.5 * (self.nz + 1), self.nz)

    def horizontal(
        self, paste: Paste, start: int, stop: int, voxel_size: float
    ) -> tuple[Axis, Axis]:
        """Along x and along y, for the columns of the crop's rows ``start`` to ``stop``."""
        x = self._metres(paste, 0, paste.start[2], paste.stop[2], voxel_size)
        y = self._metres(paste, 1, start, stop, voxel_size)[:, None]
        across, along = paste.per_metre[:2]
        own_x = x * (paste.cos * across) + (y * (paste.sin * across) + 0.5 * (self.nx + 1))
        own_y = y * (paste.cos * along) + (0.5 * (self.ny + 1) - x * (paste.sin * along))
        return Axis(own_x.reshape(-1), self.nx), Axis(own_y.reshape(-1), self.ny)

    def _metres(self, paste: Paste, axis: int, start: int, stop: int, voxel_size: float) -> Tensor:
        """From the placement's centre to the canvas's voxel centres."""
        index = torch.arange(start, stop, dtype=self.precise, device=self.columns.device)
        return index * voxel_size + paste.offset[axis]

    def corners(self, x: Axis, y: Axis) -> list[tuple[Tensor, Tensor]]:
        """The four columns around every position, and their weights: x in turn fastest."""
        first = y.low * (self.nx + 2) + x.low
        return [
            (first, y.rest * x.rest),
            (first + 1, y.rest * x.share),
            (first + (self.nx + 2), y.share * x.rest),
            (first + (self.nx + 3), y.share * x.share),
        ]

    def rows_at_once(self, paste: Paste) -> int:
        width, height = paste.stop[2] - paste.start[2], paste.stop[0] - paste.start[0]
        return max(1, MOST_NUMBERS // (width * max(self.nz + 2, height) * self.shape[3]))
