"""One cart on a known path, with everything that registration reads: pictures, blobs, a trail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from moving_boxes import CART_DIMS, Box, cart, recording_of, ring, true_blobs, views_of
from protoscene.crops import Crops, cut
from protoscene.follow import Appearance, Trail
from protoscene.geometry import Camera, rotation_from_yaw, wrap_angle
from protoscene.propose import Blob
from protoscene.recording import Recording

NOISE = 0.25
"""These pictures have none; this is the least that the method reckons with."""


@dataclass(frozen=True)
class Ride:
    """``poses`` (i, 4) are the true x y z yaw of the middle of the cart's box."""

    recording: Recording
    blobs: list[list[Blob]]
    trail: Trail
    poses: np.ndarray

    @property
    def crops(self) -> Crops:
        return cut(self.recording, [self.trail], self.blobs, NOISE)[0]


def cameras(n: int = 3) -> list[Camera]:
    return ring(n, radius=1.7, above=1.2, width=160, height=120, focal=150)


def smooth(n: int = 12) -> np.ndarray:
    """(i, 3) x y yaw: ahead along a bend, nose first."""
    s = np.arange(n)
    return np.stack([-0.45 + 0.08 * s, 0.25 * np.sin(s / 4), 0.6 * np.cos(s / 4)], axis=1)


def ride(
    path: np.ndarray, views: Sequence[Camera] | None = None,
    besides: Callable[[int], list[Box]] = lambda i: [],
) -> Ride:  # fmt: skip
    """The cart at each row x y yaw of ``path``; ``besides`` are other boxes of each instant."""
    instants, blobs, trail = [], [], Trail()
    for i, (x, y, yaw) in enumerate(path):
        seen, things = views_of(views or cameras(), [*cart(x, y, yaw), *besides(i)], 0.1 * i)
        instants.append(seen)
        blobs.append(true_blobs(i, seen, things))
        trail.add(blobs[-1][0], Appearance.of(blobs[-1][0]))
    middle = np.full(len(path), CART_DIMS[2] / 2)
    poses = np.column_stack([path[:, :2], middle, path[:, 2]])
    return Ride(recording_of(instants), blobs, trail, poses)


def pose_errors(got: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(metres, degrees) per instant that are left of ``got`` (i, 4) after the one constant turn
    and shift, in the thing's own frame, that fit best: where its frame lies is a free choice."""
    turn = wrap_angle(got[:, 3] - true[:, 3])
    turn = wrap_angle(turn - np.angle(np.exp(1j * turn).mean()))
    own = np.einsum("nji,nj->ni", rotation_from_yaw(true[:, 3]), got[:, :3] - true[:, :3])
    return np.linalg.norm(own - np.median(own, axis=0), axis=1), np.rad2deg(np.abs(turn))
