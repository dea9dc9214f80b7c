"""Where a thing stood at each instant, by registering its pixels to one signed distance volume.

The canonical volume (a truncated signed distance, "TSDF") is a closed form of the poses; the
poses follow by Gauss–Newton on the pixels' signed distances. Alternating the two converges in a
few rounds. A signed distance pulls from afar where an occupancy volume is flat.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numba
import numpy as np
from jaxtyping import Bool, Float

from protoscene.crops import OWN, Crops
from protoscene.geometry import Grid, rotation_from_yaw
from protoscene.observe import NEAREST_M, depth_sigma, project_point

MISFIT_M = 0.03
"""No distance below this (m) counts as a full misfit: calibration and sensors are not better."""
UNKNOWN_MISFIT = 0.7
"""Misfit of a point where the model was never seen, as a share of a full one."""
COLOUR_WEIGHT, THROUGH_WEIGHT = 0.6, 0.7
"""What a difference in colour, and being seen through, count beside a misfit of the surface."""
CHOICE_WEIGHT = 10.0
"""What a difference in colour counts between poses of one instant on one model: few pixels of a far
thing tell its sides apart by colour where their depths are noise."""
COLOUR_M = 0.1
"""The distance (m) that pulls a pose as much as a difference of 1 in a colour."""


@dataclass(frozen=True, eq=False)
class Model:
    """The canonical volume of a thing in its own frame: signed distance (m, positive outside,
    truncated to ±``truncation``), votes (0: never seen), colour in [0, 1] and how many pixels it is
    the mean of."""

    grid: Grid
    truncation: float
    distance: Float[np.ndarray, "z y x"]
    votes: Float[np.ndarray, "z y x"]
    colour: Float[np.ndarray, "z y x 3"]
    coloured: Float[np.ndarray, "z y x"]

    def surface(self, limit: int = 800) -> Float[np.ndarray, "n 3"]:
        """Own-frame centres (m) of voxels on the surface; beyond ``limit``, evenly chosen so that
        that many to twice as many are left."""
        on = (np.abs(self.distance) < 0.6 * self.grid.voxel_size) & (self.votes > 0)
        iz, iy, ix = np.nonzero(on)
        every = slice(None, None, max(1, len(iz) // limit))
        x, y, z = self.grid.axes()
        return np.stack([x[ix[every]], y[iy[every]], z[iz[every]]], axis=1)

    def bounds(self) -> Float[np.ndarray, "2 3"]:
        """Lower and upper corner (2–98 %) of the surface, own frame; zeros without a surface."""
        surface = self.surface()
        if len(surface) == 0:
            return np.zeros((2, 3))
        return np.quantile(surface, [0.02, 0.98], axis=0)


@numba.njit(cache=True, parallel=True)
def _fuse(  # type: ignore[no-untyped-def]
    origin, voxel, shape, poses, window, pose, pinhole, depth, label, colour, truncation, noise,
    total, votes, colours, coloured,
):  # fmt: skip
    """Add the crops ``window`` at their instants' poses to the sums of a canonical volume."""
    nz, ny, nx = shape
    cos, sin = np.cos(poses[:, 3]), np.sin(poses[:, 3])
    for k in numba.prange(nz * ny):
        iz, iy = k // ny, k % ny
        cx = origin[0] + 0.5 * voxel
        cy = origin[1] + (iy + 0.5) * voxel
        for c in range(window.shape[0]):
            i = window[c, 0]
            # Camera coordinates are linear along a row of voxels: start and step.
            x = cos[i] * cx - sin[i] * cy + poses[i, 0]
            y = sin[i] * cx + cos[i] * cy + poses[i, 1]
            z = origin[2] + (iz + 0.5) * voxel + poses[i, 2]
            p = pose[c]
            a = p[0, 0] * x + p[0, 1] * y + p[0, 2] * z + p[0, 3]
            b = p[1, 0] * x + p[1, 1] * y + p[1, 2] * z + p[1, 3]
            at = p[2, 0] * x + p[2, 1] * y + p[2, 2] * z + p[2, 3]
            step_a = (p[0, 0] * cos[i] + p[0, 1] * sin[i]) * voxel
            step_b = (p[1, 0] * cos[i] + p[1, 1] * sin[i]) * voxel
            step_at = (p[2, 0] * cos[i] + p[2, 1] * sin[i]) * voxel
            fx, fy = pinhole[c, 0], pinhole[c, 1]
            left, above = pinhole[c, 2] - window[c, 2], pinhole[c, 3] - window[c, 1]
            height, width, offset = window[c, 3], window[c, 4], window[c, 5]
            for ix in range(nx):
                here = at + ix * step_at
                if here < NEAREST_M:
                    continue
                u = fx * (a + ix * step_a) / here + left
                v = fy * (b + ix * step_b) / here + above
                if u < 0 or v < 0 or u >= width or v >= height:
                    continue
                pixel = offset + int(v) * width + int(u)
                seen = depth[pixel]
                if seen <= 0:
                    continue
                before = seen - here
                if label[pixel] == OWN:
                    if before < -truncation:
                        continue
                    total[iz, iy, ix] += min(before, truncation)
                    votes[iz, iy, ix] += 1.0
                    if abs(before) < 1.5 * voxel:
                        coloured[iz, iy, ix] += 1.0
                        for channel in range(3):
                            colours[iz, iy, ix, channel] += colour[pixel, channel] / 255.0
                elif before > 2 * noise * depth_sigma(seen):  # seen through: free there
                    total[iz, iy, ix] += truncation
                    votes[iz, iy, ix] += 1.0


