"""The study of view prediction, on a tiny recording."""

import sys
from pathlib import Path

import pytest
from PIL import Image

from protoscene.synth import TINY, write_recording

STUDIES = str(Path(__file__).resolve().parent.parent / "studies")


def test_table_and_picture(monkeypatch, tmp_path, capsys):
    pytest.importorskip("mujoco", reason="the extra `sim` is not installed")
    monkeypatch.syspath_prepend(STUDIES)
    before = set(sys.modules)
    import view_prediction

    write_recording(TINY, tmp_path / "tiny-0")
    options = view_prediction.Options(tmp_path, ("tiny",), (0,), 2, tmp_path / "out")
    try:
        view_prediction.main(options)
    finally:
        for name in {"view_prediction", "drawn", "started"} - before:
            sys.modules.pop(name, None)
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    db = {row[0]: [float(v) for v in row[1:4]] for row in rows if len(row) == 5 and "." in row[1]}
    assert list(db) == ["mean", "sharpest", "view prediction", "without zoom"]
    # Its pixels are as large as the coarse voxels: here the sources hardly differ.
    assert all(8 < of < 40 for found in db.values() for of in found)
    with Image.open(tmp_path / "out" / "view_prediction.png") as picture:
        assert picture.width == 5 * 200
