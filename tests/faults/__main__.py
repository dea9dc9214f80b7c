"""Every fault that protoscene must survive: what ``make faults`` runs.

    python tests/faults [PART ...] [--trials N] [--minutes M] [--results FILE]

PARTS are those of parts.py, all when left out. N is of each row of kills; interrupts are half of
that in all, races a quarter. M is of the fuzzers, shared out, and of each row of kills. In FILE the
rows of the parts that were run take the place of those parts' rows; the others stay.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"  # forks need it
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(p) for p in (ROOT / "src", HERE.parent, HERE, ROOT / "studies")]


def main() -> int:
    import torch

    from jobs import Jobs
    from parts import PARTS, Effort
    from rows import Row, remember, table

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", choices=PARTS, default=None)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=30.0, help="0: a few tries of each")
    parser.add_argument("--results", type=Path, help="put the rows between its markers there")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        effort = Effort(given.trials, given.minutes, Jobs(Path(place)))
        for part in given.parts or PARTS:
            began = _processor_seconds()
            with tempfile.TemporaryDirectory() as folder:
                for what, n, failures, note in PARTS[part](effort, Path(folder)):
                    now = _processor_seconds()
                    row = Row(part, what, n, len(failures), now - began, note)
                    began = now
                    rows.append(row)
                    print(f"{what}: {n}, {len(failures)} failures", file=sys.stderr, flush=True)
                    for problem in failures[:20]:
                        print(f"    {problem}", file=sys.stderr, flush=True)
                    if given.results:
                        ours = [row for row in rows if row.part == part]
                        remember(given.results, ours, list(PARTS))
    print(json.dumps([asdict(row) for row in rows]) if given.json else table(rows))
    return 1 if any(row.failures for row in rows) else 0


def _processor_seconds() -> float:
    """Of this process and of all its children that have ended."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    sys.exit(main())
