"""Are wrong units and poses of LiDAR recordings noticed, and right ones left alone?

    python studies/sweep_conventions.py --real street_lidar --results docs/results.md

Streets of boxes, cast ray by ray (traffic, walls, another speed and curve each), and real ones if
given, each as it is and with mistakes that people make: what `discover` and `check` would say.
Points in millimetres are refused before, as no scanner reaches so far.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import tyro
from results_page import write_between_markers
from scipy.spatial.transform import Rotation

from protoscene.formats import load
from protoscene.geometry import rigid_inverse, rotation_from_yaw
from protoscene.recording import Recording, Sweep, SweepEntry
from protoscene.sweep_conventions import (
    CAMERA_FROM_SENSOR,
    OTHERS,
    SweepReading,
    better_sweep_reading,
    fitted_sweeps,
)

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from street_world import Solid, cast

ROOM_M = 1.2
"""That the car takes to each side."""
Pose = Callable[[np.ndarray], np.ndarray]
(CAMERA,) = (words for words in OTHERS if words)


@dataclass
class Options:
    """Judges LiDAR recordings as they are and with mistakes made in them."""

    first: int = 400
    """Of the streets; constants were chosen on 0 to 15."""
    number: int = 24
    real: tuple[Path, ...] = ()
    """Folders of further recordings; the constants have seen `street_lidar`."""
    results: Path | None = None
    """A markdown file whose part between the study's markers is replaced by the table."""


@dataclass(frozen=True)
class Mistake:
    """What is wrong with a recording, and the reading in which it would be right."""

    reading: SweepReading
    pose: Pose = lambda world_from_sensor: world_from_sensor
    points: float = 1.0


def _scaled(scale: float) -> Pose:
    return lambda pose: pose * np.array([[1, 1, 1, scale]] * 3 + [[1, 1, 1, 1]])


MISTAKES = {
    "translations in millimetres": Mistake(SweepReading(1e3), _scaled(1e3)),
    "translations in centimetres": Mistake(SweepReading(1e2), _scaled(1e2)),
    "translations in kilometres": Mistake(SweepReading(1e-3), _scaled(1e-3)),
    "points in kilometres": Mistake(SweepReading(1e3), points=1e-3),
    "sensor_from_world": Mistake(SweepReading(inverted=True), rigid_inverse),
    "a camera's poses without calib.txt": Mistake(
        SweepReading(other=CAMERA), lambda p: CAMERA_FROM_SENSOR @ p @ CAMERA_FROM_SENSOR.T
    ),
}


def with_mistake(recording: Recording, mistake: Mistake) -> Recording:
    """The recording as somebody who made the mistake would have written it."""
    place = {entry.time: k for k, entry in enumerate(recording.sweeps)}

    def read(entry: SweepEntry) -> Sweep:
        sweep = recording.sweep(place[entry.time])
        points = sweep.points * np.float32(mistake.points)
        return replace(sweep, world_from_sensor=entry.world_from_sensor, points=points)

    sweeps = [
        replace(s, world_from_sensor=mistake.pose(s.world_from_sensor)) for s in recording.sweeps
    ]
    return Recording(recording.source, [], sweeps=sweeps, read_sweep=read)


def shaken(recording: Recording, seed: int) -> Recording:
    """All poses off by 5 cm and 0.4° (standard deviations)."""
    rng = np.random.default_rng(seed)

    def pose(right: np.ndarray) -> np.ndarray:
        error = np.eye(4)
        error[:3, :3] = Rotation.from_rotvec(rng.normal(0, np.deg2rad(0.4), 3)).as_matrix()
        error[:3, 3] = rng.normal(0, 0.05, 3)
        return right @ error

    return with_mistake(recording, Mistake(SweepReading(), pose))


