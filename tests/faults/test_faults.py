"""A few of every fault: kills, broken disks, races, interrupts, fuzzers. ``make faults`` runs many.

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


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    """What is said of each kind of fault."""
    command = [sys.executable, str(HERE), "kills", "disks", "races", "interrupts", "fuzz"]
    done = subprocess.run(
        [*command, "--trials", "2", "--minutes", "0", "--json"],
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("what", "least"), [("kill -9", 4), ("disks", 1), ("races", 1), ("SIGINT", 4), ("fuzzed", 15)]
)
def test_every_fault_is_survived(rows: list[dict], what: str, least: int) -> None:
    found = [row for row in rows if row["what"].startswith(what)]
    assert len(found) >= least
    for row in found:
        assert row["n"] >= 2 and row["failures"] == [], row
