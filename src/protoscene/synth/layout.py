"""Who stands and moves where: things, static clutter and walls, drawn so that nothing touches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from protoscene.errors import Refused
from protoscene.synth.cameras import recording_cameras
from protoscene.synth.clutter import draw_posts, draw_walls
from protoscene.synth.ground import SUBSTEPS, Ground, post_ground
from protoscene.synth.paths import STYLES
from protoscene.synth.settings import SynthSettings
from protoscene.synth.things import (
    KINDS,
    SCHEMES,
    Part,
    Thing,
    build_thing,
    symmetry_of,
)

TRIES = 300
LAYOUTS = 60
THIN = ("chair", "lamp", "bench", "table")
"""Kinds whose legs would be thinner than a pixel in the small size, so it leaves them out."""


@dataclass(frozen=True, eq=False)
class Actor:
    """A thing and its pose (x, y, yaw) at every instant. ``prototype`` indexes the kinds."""

    thing: Thing
    prototype: int
    style: str
    poses: Float[np.ndarray, "n 3"]

    @property
    def moving(self) -> bool:
        return self.style != "parked"


@dataclass(frozen=True, eq=False)
class Layout:
    """``things`` one per kind, ``actors`` (movers first) and ``clutter`` that never moves."""

    things: tuple[Thing, ...]
    actors: tuple[Actor, ...]
    clutter: tuple[Part, ...]


def make_layout(settings: SynthSettings) -> Layout:
    """Draws kinds, then clutter and paths. Where those leave no room they are drawn anew, with
    smaller demands every time; Refused when none of them has room for all things."""
    cameras = recording_cameras(settings)
    things = _draw_things(np.random.default_rng([settings.seed, 1000]), settings)
    for attempt in range(LAYOUTS):
        rng = np.random.default_rng([settings.seed, attempt])
        walls, posts = draw_walls(rng, settings), draw_posts(rng, settings)
        taken = [post_ground(post, settings) for post in posts]
        ground = Ground(settings, cameras, taken, easier=attempt / LAYOUTS)
        actors = _draw_actors(rng, ground, things)
        if actors is not None:
            return Layout(things, actors, walls + posts)
    raise Refused(
        "synth",
        "n_moving",
        "no room for that many things",
        got=f"{settings.n_moving} + {settings.n_parked} parked",
        expected="fewer things or a larger area",
    )


def _draw_things(rng: np.random.Generator, settings: SynthSettings) -> tuple[Thing, ...]:
    kinds = list(settings.kinds)
    if not kinds:
        # At most one kind that looks the same after a turn, so that yaw stays worth measuring.
        order = [KINDS[i] for i in rng.permutation(len(KINDS))]
        if settings.size == "small":
            order = [k for k in order if k not in THIN]
        turned = [k for k in order if symmetry_of(k) is None]
        kinds = turned[: settings.n_kinds - 1]
        kinds.append(next(k for k in order if k not in kinds))
    kinds = kinds[: settings.n_moving or settings.n_parked]  # what is parked also moves
    drawn = rng.permutation(len(SCHEMES))
    schemes = settings.schemes or tuple(int(k) for k in drawn)
    things = []
    for n, kind in enumerate(kinds):
        thing = build_thing(kind, schemes[n % len(schemes)])
        if settings.size == "small":
            factor = rng.uniform(0.20, 0.25) / max(thing.size_m[:2])
        else:
            factor = rng.uniform(0.92, 1.04)
        things.append(thing.scaled(float(factor)))
    return tuple(things)


def _draw_actors(
    rng: np.random.Generator, ground: Ground, things: tuple[Thing, ...]
) -> tuple[Actor, ...] | None:
    settings = ground.settings
    styles = [settings.motions[i % len(settings.motions)] for i in range(settings.n_moving)]
    styles += ["parked"] * settings.n_parked
    actors: dict[int, Actor] = {}
    # Who jumps goes around the others, so it is drawn last.
    for n in sorted(range(len(styles)), key=lambda n: styles[n] == "jumps"):
        which = n % len(things)
        thing = things[which]
        for _ in range(TRIES):
            fine = _draw_poses(rng, ground, thing, styles[n])
            if fine is not None and ground.fits(thing, fine) and ground.comes_near(thing, fine):
                break
        else:
            return None
        ground.take(thing, fine)
        actors[n] = Actor(thing, which, styles[n], fine[::SUBSTEPS])
    return tuple(actors[n] for n in range(len(styles)))


def _draw_poses(
    rng: np.random.Generator, ground: Ground, thing: Thing, style: str
) -> np.ndarray | None:
    """(n_instants · SUBSTEPS, 3) poses of one try, not yet checked; None for a hopeless one."""
    settings = ground.settings
    n = settings.n_instants * SUBSTEPS
    half = settings.area / 2
    if style == "parked":
        return np.tile(_anywhere(rng, half), (n, 1))
    if style == "jumps":
        return _draw_jumps(rng, ground, thing)
    times = np.arange(n) * settings.time_step / SUBSTEPS
    speed = _draw_speed(rng, settings, thing, style) * (1 - 0.6 * ground.easier)
    poses = STYLES[style](rng, times, speed)
    poses[:, :2] -= 0.5 * (poses[:, :2].min(axis=0) + poses[:, :2].max(axis=0))
    x, y, turn = _anywhere(rng, half)
    cos, sin = np.cos(turn), np.sin(turn)
    # A path's middle is nearer to the area's middle than a parked thing need be.
    xy = poses[:, :2] @ np.array([[cos, sin], [-sin, cos]]) + 0.75 * np.array([x, y])
    return np.column_stack([xy, poses[:, 2] + turn])


def _draw_speed(
    rng: np.random.Generator, settings: SynthSettings, thing: Thing, style: str
) -> float:
    """0.2 to 1.5 m/s: a path of some lengths, so that no place is covered for most of the time
    (but where a style stands), and neighbours in time overlap by four tenths of a side."""
    share, lengths = {"stop_and_go": (0.4, 2.5), "spin": (0.75, 3.5)}.get(style, (1.0, 3.0))
    driving = share * settings.n_instants * settings.time_step
    fastest = min(1.5, 0.6 * min(thing.size_m[:2]) / settings.time_step)
    slowest = max(0.2, lengths * max(thing.size_m[:2]) / driving)
    fastest = min(fastest, 0.9 * settings.area / driving)
    slowest = min(slowest, 0.9 * fastest)
    return float(rng.uniform(slowest, fastest))


def _draw_jumps(rng: np.random.Generator, ground: Ground, thing: Thing) -> np.ndarray | None:
    """A free pose for every instant, drawn on its own."""
    fine = []
    for i in range(ground.settings.n_instants):
        for _ in range(TRIES):
            here = np.tile(_anywhere(rng, ground.settings.area / 2), (SUBSTEPS, 1))
            if ground.fits(thing, here, first=i):
                break
        else:
            return None
        fine.append(here)
    return np.concatenate(fine)


def _anywhere(rng: np.random.Generator, half: float) -> np.ndarray:
    return np.array([*rng.uniform(-half, half, 2), rng.uniform(-np.pi, np.pi)])
