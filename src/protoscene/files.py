"""Files and folders that are complete or absent: written beside their place, verified, renamed.

``prepare_output`` refuses before work starts, ``OutputLock`` keeps other writers out while it runs,
``write_file`` and ``new_folder`` put one file or one folder into place.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from protoscene.errors import Failed, Refused

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk, a quota or a file with no more room."""
LONGEST_NAME = 200
"""Bytes in an output's name, so that the name of its temporary sibling fits as well."""


def prepare_output(path: Path) -> None:
    """Raises Refused where ``path`` cannot become a new file or folder: it exists, its parent is
    missing or not writable. Writes nothing."""
    path = Path(path)
    if os.path.lexists(path):
        raise Refused(path, "output", "exists already; protoscene overwrites nothing")
    parent = path.absolute().parent
    if not parent.exists():
        raise Refused(path, "output", "its parent folder does not exist")
    if not parent.is_dir():
        raise Refused(path, "output", "its parent is not a folder")
    if len(os.fsencode(path.name)) > LONGEST_NAME or path.name in ("", ".."):
        raise Refused(path, "output", "not a usable name", expected=f"1 to {LONGEST_NAME} bytes")
    effective = os.access in os.supports_effective_ids
    if not os.access(parent, os.W_OK | os.X_OK, effective_ids=effective):
        raise Refused(path, "output", "its parent folder is not writable")


_held: set[int] = set()
"""Descriptors of the locks that this process holds."""


def _let_go() -> None:
    """A forked child shares its parent's locks, and would hold them on after a killed parent."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


class OutputLock:
    """The right to write ``path``, held from entry to exit: one process at a time.

    The lock is an ``flock`` on the sibling ``.NAME.lock``, which holds the process number; it ends
    with the process, so a killed one blocks nobody. Entering also runs :func:`prepare_output` and
    removes temporary siblings that a killed process left. Raises Refused naming the process that
    is writing.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._file = self.path.absolute().parent / f".{self.path.name}.lock"
        self._descriptor = -1

    def __enter__(self) -> OutputLock:
        prepare_output(self.path)
        try:
            self._descriptor = self._acquire()
            _held.add(self._descriptor)
            prepare_output(self.path)  # it may have appeared before the lock was ours
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, f"{os.getpid()}\n".encode())
            self._remove_stale()
        except BaseException as error:
            self._release()
            _explain(error, self._file, self.path)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._release()

    def _acquire(self) -> int:
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self._file, flags, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_current(descriptor):
                    return descriptor
            except BlockingIOError:
                holder = os.read(descriptor, 32).decode(errors="replace").strip()
                os.close(descriptor)
                who = f"process {holder}" if holder else "another process"
                raise Refused(self.path, "output", f"is being written by {who}") from None
            except OSError as error:
                os.close(descriptor)
                problem = f"this file system does not lock files: {error.strerror}"
                raise Refused(self.path, "output", problem) from None
            os.close(descriptor)  # the holder removed this lock file just now: take the next one

    def _is_current(self, descriptor: int) -> bool:
        try:
            named = self._file.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(descriptor))

    def _release(self) -> None:
        if self._descriptor not in _held:
            return  # a child's, which has let go
        _held.remove(self._descriptor)
        try:  # before the lock is let go, so that the file is ours
            _remove(self._file)
        except BaseException:  # a signal, just now
            _remove(self._file)
            raise
        finally:
            os.close(self._descriptor)

    def _remove_stale(self) -> None:
        for entry in self._file.parent.iterdir():
            if _temporary_of(entry.name) == self.path.name:
                _remove(entry)


