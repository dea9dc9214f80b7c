"""Signals at any moment: the right exit code soon, nobody left behind, nothing lost."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import failpoints
import forks
from jobs import Job, in_one_name
from kills import Tally, let_through

SOON_S = 5.0
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def interrupts(
    job: Job, trials: int, seed: int, folder: Path, soon: float = SOON_S
) -> tuple[Tally, float]:
    """At random moments, every third followed by a second SIGINT; and the longest that one took
    to end (s). ``kills`` counts those that hit."""
    tally, longest = Tally(), 0.0
    for trial in range(trials):
        numbers = random.Random(f"{job.name} interrupts {seed} {trial}")
        tally.trials += 1
        place = folder / f"interrupt-{trial}"
        place.mkdir()
        try:
            code, took = _one(job, place, numbers, trial % 3 == 2)
            tally.kills += code != 0
            longest = max(longest, took)
            assert took <= soon, f"took {took:.1f} s"
        except (AssertionError, TimeoutError) as problem:
            tally.failures.append(f"{job.name}, interrupt {trial}: {problem}")
        shutil.rmtree(place)
    return tally, longest


def everywhere(job: Job, folder: Path) -> Tally:
    """In the place of every call that writes."""
    tally = Tally()
    for number, code in CODES.items():
        for k in range(1, job.calls + 1):
            tally.trials += 1
            place = folder / f"interrupt-at-{k}"
            place.mkdir()
            out = place / f"out{job.suffix}"
            try:
                before = partial(failpoints.signal_at, k, number)
                ended = forks.run(job.command(out), folder / "said", before)
                tally.kills += ended.code != 0
                assert ended.code == code, f"exit code {ended.code}: {ended.said[-300:]}"
                _require_clean(job, out, place)
                let_through(job, out, place)
            except (AssertionError, TimeoutError) as problem:
                tally.failures.append(f"{job.name}, signal {number} at call {k}: {problem}")
            shutil.rmtree(place)
    return tally


def _one(job: Job, place: Path, numbers: random.Random, twice: bool) -> tuple[int, float]:
    """Exit code, and seconds from the signal to the end."""
    out, said = place / f"out{job.suffix}", place.parent / "said"
    number = numbers.choice(list(CODES))
    child = forks.start(job.command(out), said)
    ended = child.wait(numbers.uniform(0.05, max(0.1, job.seconds)))
    sent = time.monotonic()
    if ended is None:
        child.kill(number)
        if twice:
            ended = child.wait(0.01)
            child.kill(signal.SIGINT)
        ended = ended or child.ended()
    took = time.monotonic() - sent
    # What ends after its last word, or by a second signal, ends by the signal itself.
    late = {-number} if out.exists() else set()
    allowed = {0, CODES[number]} | late | ({-signal.SIGINT, -number, 130} if twice else set())
    assert ended.code in allowed, f"exit code {ended.code}: {ended.said[-300:]}"
    assert not child.orphans(), "orphans"
    if not twice:
        _require_clean(job, out, place)
    let_through(job, out, place)
    return ended.code, took


def _require_clean(job: Job, out: Path, place: Path) -> None:
    """The output is absent or whole, and beside it is nothing but what a resumed run reads."""
    if out.exists():
        assert in_one_name(out) == job.written, "a part of an output is there"
    left = {file.name for file in place.iterdir()} - {out.name}
    assert left <= {f"{out.name}.work"}, f"left behind: {sorted(left)}"


def unread(job: Job, folder: Path) -> Tally:
    """Output that nobody reads, as of ``| head``: the work is done, exit code 0, no error said."""
    tally = Tally()
    for what, descriptors in (("stdout", [1]), ("stderr", [2]), ("stdout and stderr", [1, 2])):
        tally.trials += 1
        place = folder / f"{job.name}, {what} unread"
        place.mkdir()
        out = place / f"out{job.suffix}"
        ended = forks.run(job.command(out), folder / "said", partial(_close_reader, descriptors))
        if (
            ended.code
            or "rror" in ended.said
            or not out.exists()
            or in_one_name(out) != job.written
        ):
            tally.failures.append(f"{job.name}, {what} unread: {ended.code} {ended.said[-300:]}")
    return tally


def _close_reader(descriptors: list[int]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    for descriptor in descriptors:
        os.dup2(writer, descriptor)
