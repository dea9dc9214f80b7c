"""A few of every fault; ``make faults`` runs many.

All in one other process, which is not watched as the tests are, so that it may fork and is fast.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "studies"))

from rows import Row, remember  # noqa: E402

PARTS = (
    "kills-export", "kills-discover", "kills-learn", "points-export", "power-export",
    "power-discover", "disks", "races", "interrupts", "places", "resumes", "readers",
    "fuzz-recordings", "fuzz-pictures", "fuzz-own",
)  # fmt: skip


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    """What is said of each kind of fault."""
    command = [sys.executable, str(HERE), *PARTS, "--trials", "2", "--minutes", "0", "--json"]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("part", PARTS)
def test_every_fault_is_survived(rows: list[dict], part: str) -> None:
    found = [row for row in rows if row["part"] == part]
    assert len(found) >= {
        "disks": 4,
        "interrupts": 5,
        "readers": 2,
        "fuzz-recordings": 4,
        "fuzz-pictures": 5,
        "fuzz-own": 8,
    }.get(part, 1)
    for row in found:
        assert row["n"] >= 2 and row["failures"] == 0, row


def test_rows_take_the_place_of_their_part(tmp_path: Path) -> None:
    file, parts = tmp_path / "results.md", ["one", "two", "three"]
    rows = [
        Row("two", "b", 3, 0, 1.0),
        Row("one", "a", 2, 0, 4.0, "note"),
        Row("two", "c", 9, 1, 2.0),
    ]
    remember(file, rows, parts)
    file.write_text(file.read_text().replace("| two | b", "| written by hand | d |\n| two | b"))
    remember(file, [Row("two", "e", 5, 0, 0.4)], parts)
    lines = [line for line in file.read_text().splitlines() if line.startswith("|")]
    assert lines[2:] == ["| one | a | 2 | 0 | 4 | note |", "| two | e | 5 | 0 | 0 |  |"]
