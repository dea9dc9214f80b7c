"""The line segments by which a box is drawn, in space and on pictures."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from protoscene.geometry import rotation_from_yaw
from protoscene.scene import SceneObject


def box_edges(size_m: Float[np.ndarray, "3"]) -> Float[np.ndarray, "12 2 3"]:
    """The twelve edges of a box of ``size_m`` (x y z, m) around the origin of its frame."""
    corners = np.array([[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)]) - 0.5
    pairs = [(i, i | bit) for i in range(8) for bit in (1, 2, 4) if not i & bit]
    return (corners * size_m)[np.array(pairs)]


def box_with_nose(size_m: Float[np.ndarray, "3"]) -> Float[np.ndarray, "15 2 3"]:
    """A box's edges and, on its lid, an arrow from the middle to the front (+x)."""
    x, y, z = size_m / 2
    lid, tip, left, right = [0, 0, z], [x, 0, z], [0.6 * x, 0.4 * y, z], [0.6 * x, -0.4 * y, z]
    arrow = np.array([[lid, tip], [left, tip], [right, tip]])
    return np.concatenate([box_edges(size_m), arrow])


def box_at(thing: SceneObject, time: float) -> Float[np.ndarray, "15 2 3"]:
    """:func:`box_with_nose` of an object, in the world (m) at ``time``."""
    centre, yaw, scale = thing.track.pose(time)
    edges = box_with_nose(scale * np.array(thing.dims_m))
    return edges @ rotation_from_yaw(yaw).T + centre
