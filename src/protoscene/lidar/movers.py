"""What moves in a LiDAR recording: points at places that other sweeps saw to be free, as blobs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from protoscene.lidar.ground import Ground
from protoscene.lidar.rays import Rays, seen_through
from protoscene.propose import Blob
from protoscene.recording import Sweep

MOST_OTHERS = 40
"""Sweeps that are asked about one, spread evenly over at most ``AROUND`` on each side."""
AROUND = 60
LEAST_THROUGH = 3
"""A point moves if so many sweeps saw through its place, and no fewer than confirmed it."""
CELL_M = 0.25
REACH_M = 0.5
"""Points of one thing leave no gap wider than this (m) when seen from above."""
LEAST_POINTS = 15
MOST_M = 15.0
"""Nothing on wheels that this looks for has a longer footprint."""
LEAST_HEIGHT_M = 0.5


@dataclass(frozen=True, eq=False)
class Standing:
    """The points of one sweep that are above the ground: world metres, intensity in [0, 1], and
    how many other sweeps saw through or confirmed each one's place."""

    points: Float[np.ndarray, "n 3"]
    intensity: Float[np.ndarray, " n"]
    through: Int[np.ndarray, " n"]
    confirmed: Int[np.ndarray, " n"]

    @property
    def moves(self) -> Bool[np.ndarray, " n"]:
        return (self.through >= LEAST_THROUGH) & (self.through >= self.confirmed)


def standing(sweep: Sweep, index: int, ground: Ground, rays: list[Rays]) -> Standing:
    """The points of sweep ``index`` above the ground, asked of the other sweeps."""
    world = sweep.world_points
    above = ground.stands_on(world)
    others = [k for k in range(index - AROUND, index + AROUND + 1) if 0 <= k < len(rays)]
    others.remove(index)
    step = max(1, -(-len(others) // MOST_OTHERS))
    through, confirmed = seen_through(world[above], [rays[k] for k in others[::step]])
    return Standing(world[above], sweep.intensity[above], through, confirmed)


def propose_movers(instant: int, seen: Standing) -> list[Blob]:
    """The moving points of one sweep as blobs: those that hang together from above.

    A blob has at least 15 points, stands up half a metre and is at most 15 m long.
    """
    moves = seen.moves
    points, intensity = seen.points[moves], seen.intensity[moves]
    if len(points) == 0:
        return []
    labels = connected_from_above(points)
    blobs = []
    for k in range(1, int(labels.max()) + 1):
        own = labels == k
        if own.sum() < LEAST_POINTS:
            continue
        blob = blob_of(instant, points[own], intensity[own])
        size = blob.bounds[1] - blob.bounds[0]
        if size[2] >= LEAST_HEIGHT_M and max(size[:2]) <= MOST_M:
            blobs.append(blob)
    return blobs


def blob_of(
    instant: int, points: Float[np.ndarray, "n 3"], intensity: Float[np.ndarray, " n"]
) -> Blob:
    """World points as a blob of no pixels, intensity as its grey."""
    grey = np.rint(255 * intensity).astype(np.uint8)
    return Blob(
        instant, np.zeros((len(points), 3), np.int32), points, np.repeat(grey[:, None], 3, axis=1)
    )


def connected_from_above(points: Float[np.ndarray, "n 3"]) -> Int[np.ndarray, " n"]:
    """A number from 1 for each point; equal where no gap of ``REACH_M`` parts them from above."""
    column, row = np.floor((points[:, :2] - points[:, :2].min(axis=0)) / CELL_M).astype(int).T
    filled = np.zeros((row.max() + 1, column.max() + 1), dtype=bool)
    filled[row, column] = True
    reach = max(1, round(REACH_M / CELL_M / 2))
    wide = ndimage.binary_dilation(np.pad(filled, reach), np.ones((2 * reach + 1,) * 2))
    labels, _ = ndimage.label(wide, np.ones((3, 3)))
    return labels[row + reach, column + reach]
