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

from protoscene.compose.torch_columns import (
    MOST_NUMBERS,
    Between,
    Paste,
    Poses,
    Prototype,
)
from protoscene.lanes import FULL, NEXT_TO_NOTHING


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
    channels: int,
    cap: str,
    keep_total: bool,
    contiguous: bool,
) -> tuple[Tensor, Tensor]:
    """(canvas, A): straight colour and α, (y, x, z, C) or, where ``contiguous``, (C, z, y, x).

    A is flat, (y · x · z,), empty unless ``keep_total``. Both have the common float type of voxels
    and background. ``shape`` is (nz, ny, nx); poses are metres and radians.
    """
    nz, ny, nx = shape
    dtype = voxels.dtype
    if background is not None:
        dtype = torch.promote_types(dtype, background.dtype)
    work = torch.promote_types(dtype, torch.float32)
    layout = (channels, nz, ny, nx) if contiguous else (ny, nx, nz, channels)
    result = voxels.new_zeros(layout, dtype=work)
    canvas = _native(result) if contiguous else result
    if background is not None:
        _start_with(canvas, _native(background))
    place = (which, centre, yaw, scale, presence, origin, voxel_size, shape)
    poses = Poses(table, voxel_sizes, *place)
    entries = table.tolist()
    for k, pastes in poses.pastes():
        prototype = Prototype(voxels, entries[k], channels, work)
        for paste in pastes:
            _paste(canvas, prototype, poses, paste)
    total = canvas.new_empty((ny, nx, nz) if keep_total else (0,), dtype=dtype)
    for slab in _slabs(canvas.shape):
        occupancy, colour = canvas[slab][..., -1], canvas[slab][..., :-1]
        if keep_total:
            total[slab] = occupancy
        colour /= _divisor(occupancy)[..., None]
        if background is not None:
            _keep_untouched(colour, occupancy, _native(background)[slab])
        occupancy.copy_(_capped(occupancy, cap))
    return result.to(dtype), total.flatten()


