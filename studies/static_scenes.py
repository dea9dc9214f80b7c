"""Static rooms with repeated things as voxels whose truth is known: what is solid and which thing.

The layouts are those of ``protoscene synth`` with nothing that moves, so that a study and a
recording of one seed show the same room; nothing is rendered here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8
from solids import solid

from protoscene.geometry import Grid
from protoscene.synth.layout import Actor, make_layout
from protoscene.synth.settings import SynthSettings
from protoscene.synth.things import Thing

SIDE_M = 5.12
"""Of the cube that is a room: 2 cm voxels at 256³, 16 cm cells at 32³."""
BELOW_M = 0.32
"""How much of the cube lies below the ground, all of it solid."""
GROUND = ((0.46, 0.45, 0.42), (0.53, 0.51, 0.48))
"""Two greys of tiles of half a metre."""
KINDS = ("car", "robot", "chair", "crate", "barrel", "bench")
SCHEMES = (0, 1, 3, 2, 4, 5)
"""Things of a kind look alike in all rooms; where they stand and which way they face differs."""


@dataclass(frozen=True, eq=False)
class Room:
    """``rgba`` (4, z, y, x), occupancy 0 or 1; ``thing`` is 0 for nothing and for what is ground or
    clutter, else 1 + the number of the thing; ``kinds`` of the things; the cube's ``grid``."""

    rgba: Float[np.ndarray, "4 z y x"]
    thing: Int[np.ndarray, "z y x"]
    kinds: tuple[str, ...]
    grid: Grid


def room_settings(
    seed: int, n_things: int = 8, kinds: Sequence[str] = KINDS, min_gap: float = 0.15
) -> SynthSettings:
    """A room of ``n_things`` of ``kinds``, none of which moves."""
    schemes = tuple(SCHEMES[KINDS.index(kind)] for kind in kinds)
    return SynthSettings(
        seed=seed,
        n_instants=2,
        n_moving=0,
        n_parked=n_things,
        kinds=tuple(kinds),
        schemes=schemes,
        min_gap=min_gap,
    )


def cube(size: int) -> Grid:
    """``size``³ voxels of a room."""
    return Grid((-SIDE_M / 2, -SIDE_M / 2, -BELOW_M), SIDE_M / size, (size,) * 3)


def room(settings: SynthSettings, size: int) -> Room:
    """The room of ``settings`` at ``size``³ voxels, every voxel by whether its middle is inside."""
    return room_on(settings, cube(size))


def room_on(settings: SynthSettings, grid: Grid) -> Room:
    """The same on any grid."""
    layout = make_layout(settings)
    rgba = np.zeros((4, *grid.shape), np.float32)
    thing = np.zeros(grid.shape, np.int32)
    _ground(rgba, grid)
    for part in layout.clutter:
        half = np.array(part.half)
        place = Thing("clutter", (part,), tuple(2 * half), None)
        _paste(rgba, thing, grid, place, np.array(part.centre), half, 0, np.zeros(3), 0.0)
    for number, actor in enumerate(layout.actors):
        _stand(rgba, thing, grid, actor, 1 + number)
    return Room(rgba, thing, tuple(actor.thing.kind for actor in layout.actors), grid)


def _ground(rgba: np.ndarray, grid: Grid) -> None:
    x, y, z = grid.axes()
    layers = int((z < 0).sum())
    tiles = (np.floor(2 * y)[:, None] + np.floor(2 * x)[None]).astype(int) % 2
    rgba[:3, :layers] = np.moveaxis(np.float32(GROUND)[tiles], -1, 0)[:, None]
    rgba[3, :layers] = 1


def _stand(rgba: np.ndarray, thing: np.ndarray, grid: Grid, actor: Actor, number: int) -> None:
    x, y, yaw = actor.poses[0]
    length, width, height = actor.thing.size_m
    reach = np.hypot(length, width) / 2
    middle = np.array([x, y, height / 2])
    half = np.array([reach, reach, height / 2])
    _paste(rgba, thing, grid, actor.thing, middle, half, number, middle, float(yaw))


def _paste(
    rgba: np.ndarray,
    thing: np.ndarray,
    grid: Grid,
    what: Thing,
    middle: np.ndarray,
    half: np.ndarray,
    number: int,
    origin: np.ndarray,
    yaw: float,
) -> None:
    """Only the voxels around the thing are asked whether they are in it."""
    first = np.floor((middle - half - grid.origin) / grid.voxel_size).astype(int).clip(0)
    last = np.ceil((middle + half - grid.origin) / grid.voxel_size).astype(int)
    last = np.minimum(last, grid.shape[::-1])
    shape = tuple(int(n) for n in (last - first)[::-1])
    if min(shape) <= 0:
        return
    corner = np.array(grid.origin) + first * grid.voxel_size - [0, 0, origin[2]]
    local = solid(
        what, Grid(tuple(corner.tolist()), grid.voxel_size, shape), *origin[:2].tolist(), yaw
    )
    x, y, z = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    inside = local[3] > 0
    rgba[:, z, y, x][:, inside] = local[:, inside]
    thing[z, y, x][inside] = number


def seen_from_above(rgba: Float[np.ndarray, "4 z y x"]) -> UInt8[np.ndarray, "h w 3"]:
    """The highest solid voxel of each column, north up; white where there is none."""
    solid_from_top = rgba[3, ::-1] > 0.5
    top = solid_from_top.argmax(axis=0)
    colour = np.take_along_axis(rgba[:3, ::-1], top[None, None], axis=1)[:, 0]
    colour = np.where(solid_from_top.any(axis=0), colour, 1)
    return (255 * np.moveaxis(colour, 0, -1)[::-1].clip(0, 1)).astype(np.uint8)
