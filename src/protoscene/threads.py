"""How numba's kernels run in parallel: TBB where it is installed, whatever else numba has if not.

GNU OpenMP kills forked children and stalls beside a busy process; numba's own queue must not be
entered by two Python threads at once. TBB does neither, but its wheel puts the library where the
loader does not look, so it is loaded by its full name first.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

import numba


def prefer_tbb() -> None:
    """Set numba's choice; before the first parallel kernel runs."""
    numba.config.THREADING_LAYER_PRIORITY = ["tbb", "workqueue", "omp"]  # type: ignore[attr-defined]
    try:
        files = metadata.files("tbb") or []
    except metadata.PackageNotFoundError:
        return
    for file in files:
        if file.name == "libtbb.so.12":
            ctypes.CDLL(str(file.locate()), mode=ctypes.RTLD_GLOBAL)
            _queue.takes_many = True


class _Queue:
    """Whether several Python threads may start parallel work at once, and the lock if not."""

    def __init__(self) -> None:
        self.takes_many = False
        self.renew()

    def renew(self) -> None:
        self.lock = threading.Lock()


_queue = _Queue()
# A child that was forked while another thread held the lock would wait for ever.
os.register_at_fork(after_in_child=_queue.renew)


@contextmanager
def pieces_one_by_one() -> Iterator[None]:
    """Within, prange hands its iterations out one by one: for work of uneven size. Any number of
    Python threads may be within."""
    with numba.parallel_chunksize(1):
        if _queue.takes_many:
            yield
        else:
            with _queue.lock:
                yield
