"""Laws of motion models: what they can represent they return, wherever and whenever it happens."""

import math

import numpy as np
import pytest
import torch

from protoscene.geometry import wrap_angle
from protoscene.motion import (
    Accelerated,
    Clothoid,
    Noise,
    Parts,
    Polyline,
    Smoothness,
    Spline,
    breaks,
)
from protoscene.motion.knots import checked_knots

MODELS = (Polyline, Accelerated, Spline, Clothoid)
CUBIC = (Accelerated, Spline)
UNEVEN = np.cumsum([0.0, 0.1, 0.25, 0.12, 0.3, 0.2, 0.1, 0.35, 0.15, 0.2, 0.22, 0.18, 0.1, 0.3])
PLAIN = Smoothness(*[1.0] * 6)
EXPECTED = Smoothness(jerk=2.0, yaw_jerk=5.0)


def numbers(values):
    return [value.detach().numpy() for value in values]


def line(times):
    centre = np.stack([1 + 0.8 * times, -2 + 0.6 * times, 0.2 + 0.1 * times], axis=1)
    return centre, np.full(len(times), math.atan2(0.6, 0.8))


def circle(times, radius=1.5, turn=0.9):
    heading = 2.5 + turn * times
    xy = radius * np.stack([np.sin(heading), -np.cos(heading)], axis=1)
    return np.column_stack([xy, 0.3 + 0.05 * times]), heading


def noisy(times, seed=0):
    rng = np.random.default_rng(seed)
    centre, yaw = circle(times)
    return centre + rng.normal(scale=0.02, size=centre.shape), yaw + rng.normal(
        scale=0.03, size=len(times)
    )


def made(model):
    """A motion with arbitrary parameters, on knots .3 to .6 s apart (equal for the spline)."""
    motion = model([1.0, 1.4, 1.8, 2.2] if model is Spline else [1.0, 1.3, 1.9, 2.3])
    generator = torch.Generator().manual_seed(7)
    for parameter in motion.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return motion


def assert_poses(motion, times, centre, yaw, tolerance=1e-6):
    at_centre, at_yaw, _ = numbers(motion.at(times))
    np.testing.assert_allclose(at_centre, centre, atol=tolerance)
    np.testing.assert_allclose(wrap_angle(at_yaw - yaw), 0, atol=tolerance)


@pytest.mark.parametrize("model", MODELS)
def test_a_straight_line_comes_back_in_between_too(model):
    motion = model.fit(UNEVEN, *line(UNEVEN), smoothness=EXPECTED)
    fine = np.linspace(UNEVEN[0], UNEVEN[-1], 50)
    assert_poses(motion, fine, *line(fine))


@pytest.mark.parametrize("model", CUBIC)
def test_constant_acceleration_comes_back(model):
    def pose(t):
        centre = np.stack([1 + t - 0.7 * t**2, 0.4 * t**2, 0 * t], axis=1)
        return centre, 3.0 + 0.5 * t + 0.3 * t**2

    motion = model.fit(UNEVEN, *pose(UNEVEN), smoothness=EXPECTED)
    fine = np.linspace(UNEVEN[0], UNEVEN[-1], 50)
    assert_poses(motion, fine, *pose(fine))


def test_accelerations_are_the_variables():
    motion = Accelerated([0.0, 1.0, 2.0])
    motion.centre.data[:, 0] = torch.tensor([5.0, 2.0, 3.0, 3.0, 3.0])  # m, m/s, m/s² at each knot
    motion.yaw.data[:] = torch.tensor([1.0, 0.0, 0.0, 6.0, 0.0])
    centre, yaw, _ = numbers(motion.at([0.0, 2.0, 1.0, 3.0]))
    np.testing.assert_allclose(centre[:, 0], [5, 5 + 4 + 6, 5 + 2 + 1.5, 15 + 8])
    # ∫∫ 6t = t³ in the first second; by symmetry the speed gained is 6 after the second.
    np.testing.assert_allclose(yaw, [1, 1 + 6, 1 + 1, 7 + 6])


