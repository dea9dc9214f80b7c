"""Every fault that protoscene must survive, in full: what ``make faults`` runs.

    python tests/faults [PART ...] [--trials N] [--minutes M] [--results FILE]

Parts: inputs corruption kills disks races interrupts fuzz mutations (all when left out). N is of
each row of kills; races are a quarter and interrupts of each command a sixth of that. M is of the
fuzzers, shared out, and of each command that is killed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobs import Jobs

os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"  # forks need it
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(p) for p in (ROOT / "src", HERE.parent, HERE, ROOT / "studies")]


LONG = ("export", "discover", "learn")
"""Commands that are killed and interrupted."""


@dataclass(frozen=True)
class Row:
    """One line of the table: so many of what, how many failed, and how."""

    what: str
    n: int
    failures: list[str]
    note: str = ""


@dataclass(frozen=True)
class Effort:
    """How much is done, with which jobs; 0 minutes are a few tries of each."""

    trials: int
    minutes: float
    jobs: Jobs


def inputs(_: Effort, folder: Path) -> Iterator[Row]:
    import warnings

    import bad_inputs

    bases, failures = folder / "bases", []
    bases.mkdir()
    bad_inputs.write_bases(bases)
    cases = bad_inputs.cases()
    warnings.simplefilter("always")
    for k, case in enumerate(cases):
        place = folder / str(k)
        place.mkdir()
        if problem := bad_inputs.wrong(case, bases, place):
            failures.append(f"{case.name}: {problem}")
    classes = len({bad_inputs.class_of(case) for case in cases})
    note = f"{classes} classes; of the 60th, depth of 64 bits, is read exactly"
    yield Row("bad inputs refused in one line, nothing written", len(cases), failures, note)


def corruption(effort: Effort, folder: Path) -> Iterator[Row]:
    import corruption as files

    kinds = files.kinds(folder)
    for_each = (1000, 200) if effort.minutes else (20, 4)
    all_of_them = [files.damaged(kind, *for_each, seed=0) for kind in kinds]
    missed = [problem for one in all_of_them for problem in one.missed]
    flips, cuts = (sum(getattr(one, name) for one in all_of_them) for name in ("flips", "cuts"))
    alone, whole = files.megabytes_per_second(folder, 128 if effort.minutes else 32)
    note = f"{len(kinds)} kinds of file; verified at {alone:.0f} MB/s, loaded at {whole:.0f} MB/s"
    yield Row("flipped bits noticed", flips, [m for m in missed if "bit" in m], note)
    yield Row("cut files noticed", cuts, [m for m in missed if "bit" not in m])


def killing(effort: Effort, folder: Path) -> Iterator[Row]:
    import kills

    for name in LONG:
        job = effort.jobs[name]
        until = time.monotonic() + 60 * effort.minutes if effort.minutes else float("inf")
        tally = kills.killed_at_random(job, effort.trials, 0, folder, until)
        note = f"{tally.kills} kills"
        yield Row(f"kill -9 of {name}, half of them in saves", tally.trials, tally.failures, note)
        if effort.minutes or name == "export":
            tally = kills.killed_everywhere(job, folder, until=until)
            note = f"of {job.calls} calls"
            yield Row(f"kill -9 of {name} at each write", tally.trials, tally.failures, note)


def broken_disks(effort: Effort, folder: Path) -> Iterator[Row]:
    import disks

    full = effort.minutes > 0
    every = 1 if full else 6
    for name in ("edit", "export") if full else ("edit",):
        job = effort.jobs[name]
        for what, tally in (
            ("disks that are too small", disks.full_disks(job, folder, 32 if full else 6)),
            ("limits on a file's length", disks.limited_files(job, folder, 8 if full else 3)),
            ("ENOSPC, EDQUOT, EIO, EROFS at each write", disks.broken_calls(job, folder, every)),
            ("short writes and writes that lie", disks.odd_writes(job, folder, every)),
        ):
            yield Row(f"{what}: {name}", tally.trials, tally.failures, f"{tally.kills} hit")
    if full:
        tally = disks.full_disks(effort.jobs["learn"], folder)
        note = f"{tally.kills} hit"
        yield Row("disks that are too small: learn", tally.trials, tally.failures, note)


def racing(effort: Effort, folder: Path) -> Iterator[Row]:
    import races

    tally = races.races(effort.jobs["edit"], max(3, effort.trials // 4), 0, folder)
    yield Row("races of 2 to 8 writers", tally.trials, tally.failures, f"{tally.kills} lost")


def interrupting(effort: Effort, folder: Path) -> Iterator[Row]:
    import interrupts

    trials = max(2, effort.trials // 6)
    for name in LONG:
        tally, took = interrupts.interrupts(effort.jobs[name], trials, 0, folder)
        note = f"{tally.kills} hit, all over after {took:.1f} s at most"
        yield Row(f"SIGINT and SIGTERM in {name}", tally.trials, tally.failures, note)
    tally = interrupts.everywhere(effort.jobs["export"], folder)
    yield Row("SIGINT and SIGTERM at each write of export", tally.trials, tally.failures)


def fuzzing(effort: Effort, folder: Path) -> Iterator[Row]:
    import fuzz

    found = fuzz.in_folder(folder / "corpus")
    seconds, most = 60 * effort.minutes / len(found) or 1e9, 10**9 if effort.minutes else 150
    for target in found:
        result = fuzz.fuzzed(target, 0, most, seconds)
        note = f"{result.refused} refused, {result.seconds:.0f} s, slowest {result.slowest:.2f} s"
        yield Row(f"fuzzed: {target.name}", result.tries, result.crashes, note)


def mutating(_: Effort, folder: Path) -> Iterator[Row]:
    import mutations

    survived = mutations.survivors(ROOT, folder)
    yield Row("safeguards taken out, tests turned red", len(mutations.MUTATIONS), survived)


PARTS: dict[str, Callable[[Effort, Path], Iterator[Row]]] = {
    "inputs": inputs,
    "corruption": corruption,
    "kills": killing,
    "disks": broken_disks,
    "races": racing,
    "interrupts": interrupting,
    "fuzz": fuzzing,
    "mutations": mutating,
}


def table(rows: list[Row]) -> str:
    """As Markdown."""
    lines = ["| what | N | failures | |", "|---|---|---|---|"]
    lines += [f"| {row.what} | {row.n} | {len(row.failures)} | {row.note} |" for row in rows]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", choices=PARTS, default=None)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=30.0, help="0: a few tries of each")
    parser.add_argument("--results", type=Path, help="put the table between its markers there")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        from jobs import Jobs

        effort = Effort(given.trials, given.minutes, Jobs(Path(place)))
        for name in given.parts or PARTS:
            with tempfile.TemporaryDirectory() as folder:
                for row in PARTS[name](effort, Path(folder)):
                    rows.append(row)
                    print(f"{row.what}: {row.n}, {len(row.failures)} failures", file=sys.stderr)
                    for problem in row.failures[:20]:
                        print(f"    {problem}", file=sys.stderr)
    print(json.dumps([asdict(row) for row in rows]) if given.json else table(rows))
    if given.results:
        from results_page import write_between_markers

        write_between_markers(given.results, "faults", table(rows))
    return 1 if any(row.failures for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
