"""Power that fails at any moment: what had not been flushed to disk is lost, or a part of it.

A run's calls that write are recorded, and the disk is rebuilt from the record as it may be found
after each of them: a folder's names are those of any moment since the folder was last flushed, a
file's bytes reach to anywhere beyond what was flushed of it.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import failpoints
import forks
from jobs import Job
from kills import Tally, let_through


@dataclass(eq=False)
class File:
    """Of its bytes, ``durable`` were there when it was last flushed."""

    data: bytearray = field(default_factory=bytearray)
    durable: int = 0


@dataclass(eq=False)
class Folder:
    """What it held at each moment since it was last flushed, by name; the last is now."""

    moments: list[dict[str, File | Folder]] = field(default_factory=lambda: [{}])

    @property
    def now(self) -> dict[str, File | Folder]:
        return self.moments[-1]

    def change(self, gone: Sequence[str] = (), **come: File | Folder) -> None:
        """In one step, as a rename is."""
        stays = {name: node for name, node in self.now.items() if name not in gone}
        self.moments.append({**stays, **come})


Way = tuple[Callable[[list], Any], Callable[[list], Any]]
"""Takes one of a folder's moments, and one of a file's lengths."""

Found = dict[str, tuple[File | None, int]]
"""A disk as it is found: of each path the file and how many of its bytes are there; None and 0 of
a folder."""


class Disk:
    """The folder of an output. ``promised`` are the paths that were put into place by a rename
    which was flushed: they must not be lost."""

    def __init__(self) -> None:
        self.root = Folder()
        self.promised: set[str] = set()
        self._placed: set[str] = set()
        self._open: dict[int, tuple[str, File | Folder]] = {}

    def do(self, name: str, where: Sequence[Any], data: bytes) -> None:
        """One recorded call."""
        if name == "open":
            self._open[where[0]] = (where[1], self._at(where[1]))
        elif name == "close":
            del self._open[where[0]]
        elif name == "fsync":
            self._flush(*self._open[where[0]])
        elif name in ("write", "ftruncate"):
            file = self._open[where[0]][1]
            assert isinstance(file, File)
            if name == "write":
                file.data += data
            else:
                file.data, file.durable = bytearray(), 0
        elif name == "mkdir":
            folder, new = self._parent(where[0])
            folder.change(**{new: Folder()})
        elif name in ("rename", "replace"):
            folder, old = self._parent(where[0])
            target, new = self._parent(where[1])
            assert folder is target, "only within a folder"
            self._forget(where[0])
            folder.change((old,), **{new: folder.now[old]})
            if not _passing(where[1]):
                self._placed.add(where[1])
        else:
            folder, old = self._parent(where[0])
            self._forget(where[0])
            folder.change((old,))

    def found(self, way: Way) -> Found:
        """The disk after the power failed."""
        return dict(_below(self.root, "", way))

    def _flush(self, path: str, node: File | Folder) -> None:
        if isinstance(node, File):
            node.durable = len(node.data)
            return
        node.moments = [node.now]
        inside = {p for p in self._placed if str(Path(p).parent) == path}
        self.promised |= inside

    def _forget(self, path: str) -> None:
        for paths in (self._placed, self.promised):
            paths -= {p for p in paths if p == path or p.startswith(f"{path}/")}

    def _at(self, path: str) -> File | Folder:
        """What is there; a new file where there is nothing, as only opening one asks for that."""
        if path == ".":
            return self.root
        folder, name = self._parent(path)
        if name not in folder.now:
            folder.change(**{name: File()})
        return folder.now[name]

    def _parent(self, path: str) -> tuple[Folder, str]:
        *above, name = Path(path).parts
        folder = self.root
        for part in above:
            folder = folder.now[part]  # type: ignore[assignment]
        return folder, name


def _passing(path: str) -> bool:
    """Whether it is below what is half-written or half-removed."""
    return any(part.startswith(".") for part in Path(path).parts)


def _below(folder: Folder, above: str, way: Way) -> Iterator[tuple[str, tuple[File | None, int]]]:
    moment, length = way
    for name, node in sorted(moment(folder.moments).items()):
        if isinstance(node, File):
            lengths = [node.durable, (node.durable + len(node.data)) // 2, len(node.data)]
            yield above + name, (node, length(lengths))
        else:
            yield above + name, (None, 0)
            yield from _below(node, f"{above}{name}/", way)


def _first(choices: list) -> Any:
    return choices[0]


def _middle(choices: list) -> Any:
    return choices[len(choices) // 2]


def _last(choices: list) -> Any:
    return choices[-1]


def when_power_fails(seed: str) -> dict[str, Way]:
    """What is found of what was not flushed."""
    numbers = random.Random(seed)
    return {
        "nothing": (_first, _first),
        "names without bytes": (_last, _first),
        "half of the bytes": (_last, _middle),
        "anything": (numbers.choice, numbers.choice),
    }


def when_killed(_: str) -> dict[str, Way]:
    """A process that ends leaves what it had written."""
    return {"everything": (_last, _last)}


def cut_everywhere(
    job: Job, folder: Path, ways: Callable[[str], dict[str, Way]] = when_power_fails,
    until: float = math.inf, every: int = 1,
) -> tuple[Tally, int]:  # fmt: skip
    """After each call in each of the ways: nothing that was promised is lost, and a resumed run
    writes what an undisturbed one does. Of the disks that are alike one is resumed, and of those
    every few; none is begun after ``until``. ``kills`` counts the resumed runs, and the number is
    that of the disks that differ."""
    tally, different = Tally(), {}
    disk = Disk()
    for number, (name, where, data) in enumerate(recorded(job, folder)):
        disk.do(name, where, data)
        for way, choose in ways(f"{job.name} {number}").items():
            found = disk.found(choose)
            what = f"{job.name}, {way} is left after call {number}, {name}"
            tally.trials += 1
            if lost := _lost(disk, found):
                tally.failures.append(f"{what}: {lost} had been put into place")
            different.setdefault(frozenset(found.items()), (what, found))
    for what, found in list(different.values())[::every]:
        if time.monotonic() > until:
            break
        tally.kills += 1
        place = folder / "cut"
        lay(found, place)
        try:
            let_through(job, place / f"out{job.suffix}", place)
        except (AssertionError, TimeoutError) as problem:
            tally.failures.append(f"{what}: {problem}")
        shutil.rmtree(place)
    return tally, len(different)


def recorded(job: Job, folder: Path) -> list[tuple[str, list[Any], bytes]]:
    """The calls of an undisturbed run that write. Raises RuntimeError where they do not add up to
    what the run left."""
    place, log = folder / "recorded", folder / "log"
    place.mkdir()
    out = place / f"out{job.suffix}"
    with log.open("wb") as file:
        before = partial(failpoints.record_into, file.fileno(), place)
        ended = forks.run(job.command(out), folder / "said", before)
    calls = list(_read(log))
    disk = Disk()
    for call in calls:
        disk.do(*call)
    now = disk.found((_last, _last))
    there = {path: _bytes(*one) for path, one in now.items() if one[0] is not None}
    if ended.code or there != forks.contents(place):
        raise RuntimeError(f"{job.name}: exit code {ended.code}, or the record is wrong")
    shutil.rmtree(place)
    log.unlink()
    return calls


def _read(log: Path) -> Iterator[tuple[str, list[Any], bytes]]:
    with log.open("rb") as file:
        while line := file.readline():
            name, *where, length = json.loads(line)
            yield name, where, file.read(length)


def _lost(disk: Disk, found: Found) -> str:
    """What was promised and is not found as it was, or nothing."""
    sound = disk.found((_last, _last))
    for promise in sorted(disk.promised):
        for path, there in sound.items():
            if (path == promise or path.startswith(f"{promise}/")) and found.get(path) != there:
                return path
    return ""


def _bytes(file: File, length: int) -> bytes:
    return bytes(file.data[:length])


def lay(found: Found, place: Path) -> None:
    """Puts what was found on a real disk."""
    place.mkdir()
    for path, (file, length) in found.items():
        if file is None:
            (place / path).mkdir()
        else:
            (place / path).write_bytes(_bytes(file, length))
