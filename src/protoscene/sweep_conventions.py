"""Do LiDAR points and poses belong together? Units and poses, judged by what two sweeps say of a
place, as :mod:`protoscene.conventions` judges pictures.

Where a sweep saw a point, another one must see an end of its rays, or something before it. Lengths
are shares of a sweep's median range, so that they mean the same in any unit. Nothing can be said of
a sensor that stands still.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from protoscene.errors import Refused
from protoscene.geometry import rigid_inverse
from protoscene.recording import Recording, Sweep

SCALES = (1e-3, 1e-2, 100.0, 1000.0)
"""What points may have to be multiplied with: kilo-, centi- and millimetres for metres."""
CAMERA_FROM_SENSOR = np.array(
    [[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
)
"""Of axes: a camera's x is right, its y down, its z forward."""
OTHERS = {
    "": np.eye(4),
    "poses of a camera (no calib.txt)": CAMERA_FROM_SENSOR,
}
"""other_from_sensor, where the poses are world_from_other in a world of such axes; in words."""
CELL = np.radians([0.8, 1.0])
"""Width and height of a cell of directions (azimuth, elevation): some steps of a scanner."""
SHAPE = 90, 450
"""Rows from 45° below the horizon to 45° above, and columns all around."""
MARGIN, MARGIN_MEDIAN = 0.015, 0.025
"""An end this much nearer or farther (share of the range, and of the median range) is another."""
NEAR, GROUND = 0.2, 0.05
"""Shares of the median range: what is nearer is the car itself; the ground stays ground however one
moves on it, so points within this of the usual height do not count."""
SAMPLES = 500
"""Points of each sweep."""
GAPS = (1, 2, 4, 8)
"""Sweeps from each of four places in the recording to others."""
MOVED = (0.05, 20.0)
"""Least and most median ranges that a sensor moves between the sweeps of a pair."""
LEAST_AGREEING, MOST_AGAINST = 200, 0.3
"""Points that must agree, and what share may be against, for what is suggested."""
WEIGHS = 2
"""As so many that agree counts one that is against."""
FEWER_AGAINST, SURPLUS_AGAINST, MORE_AGREEING = 2.5, 60, 2.5
"""How many times less must be against it, and so many points; or how many times more agree."""


@dataclass(frozen=True)
class SweepReading:
    """How sweeps might have to be read: points times ``scale``, poses ``inverted``
    (sensor_from_world for world_from_sensor), poses of an ``other`` thing than the sensor."""

    scale: float = 1.0
    inverted: bool = False
    other: str = ""

    @property
    def words(self) -> str:
        parts = [f"points × {self.scale:g} or translations × {1 / self.scale:g}"]
        parts = parts if self.scale != 1 else []
        parts += ["poses inverted"] if self.inverted else []
        return ", ".join([*parts, self.other] if self.other else parts)


AS_GIVEN = SweepReading()
READINGS = (
    AS_GIVEN,
    *(SweepReading(scale) for scale in SCALES),
    *(SweepReading(1.0, *rest) for rest in product((False, True), OTHERS) if any(rest)),
)
"""Of two mistakes at once nothing is said: among all combinations one fits by chance."""


@dataclass(frozen=True)
class SweepFit:
    """How well sweeps agree in a reading: points that ``agree`` with another sweep, and those that
    one is ``against``: it saw through their place. ``moved``: the sensor's way between the two, in
    median ranges, median over pairs."""

    agreeing: int
    against: int
    moved: float

    @property
    def contradiction(self) -> float:
        return self.against / max(self.agreeing + self.against, 1)


def require_sweep_conventions(recording: Recording) -> None:
    """Raises Refused where the sweeps fit clearly better in another reading."""
    fits = fitted_sweeps(recording)
    best = better_sweep_reading(fits)
    if best is not None:
        problem = f"the sweeps only agree with {best.words}"
        got, expected = (
            f"{f.agreeing} points agree, {f.contradiction:.0%} against"
            for f in (fits[AS_GIVEN], fits[best])
        )
        field = "poses" if best.scale == 1 else "points"
        raise Refused(recording.source, field, problem, got, expected)


def better_sweep_reading(fits: dict[SweepReading, SweepFit]) -> SweepReading | None:
    """The reading that most speaks for, if clearly less is against it than as given, or much more
    agrees; None where nothing can be said."""
    possible = [
        r
        for r, f in fits.items()
        if f.agreeing >= LEAST_AGREEING
        and f.contradiction <= MOST_AGAINST
        and MOVED[0] <= f.moved <= MOVED[1]
    ]
    if not possible:
        return None
    given = fits[AS_GIVEN]
    best = max(possible, key=lambda r: fits[r].agreeing - WEIGHS * fits[r].against)
    other = fits[best]
    truer = (
        given.contradiction >= FEWER_AGAINST * other.contradiction
        and given.against >= other.against + SURPLUS_AGAINST
    )
    return best if truer or other.agreeing >= MORE_AGREEING * given.agreeing else None


