"""A tiny run of the study of codebooks of nets."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch


def test_a_tiny_codebook_of_nets(study: Callable[[str], ModuleType], tmp_path: Path) -> None:
    codebook = study("codebook")
    options = codebook.Options(
        nets=(8,), seeds=(0,), rooms=(100,), test_rooms=(101,), patches=48, test_patches=12,
        steps=40, batch=16, positions=64, size=64, out=tmp_path, results=tmp_path / "results.md",
    )  # fmt: skip
    torch.manual_seed(0)
    figures = codebook.main(options)
    assert set(figures) == {"no codebook", "8 separate", "8 joint"}
    assert all(0 <= f.iou <= 1 for found in figures.values() for f in found)
    assert math.isnan(figures["no codebook"][0].used)
    assert 1 <= figures["8 joint"][0].used <= 8
    # Any net at all beats what an untrained one says of these patches: that nothing is there.
    assert figures["no codebook"][0].iou > 0.2
    assert (tmp_path / "codebook.png").is_file()
    assert "8 joint" in (tmp_path / "results.md").read_text()
