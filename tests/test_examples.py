"""Every numbered example runs as its first lines say, without a warning."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import protoscene

SOURCE = Path(protoscene.__file__).parent.parent
EXAMPLES = sorted((SOURCE.parent / "examples").glob("[0-9][0-9]_*.py"))
WRITTEN = {
    "01_discover.py": ["above.png", "scene"],
    "02_compose_by_hand.py": [],
    "03_fit_a_prototype.py": [],
}


def test_every_example_is_expected() -> None:
    assert [path.name for path in EXAMPLES] == list(WRITTEN)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_example_runs(path: Path, tmp_path: Path) -> None:
    usage = re.search(rf"^    python examples/{path.name}(.*)$", path.read_text(), re.MULTILINE)
    assert usage, "the docstring says how to run it"
    arguments = [str(tmp_path / name.lower()) for name in usage.group(1).split()]
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path), *arguments],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and len(done.stdout.splitlines()) >= 2
    assert sorted(p.name for p in tmp_path.glob("out/*")) == WRITTEN[path.name]
