"""compose with torch's own operators: any device, any float type, forward and backward by hand.

Each placement is computed on the crop that its support reaches, a few rows of it at a time: memory
is the canvas, a prototype or two and some 64 MB. Half types are computed in float32; the sums of
gradients are float64 (float32 on mps).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from protoscene.compose.torch_columns import MOST_NUMBERS, Axis, Paste, Poses, Prototype

NEXT_TO_NOTHING = 1e-30
"""Occupancy up to this is none: dividing by it would overflow."""


@torch.no_grad()
def forward(
    voxels: Float[Tensor, " n_numbers"],
    table: Int[Tensor, "k 4"],
    voxel_sizes: Sequence[float] | Float[Tensor, " k"],
    which: Int[Tensor, " n"],
    centre: Float[Tensor, "n 3"],
    yaw: Float[Tensor, " n"],
    scale: Float[Tensor, "n 3"],
    presence: Float[Tensor, " n"],
    background: Float[Tensor, "c z y x"] | None,
    origin: Sequence[float],
    voxel_size: float,
    shape: Sequence[int],
    cap: str,
    keep_total: bool,
    contiguous: bool,
) -> tuple[Tensor, Tensor]:
    """(canvas, A): straight colour and α, (y, x, z, C) or, where ``contiguous``, (C, z, y, x).

    A is (y, x, z), empty unless ``keep_total``, at least float32; canvas has the common float type
    of voxels and background. ``shape`` is (nz, ny, nx); poses are metres and radians.
    """
    nz, ny, nx = shape
    channels = _channels(voxels, table, background)
    dtype = voxels.dtype
    if background is not None:
        dtype = torch.promote_types(dtype, background.dtype)
    work = torch.promote_types(dtype, torch.float32)
    layout = (channels, nz, ny, nx) if contiguous else (ny, nx, nz, channels)
    result = voxels.new_zeros(layout, dtype=work)
    canvas = _native(result) if contiguous else result
    if background is not None:
        _start_with(canvas, _native(background))
    poses = Poses(table[:, 1:].numpy(), voxel_sizes, which, centre, yaw, scale, presence)
    entries = table.tolist()
    for k, pastes in poses.pastes(origin, voxel_size, shape):
        prototype = Prototype(voxels, entries[k], channels, work)
        for paste in pastes:
            _paste(canvas, prototype, paste, voxel_size)
    total = canvas.new_empty((ny, nx, nz) if keep_total else (0,))
    for slab in _slabs(canvas.shape):
        occupancy = canvas[slab][..., -1]
        if keep_total:
            total[slab] = occupancy
        canvas[slab][..., :-1] /= _divisor(occupancy)[..., None]
        occupancy.copy_(_capped(occupancy, cap))
    return result.to(dtype), total


@torch.no_grad()
def backward(
    gradient: Float[Tensor, "..."],
    canvas: Float[Tensor, "..."],
    total: Float[Tensor, "y x z"],
    voxels: Float[Tensor, " n_numbers"],
    table: Int[Tensor, "k 4"],
    voxel_sizes: Sequence[float] | Float[Tensor, " k"],
    which: Int[Tensor, " n"],
    centre: Float[Tensor, "n 3"],
    yaw: Float[Tensor, " n"],
    scale: Float[Tensor, "n 3"],
    presence: Float[Tensor, " n"],
    background: Float[Tensor, "c z y x"] | None,
    origin: Sequence[float],
    voxel_size: float,
    shape: Sequence[int],
    cap: str,
    needs: Sequence[bool],
    contiguous: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of voxels, centre, yaw, scale, presence and background; empty where not needed.

    ``gradient`` is that of :func:`forward`'s canvas, ``canvas`` and ``total`` what it returned.
    Each result has its input's float type. The shell's is zero; with the hard cap there is none to
    occupancy where A ≥ 1.
    """
    if contiguous:
        gradient, canvas = _native(gradient), _native(canvas)
    work = torch.promote_types(canvas.dtype, torch.float32)
    field = _Field(gradient, canvas, total, cap, work)
    need_voxels, need_pose, need_presence = needs[0], any(needs[1:4]), needs[4]
    inputs = (voxels, centre, yaw, scale, presence)
    results = [v.new_zeros(v.shape if n else 0) for v, n in zip(inputs, needs, strict=False)]
    results.append(_background_gradient(field, background if needs[5] else None, voxels))
    if need_voxels or need_pose or need_presence:
        poses = Poses(table[:, 1:].numpy(), voxel_sizes, which, centre, yaw, scale, presence)
        sums = _Sums(len(which), voxels, need_voxels, need_pose, need_presence)
        entries = table.tolist()
        for k, pastes in poses.pastes(origin, voxel_size, shape):
            prototype = Prototype(voxels, entries[k], canvas.shape[3], work)
            collected = sums.of_prototype(prototype, pastes, field, voxel_size)
            if need_voxels:
                _write_straight(results[0][prototype.place], prototype, collected)
        found = (*poses.gradients(sums.horizontal, sums.vertical), sums.presence)
        for slot, value in enumerate(found, start=1):
            if needs[slot]:
                results[slot].copy_(value)
    return results[0], results[1], results[2], results[3], results[4], results[5]