class Fusion:
    """The running sums of a canonical volume: instants are added at their poses, one or many at a
    time. Own pixels vote with their truncated distance, other pixels carve what lies before them,
    a hole says nothing."""

    def __init__(self, crops: Crops, grid: Grid, truncation: float) -> None:
        self.crops, self.grid, self.truncation = crops, grid, truncation
        self._total, self._votes = np.zeros(grid.shape), np.zeros(grid.shape)
        self._colours, self._coloured = np.zeros((*grid.shape, 3)), np.zeros(grid.shape)

    def add(self, poses: Float[np.ndarray, "i 4"], chosen: Bool[np.ndarray, " i"]) -> Fusion:
        """Add the crops of the ``chosen`` instants at their ``poses`` x y z yaw."""
        crops, grid = self.crops, self.grid
        theirs = chosen[crops.window[:, 0]]  # the others cost nothing
        _fuse(
            grid.origin, grid.voxel_size, grid.shape, poses, crops.window[theirs],
            crops.pose[theirs], crops.pinhole[theirs], crops.depth, crops.label, crops.colour,
            self.truncation, crops.noise, self._total, self._votes, self._colours, self._coloured,
        )  # fmt: skip
        return self

    def model(self) -> Model:
        """The mean truncated signed distance and colour of what was added so far."""
        distance = self._total / np.maximum(self._votes, 1)
        colour = self._colours / np.maximum(self._coloured, 1)[..., None]
        return Model(
            self.grid, self.truncation, distance, self._votes.copy(), colour, self._coloured.copy()
        )


@numba.njit(cache=True, inline="always")
def _sample(values, votes, origin, voxel, x, y, z):  # type: ignore[no-untyped-def]
    """(value, gradient x y z, known) at an own-frame point, trilinear."""
    fx, fy = (x - origin[0]) / voxel - 0.5, (y - origin[1]) / voxel - 0.5
    fz = (z - origin[2]) / voxel - 0.5
    ix, iy, iz = int(np.floor(fx)), int(np.floor(fy)), int(np.floor(fz))
    nz, ny, nx = values.shape
    if ix < 0 or iy < 0 or iz < 0 or ix >= nx - 1 or iy >= ny - 1 or iz >= nz - 1:
        return 0.0, 0.0, 0.0, 0.0, False
    u, v, w = fx - ix, fy - iy, fz - iz
    value, gx, gy, gz = 0.0, 0.0, 0.0, 0.0
    for dz in range(2):
        wz, sz = (w, 1.0) if dz else (1 - w, -1.0)
        for dy in range(2):
            wy, sy = (v, 1.0) if dy else (1 - v, -1.0)
            for dx in range(2):
                wx, sx = (u, 1.0) if dx else (1 - u, -1.0)
                if votes[iz + dz, iy + dy, ix + dx] == 0:
                    return 0.0, 0.0, 0.0, 0.0, False
                d = values[iz + dz, iy + dy, ix + dx]
                value += d * wx * wy * wz
                gx += d * sx * wy * wz
                gy += d * wx * sy * wz
                gz += d * wx * wy * sz
    return value, gx / voxel, gy / voxel, gz / voxel, True


