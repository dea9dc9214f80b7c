"""The surface of each thing that the recording's cameras saw, as MuJoCo draws it: without noise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

from protoscene.geometry import rotation_from_yaw
from protoscene.synth.cameras import recording_cameras
from protoscene.synth.layout import Layout, make_layout
from protoscene.synth.settings import SynthSettings
from protoscene.synth.world import World

SPACING_M = 0.02
"""One point is kept per cube of this side, so that a share of the points is a share of the area."""


def seen_surface(settings: SynthSettings) -> list[Float[np.ndarray, "n 3"]]:
    """Per true object (the order of truth.json) the points of its surface that any camera of the
    recording saw at any instant, in its own frame (m; the box's middle is the origin, the nose
    along +x). (0, 3) for one that was never seen. Raises Refused where MuJoCo or GL is missing."""
    layout = make_layout(settings)
    seen: list[list[np.ndarray]] = [[] for _ in layout.actors]
    for n, points in _pixels(settings, layout):
        # Thinned as it comes: all pixels of all pictures together would fill the memory.
        seen[n] = [_thinned(np.concatenate([*seen[n], points]))]
    return [np.concatenate([np.empty((0, 3)), *parts]) for parts in seen]


def _pixels(settings: SynthSettings, layout: Layout) -> Iterator[tuple[int, np.ndarray]]:
    """(object, own-frame points) of every picture and object that it shows."""
    cameras = recording_cameras(settings)
    with World(layout, settings.width, settings.height) as world:
        for i in range(settings.n_instants):
            world.at(i)
            for views in cameras:
                _, depth, actors = world.picture(views[i])
                actors = np.where((depth > 0) & (depth <= settings.reach_m), actors, -1)
                points = views[i].unproject(depth)
                for n in np.unique(actors[actors >= 0]).tolist():
                    x, y, yaw = layout.actors[n].poses[i]
                    middle = (x, y, layout.actors[n].thing.size_m[2] / 2)
                    yield n, (points[actors == n] - middle) @ rotation_from_yaw(yaw)


def _thinned(points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "m 3"]:
    """One point per cube of ``SPACING_M``, the first."""
    x, y, z = np.floor(points / SPACING_M).astype(np.int64).T + 2**20  # positive, 21 bits each
    return points[np.sort(np.unique((x << 42) | (y << 21) | z, return_index=True)[1])]


def turning(points: Float[np.ndarray, "n 3"], angle: float = np.radians(15)) -> float:
    """How well a surface shows that it was turned by ``angle`` (rad) about the vertical through
    its box's middle: mean distance of the turned points from the surface, as a share of the mean
    distance that they went. 0 for what is round, about a third for a box."""
    turned = points @ rotation_from_yaw(angle).T
    went = np.linalg.norm(turned - points, axis=1).mean()
    return float(KDTree(points).query(turned)[0].mean() / went)
