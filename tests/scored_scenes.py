"""Small truths, written down by hand, that the score tests disturb in known ways."""

import math
from dataclasses import replace

import numpy as np

from protoscene.scene import SceneObject, Track
from protoscene.truth import Truth, TruthPrototype

TIMES = tuple(round(0.1 * k, 3) for k in range(8))
PROTOTYPES = (
    TruthPrototype("car", (0.8, 0.4, 0.3)),
    TruthPrototype("box", (0.6, 0.3, 0.4), "half_turn"),
    TruthPrototype("drum", (0.5, 0.5, 0.6), "round"),
)


def thing(number: int, kind: int, moving: bool, start: tuple, velocity: tuple) -> SceneObject:
    time = np.array(TIMES)
    prototype = PROTOTYPES[kind]
    return SceneObject(
        id=number,
        prototype=kind,
        score=0.9,
        moving=moving,
        dims_m=prototype.size_m,
        track=Track(
            time=time,
            centre=np.array(start) + time[:, None] * np.array(velocity),
            yaw=0.3 * number + (0.5 * time if moving else 0 * time),
            scale=np.ones(len(time)),
            visible=np.ones(len(time), dtype=bool),
        ),
        kind=prototype.kind,
    )


def truth() -> Truth:
    """Two cars and a drum that move, a box and a car that stand; all 8 instants, all visible."""
    objects = (
        thing(0, 0, True, (0, 0, 0.15), (1, 0, 0)),
        thing(1, 0, True, (0, 2, 0.15), (0.5, 0.5, 0)),
        thing(2, 2, True, (3, 0, 0.3), (0, 1, 0)),
        thing(3, 1, False, (-3, 0, 0.2), (0, 0, 0)),
        thing(4, 0, False, (-3, 3, 0.15), (0, 0, 0)),
    )
    return Truth(TIMES, objects, PROTOTYPES)


def with_track(thing: SceneObject, **changes: np.ndarray) -> SceneObject:
    return replace(thing, track=replace(thing.track, **changes))


def only(thing: SceneObject, rows: slice) -> SceneObject:
    """The object, existing only at some of its instants."""
    track = thing.track
    names = ("time", "centre", "yaw", "scale", "visible")
    return with_track(thing, **{name: getattr(track, name)[rows] for name in names})


def turned_world(thing: SceneObject, angle: float, shift: tuple) -> SceneObject:
    cos, sin = math.cos(angle), math.sin(angle)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    centre = thing.track.centre @ turn.T + np.array(shift)
    return with_track(thing, centre=centre, yaw=thing.track.yaw + angle)