@numba.njit(cache=True)
def _gauss_newton(  # type: ignore[no-untyped-def]
    distance, votes, colour, coloured, origin, voxel, points, point_colour, start, steps, huber,
    reach_m, free, colour_m,
):  # fmt: skip
    """Pose (x, y, z, yaw) that brings ``points`` onto the zero level and onto their colours, from
    ``start``.

    ``free`` masks the variables that may change; ``colour_m`` metres count as much as a difference
    of 1 in a colour. No step is longer than ``reach_m`` metres or half a radian. Steps are damped
    (Levenberg) so that what the points do not determine, like the yaw of a round thing, stays
    where it was.
    """
    current = start.copy()
    for _ in range(steps):
        cos, sin = np.cos(current[3]), np.sin(current[3])
        normal, right = np.zeros((4, 4)), np.zeros(4)
        used, reach = 0, 0.0
        row = np.zeros(4)
        for p in range(points.shape[0]):
            a, b = points[p, 0] - current[0], points[p, 1] - current[1]
            x, y, z = cos * a + sin * b, -sin * a + cos * b, points[p, 2] - current[2]
            value, gx, gy, gz, known = _sample(distance, votes, origin, voxel, x, y, z)
            if not known:
                continue
            for channel in range(-1, 3 if colour_m > 0 else 0):
                if channel >= 0:
                    value, gx, gy, gz, known = _sample(
                        colour[:, :, :, channel], coloured, origin, voxel, x, y, z
                    )
                    if not known:
                        break
                    value = (value - point_colour[p, channel]) * colour_m
                    gx, gy, gz = gx * colour_m, gy * colour_m, gz * colour_m
                weight = 1.0 if abs(value) < huber else huber / abs(value)
                row[0] = -(cos * gx - sin * gy)
                row[1] = -(sin * gx + cos * gy)
                row[2] = -gz
                row[3] = gx * y - gy * x
                for m in range(4):
                    right[m] += weight * row[m] * value
                    for n in range(4):
                        normal[m, n] += weight * row[m] * row[n]
            used += 1
            reach += x * x + y * y
        if used < 10:
            break
        damping = np.array([0.02, 0.02, 0.02, 0.02 * reach / used]) * used
        for m in range(4):
            normal[m, m] += damping[m]
            if not free[m]:
                normal[m, :] = 0.0
                normal[:, m] = 0.0
                normal[m, m] = 1.0
                right[m] = 0.0
        step = np.linalg.solve(normal, right)
        # Beyond the truncation the distances say nothing: no step goes much farther.
        far = max(np.sqrt(step[0] ** 2 + step[1] ** 2 + step[2] ** 2) / reach_m, abs(step[3]) / 0.5)
        current -= step / max(far, 1.0)
    return current


@numba.njit(cache=True)
def _misfit(  # type: ignore[no-untyped-def]
    distance, votes, colour, coloured, origin, voxel, truncation, surface, points, point_colour,
    crops, window, pose, pinhole, depth, noise, current,
):  # fmt: skip
    """(mean truncated |distance| share, colour difference, share of the model seen through)."""
    cos, sin = np.cos(current[3]), np.sin(current[3])
    reach = max(truncation, MISFIT_M)
    off, different, compared = 0.0, 0.0, 0
    nz, ny, nx = distance.shape
    for p in range(points.shape[0]):
        a, b = points[p, 0] - current[0], points[p, 1] - current[1]
        x, y, z = cos * a + sin * b, -sin * a + cos * b, points[p, 2] - current[2]
        value, _, _, _, known = _sample(distance, votes, origin, voxel, x, y, z)
        off += min(abs(value) / reach, 1.0) if known else UNKNOWN_MISFIT
        ix = int(np.floor((x - origin[0]) / voxel))
        iy = int(np.floor((y - origin[1]) / voxel))
        iz = int(np.floor((z - origin[2]) / voxel))
        if 0 <= ix < nx and 0 <= iy < ny and 0 <= iz < nz and coloured[iz, iy, ix] > 0:
            compared += 1
            for channel in range(3):
                different += abs(colour[iz, iy, ix, channel] - point_colour[p, channel]) / 3
    through, confirmed = 0, 0
    for s in range(surface.shape[0]):
        x = cos * surface[s, 0] - sin * surface[s, 1] + current[0]
        y = sin * surface[s, 0] + cos * surface[s, 1] + current[1]
        z = surface[s, 2] + current[2]
        for c in crops:
            at, row, column = project_point(x, y, z, pose[c], pinhole[c])
            row, column = row - window[c, 1], column - window[c, 2]
            if row < 0 or column < 0 or row >= window[c, 3] or column >= window[c, 4]:
                continue
            seen = depth[window[c, 5] + row * window[c, 4] + column]
            margin = 1.5 * voxel + 2 * noise * depth_sigma(at)
            if seen > at + margin:
                through += 1
            elif seen > at - margin:
                confirmed += 1
    n = max(points.shape[0], 1)
    # Where nothing can be compared, nothing speaks for the pose.
    different = different / compared if compared else 1.0
    seen_through = through / (through + confirmed) if through + confirmed else 1.0
    return off / n, different, seen_through


