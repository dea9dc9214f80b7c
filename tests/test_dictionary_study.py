"""The dictionary's study: its measures are what they say, and it runs on a recording of seconds."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from protoscene.geometry import centred_grid
from protoscene.synth import TINY
from protoscene.synth.things import build_thing
from protoscene.volume import Volume


def test_a_true_shape_is_complete_and_its_half_is_not(study) -> None:
    completion, solid = study("completion"), study("solids").solid
    crate = build_thing("crate", factor=0.6)
    grid = centred_grid(crate.size_m, 0.02, padding=8)
    at = np.array([0.04, -0.02, 0.0, 0.3])
    rgba = torch.from_numpy(solid(crate, grid, at[0], at[1], at[3]))
    surface, overlap = completion.compared(Volume(rgba, grid), crate, at)
    assert surface > 0.999 and overlap > 0.9
    assert completion.compared(Volume(rgba, grid), crate, at + [0.1, 0, 0, 0])[1] < 0.7
    half = rgba.clone()
    half[3, :, :, : half.shape[3] // 2] = 0
    surface, overlap = completion.compared(Volume(half, grid), crate, at)
    assert surface < 0.85 and overlap == pytest.approx(0.5, abs=0.1)
    half[3] = 0
    assert completion.compared(Volume(half, grid), crate, at) == (0, 0)


def test_f1_is_the_harmonic_mean_of_both_shares(study) -> None:
    completion = study("completion")
    far = 10 * completion.VOXEL_M
    true = np.array([[0.0, 0, 0], [far, 0, 0], [2 * far, 0, 0], [3 * far, 0, 0]])
    assert completion.f1(true + [0.9 * completion.VOXEL_M, 0, 0], true) == 1
    assert completion.f1(true[:1], true) == pytest.approx(2 * 0.25 / 1.25)
    assert completion.f1(true[:0], true) == completion.f1(true + far / 2, true) == 0


def test_the_middle_pose_is_not_moved_by_one_that_is_lost(study) -> None:
    poses = np.array([[0, 0, 0, np.pi - 0.1], [0.02, 0, 0, -np.pi + 0.1], [9, 9, 9, np.pi]])
    middle = study("completion").middle_pose(poses)
    assert middle[:3].tolist() == [0.02, 0, 0]
    assert abs(middle[3]) == pytest.approx(np.pi)


def test_it_runs_and_keeps_what_it_measured(study, tmp_path, capsys, monkeypatch) -> None:
    """Two crates: they share a prototype, which is more complete than what one instant shows."""
    dictionary = study("dictionary")
    settings = replace(TINY, kinds=("crate",), n_instants=6)
    monkeypatch.setattr(dictionary, "SUITE", {"tiny": lambda seed: replace(settings, seed=seed)})
    options = dictionary.Options(
        out=tmp_path / "out", data=tmp_path / "data", kinds=("tiny",), seeds=(1,)
    )
    dictionary.main(options)
    row = json.loads((tmp_path / "out" / "tiny-1.json").read_text())
    assert row["v"] == 1 and row["plain_parked"] == 0
    assert row["kind_iou"] > row["instant_iou"] + 0.1 and row["kind"] > row["instant"]
    table = capsys.readouterr().out
    (tmp_path / "out" / "tiny-1.json").write_text(json.dumps({**row, "v": 0.125}))
    dictionary.main(options)  # is not measured again
    again = capsys.readouterr().out
    assert again != table and "| tiny-1 | 0.12 |" in again and "| **worst** | 0.12 |" in again
