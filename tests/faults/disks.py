"""Disks that are full, broken or slow to take: what was there stays, what is told is enough, and
what is resumed on a good disk is what was never disturbed."""

from __future__ import annotations

import errno
import re
import resource
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import failpoints
import forks
from jobs import Job, in_one_name
from kills import Tally, let_through
from protoscene.checkpoints import _read as read_checkpoint

ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
ROOM = re.compile(r"\((needs \d+ bytes, )?\d+ bytes are free\)|not enough room on the disk")
SIZES = 32


def full_disks(job: Job, folder: Path, sizes: int = SIZES) -> Tally:
    """Disks of 1 % to 110 % of what the job writes, half of which say beforehand how full they
    are: exit code 3 or 2 with path, needed and free bytes, the last whole step loads."""
    tally = Tally()
    total = job.bytes_written
    for k in range(sizes):
        size = round(total * (0.01 + 1.09 * k / (sizes - 1)))
        before = partial(failpoints.disk_of, size, k % 2 == 1)
        _trial(tally, job, folder, f"a disk of {size} of {total} bytes", before, ROOM)
    return tally


def limited_files(job: Job, folder: Path, sizes: int = 8) -> Tally:
    """The system's own limit on a file's length, from 4 kB (for what is said) to more than is
    needed."""
    tally = Tally()
    most = max(map(len, job.written.values()))
    for k in range(sizes):
        size = max(4096, round(most * 1.1 * k / (sizes - 1)))
        before = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))
        _trial(tally, job, folder, f"files of at most {size} of {most} bytes", before, ROOM)
    return tally


def broken_calls(job: Job, folder: Path, every: int = 1) -> Tally:
    """Each call that writes (or every few), failing from then on with each error."""
    tally = Tally()
    for number in ERRORS:
        for k in range(1, job.calls + 1, every):
            names = ("write", "fsync", "replace", "rename", "mkdir")
            before = partial(failpoints.fail_from, k, number, names)
            says = ROOM if number in (errno.ENOSPC, errno.EDQUOT) else None
            _trial(tally, job, folder, f"{errno.errorcode[number]} at call {k}", before, says)
    return tally


def odd_writes(job: Job, folder: Path, every: int = 1) -> Tally:
    """Short writes, which are gone on with, and writes that lie, which are noticed."""
    tally = Tally()
    _trial(tally, job, folder, "short writes", failpoints.write_short, None)
    for k in range(1, job.calls + 1, every):
        before = partial(failpoints.lie_about_writes, k)
        _trial(tally, job, folder, f"a lie at write {k}", before, None)
    return tally


def _trial(
    tally: Tally, job: Job, folder: Path, what: str, before: Callable[[], object],
    says: re.Pattern[str] | None,
) -> None:  # fmt: skip
    tally.trials += 1
    place = folder / "disk"
    place.mkdir()
    out = place / f"out{job.suffix}"
    try:
        ended = forks.run(job.command(out), folder / "said", before)
        tally.kills += ended.code != 0
        _check(job, ended, out, place, says)
        let_through(job, out, place)
    except (AssertionError, TimeoutError) as problem:
        tally.failures.append(f"{job.name}, {what}: {problem}")
    shutil.rmtree(place)


def _check(
    job: Job, ended: forks.Ended, out: Path, place: Path, says: re.Pattern[str] | None
) -> None:
    """One line that names the output or what is beside it; no half-written output; steps load."""
    if ended.code == 0:
        assert in_one_name(out) == job.written, "exit code 0, and other bytes"
        return
    assert ended.code in (2, 3), f"exit code {ended.code}: {ended.said[-300:]}"
    (line,) = ended.errors
    assert "Traceback" not in ended.said and place.name in line, line
    if out.exists():
        assert in_one_name(out) == job.written, "a part of an output is there"
    steps = sorted(place.rglob("step-*"))
    for step in steps:
        if not any(part.endswith(".tmp") for part in step.parts):
            read_checkpoint(step)
    if says is not None and any(word in line for word in ("space", "quota", "room", "large")):
        assert says.search(line), line