@pytest.mark.parametrize("way", [1.0, -1.0])
def test_a_clothoid_comes_back_forwards_and_in_reverse(way):
    true = Clothoid(UNEVEN[::2])
    true.heading.data, true.curvature.data = torch.tensor(2.9).double(), torch.tensor(0.5).double()
    true.sharpness.data += 0.2
    true.travel.data[0] = 0.9 * way
    true.height.data[:2] = torch.tensor([0.3, 0.1])
    centre, yaw, _ = numbers(true.at(UNEVEN))
    motion = Clothoid.fit(UNEVEN, centre, wrap_angle(yaw))
    fine = np.linspace(UNEVEN[0], UNEVEN[-1], 40)
    assert_poses(motion, fine, *numbers(true.at(fine))[:2])
    velocity = np.diff(numbers(motion.at(fine))[0][:, :2], axis=0)
    forward = np.stack([np.cos(yaw[0]), np.sin(yaw[0])])
    assert np.sign(velocity[0] @ forward) == way


def test_a_clothoid_drives_a_circle_and_back():
    motion = Clothoid.fit(UNEVEN, *circle(UNEVEN), smoothness=Smoothness(acceleration=1e3))
    assert_poses(motion, UNEVEN + 0.05, *circle(UNEVEN + 0.05), tolerance=1e-4)
    there = Clothoid([0.0, 1.0, 2.0])
    there.curvature.data += 0.8
    there.travel.data[:] = torch.tensor([1.0, -1.0, -1.0, -1.0])  # stops after a second, returns
    centre, yaw, _ = numbers(there.at([0.5, 1.5, 0.0, 2.0]))
    np.testing.assert_allclose(centre[[0, 2]], centre[[1, 3]], atol=1e-12)
    np.testing.assert_allclose(yaw[[0, 2]], yaw[[1, 3]], atol=1e-12)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_instants(model, n):
    centre, yaw = circle(UNEVEN[:n])
    motion = model.fit(UNEVEN[:n], centre, yaw, smoothness=EXPECTED)
    # Two poses off one arc, or three off one line, are a compromise with wheels and smoothness.
    tolerance = {1: 1e-6, 2: 1e-4 if model is Clothoid else 1e-6, 3: 2e-2}[n]
    assert_poses(motion, UNEVEN[:n], centre, yaw, tolerance)
    assert all(torch.isfinite(term) for term in motion.smoothness(PLAIN).values())


@pytest.mark.parametrize("model", MODELS)
def test_a_missing_instant_is_a_row_less_or_a_weight_of_nothing(model):
    centre, yaw = line(UNEVEN)
    weight = np.ones(len(UNEVEN))
    weight[[0, 4, 5, 9]] = 0
    wrong = centre + 50 * (weight == 0)[:, None]
    motion = model.fit(UNEVEN, wrong, yaw + (weight == 0), weight=weight)
    if model is not Clothoid:  # whose line before the first instant is open
        assert_poses(motion, UNEVEN, centre, yaw)
    seen = weight > 0
    assert_poses(motion, UNEVEN[seen], centre[seen], yaw[seen])
    fewer = model.fit(UNEVEN[seen], centre[seen], yaw[seen])
    assert_poses(fewer, UNEVEN[1:], centre[1:], yaw[1:])


@pytest.mark.parametrize("model", MODELS)
def test_when_and_where_it_happens_does_not_matter(model):
    centre, yaw = noisy(UNEVEN)
    turn, shift = 1.1, np.array([3.0, -2.0, 0.5])
    cos, sin = math.cos(turn), math.sin(turn)
    rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    motion = model.fit(UNEVEN, centre, yaw, smoothness=EXPECTED)
    fine = np.linspace(-0.2, UNEVEN[-1] + 0.2, 30)
    before = numbers(motion.at(fine))
    moved = model.fit(
        UNEVEN + 1000, centre @ rotation.T + shift, wrap_angle(yaw + turn), smoothness=EXPECTED
    )
    # Levenberg–Marquardt stops where a step gains next to nothing, not at the same digit.
    tolerance = 2e-3 if model is Clothoid else 1e-6
    assert_poses(moved, fine + 1000, before[0] @ rotation.T + shift, before[1] + turn, tolerance)


