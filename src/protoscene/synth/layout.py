"""Who stands and moves where: things, static clutter and walls, drawn so that nothing touches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from protoscene.errors import Refused
from protoscene.synth.clutter import draw_posts, draw_walls
from protoscene.synth.paths import STYLES, extent, gaps
from protoscene.synth.settings import SynthSettings
from protoscene.synth.things import (
    KINDS,
    SCHEMES,
    Part,
    Thing,
    build_thing,
    symmetry_of,
)

SUBSTEPS = 4
"""Poses checked per instant, so that paths do not pass through each other between instants."""
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


@dataclass(frozen=True, eq=False)
class _Taken:
    """Ground that somebody has: poses at every substep."""

    fine: np.ndarray
    size: tuple[float, float]


def make_layout(settings: SynthSettings) -> Layout:
    """Draws kinds, then clutter and paths. Where those leave no room they are drawn anew, with
    smaller demands every time; Refused when none of them has room for all things."""
    things = _draw_things(np.random.default_rng([settings.seed, 1000]), settings)
    for attempt in range(LAYOUTS):
        rng = np.random.default_rng([settings.seed, attempt])
        walls, posts = draw_walls(rng, settings), draw_posts(rng, settings)
        taken = [_taken_by(post, settings) for post in posts]
        actors = _draw_actors(rng, settings, things, taken, easier=attempt / LAYOUTS)
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
    schemes = rng.permutation(len(SCHEMES))
    things = []
    for n, kind in enumerate(kinds):
        thing = build_thing(kind, int(schemes[n % len(SCHEMES)]))
        if settings.size == "small":
            factor = rng.uniform(0.20, 0.25) / max(thing.size_m[:2])
        else:
            factor = rng.uniform(0.92, 1.04)
        things.append(thing.scaled(float(factor)))
    return tuple(things)


def _taken_by(part: Part, settings: SynthSettings) -> _Taken:
    fine = np.tile([part.centre[0], part.centre[1], 0.0], (settings.n_instants * SUBSTEPS, 1))
    return _Taken(fine, (2 * part.half[0], 2 * part.half[1]))


def _draw_actors(
    rng: np.random.Generator,
    settings: SynthSettings,
    things: tuple[Thing, ...],
    taken: list[_Taken],
    easier: float,
) -> tuple[Actor, ...] | None:
    taken = list(taken)
    clutter = len(taken)
    styles = [settings.motions[i % len(settings.motions)] for i in range(settings.n_moving)]
    styles += ["parked"] * settings.n_parked
    actors: dict[int, Actor] = {}
    # Who jumps goes around the others, so it is drawn last.
    for n in sorted(range(len(styles)), key=lambda n: styles[n] == "jumps"):
        which = n % len(things)
        near = settings.max_gap if actors and easier < 0.5 else None
        for _ in range(TRIES):
            fine = _draw_poses(rng, settings, things[which], styles[n], taken, easier)
            if fine is None or not _fits(settings, things[which], fine, taken, easier):
                continue
            if near is None or _comes_near(things[which], fine, taken[clutter:], near):
                break
        else:
            return None
        taken.append(_Taken(fine, things[which].size_m[:2]))
        actors[n] = Actor(things[which], which, styles[n], fine[::SUBSTEPS])
    return tuple(actors[n] for n in range(len(styles)))


def _draw_poses(
    rng: np.random.Generator,
    settings: SynthSettings,
    thing: Thing,
    style: str,
    taken: list[_Taken],
    easier: float,
) -> np.ndarray | None:
    """(n_instants · SUBSTEPS, 3) poses of one try, not yet checked; None for a hopeless one."""
    n = settings.n_instants * SUBSTEPS
    half = settings.area / 2
    if style == "parked":
        return np.tile(_anywhere(rng, half), (n, 1))
    if style == "jumps":
        return _draw_jumps(rng, settings, thing, taken)
    times = np.arange(n) * settings.time_step / SUBSTEPS
    speed = _draw_speed(rng, settings, thing, style) * (1 - 0.6 * easier)
    poses = STYLES[style](rng, times, speed)
    poses[:, :2] -= 0.5 * (poses[:, :2].min(axis=0) + poses[:, :2].max(axis=0))
    x, y, turn = _anywhere(rng, half)
    cos, sin = np.cos(turn), np.sin(turn)
    spread = 0.75
    xy = poses[:, :2] @ np.array([[cos, sin], [-sin, cos]]) + spread * np.array([x, y])
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


def _draw_jumps(
    rng: np.random.Generator, settings: SynthSettings, thing: Thing, taken: list[_Taken]
) -> np.ndarray | None:
    """A free pose for every instant, drawn on its own."""
    fine = np.empty((settings.n_instants * SUBSTEPS, 3))
    for i in range(settings.n_instants):
        now = slice(i * SUBSTEPS, (i + 1) * SUBSTEPS)
        there = [_Taken(t.fine[now], t.size) for t in taken]
        for _ in range(TRIES):
            fine[now] = _anywhere(rng, settings.area / 2)
            if _fits(settings, thing, fine[now], there, 0.0):
                break
        else:
            return None
    return fine


def _anywhere(rng: np.random.Generator, half: float) -> np.ndarray:
    return np.array([*rng.uniform(-half, half, 2), rng.uniform(-np.pi, np.pi)])


def _fits(
    settings: SynthSettings, thing: Thing, fine: np.ndarray, taken: list[_Taken], easier: float
) -> bool:
    size = thing.size_m[:2]
    if (np.abs(fine[:, :2]) + extent(fine, size)).max() > settings.area / 2:
        return False
    gap = settings.min_gap * (1 - 0.5 * easier)
    return all(gaps(fine, size, t.fine, t.size).min() >= gap for t in taken)


def _comes_near(thing: Thing, fine: np.ndarray, others: list[_Taken], near: float) -> bool:
    return any(gaps(fine, thing.size_m[:2], t.fine, t.size).min() <= near for t in others)
