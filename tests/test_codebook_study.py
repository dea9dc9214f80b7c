"""A tiny run of the study of codebooks of nets."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch


def test_a_tiny_codebook_of_nets(
    study: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codebook = study("codebook")
    options = codebook.Options(
        nets=(8,), seeds=(0,), rooms=(100,), test_rooms=(101,), patches=48, test_patches=12,
        steps=40, fitting=80, batch=16, positions=64, size=64, out=tmp_path,
        results=tmp_path / "results.md",
    )  # fmt: skip
    torch.manual_seed(0)
    figures = codebook.main(options)
    quantised = {"encoded, then 8 clusters", "fitted, then 8 clusters", "8 learnt jointly"}
    assert set(figures) == {"encoded", "fitted", *quantised}
    assert all(0 <= f.iou <= 1 for found in figures.values() for f in found)
    assert math.isnan(figures["encoded"][0].used)
    assert all(1 <= figures[name][0].used <= 8 for name in quantised)
    # Any net at all beats what an untrained one says of these patches: that nothing is there.
    assert figures["encoded"][0].iou > 0.2
    assert figures["fitted"][0].iou > 0.2
    assert (tmp_path / "codebook.png").is_file()
    assert "8 learnt jointly" in (tmp_path / "results.md").read_text()
    monkeypatch.delattr(codebook, "ways")  # what is known is not trained again
    assert codebook.main(options)["8 learnt jointly"] == figures["8 learnt jointly"]


@pytest.mark.parametrize("differs", ["occupancy", "colour"])
def test_the_least_wrong_net_has_the_least_loss(
    study: Callable[[str], ModuleType], differs: str
) -> None:
    codebook = study("codebook")
    random = torch.Generator().manual_seed(3)
    nets = torch.randn(5, 4, 16, 16, 16, generator=random)
    patches = torch.randint(256, (6, 4, 16, 16, 16), generator=random, dtype=torch.uint8)
    if differs == "colour":  # occupancy is alike, each net and each patch of one colour
        nets[:, 3] = nets[0, 3]
        nets[:, :3] = torch.randn(5, 3, 1, 1, 1, generator=random)
        patches[:, :3] = torch.randint(256, (6, 3, 1, 1, 1), generator=random, dtype=torch.uint8)
    patches[:, 3] = torch.where(patches[:, 3] > 150, 255, 0)
    losses = [
        [
            float(codebook.losses(net.flatten(1).T[None], patch.flatten(1).T[None] / 255))
            for net in nets
        ]
        for patch in patches
    ]
    least = torch.tensor(losses).argmin(dim=1)
    assert len(least.unique()) > 1
    assert torch.equal(codebook.least_wrong(nets, patches), least)


def test_vectors_are_fitted_to_their_patches(study: Callable[[str], ModuleType]) -> None:
    """Patches that the field has not seen, each by itself: the others change nothing."""
    codebook = study("codebook")
    options = codebook.Options(patches=24, fitting=150, batch=8, positions=64, code_dim=8)
    patches = torch.zeros(24, 4, 16, 16, 16, dtype=torch.uint8)
    for k in range(24):  # slabs of different heights
        patches[k, :, : 3 + k % 12] = 255
    field, own = codebook.fitted(patches[::2], 0, options)
    assert codebook.judged(codebook.drawn(field, own), patches[::2])[0] > 0.8
    found = codebook.fitted_vectors(field, patches[1::2], options)
    assert codebook.judged(codebook.drawn(field, found), patches[1::2])[0] > 0.8
