"""What is known of a thing's surface, colours and free space around, and how well two agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from protoscene.crops import Crops
from protoscene.geometry import Grid, rotation_from_yaw
from protoscene.register import Fusion, Model
from protoscene.shape import surface_points

VOXELS = 32
"""Voxels along a thing's longest side."""
AROUND, ABOVE = 0.35, 0.15
"""How far beyond its box (shares of its diagonal and its height) a thing's portrait reaches."""
POINTS = 800
"""Surface points that stand for a thing."""
NEAR = 1.5
"""So many voxels from a surface count as on it, and as before it beyond that."""
STEEP = 0.6, 2.5
"""By so many voxels a distance grows over two along a surface's normal: at least, and at most, as
it jumps at outlines."""


@dataclass(frozen=True, eq=False)
class Portrait:
    """``model`` in the thing's own frame (origin at the middle of its box of ``dims``), of which
    only what was seen is known; ``points`` on its surface with their ``colours`` (NaN where none
    was seen), each standing for ``patch`` square metres; ``inside``: right below each, where a ray
    that only grazes the surface does not get."""

    dims: Float[np.ndarray, "3"]
    model: Model
    points: Float[np.ndarray, "n 3"]
    inside: Float[np.ndarray, "n 3"]
    colours: Float[np.ndarray, "n 3"]
    patch: float

    @property
    def bottom(self) -> float:
        return -float(self.dims[2]) / 2

    @property
    def outward(self) -> Float[np.ndarray, "n 3"]:
        """Unit normals of the surface at ``points``."""
        up = self.points - self.inside
        return np.asarray(up / (np.linalg.norm(up, axis=1, keepdims=True) + 1e-9))


def portrait(
    crops: Crops,
    poses: Float[np.ndarray, "i 4"],
    chosen: Bool[np.ndarray, " i"],
    dims: Float[np.ndarray, "3"],
) -> Portrait:
    """Fused from the ``chosen`` instants of a thing's pictures at their ``poses`` x y z yaw."""
    voxel = max(float(dims.max()) / VOXELS, 0.6 * crops.pixel_size)
    model = Fusion(crops, around(dims, voxel), max(4 * voxel, 0.03)).add(poses, chosen).model()
    return of_model(model, dims, surface_points(model))


def portrait_at(
    pictures: Crops, pose: Float[np.ndarray, "4"], dims: Float[np.ndarray, "3"], voxel: float
) -> Portrait:
    """What ``pictures`` of what stays show around a box of ``dims`` at ``pose`` x y z yaw, with all
    surface there is."""
    fusion = Fusion(pictures, around(dims, voxel), max(4 * voxel, 0.03))
    model = fusion.add(pose[None], np.ones(1, dtype=bool)).model()
    return of_model(model, dims, zero_level(model))


def zero_level(model: Model) -> Float[np.ndarray, "n 3"]:
    """Own-frame points on the surface: coloured voxels near it, moved onto it."""
    voxel = model.grid.voxel_size
    gradient = np.stack(np.gradient(model.distance, voxel), axis=-1)[..., ::-1]
    steep = np.linalg.norm(gradient, axis=-1)
    near = (np.abs(model.distance) < voxel) & (steep > 0.3) & (model.coloured > 0)
    step = (model.distance[near] / steep[near] ** 2)[:, None] * gradient[near]
    return model.grid.centres()[near] - step


def around(dims: Float[np.ndarray, "3"], voxel: float) -> Grid:
    """The grid of a portrait of a thing of ``dims``, in the thing's own frame (m)."""
    beyond = AROUND * float(np.hypot(dims[0], dims[1]))
    lower = -dims / 2 - [beyond, beyond, 2 * voxel]
    upper = dims / 2 + [beyond, beyond, ABOVE * dims[2] + 2 * voxel]
    counts = np.ceil((upper - lower) / voxel).astype(int)
    x, y, z = (float(v) for v in lower)
    return Grid((x, y, z), voxel, (int(counts[2]), int(counts[1]), int(counts[0])))


