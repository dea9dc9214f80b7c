"""Commands of protoscene in forked children: imports and compiled kernels are paid for once.

The process that forks must itself run on one thread (OMP_NUM_THREADS and NUMBA_NUM_THREADS of 1).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from protoscene.cli import main

LONGEST = 300.0
"""Seconds after which a child counts as hanging."""


@dataclass(frozen=True)
class Ended:
    """``code`` is the exit code, or minus the signal's number; ``said`` what stood on stderr."""

    code: int
    said: str
    seconds: float
    cpu_seconds: float

    @property
    def errors(self) -> list[str]:
        """The lines ``protoscene: error: …``."""
        return [line for line in self.said.splitlines() if line.startswith("protoscene: error: ")]


@dataclass(frozen=True)
class Child:
    """A command that runs in a session of its own."""

    pid: int
    said: Path
    began: float

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Only the child itself, as a person would."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, most: float = LONGEST) -> Ended | None:
        """How it ended, or None where it runs on for more than ``most`` seconds."""
        end = time.monotonic() + most
        pause = 0.001
        while True:
            pid, status, used = os.wait4(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                said = self.said.read_text(errors="replace")
                cpu = used.ru_utime + used.ru_stime
                return Ended(code, said, time.monotonic() - self.began, cpu)
            if time.monotonic() >= end:
                return None
            time.sleep(pause)
            pause = min(2 * pause, 0.02)

    def ended(self) -> Ended:
        """How it ended; a child that hangs is ended and an error."""
        found = self.wait()
        if found is None:
            self.kill()
            self.wait()
            raise TimeoutError(f"still running after {LONGEST:g} s")
        return found

    def orphans(self, patience: float = 10.0) -> list[int]:
        """Processes of its session that are still there ``patience`` seconds after its end."""
        end = time.monotonic() + patience
        while (left := list(_of_session(self.pid))) and time.monotonic() < end:
            time.sleep(0.01)
        return left


def start(
    arguments: Sequence[object], said: Path, before: Callable[[], object] = lambda: None
) -> Child:
    """Forks a child that calls ``before`` and runs the command line ``arguments``."""
    said.unlink(missing_ok=True)
    said.touch()
    began = time.monotonic()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 71
        try:
            _alone(said)
            before()
            code = main([str(argument) for argument in arguments])
            sys.stderr.flush()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return Child(pid, said, began)


def run(
    arguments: Sequence[object], said: Path, before: Callable[[], object] = lambda: None
) -> Ended:
    """As :func:`start`, waited for."""
    return start(arguments, said, before).ended()


def _alone(said: Path) -> None:
    """A session, handlers and output of the child's own."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(said, os.O_WRONLY | os.O_APPEND), 2)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def _of_session(session: int) -> Iterator[int]:
    """Process numbers, zombies left out."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, _, _, own = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:4]
                if int(own) == session and state != "Z" and int(entry.name) != session:
                    yield int(entry.name)


def contents(place: Path) -> dict[str, bytes]:
    """Every file of a folder (or the one file), by name."""
    if place.is_file():
        return {place.name: place.read_bytes()}
    files = (file for file in sorted(place.rglob("*")) if file.is_file())
    return {file.relative_to(place).as_posix(): file.read_bytes() for file in files}
