"""Faults of a disk and of a machine, put into the calls by which a process writes.

Only for a forked child: the functions of ``os`` are replaced for good.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

CALLS = ("write", "fsync", "replace", "rename", "unlink", "mkdir", "rmdir", "ftruncate")
"""All by which files and folders of protoscene come, change and go; ``open`` apart."""


def _each(names: tuple[str, ...], act: Callable[[int, str, Callable, tuple], Any]) -> None:
    """Every call of these functions of ``os`` becomes ``act(number, name, function, arguments)``,
    counted from 1, in this process and not in its children."""
    here, calls = os.getpid(), 0

    def counted(name: str, function: Callable) -> Callable:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            if os.getpid() != here:
                return function(*arguments, **options)
            calls += 1
            return act(calls, name, lambda *a: function(*a, **options), arguments)

        return call

    for name in names:
        setattr(os, name, counted(name, getattr(os, name)))


def die_at(k: int) -> None:
    """SIGKILL in the place of the k-th call."""

    def act(number: int, _name: str, function: Callable, arguments: tuple) -> Any:
        if number == k:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)

    _each(CALLS, act)


def signal_at(k: int, signal_number: int) -> None:
    """This signal just before the k-th call."""

    def act(number: int, _name: str, function: Callable, arguments: tuple) -> Any:
        if number == k:
            os.kill(os.getpid(), signal_number)
        return function(*arguments)

    _each(CALLS, act)


def count_into(file: int) -> None:
    """A line into the pipe ``file`` for every call: the bytes that it was to write, or 0."""
    write = os.write

    def act(_number: int, name: str, function: Callable, arguments: tuple) -> Any:
        write(file, b"%d\n" % (len(arguments[1]) if name == "write" else 0))
        return function(*arguments)

    _each(CALLS, act)


def record_into(file: int, folder: Path) -> None:
    """Every call that changes something below ``folder``, after it was done, into the descriptor
    ``file``: a line of JSON with its name, its descriptor or paths (relative to ``folder``) and how
    many bytes follow it, and these: what was written."""
    here, above, ours = os.getpid(), os.path.realpath(folder), set()
    write = os.write

    def inside(path: Any, descriptor: int | None = None) -> str:
        if descriptor is not None:
            path = Path(f"/proc/self/fd/{descriptor}").readlink() / path
        return os.path.relpath(os.path.abspath(path), above)  # noqa: PTH100

    def say(name: str, *where: Any, data: bytes = b"") -> None:
        rest = memoryview(json.dumps([name, *where, len(data)]).encode() + b"\n" + data)
        while rest:
            rest = rest[write(file, rest) :]

    def act(name: str, call: Callable, arguments: tuple, options: dict) -> Any:
        result = call(*arguments, **options)
        if name == "open":
            path = inside(Path(f"/proc/self/fd/{result}").readlink())
            if not path.startswith(".."):
                ours.add(result)
                say(name, result, path)
        elif name in ("write", "fsync", "ftruncate", "close"):
            if arguments[0] in ours:
                data = bytes(arguments[1])[:result] if name == "write" else b""
                say(name, arguments[0], data=data)
            if name == "close":
                ours.discard(arguments[0])
        else:
            paths = arguments[: 2 if name in ("rename", "replace") else 1]
            named = [inside(path, options.get("dir_fd")) for path in paths]
            if not named[0].startswith(".."):
                say(name, *named)
        return result

    def recorded(name: str, call: Callable) -> Callable:
        def then(*arguments: Any, **options: Any) -> Any:
            if os.getpid() != here:
                return call(*arguments, **options)
            return act(name, call, arguments, options)

        return then

    for name in (*CALLS, "open", "close"):
        setattr(os, name, recorded(name, getattr(os, name)))


def fail_from(k: int, number_of_error: int, names: tuple[str, ...] = ("write", "fsync")) -> None:
    """The k-th of these calls and all later ones fail with this errno."""

    def act(number: int, _name: str, function: Callable, arguments: tuple) -> Any:
        if number >= k:
            raise OSError(number_of_error, os.strerror(number_of_error))
        return function(*arguments)

    _each(names, act)


def write_short() -> None:
    """No write takes more than a third of what it is given."""

    def act(_number: int, _name: str, function: Callable, arguments: tuple) -> Any:
        file, data = arguments
        return function(file, bytes(data)[: max(1, len(data) // 3)])

    _each(("write",), act)


def lie_about_writes(k: int) -> None:
    """The k-th write says that it took everything, and has lost the last byte."""

    def act(number: int, _name: str, function: Callable, arguments: tuple) -> Any:
        file, data = arguments
        taken = function(file, bytes(data)[:-1] if number == k else data)
        return len(data) if number == k else taken

    _each(("write",), act)


def disk_of(size: int, says_so: bool) -> None:
    """A disk with room for ``size`` bytes; ``says_so``: also to who asks for its free room."""
    used = 0
    Usage = namedtuple("Usage", "total used free")

    def act(_number: int, _name: str, function: Callable, arguments: tuple) -> Any:
        nonlocal used
        file, data = arguments
        room = size - used
        if room <= 0 and len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = function(file, bytes(data)[:room])
        used += taken
        return taken

    _each(("write",), act)
    if says_so:
        shutil.disk_usage = lambda _: Usage(size, used, size - used)  # type: ignore[assignment]
