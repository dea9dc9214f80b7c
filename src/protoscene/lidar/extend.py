"""A thing at instants when nothing saw through its place: looked for where its path leads.

Over open ground no ray ends behind it, and where a drive ends nobody looked later; before and
after its trail, and in its gaps, a thing is taken from all points that stand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from protoscene.lidar.fuse import HUBER_M, TRUNCATION_M, Rigid, into_own
from protoscene.lidar.kinds import Kind
from protoscene.lidar.movers import Standing
from protoscene.register import Model, onto

BESIDE_M = 0.4
"""Points this near (m) to the box where it is expected may be its own."""
MOST_CONFIRMED = 0.4
"""What a larger share of other sweeps confirm is no part of what moves."""
LEAST_POINTS = 10
LEAST_ON = 0.6
"""Share of the points that must lie on the prototype's surface."""
MOST_STRAY_M = 1.0
"""How far (m) it may be found from where it is expected."""
MOST_MISSED = 2
"""Instants one after another at which it may be hidden."""
LOOK_BACK = 4
"""Instants over which velocity and turning are taken."""


@dataclass(frozen=True, eq=False)
class Whereabouts:
    """Where a thing was: poses x y z yaw of its box's middle at its instants, ascending."""

    instants: tuple[int, ...]
    poses: Float[np.ndarray, "i 4"]


def extended(
    thing: Rigid, kind: Kind, seen: list[Standing], times: tuple[float, ...]
) -> Whereabouts:
    """The thing's instants and those at which it is found besides: in the gaps of its trail, then
    onwards and backwards until it is missed too often."""
    poses = dict(zip(thing.instants, thing.poses, strict=True))
    for i in range(thing.instants[0] + 1, thing.instants[-1]):
        _look(i, poses, kind, seen, times)
    for ahead in (range(thing.instants[-1] + 1, len(times)), range(thing.instants[0] - 1, -1, -1)):
        missed = 0
        for i in ahead:
            missed = 0 if _look(i, poses, kind, seen, times) else missed + 1
            if missed > MOST_MISSED:
                break
    instants = tuple(sorted(poses))
    return Whereabouts(instants, np.array([poses[i] for i in instants]))


def _look(
    i: int, poses: dict[int, np.ndarray], kind: Kind, seen: list[Standing], times: tuple[float, ...]
) -> bool:
    """Whether the thing is there at instant ``i``; its pose is added to ``poses``."""
    if i in poses:
        return True
    expected = _expected(i, poses, times)
    one = seen[i]
    share = one.confirmed / max(len(seen) - 1, 1)
    near = (np.abs(into_own(one.points, expected)) < kind.dims / 2 + BESIDE_M).all(axis=1)
    points = np.ascontiguousarray(one.points[near & (share <= MOST_CONFIRMED)])
    if len(points) < LEAST_POINTS:
        return False
    pose = onto(kind.model, points, expected, 8, HUBER_M)
    pose[2] = expected[2]
    stray = np.linalg.norm((pose - expected)[:2])
    if stray > MOST_STRAY_M or on_surface(kind.model, into_own(points, pose)) < LEAST_ON:
        return False
    poses[i] = pose
    return True


def _expected(
    i: int, poses: dict[int, np.ndarray], times: tuple[float, ...]
) -> Float[np.ndarray, "4"]:
    """Pose at instant ``i``: between those before and after, else at constant velocity."""
    known = sorted(poses)
    own = np.array([times[k] for k in known])
    rows = np.array([poses[k] for k in known])
    rows[:, 3] = np.unwrap(rows[:, 3])
    if known[0] < i < known[-1]:
        return np.array([np.interp(times[i], own, rows[:, c]) for c in range(4)])
    here, before = (-1, -min(LOOK_BACK, len(known))) if i > known[-1] else (
        0, min(LOOK_BACK, len(known)) - 1)  # fmt: skip
    velocity = (rows[here] - rows[before]) / (own[here] - own[before])
    return rows[here] + velocity * (times[i] - own[here])


def on_surface(model: Model, points: Float[np.ndarray, "n 3"]) -> float:
    """Share of own-frame points that lie within half the truncation of the fused surface."""
    cell = np.floor(model.grid.voxel_from_world(points)).astype(int)
    inside = ((cell >= 0) & (cell < model.grid.shape[::-1])).all(axis=1)
    x, y, z = cell[inside].T
    known = model.votes[z, y, x] > 0
    return float((known & (np.abs(model.distance[z, y, x]) < TRUNCATION_M / 2)).sum() / len(points))
