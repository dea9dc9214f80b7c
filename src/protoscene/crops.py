"""The pictures around one thing at all its instants: what registration and fusion read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from protoscene.follow import Trail
from protoscene.observe import NEAREST_M, camera_arrays
from protoscene.propose import Blob
from protoscene.recording import Recording, View

BACKGROUND, OWN, OTHER = 0, 1, 2
"""Whose pixel it is: of what stays, of this thing, of another moving thing."""
POINTS = 1200
"""Own pixels of an instant that take part in its registration."""


@dataclass(frozen=True, eq=False)
class Crops:
    """The pictures around one thing at all its instants, flattened for kernels.

    Crop c has ``window[c]`` = instant, first row, first column, height, width, offset into the
    flat ``depth`` (m), ``label`` and ``colour`` arrays; ``pose`` camera_from_world (c, 3, 4) and
    ``pinhole`` fx fy cx cy width height (c, 6). Instants count the thing's own instants 0..n-1.
    ``points[start[i]:start[i + 1]]`` are instant i's own pixels as world points (at most a fixed
    number, evenly chosen), with ``point_colour`` in [0, 1]. ``noise`` is the sensor's, as a
    multiple of ``depth_noise``.
    """

    window: Int[np.ndarray, "c 6"]
    pose: Float[np.ndarray, "c 3 4"]
    pinhole: Float[np.ndarray, "c 6"]
    depth: Float[np.ndarray, " n"]
    label: UInt8[np.ndarray, " n"]
    colour: UInt8[np.ndarray, "n 3"]
    start: Int[np.ndarray, " i1"]
    points: Float[np.ndarray, "p 3"]
    point_colour: Float[np.ndarray, "p 3"]
    noise: float

    @property
    def n_instants(self) -> int:
        return len(self.start) - 1

    def own_points(self, i: int) -> Float[np.ndarray, "m 3"]:
        return self.points[self.start[i] : self.start[i + 1]]

    @property
    def distance(self) -> float:
        """Median z-depth (m) of the thing over all its crops."""
        return float(np.median(self._depths()))

    @property
    def pixel_size(self) -> float:
        """What a pixel covers (m) at the thing, median over all its crops."""
        return float(np.median(self._depths() / self.pinhole[:, 0]))

    def _depths(self) -> Float[np.ndarray, " c"]:
        middles = np.stack([self.own_points(i).mean(axis=0) for i in range(self.n_instants)])
        own = middles[self.window[:, 0]]
        return np.einsum("cj,cj->c", self.pose[:, 2, :3], own) + self.pose[:, 2, 3]

    def of(self, i: int) -> Int[np.ndarray, " m"]:
        """Indices of instant i's crops."""
        return np.nonzero(self.window[:, 0] == i)[0]


def joined(parts: Sequence[Crops]) -> Crops:
    """The pictures of several things as if of one: their instants follow each other."""
    windows, instants, pixels = [], 0, 0
    starts, points = [np.zeros(1, dtype=int)], 0
    for part in parts:
        windows.append(part.window + np.array([instants, 0, 0, 0, 0, pixels]))
        starts.append(part.start[1:] + points)
        instants, pixels = instants + part.n_instants, pixels + len(part.depth)
        points += len(part.points)
    names = ("pose", "pinhole", "depth", "label", "colour")
    pose, pinhole, depth, label, colour = (
        np.concatenate([getattr(part, name) for part in parts]) for name in names
    )
    return Crops(
        np.concatenate(windows), pose, pinhole, depth, label, colour, np.concatenate(starts),
        np.concatenate([p.points for p in parts]), np.concatenate([p.point_colour for p in parts]),
        parts[0].noise,
    )  # fmt: skip


def cut(
    recording: Recording, trails: list[Trail], others: list[list[Blob]], noise: float
) -> list[Crops]:
    """The pictures around each trail's blobs; ``others[i]`` are all blobs of instant i, ``noise``
    the sensor's (see :class:`Crops`)."""
    pieces: list[list[tuple]] = [[] for _ in trails]
    for instant in sorted({i for t in trails for i in t.blobs}):
        views = list(recording.views(instant))
        for trail, own in zip(trails, pieces, strict=True):
            if instant in trail.blobs:
                own.append(_cut_instant(views, trail, instant, others[instant]))
    crops = []
    while pieces:  # each thing's pieces are let go once they are flattened
        crops.append(_flatten(pieces.pop(0), noise))
    return crops


def _cut_instant(views: list[View], trail: Trail, instant: int, others: list[Blob]) -> tuple:
    """(crops, points, colours) of one instant. The crops reach as far around as the thing is wide,
    so that other instants carve what one blob wrongly held."""
    blob, (diagonal, _) = trail.blobs[instant], trail.size
    lower, upper = blob.bounds
    grow = 0.15 * (upper - lower) + 0.03
    grow[:2] = np.maximum(grow[:2], 0.9 * diagonal - (upper - lower)[:2] / 2)
    corners = np.stack(np.meshgrid(*np.stack([lower - grow, upper + grow]).T), -1).reshape(-1, 3)
    crops = []
    for v, view in enumerate(views):
        own = blob.pixels[blob.pixels[:, 0] == v, 1:]
        seen = view.camera.project(corners)
        if (seen[:, 2] >= NEAREST_M).all():
            box = np.concatenate([seen[:, 1::-1], own])
        elif len(own):  # around a thing right before the camera: the whole picture
            box = np.array([(0, 0), view.depth.shape])
        else:
            continue
        first = np.maximum(np.floor(box.min(axis=0)).astype(int) - 1, 0)
        last = np.minimum(np.ceil(box.max(axis=0)).astype(int) + 2, view.depth.shape)
        if (last <= first).any():
            continue
        window = (slice(first[0], last[0]), slice(first[1], last[1]))
        label = np.zeros(view.depth.shape, dtype=np.uint8)
        for other in others:
            rows, columns = other.pixels[other.pixels[:, 0] == v, 1:].T
            label[rows, columns] = OTHER
        label[own[:, 0], own[:, 1]] = OWN
        # Copies: a slice would keep the whole picture in memory, of every instant.
        own_pictures = (a[window].copy() for a in (label, view.depth, view.colour))
        crops.append((view.camera, first, *own_pictures))
    chosen = np.unique(np.linspace(0, len(blob.points) - 1, POINTS).round().astype(int))
    return crops, blob.points[chosen], blob.colours[chosen] / 255.0


def _flatten(pieces: list[tuple], noise: float) -> Crops:
    window, cameras, labels, depths, colours, offset = [], [], [], [], [], 0
    for i, (crops, _, _) in enumerate(pieces):
        for camera, first, label, depth, colour in crops:
            window.append([i, first[0], first[1], *label.shape, offset])
            cameras.append(camera)
            labels.append(label.ravel())
            depths.append(depth.ravel())
            colours.append(colour.reshape(-1, 3))
            offset += label.size
    pose, pinhole = camera_arrays(cameras)
    start = np.concatenate([[0], np.cumsum([len(p[1]) for p in pieces])])
    return Crops(
        np.array(window), pose, pinhole, np.concatenate(depths), np.concatenate(labels),
        np.concatenate(colours), start, np.concatenate([p[1] for p in pieces]),
        np.concatenate([p[2] for p in pieces]), noise,
    )  # fmt: skip
