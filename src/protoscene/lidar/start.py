"""First poses of what moves: nose along its path, its seen sides where they were seen."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from protoscene.follow import Trail
from protoscene.lidar.ground import Ground
from protoscene.recording import Recording

HEADING_M = 1.5
"""The path's direction is taken over at least this length (m), as far as there is that much."""
EXTENT_QUANTILE = 0.9
"""Of the extents seen from sweep to sweep: hiding shortens, a bad blob lengthens."""


def first_poses(trail: Trail, recording: Recording, ground: Ground) -> Float[np.ndarray, "n 4"]:
    """Pose x y z yaw at each of the trail's instants; z is the ground under it.

    A blob is only the sides that were seen. With the length and width of the whole trail, in each
    direction the side that faces the sensor is put where it was seen; where the sensor is between
    both sides, their middle is.
    """
    instants = sorted(trail.blobs)
    yaw = headings(np.array([trail.seen[i].centre for i in instants]))
    ranges = np.empty((len(instants), 2, 2))  # instant, lower and upper, along and across
    sensors = np.empty((len(instants), 2))
    turns = []
    for n, i in enumerate(instants):
        cos, sin = np.cos(yaw[n]), np.sin(yaw[n])
        own_from_world = np.array([[cos, sin], [-sin, cos]])
        turns.append(own_from_world)
        ranges[n] = np.quantile(trail.blobs[i].points[:, :2] @ own_from_world.T, [0.01, 0.99], 0)
        sensors[n] = own_from_world @ recording.sweeps[i].world_from_sensor[:2, 3]
    size = np.quantile(ranges[:, 1] - ranges[:, 0], EXTENT_QUANTILE, axis=0)
    poses = np.zeros((len(instants), 4))
    for n in range(len(instants)):
        (low, high), sensor = ranges[n], sensors[n]
        middle = (low + high) / 2
        middle = np.where(sensor < low, low + size / 2, middle)
        middle = np.where(sensor > high, high - size / 2, middle)
        poses[n, :2] = turns[n].T @ middle
    poses[:, 2] = ground.under(poses[:, :3])
    poses[:, 3] = yaw
    return poses


def headings(path: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
    """Direction (rad) of a path at each of its points: between the nearest points before and after
    that are 1.5 m away together, or its ends."""
    yaw = np.zeros(len(path))
    for n in range(len(path)):
        for reach in range(1, len(path)):
            before, after = max(n - reach, 0), min(n + reach, len(path) - 1)
            ahead = path[after, :2] - path[before, :2]
            if np.linalg.norm(ahead) >= HEADING_M or (before == 0 and after == len(path) - 1):
                break
        yaw[n] = np.arctan2(ahead[1], ahead[0])
    return np.unwrap(yaw)
