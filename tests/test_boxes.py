"""Overlap of turned boxes: hand-computed cases, laws, and agreement with shapely."""

import math

import numpy as np
from shapely import affinity, geometry

from protoscene.boxes import iou_3d, iou_bev


def random_boxes(rng: np.random.Generator, n: int) -> np.ndarray:
    boxes = np.empty((n, 7))
    boxes[:, :3] = rng.uniform(-1, 1, (n, 3))
    boxes[:, 3:6] = rng.uniform(0.05, 2.5, (n, 3))
    boxes[:, 6] = rng.uniform(-7, 7, n)
    return boxes


def polygon(box: np.ndarray) -> geometry.Polygon:
    flat = geometry.box(-box[3] / 2, -box[4] / 2, box[3] / 2, box[4] / 2)
    turned = affinity.rotate(flat, box[6], origin=(0, 0), use_radians=True)
    return affinity.translate(turned, box[0], box[1])


def test_hand_computed_overlaps():
    unit = np.array([[0.0, 0, 0, 1, 1, 1, 0]])
    others = np.array(
        [
            [0.5, 0, 0, 1, 1, 1, 0],  # half over: 0.5 / 1.5
            [0, 0, 0, 1, 1, 1, math.pi / 4],  # a regular octagon: 2(√2 − 1)
            [0, 0, 0.5, 1, 1, 1, math.pi / 2],  # half above
            [0, 0, 2, 1, 1, 1, 0],  # above, apart
            [2, 0, 0, 1, 1, 1, 0],  # beside, apart
            [1, 0, 0, 1, 1, 1, 0],  # touching
            [0, 0, 0, 0.5, 0.5, 0.5, 0.3],  # inside
            [0, 0, 0, 0, 0, 0, 0],  # nothing
        ]
    )
    octagon = 2 * (math.sqrt(2) - 1)
    bev = [1 / 3, octagon / (2 - octagon), 1, 1, 0, 0, 0.25, 0]
    space = [1 / 3, octagon / (2 - octagon), 1 / 3, 0, 0, 0, 0.125, 0]
    np.testing.assert_allclose(iou_bev(unit, others)[0], bev, atol=1e-12)
    np.testing.assert_allclose(iou_3d(unit, others)[0], space, atol=1e-12)
    assert iou_3d(np.zeros((0, 7)), others).shape == (0, 8)
    assert not iou_bev(others[-1:], others[-1:]).any()


def test_agrees_with_shapely_on_random_boxes():
    rng = np.random.default_rng(1)
    a, b = random_boxes(rng, 600), random_boxes(rng, 600)
    bev, space = np.empty(600), np.empty(600)
    for i in range(600):
        p, q = polygon(a[i]), polygon(b[i])
        area = p.intersection(q).area
        bev[i] = area / (p.area + q.area - area)
        top = min(a[i, 2] + a[i, 5] / 2, b[i, 2] + b[i, 5] / 2)
        bottom = max(a[i, 2] - a[i, 5] / 2, b[i, 2] - b[i, 5] / 2)
        volume = area * max(top - bottom, 0)
        space[i] = volume / (p.area * a[i, 5] + q.area * b[i, 5] - volume)
    assert (bev > 0).sum() > 300
    np.testing.assert_allclose(np.diag(iou_bev(a, b)), bev, atol=1e-9)
    np.testing.assert_allclose(np.diag(iou_3d(a, b)), space, atol=1e-9)


def test_laws():
    rng = np.random.default_rng(2)
    a, b = random_boxes(rng, 40), random_boxes(rng, 40)
    iou = iou_3d(a, b)
    np.testing.assert_allclose(iou, iou_3d(b, a).T, atol=1e-12)
    np.testing.assert_allclose(np.diag(iou_3d(a, a)), 1, atol=1e-12)
    half_turn = b + np.array([0, 0, 0, 0, 0, 0, math.pi])
    np.testing.assert_allclose(iou, iou_3d(a, half_turn), atol=1e-12)
    quarter = b[:, [0, 1, 2, 4, 3, 5, 6]] + np.array([0, 0, 0, 0, 0, 0, math.pi / 2])
    np.testing.assert_allclose(iou, iou_3d(a, quarter), atol=1e-12)
    moved = np.concatenate([a, b])
    cos, sin = math.cos(1.1), math.sin(1.1)
    moved[:, :2] = moved[:, :2] @ np.array([[cos, sin], [-sin, cos]]) + [30, -40]
    moved[:, 2] += 7
    moved[:, 6] += 1.1
    np.testing.assert_allclose(iou, iou_3d(moved[:40], moved[40:]), atol=1e-12)
