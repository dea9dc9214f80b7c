"""What an instant's pictures say of space: kernels against plain numpy, and laws of evidence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moving_boxes import Box, camera, holes, record, recording_of, ring, views_of
from protoscene.errors import Refused
from protoscene.geometry import Camera, Grid, look_at
from protoscene.observe import (
    HEADROOM,
    ViewStack,
    _bin_points,
    choose_grid,
    depth_noise,
    observe,
    observe_instant,
    signed_distance,
)
from protoscene.recording import View
from protoscene.volume import Evidence

BOXES = [Box((0.3, 0.2, 0.2), (0.5, 0.3, 0.4), 0.5), Box((-0.4, -0.3, 0.3), (0.3, 0.3, 0.6), 1.1)]
GRID = Grid((-1.0, -1.0, -0.11), 0.05, (17, 40, 40))


def random_views(seed: int, n: int = 3) -> list[View]:
    """Pictures of different sizes with depth that means nothing, and holes in it."""
    rng = np.random.default_rng(seed)
    views = []
    for k in range(n):
        width, height = 24 + 5 * k, 17 + 3 * k
        eye = rng.normal(size=3) * 0.6 + [0, 0, 1]
        pose = look_at(eye, rng.normal(size=3) * 0.3)
        one = Camera(width, height, 20.0, 23.0, width / 2 + 0.3, height / 2 - 0.4, pose)
        depth = rng.uniform(0.3, 3, (height, width)).astype(np.float32)
        depth[rng.random(depth.shape) < 0.3] = 0
        colour = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        views.append(View(one, f"c{k}", 0.0, colour, depth))
    return views


def slow_signed_distance(views: list[View], grid: Grid, behind: float) -> np.ndarray:
    """Per voxel, the least of (seen − own) z-depth over the views that look there."""
    best = np.full(grid.shape, np.nan)
    for view in views:
        u, v, at = np.moveaxis(view.camera.project(grid.centres()), -1, 0)
        row, column = np.floor(v).astype(int), np.floor(u).astype(int)
        looks = (at >= 0.05) & (row >= 0) & (column >= 0)
        looks &= (row < view.camera.height) & (column < view.camera.width)
        seen = np.where(looks, view.depth[np.where(looks, row, 0), np.where(looks, column, 0)], 0)
        before = np.where((seen > 0) & (seen - at >= -behind), seen - at, np.nan)
        best = np.fmin(best, before)
    return best


def slow_bins(views: list[View], grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    count, total = np.zeros(grid.shape), np.zeros((*grid.shape, 3))
    for view in views:
        seen = view.depth > 0
        cell = np.floor(grid.voxel_from_world(view.camera.unproject(view.depth)[seen])).astype(int)
        inside = ((cell >= 0) & (cell < np.array(grid.shape[::-1]))).all(axis=1)
        place = tuple(cell[inside, ::-1].T)
        np.add.at(count, place, 1)
        np.add.at(total, place, view.colour[seen][inside])
    return count, total


@pytest.mark.parametrize("seed", range(3))
def test_kernels_agree_with_plain_numpy(seed: int) -> None:
    views, grid = random_views(seed), Grid((-0.9, -0.8, -0.3), 0.11, (9, 11, 13))
    stack = ViewStack.of(views)
    got = signed_distance(
        grid.origin, grid.voxel_size, grid.shape, stack.depth, stack.pose, stack.pinhole, 0.3
    )
    expected = slow_signed_distance(views, grid, 0.3)
    assert 0.1 < np.isnan(expected).mean() < 0.9
    np.testing.assert_allclose(got, expected, atol=1e-6)

    count, total = np.zeros(grid.shape, np.int32), np.zeros((*grid.shape, 3), np.float32)
    arrays = (stack.depth, stack.colour, stack.pose, stack.pinhole)
    _bin_points(grid.origin, grid.voxel_size, grid.shape, *arrays, count, total)
    counted, summed = slow_bins(views, grid)
    assert 0 < counted.sum() < sum((v.depth > 0).sum() for v in views)
    np.testing.assert_array_equal(count, counted)
    np.testing.assert_array_equal(total, summed)


def boxes_seen(n_cameras: int = 2, boxes: list[Box] = BOXES) -> list[View]:
    return views_of(ring(n_cameras), boxes)[0]


def evidence_of(views: list[View], grid: Grid = GRID) -> Evidence:
    return observe_instant(ViewStack.of(views), grid, 0.0)


def solid_distance(points: np.ndarray) -> np.ndarray:
    return np.minimum(points[..., 2], np.min([b.distance(points) for b in BOXES], axis=0))


@pytest.mark.parametrize("noise", [0, 1])
def test_occupied_is_at_the_surface_and_free_is_outside(noise: int) -> None:
    views, rng = boxes_seen(), np.random.default_rng(0)
    views = [
        replace(v, depth=(v.depth + noise * rng.normal(size=v.depth.shape) * depth_noise(v.depth))
                .astype(np.float32)) for v in views
    ]  # fmt: skip
    seen = evidence_of(views)
    truth = solid_distance(GRID.centres())
    assert not (seen.occupied & seen.free).any()
    half_diagonal = GRID.voxel_size * np.sqrt(3) / 2
    reach = half_diagonal + noise * 5 * depth_noise(np.array(3.0))
    assert seen.occupied.sum() > 500 and np.abs(truth[seen.occupied]).max() < reach + 1e-5
    # A pixel sees through a silhouette by half of what it covers, 3 m / 90 px / 2, and no more.
    assert seen.free.sum() > 5000 and truth[seen.free].min() > -0.02
    assert (truth[seen.free] < 0).mean() < 1e-3
    # Nearly all that some camera looks through well before any surface is called free.
    clear = (truth > 0.15) & (slow_signed_distance(views, GRID, 0.1) > 0.2)
    assert clear.sum() > 3000 and seen.free[clear].mean() > 0.99


def test_colour_of_a_voxel_is_the_mean_of_its_pixels() -> None:
    views = boxes_seen()
    seen, (count, total) = evidence_of(views), slow_bins(views, GRID)
    mean = np.moveaxis(total / np.maximum(count, 1)[..., None], -1, 0) / 255
    np.testing.assert_allclose(seen.rgb, np.where(count > 0, mean, 0), atol=0.51 / 255)


def test_a_hole_says_nothing() -> None:
    views, rng = boxes_seen(1), np.random.default_rng(1)
    before = evidence_of(views)
    less = np.where(rng.random(views[0].depth.shape) < 0.3, 0, views[0].depth)
    after = evidence_of([replace(views[0], depth=less.astype(np.float32))])
    assert after.unknown.sum() > before.unknown.sum()
    assert not (after.occupied & ~before.occupied).any()
    # What was occupied and lost its pixels may become free only where a pixel saw beyond it.
    assert not (after.free & before.unknown).any()
    newly_free = after.free & ~before.free
    assert (before.occupied[newly_free]).all() and newly_free.sum() < 10
    nothing = evidence_of([replace(views[0], depth=np.zeros_like(less, np.float32))])
    assert nothing.unknown.all() and len(nothing.colours) == 0


def test_more_views_never_free_what_another_contradicts() -> None:
    """A voxel that ends some pixel's ray stays occupied, however many look past it."""
    views = boxes_seen(3)
    alone = [evidence_of([v]) for v in views]
    together = evidence_of(views)
    np.testing.assert_array_equal(together.occupied, np.any([e.occupied for e in alone], axis=0))
    order = evidence_of(views[::-1])
    np.testing.assert_array_equal(together.occupied_bits, order.occupied_bits)
    np.testing.assert_array_equal(together.free_bits, order.free_bits)