def of_model(
    model: Model, dims: Float[np.ndarray, "3"], points: Float[np.ndarray, "n 3"]
) -> Portrait:
    """The portrait that a model is, of the ``points`` on its surface."""
    voxel = model.grid.voxel_size
    area = len(points) * voxel**2 / 2  # voxels at both sides of the surface
    points = points[:: max(1, len(points) // POINTS)]
    gradient = np.stack(np.gradient(model.distance), axis=-1)[..., ::-1]
    index = np.floor(model.grid.voxel_from_world(points)).astype(int)[:, ::-1]
    outward = gradient[tuple(index.clip(0, np.array(model.grid.shape) - 1).T)]
    outward /= np.linalg.norm(outward, axis=1, keepdims=True) + 1e-9
    inside = points - NEAR * voxel * outward
    return Portrait(dims, model, points, inside, look(model, points)[2], area / max(len(points), 1))


def look(
    model: Model, points: Float[np.ndarray, "*n 3"]
) -> tuple[Float[np.ndarray, "*n"], Bool[np.ndarray, "*n"], Float[np.ndarray, "*n 3"]]:
    """(signed distance, whether it is known, colour or NaN) at own-frame points, of the voxels they
    lie in; nothing is known beyond the model's grid."""
    index = np.floor(model.grid.voxel_from_world(points)).astype(int)[..., ::-1]
    inside = ((index >= 0) & (index < model.grid.shape)).all(axis=-1)
    at = tuple(np.moveaxis(index.clip(0, np.array(model.grid.shape) - 1), -1, 0))
    known = inside & (model.votes[at] > 0)
    colour = np.where((known & (model.coloured[at] > 0))[..., None], model.colour[at], np.nan)
    return model.distance[at], known, colour


def seen_through(
    model: Model, points: Float[np.ndarray, "*n 3"], near: float
) -> Bool[np.ndarray, "*n"]:
    """Whether points lie in space seen free, more than ``near`` (m) before any surface."""
    distance, known, _ = look(model, points)
    return np.asarray(known & (distance > near))


def facing(
    model: Model, points: Float[np.ndarray, "n 3"], outward: Float[np.ndarray, "n 3"]
) -> Bool[np.ndarray, " n"]:
    """Whether the model's distance grows along the ``outward`` normals of own-frame points, so that
    it was seen there from the same side: the two sides of a board are two surfaces."""
    voxel = model.grid.voxel_size
    before, below = (look(model, points + s * voxel * outward)[0] for s in (1, -1))
    grown = (before - below) / voxel
    return np.asarray((grown > STEEP[0]) & (grown < STEEP[1]))


@dataclass(frozen=True)
class Agreement:
    """Of two portraits placed on each other: square metres of each one's surface that lie ``on``
    the other's, and in space that the other saw ``free``; the ``smaller`` surface of the two; the
    mean ``colour`` distance (root of the mean square of channels, 1 if nothing can be compared)."""

    on: tuple[float, float]
    free: tuple[float, float]
    smaller: float
    colour: float


def agreement(a: Portrait, b: Portrait, pose: Float[np.ndarray, "4"]) -> Agreement:
    """How ``b``, placed at ``pose`` x y z yaw in the frame of ``a``, agrees with it."""
    near = NEAR * max(a.model.grid.voxel_size, b.model.grid.voxel_size)
    on, free, differences = [], [], []
    turn = rotation_from_yaw(pose[3])
    for one, points, inside, other in (
        (b, b.points @ turn.T + pose[:3], b.inside @ turn.T + pose[:3], a),
        (a, unplaced(a.points, pose), unplaced(a.inside, pose), b),
    ):
        distance, known, colour = look(other.model, points)
        through = seen_through(other.model, inside, near)
        matched = known & (np.abs(distance) <= near)
        on.append(one.patch * float(matched.sum()))
        free.append(one.patch * float((through & ~matched).sum()))
        off = np.sqrt(((colour - one.colours)[matched] ** 2).mean(axis=1))
        differences.append(off[~np.isnan(off)])
    compared = np.concatenate(differences)
    smaller = min(p.patch * len(p.points) for p in (a, b))
    return Agreement(
        (on[0], on[1]),
        (free[0], free[1]),
        smaller,
        float(compared.mean()) if len(compared) else 1.0,
    )


def inverse(pose: Float[np.ndarray, "4"]) -> Float[np.ndarray, "4"]:
    """The pose x y z yaw of the first frame in the second, of that of the second in the first."""
    return np.array([*(-pose[:3] @ rotation_from_yaw(pose[3])), -pose[3]])


def placed(
    poses: Float[np.ndarray, "*n 4"], pose: Float[np.ndarray, "4"]
) -> Float[np.ndarray, "*n 4"]:
    """World poses of a frame that stands at ``pose`` in a frame with these world ``poses``."""
    shift = np.einsum("...ij,j->...i", rotation_from_yaw(poses[..., 3]), pose[:3])
    return np.concatenate([poses[..., :3] + shift, (poses[..., 3] + pose[3])[..., None]], axis=-1)


def unplaced(
    points: Float[np.ndarray, "*n 3"], pose: Float[np.ndarray, "4"]
) -> Float[np.ndarray, "*n 3"]:
    """Points in the frame that stands at ``pose`` in theirs."""
    return (points - pose[:3]) @ rotation_from_yaw(pose[3])
