"""Runs that are resumed with something changed: refused with the difference where the outcome
depends on it, gone on with where it does not."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
import scipy
import torch

import failpoints
import forks
from jobs import Job
from kills import Tally, let_through
from protoscene import checkpoints

Arguments = list[Any]


def resumes(job: Job, recordings: list[Path], folder: Path) -> Tally:
    """One killed run, resumed with each difference and then as it was begun, in other places."""
    tally = Tally()
    begun = folder / "begun"
    begun.mkdir()
    before = partial(failpoints.die_at, job.calls * 4 // 5)
    ended = forks.run(job.command(begun / "out"), folder / "said", before)
    assert ended.code == -9, ended.said
    for field, change, patch in _differences(job, recordings, folder):
        tally.trials += 1
        arguments = change([*job.command(begun / "out"), *job.again])
        kept = _kept(begun)
        ended = forks.run(arguments, folder / "said", patch)
        told = len(ended.errors) == 1 and field in ended.errors[0] and "got" in ended.errors[0]
        if ended.code != 2 or not told:
            tally.failures.append(f"{job.name}, other {field}: {ended.code} {ended.said[-300:]}")
        elif _kept(begun) != kept:
            tally.failures.append(f"{job.name}, other {field}: what was kept is gone")
    for what, place, patch in _other_places(begun, folder):
        tally.trials += 1
        tally.kills += 1
        try:
            let_through(job, place / "out", place, patch)
        except (AssertionError, TimeoutError) as problem:
            tally.failures.append(f"{job.name}, {what}: {problem}")
        shutil.rmtree(place)
    return tally


def _kept(begun: Path) -> dict[str, bytes]:
    """What is there, but for temporaries and locks, which are cleaned away."""
    files = forks.contents(begun)
    return {n: b for n, b in files.items() if not any(p.startswith(".") for p in n.split("/"))}


def _differences(
    job: Job, recordings: list[Path], folder: Path
) -> Iterator[tuple[str, Callable[[Arguments], Arguments], Callable[[], object]]]:
    """What is to be named, how the command line differs, what differs in the process."""

    def more(*options: Any) -> Callable[[Arguments], Arguments]:
        return lambda arguments: [*arguments, *options]

    def instead(of: Any, other: Any) -> Callable[[Arguments], Arguments]:
        return lambda arguments: [other if argument == of else argument for argument in arguments]

    def same(arguments: Arguments) -> Arguments:
        return arguments

    voxel = job.command(Path())[job.command(Path()).index("--voxel-size") + 1]
    yield "seed", more("--seed", 1), lambda: None
    yield "settings" if job.name == "learn" else "voxel_size", instead(voxel, "0.09"), lambda: None
    yield "recording_sha256", instead(recordings[0], _touched(recordings[0], folder)), lambda: None
    if job.name == "learn":
        yield "steps", instead(3, 4), lambda: None
        r0, r1 = recordings
        yield "recording_sha256", lambda a: [{r0: r1, r1: r0}.get(x, x) for x in a], lambda: None
    else:
        yield "bounds", more("--bounds", -1, -1, 0, 1, 1, 1), lambda: None
    for name, module in (("torch", torch), ("numba", numba), ("numpy", np), ("scipy", scipy)):
        yield name, same, partial(setattr, module, "__version__", "0.1")
    yield "protoscene", same, partial(setattr, checkpoints, "__version__", "0.1")
    yield "threads", same, partial(torch.set_num_threads, 2)


def _touched(recording: Path, folder: Path) -> Path:
    """The recording with one picture changed by a bit that no decoder sees."""
    place = folder / "touched"
    if not place.exists():
        shutil.copytree(recording, place)
        first = min(place.glob("*-depth.png"))
        first.write_bytes(first.read_bytes() + b"\0")
    return place


def _other_places(begun: Path, folder: Path) -> Iterator[tuple[str, Path, Callable[[], object]]]:
    """Copies of what the killed run left."""
    for what, patch in (("copied", lambda: None), ("clock set back", _clock_back)):
        place = folder / what
        shutil.copytree(begun, place)
        for path in place.rglob("*"):
            os.utime(path, (2**31, 2**31))
        yield what, place, patch
    shm = Path("/dev/shm")
    if shm.is_dir() and os.access(shm, os.W_OK) and shm.stat().st_dev != folder.stat().st_dev:
        place = shm / f"{folder.name}-{os.getpid()}"
        shutil.copytree(begun, place)
        yield "on another disk", place, lambda: None
    place = folder / "moved"
    begun.rename(place)
    yield "moved", place, lambda: None


def _clock_back() -> None:
    time.time = lambda: 0.0  # type: ignore[assignment]
    time.time_ns = lambda: 0  # type: ignore[assignment]
