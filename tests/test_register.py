"""The canonical volume and the poses that fit it: against plain numpy and against the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from moving_boxes import CART_DIMS, cart
from moving_cart import Ride, pose_errors, ride, smooth
from protoscene.crops import OWN, Crops
from protoscene.geometry import Grid, centred_grid, rotation_from_yaw, wrap_angle
from protoscene.observe import depth_noise
from protoscene.register import (
    Fusion,
    Model,
    _gauss_newton,
    _sample,
    descend,
    misfit,
    onto,
    search,
    total_misfit,
)


@pytest.fixture(scope="module")
def taken() -> Ride:
    return ride(smooth())


@pytest.fixture(scope="module")
def crops(taken: Ride) -> Crops:
    return taken.crops


@pytest.fixture(scope="module")
def model(taken: Ride, crops: Crops) -> Model:
    """Fused at the true poses, at a voxel of 2 cm."""
    grid = centred_grid((0.8, 0.6, 0.6), 0.02)
    return Fusion(crops, grid, 0.08).add(taken.poses, np.ones(len(taken.poses), bool)).model()


def world_from_own(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    return points @ rotation_from_yaw(pose[3]).T + pose[:3]


def own_from_world(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    return (points - pose[:3]) @ rotation_from_yaw(pose[3])


def looked_up(crops: Crops, c: int, world: np.ndarray) -> tuple[np.ndarray, ...]:
    """(own z-depth, seen z-depth, label, colour) of world points in crop c; seen 0 outside."""
    _, row, column, height, width, offset = crops.window[c]
    a, b, at = np.moveaxis(world @ crops.pose[c, :, :3].T + crops.pose[c, :, 3], -1, 0)
    fx, fy, cx, cy = crops.pinhole[c, :4]
    front = np.where(at >= 0.05, at, 1)
    v = np.floor(fy * b / front + cy).astype(int) - row
    u = np.floor(fx * a / front + cx).astype(int) - column
    hit = (at >= 0.05) & (u >= 0) & (v >= 0) & (u < width) & (v < height)
    pixel = np.where(hit, offset + v * width + u, 0)
    return at, np.where(hit, crops.depth[pixel], 0), crops.label[pixel], crops.colour[pixel]


def slow_fusion(crops: Crops, grid: Grid, truncation: float, poses: np.ndarray,
                chosen: np.ndarray) -> Model:  # fmt: skip
    total, votes = np.zeros(grid.shape), np.zeros(grid.shape)
    colours, coloured = np.zeros((*grid.shape, 3)), np.zeros(grid.shape)
    for c, (i, *_) in enumerate(crops.window):
        if chosen[i]:
            at, seen, label, colour = looked_up(crops, c, world_from_own(grid.centres(), poses[i]))
            before = seen - at
            own = (seen > 0) & (label == OWN) & (before >= -truncation)
            margin = 2 * crops.noise * depth_noise(seen)
            through = (seen > 0) & (label != OWN) & (before > margin)
            near = own & (np.abs(before) < 1.5 * grid.voxel_size)
            total += np.where(own, np.minimum(before, truncation), 0) + truncation * through
            votes += own | through
            colours += near[..., None] * (colour / 255)
            coloured += near
    return Model(grid, truncation, total / np.maximum(votes, 1), votes,
                 colours / np.maximum(coloured, 1)[..., None], coloured)  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_fusion_agrees_with_plain_numpy(crops: Crops, taken: Ride, seed: int) -> None:
    """Disturbed poses, holes in the pictures, and a grid that reaches beyond them."""
    rng = np.random.default_rng(seed)
    holey = replace(crops, depth=np.where(rng.random(crops.depth.shape) < 0.2, 0, crops.depth))
    poses = taken.poses + rng.normal(0, 0.1, taken.poses.shape)
    chosen = rng.random(len(poses)) < 0.5
    grid = Grid((-0.45, -0.4, -0.3), 0.07, (9, 11, 13))
    fast = Fusion(holey, grid, 0.11).add(poses, chosen).model()
    slow = slow_fusion(holey, grid, 0.11, poses, chosen)
    assert (slow.votes == 0).any() and (slow.coloured > 0).sum() > 50
    # A voxel on a pixel's edge may go to either side of it.
    differ = fast.votes != slow.votes
    assert differ.mean() < 0.01
    for name in ("distance", "coloured", "colour"):
        a, b = getattr(fast, name)[~differ], getattr(slow, name)[~differ]
        off = np.abs(a - b).reshape(len(a), -1).max(axis=1)
        assert (off > 1e-6).mean() < 0.01, name


def test_instants_may_be_added_in_any_order_and_portions(crops: Crops, taken: Ride) -> None:
    grid, n = centred_grid((0.6, 0.5, 0.5), 0.05), len(taken.poses)
    at_once = Fusion(crops, grid, 0.1).add(taken.poses, np.ones(n, bool)).model()
    one_by_one = Fusion(crops, grid, 0.1)
    for k in reversed(range(n)):
        one_by_one.add(taken.poses, np.arange(n) == k)
    got = one_by_one.model()
    for name in ("distance", "votes", "colour", "coloured"):
        np.testing.assert_allclose(getattr(got, name), getattr(at_once, name), atol=1e-12)
    nothing = Fusion(crops, grid, 0.1).add(taken.poses, np.zeros(n, bool)).model()
    assert (nothing.votes == 0).all() and np.isfinite(nothing.distance).all()
    assert nothing.surface().shape == (0, 3)


def test_fused_at_true_poses_the_surface_is_the_things(model: Model) -> None:
    truth = np.min([b.distance(model.surface()) for b in standing_cart()], axis=0)
    assert len(model.surface()) > 300
    assert np.quantile(np.abs(truth), 0.95) < model.grid.voxel_size
    seen = model.votes > 0
    outside = np.min([b.distance(model.grid.centres()) for b in standing_cart()], axis=0)
    assert (model.distance[seen & (outside > 0.03)] > 0).mean() > 0.98
    assert (model.distance[seen & (outside < -0.015) & (outside > -0.04)] < 0).mean() > 0.95
    assert np.abs(model.distance).max() <= model.truncation + 1e-12
    # The cab is green, the body red, where they were seen.
    z, y, x = np.moveaxis(np.argwhere((model.coloured > 3) & (np.abs(outside) < 0.02)), -1, 0)
    height = model.grid.axes()[2][z] + CART_DIMS[2] / 2
    red, green, _ = model.colour[z, y, x].T
    assert (green > red)[height > 0.25].mean() > 0.95 and (red > green)[height < 0.15].mean() > 0.95


def standing_cart() -> list:
    """The cart's boxes in its own frame, whose origin is the middle of its box."""
    lower = CART_DIMS[2] / 2
    return [
        replace(b, centre=(b.centre[0], b.centre[1], b.centre[2] - lower)) for b in cart(0, 0, 0)
    ]


