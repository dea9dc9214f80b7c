"""Names found in a recording → files inside its folder. Nothing else opens what a manifest names.

Inputs are not trusted: a name may try to leave the folder, and what it names may be a device.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from protoscene.errors import Refused

MAX_NAME = 4096
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFSOCK: "a socket",
}


def resolve_inside(root: Path, name: str, file: Path, field: str) -> Path:
    """``root / name``, which is inside ``root`` even after symbolic links are followed.

    Raises Refused, naming ``file`` and ``field`` (where the name stood): an empty, overlong or
    absolute name, one with ``..``, a backslash, a drive or control characters, a link that leaves
    the folder. Whether the file exists is not asked here.
    """
    problem = None
    if not name or len(name) > MAX_NAME:
        problem = "file name is empty or longer than 4096 characters"
    elif not all(c.isprintable() for c in name):
        problem = "file name has control characters"
    elif name.startswith("/") or "\\" in name or re.match("[A-Za-z]:", name):
        problem = "file name is not relative to the recording's folder"
    elif ".." in name.split("/"):
        problem = "file name leaves the recording's folder"
    if problem:
        raise Refused(file, field, problem, got=name, expected="a name inside the folder, with /")
    path = root / name
    try:
        real = Path(os.path.realpath(path))
        inside = real.is_relative_to(os.path.realpath(root))
    except (OSError, ValueError) as error:
        raise Refused(file, field, f"file name cannot be used: {error}", got=name) from error
    if not inside:
        raise Refused(file, field, "symbolic link leaves the recording's folder", got=name)
    return path


def require_regular(path: Path, field: str) -> int:
    """Size in bytes of a regular, non-empty file; never opens it, so a FIFO cannot hang us."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except FileNotFoundError as error:
        raise Refused(path, field, "file is missing") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Refused(path, field, f"file cannot be read: {reason}") from error
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise Refused(path, field, "not a regular file", got=kind, expected="a file")
    if found.st_size == 0:
        raise Refused(path, field, "file is empty", got="0 bytes")
    return found.st_size


def read_file(path: Path, field: str, limit: int) -> bytes:
    """The whole of a regular file of at most ``limit`` bytes."""
    size = require_regular(path, field)
    if size > limit:
        expected = f"at most {limit / 1e6:.0f} MB"
        raise Refused(
            path, field, "file is too large", got=f"{size / 1e6:.0f} MB", expected=expected
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise Refused(path, field, f"file cannot be read: {error.strerror}") from error