def misfit(
    model: Model, surface: Float[np.ndarray, "n 3"], crops: Crops, i: int,
    pose: Float[np.ndarray, "4"],
) -> tuple[float, float, float]:  # fmt: skip
    """How badly instant i at ``pose`` agrees with the model, each share in [0, 1]: its pixels'
    truncated distances from the surface; difference in colour; model surface seen through."""
    chosen = slice(crops.start[i], crops.start[i + 1])
    return _misfit(
        model.distance, model.votes, model.colour, model.coloured, model.grid.origin,
        model.grid.voxel_size, model.truncation, surface, crops.points[chosen],
        crops.point_colour[chosen], crops.of(i), crops.window, crops.pose, crops.pinhole,
        crops.depth, crops.noise, pose,
    )  # fmt: skip


def total_misfit(parts: tuple[float, float, float], colour_weight: float = COLOUR_WEIGHT) -> float:
    """One number, at most 2.3, from the three of :func:`misfit`: their weighted sum."""
    return parts[0] + colour_weight * parts[1] + THROUGH_WEIGHT * parts[2]


def descend(
    model: Model, crops: Crops, i: int, pose: Float[np.ndarray, "4"], steps: int,
    huber: float = 0.02, turn: bool = True, coloured: bool = False,
) -> Float[np.ndarray, "4"]:  # fmt: skip
    """``steps`` Gauss–Newton steps of instant i's pose on the model's signed distance, and on its
    colours if ``coloured``: on a model of poses that are nearly right they hold what slides."""
    chosen = slice(crops.start[i], crops.start[i + 1])
    free = np.array([True, True, True, turn])
    return _gauss_newton(
        model.distance, model.votes, model.colour, model.coloured, model.grid.origin,
        model.grid.voxel_size, crops.points[chosen], crops.point_colour[chosen], pose, steps, huber,
        2 * model.truncation, free, COLOUR_M if coloured else 0.0,
    )  # fmt: skip


def onto(
    model: Model, points: Float[np.ndarray, "n 3"], pose: Float[np.ndarray, "4"], steps: int,
    huber: float = 0.02, turn: bool = True,
) -> Float[np.ndarray, "4"]:  # fmt: skip
    """The pose x y z yaw of ``model`` that brings its zero level to ``points`` (the frame in which
    the pose stands), by ``steps`` Gauss–Newton steps from ``pose``."""
    free = np.array([True, True, True, turn])
    return _gauss_newton(
        model.distance, model.votes, model.colour, model.coloured, model.grid.origin,
        model.grid.voxel_size, points, points, pose, steps, huber, 2 * model.truncation, free, 0.0,
    )  # fmt: skip


def search(
    model: Model, crops: Crops, i: int, guesses: list[Float[np.ndarray, "4"]],
    middle_own: Float[np.ndarray, "3"], middle: Float[np.ndarray, "3"], n_yaws: int = 24,
    best: int = 5, colour_weight: float = COLOUR_WEIGHT,
) -> Float[np.ndarray, "4"]:  # fmt: skip
    """The pose of instant i that fits best: of every guess, and ``n_yaws`` turns that put the
    model's middle (own frame) on the blob's ``middle`` (world); the best few are refined.
    ``colour_weight``: what a difference in colour counts in the choice."""

    def cost(pose: np.ndarray) -> float:
        return total_misfit(misfit(model, surface, crops, i, pose), colour_weight)

    surface = model.surface()
    candidates = list(guesses)
    # What hides a thing mostly stands before its foot: then only its top is where the blob's is.
    top = np.quantile(crops.own_points(i)[:, 2], 0.98) - model.bounds()[1, 2]
    raised = top - (middle[2] - middle_own[2])
    lifts = [0.0, raised] if abs(raised) > model.grid.voxel_size else [0.0]
    for yaw, lift in product(np.arange(n_yaws) * (2 * np.pi / n_yaws), lifts):
        place = middle - rotation_from_yaw(yaw) @ middle_own + [0, 0, lift]
        candidates.append(descend(model, crops, i, np.array([*place, yaw]), 2, turn=False))
    costs = [cost(c) for c in candidates]
    order = [k for k in np.argsort(costs) if k >= len(guesses)][:best]
    refined = []
    for k in [*range(len(guesses)), *order]:
        pose = descend(model, crops, i, candidates[k], 8)
        refined.append((cost(pose), k, pose))
    return min(refined, key=lambda r: r[:2])[2]
