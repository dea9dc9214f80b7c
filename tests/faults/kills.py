"""kill -9 at random moments and at every call that writes: what is resumed is what was never
disturbed."""

from __future__ import annotations

import math
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import failpoints
import forks
from jobs import Job, in_one_name

MOST_KILLS = 5
"""Of one run, before it is let through."""


@dataclass
class Tally:
    """Of trials: how many, how many kills hit, and what was wrong."""

    trials: int = 0
    kills: int = 0
    failures: list[str] = field(default_factory=list)

    def line(self, name: str) -> str:
        good = self.trials - len(self.failures)
        return f"{name}: {good} of {self.trials} trials with {self.kills} kills"


def killed_at_random(
    job: Job, trials: int, seed: int, folder: Path, until: float = math.inf
) -> Tally:
    """Each trial is killed up to five times, half of them at a random call that writes, half at a
    random moment, and resumed until it is done. No trial begins after ``until`` (monotonic)."""
    tally = Tally()
    for trial in range(trials):
        if time.monotonic() > until:
            break
        numbers = random.Random(f"{job.name} {seed} {trial}")
        tally.trials += 1
        place = folder / f"{job.name}-{trial}"
        place.mkdir(parents=True)
        try:
            tally.kills += _one(job, place, numbers)
            shutil.rmtree(place)
        except (AssertionError, TimeoutError) as problem:
            tally.failures.append(f"{job.name}, seed {seed}, trial {trial}: {problem}")
    return tally


def killed_everywhere(job: Job, folder: Path, every: int = 1, until: float = math.inf) -> Tally:
    """A kill in the place of every call that writes (or every few), one by one, and a resumed run
    after each. No trial begins after ``until`` (monotonic)."""
    tally = Tally()
    for k in range(1, job.calls + 1, every):
        if time.monotonic() > until:
            break
        tally.trials += 1
        place = folder / f"{job.name}-at-{k}"
        place.mkdir()
        try:
            out = place / f"out{job.suffix}"
            ended = forks.run(job.command(out), place / "said", partial(failpoints.die_at, k))
            tally.kills += ended.code == -9
            _require_whole_or_absent(job, out)
            let_through(job, out, place)
            shutil.rmtree(place)
        except (AssertionError, TimeoutError) as problem:
            tally.failures.append(f"{job.name}, call {k} of {job.calls}: {problem}")
    return tally


def _one(job: Job, place: Path, numbers: random.Random) -> int:
    """Kills that hit."""
    out = place / f"out{job.suffix}"
    wanted = numbers.choices(range(1, MOST_KILLS + 1), [16, 8, 4, 2, 1])[0]
    hit = 0
    for _ in range(wanted):
        again = job.again if hit else ()
        if numbers.random() < 0.5:
            k = numbers.randint(1, job.calls)
            before = partial(failpoints.die_at, k)
            ended = forks.run([*job.command(out), *again], place / "said", before)
        else:
            child = forks.start([*job.command(out), *again], place / "said")
            found = child.wait(numbers.uniform(0, job.seconds))
            if found is None:
                child.kill()
                found = child.ended()
            ended = found
            assert not child.orphans(), "orphans"
        hit += ended.code == -9
        assert ended.code in (-9, 0), f"exit code {ended.code}: {ended.said[-300:]}"
        _require_whole_or_absent(job, out)
        if ended.code == 0 or out.exists():
            break
    let_through(job, out, place)
    return hit


def _require_whole_or_absent(job: Job, out: Path) -> None:
    if out.exists():
        assert in_one_name(out) == job.written, "what is there after a kill is not whole"


def let_through(
    job: Job, out: Path, place: Path, before: Callable[[], object] = lambda: None
) -> None:
    """Runs to the end, undisturbed; then the bytes are right and nothing else is left."""
    if not out.exists() or job.again:
        ended = forks.run([*job.command(out), *job.again], place / "said", before)
        assert ended.code == 0, f"resumed: exit code {ended.code}: {ended.said[-300:]}"
    assert in_one_name(out) == job.written, "the resumed run wrote other bytes"
    left = {file.name for file in place.iterdir()} - {"said", out.name}
    assert left <= {f".{out.name}.lock"}, f"left behind: {sorted(left)}"  # of who was killed last
