"""What nobody saw of a thing: round parts go all the way round, the other half is a mirror image.

Both are believed only as far as no free space contradicts them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import maximum_filter

from protoscene.register import Model

SAMPLE = 400
"""Surface points that a plane is tried with."""
TURN_STEP, SHIFT_STEP = np.deg2rad(3), 1.5
"""Raster of planes: turn (rad) and shift (voxels)."""
NEAR = 1.5
"""So many voxels from a surface count as on it, and as before it beyond that."""
OTHER_COLOUR = 0.25
"""Mean difference of channels at which two colours have nothing in common."""
CONFLICT = 2.0
"""What a mirrored point in free space counts against one that lies on seen surface."""
LEAST_EVIDENCE, PLANES = 0.2, 3
"""Least evidence of a plane: any plane behind what was seen mirrors it into the unknown. And how
many are kept."""
ARC_DEG, ON_ARC, FREE_OF_ARC = 100, 0.75, 0.12
"""A section is round if ``ON_ARC`` of its points are on an arc of at least this many degrees, and
no more than ``FREE_OF_ARC`` of the whole circle lies in free space."""
SECTIONS = 3
"""So many sections are round if any is: one alone is chance."""
TRIES = 60


@dataclass(frozen=True)
class Plane:
    """The vertical plane x cos ``turn`` + y sin ``turn`` = ``shift`` (own frame; rad, m), and the
    evidence for it, at most 1."""

    evidence: float
    turn: float
    shift: float

    def mirror(self, points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        """The mirror images of own-frame points."""
        return _mirrored(points, self.turn, np.array(self.shift))


def _mirrored(points: np.ndarray, turn: float, shift: np.ndarray) -> np.ndarray:
    normal = np.array([np.cos(turn), np.sin(turn), 0.0])
    return points - 2 * (points @ normal - shift)[..., None] * normal


def unseen_half(
    model: Model, points: Float[np.ndarray, "n 3"], plane: Plane
) -> Float[np.ndarray, "m 3"]:
    """The mirror images of ``points`` that lie where nobody saw anything."""
    mirrored = plane.mirror(points)
    free, on, _ = _look(model, mirrored)
    return mirrored[~free & ~on]


def mirror_planes(model: Model, points: Float[np.ndarray, "n 3"]) -> list[Plane]:
    """The planes of which most speaks for it, best first: local maxima over turn and shift of

        mean (on seen surface · likeness of colours) − CONFLICT · share in free space

    of the mirror images of the surface ``points``, of at least ``LEAST_EVIDENCE``."""
    voxel = model.grid.voxel_size
    sample = points[:: max(1, len(points) // SAMPLE)]
    lower, upper = sample[:, :2].min(axis=0), sample[:, :2].max(axis=0)
    sample = sample - np.array([*(lower + upper) / 2, 0])
    offset = np.array([*(lower + upper) / 2, 0])
    colours = _look(model, sample + offset)[2]

    def evidence(turn: float, shifts: np.ndarray) -> np.ndarray:
        mirrored = _mirrored(sample[None], turn, shifts[:, None]) + offset
        free, on, theirs = _look(model, mirrored)
        alike = np.clip(1 - np.abs(theirs - colours).mean(axis=-1) / OTHER_COLOUR, 0, 1)
        return np.asarray((on * alike).mean(axis=1) - CONFLICT * free.mean(axis=1))

    n = int(0.6 * np.linalg.norm(upper - lower) / (SHIFT_STEP * voxel)) + 1
    shifts = np.arange(-n, n + 1) * SHIFT_STEP * voxel
    turns = np.arange(0, np.pi - 1e-6, TURN_STEP)
    raster = np.stack([evidence(turn, shifts) for turn in turns])
    # Half a turn on, the same planes come again with the shift reversed.
    around = np.concatenate([raster, raster[:, ::-1]])
    peak = (around >= maximum_filter(around, (7, 5), mode="wrap"))[: len(turns)]
    found = []
    for i, j in np.argwhere(peak & (raster > LEAST_EVIDENCE - 0.15)):
        best, turn, shift = raster[i, j], turns[i], shifts[j]
        step, slide = TURN_STEP / 2, SHIFT_STEP * voxel / 2
        while step > TURN_STEP / 10:
            near = turn + step * np.array([-1, 0, 1])
            beside = shift + slide * np.array([-1, 0, 1])
            values = np.stack([evidence(t, beside) for t in near])
            a, d = np.unravel_index(values.argmax(), values.shape)
            if values[a, d] > best:
                best, turn, shift = values[a, d], near[a], beside[d]
            else:
                step, slide = step / 2, slide / 2
        shift = shift + offset @ np.array([np.cos(turn), np.sin(turn), 0])
        found.append(Plane(float(best), float(turn), float(shift)))
    good = [plane for plane in found if plane.evidence >= LEAST_EVIDENCE]
    return sorted(good, key=lambda plane: -plane.evidence)[:PLANES]


def _look(
    model: Model, points: Float[np.ndarray, "*n 3"]
) -> tuple[Bool[np.ndarray, "*n"], Bool[np.ndarray, "*n"], Float[np.ndarray, "*n 3"]]:
    """Whether own-frame points lie in space seen free (outside of the grid everything is), whether
    on seen surface, and the colour there (far from any other where none was seen)."""
    index = np.floor(model.grid.voxel_from_world(points)).astype(int)[..., ::-1]
    inside = ((index >= 0) & (index < model.grid.shape)).all(axis=-1)
    at = tuple(np.moveaxis(index.clip(0, np.array(model.grid.shape) - 1), -1, 0))
    known, distance = inside & (model.votes[at] > 0), model.distance[at]
    near = NEAR * model.grid.voxel_size
    on = known & (np.abs(distance) <= near)
    colour = np.where((model.coloured[at] > 0)[..., None], model.colour[at], 9.0)
    return ~inside | (known & (distance > near)), on, colour


def round_parts(model: Model, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "m 3"]:
    """Points all around the circles that the level sections of upright surface ``points`` are parts
    of, without those in free space; none unless ``SECTIONS`` sections or more are round."""
    voxel, rng = model.grid.voxel_size, np.random.default_rng(0)
    gradient = np.stack(np.gradient(model.distance), axis=-1)
    index = np.floor(model.grid.voxel_from_world(points)).astype(int)[:, ::-1]
    normal = gradient[tuple(index.clip(0, np.array(model.grid.shape) - 1).T)]
    upright = np.abs(normal[:, 0]) < 0.6 * np.linalg.norm(normal, axis=1)
    section = np.floor((points[:, 2] - points[:, 2].min()) / (2 * voxel)).astype(int)
    widest = 0.6 * float(np.linalg.norm(np.ptp(points[:, :2], axis=0)))
    around = np.arange(72) * (np.pi / 36)
    circles = []
    for k in range(section.max() + 1):
        part = points[(section == k) & upright]
        circle = _circle(part[:, :2], voxel, widest, rng) if len(part) >= 15 else None
        if circle is None:
            continue
        middle, radius = circle
        ring = np.empty((72, 3))
        ring[:, :2] = middle + radius * np.stack([np.cos(around), np.sin(around)], axis=1)
        ring[:, 2] = np.median(part[:, 2])
        free = _look(model, ring)[0]
        if free.mean() <= FREE_OF_ARC:
            circles.append(ring[~free])
    return np.concatenate(circles) if len(circles) >= SECTIONS else np.empty((0, 3))


def _circle(
    points: Float[np.ndarray, "n 2"], near: float, widest: float, rng: np.random.Generator
) -> tuple[np.ndarray, float] | None:
    """(middle, radius) of the circle that most of the points lie on, if enough do and reach around
    it: the best of ``TRIES`` through three points, fitted to what is ``near`` it."""
    on = np.zeros(len(points), dtype=bool)
    for _ in range(TRIES):
        middle, radius = _fitted(points[rng.choice(len(points), 3, replace=False)])
        if 3 * near < radius < widest:
            hit = np.abs(np.linalg.norm(points - middle, axis=1) - radius) < near
            on = hit if hit.sum() > on.sum() else on
    for _ in range(3):
        if on.sum() < 6:
            return None
        middle, radius = _fitted(points[on])
        on = np.abs(np.linalg.norm(points - middle, axis=1) - radius) < near
    angle = np.degrees(np.arctan2(*(points[on] - middle).T[::-1])) % 360
    reaches = 10 * len(np.unique(angle // 10)) >= ARC_DEG
    return (middle, radius) if reaches and radius < widest and on.mean() >= ON_ARC else None


def _fitted(points: Float[np.ndarray, "n 2"]) -> tuple[np.ndarray, float]:
    """(middle, radius) of the circle of least squares: x² + y² = 2 x a + 2 y b + c."""
    rows = np.column_stack([2 * points, np.ones(len(points))])
    a, b, c = np.linalg.lstsq(rows, (points**2).sum(axis=1), rcond=None)[0]
    return np.array([a, b]), float(np.sqrt(max(c + a**2 + b**2, 0)))
