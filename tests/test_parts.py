"""Parts: what is laid is found again, wherever and however turned."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from protoscene.geometry import Grid
from protoscene.laid import YAWS, explain, left_of, window
from protoscene.parts import Parts, Size, code_bits, decode, encode, learn
from protoscene.pursuit import LOOKED_YAWS, Finds, Templates, better, content, pursue

SIZE = Size(16, 6, 24, 0.5, 0.5)
GRID = Grid((0.0, 0.0, 0.0), 0.1, (24, 56, 56))


def hook() -> torch.Tensor:
    """A part with a nose: a red bar with a blue arm and a green top."""
    rgba = torch.zeros(4, 16, 16, 16)
    for colour, box in (
        ((0.9, 0.1, 0.1), (slice(3, 8), slice(5, 9), slice(2, 14))),
        ((0.1, 0.2, 0.9), (slice(3, 8), slice(9, 13), slice(10, 14))),
        ((0.1, 0.8, 0.2), (slice(8, 13), slice(5, 9), slice(2, 6))),
    ):
        rgba[:3, box[0], box[1], box[2]] = torch.tensor(colour).reshape(3, 1, 1, 1)
        rgba[3, box[0], box[1], box[2]] = 1
    return rgba


def drum() -> torch.Tensor:
    rgba = torch.zeros(4, 16, 16, 16)
    z, y, x = np.mgrid[:16, :16, :16] + 0.5 - 8
    inside = torch.from_numpy((x**2 + y**2 < 25) & (np.abs(z) < 5))
    rgba[:3, inside] = torch.tensor([0.8, 0.7, 0.1])[:, None]
    rgba[3, inside] = 1
    return rgba


PARTS = Parts((SIZE,), (torch.stack([hook(), drum()]),))


def laid(*poses: tuple[int, ...], parts: Parts = PARTS) -> torch.Tensor:
    """Volume of rows (which, x, y, z in half voxels, yaw in YAWS-ths, scale)."""
    rows = np.array(poses, np.int64)
    volume = decode(Finds(rows[:, 0], rows[:, 1:], np.zeros(len(rows))), parts, GRID).rgba
    return torch.cat([volume[:3] * (volume[3:] > 0.5), (volume[3:] > 0.5).float()]).contiguous()


def overlap(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a[3] > 0.5, b[3] > 0.5
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("pose", [(34, 62, 20, 0, 0), (60, 41, 24, 37, 0), (41, 52, 22, 99, 0)])
def test_what_is_laid_is_found(pose: tuple[int, ...]) -> None:
    volume = laid((0, *pose))
    found = encode(volume, PARTS)
    assert found.which.tolist() == [0]
    off = found.pose[0] - pose
    assert (np.abs(off[:3]) <= 1).all() and abs(off[4]) <= 2
    assert abs((off[3] + YAWS // 2) % YAWS - YAWS // 2) <= 2
    assert overlap(decode(found, PARTS, GRID).rgba, volume) > 0.8


LARGE = torch.nn.functional.interpolate(hook()[None], scale_factor=2.0)[0]


@pytest.mark.parametrize("scale", [-4, -2, 0, 2, 3])
def test_the_scale_of_a_large_part_is_found(scale: int) -> None:
    parts = Parts((Size(32, 2, 200, 0.5, 0.5),), (LARGE[None],))
    volume = laid((0, 60, 52, 22, 37, scale), parts=parts)
    found = encode(volume, parts)
    assert found.which.tolist() == [0]
    assert abs(found.pose[0, 4] - scale) <= 1
    assert overlap(decode(found, parts, GRID).rgba, volume) > 0.9


def test_parts_of_two_sizes_are_told_apart() -> None:
    parts = Parts((Size(32, 2, 400, 0.5, 0.5), SIZE), (LARGE[None], PARTS.rgba[0][1:]))
    volume = laid((0, 40, 40, 22, 20, 1), (1, 88, 84, 22, 0, 0), parts=parts)
    found = encode(volume, parts)
    assert found.which.tolist() == [0, 1]
    assert np.abs(found.pose[:, :3] - [[40, 40, 22], [88, 84, 22]]).max() <= 1


def test_a_turned_volume_has_the_same_code_turned() -> None:
    volume = laid((0, 33, 35, 20, 11, 0), (1, 76, 70, 22, 0, 0))
    turned = torch.rot90(volume, -1, (2, 3)).contiguous()  # x, y → −y, x
    before, after = encode(volume, PARTS), encode(turned, PARTS)
    assert before.which.tolist() == after.which.tolist() and len(before.which) == 2
    x, y = before.pose[:, 0], before.pose[:, 1]
    due = np.stack([112 - y, x, before.pose[:, 2]], axis=1)
    assert np.abs(after.pose[:, :3] - due).max() <= 1
    hooks = [code.pose[code.which == 0][0, 3] for code in (before, after)]
    assert abs((hooks[1] - hooks[0]) % YAWS - YAWS // 4) <= 1


def test_the_gain_of_a_part_where_it_lies_is_its_voxels_and_then_nothing_is_left() -> None:
    volume = laid((0, 40, 40, 20, 0, 0))
    field = left_of(volume)
    found = pursue(field, Templates(PARTS.rgba[0][:1]), 24, 0.5)
    assert found.gain[0] == pytest.approx(float(hook()[3].sum()), rel=0.01)
    assert field[..., 0].sum() == 0
    assert len(pursue(field, Templates(PARTS.rgba[0]), 24, 0.5).which) == 0


def test_of_several_ways_to_lay_a_part_the_best_is_kept_and_the_best_part_comes_first() -> None:
    volume = laid((0, 40, 40, 20, 40, 0), (1, 84, 80, 22, 0, 0))
    field = left_of(volume)
    poses = np.zeros((2, 3, 5), np.int64)
    poses[0] = [[40, 40, 20, 104, 0], [42, 39, 20, 36, 0], [40, 40, 20, 8, 0]]
    poses[1] = [[84, 80, 22, 0, 0], [70, 70, 22, 0, 0], [90, 90, 22, 0, 0]]
    found = better(field, Templates(PARTS.rgba[0]), np.array([0, 1]), poses)
    order = [1, 0] if drum()[3].sum() > hook()[3].sum() else [0, 1]
    assert found.which.tolist() == order
    one = found.pose[order.index(0)]
    assert np.abs(one[:3] - [40, 40, 20]).max() <= 1 and abs(one[3] - 40) <= 1
    assert field[..., 0].sum() == pytest.approx(float(volume[3].sum()))  # left as it is


def test_of_each_place_the_best_look_of_several_parts_is_found() -> None:
    templates = Templates(PARTS.rgba[0])
    field = left_of(laid((0, 40, 40, 20, 0, 0), (1, 84, 80, 22, 0, 0)))
    place, one, gain = templates.best(field)
    again, two, same = templates.best(field, several=2)
    assert torch.equal(place, again) and torch.equal(gain, same)
    assert one.shape == (len(place), 1) and torch.equal(one, two[:, :1])
    assert ((two // LOOKED_YAWS).sort(dim=1).values == torch.tensor([0, 1])).all()
    at_drum = (place - torch.tensor([5, 20, 21])).abs().sum(dim=1).argmin()
    assert int(two[at_drum, 0]) // LOOKED_YAWS == 1


def test_the_better_of_two_parts_is_laid_where_the_worse_looks_better_from_afar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    field = left_of(laid((0, 40, 40, 20, 40, 0)))
    templates = Templates(PARTS.rgba[0])
    place = torch.tensor([[5, 10, 10]])
    looks = torch.tensor([[LOOKED_YAWS, 10]])  # the drum first, then the hook as it lies
    found = (place, looks, torch.tensor([1e4]))
    monkeypatch.setattr(Templates, "best", lambda *args: found)
    assert pursue(field.copy(), templates, 24, 0.5, rounds=1, several=2).which.tolist() == [0]
    found = (place, looks[:, :1], found[2])
    assert pursue(field.copy(), templates, 24, 0.5, rounds=1).which.tolist() != [0]


def test_free_space_and_colour_count_against_a_part() -> None:
    volume = laid((1, 40, 40, 20, 0, 0))
    volume[3, :, :40] = 0  # half of the drum
    assert len(pursue(left_of(volume), Templates(PARTS.rgba[0]), 24, 0.5).which) == 0
    other = laid((1, 40, 40, 20, 0, 0))
    other[:3] = 1 - other[:3]
    assert len(pursue(left_of(other), Templates(PARTS.rgba[0][1:]), 24, 0.5).which) == 0


def test_a_window_shows_a_part_as_it_is_and_content_is_the_part() -> None:
    pose = np.array([40, 44, 20, 0, 0])
    field = left_of(laid((0, *pose)))
    assert torch.allclose(content(window(field, pose, 16)[None])[0], hook(), atol=1e-5)
    explain(field, hook(), pose)
    assert field[..., 0].sum() == 0


def test_a_dictionary_is_learnt_from_volumes_and_explains_another() -> None:
    seen = [
        laid((0, 33, 35, 18, 0, 0), (1, 80, 70, 20, 0, 0), (0, 34, 84, 18, 40, 0)),
        laid((0, 80, 35, 18, 75, 0), (1, 33, 70, 20, 0, 0)),
    ]
    parts = learn(seen, (SIZE,), passes=2)
    assert 2 <= len(parts) <= 4
    other = laid((0, 60, 60, 18, 100, 0), (1, 30, 30, 20, 0, 0))
    code = encode(other, parts)
    volume = decode(code, parts, GRID).rgba
    assert overlap(volume, other) > 0.85
    both = (volume[3] > 0.5) & (other[3] > 0.5)
    assert (volume[:3, both] - other[:3, both]).square().mean() < 0.01
    # The same bytes again.
    assert all(map(torch.equal, parts.rgba, learn(seen, (SIZE,), passes=2).rgba))


def test_bits_of_a_code() -> None:
    one = encode(laid((0, 40, 40, 20, 0, 0)), PARTS)
    cells = 3 * 7 * 7
    due = math.log2(cells) + math.log2(2 * YAWS * 8 * 16**3)
    assert code_bits(one, PARTS, GRID.shape) == pytest.approx(due)


def test_nothing_has_no_code() -> None:
    empty = torch.zeros(4, 16, 16, 16)
    code = encode(empty, PARTS)
    assert len(code.which) == 0 and code.pose.shape == (0, 5)
    assert len(learn([empty], (SIZE,), passes=2)) == 0
    assert decode(code, PARTS, Grid((0, 0, 0), 0.1, (16, 16, 16))).occupancy.sum() == 0
