"""Memory, predicted before it is taken and compared with what there is."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Callable
from pathlib import Path

from protoscene.errors import Refused

GIB = 2**30


def available_bytes() -> int:
    """The least of what the system reports as available, and what the control group and the
    process's address space have left below their limits; what cannot be read does not count."""
    found = []
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        if "MemAvailable" in fields:  # not in every sandbox's
            found.append(int(fields["MemAvailable"].split()[0]) * 1024)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        found.append(int(limit.read_text()) - int(used.read_text()))
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        statm = Path("/proc/self/statm")
        used_pages = int(statm.read_text().split()[0]) if statm.is_file() else 0
        found.append(max(0, soft - used_pages * resource.getpagesize()))
    # torchrun says how many of its processes this machine runs; each takes as much.
    return min(found, default=2**62) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def require(parts: dict[str, int], advice: str | Callable[[int], str]) -> None:
    """Raise Refused unless ``parts`` (bytes by what needs them) fit together, with the numbers and
    ``advice``, which may depend on how many bytes there are."""
    needed, there = sum(parts.values()), available_bytes()
    if needed <= there:
        return
    advice = advice if isinstance(advice, str) else advice(there)
    largest = sorted(parts.items(), key=lambda p: -p[1])[:3]
    shares = ", ".join(f"{name} {size / GIB:.1f}" for name, size in largest)
    raise Refused(
        "memory", "GiB", f"needs {needed / GIB:.1f} ({shares}); {advice}",
        f"{there / GIB:.1f} available", f"at least {needed / GIB:.1f}",
    )  # fmt: skip


def give_back() -> None:
    """Hands what was freed back to the system, where the C library can (glibc): it keeps the holes
    that a stage's arrays left, into which the next stage's larger ones do not fit."""
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)


_LIBC = ctypes.CDLL(None)