def _channels(voxels: Tensor, table: Tensor, background: Tensor | None) -> int:
    if len(table):
        return voxels.numel() // int((table[:, 1:] + 2).prod(dim=1).sum())
    return 4 if background is None else background.shape[0]


def _native(volume: Tensor) -> Tensor:
    """(C, z, y, x) seen as (y, x, z, C)."""
    return volume.permute(2, 3, 1, 0)


def _slabs(shape: Sequence[int]) -> Iterator[slice]:
    """Some rows of a (y, x, z, C) volume at a time."""
    rows = max(1, MOST_NUMBERS // max(1, int(np.prod(shape[1:]))))
    for start in range(0, shape[0], rows):
        yield slice(start, min(start + rows, shape[0]))


def _start_with(canvas: Tensor, background: Tensor) -> None:
    for slab in _slabs(canvas.shape):
        part = background[slab].to(canvas.dtype)
        canvas[slab][..., -1] = part[..., -1]
        torch.mul(part[..., :-1], part[..., -1:], out=canvas[slab][..., :-1])


def _paste(canvas: Tensor, prototype: Prototype, paste: Paste, voxel_size: float) -> None:
    """canvas += presence · trilinear(premultiplied prototype) on the placement's crop."""
    z = prototype.vertical(paste, voxel_size)
    rest, share = (v.to(canvas.dtype)[:, None] for v in (z.rest, z.share))
    (z_start, y_start, x_start), (z_stop, y_stop, x_stop) = paste.start, paste.stop
    rows = prototype.rows_at_once(paste)
    for start in range(y_start, y_stop, rows):
        stop = min(start + rows, y_stop)
        corners = prototype.corners(*prototype.horizontal(paste, start, stop, voxel_size))
        mixed: Tensor | None = None
        for index, weight in corners:
            column = prototype.columns.index_select(0, index)
            weight = (weight * paste.presence).to(canvas.dtype)[:, None]
            mixed = column.mul_(weight) if mixed is None else mixed.addcmul_(column, weight)
        assert mixed is not None
        mixed = mixed.view(len(mixed), prototype.nz + 2, -1)
        values = mixed.index_select(1, z.low).mul_(rest)
        values.addcmul_(mixed.index_select(1, z.low + 1), share)
        crop = canvas[start:stop, x_start:x_stop, z_start:z_stop]
        crop += values.view(crop.shape)


def _divisor(occupancy: Tensor) -> Tensor:
    """What colour times occupancy is divided by: A, infinity where there is nothing."""
    return torch.where(occupancy > NEXT_TO_NOTHING, occupancy, torch.inf)


def _capped(occupancy: Tensor, cap: str) -> Tensor:
    if cap == "smooth":
        return occupancy * (1 + occupancy**4) ** -0.25
    return occupancy.clamp(max=1)


class _Field:
    """The gradient of Σ aᵢcᵢ and Σ aᵢ on any crop of the canvas."""

    def __init__(
        self, gradient: Tensor, canvas: Tensor, total: Tensor, cap: str, work: torch.dtype
    ) -> None:
        self.gradient, self.canvas, self.total = gradient, canvas, total
        self.cap, self.work = cap, work

    def on(self, crop: tuple[slice, ...] | slice, straight: Tensor | float = 0.0) -> Tensor:
        """(…, C): colours' g / A, occupancy's g·cap'(A) + Σ g·(c_straight − c) / A.

        With a term's own straight colour the last is the gradient of its straight occupancy: what
        cancels there does so before anything is rounded.
        """
        gradient, canvas = self.gradient[crop], self.canvas[crop]
        occupancy = self.total[crop].to(self.work)
        if self.cap == "hard":  # A may have been kept above 1 alone
            occupancy = torch.where(occupancy > 0, occupancy, canvas[..., -1].to(self.work))
            slope = (occupancy < 1).to(self.work)
        else:
            slope = (1 + occupancy**4) ** -1.25
        result = canvas.new_empty(canvas.shape, dtype=self.work)
        colour = result[..., :-1]
        torch.div(gradient[..., :-1], _divisor(occupancy)[..., None], out=colour)
        difference = straight - canvas[..., :-1]
        result[..., -1] = gradient[..., -1] * slope + (colour * difference).sum(dim=-1)
        return result


def _background_gradient(field: _Field, background: Tensor | None, like: Tensor) -> Tensor:
    if background is None:
        return like.new_zeros(0)
    result = torch.empty_like(background)
    native, straight = _native(result), _native(background)
    for slab in _slabs(straight.shape):
        found = field.on(slab, straight[slab][..., :-1])
        found[..., :-1] *= straight[slab][..., -1:]
        native[slab] = found.to(result.dtype)
    return result


def _write_straight(result: Tensor, prototype: Prototype, collected: Tensor) -> None:
    inner = (slice(1, -1),) * 3
    found, straight = collected.view(prototype.shape)[inner], prototype.straight[inner]
    found[..., -1] += (found[..., :-1] * straight[..., :-1]).sum(dim=-1)
    found[..., :-1] *= straight[..., -1:]
    result.view(prototype.shape)[inner] = found.to(result.dtype)


class _Sums:
    """Sums over each placement's crop that the gradients are made from."""

    def __init__(self, n: int, voxels: Tensor, voxels_too: bool, pose: bool, presence: bool):
        self.voxels_too, self.pose, self.scalars = voxels_too, pose, pose or presence
        self.precise = torch.float32 if voxels.device.type == "mps" else torch.float64
        self.horizontal = voxels.new_zeros((n, 2, 3), dtype=self.precise)
        self.vertical = voxels.new_zeros((n, 2), dtype=self.precise)
        self.presence = voxels.new_zeros(n, dtype=self.precise)

    def of_prototype(
        self, prototype: Prototype, pastes: list[Paste], field: _Field, voxel_size: float
    ) -> Tensor:
        """Adds the placements' sums; returns the gradient of the prototype's columns."""
        size = prototype.columns.shape if self.voxels_too else (0,)
        collected = prototype.columns.new_zeros(size, dtype=self.precise)
        for paste in pastes:
            z = prototype.vertical(paste, voxel_size)
            rows = prototype.rows_at_once(paste)
            for start in range(paste.start[1], paste.stop[1], rows):
                stop = min(start + rows, paste.stop[1])
                crop = (slice(start, stop), slice(paste.start[2], paste.stop[2]))
                gradient = field.on((*crop, slice(paste.start[0], paste.stop[0])))
                x, y = prototype.horizontal(paste, start, stop, voxel_size)
                self._add(collected, prototype, paste, gradient.flatten(0, 1), x, y, z)
        return collected

    def _add(
        self,
        collected: Tensor,
        prototype: Prototype,
        paste: Paste,
        gradient: Tensor,
        x: Axis,
        y: Axis,
        z: Axis,
    ) -> None:
        # The prototype's columns as they stand under each of the canvas's: gradient to them.
        spread = gradient.new_zeros((len(gradient), prototype.nz + 2, gradient.shape[2]))
        for index, weight in ((z.low, z.rest), (z.low + 1, z.share)):
            spread.index_add_(1, index, gradient * weight.to(gradient.dtype)[:, None])
        spread = spread.flatten(1)
        corners = prototype.corners(x, y)
        if self.voxels_too:
            for index, weight in corners:
                collected.index_add_(0, index, spread * (weight * paste.presence)[:, None])
        if not self.scalars:
            return
        dots, mixed = [], torch.zeros_like(spread) if self.pose else None
        for index, weight in corners:
            column = prototype.columns.index_select(0, index)
            if mixed is not None:
                mixed.addcmul_(column, weight.to(column.dtype)[:, None])
            dots.append(column.mul_(spread).sum(dim=1, dtype=self.precise))
        self.presence[paste.row] += sum(d @ w for d, (_, w) in zip(dots, corners, strict=True))
        if mixed is not None:
            self._add_pose(paste.row, dots, mixed, gradient, x, y, z)

    def _add_pose(
        self,
        row: int,
        dots: list[Tensor],
        mixed: Tensor,
        gradient: Tensor,
        x: Axis,
        y: Axis,
        z: Axis,
    ) -> None:
        by_x = (y.rest * (dots[1] - dots[0]) + y.share * (dots[3] - dots[2])) * x.inside()
        by_y = (x.rest * (dots[2] - dots[0]) + x.share * (dots[3] - dots[1])) * y.inside()
        arms = torch.stack([torch.ones_like(by_x), x.from_middle(), y.from_middle()], dim=1)
        self.horizontal[row] += torch.stack([by_x, by_y]) @ arms
        mixed = mixed.view(len(mixed), -1, gradient.shape[2])
        step = mixed.index_select(1, z.low + 1) - mixed.index_select(1, z.low)
        by_z = step.mul_(gradient).sum(dim=(0, 2), dtype=self.precise) * z.inside()
        self.vertical[row] += torch.stack([by_z.sum(), by_z @ z.from_middle()])
