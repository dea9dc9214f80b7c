"""The views of one instant → what a network reads: colour, occupied and free of every voxel."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numba import njit, prange

from protoscene import threads
from protoscene.geometry import Grid
from protoscene.observe import NEAREST_M, ViewStack, depth_noise, farthest_depth

threads.prefer_tbb()

CHANNELS = 5


def network_input(views: ViewStack, grid: Grid) -> Float[np.ndarray, "5 z y x"]:
    """r g b in [0, 1] (0 where not occupied), occupied and free, each 0 or 1, float32.

    The same rules as :func:`protoscene.observe.observe_instant`, without packing: 5 float32 a
    voxel, made in one pass over pixels and one over voxels.
    """
    volume = np.zeros((CHANNELS, *grid.shape), dtype=np.float32)
    arrays = (views.depth, views.colour, views.pose, views.pinhole)
    _sum_points(np.array(grid.origin), grid.voxel_size, *arrays, volume)
    margin = grid.voxel_size * np.sqrt(3) / 2 + 2 * float(
        depth_noise(np.array(farthest_depth(views)))
    )
    _finish(
        np.array(grid.origin), grid.voxel_size, views.depth, views.pose, views.pinhole,
        np.float32(margin), np.float32(2 * grid.voxel_size), volume,
    )  # fmt: skip
    return volume


@njit(cache=True)
def _sum_points(origin, voxel, depth, colour, pose, pinhole, volume):  # type: ignore[no-untyped-def]
    """Add every valid pixel's colour (0..255) to its voxel, and 1 to its fourth channel."""
    _, nz, ny, nx = volume.shape
    for view in range(depth.shape[0]):
        fx, fy, cx, cy = pinhole[view, 0], pinhole[view, 1], pinhole[view, 2], pinhole[view, 3]
        turn, shift = pose[view, :, :3] / voxel, pose[view, :, 3]
        for row in range(int(pinhole[view, 5])):
            b0 = (row + 0.5 - cy) / fy
            for column in range(int(pinhole[view, 4])):
                at = depth[view, row, column]
                if at <= 0:
                    continue
                a = (column + 0.5 - cx) / fx * at - shift[0]
                b = b0 * at - shift[1]
                c = at - shift[2]
                x = turn[0, 0] * a + turn[1, 0] * b + turn[2, 0] * c - origin[0] / voxel
                y = turn[0, 1] * a + turn[1, 1] * b + turn[2, 1] * c - origin[1] / voxel
                z = turn[0, 2] * a + turn[1, 2] * b + turn[2, 2] * c - origin[2] / voxel
                if x < 0 or y < 0 or z < 0 or x >= nx or y >= ny or z >= nz:
                    continue
                ix, iy, iz = int(x), int(y), int(z)
                volume[3, iz, iy, ix] += 1
                for channel in range(3):
                    volume[channel, iz, iy, ix] += colour[view, row, column, channel]


@njit(cache=True, parallel=True)
def _finish(origin, voxel, depth, pose, pinhole, margin, behind, volume):  # type: ignore[no-untyped-def]
    """Sums → means and 1; and free where no pixel ended: some view saw more than ``margin``
    beyond the voxel's centre, and none a surface from there to ``behind`` before it."""
    _, nz, ny, nx = volume.shape
    views = depth.shape[0]
    for k in prange(nz * ny):
        iz, iy = k // ny, k % ny
        y, z = origin[1] + (iy + 0.5) * voxel, origin[2] + (iz + 0.5) * voxel
        start = np.empty((views, 3), dtype=np.float32)  # camera coordinates of the row's first
        for view in range(views):
            for axis in range(3):
                p = pose[view, axis]
                x = origin[0] + 0.5 * voxel
                start[view, axis] = p[0] * x + p[1] * y + p[2] * z + p[3]
        for ix in range(nx):
            n = volume[3, iz, iy, ix]
            if n > 0:
                volume[3, iz, iy, ix] = 1
                for channel in range(3):
                    volume[channel, iz, iy, ix] /= 255 * n
                continue
            free = False
            along = np.float32(ix * voxel)
            for view in range(views):
                at = start[view, 2] + np.float32(pose[view, 2, 0]) * along
                if at < NEAREST_M:
                    continue
                a = start[view, 0] + np.float32(pose[view, 0, 0]) * along
                b = start[view, 1] + np.float32(pose[view, 1, 0]) * along
                inverse = np.float32(1) / at
                u = np.float32(pinhole[view, 0]) * a * inverse + np.float32(pinhole[view, 2])
                v = np.float32(pinhole[view, 1]) * b * inverse + np.float32(pinhole[view, 3])
                if u < 0 or v < 0 or u >= pinhole[view, 4] or v >= pinhole[view, 5]:
                    continue
                seen = depth[view, int(v), int(u)]
                if seen <= 0 or seen - at < -behind:
                    continue
                if seen - at <= margin:
                    free = False
                    break
                free = True
            if free:
                volume[4, iz, iy, ix] = 1