@pytest.mark.parametrize("model", MODELS)
def test_gradients(model):
    motion = made(model)
    names, values = zip(*motion.named_parameters(), strict=True)
    times = torch.tensor([0.8, 1.1, 1.75, 2.1, 2.5], dtype=torch.float64, requires_grad=True)

    def poses(times, *values):
        return torch.func.functional_call(motion, dict(zip(names, values, strict=True)), (times,))

    motion.forward = motion.at
    assert torch.autograd.gradcheck(poses, (times, *values))
    motion.forward = lambda _: tuple(motion.smoothness(PLAIN).values())
    assert torch.autograd.gradcheck(poses, (times.detach(), *values), atol=1e-4)


@pytest.mark.parametrize("model", [*CUBIC, Clothoid])
def test_smoothness_is_the_integral_of_the_squared_derivatives(model):
    motion = made(model)
    terms = motion.smoothness(PLAIN)
    knots, n = motion.knots, 400
    inner = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    times = (knots[:-1, None] + inner * knots.diff()[:, None]).reshape(-1).requires_grad_()
    share = (knots.diff() / n).repeat_interleave(n)
    centre, yaw, _ = motion.at(times)
    columns = [*centre.T, yaw]
    for name in ("velocity", "acceleration", "jerk"):
        columns = [
            torch.autograd.grad(c.sum(), times, create_graph=True, materialize_grads=True)[0]
            for c in columns
        ]
        squares = [(share * c.detach().square()).sum() for c in columns]
        tolerance = 0.02 if model is Clothoid else 1e-4
        np.testing.assert_allclose(
            terms[name].detach(), sum(squares[:3]), rtol=tolerance, atol=1e-9
        )
        np.testing.assert_allclose(
            terms[f"yaw_{name}"].detach(), squares[3], rtol=tolerance, atol=1e-9
        )


def test_finite_differences_are_exact_for_polynomials():
    cubic = np.stack([2 * UNEVEN**3, UNEVEN**2, 0 * UNEVEN], axis=1)
    whole = UNEVEN[-1]
    terms = Polyline.fit(UNEVEN, cubic, 0.2 * UNEVEN).smoothness(PLAIN)
    assert float(terms["jerk"].detach()) == pytest.approx(144 * whole, rel=1e-5)
    assert float(terms["yaw_velocity"].detach()) == pytest.approx(0.04 * whole)
    parabola = cubic * [0, 1, 0]
    terms = Polyline.fit(UNEVEN, parabola, UNEVEN).smoothness(PLAIN)
    assert float(terms["acceleration"].detach()) == pytest.approx(4 * whole, rel=1e-5)
    assert float(terms["jerk"].detach()) == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("model", MODELS)
def test_nothing_is_smoother_than_a_line(model):
    terms = model.fit(UNEVEN, *line(UNEVEN)).smoothness(PLAIN)
    speed = float(terms.pop("velocity").detach())
    assert speed == pytest.approx(1.01 * UNEVEN[-1])
    assert {name for name, term in terms.items() if float(term.detach()) > 1e-7} == set()


@pytest.mark.parametrize("model", MODELS)
def test_twice_as_fast(model):
    """∫ |dᵏx/dtᵏ|² dt of the same path in half the time is 2^(2k − 1) times as much."""
    grid = np.linspace(0, 3, 16)
    slow = model.fit(grid, *circle(grid)).smoothness(PLAIN)
    fast = model.fit(0.5 * grid, *circle(grid)).smoothness(PLAIN)
    for name, factor in {"velocity": 2, "acceleration": 8, "jerk": 32, "yaw_velocity": 2}.items():
        assert float(fast[name].detach()) == pytest.approx(
            factor * float(slow[name].detach()), rel=1e-3
        )
    only = model.fit(grid, *circle(grid)).smoothness(Smoothness(jerk=4.0))
    assert only.keys() == {"jerk"}
    assert float(only["jerk"].detach()) == pytest.approx(float(slow["jerk"].detach()) / 16)


