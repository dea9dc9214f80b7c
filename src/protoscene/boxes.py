"""Upright boxes turned about +z: overlap in the ground plane and in space.

A box is a row of seven numbers: centre x y z (m), length (along its own x), width, height (m),
yaw (rad). Heights are along world +z, so the overlap of two boxes is the overlap of their
ground-plane rectangles times the overlap of their height intervals.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from numba import njit


def iou_bev(a: Float[np.ndarray, "n 7"], b: Float[np.ndarray, "m 7"]) -> Float[np.ndarray, "n m"]:
    """Bird's-eye IoU of every pair: area(a ∩ b) / area(a ∪ b) of the turned rectangles.

    0 where a rectangle has no area.
    """
    area = _overlap_areas(_rows(a), _rows(b))
    return _ratio(area, a[:, 3] * a[:, 4], b[:, 3] * b[:, 4])


def iou_3d(a: Float[np.ndarray, "n 7"], b: Float[np.ndarray, "m 7"]) -> Float[np.ndarray, "n m"]:
    """IoU in space of every pair: volume(a ∩ b) / volume(a ∪ b). 0 where a box has no volume.

    >>> cube = np.array([[0.0, 0, 0, 1, 1, 1, 0]])
    >>> moved = np.array([[0.5, 0, 0, 1, 1, 1, 0]])
    >>> float(iou_3d(cube, moved)[0, 0])
    0.3333333333333333
    """
    top = np.minimum.outer(a[:, 2] + a[:, 5] / 2, b[:, 2] + b[:, 5] / 2)
    bottom = np.maximum.outer(a[:, 2] - a[:, 5] / 2, b[:, 2] - b[:, 5] / 2)
    volume = _overlap_areas(_rows(a), _rows(b)) * np.maximum(top - bottom, 0.0)
    return _ratio(volume, np.prod(a[:, 3:6], axis=1), np.prod(b[:, 3:6], axis=1))


def _rows(boxes: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(boxes, dtype=np.float64)


def _ratio(shared: np.ndarray, size_a: np.ndarray, size_b: np.ndarray) -> np.ndarray:
    union = size_a[:, None] + size_b[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


@njit(cache=True)
def _overlap_areas(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, m) areas in which the rectangles overlap."""
    areas = np.zeros((a.shape[0], b.shape[0]))
    x, y = np.empty(16), np.empty(16)  # 8 corners at most; room for rounding
    for i in range(a.shape[0]):
        for j in range(b.shape[0]):
            dx, dy = a[i, 0] - b[j, 0], a[i, 1] - b[j, 1]
            reach = math.hypot(a[i, 3], a[i, 4]) + math.hypot(b[j, 3], b[j, 4])
            if 4 * (dx * dx + dy * dy) >= reach * reach:
                continue
            # In b's own frame b is an axis-aligned window, so clipping is four comparisons.
            cos, sin = math.cos(b[j, 6]), math.sin(b[j, 6])
            cx, cy = cos * dx + sin * dy, cos * dy - sin * dx
            cos, sin = math.cos(a[i, 6] - b[j, 6]), math.sin(a[i, 6] - b[j, 6])
            half_l, half_w = a[i, 3] / 2, a[i, 4] / 2
            for k, (sx, sy) in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1))):
                x[k] = cx + cos * sx * half_l - sin * sy * half_w
                y[k] = cy + sin * sx * half_l + cos * sy * half_w
            areas[i, j] = _area_in_window(x, y, b[j, 3] / 2, b[j, 4] / 2)
    return areas


@njit(cache=True)
def _area_in_window(x: np.ndarray, y: np.ndarray, half_x: float, half_y: float) -> float:
    """Area of the convex quadrilateral (first four of ``x``, ``y``) inside |x| ≤, |y| ≤."""
    n = _clip(x, y, 4, half_x)
    n = _clip(y, x, n, half_y)
    area = 0.0
    for k in range(n):
        after = (k + 1) % n
        area += x[k] * y[after] - x[after] * y[k]
    return abs(area) / 2


@njit(cache=True)
def _clip(u: np.ndarray, v: np.ndarray, n: int, half: float) -> int:
    """Sutherland-Hodgman against |u| ≤ half, in place; a convex polygon gains ≤ 1 corner a side."""
    out_u, out_v = np.empty_like(u), np.empty_like(v)
    for side in (1.0, -1.0):
        m = 0
        for k in range(n):
            after = (k + 1) % n
            here, there = half - side * u[k], half - side * u[after]
            if here >= 0:
                out_u[m], out_v[m] = u[k], v[k]
                m += 1
            if (here > 0 > there) or (here < 0 < there):
                share = here / (here - there)
                out_u[m] = side * half
                out_v[m] = v[k] + share * (v[after] - v[k])
                m += 1
        n = m
        u[:n], v[:n] = out_u[:n], out_v[:n]
    return n
