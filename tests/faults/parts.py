"""The parts of the table: what is done, and what came of it, row by row."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jobs import Jobs

Outcome = tuple[str, int, list[str], str]
"""What, of how many, how those that failed did, a note."""


@dataclass(frozen=True)
class Effort:
    """How much is done, with which jobs; 0 minutes are a few tries of each."""

    trials: int
    minutes: float
    jobs: Jobs

    @property
    def is_full(self) -> bool:
        return self.minutes > 0

    @property
    def until(self) -> float:
        """When the row that begins now is to be over (monotonic)."""
        return time.monotonic() + 60 * self.minutes if self.is_full else float("inf")


def inputs(_: Effort, folder: Path) -> Iterator[Outcome]:
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
    yield "bad inputs refused in one line, nothing written", len(cases), failures, note


def corruption(effort: Effort, folder: Path) -> Iterator[Outcome]:
    import corruption as files

    kinds = files.kinds(folder)
    for_each = (1000, 200) if effort.is_full else (20, 4)
    all_of_them = [files.damaged(kind, *for_each, seed=0) for kind in kinds]
    missed = [problem for one in all_of_them for problem in one.missed]
    flips, cuts = (sum(getattr(one, name) for one in all_of_them) for name in ("flips", "cuts"))
    alone, whole = files.megabytes_per_second(folder, 128 if effort.is_full else 32)
    note = f"{len(kinds)} kinds of file; verified at {alone:.0f} MB/s, loaded at {whole:.0f} MB/s"
    yield "flipped bits noticed", flips, [m for m in missed if "bit" in m], note
    yield "cut files noticed", cuts, [m for m in missed if "bit" not in m], ""


def kills_of(name: str, effort: Effort, folder: Path) -> Iterator[Outcome]:
    import kills

    job = effort.jobs[name]
    tally = kills.killed_at_random(job, effort.trials, 0, folder, effort.until)
    what = f"kill -9 of {name}, half of them in saves"
    yield what, tally.trials, tally.failures, f"{tally.kills} kills"


def points_of(name: str, effort: Effort, folder: Path) -> Iterator[Outcome]:
    import kills

    job = effort.jobs[name]
    every = 1 if effort.is_full or name == "export" else 40
    tally = kills.killed_everywhere(job, folder, every, effort.until)
    what = f"kill -9 of {name} at each write, flush, rename"
    yield what, tally.trials, tally.failures, f"of {job.calls} calls, {tally.kills} hit"


def power_cuts_of(name: str, effort: Effort, folder: Path) -> Iterator[Outcome]:
    import power

    every = (20 if name == "learn" else 1) if effort.is_full else 40
    tally, different = power.cut_everywhere(
        effort.jobs[name], folder, power.when_power_fails, effort.until, every
    )
    note = f"{tally.kills} of {different} disks that differ resumed"
    yield f"power cuts in {name}, what was not flushed lost", tally.trials, tally.failures, note


def left_by_learn(effort: Effort, folder: Path) -> Iterator[Outcome]:
    """A run of ``learn`` up to each kill would take too long: one is recorded."""
    import power

    job = effort.jobs["learn"]
    tally, different = power.cut_everywhere(job, folder, power.when_killed, effort.until)
    note = f"one run replayed; {tally.kills} of {different} disks that differ resumed"
    yield "disks that kill -9 of learn leaves after each call", tally.trials, tally.failures, note


def broken_disks(effort: Effort, folder: Path) -> Iterator[Outcome]:
    import disks

    full = effort.is_full
    every = 1 if full else 6
    for name in ("edit", "export") if full else ("edit",):
        job = effort.jobs[name]
        for what, tally in (
            ("disks that are too small", disks.full_disks(job, folder, 32 if full else 6)),
            ("limits on a file's length", disks.limited_files(job, folder, 8 if full else 3)),
            ("ENOSPC, EDQUOT, EIO, EROFS at each write", disks.broken_calls(job, folder, every)),
            ("short writes and writes that lie", disks.odd_writes(job, folder, every)),
        ):
            yield f"{what}: {name}", tally.trials, tally.failures, f"{tally.kills} hit"
    if full:
        for name in ("discover", "learn"):
            tally = disks.full_disks(effort.jobs[name], folder)
            what = f"disks that are too small: {name}"
            yield what, tally.trials, tally.failures, f"{tally.kills} hit"


def racing(effort: Effort, folder: Path) -> Iterator[Outcome]:
    import races

    tally = races.races(effort.jobs["edit"], max(3, effort.trials // 4), 0, folder)
    yield "races of 2 to 8 writers", tally.trials, tally.failures, f"{tally.kills} lost"


def interrupting(effort: Effort, folder: Path) -> Iterator[Outcome]:
    import interrupts

    names = ("edit", "export", "discover", "learn", "parse")
    for name in names if effort.is_full else names[1:4]:
        trials = max(2, effort.trials // 2 // len(names))
        # The quick set runs beside other tests, which may keep a processor to themselves.
        soon = interrupts.SOON_S * (1 if effort.is_full else 6)
        tally, took = interrupts.interrupts(effort.jobs[name], trials, 0, folder, soon)
        note = f"{tally.kills} hit, all over after {took:.1f} s at most"
        yield f"SIGINT, SIGTERM, SIGHUP in {name}", tally.trials, tally.failures, note
    tally = interrupts.everywhere(effort.jobs["export"], folder)
    yield "SIGINT, SIGTERM, SIGHUP at each write of export", tally.trials, tally.failures, ""
    for name in names[:3] if effort.is_full else names[:1]:
        tally = interrupts.unread(effort.jobs[name], folder)
        yield f"what {name} says, read by nobody", tally.trials, tally.failures, ""


def bad_places(effort: Effort, folder: Path) -> Iterator[Outcome]:
    import places

    names = ("edit", "export", "discover", "learn", "parse") if effort.is_full else ("edit",)
    tally = places.bad_places([effort.jobs[n] for n in names], effort.jobs.folder, folder)
    note = f"{len(places.PLACES)} kinds, {len(names)} commands; no input was opened"
    yield "outputs that cannot be written, refused at once", tally.trials, tally.failures, note


def resuming(effort: Effort, folder: Path) -> Iterator[Outcome]:
    import resumes

    for name in ("discover", "learn") if effort.is_full else ("discover",):
        place = folder / name
        place.mkdir()
        tally = resumes.resumes(effort.jobs[name], effort.jobs.recordings, place)
        note = f"{tally.kills} of them moved, copied or with the clock set back, to the same bytes"
        what = f"{name} resumed with another setting, input, version"
        yield what, tally.trials, tally.failures, note


def reading(effort: Effort, folder: Path) -> Iterator[Outcome]:
    import readers

    saves = 1000 if effort.is_full else 20
    tally = readers.polled_scenes(saves, folder)
    note = f"{tally.kills} looks before they were there"
    yield "scenes read while they are saved", tally.trials, tally.failures, note
    tally = readers.polled_volumes(saves, folder)
    note = f"{tally.kills} reads"
    yield "a volume read while it is written over", tally.trials, tally.failures, note


def fuzzing(group: str, effort: Effort, folder: Path) -> Iterator[Outcome]:
    import fuzz

    found = fuzz.in_folder(folder / "corpus", group)
    left, most = 60 * effort.minutes or 1e9, 10**6 if effort.is_full else 150
    for k, target in enumerate(found):
        result = fuzz.fuzzed(target, 0, most, left / (len(found) - k))
        left -= result.seconds
        note = (
            f"{result.refused} refused, slowest {result.slowest:.2f} s, "
            f"{result.megabytes:.0f} MB more at most"
        )
        yield f"fuzzed: {target.name}", result.tries, result.crashes, note


def mutating(_: Effort, folder: Path) -> Iterator[Outcome]:
    import mutations

    survived = mutations.survivors(Path(__file__).resolve().parents[2], folder)
    yield "safeguards taken out, tests turned red", len(mutations.MUTATIONS), survived, ""


PARTS: dict[str, Callable[[Effort, Path], Iterator[Outcome]]] = {
    "inputs": inputs,
    "corruption": corruption,
    **{f"kills-{name}": partial(kills_of, name) for name in ("export", "discover", "learn")},
    **{f"points-{name}": partial(points_of, name) for name in ("export", "discover")},
    "points-learn": left_by_learn,
    **{f"power-{name}": partial(power_cuts_of, name) for name in ("export", "discover", "learn")},
    "disks": broken_disks,
    "races": racing,
    "interrupts": interrupting,
    "places": bad_places,
    "resumes": resuming,
    "readers": reading,
    **{f"fuzz-{group}": partial(fuzzing, group) for group in ("recordings", "pictures", "own")},
    "mutations": mutating,
}
