"""Writers of one output that start at one moment: exactly one of them writes it."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import forks
from jobs import Job, in_one_name
from kills import Tally

LOST = ("is being written by", "exists already")


def races(job: Job, trials: int, seed: int, folder: Path) -> Tally:
    """Each with two to eight writers; ``kills`` counts those that lost."""
    tally, numbers = Tally(), random.Random(f"races {seed}")
    for trial in range(trials):
        tally.trials += 1
        place = folder / f"race-{trial}"
        place.mkdir()
        try:
            tally.kills += _one(job, place, numbers.randint(2, 8))
        except (AssertionError, TimeoutError) as problem:
            tally.failures.append(f"{job.name}, race {trial}: {problem}")
        shutil.rmtree(place)
    return tally


def _one(job: Job, place: Path, writers: int) -> int:
    """How many lost."""
    out = place / f"out{job.suffix}"
    said = place.parent / "said-by"
    said.mkdir(exist_ok=True)
    gate, opener = os.pipe()
    children = [
        forks.start(job.command(out), said / str(k), lambda: os.read(gate, 1))
        for k in range(writers)
    ]
    os.write(opener, b"." * writers)
    ended = [child.ended() for child in children]
    os.close(gate)
    os.close(opener)
    codes = sorted(one.code for one in ended)
    assert codes == [0] + [2] * (writers - 1), f"exit codes {codes}"
    for one in ended:
        if one.code == 2:
            (line,) = one.errors
            assert any(words in line for words in LOST), line
    assert in_one_name(out) == job.written, "other bytes"
    assert [file.name for file in place.iterdir()] == [out.name], "something else is left"
    return writers - 1
