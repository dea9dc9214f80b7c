"""truth.json: the scene that a recording was made from, for ``score`` to compare with.

The schema is scene.json's, without volumes: ``format`` is "protoscene-truth" (or
"protoscene-scene", for a scene whose objects were given kinds by hand), every object carries
``kind``, every prototype ``{id, kind, size_m, symmetry}``. ``heldout`` may name a transforms.json
of cameras that the recording does not contain, relative to truth.json.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from protoscene.errors import Refused
from protoscene.formats.manifest import read_json
from protoscene.formats.paths import resolve_inside
from protoscene.scene import SceneObject, Track

Triple = tuple[float, float, float]
Symmetry = Literal["half_turn", "quarter_turn", "round"] | None

TIME_TOLERANCE_S = 1e-4
"""Times closer than this are one instant: what a decimal time in a file may have lost."""


@dataclass(frozen=True)
class TruthPrototype:
    """A kind of thing; ``symmetry`` names the turns that leave it unchanged."""

    kind: str
    size_m: Triple
    symmetry: Symmetry = None


@dataclass(frozen=True, eq=False)
class Truth:
    """What was there. ``objects[i].prototype`` indexes ``prototypes``; ``objects[i].kind`` is set.

    ``heldout`` is the transforms.json of held-out cameras, if there is one.
    """

    times: tuple[float, ...]
    objects: Sequence[SceneObject]
    prototypes: Sequence[TruthPrototype]
    heldout: Path | None = None


class _Track(msgspec.Struct, forbid_unknown_fields=True):
    time: list[float]
    centre_m: list[Triple]
    yaw_rad: list[float]
    scale: list[float]
    visible: list[bool]
    visible_pixels: Any = None


class _Object(msgspec.Struct, forbid_unknown_fields=True):
    id: int
    kind: str
    prototype: int
    dims_m: Triple
    track: _Track
    moving: bool
    score: float = 1.0


class _Prototype(msgspec.Struct):
    id: int
    size_m: Triple
    symmetry: Symmetry = None
    kind: str | None = None


class _Truth(msgspec.Struct):
    format: Literal["protoscene-truth", "protoscene-scene"]
    version: Literal[1]
    times: list[float]
    objects: list[_Object]
    prototypes: list[_Prototype]
    heldout: str | None = None


def load_truth(path: str | Path) -> Truth:
    """Reads and checks a truth.json. Raises Refused naming the field that is wrong."""
    path = Path(path)
    document = read_json(path)
    version = document.get("version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > 1:
        raise Refused(path, "version", f"made by version {version}, this reads ≤ 1")
    try:
        raw = msgspec.convert(document, type=_Truth)
    except msgspec.ValidationError as error:
        problem, _, field = str(error).partition(" - at `$")
        raise Refused(path, field.strip(".`") or "top level", problem) from error
    if not raw.times:
        raise Refused(path, "times", "no instant")
    _check_times(path, "times", raw.times)
    index = {prototype.id: k for k, prototype in enumerate(raw.prototypes)}
    if len(index) != len(raw.prototypes):
        raise Refused(path, "prototypes", "an id occurs twice")
    kinds = {thing.prototype: thing.kind for thing in raw.objects}
    prototypes = []
    for k, entry in enumerate(raw.prototypes):
        _check_positive(path, f"prototypes[{k}].size_m", entry.size_m)
        kind = entry.kind or kinds.get(entry.id, f"prototype {entry.id}")
        prototypes.append(TruthPrototype(kind, entry.size_m, entry.symmetry))
    objects = [_object(path, f"objects[{i}]", o, raw, index) for i, o in enumerate(raw.objects)]
    if len({thing.id for thing in objects}) != len(objects):
        raise Refused(path, "objects", "an id occurs twice")
    heldout = None if raw.heldout is None else _heldout(path, raw.heldout)
    return Truth(tuple(raw.times), tuple(objects), tuple(prototypes), heldout)


def _object(
    path: Path, field: str, entry: _Object, raw: _Truth, index: dict[int, int]
) -> SceneObject:
    if entry.prototype not in index:
        raise Refused(path, f"{field}.prototype", "no such prototype", entry.prototype)
    _check_positive(path, f"{field}.dims_m", entry.dims_m)
    track = entry.track
    n = len(track.time)
    _check_times(path, f"{field}.track.time", track.time)
    _check_instants(path, f"{field}.track.time", track.time, raw.times)
    for name in ("centre_m", "yaw_rad", "scale", "visible"):
        values = getattr(track, name)
        if len(values) != n:
            raise Refused(path, f"{field}.track.{name}", "wrong length", len(values), n)
        if not np.isfinite(np.asarray(values, dtype=np.float64)).all():
            raise Refused(path, f"{field}.track.{name}", "a value is not finite")
    _check_positive(path, f"{field}.track.scale", track.scale)
    return SceneObject(
        id=entry.id,
        prototype=index[entry.prototype],
        score=entry.score,
        moving=entry.moving,
        dims_m=entry.dims_m,
        track=Track(
            time=np.array(track.time, dtype=np.float64),
            centre=np.array(track.centre_m, dtype=np.float64).reshape(n, 3),
            yaw=np.array(track.yaw_rad, dtype=np.float64),
            scale=np.array(track.scale, dtype=np.float64),
            visible=np.array(track.visible, dtype=bool),
        ),
        kind=entry.kind,
    )


def _check_times(path: Path, field: str, times: list[float]) -> None:
    if not all(map(math.isfinite, times)):
        raise Refused(path, field, "a time is not finite")
    if any(b <= a for a, b in pairwise(times)):
        raise Refused(path, field, "times do not increase")


def _check_instants(path: Path, field: str, times: list[float], instants: list[float]) -> None:
    known = np.array(instants)
    for time in times:
        if np.abs(known - time).min() > TIME_TOLERANCE_S:
            raise Refused(path, field, "not one of the instants in `times`", time)


def _check_positive(path: Path, field: str, values: Sequence[float]) -> None:
    for value in values:
        if not (math.isfinite(value) and value > 0):
            raise Refused(path, field, "must be positive and finite", value)


def _heldout(path: Path, relative: str) -> Path:
    target = resolve_inside(path.parent, relative, path, "heldout")
    if not target.is_file():
        raise Refused(path, "heldout", "no such file", relative)
    return target
