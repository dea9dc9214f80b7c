"""How fast this machine moves memory, and how long composing must take at that rate.

The least that a forward pass moves: the canvas, written once, and the prototypes' blocks, read.
Where all blocks together fit into the last-level cache each is read from memory once; where they do
not, each placement reads its prototype's block anew. The rate is that of a parallel copy between
two buffers that are used again and again, read and written bytes together.
"""

from __future__ import annotations

from pathlib import Path

import numba
import numpy as np
from compose_workloads import Workload

FLOAT = 4


def bytes_to_move(workload: Workload, cache: int) -> int:
    """The least that composing ``workload`` moves, with a last-level cache of ``cache`` bytes."""
    block = FLOAT * workload.channels * (workload.size + 2) ** 3
    fits = workload.n_prototypes * block <= cache
    reads = workload.n_prototypes if fits else workload.n_placements
    return reads * block + FLOAT * workload.channels * workload.canvas**3


def last_level_cache(cpu: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Bytes of the largest cache that the system reports; 32 MiB where it does not."""
    units = {"K": 2**10, "M": 2**20}
    sizes = [f.read_text().strip() for f in cpu.glob("index*/size")]
    return max((int(s[:-1]) * units[s[-1]] for s in sizes), default=32 * 2**20)


class Copy:
    """``copy()`` moves ``n_bytes``, ``read()`` and ``fill()`` half of it, on all threads.

    ``rows`` × 1024 numbers: two buffers of 256 MiB, more than any cache.
    """

    def __init__(self, rows: int = 2**16) -> None:
        self.n_bytes = 2 * FLOAT * rows * 1024
        self._source = np.ones((rows, 1024), dtype=np.float32)
        self._target = np.zeros_like(self._source)
        self._sums = np.zeros(len(self._source), dtype=np.float32)

    def copy(self) -> None:
        _copy(self._source, self._target)

    def read(self) -> None:
        _read(self._source, self._sums)

    def fill(self) -> None:
        _fill(self._target)


@numba.njit(parallel=True, cache=True)
def _copy(source: np.ndarray, target: np.ndarray) -> None:
    for row in numba.prange(source.shape[0]):
        for i in range(source.shape[1]):
            target[row, i] = source[row, i]


@numba.njit(parallel=True, cache=True, fastmath=True)
def _read(source: np.ndarray, sums: np.ndarray) -> None:
    for row in numba.prange(source.shape[0]):
        total = np.float32(0)
        for i in range(source.shape[1]):
            total += source[row, i]
        sums[row] = total


@numba.njit(parallel=True, cache=True)
def _fill(target: np.ndarray) -> None:
    for row in numba.prange(target.shape[0]):
        for i in range(target.shape[1]):
            target[row, i] = 1.5
