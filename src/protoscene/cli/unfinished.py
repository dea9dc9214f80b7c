"""The folder beside an output that holds what an interrupted run has done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from protoscene.cli.terminal import complain
from protoscene.errors import Refused
from protoscene.files import discard_folder

WORK = ".work"
"""Ends its name."""


def work_of(output: Path) -> Path:
    return output.with_name(output.name + WORK)


@contextmanager
def work_for(output: Path, resume: bool, finished: str) -> Iterator[Path]:
    """The work folder of ``output``, for who holds its lock; removed when the block has come to its
    end. If it does not, it is said where the work is; a refusal leaves none, unless something
    that fits the pattern ``finished`` is in it.

    Raises Refused where there is one of an interrupted run and ``resume`` is not asked for.
    """
    work = work_of(output)
    if work.exists() and not resume:
        problem = "is what an interrupted run left; --resume goes on, or remove it"
        raise Refused(work, "output", problem)
    try:
        yield work
    except BaseException as error:
        if not work.exists():
            raise
        if not any(work.glob(finished)):
            discard_folder(work)
        elif not isinstance(error, Refused):
            complain("note", f"what was done is in {work}; --resume goes on from there")
        raise
    remove_work(output)


def remove_work(output: Path) -> None:
    """Removes what is left of it beside a finished output."""
    discard_folder(work_of(output))
