"""docs/results.md: each program that measures something owns a part of it, between two markers."""

from __future__ import annotations

from pathlib import Path


def write_between_markers(file: Path, name: str, text: str) -> None:
    """Replaces what ``file`` has between the markers ``name``: begin and ``name``: end by ``text``;
    a file without them gets them at its end."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    old = file.read_text() if file.exists() else "# Results\n"
    if begin not in old or end not in old:
        old = f"{old.rstrip()}\n\n{begin}\n{end}\n"
    before, after = old.split(begin)[0], old.split(end)[1]
    file.write_text(f"{before}{begin}\n{text}\n{end}{after}")
