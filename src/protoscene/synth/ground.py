"""Who has which ground, and whether another thing fits: apart from all others and in view."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from protoscene.geometry import Camera, rotation_from_yaw
from protoscene.synth.paths import extent, gaps
from protoscene.synth.settings import SynthSettings
from protoscene.synth.things import Part, Thing

SUBSTEPS = 4
"""Poses checked per instant, so that paths do not pass through each other between instants."""


@dataclass(frozen=True, eq=False)
class Taken:
    """Ground that somebody has: poses x, y, yaw at every substep, and length and width."""

    fine: Float[np.ndarray, "n 3"]
    size: tuple[float, float]


@dataclass(eq=False)
class Ground:
    """The area and everybody in it. ``easier`` in [0, 1] lowers the demands on a place."""

    settings: SynthSettings
    cameras: list[list[Camera]]
    posts: list[Taken]
    easier: float = 0.0
    things: list[Taken] = field(default_factory=list)

    def fits(self, thing: Thing, fine: Float[np.ndarray, "n 3"], first: int = 0) -> bool:
        """Whether a thing may have the poses ``fine``, from instant ``first`` on: inside the area,
        ``min_gap`` from everybody, and at every instant whole in some camera's picture."""
        size = thing.size_m[:2]
        if (np.abs(fine[:, :2]) + extent(fine, size)).max() > self.settings.area / 2:
            return False
        least = self.settings.min_gap * (1 - 0.5 * self.easier)
        now = slice(first * SUBSTEPS, first * SUBSTEPS + len(fine))
        for other in (*self.posts, *self.things):
            if gaps(fine, size, other.fine[now], other.size).min() < least:
                return False
        return self.easier >= 0.5 or self._in_view(thing, fine[::SUBSTEPS], first)

    def comes_near(self, thing: Thing, fine: Float[np.ndarray, "n 3"]) -> bool:
        """Whether it comes within ``max_gap``, if there is one, of another thing."""
        most, size = self.settings.max_gap, thing.size_m[:2]
        if most is None or not self.things or self.easier >= 0.5:
            return True
        return any(gaps(fine, size, t.fine, t.size).min() <= most for t in self.things)

    def take(self, thing: Thing, fine: Float[np.ndarray, "n 3"]) -> None:
        self.things.append(Taken(fine, thing.size_m[:2]))

    def _in_view(self, thing: Thing, poses: np.ndarray, first: int) -> bool:
        corners = box_corners(thing, poses)
        return all(
            any(_shows(views[first + i], corners[i]) for views in self.cameras)
            for i in range(len(poses))
        )


def post_ground(post: Part, settings: SynthSettings) -> Taken:
    """The ground of a post, for all instants."""
    fine = np.tile([post.centre[0], post.centre[1], 0.0], (settings.n_instants * SUBSTEPS, 1))
    return Taken(fine, (2 * post.half[0], 2 * post.half[1]))


def box_corners(thing: Thing, poses: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 8 3"]:
    """The corners of a thing's box at each pose (x, y, yaw), standing on z = 0."""
    signs = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1], indexing="ij"), axis=-1).reshape(8, 3)
    own = 0.5 * signs * np.array(thing.size_m)
    middle = np.column_stack([poses[:, :2], np.full(len(poses), thing.size_m[2] / 2)])
    return own @ np.swapaxes(rotation_from_yaw(poses[:, 2]), -1, -2) + middle[:, None]


def _shows(camera: Camera, corners: np.ndarray) -> bool:
    uvz = camera.project(corners)
    u, v, z = uvz[:, 0], uvz[:, 1], uvz[:, 2]
    inside = (u > 1) & (u < camera.width - 1) & (v > 1) & (v < camera.height - 1)
    return bool((z > 0.2).all() and inside.all())
