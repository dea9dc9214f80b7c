"""What moves, fused from its partial sweeps: a signed distance in its own frame, and the poses.

Each ray votes with its distance before and behind its end; the poses follow by Gauss–Newton on
the signed distances (``register``), the volume from the poses, in turn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numba
import numpy as np
from jaxtyping import Float

from protoscene.follow import Trail
from protoscene.geometry import Grid
from protoscene.lidar.ground import Ground
from protoscene.recording import Recording
from protoscene.register import Model, onto

VOXEL_M = 0.1
TRUNCATION_M = 0.3
MARGIN_M = 0.6
"""Room (m) around what was seen: first poses are that far off."""
ROUNDS, STEPS = 6, 4
HUBER_M = 0.1


@dataclass(frozen=True, eq=False)
class Rigid:
    """A thing that moves: its instants, its points at each (world) with their intensity and
    sensor, and its poses x y z yaw; z is the ground under it."""

    instants: tuple[int, ...]
    points: list[Float[np.ndarray, "_ 3"]]
    intensity: list[Float[np.ndarray, " _"]]
    sensors: Float[np.ndarray, "i 3"]
    poses: Float[np.ndarray, "i 4"]


def rigid_of(trail: Trail, recording: Recording, poses: Float[np.ndarray, "i 4"]) -> Rigid:
    """A trail's points with their first poses."""
    instants = tuple(sorted(trail.blobs))
    blobs = [trail.blobs[i] for i in instants]
    return Rigid(
        instants,
        [np.ascontiguousarray(b.points) for b in blobs],
        [b.colours[:, 0] / 255.0 for b in blobs],
        np.array([recording.sweeps[i].world_from_sensor[:3, 3] for i in instants]),
        poses,
    )


def own_points(thing: Rigid, n: int) -> Float[np.ndarray, "n 3"]:
    """The points of its n-th instant in its own frame."""
    return into_own(thing.points[n], thing.poses[n])


def into_own(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """World points in the frame of a pose x y z yaw."""
    cos, sin = np.cos(pose[3]), np.sin(pose[3])
    x, y = points[..., 0] - pose[0], points[..., 1] - pose[1]
    return np.stack([cos * x + sin * y, cos * y - sin * x, points[..., 2] - pose[2]], axis=-1)


@numba.njit(cache=True)
def _vote(  # type: ignore[no-untyped-def]
    points, intensity, sensor, origin, voxel, truncation, total, votes, colour, coloured
):
    """Add the rays that end at ``points`` (all in the own frame) to the sums."""
    nz, ny, nx = total.shape
    steps = int(np.ceil(2 * truncation / voxel))  # half a voxel a step, to either side
    for p in range(points.shape[0]):
        dx, dy, dz = points[p, 0] - sensor[0], points[p, 1] - sensor[1], points[p, 2] - sensor[2]
        reach = np.sqrt(dx * dx + dy * dy + dz * dz)
        for s in range(-steps, steps + 1):
            ahead = 0.5 * s * voxel
            ix = int(np.floor((points[p, 0] + ahead * dx / reach - origin[0]) / voxel))
            iy = int(np.floor((points[p, 1] + ahead * dy / reach - origin[1]) / voxel))
            iz = int(np.floor((points[p, 2] + ahead * dz / reach - origin[2]) / voxel))
            if ix < 0 or iy < 0 or iz < 0 or ix >= nx or iy >= ny or iz >= nz:
                continue
            total[iz, iy, ix] -= ahead
            votes[iz, iy, ix] += 1.0
            if s == 0:
                colour[iz, iy, ix] += intensity[p]
                coloured[iz, iy, ix] += 1.0


def fuse(thing: Rigid, grid: Grid) -> Model:
    """The mean truncated signed distance (m) and intensity of all instants at their poses."""
    total, votes, colour, coloured = (np.zeros(grid.shape) for _ in range(4))
    for n in range(len(thing.instants)):
        sensor = into_own(thing.sensors[n], thing.poses[n])
        _vote(own_points(thing, n), thing.intensity[n], sensor, grid.lower, grid.voxel_size,
              TRUNCATION_M, total, votes, colour, coloured)  # fmt: skip
    grey = np.repeat((colour / np.maximum(coloured, 1))[..., None], 3, axis=3)
    return Model(grid, TRUNCATION_M, total / np.maximum(votes, 1), votes, grey, coloured)


def grid_around(thing: Rigid) -> Grid:
    """Voxels of 0.1 m around all its points in its own frame, with a margin."""
    own = np.concatenate([own_points(thing, n) for n in range(len(thing.instants))])
    lower, upper = np.quantile(own, [0.002, 0.998], axis=0) + [[-MARGIN_M], [MARGIN_M]]
    nx, ny, nz = np.ceil((upper - lower) / VOXEL_M).astype(int).tolist()
    return Grid(tuple(lower.tolist()), VOXEL_M, (nz, ny, nx))


def register(thing: Rigid, ground: Ground) -> Rigid:
    """Better poses: fuse all instants, bring each one's points onto the fused surface, again."""
    for _ in range(ROUNDS):
        model = fuse(thing, grid_around(thing))
        poses = np.stack([
            onto(model, points, pose, STEPS, HUBER_M)
            for points, pose in zip(thing.points, thing.poses, strict=True)
        ])  # fmt: skip
        poses[:, 2] = ground.under(poses)
        thing = replace(thing, poses=poses)
    return thing
