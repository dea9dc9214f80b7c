"""``scene.json``: its form, its own hash, and the laws that its numbers obey.

The volumes that it names are the business of ``store``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import UNSET, Struct, UnsetType

from protoscene import __version__
from protoscene.errors import Failed, Refused
from protoscene.geometry import Grid
from protoscene.scene import Mirror, Scene, SceneObject, Track
from protoscene.sealed import FileEntry, Sealed, read_sealed

FORMAT, VERSION = "protoscene-scene", 1
SCENE_JSON = "scene.json"
DECIMALS = 6
"""Of metres, radians, scales and scores in scene.json. Times and grids are written exactly."""
UNIT = 1e-3
"""By how much the length of a normal may differ from 1."""


class GridEntry(Struct):
    origin: tuple[float, float, float]
    voxel_size: float
    shape: tuple[int, int, int]


class SymmetryEntry(Struct):
    plane: tuple[float, float, float]
    """nx ny offset_m."""
    score: float


class PrototypeEntry(Struct):
    id: int
    file: str
    size_m: tuple[float, float, float]
    symmetry: SymmetryEntry | str | None = None


class TrackEntry(Struct):
    time: list[float]
    centre_m: list[tuple[float, float, float]]
    yaw_rad: list[float]
    scale: list[float]
    visible: list[bool]


class ObjectEntry(Struct):
    id: int
    prototype: int
    score: float
    moving: bool
    dims_m: tuple[float, float, float]
    track: TrackEntry
    kind: str | UnsetType | None = UNSET


class SceneEntry(Sealed, kw_only=True):
    times: list[float]
    grid: GridEntry
    background: str
    prototypes: list[PrototypeEntry]
    objects: list[ObjectEntry]
    made_by: dict[str, str | int]


def entry_of_scene(scene: Scene, files: dict[str, FileEntry]) -> SceneEntry:
    """What ``scene.json`` holds, numbers rounded.

    Raises Failed where a number is not finite.
    """
    grid = scene.grid
    symmetries = list(scene.symmetries) or [None] * len(scene.prototypes)
    return SceneEntry(
        format=FORMAT,
        version=VERSION,
        times=[_exact(time, "times") for time in scene.times],
        grid=GridEntry(grid.origin, grid.voxel_size, grid.shape),
        background="background.safetensors",
        prototypes=prototype_entries(scene.sizes_m, symmetries),
        objects=[_object_entry(thing) for thing in scene.objects],
        files=files,
        made_by={"protoscene": __version__, **scene.made_by},
    )


def prototype_entries(
    sizes_m: Sequence[tuple[float, float, float]], symmetries: Sequence[Mirror | str | None]
) -> list[PrototypeEntry]:
    """A dictionary as JSON lists it. Raises Failed where a number is not finite."""
    return [
        PrototypeEntry(
            k,
            prototype_file(k),
            _rounded(size, f"prototypes[{k}].size_m"),
            _symmetry_entry(symmetry, f"prototypes[{k}].symmetry"),
        )
        for k, (size, symmetry) in enumerate(zip(sizes_m, symmetries, strict=True))
    ]


def _symmetry_entry(symmetry: Mirror | str | None, where: str) -> SymmetryEntry | str | None:
    if not isinstance(symmetry, Mirror):
        return symmetry
    plane = _rounded([*symmetry.normal, symmetry.offset_m], where)
    return SymmetryEntry(plane, _rounded([symmetry.score], where)[0])


def _object_entry(thing: SceneObject) -> ObjectEntry:
    where, track = f"object {thing.id}", thing.track
    return ObjectEntry(
        id=thing.id,
        prototype=thing.prototype,
        score=_rounded([thing.score], where)[0],
        moving=thing.moving,
        dims_m=_rounded(thing.dims_m, where),
        track=TrackEntry(
            time=[_exact(time, where) for time in track.time],
            centre_m=[_rounded(centre, where) for centre in track.centre],
            yaw_rad=list(_rounded(track.yaw, where)),
            scale=list(_rounded(track.scale, where)),
            visible=[bool(seen) for seen in track.visible],
        ),
        kind=UNSET if thing.kind is None else thing.kind,
    )


def _exact(value: Any, where: str) -> float:
    if not math.isfinite(value):
        raise Failed(f"{where}: a number is not finite, nothing was written")
    return float(value)


def _rounded(values: Any, where: str) -> Any:
    # + 0.0 turns -0.0 into 0.0
    return tuple(round(_exact(value, where), DECIMALS) + 0.0 for value in values)


def read_scene_json(folder: Path) -> SceneEntry:
    """The ``scene.json`` of a folder checked by itself: form, version, its own hash, and that
    numbers agree.

    The volumes that it names are not looked at.
    """
    entry = read_sealed(folder, SCENE_JSON, "scene", FORMAT, SceneEntry)
    _check_numbers(folder / SCENE_JSON, entry)
    return entry


def _check_numbers(file: Path, entry: SceneEntry) -> None:
    try:
        Grid(entry.grid.origin, entry.grid.voxel_size, entry.grid.shape)
    except ValueError as error:
        raise Refused(file, "grid", str(error)) from None
    _check_times(file, "times", entry.times)
    ids = {thing.id for thing in entry.objects}
    if len(ids) != len(entry.objects):
        raise Refused(file, "objects", "two objects have the same id")
    check_prototypes(file, entry.prototypes)
    for i, thing in enumerate(entry.objects):
        _check_object(file, f"objects[{i}]", thing, {p.id for p in entry.prototypes})


def check_prototypes(file: Path, entries: Sequence[PrototypeEntry]) -> None:
    """Raises Refused where two entries of a dictionary have one id, or a symmetry is none."""
    if len({p.id for p in entries}) != len(entries):
        raise Refused(file, "prototypes", "two prototypes have the same id")
    for i, prototype in enumerate(entries):
        _check_symmetry(file, f"prototypes[{i}].symmetry", prototype.symmetry)


def _check_symmetry(file: Path, field: str, symmetry: SymmetryEntry | str | None) -> None:
    if not isinstance(symmetry, SymmetryEntry):
        return
    nx, ny, _ = symmetry.plane
    if not all(map(math.isfinite, [*symmetry.plane, symmetry.score])):
        raise Refused(file, field, "holds a number that is not finite")
    if abs(math.hypot(nx, ny) - 1) > UNIT:
        problem = "plane must begin with a normal of length 1"
        raise Refused(file, field, problem, got=round(math.hypot(nx, ny), 6), expected=1)


def _check_object(file: Path, where: str, thing: ObjectEntry, prototypes: set[int]) -> None:
    if thing.prototype not in prototypes:
        raise Refused(file, f"{where}.prototype", "no prototype has this id", got=thing.prototype)
    track = thing.track
    for name in ("centre_m", "yaw_rad", "scale", "visible"):
        n = len(getattr(track, name))
        if n != len(track.time):
            problem = "must have a row for each time"
            raise Refused(file, f"{where}.track.{name}", problem, got=n, expected=len(track.time))
    if not track.time:
        raise Refused(file, f"{where}.track.time", "must hold at least one instant")
    _check_times(file, f"{where}.track.time", track.time)
    numbers = [thing.score, *thing.dims_m, *track.yaw_rad, *itertools.chain(*track.centre_m)]
    if not all(map(math.isfinite, numbers)):
        raise Refused(file, where, "holds a number that is not finite")
    if not all(math.isfinite(s) and s > 0 for s in track.scale):
        raise Refused(file, f"{where}.track.scale", "must be finite and above 0")


def _check_times(file: Path, field: str, times: list[float]) -> None:
    increases = all(a < b for a, b in itertools.pairwise(times))
    if not (increases and all(map(math.isfinite, times))):
        raise Refused(file, field, "must be finite seconds, strictly increasing")


def objects_of(entry: SceneEntry) -> Iterator[SceneObject]:
    """The objects as the scene holds them; prototype numbers become indices."""
    index = {prototype.id: i for i, prototype in enumerate(entry.prototypes)}
    for thing in entry.objects:
        track = Track(
            time=np.array(thing.track.time),
            centre=np.array(thing.track.centre_m).reshape(-1, 3),
            yaw=np.array(thing.track.yaw_rad),
            scale=np.array(thing.track.scale),
            visible=np.array(thing.track.visible, dtype=bool),
        )
        kind = None if thing.kind is UNSET else thing.kind
        yield SceneObject(
            thing.id, index[thing.prototype], thing.score, thing.moving, thing.dims_m, track, kind
        )


def symmetry_of(entry: PrototypeEntry) -> Mirror | str | None:
    """A prototype's symmetry as the scene holds it."""
    if not isinstance(entry.symmetry, SymmetryEntry):
        return entry.symmetry
    nx, ny, offset = entry.symmetry.plane
    return Mirror((nx, ny), offset, entry.symmetry.score)


def prototype_file(k: int) -> str:
    """Where the volume of prototype k is stored."""
    return f"prototypes/{k}.safetensors"
