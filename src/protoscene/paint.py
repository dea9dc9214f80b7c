"""The colours of a registered thing's surface, read anew from the pictures that show it best."""

from __future__ import annotations

import numba
import numpy as np
from jaxtyping import Bool, Float

from protoscene.crops import OWN, Crops
from protoscene.observe import NEAREST_M, depth_sigma

VIEWS = 7
"""Pictures of which a point's colour is the weighted median: those that show it best."""
LEAST_COSINE = 0.2
"""A picture that shows the surface more slantingly than this does not count."""


@numba.njit(cache=True, parallel=True)
def _paint(  # type: ignore[no-untyped-def]
    points, normals, poses, window, pose, pinhole, depth, label, colour, within, noise, views,
):  # fmt: skip
    n = points.shape[0]
    out, seen = np.zeros((n, 3)), np.zeros(n, dtype=np.bool_)
    for k in numba.prange(n):
        weights, found = np.zeros(views), np.zeros((views, 3))
        for c in range(window.shape[0]):
            i = window[c, 0]
            cos, sin = np.cos(poses[i, 3]), np.sin(poses[i, 3])
            x = cos * points[k, 0] - sin * points[k, 1] + poses[i, 0]
            y = sin * points[k, 0] + cos * points[k, 1] + poses[i, 1]
            z = points[k, 2] + poses[i, 2]
            p = pose[c]
            at = p[2, 0] * x + p[2, 1] * y + p[2, 2] * z + p[2, 3]
            if at < NEAREST_M:
                continue
            a = p[0, 0] * x + p[0, 1] * y + p[0, 2] * z + p[0, 3]
            b = p[1, 0] * x + p[1, 1] * y + p[1, 2] * z + p[1, 3]
            nx = cos * normals[k, 0] - sin * normals[k, 1]
            ny = sin * normals[k, 0] + cos * normals[k, 1]
            facing = 0.0
            for axis, along in ((0, a), (1, b), (2, at)):
                facing -= along * (p[axis, 0] * nx + p[axis, 1] * ny + p[axis, 2] * normals[k, 2])
            facing /= np.sqrt(a * a + b * b + at * at)
            if facing < LEAST_COSINE:
                continue
            # What a pixel covers of the surface, as density: the more pixels, the better seen.
            weight = (pinhole[c, 0] / at) ** 2 * facing
            slot = np.argmin(weights)
            if weight <= weights[slot]:
                continue
            u = pinhole[c, 0] * a / at + pinhole[c, 2] - window[c, 2] - 0.5
            v = pinhole[c, 1] * b / at + pinhole[c, 3] - window[c, 1] - 0.5
            column, row = int(np.floor(u)), int(np.floor(v))
            height, width, offset = window[c, 3], window[c, 4], window[c, 5]
            if column < 0 or row < 0 or column >= width - 1 or row >= height - 1:
                continue
            # All four pixels around must be the thing's, and none of them hidden or an edge.
            reach = (within + 2 * noise * depth_sigma(at)) / facing
            good = True
            for q in range(4):
                pixel = offset + (row + q // 2) * width + column + q % 2
                good = good and label[pixel] == OWN and abs(depth[pixel] - at) < reach
            if not good:
                continue
            weights[slot] = weight
            fu, fv = u - column, v - row
            for channel in range(3):
                value = 0.0
                for q in range(4):
                    share = (fu if q % 2 else 1 - fu) * (fv if q // 2 else 1 - fv)
                    pixel = offset + (row + q // 2) * width + column + q % 2
                    value += share * colour[pixel, channel]
                found[slot, channel] = value / 255.0
        total = weights.sum()
        if total <= 0:
            continue
        seen[k] = True
        for channel in range(3):
            order = np.argsort(found[:, channel])
            below = 0.0
            for slot in order:
                below += weights[slot]
                if below >= 0.5 * total:
                    out[k, channel] = found[slot, channel]
                    break
    return out, seen


def paint(
    crops: Crops, poses: Float[np.ndarray, "i 4"], chosen: Bool[np.ndarray, " i"],
    points: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"], within: float,
) -> tuple[Float[np.ndarray, "n 3"], Bool[np.ndarray, " n"]]:  # fmt: skip
    """Colours in [0, 1] of own-frame surface ``points`` (m) with outward unit ``normals``, and
    which of them any picture shows: of the ``VIEWS`` crops of the ``chosen`` instants at their
    ``poses`` x y z yaw that show a point with the most pixels per area, the median of what they
    show there, read between pixels and weighted by that density. A crop shows a point where the
    pixels around it are the thing's own and no farther from it along the ray than ``within`` (m)
    and the sensor's noise."""
    theirs = chosen[crops.window[:, 0]]
    return _paint(
        points, normals, poses, crops.window[theirs], crops.pose[theirs], crops.pinhole[theirs],
        crops.depth, crops.label, crops.colour, within, crops.noise, VIEWS,
    )  # fmt: skip
