"""Synthetic layouts, motion, cameras and sensor faults: what holds before anything is drawn."""

from __future__ import annotations

import numpy as np
import pytest
from shapely import affinity, geometry

from protoscene.errors import Refused
from protoscene.synth import DEMO, SUITE, TINY, SynthSettings
from protoscene.synth.cameras import heldout_cameras, recording_cameras
from protoscene.synth.ground import box_corners
from protoscene.synth.layout import Actor, make_layout
from protoscene.synth.paths import STYLES, gaps
from protoscene.synth.sensor import axial_sigma, millimetres, noisy_depth
from protoscene.synth.things import DARK, KINDS, SCHEMES, build_thing

NAMED = [pytest.param(make(0), id=name) for name, make in SUITE.items()]
NAMED += [pytest.param(TINY, id="tiny"), pytest.param(DEMO, id="demo")]


def rectangle(pose: np.ndarray, size: tuple[float, float, float]) -> geometry.Polygon:
    flat = geometry.box(-size[0] / 2, -size[1] / 2, size[0] / 2, size[1] / 2)
    return affinity.translate(affinity.rotate(flat, pose[2], use_radians=True), pose[0], pose[1])


def distances(a: Actor, b: Actor) -> list[float]:
    pairs = zip(a.poses, b.poses, strict=True)
    return [rectangle(p, a.thing.size_m).distance(rectangle(q, b.thing.size_m)) for p, q in pairs]


@pytest.mark.parametrize("settings", NAMED)
def test_things_never_touch_each_other_nor_leave_the_area(settings: SynthSettings) -> None:
    actors = make_layout(settings).actors
    closest = np.full(len(actors), np.inf)
    for i, a in enumerate(actors):
        corners = [rectangle(pose, a.thing.size_m).bounds for pose in a.poses]
        assert np.abs(corners).max() <= settings.area / 2 + 1e-9
        for j, b in enumerate(actors[:i]):
            gap = min(distances(a, b))
            assert gap >= 0.5 * settings.min_gap
            closest[[i, j]] = np.minimum(closest[[i, j]], gap)
    if settings.max_gap is not None:  # a crowd: gaps under one width of a thing
        assert (closest < [min(a.thing.size_m[:2]) for a in actors]).all()


@pytest.mark.parametrize("settings", NAMED)
def test_movers_move_and_parked_things_are_of_their_kinds(settings: SynthSettings) -> None:
    actors = make_layout(settings).actors
    movers = [a for a in actors if a.moving]
    assert (len(movers), len(actors)) == (
        settings.n_moving,
        settings.n_moving + settings.n_parked,
    )
    assert {a.thing.kind for a in actors} == {a.thing.kind for a in movers}
    for actor in actors:
        steps = np.linalg.norm(np.diff(actor.poses[:, :2], axis=0), axis=1)
        if not actor.moving:
            assert (actor.poses == actor.poses[0]).all()
        elif actor.style == "jumps":
            assert np.median(steps) > actor.thing.size_m[0]
        else:
            assert steps.sum() > 1.8 * max(actor.thing.size_m[:2])
            assert steps.max() / settings.time_step <= 1.6
            assert steps.max() < 0.65 * min(actor.thing.size_m[:2])  # neighbours overlap


@pytest.mark.parametrize("settings", NAMED)
def test_every_thing_is_whole_in_some_picture_of_every_instant(settings: SynthSettings) -> None:
    cameras = recording_cameras(settings)
    for actor in make_layout(settings).actors:
        corners = box_corners(actor.thing, actor.poses)
        for i in range(settings.n_instants):
            pixels = np.array([views[i].project(corners[i]) for views in cameras])[..., :2]
            inside = (pixels > 0) & (pixels < [settings.width, settings.height])
            assert inside.all(axis=(1, 2)).any()


def test_heading_does_not_give_yaw() -> None:
    times = np.linspace(0, 3.6, 97)

    def off(style: str, seed: int) -> np.ndarray:
        poses = STYLES[style](np.random.default_rng(seed), times, 0.8)
        step = np.diff(poses[:, :2], axis=0)
        moved = np.linalg.norm(step, axis=1) > 1e-4
        along = step[:, 0] * np.cos(poses[:-1, 2]) + step[:, 1] * np.sin(poses[:-1, 2])
        return (along / np.maximum(np.linalg.norm(step, axis=1), 1e-9))[moved]

    for seed in range(6):
        assert off("smooth", seed).min() > 0.99
        assert off("reverse", seed)[-1] < -0.99
        assert np.abs(off("sideways", seed)).max() < 0.75
        spin = STYLES["spin"](np.random.default_rng(seed), times, 0.8)
        still = np.linalg.norm(np.diff(spin[:, :2], axis=0), axis=1) < 1e-9
        assert 0.2 < still.mean() < 0.3
        assert np.abs(np.diff(spin[:, 2])[still]).sum() > np.radians(80)
        halt = STYLES["stop_and_go"](np.random.default_rng(seed), times, 0.8)
        assert (np.linalg.norm(np.diff(halt, axis=0), axis=1) < 1e-9).mean() > 0.5


