"""Intrinsics as they stand in files: checked, and their distortion undone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from scipy.ndimage import map_coordinates

from protoscene.errors import Refused
from protoscene.geometry import Camera, array_from_pixel

MAX_PIXELS = 64 * 10**6


@dataclass(frozen=True)
class Lens:
    """Pinhole intrinsics in pixels (pixel (0, 0) spans 0..1) and OpenCV's radial-tangential terms.

    Seen pixels are ``u = fx·x′ + cx`` with, for ``r² = x² + y²``,
    ``x′ = x(1 + k1·r² + k2·r⁴ + k3·r⁶) + 2·p1·x·y + p2(r² + 2x²)`` and likewise ``y′``.
    """

    w: int
    h: int
    fl_x: float
    fl_y: float
    cx: float
    cy: float
    k1: float = 0.0
    k2: float = 0.0
    k3: float = 0.0
    p1: float = 0.0
    p2: float = 0.0

    @property
    def distorted(self) -> bool:
        return any((self.k1, self.k2, self.k3, self.p1, self.p2))

    def camera(self, world_from_camera: Float[np.ndarray, "4 4"]) -> Camera:
        """The pinhole camera whose pictures :func:`undistorted` returns."""
        return Camera(self.w, self.h, self.fl_x, self.fl_y, self.cx, self.cy, world_from_camera)


def require_plausible(lens: Lens, place: Callable[[str], tuple[Path, str]]) -> None:
    """Refuse intrinsics no camera has; ``place(key)`` is the file and field a key stands in."""
    for key in ("w", "h"):
        value = getattr(lens, key)
        if value < 1:
            raise Refused(*place(key), "picture has no pixels", got=value, expected="1 or more")
    if lens.w * lens.h > MAX_PIXELS:
        raise Refused(*place("w"), "picture is too large", f"{lens.w}×{lens.h}", "at most 64 MP")
    for key in ("fl_x", "fl_y"):
        value = getattr(lens, key)
        if not (math.isfinite(value) and value > 0):
            raise Refused(*place(key), "focal length", got=value, expected="more than 0 pixels")
    for key, size in (("cx", lens.w), ("cy", lens.h)):
        value = getattr(lens, key)
        if not 0 <= value <= size:
            raise Refused(
                *place(key), "principal point is outside the picture", value, f"0..{size}"
            )
    for key in ("k1", "k2", "k3", "p1", "p2"):
        if not math.isfinite(getattr(lens, key)):
            raise Refused(*place(key), "distortion", got=getattr(lens, key), expected="a number")


def undistorted(
    lens: Lens, colour: UInt8[np.ndarray, "h w 3"], depth: Float[np.ndarray, "h w"]
) -> tuple[UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]:
    """The pictures a pinhole camera of the same intrinsics would have taken.

    Colour is interpolated, depth is the nearest pixel's (an average of two surfaces is nowhere).
    Pixels the lens did not see are black, without depth.
    """
    if not lens.distorted:
        return colour, depth
    rows, columns, seen = _seen_at(lens)
    nearest = depth[np.rint(rows).astype(np.intp), np.rint(columns).astype(np.intp)]
    straight = [
        map_coordinates(colour[..., c].astype(np.float32), (rows, columns), order=1, mode="nearest")
        for c in range(3)
    ]
    smooth = np.rint(np.stack(straight, axis=-1)).astype(np.uint8)
    return np.where(seen[..., None], smooth, np.uint8(0)), np.where(seen, nearest, np.float32(0))


@lru_cache(maxsize=8)
def _seen_at(lens: Lens) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row and column (float array coordinates) at which the lens saw each pinhole pixel, and if."""
    rays = lens.camera(np.eye(4)).directions()
    x, y = rays[..., 0], rays[..., 1]
    r2 = x * x + y * y
    with np.errstate(over="ignore", invalid="ignore"):
        radial = 1 + r2 * (lens.k1 + r2 * (lens.k2 + r2 * lens.k3))
        bent = np.stack(
            [
                x * radial + 2 * lens.p1 * x * y + lens.p2 * (r2 + 2 * x * x),
                y * radial + 2 * lens.p2 * x * y + lens.p1 * (r2 + 2 * y * y),
                np.ones_like(x),
            ],
            axis=-1,
        )
        u, v, _ = np.moveaxis(lens.camera(np.eye(4)).project(bent), -1, 0)
        seen = (u >= 0) & (u < lens.w) & (v >= 0) & (v < lens.h) & (r2 < _fold(lens))
    columns = np.clip(array_from_pixel(np.where(seen, u, 0.0)), 0, lens.w - 1)
    rows = np.clip(array_from_pixel(np.where(seen, v, 0.0)), 0, lens.h - 1)
    return rows.astype(np.float32), columns.astype(np.float32), seen


def _fold(lens: Lens) -> float:
    """r² beyond which the radial polynomial turns back: what lies there was not seen."""
    roots = np.roots([7 * lens.k3, 5 * lens.k2, 3 * lens.k1, 1.0])
    real = [root.real for root in roots if abs(root.imag) < 1e-9 and root.real > 0]
    return min(real, default=math.inf)
