"""What nobody saw of a kind, guessed: its other half is a mirror image, and its box is full."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.ndimage import distance_transform_edt

from protoscene.dictionary.portrait import NEAR, Portrait, look, seen_through, zero_level
from protoscene.register import Model
from protoscene.symmetry import Plane

LEFT_TO_RIGHT = Plane(1.0, np.pi / 2, 0.0)
"""Between the long sides of a thing's box: what goes nose forward mostly is alike on both."""
MOST_CONFLICT = 0.1
"""Share of the mirrored surface that may lie in free space. Of things seen from one side it is at
most .08 (a robot with one arm) where the plane is right, .15 and more where it is not."""


@dataclass(frozen=True, eq=False)
class Completed:
    """A kind's ``portrait``, in which the mirror image stands for what nobody saw, if free space
    does not forbid it; ``sides``: points on the surface of what may still be full, of which each
    stands for as much as a point of the portrait; ``full``: the model with those sides."""

    portrait: Portrait
    sides: Float[np.ndarray, "n 3"]
    full: Model


def completed(own: Portrait) -> Completed:
    """``own`` with its mirror image left to right where nobody looked, unless more than
    ``MOST_CONFLICT`` of that lies in free space; all else in its box that nobody saw is full."""
    if _conflict(own, LEFT_TO_RIGHT) <= MOST_CONFLICT:
        own = mirrored(own, LEFT_TO_RIGHT)
    return Completed(own, *_filled(own))


def _conflict(own: Portrait, plane: Plane) -> float:
    """Share of the mirrored surface that lies in space seen free."""
    near = NEAR * own.model.grid.voxel_size
    distance, known, _ = look(own.model, plane.mirror(own.points))
    on = known & (np.abs(distance) <= near)
    through = seen_through(own.model, plane.mirror(own.inside), near)
    return float((through & ~on).mean()) if len(on) else 1.0


def mirrored(own: Portrait, plane: Plane) -> Portrait:
    """``own`` with the mirror image of what was seen where nothing was."""
    model, image = own.model, plane.mirror(own.points)
    distance, known, colour = look(model, plane.mirror(model.grid.centres()))
    fill = (model.votes == 0) & known
    coloured = fill & ~np.isnan(colour[..., 0])
    both = replace(
        model,
        distance=np.where(fill, distance, model.distance),
        votes=np.where(fill, 1.0, model.votes),
        colour=np.where(coloured[..., None], colour, model.colour),
        coloured=np.where(coloured, 1.0, model.coloured),
    )
    new = ~look(model, image)[1]
    return replace(
        own,
        model=both,
        points=np.concatenate([own.points, image[new]]),
        inside=np.concatenate([own.inside, plane.mirror(own.inside[new])]),
        colours=np.concatenate([own.colours, own.colours[new]]),
    )


def _filled(own: Portrait) -> tuple[Float[np.ndarray, "n 3"], Model]:
    """(sides, full) of :class:`Completed`. Nothing is said of space beyond the sides."""
    model = own.model
    voxel, unseen = model.grid.voxel_size, model.votes == 0
    boxed = (np.abs(model.grid.centres()) <= own.dims / 2).all(axis=-1)
    solid = np.where(unseen, boxed, model.distance < 0)
    if solid.all() or not solid.any():
        return np.empty((0, 3)), model
    outwards, inwards = distance_transform_edt(~solid), distance_transform_edt(solid)
    distance = voxel * np.where(solid, 0.5 - inwards, outwards - 0.5)
    distance = distance.clip(-model.truncation, model.truncation)
    sides = zero_level(replace(model, distance=distance, coloured=unseen.astype(float)))
    every = max(1, round(2 * own.patch / voxel**2))  # voxels at both sides of the surface
    fill = unseen & (distance <= NEAR * voxel)
    full = replace(
        model,
        distance=np.where(fill, distance, model.distance),
        votes=np.where(fill, 1.0, model.votes),
    )
    return sides[::every], full