def test_gaps_bound_the_distance_of_rectangles_from_below() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.uniform(-1, 1, (2, 200, 3)) * [1, 1, np.pi]
    sizes = (0.8, 0.3, 0.0), (0.5, 0.4, 0.0)
    bound = gaps(a, sizes[0][:2], b, sizes[1][:2])
    true = [
        rectangle(p, sizes[0]).distance(rectangle(q, sizes[1])) for p, q in zip(a, b, strict=True)
    ]
    assert (bound <= np.array(true) + 1e-9).all()
    assert ((bound > 0) == (np.array(true) > 1e-12)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_thing_fills_its_box(kind: str) -> None:
    thing = build_thing(kind, 0, 0.5)
    lower = np.min([np.subtract(p.centre, p.half) for p in thing.parts], axis=0)
    upper = np.max([np.add(p.centre, p.half) for p in thing.parts], axis=0)
    np.testing.assert_allclose(upper, np.array(thing.size_m) / 2, atol=1e-12)
    np.testing.assert_allclose(lower, -np.array(thing.size_m) / 2, atol=1e-12)
    assert 0.4 <= 2 * max(thing.size_m[:2]) <= 1.0 and 0.25 <= 2 * thing.size_m[2] <= 0.8


@pytest.mark.parametrize("name", ["four_cameras", "moving_rig", "one_camera"])
def test_heldout_cameras_differ_from_the_recording(name: str) -> None:
    settings = SUITE[name](0)
    recording = recording_cameras(settings)
    moved = np.ptp([c.centre for c in recording[0]], axis=0).max()
    assert moved > 0.2 if settings.rig == "moving" else moved == 0
    heldout = heldout_cameras(settings, recording)
    assert len(heldout) == settings.n_heldout
    for camera in heldout:
        for other in (c for views in recording for c in views):
            cosine = camera.world_from_camera[:3, 2] @ other.world_from_camera[:3, 2]
            assert cosine < np.cos(np.radians(20))


def test_depth_noise_grows_and_edges_become_holes() -> None:
    rng = np.random.default_rng(0)
    depth = np.full((200, 200), 2.0)
    depth[:, 100:] = 4.0
    noisy = noisy_depth(depth, 0.5, rng)
    for columns, z in ((slice(0, 97), 2.0), (slice(103, 200), 4.0)):
        part = noisy[:, columns]
        np.testing.assert_allclose(
            part[part > 0].std(), 0.5 * axial_sigma(np.array([[z]])).item(), rtol=0.05
        )
        assert 0.0005 < (part == 0).mean() < 0.004
    at_edge = (noisy[:, 99:101] == 0).mean()
    beside = (noisy[:, [98, 101]] == 0).mean()
    assert at_edge > 0.6 and 0.1 < beside < at_edge
    between = (noisy > 2.2) & (noisy < 3.8)
    assert not between.any()  # no flying pixels
    assert millimetres(np.array([[1.23449, 0.0]])).tolist() == [[1234, 0]]


def test_a_floor_at_a_grazing_angle_is_no_edge() -> None:
    rows = np.arange(1, 121)
    depth = np.tile((2.5 * 200 / rows)[:, None], (1, 50)).clip(0, 30)
    lost = noisy_depth(depth, 0.0, np.random.default_rng(0)) == 0
    assert (np.abs(np.diff(depth[:, 0])) > 0.05).sum() > 50
    assert lost[20:].mean() < 0.01


def test_the_same_seed_gives_the_same_layout_and_another_seed_another() -> None:
    first, again, other = (make_layout(SUITE["jumps"](s)).actors for s in (0, 0, 1))
    assert all((a.poses == b.poses).all() for a, b in zip(first, again, strict=True))
    assert not all((a.poses == b.poses).all() for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_instants", 1),
        ("rig", "orbit"),
        ("motions", ("flies",)),
        ("kinds", ("whale",)),
        ("schemes", (1,)),
        ("time_step", float("nan")),
        ("max_gap", 0.01),
        ("size", "tiny"),
    ],
)
def test_settings_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(Refused) as refusal:
        SynthSettings(**{field: value})  # type: ignore[arg-type]
    assert str(refusal.value).startswith(f"synth: {field}: ")


def test_too_many_things_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protoscene.synth.layout.TRIES", 20)
    with pytest.raises(Refused, match="no room for that many things"):
        make_layout(SynthSettings(n_moving=12, n_parked=0, n_instants=2, area=1.0))


def test_kinds_of_given_colours_look_alike_in_every_recording() -> None:
    given = {"kinds": ("car", "robot"), "schemes": (5, 2), "n_moving": 2, "n_parked": 0}
    layouts = [make_layout(SynthSettings(seed=seed, n_instants=2, **given)) for seed in (0, 1)]
    for layout in layouts:
        assert [t.parts[0].colour for t in layout.things] == [SCHEMES[5][0], DARK]
        assert layout.things[1].parts[1].colour == SCHEMES[2][0]


def test_more_kinds_than_movers_still_park_only_what_moves() -> None:
    layout = make_layout(SynthSettings(n_moving=2, n_parked=3, n_kinds=4, n_instants=4))
    assert len(layout.things) == 2
    assert {a.prototype for a in layout.actors if a.moving} == {0, 1}
