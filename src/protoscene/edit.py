"""A scene with one thing removed, moved, inserted or swapped: each a pure function, Scene → Scene.

Without ``time`` an edit concerns the whole track; with it, one instant, which must be one of the
object's own (of the scene's, for an insertion). The background is left as it is: what stood in
front of it was seen past at other instants, and ``discover`` empties it where parked things stand.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from protoscene.errors import Refused
from protoscene.geometry import rotation_from_yaw
from protoscene.scene import Scene, SceneObject, Track

SAME_INSTANT_S = 1e-6
Centre = tuple[float, float, float]


def remove_object(scene: Scene, id: int, time: float | None = None) -> Scene:
    """Without object ``id``, or without it at one instant. Where that is neither its first nor its
    last, what it does afterwards becomes another object, with an unused id."""
    thing = _object(scene, id)
    rest: list[SceneObject] = []
    if time is not None:
        k = _instant(thing, time)
        others = np.arange(len(thing.track.time)) != k
        rest = _parts(scene, replace(thing, track=_rows(thing.track, others)), [k])
    return _edited(scene, thing, rest, f"remove {id}{_when(time)}")


def move_object(
    scene: Scene, id: int, centre: Centre, yaw: float | None = None, time: float | None = None
) -> Scene:
    """Object ``id`` with its centre at ``centre`` (m) and, if given, turned to ``yaw`` (rad).

    Its track goes along as a rigid whole: shifted, and turned about +z at its first instant, so
    that there it has this pose. With ``time`` the other instants keep theirs."""
    thing = _object(scene, id)
    track, place = thing.track, _finite("centre", centre)
    k = 0 if time is None else _instant(thing, time)
    turn = 0.0 if yaw is None else _finite("yaw", [yaw])[0] - track.yaw[k]
    if time is None:
        centres = place + (track.centre - track.centre[0]) @ rotation_from_yaw(turn).T
        yaws = track.yaw + turn
    else:
        centres, yaws = track.centre.copy(), track.yaw.copy()
        centres[k], yaws[k] = place, yaws[k] + turn
    moved = replace(thing, track=replace(track, centre=centres, yaw=yaws))
    turned = "" if yaw is None else f" {yaw:g}"
    what = f"move {id} {_numbers(centre)}{turned}{_when(time)}"
    return _edited(scene, thing, [moved], what)


def insert_object(
    scene: Scene, prototype: int, centre: Centre, yaw: float = 0.0, time: float | None = None
) -> Scene:
    """With one more object, of an unused id, that stands at ``centre`` (m) turned by ``yaw`` (rad)
    at all instants, or at the one at ``time``. No sensor saw it: it is ``visible`` at none."""
    _check_prototype(scene, prototype)
    times = np.array(scene.times)
    if time is not None:
        times = times[[_nearest(times, time, "time")]]
    n = len(times)
    place = np.tile(_finite("centre", centre), (n, 1))
    angle = np.repeat(_finite("yaw", [yaw]), n)
    track = Track(times, place, angle, np.ones(n), np.zeros(n, dtype=bool))
    new = SceneObject(_unused_id(scene), prototype, 1.0, False, scene.sizes_m[prototype], track)
    return _edited(
        scene, None, [new], f"insert {prototype} {_numbers(centre)} {yaw:g}{_when(time)}"
    )


def swap_prototype(scene: Scene, id: int, prototype: int, time: float | None = None) -> Scene:
    """Object ``id`` as another prototype, on the same track, its bottom as high as before. At one
    instant of several, that instant and those after it become objects with unused ids."""
    thing = _object(scene, id)
    _check_prototype(scene, prototype)
    if time is None:
        new = [_as(scene, thing, prototype)]
    else:
        k = _instant(thing, time)
        new = _parts(scene, thing, [k, k + 1])
        at = min(k, 1)  # nothing comes before the first instant
        new[at] = _as(scene, new[at], prototype)
    return _edited(scene, thing, new, f"swap {id} {prototype}{_when(time)}")


def _as(scene: Scene, thing: SceneObject, prototype: int) -> SceneObject:
    """The object as another prototype, its bottom where it was."""
    size, track = scene.sizes_m[prototype], thing.track
    centre = track.centre.copy()
    centre[:, 2] += track.scale * (size[2] - thing.dims_m[2]) / 2
    track = replace(track, centre=centre)
    return replace(thing, prototype=prototype, dims_m=size, kind=None, track=track)


def _edited(scene: Scene, old: SceneObject | None, new: Sequence[SceneObject], what: str) -> Scene:
    """``scene`` with ``new`` in the place of ``old`` (or at the end), marked with the edit."""
    k = len(scene.objects) if old is None else scene.objects.index(old)
    objects = (*scene.objects[:k], *new, *scene.objects[k + (old is not None) :])
    earlier = scene.made_by.get("edits")
    edits = what if earlier is None else f"{earlier}; {what}"
    return replace(
        scene, objects=objects, made_by={**scene.made_by, "command": "edit", "edits": edits}
    )


def _parts(scene: Scene, thing: SceneObject, ends: Sequence[int]) -> list[SceneObject]:
    """The object cut before each of the rows ``ends`` of its track, an object for each part that
    has a row: the first keeps its id, the others get unused ones."""
    track, unused = thing.track, _unused_id(scene)
    parts: list[SceneObject] = []
    for first, end in itertools.pairwise([0, *ends, len(track.time)]):
        if end > first:
            id = unused + len(parts) - 1 if parts else thing.id
            parts.append(replace(thing, id=id, track=_rows(track, slice(first, end))))
    return parts


def _rows(track: Track, rows: Any) -> Track:
    return Track(*(getattr(track, field.name)[rows] for field in fields(Track)))


def _object(scene: Scene, id: int) -> SceneObject:
    for thing in scene.objects:
        if thing.id == id:
            return thing
    known = ", ".join(str(thing.id) for thing in scene.objects) or "none"
    raise Refused("scene", "object", "no object has this id", id, known)


def _check_prototype(scene: Scene, prototype: int) -> None:
    n = len(scene.prototypes)
    if not 0 <= prototype < n:
        expected = f"0 to {n - 1}" if n else "none"
        raise Refused("scene", "prototype", "no prototype has this id", prototype, expected)


def _instant(thing: SceneObject, time: float) -> int:
    return _nearest(thing.track.time, time, f"object {thing.id}")


def _nearest(times: np.ndarray, time: float, field: str) -> int:
    """Which of ``times`` is ``time``. Refused, naming the nearest, where none is."""
    k = int(np.argmin(np.abs(times - time))) if math.isfinite(time) else 0
    if not abs(times[k] - time) <= SAME_INSTANT_S:
        raise Refused("scene", field, "has no such instant", time, f"such as {times[k]:.9g}")
    return k


def _unused_id(scene: Scene) -> int:
    return max((thing.id for thing in scene.objects), default=-1) + 1


def _finite(field: str, numbers: Any) -> np.ndarray:
    values = np.asarray(numbers, dtype=np.float64)
    if not np.isfinite(values).all():
        raise Refused("scene", field, "holds a number that is not finite", numbers)
    return values


def _when(time: float | None) -> str:
    return "" if time is None else f" at {time:g}"


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)