def test_smoothness_takes_noise_away():
    times = np.arange(24) * 0.15
    centre, yaw = noisy(times)
    true, _ = circle(times)
    for model in MODELS:
        rough = numbers(model.fit(times, centre, yaw).at(times))[0]
        fine = numbers(model.fit(times, centre, yaw, smoothness=EXPECTED).at(times))[0]
        assert np.square(fine - true).sum() < 0.7 * np.square(rough - true).sum()


def test_a_polyline_turns_the_short_way():
    motion = Polyline.fit([0.0, 1.0], [[0, 0, 0], [1, 0, 0]], np.radians([170.0, -170.0]))
    yaw = numbers(motion.at([0.5]))[1]
    assert abs(wrap_angle(yaw[0])) == pytest.approx(math.pi)
    motion.yaw.data = torch.tensor([3.0, -3.0], dtype=torch.float64)
    assert abs(wrap_angle(numbers(motion.at([0.5]))[1][0])) == pytest.approx(math.pi)


@pytest.mark.parametrize("model", MODELS)
def test_beyond_its_ends(model):
    motion = model.fit(UNEVEN, *line(UNEVEN))
    times = np.array([-1.0, UNEVEN[-1] + 1])
    assert_poses(
        motion, times, *line(np.clip(times, 0, UNEVEN[-1]) if model is Polyline else times)
    )


def test_a_spline_bends_without_a_jerk_of_the_wheel():
    motion = made(Spline)
    knots = motion.knots[1:-1]
    for order in (0, 1, 2):
        before, after = (motion.basis(knots + side, order) for side in (-1e-9, 1e-9))
        torch.testing.assert_close(before, after, atol=1e-6, rtol=0)


@pytest.mark.parametrize("model", MODELS)
def test_gross_outliers_are_let_go(model):
    times = np.arange(24) * 0.15
    centre, yaw = circle(times)
    if model is not Clothoid:
        yaw = yaw + 3.0 * times  # turns by half a radian an instant
    wrong_centre, wrong_yaw = centre.copy(), yaw.copy()
    wrong_centre[[7, 15]] += [[0.8, -0.5, 0.0], [-1.2, 0.4, 0.3]]
    wrong_yaw[[3, 11, 23]] += [2.6, -3.0, 1.5]
    motion = model.fit(times, wrong_centre, wrap_angle(wrong_yaw), smoothness=EXPECTED)
    clean = model.fit(times, centre, yaw, smoothness=EXPECTED)
    fine = np.setdiff1d(np.arange(24), [23])
    at_centre, at_yaw, _ = numbers(clean.at(times[fine]))
    assert_poses(motion, times[fine], at_centre, at_yaw, tolerance=0.02)


def test_one_scale_for_a_track():
    scale = np.full(len(UNEVEN), 1.2)
    scale[3] = 9.0
    _, _, at = Spline.fit(UNEVEN, *line(UNEVEN), scale).at([0.0, 5.0], torch.float32)
    assert at.dtype == torch.float32
    assert at.tolist() == pytest.approx([1.2, 1.2])


def test_breaks_are_where_it_jumps():
    times = np.delete(np.arange(24) * 0.15, [4, 9, 16])
    centre, _ = noisy(times)
    assert breaks(times, centre) == []
    jumping = centre + [1.0, 0.5, 0.0] * (times > 1.9)[:, None]
    before, after = times[times < 1.9][-1], times[times > 1.9][0]
    assert breaks(times, jumping) == pytest.approx([0.5 * (before + after)])
    wrong = centre.copy()
    wrong[10] += [0.9, -0.3, 0.0]
    assert breaks(times, wrong) == []
    weight = np.arange(len(times)) != 10
    assert breaks(times, wrong + 5 * ~weight[:, None], weight.astype(float)) == []
    anywhere = np.random.default_rng(3).uniform(-20, 20, size=(12, 3))
    assert breaks(0.15 * np.arange(12), anywhere) == pytest.approx(0.15 * np.arange(11) + 0.075)
    assert breaks([1.0], [[0, 0, 0]]) == []


