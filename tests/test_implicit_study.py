"""The studies of small networks, at a size of seconds, and what they measure with."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

Study = Callable[[str], ModuleType]


def table(printed: str) -> dict[str, list[str]]:
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if "|" in line]
    return {row[0]: row[1:] for row in rows}


def number(cell: str) -> float:
    return float(cell.split()[0])


def test_rooms_are_finer_than_their_interpolation(study: Study, tmp_path, capsys) -> None:
    implicit = study("implicit")
    options = implicit.Options(
        seeds=(0,), test=(0,), rooms=24, steps=120, points=512, size=128, features=16, width=16,
        out=tmp_path,
    )  # fmt: skip
    implicit.main(options)
    rows = table(capsys.readouterr().out)
    for size in ("64³", "128³"):
        assert number(rows[f"networks, {size}"][0]) > number(rows[f"interpolated, {size}"][0])
    with Image.open(tmp_path / "implicit.png") as picture:
        assert picture.size == (3 * 128, 128)

    # The same weights, which are not trained again.
    refine = study("coarse_to_fine")
    before = sorted(tmp_path.rglob("*.safetensors"))
    refine.main(refine.Options(**vars(options), parts=(0.5, 0.9)))
    assert sorted(tmp_path.rglob("*.safetensors")) == before
    rows = table(capsys.readouterr().out)
    found = {way: number(cells[0]) for way, cells in rows.items() if cells and cells[0][0] == "0"}
    assert found["interpolated, fine"] > found["interpolated, coarse"]
    assert found["uniformly fine"] > found["coarse alone"]
    assert found["coarse to fine, 90%"] > found["coarse alone"]
    assert found["coarse to fine, 50%"] > found["coarse alone"]
    assert number(rows["coarse to fine, 50%"][2]) <= 0.5 * number(rows["uniformly fine"][2]) + 1


def test_points_are_where_the_shares_say(study: Study) -> None:
    """Also of rooms that are turned and mirrored."""
    implicit = study("implicit")
    options, rooms = implicit.Options(points=300), [implicit.learnt(100, 128)]
    for step in range(0, 16, 4):
        given = implicit.drawn_rooms(rooms, options, 3, step)
        given |= {name: given[name][1] for name in ("low", "low_points", "low_rgba")}
        for scale in ("low", "high"):
            found = torch.nn.functional.grid_sample(
                given[scale][None], given[f"{scale}_points"][None, None, None], align_corners=False
            )[0, :, 0, 0]
            solid = given[f"{scale}_rgba"][:, 3] > 0.5
            assert found[3, solid].mean() > found[3, ~solid].mean() + 0.3
            wrong = (found[:3] / found[3].clamp(min=0.05)).T - given[f"{scale}_rgba"][:, :3]
            assert wrong[solid].abs().mean() < 0.15


def test_uneven_ground_moves_columns_as_they_are(study: Study) -> None:
    rooms = study("uneven_rooms")
    rgba = torch.zeros(4, 24, 32, 32)
    rgba[:, :8] = torch.linspace(0.1, 1, 8)[:, None, None]
    rgba[3, :8] = 1
    rgba[3, 12, 8:16, 8:16] = 1
    moved, most = rooms.on_uneven_ground(rgba, np.random.default_rng(0))
    height = (moved[3].sum(dim=0) - rgba[3].sum(dim=0)).int()
    assert height.max() == most
    assert height.unique().numel() > 3
    for y, x in itertools.product(range(32), repeat=2):
        by = int(height[y, x])
        torch.testing.assert_close(moved[:, 9:20, y, x], rgba[:, 9 - by : 20 - by, y, x])


def test_what_is_fused_differs_at_surfaces_alone(study: Study) -> None:
    rooms = study("uneven_rooms")
    rgba = torch.zeros(4, 24, 32, 32)
    rgba[:, :8] = torch.tensor([0.9, 0.2, 0.1, 1.0])[:, None, None, None]
    wrong = []
    for seed in range(4):
        told = rooms.as_fused(rgba, np.random.default_rng(seed))
        wrong.append(int((told[3] != rgba[3]).sum()))
        assert torch.equal(told[3, :6], rgba[3, :6])
        assert torch.equal(told[3, 10:], rgba[3, 10:])
        torch.testing.assert_close(told[:3, :8], rgba[:3, :8])
    assert max(wrong) > 0.1 * 32 * 32
    assert len(set(wrong)) > 1


def test_a_coarser_room_is_solid_where_half_of_it_is(study: Study) -> None:
    implicit = study("implicit")
    rgba = torch.zeros(4, 2, 2, 4)
    rgba[:, 0, :, :2] = torch.tensor([0.8, 0.4, 0.2, 1.0])[:, None, None]
    rgba[:, 0, 0, 2] = rgba[:, 1, 0, 2] = rgba[:, 0, 1, 2] = 1
    coarse = implicit.coarser(rgba, 2)
    torch.testing.assert_close(coarse[:, 0, 0, 0], torch.tensor([0.8, 0.4, 0.2, 1.0]))
    assert coarse[3, 0, 0, 1] == 0


def test_a_seam_is_a_jump_at_the_borders_of_cells(study: Study) -> None:
    implicit = study("implicit")
    ramp = torch.linspace(0, 1, 64).expand(16, 64, 64).contiguous()
    assert implicit.seam(ramp, 2) == pytest.approx(1, abs=1e-3)
    steps = ramp + 0.5 / 63 * (torch.arange(64) // 8)  # cells of 4 voxels of the input
    assert implicit.seam(steps, 2) == pytest.approx(1.5, abs=1e-3)


def test_residual_counts_wrong_voxels_within_reach(study: Study) -> None:
    refine = study("coarse_to_fine")
    truth = torch.zeros(1, 16, 16, 16)
    truth[:, 4:8, 4:8, 4:8] = 1
    share = torch.nn.functional.avg_pool3d(truth, 2).expand(4, 8, 8, 8)
    assert not refine.residual(truth[0], share).any()
    wrong = refine.residual(torch.zeros_like(truth[0]), share)
    assert wrong.shape == (2, 2, 2)
    assert wrong[0, 0, 0] == 8  # 4³ voxels are 2³ of the input
    assert wrong.sum() == 8 * 8  # all cells reach that far


def test_one_field_fits_one_room(study: Study, tmp_path, capsys) -> None:
    one = study("one_field")
    one.main(one.Options(rooms=(0,), size=32, steps=150, points=1024, octaves=(0, 6), out=tmp_path))
    rows = table(capsys.readouterr().out)
    assert number(rows["6"][1]) > 0.97
    assert number(rows["6"][2]) > number(rows["0"][2]) + 0.05
    with Image.open(tmp_path / "one_field.png") as picture:
        assert picture.size == (4 * 3 * 32, 4 * 2 * 32)
