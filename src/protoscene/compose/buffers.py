"""Large arrays whose memory is used again.

The system hands out fresh memory page by page, clearing it: for a canvas of 268 MB that takes as
long as composing into it, or much longer where it has no huge pages to give. So memory of a result
that is no longer referenced is kept for the next result of the same size.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

SMALLEST = 2**24
"""Bytes; smaller arrays come from the allocator's own store."""
MOST = 2
"""Arrays that are kept."""
_free: list[np.ndarray] = []


class _Lease:
    """What a handed out array refers to: when that is gone, its memory is free again."""

    def __init__(self, memory: np.ndarray) -> None:
        self.memory = memory
        self.__array_interface__: dict[str, Any] = memory.__array_interface__

    def __del__(self) -> None:
        _free.append(self.memory)
        del _free[:-MOST]


def zeros_or_used(shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, bool]:
    """An array, and whether it holds zeros (else anything)."""
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes < SMALLEST:
        return np.zeros(shape, dtype), True
    for _ in range(len(_free)):
        try:
            memory = _free.pop(0)
        except IndexError:  # another thread was faster
            break
        if memory.nbytes == n_bytes:
            return _leased(memory, shape, dtype), False
        _free.append(memory)
    return _leased(np.zeros(n_bytes, np.uint8), shape, dtype), True


def _leased(memory: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return np.asarray(_Lease(memory)).view(dtype).reshape(shape)
