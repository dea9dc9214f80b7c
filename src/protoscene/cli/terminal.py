"""What a person sees: tables on stdout; progress, warnings and errors on stderr."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, cast

from protoscene.cli import interrupts
from protoscene.errors import printable

LONGEST_LINE = 240
LONGEST_RESULT = 100_000
LINE_SECONDS = 10

Progress = Callable[[str, int, int], None]
"""(stage, done, total), called as work goes on."""


def say(text: str) -> None:
    """A line of the result; a character that the terminal cannot show, or would obey, is written as
    its code."""
    encoding = sys.stdout.encoding or "utf-8"
    text = printable(text, LONGEST_RESULT)
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def say_json(result: dict[str, Any]) -> None:
    """The whole result as one JSON object; what is not a number is null."""
    print(json.dumps(_plain(result), allow_nan=False))


def complain(kind: str, problem: str) -> None:
    """``protoscene: KIND: PROBLEM`` on stderr, one line without control characters."""
    print(printable(f"protoscene: {kind}: {problem}", LONGEST_LINE), file=_Unread(), flush=True)


class _Unread:
    """stderr, of which it does not matter whether anybody reads it: a closed pipe (``2>&1 |
    head``), a terminal that hung up or a full disk end no work."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def say_table(heading: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as their widest cell; numbers to the right."""
    cells = [list(heading), *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numbers = [
        all(isinstance(value, int | float) for value in column)
        for column in (zip(*rows, strict=True) if rows else [[""]] * len(widths))
    ]
    for row in cells:
        columns = zip(row, widths, numbers, strict=True)
        line = "  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in columns)
        say(line.rstrip())


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.3f}"
    return printable(str(value))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar for each stage on a terminal; elsewhere a line for each, and one for every
    ``LINE_SECONDS`` that it takes. What is yielded raises Interrupted after a signal."""
    if sys.stderr.isatty():
        with _bars() as show:
            yield show
        return
    stage_now, said_at = "", 0.0

    def show_line(stage: str, done: int, total: int) -> None:
        nonlocal stage_now, said_at
        interrupts.check()
        now = time.monotonic()
        if stage == stage_now and now < said_at + LINE_SECONDS:
            return
        share = f" {done}/{total}" if stage == stage_now else ""
        print(f"protoscene: {stage}{share}", file=_Unread(), flush=True)
        stage_now, said_at = stage, now

    yield show_line


@contextmanager
def _bars() -> Iterator[Progress]:
    from rich import progress as bar
    from rich.console import Console

    columns = [bar.TextColumn("{task.description}"), bar.BarColumn(), bar.MofNCompleteColumn(),
               bar.TimeElapsedColumn()]  # fmt: skip
    console = Console(file=cast("IO[str]", _Unread()))
    with bar.Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, bar.TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            interrupts.check()
            if stage not in tasks:
                for earlier in tasks.values():
                    bars.stop_task(earlier)
                tasks[stage] = bars.add_task(stage)
            bars.update(tasks[stage], completed=done, total=total)

        yield show
