"""Frames, cameras and grids: the only file with a half-voxel or a half-pixel in it.

Conventions (docs/conventions.md): metres, radians, right-handed world with +z up; yaw is
counter-clockwise about +z, 0 along +x. Names carry their frames: ``world_from_camera`` maps
camera coordinates to world coordinates. Inside protoscene a camera looks along its own +z, with
+x right and +y down (OpenCV axes). Pixel (0, 0) spans 0..1, voxel i spans i..i+1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
"""Turns a camera's own axes from OpenGL (+y up, looks along −z) to OpenCV (+y down, along +z)."""


def wrap_angle(angle: Any) -> Any:
    """``angle`` in radians moved to [−π, π); numpy, torch or float."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


def rotation_from_yaw(yaw: Any) -> np.ndarray:
    """``(…, 3, 3)`` world_from_object rotations about +z for ``(…,)`` yaws in radians."""
    yaw = np.asarray(yaw, dtype=np.float64)
    cos, sin, zero, one = np.cos(yaw), np.sin(yaw), np.zeros_like(yaw), np.ones_like(yaw)
    rows = [cos, -sin, zero, sin, cos, zero, zero, zero, one]
    return np.stack(rows, axis=-1).reshape(*yaw.shape, 3, 3)


def rotation_from_quaternion(xyzw: Float[np.ndarray, "4"]) -> Float[np.ndarray, "3 3"]:
    """Rotation matrix of the unit quaternion ``x y z w`` (Hamilton, w last)."""
    x, y, z, w = xyzw / np.linalg.norm(xyzw)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def rigid_inverse(b_from_a: Float[np.ndarray, "*n 4 4"]) -> Float[np.ndarray, "*n 4 4"]:
    """``a_from_b`` of rigid ``b_from_a``: transposed rotation, turned back translation."""
    rotation = np.swapaxes(b_from_a[..., :3, :3], -1, -2)
    inverse = np.zeros_like(b_from_a)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3] = -np.einsum("...ij,...j->...i", rotation, b_from_a[..., :3, 3])
    inverse[..., 3, 3] = 1.0
    return inverse


def nearest_rotation(matrix: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """The rotation closest to ``matrix`` in the Frobenius norm (polar decomposition)."""
    u, _, vt = np.linalg.svd(matrix)
    sign = np.diag([1.0, 1.0, np.linalg.det(u @ vt)])
    return u @ sign @ vt


def array_from_pixel(uv: Any) -> Any:
    """Pixel coordinates (pixel i spans i..i+1) → array coordinates (centre of element i is i)."""
    return uv - 0.5


@dataclass(frozen=True)
class Grid:
    """A box of cubic voxels: ``origin`` x y z (m) is the corner of voxel (0, 0, 0).

    ``shape`` is (nz, ny, nx); voxel i spans ``origin + i·voxel_size .. origin + (i+1)·voxel_size``.
    Raises ValueError where a field is not finite or not positive.
    """

    origin: tuple[float, float, float]
    voxel_size: float
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "origin", tuple(float(v) for v in self.origin))
        object.__setattr__(self, "voxel_size", float(self.voxel_size))
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        if len(self.origin) != 3 or not all(map(math.isfinite, self.origin)):
            raise ValueError(f"grid origin must be three finite metres, got {self.origin}")
        if not (math.isfinite(self.voxel_size) and self.voxel_size > 0):
            raise ValueError(f"voxel_size must be positive metres, got {self.voxel_size}")
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"grid shape must be three positive numbers, got {self.shape}")

    @property
    def n_voxels(self) -> int:
        return math.prod(self.shape)

    @property
    def size_m(self) -> np.ndarray:
        """Extent along x, y, z in metres."""
        return np.array(self.shape[::-1], dtype=np.float64) * self.voxel_size

    @property
    def lower(self) -> np.ndarray:
        return np.array(self.origin, dtype=np.float64)

    @property
    def upper(self) -> np.ndarray:
        return self.lower + self.size_m

    def voxel_from_world(self, points: Any) -> Any:
        """``(…, 3)`` xyz metres → ``(…, 3)`` voxel coordinates x y z; voxel i spans i..i+1."""
        return (points - self._origin_like(points)) / self.voxel_size

    def world_from_voxel(self, coordinates: Any) -> Any:
        """Inverse of :meth:`voxel_from_world`."""
        return coordinates * self.voxel_size + self._origin_like(coordinates)

    def index_from_world(self, points: Any) -> Any:
        """``(…, 3)`` xyz metres → fractional voxel indices x y z; whole numbers are centres."""
        return self.voxel_from_world(points) - 0.5

    def sampler_from_world(self, points: Any) -> Any:
        """``(…, 3)`` xyz metres → coordinates of ``grid_sample(align_corners=False)``, x y z."""
        size = self.size_m
        if not isinstance(points, np.ndarray):
            size = points.new_tensor(size)
        return 2 * (points - self._origin_like(points)) / size - 1

    def centres(self) -> Float[np.ndarray, "z y x 3"]:
        """World positions (xyz, metres) of all voxel centres."""
        nz, ny, nx = self.shape
        z, y, x = np.meshgrid(np.arange(nz), np.arange(ny), np.arange(nx), indexing="ij")
        return self.world_from_voxel(np.stack([x, y, z], axis=-1) + 0.5)

    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """World positions (metres) of the voxel centres along x, along y and along z."""
        x, y, z = (
            start + (np.arange(n) + 0.5) * self.voxel_size
            for start, n in zip(self.origin, self.shape[::-1], strict=True)
        )
        return x, y, z

    def cropped(self, start: Any, stop: Any) -> Grid:
        """The voxels ``start`` (inclusive) to ``stop`` (exclusive), both indices z y x."""
        corner = self.world_from_voxel(np.asarray(start, dtype=np.float64)[::-1])
        counts = np.asarray(stop) - np.asarray(start)
        return Grid(tuple(corner.tolist()), self.voxel_size, tuple(counts.tolist()))

    def resampled(self, voxel_size: float) -> Grid:
        """The same box (grown by less than a voxel where needed) with another voxel size."""
        counts = np.ceil(self.size_m / voxel_size - 1e-6).astype(int)
        return Grid(self.origin, voxel_size, (int(counts[2]), int(counts[1]), int(counts[0])))

    def cube(self, resolution: int) -> Grid:
        """``resolution``³ voxels from the same origin; the longest side keeps its extent."""
        return Grid(self.origin, float(self.size_m.max()) / resolution, (resolution,) * 3)

    def _origin_like(self, points: Any) -> Any:
        return self.lower if isinstance(points, np.ndarray) else points.new_tensor(self.origin)


def centred_grid(size_m: Any, voxel_size: float, padding: int = 0) -> Grid:
    """A grid whose middle is the origin of its frame, covering ``size_m`` (x y z) and padding."""
    counts = np.ceil(np.asarray(size_m, dtype=np.float64) / voxel_size - 1e-6).astype(int)
    counts = np.maximum(counts, 1) + 2 * padding
    origin = -0.5 * counts * voxel_size
    return Grid(
        (float(origin[0]), float(origin[1]), float(origin[2])),
        voxel_size,
        (int(counts[2]), int(counts[1]), int(counts[0])),
    )


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera: ``u = fx·x/z + cx`` for camera coordinates x right, y down, z forward.

    Pixel (column 0, row 0) spans 0..1 in ``u`` and ``v``, so its centre is (0.5, 0.5).
    ``world_from_camera`` is a rigid (4, 4) float64 matrix with OpenCV axes.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    world_from_camera: np.ndarray

    @property
    def camera_from_world(self) -> Float[np.ndarray, "4 4"]:
        return rigid_inverse(self.world_from_camera)

    @property
    def centre(self) -> Float[np.ndarray, "3"]:
        return self.world_from_camera[:3, 3]

    def project(self, points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        """World points → ``(u, v, z-depth)``; u and v are meaningless where z-depth ≤ 0."""
        inverse = self.camera_from_world
        xyz = points @ inverse[:3, :3].T + inverse[:3, 3]
        depth = xyz[..., 2]
        safe = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
        u = self.fx * xyz[..., 0] / safe + self.cx
        v = self.fy * xyz[..., 1] / safe + self.cy
        return np.stack([u, v, depth], axis=-1)

    def directions(self) -> Float[np.ndarray, "h w 3"]:
        """World direction through each pixel's centre, scaled to one metre of z-depth."""
        u = (np.arange(self.width) + 0.5 - self.cx) / self.fx
        v = (np.arange(self.height) + 0.5 - self.cy) / self.fy
        rays = np.empty((self.height, self.width, 3))
        rays[..., 0], rays[..., 1], rays[..., 2] = u[None, :], v[:, None], 1.0
        return rays @ self.world_from_camera[:3, :3].T

    def unproject(self, depth: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w 3"]:
        """World points of a z-depth picture in metres."""
        return self.centre + self.directions() * np.asarray(depth, dtype=np.float64)[..., None]

    def scaled(self, factor: float) -> Camera:
        """The same view with ``factor`` times as many pixels a side."""
        return replace(
            self,
            width=max(1, round(self.width * factor)),
            height=max(1, round(self.height * factor)),
            fx=self.fx * factor,
            fy=self.fy * factor,
            cx=self.cx * factor,
            cy=self.cy * factor,
        )


def look_at(eye: Any, target: Any) -> Float[np.ndarray, "4 4"]:
    """``world_from_camera`` (OpenCV axes) at ``eye`` looking at ``target``, upright to +z."""
    eye, target = np.asarray(eye, dtype=np.float64), np.asarray(target, dtype=np.float64)
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    if np.linalg.norm(right) < 1e-6:  # looks straight up or down: any right will do
        right = np.array([1.0, 0.0, 0.0])
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1], matrix[:3, 2] = right, np.cross(forward, right), forward
    matrix[:3, 3] = eye
    return matrix
