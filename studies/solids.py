"""Things as solid voxels, and what is seen of them from some sides: evidence with known truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy.ndimage import binary_erosion
from scipy.spatial import ConvexHull
from torch import Tensor

from protoscene.geometry import Grid, rotation_from_yaw
from protoscene.synth.things import KINDS, Part, Thing, box, build_thing

FACING = ("car", "truck", "robot", "chair", "crate", "wedge", "corner", "lamp")
"""Eight kinds that have a yaw."""
GROUND = (0.5, 0.5, 0.45)


@dataclass(frozen=True, eq=False)
class View:
    """Partial evidence: rgba (4, z, y, x) with occupancy 1 on seen surface, and what is known."""

    rgba: Float[np.ndarray, "4 z y x"]
    known: Bool[np.ndarray, "z y x"]


def solid(
    thing: Thing, grid: Grid, x: float = 0, y: float = 0, yaw: float = 0
) -> Float[np.ndarray, "4 z y x"]:
    """The thing as voxels whose middles are in it, standing where its box's middle has z = 0."""
    own = (grid.centres().astype(np.float32) - np.float32([x, y, 0])) @ rotation_from_yaw(
        yaw
    ).astype(np.float32)
    rgba = np.zeros((4, *grid.shape), np.float32)
    for part in thing.parts:
        inside = _inside(part, own - np.float32(part.centre))
        rgba[:3, inside] = np.float32(part.colour)[:, None]
        rgba[3, inside] = 1
    return rgba


def _inside(part: Part, points: Float[np.ndarray, "*n 3"]) -> Bool[np.ndarray, "*n"]:
    half = np.float32(part.half)
    inside: np.ndarray = (np.abs(points) <= half).all(axis=-1)
    if part.shape == "ball":
        inside &= ((points / half) ** 2).sum(axis=-1) <= 1
    if part.shape == "cylinder":
        across = [axis for axis in range(3) if axis != part.axis]
        inside &= ((points[..., across] / half[across]) ** 2).sum(axis=-1) <= 1
    if part.shape == "mesh":  # all of them are convex
        planes = ConvexHull(part.vertices).equations.astype(np.float32)
        for plane in np.unique(planes.round(5), axis=0):
            inside &= points @ plane[:3] + plane[3] <= 1e-4
    return inside


def seen(
    rgba: Float[np.ndarray, "4 z y x"],
    azimuths: Sequence[float],
    random: np.random.Generator,
    elevation: float = np.deg2rad(30),
    missing: float = 0.1,
    noise: float = 0.03,
) -> View:
    """What orthographic cameras at ``azimuths`` (rad) see of a solid: its nearest voxels are
    occupied, what lies before them is free. ``missing`` of all voxels is unknown all the same, and
    colours are off by ``noise``."""
    shape, occupied = rgba.shape[1:], rgba[3] > 0
    surface = np.zeros(shape, dtype=bool)
    free = np.zeros(shape, dtype=bool)
    # Only voxels with a face in the open can be seen; eighths of them leave no gaps.
    shell = np.argwhere(occupied & ~binary_erosion(occupied)).astype(np.float32)
    eighths = np.float32(np.stack(np.meshgrid(*[(-0.25, 0.25)] * 3), -1).reshape(-1, 3))
    points = (shell[:, None] + eighths).reshape(-1, 3)
    zyx = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).astype(np.float32)
    for azimuth in azimuths:
        matrix = _camera(azimuth, elevation)
        pixels, depth = _projected(points, matrix, shape)
        nearest = np.full(pixels.max() + 1 if len(pixels) else 1, np.inf, np.float32)
        np.minimum.at(nearest, pixels, depth)
        pixels, depth = _projected(zyx.reshape(-1, 3), matrix, shape)
        wall = np.full(len(depth), np.inf, np.float32)
        there = pixels < len(nearest)
        wall[there] = nearest[pixels[there]]
        surface |= occupied & (depth <= wall + 1.2).reshape(shape)
        free |= ~occupied & (depth < wall - 0.7).reshape(shape)
    known = (surface | free) & (random.random(shape, np.float32) >= missing)
    shown = np.zeros_like(rgba)
    shown[3] = surface & known
    colour = rgba[:3] + noise * random.standard_normal((3, *shape), np.float32)
    shown[:3] = colour.clip(0, 1) * shown[3]
    return View(shown, known)