def slow_value(model: Model, points: np.ndarray) -> np.ndarray:
    """Trilinear distance; NaN outside of the outermost centres and beside a voxel never seen."""
    index = model.grid.index_from_world(points)[..., ::-1]
    low = np.floor(index)
    inside = ((low >= 0) & (low < np.array(model.grid.shape) - 1)).all(axis=-1)
    value = ndimage.map_coordinates(model.distance, index.T, order=1, mode="nearest")
    around = [low + np.array(corner) for corner in np.ndindex(2, 2, 2)]
    seen = [
        ndimage.map_coordinates(model.votes, a.T, order=0, mode="constant", cval=0) for a in around
    ]
    return np.where(inside & (np.min(seen, axis=0) > 0), value, np.nan)


def random_model(shape: tuple[int, int, int], voxel: float, holes: float) -> Model:
    rng = np.random.default_rng(4)
    distance = ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
    distance *= 2 * voxel / distance.std()
    votes = (rng.random(shape) >= holes).astype(float)
    grid = Grid((-0.5 * shape[2] * voxel, -0.3, 0.1), voxel, shape)
    nothing = np.zeros(shape)
    return Model(grid, 9 * voxel, distance, votes, np.zeros((*shape, 3)), nothing)


SIZES = [pytest.param((7, 6, 9), 0.1, 0.02, id="small"),
         pytest.param((64, 70, 80), 0.01, 1e-4, id="realistic")]  # fmt: skip