@torch.no_grad()
def backward(
    gradient: Float[Tensor, "..."],
    canvas: Float[Tensor, "..."],
    total: Float[Tensor, " yxz"],
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
    channels: int,
    cap: str,
    contiguous: bool,
    needs: Sequence[bool],
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
        place = (which, centre, yaw, scale, presence, origin, voxel_size, shape)
        poses = Poses(table, voxel_sizes, *place)
        sums = _Sums(poses, field, need_voxels, need_pose, need_presence)
        entries = table.tolist()
        for k, pastes in poses.pastes():
            prototype = Prototype(voxels, entries[k], channels, work)
            collected = sums.of_prototype(prototype, pastes)
            if need_voxels:
                _write_straight(results[0][prototype.place], prototype, collected)
        found = (*poses.gradients(sums.horizontal, sums.vertical), sums.presence)
        for slot, value in enumerate(found, start=1):
            if needs[slot]:
                results[slot].copy_(value)
    return results[0], results[1], results[2], results[3], results[4], results[5]


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


def _paste(canvas: Tensor, prototype: Prototype, poses: Poses, paste: Paste) -> None:
    """canvas += presence · trilinear(premultiplied prototype) on the placement's crop."""
    z = prototype.vertical(poses, paste)
    rest, share = z.shares.to(canvas.dtype)[:, :, None]
    height, channels = prototype.shape[2:]
    for rows in paste.chunks(height, channels):
        _, index, weights = prototype.horizontal(poses, paste, rows)
        weights = (weights * paste.presence).to(canvas.dtype)
        mixed = prototype.around(index).mul_(weights[..., None]).sum(dim=0)
        mixed = mixed.view(-1, height, channels)
        values = mixed.index_select(1, z.low).mul_(rest)
        values.addcmul_(mixed.index_select(1, z.low + 1), share)
        crop = canvas[_box(paste, rows)]
        crop += values.view(crop.shape)


def _box(paste: Paste, rows: slice) -> tuple[slice, slice, slice]:
    """These rows of a placement's crop, on a (y, x, z, C) canvas."""
    return rows, slice(paste.start[2], paste.stop[2]), slice(paste.start[0], paste.stop[0])


def _keep_untouched(colour: Tensor, occupancy: Tensor, background: Tensor) -> None:
    """Colour is the background's own where nothing else is: (α c) / α may be the next number, and
    the gradient to α divides that difference by α."""
    own = background[..., -1]
    alone = (occupancy == own) & (own > NEXT_TO_NOTHING)
    colour.copy_(torch.where(alone[..., None], background[..., :-1], colour))


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
        self.gradient, self.canvas, self.total = gradient, canvas, total.view(canvas.shape[:3])
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
            slope = (occupancy <= FULL).to(self.work)
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

    def __init__(
        self, poses: Poses, field: _Field, voxels: bool, pose: bool, presence: bool
    ) -> None:
        self.poses, self.field = poses, field
        self.need_voxels, self.need_pose, self.need_presence = voxels, pose, presence
        zeros, n = poses.linear.new_zeros, len(poses.linear)
        self.horizontal, self.vertical, self.presence = zeros((n, 2, 3)), zeros((n, 2)), zeros(n)

    def of_prototype(self, prototype: Prototype, pastes: list[Paste]) -> Tensor:
        """Adds the placements' sums; returns the gradient of the prototype's columns."""
        size = prototype.columns.shape if self.need_voxels else (0,)
        collected = self.horizontal.new_zeros(size)
        for paste in pastes:
            z = prototype.vertical(self.poses, paste)
            for rows in paste.chunks(*prototype.shape[2:]):
                gradient = self.field.on(_box(paste, rows)).flatten(0, 1)
                self._add(collected, prototype, paste, rows, gradient, z)
        return collected

    def _add(
        self,
        collected: Tensor,
        prototype: Prototype,
        paste: Paste,
        rows: slice,
        gradient: Tensor,
        z: Between,
    ) -> None:
        at, index, weights = prototype.horizontal(self.poses, paste, rows)
        # The gradient to the mixture of the prototype's columns.
        spread = gradient.new_zeros((len(gradient), *prototype.shape[2:]))
        rest, share = z.shares.to(gradient.dtype)[:, :, None]
        spread.index_add_(1, z.low, gradient * rest)
        spread.index_add_(1, z.low + 1, gradient * share)
        spread = spread.flatten(1)
        if self.need_voxels:
            shares = spread * (weights * paste.presence)[..., None]
            collected.index_add_(0, index, shares.flatten(0, 1))
        if not (self.need_pose or self.need_presence):
            return
        columns = prototype.around(index)
        dots = (columns * spread).sum(dim=2, dtype=weights.dtype)
        self.presence[paste.row] += (dots * weights).sum()
        if self.need_pose:
            self._add_horizontal(paste.row, dots.view(2, 2, -1), at)
            mixed = columns.mul_(weights.to(columns.dtype)[..., None]).sum(dim=0)
            self._add_vertical(
                paste.row, mixed.view(spread.shape[0], -1, gradient.shape[2]), gradient, z
            )

    def _add_horizontal(self, row: int, dots: Tensor, at: Between) -> None:
        by_x = (at.shares[:, 1] * (dots[:, 1] - dots[:, 0])).sum(dim=0)
        by_y = (at.shares[:, 0] * (dots[1] - dots[0])).sum(dim=0)
        by = torch.stack([by_x, by_y]) * at.inside()
        self.horizontal[row, :, 0] += by.sum(dim=1)
        self.horizontal[row, :, 1:] += by @ at.from_middle().T

    def _add_vertical(self, row: int, mixed: Tensor, gradient: Tensor, z: Between) -> None:
        step = mixed.index_select(1, z.low + 1) - mixed.index_select(1, z.low)
        by = step.mul_(gradient).sum(dim=(0, 2), dtype=self.vertical.dtype) * z.inside()
        self.vertical[row] += torch.stack([by.sum(), by @ z.from_middle()])
