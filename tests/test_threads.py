"""Kernels run in parallel on TBB, which two Python threads and forked children may use at once."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

import numba
import pytest

from moving_boxes import record, ring
from protoscene.geometry import Grid
from protoscene.observe import ViewStack, observe_instant

GRID = Grid((-1, -1, -0.1), 0.1, (8, 20, 20))


def occupied(seed: int) -> int:
    views = ViewStack.of(record(1, ring(2), lambda i: []).views(0))
    return int(observe_instant(views, GRID, float(seed)).occupied.sum())


@pytest.mark.skipif(not any(d.name == "tbb" for d in metadata.distributions()), reason="no tbb")
def test_tbb_is_the_layer() -> None:
    occupied(0)
    assert numba.threading_layer() == "tbb"


def test_threads_and_forked_children_see_the_same() -> None:
    expected = occupied(0)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(occupied, range(6))) == [expected] * 6
    with multiprocessing.get_context("fork").Pool(2) as children:
        assert children.map(occupied, range(4)) == [expected] * 4
