"""A street that a LiDAR drives along, ray by ray: ground, boxes that stand and boxes that move."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protoscene.geometry import rotation_from_yaw
from sweep_recording import write_sweeps

SENSOR_M = 1.7
N_RINGS, N_AZIMUTHS, REACH_M = 64, 900, 40.0


@dataclass(frozen=True)
class Solid:
    """A box: centre x y z length width height yaw at time 0, velocity x y (m/s), intensity."""

    row: tuple[float, float, float, float, float, float, float]
    velocity: tuple[float, float] = (0.0, 0.0)
    intensity: float = 0.3

    def at(self, time: float) -> np.ndarray:
        moved = np.array(self.row)
        moved[:2] += np.multiply(self.velocity, time)
        return moved


CAR = Solid((9.0, 3.0, 0.8, 4.0, 1.8, 1.6, 0.0), (7.0, 0.0), 0.8)
PARKED = Solid((16.0, -7.0, 0.8, 4.0, 1.8, 1.6, 0.35), intensity=0.8)
WALKER = Solid((13.0, -4.5, 0.9, 0.6, 0.6, 1.8, 1.5), (0.1, 1.4), 0.2)
WALL = Solid((10.0, 14.0, 1.5, 60.0, 0.4, 3.0, 0.0))
CORNER = Solid((28.0, -12.0, 1.2, 0.5, 16.0, 2.4, 0.2))
POST = Solid((5.0, -5.0, 1.5, 0.2, 0.2, 3.0, 0.0))
WORLD = (CAR, PARKED, WALKER, WALL, CORNER, POST)


def sensor_pose(time: float) -> np.ndarray:
    """4 m/s along +x, turning a little."""
    pose = np.eye(4)
    pose[:3, :3] = rotation_from_yaw(0.1 * time)
    pose[:3, 3] = (4.0 * time, 0.0, SENSOR_M)
    return pose


def cast(
    pose: np.ndarray, solids: list[tuple[np.ndarray, float]], seed: int, slope: float = 0.0
) -> np.ndarray:
    """Rows x y z intensity (sensor frame) of one turn; range noise of 2 cm. The ground rises by
    ``slope`` along +x, from 0 at x = 0."""
    elevation, azimuth = np.meshgrid(
        np.radians(np.linspace(-24, 4, N_RINGS)), np.arange(N_AZIMUTHS) * (2 * np.pi / N_AZIMUTHS)
    )
    own = np.stack([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth),
                    np.sin(elevation)], axis=-1).reshape(-1, 3)  # fmt: skip
    rays, start = own @ pose[:3, :3].T, pose[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = (slope * start[0] - start[2]) / (rays[:, 2] - slope * rays[:, 0])
        reach = np.where(reach > 0, reach, np.inf)
        intensity = np.full(len(rays), 0.1)
        for row, grey in solids:
            turn = rotation_from_yaw(row[6])
            a, d = (start - row[:3]) @ turn, rays @ turn
            near, far = (-np.sign(d) * row[3:6] / 2 - a) / d, (np.sign(d) * row[3:6] / 2 - a) / d
            enter, leave = near.max(axis=1), far.min(axis=1)
            hit = (enter < leave) & (enter > 0) & (enter < reach)
            reach[hit], intensity[hit] = enter[hit], grey
    back = reach < REACH_M
    noise = np.random.default_rng(seed).normal(0, 0.02, len(rays))
    points = own[back] * (reach + noise)[back, None]
    return np.column_stack([points, intensity[back]])


def write_street(
    folder: Path,
    n_sweeps: int = 14,
    step: float = 0.2,
    world: tuple[Solid, ...] = WORLD,
    moved: np.ndarray | None = None,
) -> Path:
    """A recording of ``world``; ``moved`` is a rigid (4, 4) matrix put before all poses."""
    times = [step * k for k in range(n_sweeps)]
    clouds = [
        cast(sensor_pose(t), [(s.at(t), s.intensity) for s in world], k)
        for k, t in enumerate(times)
    ]
    before = np.eye(4) if moved is None else moved
    return write_sweeps(folder, clouds, [before @ sensor_pose(t) for t in times], times)