def _camera(azimuth: float, elevation: float) -> Float[np.ndarray, "3 3"]:
    """Rows: right, up and depth (away from the camera) in z y x."""
    towards = np.array(
        [
            np.sin(elevation),
            np.cos(elevation) * np.sin(azimuth),
            np.cos(elevation) * np.cos(azimuth),
        ]
    )
    right = np.array([0, np.cos(azimuth), -np.sin(azimuth)])
    return np.stack([right, np.cross(towards, right), -towards]).astype(np.float32)


def _projected(
    zyx: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Pixel number (pixels as large as voxels) and depth (voxels) of indices."""
    n = int(2 * np.linalg.norm(shape)) + 2
    right, up, depth = ((zyx - np.float32(shape) / 2) @ matrix.T).T
    pixel = (np.floor(up).astype(np.int64) + n // 2) * n + np.floor(right).astype(np.int64) + n // 2
    return pixel, depth


def with_ground(rgba: Float[np.ndarray, "4 z y x"]) -> Float[np.ndarray, "4 z y x"]:
    """The same on a ground that fills the lowest layer."""
    result = rgba.copy()
    result[:3, 0] = np.float32(GROUND)[:, None, None]
    result[3, 0] = 1
    return result


def sides(random: np.random.Generator, most: int = 4) -> list[float]:
    """One to ``most`` azimuths, evenly around from a random one."""
    n = int(random.integers(1, most + 1))
    return [float(a) for a in random.uniform(0, 2 * np.pi) + np.arange(n) * 2 * np.pi / n]


Draw = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]
"""A scene as it looks one time, (4, z, y, x), and which voxels do not belong to it."""


def cube(size: int, side_m: float = 1.1) -> Grid:
    """``size``³ voxels around the origin."""
    return Grid((-side_m / 2,) * 3, side_m / size, (size,) * 3)


def things_on_the_ground(n: int, size: int, random: np.random.Generator) -> list[Draw]:
    """``n`` scenes of one thing each, always the same; kinds first, then colours differ."""
    grid, scenes = cube(size), []
    order = random.permutation(len(FACING))
    for i in range(n):
        kind = FACING[order[i % len(FACING)]]
        thing = build_thing(kind, int(random.integers(8)) + i // len(FACING), 0.95)
        scenes.append(partial(_again, with_ground(solid(thing, grid))))
    return scenes


def furnished_rooms(n: int, size: int, random: np.random.Generator) -> list[Draw]:
    """``n`` rooms with a wall or two and blocks; somebody else stands in them every time."""
    grid, scenes = cube(size), []
    for _ in range(n):
        parts = [
            box((0, side * 0.5, 0), (1.1, 0.1, random.uniform(0.3, 0.9)), _colour(random))
            for side in random.permutation([-1, 1])[: random.integers(1, 3)]
        ]
        for _ in range(3):
            x, y = random.uniform(-0.45, 0.45, 2)
            width, depth, height = random.uniform((0.12, 0.12, 0.2), (0.35, 0.35, 0.9))
            parts.append(box((x, y, height / 2 - 0.5), (width, depth, height), _colour(random)))
        room = Thing("room", tuple(parts), (1.1, 1.1, 1.1), None)
        scenes.append(partial(_visited, with_ground(solid(room, grid)), grid))
    return scenes


def _colour(random: np.random.Generator) -> tuple[float, float, float]:
    r, g, b = random.uniform(0.1, 0.9, 3).tolist()
    return (r, g, b)


def _again(rgba: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rgba, np.zeros(rgba.shape[1:], dtype=bool)


def _visited(
    room: np.ndarray, grid: Grid, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The room with somebody in it; two thirds of him are recognised as not of the room."""
    thing = build_thing(str(random.choice(KINDS)), int(random.integers(8)), 0.45)
    visitor = solid(thing, grid, *random.uniform(-0.3, 0.3, 2), random.uniform(0, 2 * np.pi))
    visitor = np.roll(visitor, -int(0.25 * grid.shape[0]), axis=1)
    there = visitor[3] > 0
    return np.where(there, visitor, room), there & (random.random(there.shape) < 2 / 3)


def from_above(rgba: Tensor) -> UInt8[np.ndarray, "h w 3"]:
    """A (4, z, y, x) volume seen from above on white, with a white frame."""
    picture = np.ones((*rgba.shape[2:], 3), np.float32)
    for layer in np.moveaxis(rgba.detach().numpy(), 1, 0):
        share = layer[3, ..., None]
        picture = share * np.moveaxis(layer[:3], 0, -1) + (1 - share) * picture
    framed = np.pad(picture[::-1], ((1, 1), (1, 1), (0, 0)), constant_values=1)
    return (255 * framed.clip(0, 1)).astype(np.uint8)