def write_file(path: Path, data: bytes) -> None:
    """Puts ``data`` at ``path``, complete or not at all; a file already there is replaced.

    Written to a temporary sibling with the umask's mode, flushed to disk, read back and compared,
    renamed. Raises Failed where the bytes read back differ, OSError (of ``path``) where the disk
    refuses.
    """
    path = Path(path)
    temporary = _temporary_sibling(path)
    try:
        _write_durably(temporary, data)
        temporary.replace(path)
        _sync_folder(path.absolute().parent)
    except BaseException as error:
        _remove(temporary)
        _explain(error, temporary, path, len(data))
        raise


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary sibling folder that becomes ``path`` when the block ends, and is removed when
    the block raises. Write into it with :func:`write_file`. Raises Refused if ``path`` exists; an
    OSError of what is inside names ``path``, as the rest is gone."""
    path = Path(path)
    temporary = _temporary_sibling(path)
    try:
        temporary.mkdir()
        yield temporary
        for folder in [p for p in temporary.rglob("*") if p.is_dir()]:
            _sync_folder(folder)
        _sync_folder(temporary)
        prepare_output(path)
        temporary.rename(path)
        _sync_folder(path.absolute().parent)
    except BaseException as error:
        _remove(temporary)
        _explain(error, temporary, path)
        raise


def make_folder(path: Path) -> None:
    """Makes a folder, and those above it that are missing, whose names survive a power cut."""
    path = path.absolute()
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _sync_folder(path.parent)


def discard_folder(path: Path) -> None:
    """Removes a folder whole, if it is there, and what is left of it where an earlier call was
    killed. A process that is killed meanwhile leaves all of it, or what the next call and
    :func:`remove_temporaries` remove."""
    if path.exists():
        path.rename(_temporary_sibling(path))
    for entry in path.absolute().parent.iterdir():
        if _temporary_of(entry.name) == path.name:
            _remove(entry)


def remove_temporaries(folder: Path) -> None:
    """Removes what killed processes left in ``folder``: what is half-written or half-removed, and
    locks. Only for who is sure that nobody else is writing there."""
    for entry in folder.iterdir():
        if _temporary_of(entry.name) or re.fullmatch(r"\..+\.lock", entry.name):
            _remove(entry)


def free_bytes(path: Path) -> int:
    """What this user may still write to the disk that holds, or would hold, ``path``."""
    place = Path(path).absolute().parent
    while not place.exists():  # folders that are made when they are first needed
        place = place.parent
    return shutil.disk_usage(place).free


def bytes_in(folder: Path) -> int:
    """Of all files in a folder and those in it; 0 where there is none."""
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


def check_disk_space(path: Path, needed: int) -> None:
    """Raises Refused where the disk that would hold ``path`` has less than ``needed`` bytes."""
    free = free_bytes(path)
    if needed > free:
        got, expected = f"{_in_words(free)} free", f"at least {_in_words(needed)}"
        raise Refused(path, "output", "not enough room on the disk", got=got, expected=expected)


def _in_words(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size} bytes"


def _explain(error: BaseException, temporary: Path, path: Path, needed: int = 0) -> None:
    """Makes an OSError name the place that a user knows (os.write names none at all) and, of a full
    disk, say what was ``needed`` and what is free, once."""
    if not isinstance(error, OSError) or error.errno is None:
        return
    named = str(temporary) if error.filename is None else str(error.filename)
    if Path(named).is_relative_to(temporary):
        error.filename = str(path)
    if error.errno in FULL and error.strerror == os.strerror(error.errno):
        with suppress(OSError):
            free = free_bytes(path)
            wants = f"needs {needed} bytes, " if needed else ""
            error.strerror += f" ({wants}{free} bytes are free)"


def _temporary_sibling(path: Path) -> Path:
    return path.absolute().parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"


def _temporary_of(name: str) -> str | None:
    """The name of the output whose temporary sibling is called ``name``."""
    found = re.fullmatch(r"\.(.+)\.\d+\.[0-9a-f]{8}\.tmp", name, re.DOTALL)
    return found.group(1) if found else None


def _write_durably(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            written = os.write(descriptor, rest[: 2**26])  # may write less than it was given
            if written == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            rest = rest[written:]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if path.read_bytes() != data:
        raise Failed(f"{path.parent}: the disk gave back other bytes than were written")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
