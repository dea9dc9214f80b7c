"""Volumes (C, z, y, x) of any strides into native blocks (ny+2, nx+2, nz+2, C), and back.

On the processor with numba: torch's copy between these layouts takes longer than to compose them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from protoscene import buffers
from protoscene.lanes import transpose
from protoscene.threads import pieces_one_by_one, prefer_tbb

prefer_tbb()


class Flat(NamedTuple):
    """A (C, z, y, x) volume of any strides; ``values`` empty stands for none."""

    values: np.ndarray
    strides: np.ndarray


def flat(volume: Tensor | np.ndarray | None, dtype: np.dtype) -> Flat:
    """A volume as a 1-D view from its first number on."""
    if volume is None:
        return Flat(np.empty(0, dtype), np.zeros(4, np.int64))
    array = volume.detach().numpy() if isinstance(volume, Tensor) else volume
    strides = tuple(s // array.itemsize for s in array.strides)
    extent = 1 + sum((n - 1) * s for n, s in zip(array.shape, strides, strict=True))
    view = np.lib.stride_tricks.as_strided(array, (extent,), (array.itemsize,))
    return Flat(view, np.array(strides))


def block_shape(shape: Sequence[int], channels: int) -> tuple[int, int, int, int]:
    """Of a prototype of (nz, ny, nx) voxels, its shell of zeros included."""
    nz, ny, nx = shape
    return ny + 2, nx + 2, nz + 2, channels


def block(voxels: Tensor, row: Sequence[int], channels: int) -> Tensor:
    """The block (ny+2, nx+2, nz+2, C) of a row (start, nz, ny, nx): a view."""
    start, shape = row[0], block_shape(row[1:], channels)
    return voxels[start : start + math.prod(shape)].view(shape)


def without_shell(native: Tensor) -> Tensor:
    """(C, z, y, x) of a block: a view."""
    return native[1:-1, 1:-1, 1:-1].permute(3, 2, 0, 1)


def pack(rgba: Sequence[Tensor], rows: Sequence[Sequence[int]], channels: int) -> Tensor:
    """The flat tensor that holds (C, z, y, x) volumes of one type and device as blocks at
    ``rows`` (start, nz, ny, nx), zero elsewhere. Differentiable, once."""
    result: Tensor = _Pack.apply(rows, channels, *rgba)
    return result


class _Pack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Sequence[Sequence[int]], channels: int, *rgba: Tensor) -> Tensor:
        ctx.layout = rows, channels
        size = rows[-1][0] + math.prod(block_shape(rows[-1][1:], channels))
        if not _is_fast(rgba[0]):
            voxels = rgba[0].new_zeros(size)
            for volume, row in zip(rgba, rows, strict=True):
                without_shell(block(voxels, row, channels)).copy_(volume)
            return voxels
        array = buffers.empty((size,), rgba[0].numpy().dtype)
        with pieces_one_by_one():
            for volume, row in zip(rgba, rows, strict=True):
                _pack_block(flat(volume, array.dtype), array, *row, (0,) * channels)  # type: ignore[call-arg]
        return torch.from_numpy(array)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, channels = ctx.layout
        needs = ctx.needs_input_grad[2:]
        needed = [row for row, need in zip(rows, needs, strict=True) if need]
        found = iter(_unpacked(gradient, needed, channels))
        return None, None, *(next(found) if need else None for need in needs)


def _unpacked(voxels: Tensor, rows: Sequence[Sequence[int]], channels: int) -> list[Tensor]:
    """Contiguous copies of blocks' (C, z, y, x)."""
    if not _is_fast(voxels):
        return [without_shell(block(voxels, row, channels)).contiguous() for row in rows]
    values = voxels.contiguous().numpy()
    sizes = [channels * math.prod(row[1:]) for row in rows]
    ends = np.cumsum(sizes)
    memory = buffers.empty((sum(sizes),), values.dtype)
    found = []
    for row, size, end in zip(rows, sizes, ends, strict=True):
        volume = memory[end - size : end].reshape(channels, *row[1:])
        with pieces_one_by_one():
            _unpack_block(flat(volume, volume.dtype), values, *row, (0,) * channels)  # type: ignore[call-arg]
        found.append(torch.from_numpy(volume))
    return found


def _is_fast(value: Tensor) -> bool:
    return value.device.type == "cpu" and value.dtype in (torch.float32, torch.float64)


STRIP = 128
"""Voxels along x at a time: as many cache lines as stay at hand."""


@njit(parallel=True, cache=True)
def _pack_block(volume, voxels, start, nz, ny, nx, like):  # type: ignore[no-untyped-def]
    for plane in prange(ny + 2):
        y = np.int64(plane) - 1
        _clear_shell(voxels, start, y + 1, nz, ny, nx, like)
        if 0 <= y < ny:
            _plane(volume.values, volume.strides, voxels, start, y, nz, nx, like, True)


@njit(parallel=True, cache=True)
def _unpack_block(volume, voxels, start, nz, ny, nx, like):  # type: ignore[no-untyped-def]
    for y in prange(ny):
        _plane(volume.values, volume.strides, voxels, start, np.int64(y), nz, nx, like, False)


@njit(cache=True, inline="always")
def _clear_shell(voxels, start, y, nz, ny, nx, like):  # type: ignore[no-untyped-def]
    """Of the block's plane y: all of it, or its rim."""
    channels = len(like)
    per_x = (nz + 2) * channels
    o = start + y * (nx + 2) * per_x
    if y in (0, ny + 1):
        voxels[o : o + (nx + 2) * per_x] = 0
        return
    voxels[o : o + per_x] = 0
    for x in range(1, nx + 1):
        k = o + x * per_x
        voxels[k : k + channels] = 0
        voxels[k + per_x - channels : k + per_x] = 0
    voxels[o + (nx + 1) * per_x : o + (nx + 2) * per_x] = 0


@njit(cache=True, inline="always")
def _plane(values, strides, voxels, start, y, nz, nx, like, is_packing):  # type: ignore[no-untyped-def]
    """The voxels of one y, to the block or from it; ``like`` is as long as there are channels."""
    channels = len(like)
    per_x = (nz + 2) * channels
    o = start + ((y + 1) * (nx + 2) + 1) * per_x + channels
    by_fours = channels == 4 and strides[3] == 1
    for x0 in range(0, nx, STRIP):
        x1 = min(x0 + STRIP, nx)
        fours = x0 + (x1 - x0) // 4 * 4 if by_fours else x0
        for z in range(nz):
            i = z * strides[1] + y * strides[2]
            k = o + z * channels
            for x in range(x0, fours, 4):
                m = k + x * per_x
                if is_packing:
                    transpose(voxels, m, per_x, values, i + x, strides[0])  # type: ignore[call-arg]
                else:
                    transpose(values, i + x, strides[0], voxels, m, per_x)  # type: ignore[call-arg]
            for x in range(fours, x1):
                for c in range(channels):
                    if is_packing:
                        voxels[k + x * per_x + c] = values[i + c * strides[0] + x * strides[3]]
                    else:
                        values[i + c * strides[0] + x * strides[3]] = voxels[k + x * per_x + c]
