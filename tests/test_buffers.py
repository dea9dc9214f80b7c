"""Memory used again: zeros are zeros, and no more is kept than said."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from protoscene import buffers

N = buffers.SMALLEST // 4


@pytest.fixture(autouse=True)
def none_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "_free", [])


def test_memory_of_a_result_that_is_gone_is_used_again_and_clear() -> None:
    first = buffers.zeros((3, N), np.dtype(np.float32))
    address = first.ctypes.data
    first[:] = 7
    del first
    again = buffers.zeros((N, 3), np.dtype(np.float32))
    assert again.ctypes.data == address
    assert not again.any()


def test_memory_still_referred_to_is_not_used_again() -> None:
    first = buffers.zeros((N,), np.dtype(np.float32))
    part = first[1:].reshape(-1)
    del first
    assert not np.shares_memory(buffers.empty((N,), np.dtype(np.float32)), part)


def test_small_arrays_and_other_sizes_are_not_mixed_up() -> None:
    del_me = buffers.empty((2 * N,), np.dtype(np.float32))
    del del_me
    assert buffers.empty((N,), np.dtype(np.float64)).shape == (N,)
    assert buffers.zeros((5,), np.dtype(np.float32)).tolist() == [0] * 5


def test_only_so_much_is_kept() -> None:
    held = [buffers.empty((N,), np.dtype(np.float32)) for _ in range(buffers.MOST + 2)]
    del held
    gc.collect()
    assert len(buffers._free) == buffers.MOST
