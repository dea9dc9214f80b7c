"""The table of what was survived: rows of one run, put among those of earlier runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from results_page import write_between_markers

MARKERS = "faults"
HEAD = ["| part | what | N | failures | CPU, s | |", "|---|---|---|---|---|---|"]


@dataclass(frozen=True)
class Row:
    """So many of ``what``, how many of them failed, and what it cost; ``part`` makes it again."""

    part: str
    what: str
    n: int
    failures: int
    seconds: float
    note: str = ""

    def line(self) -> str:
        cells = (self.part, self.what, self.n, self.failures, f"{self.seconds:.0f}", self.note)
        return f"| {' | '.join(map(str, cells))} |"


def table(rows: Sequence[Row]) -> str:
    """As Markdown."""
    return "\n".join([*HEAD, *(row.line() for row in rows)])


def remember(file: Path, rows: Sequence[Row], parts: Sequence[str]) -> None:
    """Puts ``rows``, which are all of their parts, into the table in ``file``; rows of other parts
    stay as they are, in the order of ``parts``, and those of no part go."""
    fresh = {row.part for row in rows}
    lines = [line for line in _lines(file) if _part(line) not in fresh]
    lines += [row.line() for row in rows]
    kept = sorted(
        (line for line in lines if _part(line) in parts), key=lambda line: parts.index(_part(line))
    )
    write_between_markers(file, MARKERS, "\n".join([*HEAD, *kept]))


def _lines(file: Path) -> list[str]:
    text = file.read_text() if file.exists() else ""
    block = text.partition(f"<!-- {MARKERS}: begin -->")[2].partition(f"<!-- {MARKERS}: end -->")[0]
    return [line for line in block.splitlines() if line.startswith("|")]


def _part(line: str) -> str:
    return line.split("|")[1].strip()