@pytest.mark.parametrize(("shape", "voxel", "holes"), SIZES)
def test_sampled_distance_and_its_gradient(shape, voxel: float, holes: float) -> None:
    """Against interpolation in plain numpy and its central differences."""
    model = random_model(shape, voxel, holes)
    grid, rng = model.grid, np.random.default_rng(6)
    points = grid.lower + rng.uniform(-0.1, 1.1, (1500, 3)) * grid.size_m
    # Central differences need both sides in one cell of centres.
    step = 1e-4 * voxel
    share = grid.index_from_world(points) % 1
    points = points[((share > 0.01) & (share < 0.99)).all(axis=1)]
    got = np.array([
        _sample(model.distance, model.votes, grid.origin, voxel, *p) for p in points
    ])  # fmt: skip
    expected = slow_value(model, points)
    known = np.isfinite(expected)
    assert 0.3 < known.mean() < 0.9
    np.testing.assert_array_equal(got[:, 4] == 1, known)
    np.testing.assert_allclose(got[known, 0], expected[known], atol=1e-9)
    for axis in range(3):
        push = step * np.eye(3)[axis]
        slope = (slow_value(model, points + push) - slow_value(model, points - push)) / (2 * step)
        np.testing.assert_allclose(got[known, 1 + axis], slope[known], atol=1e-6)


