"""The surface that cameras saw: on the true surface, only where they looked, and what is round."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from protoscene.synth import TINY
from protoscene.synth.surface import SPACING_M, seen_surface, turning
from protoscene.synth.things import KINDS, NEARLY_ROUND, Part, build_thing, symmetry_of

pytest.importorskip("mujoco", reason="the extra `sim` is not installed")

CRATES = replace(TINY, kinds=("crate",), n_moving=1, n_parked=1, motions=("spin",))


def test_points_lie_on_the_thing_and_not_where_nobody_looked() -> None:
    (spun, parked) = seen_surface(replace(CRATES, n_cameras=1))
    thing = build_thing("crate").scaled(1.0)
    for points in (spun, parked):
        scale = np.ptp(points[:, 2]) / thing.size_m[2]  # sizes differ a little from seed to seed
        assert 0.9 < scale < 1.1
        off = np.min([_distance(part, points / scale) for part in thing.parts], axis=0)
        # Pixels are exact at their centres; the float32 depth buffer is not.
        assert np.quantile(np.abs(off), 0.99) < 0.012
        assert points[:, 2].min() > -thing.size_m[2] / 2 * scale - 0.005
    # One camera sees about half of what stands, and all sides of what spins.
    assert len(parked) < 0.75 * len(spun)


def _distance(part: Part, points: np.ndarray) -> np.ndarray:
    """Signed distance (m) from a part that is a box."""
    beyond = np.abs(points - part.centre) - part.half
    return np.linalg.norm(beyond.clip(min=0), axis=1) + beyond.max(axis=1).clip(max=0)


def test_thinned_to_one_point_per_cube() -> None:
    for points in seen_surface(CRATES):
        cubes = np.floor(points / SPACING_M)
        assert len(np.unique(cubes, axis=0)) == len(points) > 200


def test_what_was_never_seen_has_no_surface() -> None:
    assert all(s.shape == (0, 3) for s in seen_surface(replace(CRATES, reach_m=0.5)))


@pytest.mark.parametrize("kind", [k for k in KINDS if symmetry_of(k) != "round"])
def test_nearly_round_is_what_hardly_shows_that_it_turned(kind: str) -> None:
    settings = replace(
        TINY, kinds=(kind,), n_cameras=4, n_moving=1, n_parked=0, motions=("spin",),
        width=240, height=180,
    )  # fmt: skip
    (points,) = seen_surface(settings)
    assert (turning(points) < 0.2) == (kind in NEARLY_ROUND)