def test_free_space_keeps_a_noise_aware_distance() -> None:
    """Before a wall at depth d the gap is half a voxel's diagonal and two sigma, to a voxel."""
    grid = Grid((-0.2, -0.2, 0.0), 0.02, (400, 20, 20))
    one = Camera(40, 40, 40.0, 40.0, 20.0, 20.0, np.eye(4))
    for wall in (1.5, 4.0, 7.0):
        depth = np.full((40, 40), wall, np.float32)
        seen = evidence_of([View(one, "c", 0.0, np.zeros((40, 40, 3), np.uint8), depth)], grid)
        gap = wall - grid.centres()[..., 2][seen.free].max()
        wanted = 0.02 * np.sqrt(3) / 2 + 2 * float(depth_noise(np.array(wall)))
        assert wanted - 1e-6 <= gap <= wanted + 0.02 + 1e-6


def test_noise_is_the_published_formula() -> None:
    np.testing.assert_allclose(depth_noise(np.array([0.4, 1.4, 3.4])), [0.0012, 0.0031, 0.0183])


def test_evidence_survives_packing_and_is_small() -> None:
    rng = np.random.default_rng(2)
    grid = Grid((0, 0, 0), 0.1, (3, 5, 7))  # 105 voxels: not a multiple of eight
    state = rng.integers(0, 3, grid.shape)
    colours = rng.integers(0, 256, (int((state == 1).sum()), 3), dtype=np.uint8)
    seen = Evidence(grid, 0.0, np.packbits(state == 1), np.packbits(state == 2), colours)
    np.testing.assert_array_equal(seen.occupied, state == 1)
    np.testing.assert_array_equal(seen.free, state == 2)
    np.testing.assert_array_equal(seen.unknown, state == 0)
    np.testing.assert_array_equal(seen.rgb[:, state == 1].T, colours / np.float32(255))
    assert (seen.rgb[:, state != 1] == 0).all()

    real = evidence_of(boxes_seen(4))
    pixels = 4 * 96 * 72
    assert real.n_bytes <= 2 * -(-GRID.n_voxels // 8) + 3 * min(pixels, GRID.n_voxels)
    assert real.n_bytes < GRID.n_voxels  # less than a byte per voxel


def test_moving_the_world_by_whole_voxels_moves_the_evidence() -> None:
    """Both in what the grid holds and in where a grid of the same place lies."""
    views, steps = boxes_seen(), np.array([5, -7, 3])
    pose = np.eye(4)
    pose[:3, 3] = steps * GRID.voxel_size
    moved = [
        replace(v, camera=replace(v.camera, world_from_camera=pose @ v.camera.world_from_camera))
        for v in views
    ]
    here, there = evidence_of(views), evidence_of(moved)
    z, _, x = steps[::-1]
    for name in ("occupied", "free"):
        a, b = getattr(here, name), getattr(there, name)
        np.testing.assert_array_equal(a[: 17 - z, 7:, : 40 - x], b[z:, : 40 - 7, x:])
    origin = tuple((GRID.lower + pose[:3, 3]).tolist())
    same = evidence_of(moved, Grid(origin, GRID.voxel_size, GRID.shape))
    np.testing.assert_array_equal(here.occupied_bits, same.occupied_bits)
    np.testing.assert_array_equal(here.free_bits, same.free_bits)
    np.testing.assert_array_equal(here.colours, same.colours)


@pytest.mark.parametrize("absurd", [65.535, 1e6])
@pytest.mark.parametrize("sparse", [0.0, 0.98])
def test_one_absurd_depth_does_not_enlarge_the_grid(absurd: float, sparse: float) -> None:
    views = views_of(ring(2), BOXES)[0]
    cut = holes(sparse)
    views = [replace(v, depth=cut(v.depth)) for v in views]
    sane = np.concatenate([v.camera.unproject(v.depth)[v.depth > 0] for v in views])
    voxel = choose_grid(recording_of([views])).voxel_size
    for pixel in np.random.default_rng(0).permutation(np.argwhere(views[0].depth))[:12]:
        depth = views[0].depth.copy()
        depth[tuple(pixel)] = absurd
        spoilt = choose_grid(recording_of([[replace(views[0], depth=depth), views[1]]]))
        assert spoilt.voxel_size == voxel
        assert (spoilt.lower >= sane.min(axis=0) - 2 * voxel).all()
        room = [0, 0, HEADROOM * np.ptp(sane[:, 2])]  # for tops, which are few points
        assert (spoilt.upper <= sane.max(axis=0) + room + 2 * voxel).all()


def test_chosen_grid_holds_the_points() -> None:
    recording = record(3, ring(3), lambda i: BOXES)
    grid = choose_grid(recording)
    mantissa = grid.voxel_size / 10 ** np.floor(np.log10(grid.voxel_size))
    assert min(abs(mantissa - m) for m in (1, 2, 2.5, 5)) < 1e-9
    assert 64 <= max(grid.shape) <= 260
    points = np.concatenate([
        v.camera.unproject(v.depth)[v.depth > 0] for i in range(3) for v in recording.views(i)
    ])  # fmt: skip
    inside = ((points >= grid.lower) & (points < grid.upper)).all(axis=1)
    assert inside.mean() > 0.99
    corners = np.array([b.centre for b in BOXES])
    assert ((corners > grid.lower) & (corners < grid.upper)).all()
    np.testing.assert_allclose(grid.lower / grid.voxel_size, np.round(grid.lower / grid.voxel_size))


def test_given_bounds_and_voxel_size_are_kept() -> None:
    recording = record(2, ring(1), lambda i: BOXES)
    grid = choose_grid(recording, 0.04, (-1, -0.5, 0, 1, 0.5, 0.3))
    assert grid.origin == (-1, -0.5, 0) and grid.voxel_size == 0.04
    assert grid.shape == (8, 25, 50)
    assert choose_grid(recording, 0.07).voxel_size == 0.07


@pytest.mark.parametrize(
    "bounds",
    [(0, 0, 0, 1, 1, 0), (1, 0, 0, 0, 1, 1), (0, 0, 0, 1, float("nan"), 1),
     (0, 0, 0, 1, float("inf"), 1)],
)  # fmt: skip
def test_bounds_that_are_not_a_box_are_refused(bounds: tuple[float, ...]) -> None:
    recording = record(2, ring(1), lambda i: BOXES)
    with pytest.raises(Refused, match=r"--bounds: .*not a box \(got .*, expected finite"):
        choose_grid(recording, None, bounds)


def test_no_depth_at_all_is_refused() -> None:
    recording = record(2, ring(1), lambda i: BOXES, change=np.zeros_like)
    with pytest.raises(Refused, match="boxes: depth: no picture holds any valid depth"):
        choose_grid(recording)
    with pytest.raises(Refused, match="boxes: depth: no valid depth inside the grid"):
        observe(recording, GRID)
    seen = record(2, ring(1), lambda i: BOXES)
    with pytest.raises(Refused, match="no valid depth inside the grid"):
        observe(seen, Grid((50.0, 50.0, 0.0), 0.1, (4, 4, 4)))


def test_too_few_points_for_a_grid_are_refused() -> None:
    for n in (1, 2):
        depth = np.zeros((30, 40), np.float32)
        depth[15, 20 : 20 + n] = 2.0
        (view,) = views_of(ring(1, width=40, height=30), BOXES)[0]
        with pytest.raises(Refused, match=rf"boxes: depth: too few valid points \(got {n}\)"):
            choose_grid(recording_of([[replace(view, depth=depth)]]))


def test_instants_come_in_order_and_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    # One instant with no depth is no reason to refuse the rest; cameras may differ in size.
    recording = record(
        3, lambda i: [*ring(1), camera((1.5, 1.5, 1), width=40 + i, height=30)],
        lambda i: BOXES,
    )  # fmt: skip
    seen = observe(recording, GRID, lambda *what: told.append(what))
    assert [e.time for e in seen] == list(recording.times)
    assert told == [("observe", k, 3) for k in (1, 2, 3)]