def residuals(model: Model, points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    return slow_value(model, own_from_world(points, pose))


def one_step(model: Model, points: np.ndarray, pose: np.ndarray, huber: float,
             free: tuple[bool, ...] = (True,) * 4, reach: float = 1e9) -> np.ndarray:  # fmt: skip
    return _gauss_newton(
        model.distance, model.votes, model.colour, model.coloured, model.grid.origin,
        model.grid.voxel_size, points, points, pose, 1, huber, reach, np.array(free), 0.0,
    )  # fmt: skip


@pytest.mark.parametrize("huber", [0.02, 1e3])
@pytest.mark.parametrize(("shape", "voxel", "holes"), SIZES)
def test_a_step_solves_the_damped_normal_equations(shape, voxel, holes, huber: float) -> None:
    """(Jᵀ W J + D) step = Jᵀ W r with the Jacobian by finite differences, W Huber's weights and
    D ≥ 0 diagonal: the damping, which is small beside what the points determine."""
    model = random_model(shape, voxel, holes)
    grid, rng = model.grid, np.random.default_rng(7)
    pose = np.array([0.3, -0.2, 0.1, 0.7])
    points = world_from_own(grid.lower + rng.uniform(0, 1, (400, 3)) * grid.size_m, pose)
    share = grid.index_from_world(own_from_world(points, pose)) % 1
    points = points[((share > 0.01) & (share < 0.99)).all(axis=1)]
    points = points[np.isfinite(residuals(model, points, pose))]
    r, tiny = residuals(model, points, pose), 1e-4 * voxel
    jacobian = np.stack([
        (residuals(model, points, pose + tiny * e) - residuals(model, points, pose - tiny * e))
        / (2 * tiny) for e in np.eye(4)
    ], axis=1)  # fmt: skip
    weight = np.minimum(1, huber / np.abs(r))
    assert (weight < 1).any() == (huber < 1)
    normal, right = jacobian.T @ (weight[:, None] * jacobian), jacobian.T @ (weight * r)
    step = pose - one_step(model, points, pose, huber)
    damping = (right - normal @ step) / step / len(points)
    assert (damping > 0).all() and (damping[:3] < 0.1).all()
    np.testing.assert_allclose(damping[:3], damping[0], rtol=1e-4)  # x, y and z alike
    # Variables that may not change do not, and the others' equations hold without them.
    held = pose - one_step(model, points, pose, huber, (True, True, False, False))
    assert (held[2:] == 0).all()
    smaller = normal[:2, :2] + np.diag(damping[:2]) * len(points)
    np.testing.assert_allclose(held[:2], np.linalg.solve(smaller, right[:2]), rtol=1e-4)


def test_no_step_is_longer_than_what_the_distances_reach() -> None:
    """A slope that says "a kilometre off": the step goes as far as allowed, and that way."""
    model = random_model((7, 6, 9), 0.1, 0.0)
    x = model.grid.centres()[..., 0]
    points = model.grid.lower + np.random.default_rng(0).uniform(0.3, 0.5, (200, 3))
    slope = replace(model, distance=1000 + x)
    for reach in (0.05, 0.2):
        moved = one_step(slope, points, np.zeros(4), 1e6, reach=reach)
        assert np.linalg.norm(moved[:3]) <= reach * (1 + 1e-9) and abs(moved[3]) <= 0.5
        assert np.linalg.norm(moved[:3]) > 0.9 * reach or abs(moved[3]) > 0.45


def test_points_beyond_what_is_known_move_nothing() -> None:
    model = random_model((7, 6, 9), 0.1, 0.0)
    pose = np.array([0.3, -0.2, 0.1, 0.7])
    far = np.random.default_rng(0).uniform(5, 6, (50, 3))
    np.testing.assert_array_equal(one_step(model, far, pose, 0.02), pose)
    np.testing.assert_array_equal(one_step(model, far[:0], pose, 0.02), pose)


def slow_misfit(model: Model, surface: np.ndarray, crops: Crops, i: int, pose: np.ndarray):
    points, truth = crops.own_points(i), crops.point_colour[crops.start[i] : crops.start[i + 1]]
    own = own_from_world(points, pose)
    value = slow_value(model, own)
    # What lies where the model knows nothing counts as 70 % off.
    off = np.where(np.isnan(value), 0.7, np.minimum(np.abs(value) / model.truncation, 1)).mean()
    cell = np.floor(model.grid.voxel_from_world(own)).astype(int)[:, ::-1]
    inside = ((cell >= 0) & (cell < np.array(model.grid.shape))).all(axis=1)
    place = tuple(cell[inside].T)
    both = model.coloured[place] > 0
    different = np.abs(model.colour[place][both] - truth[inside][both]).sum(axis=0).mean()
    through = confirmed = 0
    for c in crops.of(i):
        at, seen, _, _ = looked_up(crops, c, world_from_own(surface, pose))
        margin = 1.5 * model.grid.voxel_size + 2 * crops.noise * depth_noise(at)
        through += (seen > at + margin).sum()
        confirmed += (np.abs(seen - at) <= margin).sum()
    # Where nothing can be compared, nothing speaks for the pose: a full misfit.
    return (
        off,
        different / both.sum() if both.any() else 1.0,
        through / (through + confirmed) if through + confirmed else 1.0,
    )


def test_misfit_agrees_with_plain_numpy(model: Model, crops: Crops, taken: Ride) -> None:
    rng, surface = np.random.default_rng(0), model.surface()
    for i in range(len(taken.poses)):
        for shake in (0.0, 0.05, 0.4):
            pose = taken.poses[i] + shake * rng.normal(size=4)
            expected = slow_misfit(model, surface, crops, i, pose)
            np.testing.assert_allclose(misfit(model, surface, crops, i, pose), expected, atol=0.005)


def test_misfit_is_least_where_the_thing_is(model: Model, crops: Crops, taken: Ride) -> None:
    surface = model.surface()
    for i in (0, 5, 11):
        parts = misfit(model, surface, crops, i, taken.poses[i])
        assert all(0 <= p <= 1 for p in parts)
        best = total_misfit(parts)
        assert best < 0.25
        for change in ([0.1, 0, 0, 0], [0, -0.1, 0, 0], [0, 0, 0.08, 0], [0, 0, 0, 0.3],
                       [0, 0, 0, np.pi], [0, 0, 0, np.pi / 2]):  # fmt: skip
            pose = taken.poses[i] + change
            assert total_misfit(misfit(model, surface, crops, i, pose)) > best + 0.05


def test_descent_returns_to_the_true_pose(model: Model, crops: Crops, taken: Ride) -> None:
    rng = np.random.default_rng(2)
    got = np.array([
        descend(model, crops, i, p + rng.uniform(-1, 1, 4) * [0.04, 0.04, 0.03, 0.15], 12)
        for i, p in enumerate(taken.poses)
    ])  # fmt: skip
    metres, degrees = pose_errors(got, taken.poses)
    assert metres.max() < 0.003 and degrees.max() < 0.5
    np.testing.assert_allclose(got[:, :3], taken.poses[:, :3], atol=0.006)
    kept = descend(model, crops, 0, taken.poses[0] + [0.02, 0, 0, 0.1], 6, turn=False)
    assert kept[3] == taken.poses[0, 3] + 0.1


@pytest.mark.parametrize("turn_deg", [90, 180, -135, 37])
def test_search_finds_any_turn_and_any_jump(model: Model, turn_deg: float) -> None:
    """The guess is somewhere else and not turned; only where the blob is, is known."""
    jumped = ride(np.array([[0.3, -0.2, np.deg2rad(turn_deg)]]))
    (true,), seen = jumped.poses, jumped.trail.seen[0].centre
    guess = np.array([-0.4, 0.7, true[2], 0.0])
    got = search(model, jumped.crops, 0, [guess], np.zeros(3), seen)
    assert np.linalg.norm(got[:3] - true[:3]) < 0.006
    assert abs(np.rad2deg(wrap_angle(got[3] - true[3]))) < 1


def test_a_thing_whose_foot_is_hidden_is_found(model: Model, taken: Ride) -> None:
    """Its blob's middle is too high by more than the distances reach."""
    true, points = taken.poses[0], taken.crops.own_points(0)
    shows = points[:, 2] > true[2]
    crops = replace(
        taken.crops, points=points[shows], start=np.array([0, shows.sum()]),
        point_colour=taken.crops.point_colour[: len(points)][shows],
    )  # fmt: skip
    middle = true[:3] + [0, 0, CART_DIMS[2] / 4]
    near = replace(model, truncation=0.03, distance=np.clip(model.distance, -0.03, 0.03))
    got = search(near, crops, 0, [], np.zeros(3), middle)
    assert np.linalg.norm(got[:3] - true[:3]) < 0.01
    assert abs(np.rad2deg(wrap_angle(got[3] - true[3]))) < 2


def painted_ball(steepness: float) -> tuple[Model, np.ndarray, np.ndarray]:
    """A ball whose red rises along x and whose green along y, points on it and their colours."""
    axis = np.linspace(-0.2, 0.2, 41)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    ball = np.sqrt(x**2 + y**2 + z**2) - 0.1
    grid = centred_grid((0.41, 0.41, 0.41), 0.01)
    colour = 0.5 + steepness * np.stack([x, y, 0 * z], axis=-1)
    model = Model(grid, 0.05, ball, np.ones_like(ball), colour, np.ones_like(ball))
    points = np.random.default_rng(0).normal(size=(400, 3))
    points *= 0.1 / np.linalg.norm(points, axis=1, keepdims=True)
    return model, points, 0.5 + steepness * points * [1, 1, 0]


def test_a_thing_without_other_colour_and_shape_keeps_its_guessed_turn() -> None:
    """Damping: what the points do not determine stays where it was."""
    model, points, _ = painted_ball(0.0)
    got = onto(model, points, np.array([0.02, -0.01, 0.01, 0.5]), 10)
    assert np.abs(got[:3]).max() < 0.001 and abs(got[3] - 0.5) < 0.05


def test_colour_determines_the_turn_of_what_is_round() -> None:
    model, points, colours = painted_ball(4.0)
    crops = ride(smooth()).crops
    n = len(points)
    painted = replace(crops, points=points, point_colour=colours, start=np.array([0, n]))
    start = np.array([0.02, -0.01, 0.01, 0.5])
    assert abs(descend(model, painted, 0, start, 30)[3] - 0.5) < 0.05
    got = descend(model, painted, 0, start, 30, coloured=True)
    np.testing.assert_allclose(got, 0, atol=0.005)
