"""Blobs: what hangs together in space or in a picture, and what colours are alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from moving_boxes import Box, camera, ring, views_of
from protoscene.background import NEW, SURE
from protoscene.propose import Blob, _components, _segments, colour_histogram, join, propose
from protoscene.recording import View

BOUNDS = np.array([[-2.0, -2.0, -0.2], [2.0, 2.0, 1.5]])
CELL = 0.025


def blobs_of(
    boxes: list[Box], cameras: list, masks: int = SURE, bounds: np.ndarray = BOUNDS
) -> tuple[list[Blob], list[View], list[np.ndarray]]:
    views, things = views_of(cameras, boxes)
    marked = [np.where(t > 0, masks, 0).astype(np.uint8) for t in things]
    return propose(3, views, marked, CELL, bounds), views, things


def owners(blob: Blob, things: list[np.ndarray]) -> set[int]:
    return {int(things[v][r, c]) for v, r, c in blob.pixels}


def test_two_boxes_ten_centimetres_apart_are_two() -> None:
    boxes = [
        Box((-0.2, 0, 0.2), (0.3, 0.3, 0.4), 0, thing=1),
        Box((0.2, 0, 0.2), (0.3, 0.3, 0.4), 0, thing=2),
    ]
    for cameras in (ring(3, width=160, height=120, focal=150), [camera((1.9, 0.3, 1.2))]):
        blobs, _, things = blobs_of(boxes, cameras)
        assert sorted(map(sorted, (owners(b, things) for b in blobs))) == [[1], [2]]
    touching = [boxes[0], Box((0.1, 0, 0.2), (0.3, 0.3, 0.4), 0, thing=2)]
    assert len(blobs_of(touching, ring(3, width=160, height=120, focal=150))[0]) == 1


def test_one_box_is_one_blob_whoever_sees_it() -> None:
    box = Box((0.1, 0, 0.25), (0.5, 0.4, 0.5), 0.3, thing=1)
    for n in (1, 2, 4):
        blobs, views, things = blobs_of([box], ring(n))
        (blob,) = blobs
        assert blob.instant == 3
        assert len(blob.points) > 0.99 * sum((t == 1).sum() for t in things)
        np.testing.assert_allclose(box.distance(blob.points), 0, atol=1e-5)
        for v, view in enumerate(views):
            own = blob.pixels[:, 0] == v
            rows, columns = blob.pixels[own, 1:].T
            np.testing.assert_array_equal(view.colour[rows, columns], blob.colours[own])
            back = view.camera.project(blob.points[own])[:, :2]
            np.testing.assert_allclose(back, np.stack([columns, rows], 1) + 0.5, atol=1e-3)
        lower, upper = blob.bounds
        assert upper[2] == pytest.approx(0.5) and 0 <= lower[2] < 0.1


def test_far_pixels_hang_together_though_their_cells_do_not() -> None:
    """Neighbours in a picture at nearly one depth, their points farther apart than two cells."""
    box = Box((0, 0, 0.4), (0.8, 0.8, 0.8), 0.2, thing=1)
    far = camera((5.5, 3.0, 0.6), (0, 0, 0.4), focal=70)
    blobs, views, things = blobs_of([box], [far])
    (blob,) = blobs
    assert views[0].depth[things[0] == 1].min() / 70 > 2 * CELL
    assert len(blob.points) > 0.85 * (things[0] == 1).sum()


def test_specks_edges_and_what_is_out_of_bounds_are_no_blobs() -> None:
    box = Box((0, 0, 0.2), (0.3, 0.3, 0.4), thing=1)
    assert blobs_of([box], ring(2), masks=NEW)[0] == []  # nothing in it is surely new
    assert blobs_of([Box((0, 0, 0.02), (0.04, 0.04, 0.04), thing=1)], ring(2))[0] == []
    assert blobs_of([box], ring(2), bounds=BOUNDS + 3)[0] == []
    assert blobs_of([], ring(2))[0] == []
    half = BOUNDS.copy()
    half[1, 2] = 0.2
    (blob,) = blobs_of([box], ring(2), bounds=half)[0]
    assert blob.points[:, 2].max() < 0.2


def test_the_same_pixels_of_two_cameras_are_not_one_segment() -> None:
    """Two cameras a metre apart, before each a box at the same place in its picture."""
    cameras = [camera((x, 1.5, 0.6), (x, 0, 0.3)) for x in (-0.5, 0.5)]
    boxes = [Box((x, 0, 0.2), (0.3, 0.3, 0.4), thing=k) for k, x in ((1, -0.5), (2, 0.5))]
    views, things = views_of(cameras, boxes)
    masks = [np.where(t == k, SURE, 0).astype(np.uint8) for k, t in enumerate(things, start=1)]
    np.testing.assert_array_equal(masks[0], masks[1])
    blobs = propose(0, views, masks, CELL, BOUNDS)
    assert sorted(map(sorted, (owners(b, things) for b in blobs))) == [[1], [2]]


def test_order_of_views_is_irrelevant() -> None:
    boxes = [Box((-0.5, 0, 0.2), (0.3, 0.3, 0.4), thing=1), Box((0.5, 0, 0.2), (0.3, 0.3, 0.4), thing=2)]  # fmt: skip  # noqa: E501
    some = ring(3)
    a = blobs_of(boxes, some)[0]
    b = blobs_of(boxes, some[::-1])[0]
    middles = [sorted(np.round(x.points.mean(axis=0), 9).tolist() for x in y) for y in (a, b)]
    np.testing.assert_allclose(middles[0], middles[1])


def same_parts(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two labellings part the same things alike."""
    pairs = len(set(zip(a.tolist(), b.tolist(), strict=True)))
    return pairs == len(set(a.tolist())) == len(set(b.tolist()))


