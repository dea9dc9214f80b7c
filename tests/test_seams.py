"""Seams: where a surface is concave or changes its colour; without one it is of one thing."""

from __future__ import annotations

import numpy as np
import pytest

from protoscene.geometry import Grid
from protoscene.register import Model
from protoscene.seams import Seams
from protoscene.standing import Standing

GRID = Grid((-1.0, -0.5, 0.0), 0.04, (20, 25, 50))


def stands(second: tuple[float, float, float], height: float = 0.6) -> Standing:
    """Two boxes side by side, touching at x = 0: the left one blue and .4 m high, the other of a
    colour and a height; their surface points with exact distances and colours."""
    at = GRID.centres()
    boxes = [((0.0, 0.0, 0.2), (0.8, 0.3, 0.2)), ((0.4, 0.0, height / 2), (0.4, 0.3, height / 2))]
    far = []
    for middle, half in boxes:
        off = np.abs(at - middle) - half
        far.append(np.linalg.norm(off.clip(0), axis=-1) + off.max(axis=-1).clip(max=0))
    distance = np.minimum(*far)
    cell = np.argwhere((np.abs(distance) < 0.021) & (at[..., 2] > 0.04))
    points = at[tuple(cell.T)]
    colours = np.where((points[:, :1] < 0), (0.2, 0.2, 0.9), second)
    known = np.ones(GRID.shape)
    model = Model(GRID, 0.16, distance, known, np.zeros((*GRID.shape, 3)), known)
    return Standing(model, 0.0, points, colours, cell)


def halves(found: Standing) -> np.ndarray:
    return (found.points[:, 0] > 0).astype(int)


BLUE, RED = (0.2, 0.2, 0.9), (0.9, 0.2, 0.2)


@pytest.mark.parametrize(("colour", "height", "parted"), [
    (BLUE, 0.4, False), (RED, 0.4, True), (RED, 0.7, True),
])  # fmt: skip
def test_two_halves_of_one_box_are_one_and_colours_part(
    colour: tuple[float, float, float], height: float, parted: bool
) -> None:
    found = stands(colour, height)
    seams, half = Seams.of(found), halves(found)
    assert seams.parted(half == 0, half == 1) == parted
    assert len(np.unique(seams.joined(half))) == 1 + parted


def test_an_inner_edge_is_a_seam_and_an_outer_one_is_none() -> None:
    """Of equal colour: where the lower box's top meets the higher one, and its own sides."""
    found = stands(BLUE, 0.7)
    seams, (x, y, z) = Seams.of(found), found.points.T
    top = (np.abs(z - 0.4) < 0.03) & (x < -0.03) & (np.abs(y) < 0.25)
    wall, side = (np.abs(x) < 0.05) & (z > 0.43), (np.abs(y) > 0.27) & (x < -0.1) & (z < 0.36)
    first, second = seams.pairs.T
    for other, concave in ((wall, True), (side, False)):
        assert ((top[first] & other[second]) | (other[first] & top[second])).sum() > 20
        assert seams.parted(top, other) == concave


def test_what_meets_nowhere_is_parted_and_stays_apart() -> None:
    found = stands(BLUE, 0.4)
    far = np.where(found.points[:, 0] < -0.3, 0, np.where(found.points[:, 0] > 0.3, 1, -1))
    seams = Seams.of(found)
    assert seams.parted(far == 0, far == 1)
    joined = seams.joined(far)
    assert sorted(np.unique(joined)) == [-1, 0, 1]
    assert ((joined == -1) == (far == -1)).all()


def test_however_many_pairs_are_judged_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = stands(RED, 0.7)
    all_at_once = Seams.of(found)
    monkeypatch.setattr("protoscene.seams.AT_ONCE", 1000)
    assert len(all_at_once.pairs) % 1000
    np.testing.assert_array_equal(Seams.of(found).seam, all_at_once.seam)