@pytest.mark.parametrize("model", MODELS)
def test_parts_know_nothing_of_each_other(model):
    centre, yaw = line(UNEVEN)
    late = UNEVEN > 1.2
    centre[late] += [2.0, -1.0, 0.0]
    parts = Parts.fit(model, breaks(UNEVEN, centre), UNEVEN, centre, yaw, smoothness=EXPECTED)
    assert len(parts.parts) == 2
    mixed = np.random.default_rng(0).permutation(len(UNEVEN))
    assert_poses(parts, UNEVEN[mixed], centre[mixed], yaw[mixed])
    terms = parts.smoothness(PLAIN)
    assert float(terms["acceleration"].detach()) == pytest.approx(0, abs=1e-7)
    alone = Parts.fit(model, [-5.0, UNEVEN[0] + 0.05, 99.0, 100.0], UNEVEN, *line(UNEVEN))
    assert len(alone.parts) == 2  # parts without an instant are joined to their neighbours
    assert_poses(alone, UNEVEN, *line(UNEVEN))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": [0.0, 0.2, 0.2]}, r"times\[2\] is 0.2, expected more than 0.2"),
        ({"times": [0.0, math.nan, 0.2]}, r"times\[1\] is nan, expected finite"),
        ({"times": []}, "times is empty"),
        ({"times": [0.0, 0.1]}, r"centre has shape \(3, 3\), expected \(2, 3\): times has 2"),
        ({"centre": [[0, 0, 0], [0, math.inf, 0], [0, 0, 0]]}, r"centre\[1\] is .*inf"),
        ({"yaw": [0.0, 0.0, math.nan]}, r"yaw\[2\] is nan, expected finite"),
        ({"yaw": [0.0, 0.0]}, r"yaw has shape \(2,\), expected \(3,\)"),
        ({"scale": [1.0, 0.0, 1.0]}, r"scale\[1\] is 0.0, expected more than 0"),
        ({"weight": [1.0, 1.0, -1.0]}, r"weight\[2\] is -1.0, expected at least 0"),
        ({"weight": [0.0, 0.0, 0.0]}, "weight is 0 in every row"),
    ],
)
def test_what_is_wrong_is_named(change, message):
    given = {"times": [0.0, 0.1, 0.2], "centre": np.zeros((3, 3)), "yaw": np.zeros(3)} | change
    for model in MODELS:
        with pytest.raises(ValueError, match=message):
            model.fit(**given)
    with pytest.raises(ValueError, match=message):
        Parts.fit(Polyline, [], **given)


def test_knots_and_expectations_that_cannot_be():
    with pytest.raises(ValueError, match="at least 2 knots, got 1"):
        checked_knots([1.0])
    with pytest.raises(ValueError, match=r"knots\[1\] is 0.0, expected more than 1.0"):
        Polyline([1.0, 0.0])
    with pytest.raises(ValueError, match="s apart, expected equal"):
        Spline([0.0, 1.0, 3.0])
    with pytest.raises(ValueError, match=r"smoothness.jerk is 0, expected > 0"):
        Smoothness(jerk=0)
    with pytest.raises(ValueError, match=r"times\[1\] is inf"):
        Polyline([0.0, 1.0]).at([0.0, math.inf])
    with pytest.raises(ValueError, match="1 parts have 0 breaks, got 1"):
        Parts([Polyline([0.0, 1.0])], [0.5])


def test_noise_is_what_smoothness_is_weighed_against():
    times = np.arange(24) * 0.15
    centre, yaw = noisy(times)
    trusting, doubting = (
        Spline.fit(times, centre, yaw, smoothness=EXPECTED, noise=Noise(sigma, sigma))
        for sigma in (0.001, 0.3)
    )
    assert float(doubting.smoothness(PLAIN)["jerk"].detach()) < 0.3 * float(
        trusting.smoothness(PLAIN)["jerk"].detach()
    )