def flood(n: int, linked) -> np.ndarray:
    """Connected components of n things by flooding: a label each."""
    labels = np.full(n, -1)
    for first in range(n):
        stack = [first] if labels[first] < 0 else []
        while stack:
            k = stack.pop()
            if labels[k] < 0:
                labels[k] = first
                stack += [int(m) for m in np.nonzero(linked(k) & (labels < 0))[0]]
    return labels


@pytest.mark.parametrize("seed", range(3))
def test_segments_agree_with_flooding(seed: int) -> None:
    rng = np.random.default_rng(seed)
    depth = ndimage.gaussian_filter(rng.normal(size=(13, 17)), 1).astype(np.float32) * 0.15 + 1.2
    mask = rng.random(depth.shape) < 0.75
    rows, columns = np.nonzero(mask)
    at = depth[mask].astype(np.float64)

    def linked(k: int) -> np.ndarray:
        beside = np.abs(rows - rows[k]) + np.abs(columns - columns[k]) == 1
        # The step allowed is that of the later pixel in reading order.
        later = np.maximum(np.arange(len(at)), k)
        return beside & (np.abs(at - at[k]) < 0.02 + 0.01 * at[later])

    expected = flood(len(at), linked)
    assert 3 < len(set(expected.tolist())) < len(at) / 2
    assert same_parts(_segments(mask, depth)[mask], expected)


@pytest.mark.parametrize("seed", range(3))
def test_components_agree_with_flooding(seed: int) -> None:
    """Cells that touch, with negative coordinates too, or one segment of a picture."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-0.5, 0.5, (90, 3))
    segments = rng.integers(0, 60, 90)
    cells = np.floor(points / 0.1)

    def linked(k: int) -> np.ndarray:
        return (np.abs(cells - cells[k]).max(axis=1) <= 1) | (segments == segments[k])

    expected = flood(90, linked)
    assert len(set(expected.tolist())) > 1
    assert same_parts(_components(points, segments, 0.1), expected)
    order = rng.permutation(90)
    assert same_parts(_components(points[order], segments[order], 0.1), expected[order])


colours = st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=30)


@given(colours, st.randoms(use_true_random=False))
def test_histogram_of_equal_colours_is_alike_in_any_order(values: list, random) -> None:
    a = colour_histogram(np.array(values, np.uint8))
    random.shuffle(values)
    b = colour_histogram(np.array(values * 2, np.uint8))  # nor does the number of pixels matter
    assert a @ b == pytest.approx(1) and a @ a == pytest.approx(1)
    assert (a >= 0).all()


@given(colours, colours)
def test_likeness_is_a_share(a: list, b: list) -> None:
    one, two = (colour_histogram(np.array(v, np.uint8)) for v in (a, b))
    assert -1e-12 <= one @ two <= 1 + 1e-12


def test_colours_without_anything_in_common_are_not_alike() -> None:
    rng = np.random.default_rng(0)
    red = np.stack([rng.integers(180, 256, 99), *rng.integers(0, 60, (2, 99))], 1).astype(np.uint8)
    blue = red[:, ::-1].copy()
    assert colour_histogram(red) @ colour_histogram(blue) == 0
    # A bin's edge is no cliff: one step of 255 changes little.
    for level in range(1, 255):
        here, there = (
            colour_histogram(np.full((5, 3), v, np.uint8)) for v in (level, level + 1)
        )  # fmt: skip
        assert here @ there > 0.95


def test_joining_and_taking_parts_are_inverse() -> None:
    (blob,) = blobs_of([Box((0, 0, 0.2), (0.4, 0.3, 0.4), thing=1)], ring(2))[0]
    left = blob.points[:, 0] < 0
    back = join([blob.take(left), blob.take(~left)])
    order = np.concatenate([np.nonzero(left)[0], np.nonzero(~left)[0]])
    assert back.instant == blob.instant
    np.testing.assert_array_equal(back.pixels, blob.pixels[order])
    np.testing.assert_array_equal(back.points, blob.points[order])
    np.testing.assert_array_equal(back.colours, blob.colours[order])
