"""Places where no output can be put: refused at once, before anything of the input is read."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import forks
from jobs import Job
from kills import Tally

AT_ONCE_S = 1.0
NOBODY = 65534
"""A user who owns nothing; root may write anywhere."""


def _is_a_file(place: Path) -> Path:
    (place / "out").write_bytes(b"kept")
    return place / "out"


def _is_a_folder(place: Path) -> Path:
    (place / "out").mkdir()
    (place / "out/kept").write_bytes(b"kept")
    return place / "out"


def _is_a_broken_link(place: Path) -> Path:
    (place / "out").symlink_to("nowhere")
    return place / "out"


def _has_no_parent(place: Path) -> Path:
    return place / "missing/out"


def _has_a_file_as_parent(place: Path) -> Path:
    (place / "file").write_bytes(b"kept")
    return place / "file/out"


def _has_a_read_only_parent(place: Path) -> Path:
    place.chmod(0o555)
    return place / "out"


def _is_too_long(place: Path) -> Path:
    return place / ("n" * 240)


def _is_above(place: Path) -> Path:
    return place / ".."


PLACES: tuple[Callable[[Path], Path], ...] = (
    _is_a_file, _is_a_folder, _is_a_broken_link, _has_no_parent, _has_a_file_as_parent,
    _has_a_read_only_parent, _is_too_long, _is_above,
)  # fmt: skip


def bad_places(jobs: list[Job], inputs: Path, folder: Path) -> Tally:
    """Each command at each of them; ``inputs`` is where all that the commands read lies."""
    tally = Tally()
    folder.chmod(0o755)
    for job in jobs:
        for spoil in PLACES:
            tally.trials += 1
            place = folder / f"{job.name}{spoil.__name__}"
            place.mkdir()
            out = spoil(place)
            before = _tree(place)
            step_down = partial(_watch, inputs, NOBODY if os.geteuid() == 0 else None)
            ended = forks.run(job.command(out), folder / f"said-{tally.trials}", step_down)
            place.chmod(0o755)
            problem = _problem(ended, out, before == _tree(place))
            if problem:
                tally.failures.append(f"{job.name} where the output{spoil.__name__}: {problem}")
    return tally


def _problem(ended: forks.Ended, out: Path, untouched: bool) -> str:
    lines = ended.said.splitlines()
    if ended.code != 2 or len(lines) != 1 or str(out)[-40:] not in lines[0]:
        return f"exit code {ended.code}: {ended.said[-300:]}"
    if ended.cpu_seconds > AT_ONCE_S:
        return f"took {ended.cpu_seconds:.1f} s of processor time"
    return "" if untouched else "something was written"


def _watch(inputs: Path, user: int | None) -> None:
    """Says on stderr which inputs are opened, and goes on as ``user``."""

    def opened(event: str, arguments: tuple) -> None:
        if event == "open" and str(arguments[0]).startswith(f"{inputs}/"):
            os.write(2, f"reads {arguments[0]}\n".encode())

    sys.addaudithook(opened)
    if user is not None:
        os.seteuid(user)


def _tree(place: Path) -> dict[str, bytes | None]:
    return {
        str(path): path.read_bytes() if path.is_file() else None
        for path in sorted([place, *place.parent.glob("*"), *place.rglob("*")])
        if not path.name.startswith("said")
    }
