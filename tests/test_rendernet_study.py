"""The study of drawing new views by a network, at a size of seconds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

STUDIES = Path(__file__).resolve().parent.parent / "studies"


def test_table_and_picture(monkeypatch: pytest.MonkeyPatch, tmp_path, capsys) -> None:
    monkeypatch.syspath_prepend(STUDIES)
    before = set(sys.modules)
    import rendernet

    options = rendernet.Options(
        scenes=3, held_out=2, views=2, steps=15, resolution=32, out=tmp_path
    )
    try:
        rendernet.main(options)
    finally:
        for name in set(sys.modules) - before:
            if (STUDIES / f"{name}.py").is_file():
                sys.modules.pop(name)
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    db = {row[0]: float(row[1]) for row in rows if len(row) == 3 and "." in row[1]}
    # More sides show more of the things; a network with no time to learn is no match.
    assert db["plain, four sides"] > db["plain, one side"] > 3
    assert db["RenderNet, one side"] > 3
    with Image.open(tmp_path / "rendernet.png") as picture:
        assert picture.size == (4 * rendernet.WIDTH, 3 * rendernet.HEIGHT)
