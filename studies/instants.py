"""Single instants of several things on the ground, some touching, seen from some sides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from solids import FACING, GROUND, seen, sides, solid
from torch import Tensor

from protoscene.boxes import iou_3d
from protoscene.compose import Target
from protoscene.gains import seen_channels
from protoscene.geometry import Grid
from protoscene.matching import Instant
from protoscene.synth.things import Thing, build_thing

SIDE_M = 3.2
"""Of the scene. The ground is its lowest 5 cm."""
GROUND_M = 0.05
LEAST_SEEN = 0.05
"""Things of which a smaller share of the solid is seen surface are neither asked for nor wrong."""


@dataclass(frozen=True, eq=False)
class Scenery:
    """n scenes on one grid: what was seen of each, and the truth, a row a thing: its scene, kind,
    box (x y z length width height yaw) and whether it was seen."""

    grid: Grid
    ground: Float[np.ndarray, "4 z y x"]
    views: list[Target]
    scene: Int[np.ndarray, " m"]
    kind: Int[np.ndarray, " m"]
    boxes: Float[np.ndarray, "m 7"]
    visible: Bool[np.ndarray, " m"]

    def __len__(self) -> int:
        return len(self.views)


def things_of(seed: int, n: int, factors: Sequence[float] = (1.0,)) -> list[Thing]:
    """``n`` kinds that have a yaw, each in its own colours, in all the sizes of ``factors``."""
    random = np.random.default_rng(seed)
    kinds, colours = random.permutation(len(FACING)), random.permutation(8)
    return [
        build_thing(FACING[k], int(c), factor)
        for factor in factors
        for k, c in zip(kinds[:n], colours[:n], strict=True)
    ]


def scene_grid(resolution: int) -> Grid:
    """``resolution``³ voxels of which whole ones are ground."""
    voxel = SIDE_M / resolution
    ground = max(1, round(GROUND_M / voxel))
    return Grid((-SIDE_M / 2, -SIDE_M / 2, -ground * voxel), voxel, (resolution,) * 3)


def make_scenery(
    things: list[Thing], n: int, seed: int, resolution: int = 64, most_sides: int = 4
) -> Scenery:
    """``n`` scenes as :func:`whole_scenes` makes them, each seen from one to ``most_sides``."""
    grid = scene_grid(resolution)
    views, rows, visible = [], [], []
    drawn = whole_scenes(things, n, seed, resolution)
    for scene, (whole, pieces, random) in enumerate(drawn):
        view = seen(whole, sides(random, most_sides), random)
        views.append(Target(view.rgba, view.known))
        for piece in pieces:
            shown = (view.rgba[3] > 0) & (piece.rgba[3] > 0)
            visible.append(shown.sum() >= LEAST_SEEN * (piece.rgba[3] > 0).sum())
            rows.append((scene, piece.kind, *piece.box))
    table = np.array(rows)
    return Scenery(
        grid, _ground(grid), views, table[:, 0].astype(int), table[:, 1].astype(int),
        table[:, 2:], np.array(visible),
    )  # fmt: skip


def whole_scenes(
    things: list[Thing], n: int, seed: int, resolution: int
) -> Iterator[tuple[np.ndarray, list[Piece], np.random.Generator]]:
    """``n`` solid scenes of three or four of the things each, in random places and yaws; every
    second thing touches the one before. Things of one name are of one kind. With what goes on
    drawing."""
    random = np.random.default_rng([seed, 1])
    grid = scene_grid(resolution)
    kinds = list(dict.fromkeys(thing.kind for thing in things))
    for _ in range(n):
        placed = [
            _placed(things[i], kinds.index(things[i].kind), grid, random)
            for i in random.integers(len(things), size=int(random.integers(3, 5)))
        ]
        kept = _apart(placed, random)
        whole = _ground(grid)
        for piece in kept:
            whole = np.where(piece.rgba[3] > 0, piece.rgba, whole)
        yield whole, kept, random


def _ground(grid: Grid) -> Float[np.ndarray, "4 z y x"]:
    ground = np.zeros((4, *grid.shape), np.float32)
    below = grid.centres()[..., 2] < 0
    ground[:3, below] = np.float32(GROUND)[:, None]
    ground[3] = below
    return ground


@dataclass(frozen=True, eq=False)
class Piece:
    """A thing as voxels of a whole scene, and its box."""

    kind: int
    rgba: Float[np.ndarray, "4 z y x"]
    box: Float[np.ndarray, "7"]

    def moved(self, columns: int, lines: int, voxel: float) -> Piece:
        box = self.box.copy()
        box[:2] += (columns * voxel, lines * voxel)
        return Piece(self.kind, np.roll(self.rgba, (lines, columns), (2, 3)), box)


def _placed(thing: Thing, kind: int, grid: Grid, random: np.random.Generator) -> Piece:
    """In the middle of the scene, off by part of a voxel, at any yaw."""
    (x, y), yaw = random.uniform(-0.5, 0.5, 2) * grid.voxel_size, random.uniform(-np.pi, np.pi)
    height = thing.size_m[2]
    lowered = Grid(
        (*grid.origin[:2], grid.origin[2] - height / 2), grid.voxel_size, grid.shape
    )  # solid has the box's middle at z = 0
    box = np.array([x, y, height / 2, *thing.size_m, yaw])
    return Piece(kind, solid(thing, lowered, x, y, yaw), box)


def _apart(pieces: list[Piece], random: np.random.Generator) -> list[Piece]:
    """Anywhere without overlap; every second one after the first is moved until it touches."""
    kept: list[Piece] = []
    voxel = SIDE_M / pieces[0].rgba.shape[-1]
    room = int(1.05 / voxel)
    taken = np.zeros(pieces[0].rgba.shape[2:], dtype=bool)
    for i, piece in enumerate(pieces):
        for _ in range(50):
            shift = random.integers(-room, room + 1, 2)
            if i % 2 == 1:
                shift = _until_it_touches(piece, kept[-1], taken, random, room)
            moved = piece.moved(int(shift[0]), int(shift[1]), voxel)
            foot = (moved.rgba[3] > 0).any(axis=0)
            if not (foot & taken).any() and (np.abs(moved.box[:2]) <= 1.1).all():
                kept.append(moved)
                taken |= foot
                break
    return kept


def _until_it_touches(
    piece: Piece, other: Piece, taken: np.ndarray, random: np.random.Generator, room: int
) -> Int[np.ndarray, "2"]:
    """The shift (columns, lines) at which it comes from afar and is about to overlap."""
    angle = random.uniform(0, 2 * np.pi)
    direction = np.array([np.cos(angle), np.sin(angle)])
    voxel = SIDE_M / taken.shape[0]
    goal = (other.box[:2] - piece.box[:2]) / voxel
    foot = (piece.rgba[3] > 0).any(axis=0)
    last = np.rint(goal + direction * room).astype(int)
    for distance in range(room, 0, -1):
        shift = np.rint(goal + direction * distance).astype(int)
        if (np.roll(foot, shift[::-1], (0, 1)) & taken).any():
            break
        last = shift
    return last


def instant(
    scenery: Scenery, scene: int, predicted: Float[np.ndarray, "n 7"], first: int
) -> Instant:
    """Predicted boxes of one scene, numbered from ``first`` on, beside the true ones."""
    mine = np.flatnonzero(scenery.scene == scene)
    return Instant(
        first + np.arange(len(predicted)), mine, predicted, scenery.boxes[mine],
        scenery.visible[mine], iou_3d(predicted, scenery.boxes[mine]),
    )  # fmt: skip


def evidence(scenery: Scenery) -> Float[Tensor, "n 6 z y x"]:
    """What :mod:`protoscene.gains` takes: above the ground, to the highest layer in which anything
    was seen (an even number of layers, so that they can be halved)."""
    standing = scenery.ground[3, :, 0, 0] == 0
    rgba = torch.from_numpy(np.stack([np.asarray(v.rgba)[:, standing] for v in scenery.views]))
    known = np.stack([np.asarray(v.weight)[standing] for v in scenery.views])
    seen = seen_channels(rgba, torch.from_numpy(known).float())
    top = int(seen[:, 0].amax(dim=(0, 2, 3)).nonzero().max()) + 1
    return seen[:, :, : top + top % 2]
