"""Large arrays whose memory is used again.

The system hands out fresh memory page by page, clearing it: for a canvas of 268 MB that takes as
long as composing into it, or much longer where it has no huge pages to give. So memory of a result
that is no longer referenced is kept for the next result of the same size.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numba import njit, prange

from protoscene.threads import pieces_one_by_one, prefer_tbb

prefer_tbb()

SMALLEST = 2**24
"""Bytes; smaller arrays come from the allocator's own store."""
MOST = 4
"""Arrays that are kept: a step of compose has a canvas, its occupancy, a pile of tiles, and the
prototypes' gradient."""
_free: list[np.ndarray] = []


class _Lease:
    """What a handed out array refers to: when that is gone, its memory is free again."""

    def __init__(self, memory: np.ndarray) -> None:
        self.memory = memory
        self.__array_interface__: dict[str, Any] = memory.__array_interface__

    def __del__(self) -> None:
        _free.append(self.memory)
        del _free[:-MOST]


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array that may hold anything."""
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes < SMALLEST:
        return np.empty(shape, dtype)
    used = _used(n_bytes)
    return _leased(np.empty(n_bytes, np.uint8) if used is None else used, shape, dtype)


def zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array of zeros; fresh memory is zero already."""
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes < SMALLEST:
        return np.zeros(shape, dtype)
    used = _used(n_bytes)
    if used is None:
        return _leased(np.zeros(n_bytes, np.uint8), shape, dtype)
    with pieces_one_by_one():
        _clear(used, numba.get_num_threads())
    return _leased(used, shape, dtype)


@njit(parallel=True, cache=True)
def _clear(memory, n):  # type: ignore[no-untyped-def]
    """In n pieces: only large ones are cleared past the caches, several times as fast."""
    size = -(-len(memory) // n)
    for j in prange(n):
        memory[j * size : (j + 1) * size] = 0


def _used(n_bytes: int) -> np.ndarray | None:
    for _ in range(len(_free)):
        try:
            memory = _free.pop(0)
        except IndexError:  # another thread was faster
            break
        if memory.nbytes == n_bytes:
            return memory
        _free.append(memory)
    return None


def _leased(memory: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return np.asarray(_Lease(memory)).view(dtype).reshape(shape)
