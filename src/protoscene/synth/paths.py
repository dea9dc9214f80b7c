"""How things move: poses (x, y, yaw) over time, one function per style of motion.

Every style draws from a random generator and returns (n, 3) poses that pass near the origin; the
layout moves them to their place. Heading and yaw agree only where a style says so.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Poses = Float[np.ndarray, "n 3"]


def curved(
    speed: Float[np.ndarray, " n"], turn: Float[np.ndarray, " n"], times: Float[np.ndarray, " n"]
) -> Poses:
    """Integrates signed ``speed`` (m/s, along the heading) and ``turn`` (rad/s), midpoint rule."""
    step = np.diff(times)
    heading = np.concatenate([[0.0], np.cumsum(0.5 * (turn[1:] + turn[:-1]) * step)])
    middle = 0.5 * (heading[1:] + heading[:-1])
    length = 0.5 * (speed[1:] + speed[:-1]) * step
    xy = np.zeros((len(times), 2))
    xy[1:] = np.cumsum(length[:, None] * np.stack([np.cos(middle), np.sin(middle)], 1), axis=0)
    return np.column_stack([xy, heading])


def smooth(rng: np.random.Generator, times: np.ndarray, speed: float) -> Poses:
    """A curved path, nose first."""
    return curved(np.full(len(times), speed), _turns(rng, times), times)


def reverse(rng: np.random.Generator, times: np.ndarray, speed: float) -> Poses:
    """Drives forwards, then backwards on another curve; every third drives only backwards."""
    share = (times - times[0]) / max(times[-1] - times[0], 1e-9)
    if rng.random() < 1 / 3:
        return curved(np.full(len(times), -speed), _turns(rng, times), times)
    back = rng.uniform(0.3, 0.6)
    signed = speed * np.tanh((back - share) / 0.06)
    swing = rng.choice([-1, 1]) * rng.uniform(0.5, 0.9)
    return curved(signed, swing * np.tanh((share - back) / 0.06), times)


def sideways(rng: np.random.Generator, times: np.ndarray, speed: float) -> Poses:
    """Slides across its nose, at 50 to 130 degrees to it, along a curved path."""
    poses = smooth(rng, times, speed)
    poses[:, 2] += rng.choice([-1, 1]) * rng.uniform(np.radians(50), np.radians(130))
    return poses


def spin(rng: np.random.Generator, times: np.ndarray, speed: float) -> Poses:
    """Drives, turns on the spot for a quarter of the time, and drives on."""
    share = (times - times[0]) / max(times[-1] - times[0], 1e-9)
    start = rng.uniform(0.25, 0.45)
    turning = (share >= start) & (share < start + 0.25)
    seconds = 0.25 * (times[-1] - times[0])
    rate = rng.choice([-1, 1]) * rng.uniform(0.5, 1.2) * np.pi / seconds
    return curved(np.where(turning, 0.0, speed), np.where(turning, rate, 0.0), times)


def stop_and_go(rng: np.random.Generator, times: np.ndarray, speed: float) -> Poses:
    """Stands in one place for 55 to 65 % of the time, from the start or after a first drive."""
    share = (times - times[0]) / max(times[-1] - times[0], 1e-9)
    start = rng.choice([0.0, 0.15])
    stands = (share >= start) & (share < start + rng.uniform(0.55, 0.65))
    return curved(np.where(stands, 0.0, speed), np.where(stands, 0.0, _turns(rng, times)), times)


STYLES: dict[str, Callable[[np.random.Generator, np.ndarray, float], Poses]] = {
    "smooth": smooth,
    "reverse": reverse,
    "sideways": sideways,
    "spin": spin,
    "stop_and_go": stop_and_go,
}
"""The styles that are paths; "jumps" has none: its poses are drawn one by one."""


def _turns(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """A turning rate that swells and fades: rad/s."""
    rate, wave = rng.uniform(-0.7, 0.7), rng.uniform(0.0, 0.5)
    return rate + wave * np.sin(rng.uniform(1.0, 2.5) * times + rng.uniform(0, 2 * np.pi))


def gaps(
    a: Poses, size_a: tuple[float, float], b: Poses, size_b: tuple[float, float]
) -> Float[np.ndarray, " n"]:
    """A lower bound of the distance between two rectangles (length, width), pose by pose.

    The largest separation along the four edge directions; negative where they overlap.
    """
    between = b[:, :2] - a[:, :2]
    best = np.full(len(a), -np.inf)
    for yaw in (a[:, 2], a[:, 2] + np.pi / 2, b[:, 2], b[:, 2] + np.pi / 2):
        along = np.abs(between[:, 0] * np.cos(yaw) + between[:, 1] * np.sin(yaw))
        reach = _reach(yaw - a[:, 2], size_a) + _reach(yaw - b[:, 2], size_b)
        best = np.maximum(best, along - reach)
    return best


def _reach(angle: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    return 0.5 * (size[0] * np.abs(np.cos(angle)) + size[1] * np.abs(np.sin(angle)))


def extent(poses: Poses, size: tuple[float, float]) -> Float[np.ndarray, "n 2"]:
    """Half the axis-aligned bounds of a rectangle (length, width) at each pose."""
    yaw = poses[:, 2]
    return np.stack([_reach(yaw, size), _reach(np.pi / 2 - yaw, size)], axis=1)