def fitted_sweeps(recording: Recording) -> dict[SweepReading, SweepFit]:
    """How well sweeps agree in every reading; empty where there are no two."""
    pairs = _pairs(len(recording.sweeps))
    if not pairs:
        return {}
    ends = {k: _Ends.of(recording.sweep(k)) for k in sorted({k for pair in pairs for k in pair})}
    ends = {k: own for k, own in ends.items() if len(own.samples)}
    pairs = [(a, b) for a, b in pairs if a in ends and b in ends]
    return {reading: _compared(ends, pairs, reading) for reading in READINGS} if pairs else {}


def _pairs(n: int) -> list[tuple[int, int]]:
    """Some sweeps of four places in the recording and others soon after, both ways round."""
    places = [round(k * (n - 1) / 3) for k in range(4)]
    ways = [(p, p + gap if p + gap < n else p - gap) for gap in GAPS for p in places]
    ways = [(a, b) for a, b in dict.fromkeys(ways) if 0 <= b < n and a != b]
    return list(dict.fromkeys(ways + [(b, a) for a, b in ways]))


@dataclass(frozen=True, eq=False)
class _Ends:
    """The nearest and farthest ends of a sweep in and around each cell of direction (∞ and 0 where
    there is none), how many of the 3×3 cells have one, and points of it that do not lie on the
    ground; lengths in ``median`` ranges."""

    world_from_sensor: Float[np.ndarray, "4 4"]
    median: float
    nearest: Float[np.ndarray, "rows columns"]
    farthest: Float[np.ndarray, "rows columns"]
    filled: Int[np.ndarray, "rows columns"]
    samples: Float[np.ndarray, "n 3"]

    @classmethod
    def of(cls, sweep: Sweep) -> _Ends:
        points = sweep.points.astype(np.float64)
        reach = np.linalg.norm(points, axis=1)
        median = float(np.median(reach))
        points, reach = points / median, reach / median
        nearest, farthest = np.full(SHAPE, np.inf), np.zeros(SHAPE)
        row, column, inside = _cells(points, reach)
        np.minimum.at(nearest, (row[inside], column[inside]), reach[inside])
        np.maximum.at(farthest, (row[inside], column[inside]), reach[inside])
        filled = ndimage.uniform_filter(
            (farthest > 0).astype(np.float64), 3, mode=("nearest", "wrap")
        )
        standing = inside & (reach > NEAR) & _off_the_ground(points[:, 2])
        chosen = np.flatnonzero(standing)
        chosen = np.random.default_rng(0).permutation(chosen)[:SAMPLES]
        return cls(
            sweep.world_from_sensor, median,
            ndimage.minimum_filter(nearest, 3, mode=("nearest", "wrap")),
            ndimage.maximum_filter(farthest, 3, mode=("nearest", "wrap")),
            np.rint(9 * filled).astype(int), points[chosen],
        )  # fmt: skip


def _off_the_ground(z: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Which heights are not near the most usual one, nor below it."""
    bins = np.floor((z - z.min()) / (GROUND / 2)).astype(int)
    usual = z.min() + (np.bincount(np.minimum(bins, 10_000)).argmax() + 0.5) * GROUND / 2
    return np.asarray(z > usual + GROUND)


def _cells(
    points: Float[np.ndarray, "n 3"], reach: Float[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """(row, column) of points in the sensor's frame, and whether there is such a row."""
    elevation = np.arcsin(np.clip(points[:, 2] / np.maximum(reach, 1e-9), -1, 1))
    row = np.floor(elevation / CELL[1]).astype(int) + SHAPE[0] // 2
    column = np.floor((np.arctan2(points[:, 1], points[:, 0]) + np.pi) / CELL[0]).astype(int)
    return row, column % SHAPE[1], (row >= 0) & (row < SHAPE[0]) & (reach > 1e-6)


def _compared(
    ends: dict[int, _Ends], pairs: list[tuple[int, int]], reading: SweepReading
) -> SweepFit:
    agreeing = against = 0
    moved = []
    for a, b in pairs:
        one, two = ends[a], ends[b]
        second_from_first = _sensor_pose(two, reading, True) @ _sensor_pose(one, reading, False)
        shift = second_from_first[:3, 3] / (reading.scale * two.median)
        moved.append(float(np.linalg.norm(shift)))
        points = one.samples * (one.median / two.median) @ second_from_first[:3, :3].T + shift
        reach = np.linalg.norm(points, axis=1)
        row, column, inside = _cells(points, reach)
        cell, reach = (row[inside], column[inside]), reach[inside]
        near, far, margin = two.nearest[cell], two.farthest[cell], MARGIN_MEDIAN + MARGIN * reach
        met = (reach > near - margin) & (reach < far + margin)
        agreeing += int(met.sum())
        against += int(((two.filled[cell] >= 3) & (near > reach + margin)).sum())
    return SweepFit(agreeing, against, float(np.median(moved)))


def _sensor_pose(own: _Ends, reading: SweepReading, inverse: bool) -> Float[np.ndarray, "4 4"]:
    """world_from_sensor in a reading, or its inverse."""
    other_from_sensor = OTHERS[reading.other]
    pose = own.world_from_sensor
    pose = rigid_inverse(pose) if reading.inverted != inverse else pose
    return other_from_sensor.T @ pose @ other_from_sensor