def a_street(number: int, speed: float | None = None) -> Recording:
    """The ``number``-th of many different streets, driven along at ``speed`` (m/s)."""
    rng = np.random.default_rng([number, 5])
    n, step = int(rng.integers(6, 15)), float(rng.choice([0.1, 0.2, 0.4]))
    speed, turn = rng.uniform(2, 10) if speed is None else speed, rng.uniform(-0.25, 0.25)
    solids = [_standing(rng) for _ in range(int(rng.integers(6, 22)))]
    solids += [_passing(rng) for _ in range(int(rng.integers(0, 6)))]
    if rng.random() < 0.5:
        solids.append(Solid((10.0, float(_side(rng, 9, 20)), 2.0, 80.0, 0.4, 4.0, 0.0)))
    poses, yaw, place = [], float(rng.uniform(-0.5, 0.5)), np.zeros(2)
    for _ in range(n):
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation_from_yaw(yaw), (*place, 1.7)
        poses.append(pose)
        place = place + speed * step * np.array([np.cos(yaw), np.sin(yaw)])
        yaw += turn * step * (speed > 0)
    times = [step * k for k in range(n)]
    solids = [s for s in solids if not any(map(partial(_hits, s), times, poses))]
    clouds = {
        t: cast(pose, [(s.at(t), s.intensity) for s in solids], k)
        for k, (t, pose) in enumerate(zip(times, poses, strict=True))
    }
    sweeps = [
        SweepEntry(t, pose, Path(f"{k:06d}.bin"))
        for k, (t, pose) in enumerate(zip(times, poses, strict=True))
    ]

    def read(entry: SweepEntry) -> Sweep:
        cloud = clouds[entry.time].astype(np.float32)
        return Sweep(entry.time, entry.world_from_sensor, cloud[:, :3], cloud[:, 3])

    return Recording(Path(f"street {number}"), [], sweeps=sweeps, read_sweep=read)


def _hits(solid: Solid, time: float, pose: np.ndarray) -> bool:
    """Whether the car would drive into it."""
    row = solid.at(time)
    apart = rotation_from_yaw(row[6]).T[:2, :2] @ (pose[:2, 3] - row[:2])
    return bool((np.abs(apart) < row[3:5] / 2 + ROOM_M).all())


def _standing(rng: np.random.Generator) -> Solid:
    length, width, height = (float(rng.uniform(*r)) for r in ((0.3, 6), (0.3, 3), (1, 4)))
    x, yaw = float(rng.uniform(-15, 40)), float(rng.uniform(0, 3))
    return Solid((x, _side(rng, 4, 18), height / 2, length, width, height, yaw))


def _passing(rng: np.random.Generator) -> Solid:
    row = (float(rng.uniform(0, 30)), _side(rng, 2.5, 5), 0.8, 4.0, 1.8, 1.6, 0.0)
    return Solid(row, (float(rng.uniform(-8, 8)), 0.0))


def _side(rng: np.random.Generator, low: float, high: float) -> float:
    """So far to the left or to the right."""
    return float(rng.choice([-1, 1]) * rng.uniform(low, high))


@dataclass
class Tally:
    """Of one kind of recording; ``expected``: how they should be read, None as given."""

    expected: SweepReading | None
    recordings: int = 0
    refused: int = 0
    right: int = 0
    """The expected reading was suggested."""

    def add(self, recording: Recording) -> None:
        said = better_sweep_reading(fitted_sweeps(recording))
        self.recordings += 1
        self.refused += said is not None
        self.right += said == self.expected
        if said != self.expected:
            print(f"{recording.source}: {self.expected} expected, {said} said")


def markdown(tallies: dict[str, Tally], seconds: list[float]) -> str:
    lines = ["| LiDAR recordings | number | refused | right suggestion |", "|---|---|---|---|"]
    for name, t in tallies.items():
        right = "–" if t.expected is None else t.right
        lines.append(f"| {name} | {t.recordings} | {t.refused} | {right} |")
    wrong = [t for t in tallies.values() if t.expected is not None]
    n, refused, right = (
        sum(getattr(t, f) for t in wrong) for f in ("recordings", "refused", "right")
    )
    lines.append(f"| **all mistakes** | {n} | {refused} ({refused / n:.1%}) | {right} |")
    took = f"median {np.median(seconds):.2f} s, at most {max(seconds):.2f} s"
    return "\n".join([*lines, "", f"Processor time of a judgement, points read: {took}."])


def main(options: Options) -> None:
    numbers = range(options.first, options.first + options.number)
    right = {name: Tally(None) for name in ("as they are", "badly odometered", "unmoved")}
    wrong = {name: Tally(mistake.reading) for name, mistake in MISTAKES.items()}
    seconds = []
    for recording in [*map(a_street, numbers), *map(load, options.real)]:
        begin = time.process_time()
        right["as they are"].add(recording)
        seconds.append(time.process_time() - begin)
        right["badly odometered"].add(shaken(recording, len(seconds)))
        for name, mistake in MISTAKES.items():
            wrong[name].add(with_mistake(recording, mistake))
    for number in numbers:
        right["unmoved"].add(a_street(number, speed=0.0))
    text = markdown({**right, **wrong}, seconds)
    print(text)
    if options.results is not None:
        write_between_markers(options.results, "sweep_conventions", text)


if __name__ == "__main__":
    main(tyro.cli(Options))
