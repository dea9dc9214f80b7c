"""What watches the whole suite: shapes of every protoscene call, and what Python itself reports."""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jaxtyping._import_hook as jaxtyping_hook
from beartype import BeartypeConf, beartype

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "protoscene"

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float


def checked(thing: Any) -> Any:
    """The type checker of the import hook. The command line is left out: it has no shapes, and
    names types that it does not import, to be fast."""
    return thing if thing.__module__.startswith("protoscene.cli") else _beartype(thing)


COMPILED = {"njit", "jit", "vectorize", "guvectorize", "intrinsic", "custom_op", "compile"}
COMPILED |= {"compiled", "inner", "inlined", "passes"}  # what compose calls njit with its options
"""Decorators that read the function itself and cannot take a wrapper: not shape-checked."""


def install_shape_checks() -> None:
    """Check the annotations of every function and dataclass of protoscene when it is called."""
    original = jaxtyping_hook._is_no_type_check

    def is_unchecked(node: Any) -> bool:
        called = getattr(node, "func", node)
        name = getattr(called, "attr", getattr(called, "id", ""))
        return name in COMPILED or name.startswith("register_") or original(node)

    jaxtyping_hook._is_no_type_check = is_unchecked
    jaxtyping_hook.install_import_hook("protoscene", "suite_guard.checked")


violations: list[str] = []
_paused = False


@contextmanager
def collected_violations() -> Iterator[list[str]]:
    """What is noticed inside is handed to the caller instead of failing the test."""
    before = len(violations)
    found: list[str] = []
    try:
        yield found
    finally:
        found.extend(violations[before:])
        del violations[before:]


def install_audit() -> None:
    """From now on, forbidden events raise and are listed in ``violations``."""
    sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    global _paused
    if event not in _CHECKS or _paused:
        return
    _paused = True  # what the check itself opens is not looked at
    try:
        problem = _CHECKS[event](*arguments)
        if problem:
            violations.append(f"{event}: {problem}")
    finally:
        _paused = False
    if problem:
        raise PermissionError(f"{event}: {problem}")


_STDLIB = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")})
_SITE = tuple({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})


def _called_by_protoscene() -> bool:
    """Whether the nearest caller outside the standard library is a file of protoscene."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        standard = file.startswith(("<", *_STDLIB)) and not file.startswith(_SITE)
        if not standard and file != __file__:
            return file.startswith(str(PACKAGE))
        frame = frame.f_back
    return False


def _unpickled(module: str, name: str) -> str | None:
    # Third-party code pickles on its own account (numba's cache, multiprocessing under xdist).
    return f"{module}.{name}" if _called_by_protoscene() else None


def _started(*arguments: Any) -> str | None:
    return f"{arguments[0]!r}" if _called_by_protoscene() else None


def _connected(_socket: Any, address: Any) -> str | None:
    if not isinstance(address, tuple):  # a Unix socket stays on this machine
        return None
    host = str(address[0])
    return None if host.startswith("127.") or host in ("::1", "localhost") else f"{address}"


ALLOWED_FOLDERS = [
    Path(tempfile.gettempdir()).resolve(),  # tmp_path, mypy, chromium's profile
    Path("/dev"),  # null, shared memory of multiprocessing
    Path("/proc"),  # mujoco's and glibc's own settings of a thread's name
    ROOT / ".pytest_cache",
    ROOT / ".hypothesis",
    ROOT / "out",  # pictures that the tests leave to be looked at
    Path.home() / ".cache",  # fonts, shader caches of Mesa, numba's fallback
]
ALLOWED_PARTS = {"__pycache__"}  # byte code, and numba's compiled kernels beside it


def _opened(path: Any, mode: Any, flags: Any) -> str | None:
    writing = isinstance(mode, str) and any(c in mode for c in "wax+")
    if isinstance(flags, int) and mode is None:
        writing = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return _written(path) if writing else None


def _written(path: Any, *_: Any) -> str | None:
    if not isinstance(path, str | bytes | os.PathLike):
        return None  # an open file's number
    place = Path(os.path.realpath(os.fsdecode(path)))
    if ALLOWED_PARTS & set(place.parts):
        return None
    if any(place.is_relative_to(folder) for folder in ALLOWED_FOLDERS):
        return None
    if str(place).startswith(str(ROOT / "pytest-cache-files-")):
        return None  # where pytest makes its cache, before it is renamed to .pytest_cache
    return f"{place} is written outside the temporary folders and caches"


def _renamed(_source: Any, target: Any, *_: Any) -> str | None:
    return _written(target)


_CHECKS = {
    "pickle.find_class": _unpickled,
    "socket.connect": _connected,
    "os.system": _started,
    "subprocess.Popen": _started,
    "open": _opened,
    "os.mkdir": _written,
    "os.rename": _renamed,
    "os.symlink": _renamed,
    "os.link": _renamed,
    "os.truncate": _written,
    "os.exec": _started,
    "os.posix_spawn": _started,
    "socket.bind": _connected,
}
