"""The inpainting encoder's study at a size of seconds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image


@pytest.fixture
def study(study: Any) -> Any:
    return study("inpaint")


def test_what_is_hidden_is_scored_alone(study) -> None:
    one, four = torch.zeros(2, 1, 6, 1, 2, 2)
    four[0, 1] = 1
    four[0, 0, 0, 0, :], four[0, 1, 0, 0, :] = 1, 0
    four[0, 2, 0, 0, :] = 1.0
    one[0, :, 0, 0, 0] = four[0, :, 0, 0, 0]  # one of two occupied voxels, nothing else
    assert study.hidden_scores(study.copied(one), one, four)[:2] == (0.0, 0.5)
    right = torch.cat([four[:, 2:5], four[:, :1]], dim=1)
    assert study.hidden_scores(right, one, four)[:2] == (1.0, 1.0)
    assert study.hidden_scores(study.copied(one), one, four)[2] > 60  # its colour is the mean


def test_tables_and_picture(study, tmp_path, capsys) -> None:
    study.main(study.Options(
        scenes=6, held_out=3, steps=40, batch=3, resolution=32, out=tmp_path,
        results=tmp_path / "results.md",
    ))  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    rows = {
        line.strip("| ").split(" | ")[0]: line.strip("| ").split(" | ")[1:]
        for line in lines if line.startswith("| ")
    }  # fmt: skip
    copied, inpainted = ([float(v) for v in rows[name]] for name in ("copied", "inpainted"))
    assert copied[0] == 0 and inpainted[0] > 0.03
    assert float(rows["RGB-O"][0]) > 0.5
    assert "| features |" in (tmp_path / "results.md").read_text()
    with Image.open(tmp_path / "inpaint.png") as picture:
        assert picture.size == (3 * 34, 3 * 34)
