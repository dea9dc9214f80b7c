"""Recording → Evidence: per instant, which voxels were seen occupied, which free, which neither."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numba
import numpy as np
from jaxtyping import Float, UInt8

from protoscene import threads
from protoscene.errors import Refused
from protoscene.geometry import Camera, Grid
from protoscene.recording import Recording, View
from protoscene.volume import Evidence

threads.prefer_tbb()

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, how much of it is done, and its total."""

NEAREST_M = 0.05
"""What has a smaller z-depth (m) is right before the camera or behind it, and not projected."""


def depth_noise(depth: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Standard deviation (m) of a structured-light z-depth: 1.2 mm + 1.9 mm/m² · (z − 0.4 m)².

    Source: Nguyen, Izadi, Lovell, "Modeling Kinect sensor noise", 3DIMPVT 2012, equation 3.
    """
    return np.asarray(0.0012 + 0.0019 * (np.asarray(depth, dtype=np.float64) - 0.4) ** 2)


def noise_scale(recording: Recording) -> float:
    """This sensor's noise as a multiple of :func:`depth_noise`, between 0.25 and 2.

    From second differences d(u−1) − 2 d(u) + d(u+1) along the rows of up to 12 pictures, which
    smooth surfaces leave near 0 and independent noise spreads by √6 σ: their median magnitude over
    0.6745 √6 depth_noise(d).
    """
    chosen = np.unique(np.linspace(0, len(recording.frames) - 1, 12).round().astype(int))
    ratios = []
    for index in chosen:
        depth = recording.view(int(index)).depth.astype(np.float64)
        left, middle, right = depth[:, :-2], depth[:, 1:-1], depth[:, 2:]
        good = (left > 0) & (middle > 0) & (right > 0) & (np.abs(left - right) < 0.1 * middle)
        bend = np.abs(left - 2 * middle + right)[good]
        ratios.append(bend / depth_noise(middle[good]))
    everything = np.concatenate(ratios)
    if len(everything) == 0:
        return 1.0
    return float(np.clip(np.median(everything) / (0.6745 * np.sqrt(6)), 0.25, 2.0))


@numba.njit(cache=True, inline="always")
def depth_sigma(depth: float) -> float:
    """:func:`depth_noise` of one depth, for kernels."""
    return 0.0012 + 0.0019 * (depth - 0.4) * (depth - 0.4)


@dataclass(frozen=True, eq=False)
class ViewStack:
    """The views of one instant as arrays that kernels read: depth padded to one size.

    ``pose`` (v, 3, 4) is camera_from_world, ``pinhole`` (v, 6) is fx fy cx cy width height.
    """

    depth: Float[np.ndarray, "v h w"]
    colour: UInt8[np.ndarray, "v h w 3"]
    pose: Float[np.ndarray, "v 3 4"]
    pinhole: Float[np.ndarray, "v 6"]

    @classmethod
    def of(cls, views: Iterable[View]) -> ViewStack:
        """Stack views of any sizes; the padding has no depth."""
        views = list(views)
        height = max(v.camera.height for v in views)
        width = max(v.camera.width for v in views)
        depth = np.zeros((len(views), height, width), dtype=np.float32)
        colour = np.zeros((len(views), height, width, 3), dtype=np.uint8)
        for i, view in enumerate(views):
            depth[i, : view.camera.height, : view.camera.width] = view.depth
            colour[i, : view.camera.height, : view.camera.width] = view.colour
        pose, pinhole = camera_arrays([v.camera for v in views])
        return cls(depth, colour, pose, pinhole)


def camera_arrays(
    cameras: list[Camera],
) -> tuple[Float[np.ndarray, "v 3 4"], Float[np.ndarray, "v 6"]]:
    """camera_from_world (v, 3, 4) and fx fy cx cy width height (v, 6), for kernels."""
    pose = np.stack([c.camera_from_world[:3] for c in cameras])
    pinhole = np.array([[c.fx, c.fy, c.cx, c.cy, c.width, c.height] for c in cameras], float)
    return pose, pinhole


@numba.njit(cache=True, inline="always")
def project_point(x, y, z, pose, pinhole):  # type: ignore[no-untyped-def]
    """(z-depth, row, column) of a world point in a camera; row −1 outside the picture."""
    depth = pose[2, 0] * x + pose[2, 1] * y + pose[2, 2] * z + pose[2, 3]
    if depth < NEAREST_M:
        return depth, -1, -1
    u = pinhole[0] * (pose[0, 0] * x + pose[0, 1] * y + pose[0, 2] * z + pose[0, 3]) / depth
    v = pinhole[1] * (pose[1, 0] * x + pose[1, 1] * y + pose[1, 2] * z + pose[1, 3]) / depth
    column, row = int(np.floor(u + pinhole[2])), int(np.floor(v + pinhole[3]))
    if column < 0 or row < 0 or column >= pinhole[4] or row >= pinhole[5]:
        return depth, -1, -1
    return depth, row, column


@numba.njit(cache=True, parallel=True)
def signed_distance(origin, voxel, shape, depth, pose, pinhole, behind):  # type: ignore[no-untyped-def]
    """Per voxel: how far (m of z-depth) its centre lies before the seen surface, the least of all
    views; a view without depth there, or in which it lies more than ``behind`` metres behind, does
    not count; NaN where none does."""
    nz, ny, nx = shape
    out = np.empty((nz, ny, nx), dtype=np.float32)
    for k in numba.prange(nz * ny):
        iz, iy = k // ny, k % ny
        z = origin[2] + (iz + 0.5) * voxel
        y = origin[1] + (iy + 0.5) * voxel
        for ix in range(nx):
            x = origin[0] + (ix + 0.5) * voxel
            best = np.float32(np.nan)
            for view in range(depth.shape[0]):
                at, row, column = project_point(x, y, z, pose[view], pinhole[view])
                if row < 0:
                    continue
                seen = depth[view, row, column]
                if seen <= 0 or seen - at < -behind:
                    continue
                if not best < seen - at:  # also true while best is NaN
                    best = np.float32(seen - at)
            out[iz, iy, ix] = best
    return out


@numba.njit(cache=True)
def _bin_points(origin, voxel, shape, depth, colour, pose, pinhole, count, total):  # type: ignore[no-untyped-def]
    """Add every valid pixel's point to its voxel's ``count`` and colour ``total``."""
    nz, ny, nx = shape
    for view in range(depth.shape[0]):
        fx, fy, cx, cy = pinhole[view, 0], pinhole[view, 1], pinhole[view, 2], pinhole[view, 3]
        turn, shift = pose[view, :, :3], pose[view, :, 3]
        for row in range(int(pinhole[view, 5])):
            for column in range(int(pinhole[view, 4])):
                at = depth[view, row, column]
                if at <= 0:
                    continue
                a = (column + 0.5 - cx) / fx * at - shift[0]
                b = (row + 0.5 - cy) / fy * at - shift[1]
                c = at - shift[2]
                x = turn[0, 0] * a + turn[1, 0] * b + turn[2, 0] * c
                y = turn[0, 1] * a + turn[1, 1] * b + turn[2, 1] * c
                z = turn[0, 2] * a + turn[1, 2] * b + turn[2, 2] * c
                ix = int(np.floor((x - origin[0]) / voxel))
                iy = int(np.floor((y - origin[1]) / voxel))
                iz = int(np.floor((z - origin[2]) / voxel))
                if 0 <= ix < nx and 0 <= iy < ny and 0 <= iz < nz:
                    count[iz, iy, ix] += 1
                    for channel in range(3):
                        total[iz, iy, ix, channel] += colour[view, row, column, channel]


def observe_instant(views: ViewStack, grid: Grid, time: float) -> Evidence:
    """Occupied: a depth pixel ends in the voxel. Free: its centre lies before what some pixel
    saw by more than half a voxel's diagonal and twice the sensor's noise there, no other view
    contradicts, and nothing ended in it. A pixel without depth says nothing. The noise is that of
    the 99 % quantile of all depths: one bound for the whole grid."""
    count = np.zeros(grid.shape, dtype=np.int32)
    total = np.zeros((*grid.shape, 3), dtype=np.float32)
    arrays = (views.depth, views.colour, views.pose, views.pinhole)
    _bin_points(grid.origin, grid.voxel_size, grid.shape, *arrays, count, total)
    before = signed_distance(
        grid.origin, grid.voxel_size, grid.shape, views.depth, views.pose, views.pinhole,
        2 * grid.voxel_size,
    )  # fmt: skip
    occupied = count > 0
    noise = float(depth_noise(np.array(farthest_depth(views))))
    margin = grid.voxel_size * np.sqrt(3) / 2 + 2 * noise
    free = (before > margin) & ~occupied
    colours = total[occupied] / count[occupied, None]
    return Evidence(
        grid, time, np.packbits(occupied), np.packbits(free), np.round(colours).astype(np.uint8)
    )


def farthest_depth(views: ViewStack) -> float:
    """A robust far depth of these views, for one noise bound that holds everywhere in them."""
    seen = views.depth[:, ::8, ::8]
    return float(np.quantile(seen[seen > 0], 0.99)) if (seen > 0).any() else 0.0


def _sample_points(recording: Recording, per_view: int = 1000) -> Float[np.ndarray, "n 3"]:
    """World points (m) of about ``per_view`` pixels of at most 200 views, evenly chosen."""
    chosen = np.unique(np.linspace(0, len(recording.frames) - 1, 200).round().astype(int))
    points = []
    for index in chosen:
        view = recording.view(int(index))
        step = max(1, int(np.sqrt(view.depth.size / per_view)))
        depth = view.depth[step // 2 :: step, step // 2 :: step]
        directions = view.camera.directions()[step // 2 :: step, step // 2 :: step]
        seen = depth > 0
        points.append(view.camera.centre + directions[seen] * depth[seen, None].astype(float))
    return np.concatenate(points)


HEADROOM = 0.25
"""Share of its height that is added to a grid chosen from the data."""


def choose_grid(
    recording: Recording,
    voxel_size: float | None = None,
    bounds: tuple[float, float, float, float, float, float] | None = None,
) -> Grid:
    """The grid of a recording: bounds (x0 y0 z0 x1 y1 z1) are the 0.1–99.9 % quantiles of the
    valid points, so that a few absurd depths do not enlarge it, with room above for the tops of
    things, which are few points; the voxel is the extent's 128th,
    rounded to 1, 2, 2.5 or 5 times a power of ten.

    Raises Refused where no picture holds any depth, or the bounds are not a box.
    """
    if bounds is None:
        points = _sample_points(recording)
        if len(points) == 0:
            raise Refused(recording.source, "depth", "no picture holds any valid depth")
        # Points of the data, not between them: however few there are, one absurd point is left out.
        lower = np.quantile(points, 0.001, axis=0, method="higher")
        upper = np.quantile(points, 0.999, axis=0, method="lower")
        if (upper - lower).max() <= 0:
            raise Refused(recording.source, "depth", "too few valid points", len(points))
        upper[2] += HEADROOM * (upper[2] - lower[2])
    else:
        lower, upper = np.array(bounds[:3], float), np.array(bounds[3:], float)
        if not (np.isfinite(bounds).all() and (upper > lower).all()):
            raise Refused("--bounds", "x0 y0 z0 x1 y1 z1", "not a box", list(bounds),
                          "finite, each upper above its lower")  # fmt: skip
    extent = upper - lower
    if voxel_size is None:
        voxel_size = _round_size(float(extent.max()) / 128)
    if bounds is None:  # whole voxels, one to spare on each side
        lower = np.floor(lower / voxel_size) * voxel_size - voxel_size
        extent = upper + voxel_size - lower
    counts = np.maximum(np.ceil(extent / voxel_size - 1e-6), 1).astype(int)
    x, y, z = (round(float(v), 9) for v in lower)
    return Grid((x, y, z), voxel_size, (int(counts[2]), int(counts[1]), int(counts[0])))


def _round_size(size: float) -> float:
    """The nearest (by ratio) of 1, 2, 2.5 and 5 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(size))
    steps = np.array([1, 2, 2.5, 5, 10])
    return round(float(power * steps[np.argmin(np.abs(np.log(steps * power / size)))]), 9)


def observe(
    recording: Recording, grid: Grid, progress: Progress = lambda stage, done, total: None
) -> list[Evidence]:
    """Evidence of every instant, read one instant at a time.

    Raises Refused where no instant holds any depth inside the grid.
    """
    evidence = []
    for i, time in enumerate(recording.times):
        evidence.append(observe_instant(ViewStack.of(recording.views(i)), grid, time))
        progress("observe", i + 1, len(recording))
    if not any(len(e.colours) for e in evidence):
        raise Refused(recording.source, "depth", "no valid depth inside the grid")
    return evidence
