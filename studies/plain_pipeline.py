"""The plain pipeline that ``discover`` is compared with: median background subtraction, connected
components, closest-fit box, greedy nearest-neighbour tracks. It knows nothing of prototypes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from protoscene.geometry import Grid
from protoscene.scene import SceneObject, Track
from protoscene.volume import Evidence

MIN_VOXELS = 15
MIN_INSTANTS = 3
GROUND_VOXELS = 3
MIN_TRAVEL_M = 0.2
GATE_M = 0.6
"""How far a thing may get from one instant to the next."""
MAX_GAP = 2
"""Instants after which a lost track is given up."""


@dataclass
class Path:
    """A track being built: instants, boxes (centre, length ≥ width, height, yaw), in time order."""

    instants: list[int] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)


def plain_pipeline(evidence: Sequence[Evidence]) -> list[SceneObject]:
    """Everything that moved, by the plain method: each track its own prototype."""
    background = median_background(evidence)
    paths: list[Path] = []
    for instant, now in enumerate(evidence):
        extend(paths, instant, blob_boxes(now, background))
    kept = [
        path
        for path in paths
        if len(path.instants) >= MIN_INSTANTS and travel(path) >= MIN_TRAVEL_M
    ]
    times = np.array([now.time for now in evidence])
    return [as_object(number, path, times) for number, path in enumerate(kept)]


def median_background(evidence: Sequence[Evidence]) -> np.ndarray:
    """(z, y, x) occupied in at least half of the instants, what was not seen being empty."""
    occupied = np.zeros(evidence[0].grid.shape, np.int32)
    for now in evidence:
        occupied += now.occupied
    return np.asarray(2 * occupied >= len(evidence))


def blob_boxes(now: Evidence, background: np.ndarray) -> list[np.ndarray]:
    """The closest-fit box of every connected group of voxels next to no background voxel."""
    everywhere = np.ones((3, 3, 3), bool)
    foreground = now.occupied & ~ndimage.binary_dilation(background, everywhere)
    labels, _ = ndimage.label(foreground, everywhere)
    sizes = np.bincount(labels.ravel())
    boxes = []
    for label, window in enumerate(ndimage.find_objects(labels), start=1):
        if sizes[label] >= MIN_VOXELS:
            zyx = np.argwhere(labels[window] == label) + [part.start for part in window]
            boxes.append(closest_box(zyx, background, now.grid))
    return boxes


def closest_box(zyx: np.ndarray, background: np.ndarray, grid: Grid) -> np.ndarray:
    """Seven numbers of the upright box of least ground area around the centres of voxels (n, 3).

    It reaches down to the background where that is near: subtraction eats what stands on it.
    """
    points = grid.world_from_voxel(zyx[:, ::-1] + 0.5)
    angles = np.radians(np.arange(90.0))
    cos, sin = np.cos(angles), np.sin(angles)
    along = points[:, :1] * cos + points[:, 1:2] * sin
    across = points[:, 1:2] * cos - points[:, :1] * sin
    # A surface occupies voxels on both of its sides, so centres give the size better than faces.
    length = np.maximum(np.ptp(along, axis=0), grid.voxel_size)
    width = np.maximum(np.ptp(across, axis=0), grid.voxel_size)
    best = int((length * width).argmin())
    u = (along[:, best].min() + along[:, best].max()) / 2
    v = (across[:, best].min() + across[:, best].max()) / 2
    x, y = u * cos[best] - v * sin[best], u * sin[best] + v * cos[best]
    lowest, high = zyx[:, 0].min(), points[:, 2].max()
    below = np.asarray(
        background[max(0, lowest - GROUND_VOXELS) : lowest, zyx[:, 1], zyx[:, 2]].any(axis=1)
    )
    bottom = lowest - (below[::-1].argmax() + 1 if below.any() else 0)
    low = grid.lower[2] + (bottom + 0.5) * grid.voxel_size
    long, short, yaw = length[best], width[best], angles[best]
    if short > long:
        long, short, yaw = short, long, yaw + np.pi / 2
    return np.array([x, y, (low + high) / 2, long, short, max(high - low, grid.voxel_size), yaw])


def extend(paths: list[Path], instant: int, boxes: list[np.ndarray]) -> None:
    """Gives each box, nearest pairs first, to a path; the others start paths of their own."""
    open_paths = [path for path in paths if instant - path.instants[-1] <= MAX_GAP]
    distances = sorted(
        (float(np.linalg.norm(path.boxes[-1][:3] - box[:3])), p, b)
        for p, path in enumerate(open_paths)
        for b, box in enumerate(boxes)
    )
    taken: set[int] = set()
    for distance, p, b in distances:
        path = open_paths[p]
        if distance <= GATE_M and b not in taken and path.instants[-1] != instant:
            turns = np.round((path.boxes[-1][6] - boxes[b][6]) / np.pi)
            path.instants.append(instant)
            path.boxes.append(boxes[b] + np.array([0, 0, 0, 0, 0, 0, turns * np.pi]))
            taken.add(b)
    paths += [Path([instant], [box]) for b, box in enumerate(boxes) if b not in taken]


def travel(path: Path) -> float:
    """Diagonal in metres of the box around all of the path's centres."""
    return float(np.linalg.norm(np.ptp([box[:3] for box in path.boxes], axis=0)))


def as_object(number: int, path: Path, times: np.ndarray) -> SceneObject:
    """The path as a scene's object, its size the median of its boxes."""
    boxes = np.array(path.boxes)
    n = len(boxes)
    length, width, height = np.median(boxes[:, 3:6], axis=0)
    track = Track(
        times[path.instants], boxes[:, :3], boxes[:, 6], np.ones(n), np.ones(n, dtype=bool)
    )
    score = 0.5 + 0.5 * n / len(times)
    dims = (float(length), float(width), float(height))
    return SceneObject(number, number, score, True, dims, track)
