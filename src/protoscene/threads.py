"""How numba's kernels run in parallel: TBB where it is installed, whatever else numba has if not.

GNU OpenMP kills forked children and stalls beside a busy process; numba's own queue must not be
entered by two Python threads at once. TBB does neither, but its wheel puts the library where the
loader does not look, so it is loaded by its full name first.
"""

from __future__ import annotations

import ctypes
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
