"""The study of heat maps, on two tiny recordings."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from protoscene.synth import TINY, write_recording

STUDIES = str(Path(__file__).resolve().parent.parent / "studies")


def test_tables_and_picture(monkeypatch, tmp_path, capsys):
    pytest.importorskip("mujoco", reason="the extra `sim` is not installed")
    monkeypatch.syspath_prepend(STUDIES)
    import heatmap

    for seed in (0, 1):
        write_recording(replace(TINY, seed=seed, n_heldout=0), tmp_path / f"tiny-{seed}")
    options = heatmap.Options(
        "tiny", (0, 1), tmp_path, tmp_path / "out", voxel_size=0.1, steps=15, tries=1
    )
    try:
        heatmap.main(options)
    finally:
        sys.modules.pop("heatmap")
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    cells = {" | ".join(row[:3]): row for row in rows}
    for name in ("centre-surround", "product of evidence"):
        recall, precision = (float(v) for v in next(r for r in rows if r[0] == name)[1:3])
        assert 0.3 < recall <= 1 and 0.5 < precision <= 1
    least = next(row for row in rows if row[0].startswith("no optimisation"))
    assert float(least[1]) > 0.9 and float(least[1]) >= float(least[2]) > 0.4
    # From 0.3 m off, which is 3 of these voxels, even a few steps come nearer.
    for variable in ("0.3 | positions | off", "0.3 | heat map | off"):
        assert re.fullmatch(r"\d\.\d\d", cells[variable][3]) and float(cells[variable][3]) < 2
    with Image.open(tmp_path / "out" / "heatmap.png") as picture:
        assert picture.size == (3 * 260, 256)
