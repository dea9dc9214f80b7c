"""Prototypes and placements from single instants: gains, slots, and all of it on a small scene."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from protoscene.gains import (
    COLOUR,
    Looks,
    averaged,
    explain,
    gains,
    posed,
    seen_channels,
    spectra,
    templates,
    unposed,
)
from protoscene.joint import boxes, merged, random_prototypes, restarted, squared
from protoscene.slots import Slots, centres, find, slots_around, slots_of, window


def blob(side: int = 12, layers: int = 4) -> torch.Tensor:
    """(1, 4, z, y, x), colours times occupancy: an L, red along x, blue along y."""
    rgba = torch.zeros(1, 4, layers, side, side)
    half = side // 2
    rgba[0, 0, :3, half - 1 : half + 1, half - 3 : half + 3] = 0.9
    rgba[0, 2, :3, half + 1 : half + 3, half + 1 : half + 3] = 0.8
    rgba[0, 3] = (rgba[0, 0] + rgba[0, 2] > 0).float()
    return rgba


def shown(rgba: torch.Tensor, size: int, *places: tuple[float, float, float]) -> torch.Tensor:
    """(1, 6, z, size, size): everything known, the volume at each (x, y, yaw)."""
    whole = torch.zeros(1, 4, rgba.shape[2], size, size)
    for x, y, yaw in places:
        offset = torch.tensor([[x - size / 2, y - size / 2]])
        laid = posed(rgba, torch.tensor([yaw]), torch.ones(1), offset, tuple(whole.shape[2:]))
        whole = torch.maximum(whole, laid)
    straight = torch.cat([whole[:, :3] / whole[:, 3:].clamp(min=1e-6), whole[:, 3:]], dim=1)
    return seen_channels(straight, torch.ones(whole.shape[:1] + whole.shape[2:]))


def test_a_gain_is_what_the_formula_says() -> None:
    random = torch.Generator().manual_seed(0)
    rgba = torch.rand(1, 4, 3, 9, 10, generator=random)
    weight = torch.rand(1, 3, 9, 10, generator=random)
    own = torch.rand(2, 4, 3, 4, 4, generator=random)
    tinted = torch.cat([own[:, :3] * own[:, 3:], own[:, 3:]], dim=1)
    patterns = spectra(templates(tinted), (9, 10))
    found = gains(seen_channels(rgba, weight), patterns, 4)
    assert found.shape == (1, 2, 6, 7)
    o = (rgba[0, 3] * weight[0])[:, 2:6, 3:7]
    f = weight[0][:, 2:6, 3:7] - o
    alpha = own[1, 3]
    off = (rgba[0, :3, :, 2:6, 3:7] - own[1, :3]).square().mean(dim=0)
    expected = (o * (2 * alpha - alpha**2) - f * alpha**2 - COLOUR * o * alpha * off).sum()
    torch.testing.assert_close(found[0, 1, 2, 3], expected, atol=1e-4, rtol=1e-4)


def test_a_turn_is_counter_clockwise_and_a_move_is_in_voxels() -> None:
    volume = torch.zeros(1, 1, 2, 11, 11)
    volume[0, 0, 0, 5, 8] = 1  # 3 along +x
    quarter, one = torch.tensor([math.pi / 2]), torch.ones(1)
    laid = posed(volume, quarter, one, torch.tensor([[1.0, -2.0]]))
    assert laid[0, 0, 0].argmax() == (8 - 2) * 11 + 5 + 1
    twice = posed(volume, 0 * quarter, 2 * one, shape=(2, 15, 15))
    assert int(twice[0, 0, 0].argmax()) == 7 * 15 + 7 + 6  # scaled about the lowest face


def test_unposed_is_the_inverse() -> None:
    random = torch.Generator().manual_seed(1)
    smooth = torch.nn.functional.avg_pool3d(torch.rand(2, 1, 8, 20, 20, generator=random), 3, 1, 1)
    yaw, scale = torch.tensor([0.7, -2.0]), torch.tensor([1.0, 1.1])
    offset = torch.tensor([[1.3, -0.5], [0.5, 2.0]])
    laid = posed(smooth, yaw, scale, offset, (10, 40, 40))
    back = unposed(laid, yaw, scale, offset, (8, 20, 20))
    inner = (slice(None), slice(None), slice(1, 7), slice(6, 14), slice(6, 14))
    assert float((back - smooth)[inner].abs().max()) < 0.12
    assert float((laid[:, :, :8, 10:30, 10:30] - smooth)[inner].abs().max()) > 0.2


def test_a_pose_is_found_to_a_part_of_a_voxel() -> None:
    yaw = 0.85
    poses = explain(shown(blob(), 18, (9.7, 8.6, yaw)), blob(), Looks.of(36))
    assert poses.offset[0].tolist() == pytest.approx([0.7, -0.4], abs=0.25)
    assert float(poses.yaw[0]) == pytest.approx(yaw, abs=0.08)
    lonely = explain(shown(blob(), 18, (9.7, 8.6, yaw)), blob(), Looks.of(1))
    assert float(lonely.gain[0]) < float(poses.gain[0])


def test_poses_are_drawn_alike_from_one_seed_and_gather_as_it_cools() -> None:
    seen, looks = shown(blob(), 18, (9, 9, 1.0)), Looks.of(36)
    hot, again = (
        explain(seen, blob(), looks, 3.0, torch.Generator().manual_seed(2)) for _ in range(2)
    )
    torch.testing.assert_close(hot.gain, again.gain)
    cold = explain(seen, blob(), looks, 0.001, torch.Generator().manual_seed(2))
    assert float(cold.gain.min()) > float(hot.gain.mean())
    assert len(cold.gain) == 4


def test_the_mean_of_turned_views_is_the_thing() -> None:
    places = [(9.0, 9.0, 0.0), (9.0, 9.0, math.pi / 2), (9.0, 9.0, math.pi)]
    seen = torch.cat([shown(blob(), 18, place) for place in places])
    poses = explain(seen, blob(), Looks.of(36))
    made = averaged(seen, poses, torch.zeros(2, 4, 4, 12, 12))
    assert float((made[0] - blob()[0]).abs().mean()) < 0.02
    assert float(made[1].abs().max()) == 0  # nobody's: it stays as it is


def test_both_of_two_that_touch_are_found() -> None:
    seen = shown(blob(), 40, (12, 20, 0.4), (17.5, 20, 2.5))
    finds = find(seen, blob(), Looks.of(36), least=10)
    assert len(finds) == 2
    assert sorted(finds.place[:, 0].tolist()) == pytest.approx([12, 17.5], abs=1)
    alone = slots_of(seen, finds, blob(), 16)
    whole = slots_of(seen, finds[torch.tensor([0])], blob(), 16)
    # Without the other, less is seen to be there.
    assert float(alone.seen[0, 0].sum()) < 0.8 * float(whole.seen[0, 0].sum())
    # What is half explained is not explained twice: there is no room for another.
    assert len(find(seen, 0.6 * blob(), Looks.of(36), least=9)) == 2
    with pytest.raises(ValueError, match="least"):
        find(seen, blob(), Looks.of(36), least=0)


def test_slots_stand_at_things_and_own_their_columns() -> None:
    seen = shown(blob(), 40, (10, 12, 0.4), (30, 25, 2.5))
    places = centres(seen, 0.1, 0.5)
    assert len(places[0]) == 2
    slots = slots_around(seen, places, 20)
    total = seen[:, 0].sum()
    torch.testing.assert_close(slots.seen[:, 0].sum(), total)
    with pytest.raises(ValueError, match="no instant shows a thing"):
        slots_around(seen, [torch.zeros(0, 2)], 20)


def test_halves_of_one_kind_become_one_prototype() -> None:
    half_a_step = math.pi / 36
    other = torch.roll(blob(), 1, dims=1)  # the same shape in other colours
    seen = torch.cat([
        shown(thing, 18, (9, 9, yaw))
        for thing in (blob(), other) for yaw in (0.0, math.pi, math.pi / 2)
        for yaw in (yaw, yaw + half_a_step)
    ])  # fmt: skip
    slots = Slots(torch.arange(12), torch.full((12, 2), 9.0), seen)
    turned = posed(blob(), torch.tensor([half_a_step]), torch.ones(1))
    first = torch.cat([blob(), turned, other])
    assert explain(seen, first, Looks.of(36)).which.unique().numel() == 3
    made, poses = merged(slots, first, Looks.of(36))
    assert len(made) == 2
    assert poses.which[:6].unique().numel() == poses.which[6:].unique().numel() == 1
    assert poses.which[0] != poses.which[6]


def test_a_blur_starts_anew_from_one_view() -> None:
    yaws = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    seen = torch.cat([shown(blob(), 18, (9, 9, yaw)) for yaw in yaws])
    slots = Slots(torch.arange(6), torch.full((6, 2), 9.0), seen)
    looks = Looks.of(36)
    round_ = torch.stack(
        [posed(blob(), torch.tensor([a]), torch.ones(1))[0] for a in looks.yaw.tolist()]
    ).mean(dim=0, keepdim=True)
    blurred = explain(seen, round_, looks)
    sharp = restarted(slots, round_, blurred, looks)
    assert float(explain(seen, sharp, looks).gain.sum()) > 1.2 * float(blurred.gain.sum())


def test_a_box_is_the_closest_fit() -> None:
    block = torch.zeros(1, 4, 6, 20, 20)
    block[0, :, :4, 8:12, 6:14] = 1
    askew = posed(block, torch.tensor([0.6]), torch.ones(1), torch.tensor([[1.0, 2.0]]))
    x, y, *size = boxes(squared(askew))[0].tolist()
    assert (x, y) == pytest.approx((0, 0), abs=0.6)
    assert size == pytest.approx([8, 4, 4], abs=1.01)


def test_kinds_and_places_from_random_prototypes(study, tmp_path, capsys) -> None:
    joint = study("joint")
    options = joint.Options(
        seeds=(0,), scenes=6, prototypes=3, steps=2, starts=("random",),
        out=tmp_path, results=tmp_path / "results.md",
    )  # fmt: skip
    joint.main(options)
    lines = capsys.readouterr().out.splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| random")]
    found = {row[0]: [float(v) for v in row[1:]] for row in rows}
    ap, v, loss = (found["random"][i] for i in (0, 3, 11))
    assert ap > 0.7 and v > 0.8
    assert found["random, then by gradient"][11] < loss
    assert "6 instants" in (tmp_path / "results.md").read_text()
    with Image.open(tmp_path / "joint.png") as picture:
        assert picture.height > 10


def test_scenes_are_alike_from_one_seed_and_some_things_touch(study) -> None:
    instants = study("instants")
    things = instants.things_of(3, 3)
    one, two = (instants.make_scenery(things, 3, 5, 32) for _ in range(2))
    np.testing.assert_array_equal(one.views[1].rgba, two.views[1].rgba)
    other = instants.make_scenery(things, 3, 6, 32)
    assert not np.array_equal(one.boxes[0], other.boxes[0])
    nearest = [
        np.linalg.norm(one.boxes[i, :2] - one.boxes[j, :2])
        for i in range(len(one.scene)) for j in range(i) if one.scene[i] == one.scene[j]
    ]  # fmt: skip
    assert min(nearest) < 1.0
    truth = instants.instant(one, 0, one.boxes[one.scene == 0], 0)
    assert np.diag(truth.iou) == pytest.approx(1)


def test_random_prototypes_differ() -> None:
    made = random_prototypes(3, (4, 6, 6), torch.Generator().manual_seed(0))
    assert made.shape == (3, 4, 4, 6, 6)
    assert float((made[0] - made[1]).abs().mean()) > 0.01
    assert bool((made[:, :3] <= made[:, 3:]).all())


def test_finds_may_be_resized() -> None:
    finds = find(shown(blob(), 40, (12, 20, 0.4)), blob(), Looks.of(36), least=10)
    assert finds.resized(2).place[0].tolist() == [2 * v for v in finds.place[0].tolist()]
    assert replace(finds, yaw=finds.yaw + 1)[torch.tensor([0])].yaw[0] == finds.yaw[0] + 1


@pytest.mark.parametrize("middle", [(3.0, 2.0), (0.0, 6.0), (-9.0, 2.0), (3.0, 40.0), (8.0, -1.0)])
def test_a_window_is_zero_beyond_the_volume_however_far(middle: tuple[float, float]) -> None:
    volume = 1 + torch.arange(2 * 6 * 8.0).reshape(1, 2, 6, 8)
    seen = window(volume, torch.tensor(middle), 4)
    for b, a in itertools.product(range(4), range(4)):
        y, x = int(middle[1]) - 2 + b, int(middle[0]) - 2 + a
        inside = 0 <= y < 6 and 0 <= x < 8
        own = volume[:, :, y, x] if inside else torch.zeros(1, 2)
        assert torch.equal(seen[:, :, b, a], own)
