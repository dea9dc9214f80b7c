"""The mirror plane of a volume, found and not assumed: what may be stored by half."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates
from scipy.optimize import minimize

from protoscene.register import Model
from protoscene.symmetry import NEAR, OTHER_COLOUR, Plane, mirror_planes
from protoscene.volume import Volume

SURFACE = 0.5
SAMPLE = 4000
"""Voxels (evenly chosen, as many to twice as many) that a plane is moved by."""
LEAST_EVIDENCE, MOST_CONFLICT = 0.7, 0.02
"""Before a half may stand for the whole, so much of the mirrored surface must lie on surface of
like colour, and no more than that in free space. Seen from two sides and more, symmetric things
have .74 and more and none in free space; the arm of a robot that has one puts .03 there."""
LEAST_KNOWN = 0.4
"""So much of the surface must have its mirror image in known space: behind what was seen any plane
agrees with everything."""


def mirror_plane(volume: Volume, known: Bool[np.ndarray, "z y x"] | None = None) -> Plane | None:
    """The vertical plane of which the volume (its frame, m) is a mirror image, or None.

    Candidates are those of :func:`symmetry.mirror_planes` for the surface at occupancy ``SURFACE``,
    each moved to where the smoothed volume differs least from its image. Evidence for a plane is
    the share of mirrored surface that lies on surface, times the likeness of the colours there; it
    has none if more than ``MOST_CONFLICT`` of it lies in free space. Where not ``known``
    (all is, if left out) nothing speaks for a plane or against it.
    """
    occupancy = volume.occupancy.detach().double().numpy()
    inside = occupancy >= SURFACE
    seen = np.ones(inside.shape, dtype=bool) if known is None else known
    voxel = volume.grid.voxel_size
    outwards, inwards = distance_transform_edt(~inside), distance_transform_edt(inside)
    surface = volume.grid.centres()[seen & inside & (inwards < 1.5)]
    if len(surface) == 0:
        return None
    distance = np.where(inside, 1 - inwards, outwards) * voxel
    colour = np.moveaxis(volume.colour.detach().double().numpy(), 0, -1)
    votes = seen.astype(np.float64)
    model = Model(volume.grid, 4 * voxel, distance, votes, colour, votes * inside)
    planes = [_refined(plane, volume, seen) for plane in mirror_planes(model, surface)]
    evident = [replace(plane, evidence=_evidence(plane, model, surface)) for plane in planes]
    best = max(evident, key=lambda plane: plane.evidence, default=None)
    return best if best is not None and best.evidence >= LEAST_EVIDENCE else None


def _evidence(plane: Plane, model: Model, surface: Float[np.ndarray, "n 3"]) -> float:
    """Mean over mirrored surface in known space of (on surface · likeness of colours); 0 where less
    than ``LEAST_KNOWN`` of it is, or too much of that in free space."""

    def look(points: np.ndarray, values: np.ndarray) -> np.ndarray:
        at = model.grid.index_from_world(points).T[::-1]
        return map_coordinates(values, np.rint(at), order=0, mode="constant", cval=np.nan)

    image = plane.mirror(surface)
    # What lies outside of the grid is known to be free.
    known = np.nan_to_num(look(image, model.votes), nan=1.0) > 0
    distance = np.nan_to_num(look(image, model.distance), nan=np.inf)
    near = NEAR * model.grid.voxel_size
    if known.mean() < LEAST_KNOWN or (distance > near)[known].mean() > MOST_CONFLICT:
        return 0.0
    on = np.abs(distance) <= near
    channels = [np.abs(look(image, c) - look(surface, c)) for c in np.moveaxis(model.colour, -1, 0)]
    alike = np.clip(1 - np.mean(channels, axis=0) / OTHER_COLOUR, 0, 1)
    return float(np.where(on, np.nan_to_num(alike), 0)[known].mean())


def _refined(plane: Plane, volume: Volume, seen: Bool[np.ndarray, "z y x"]) -> Plane:
    """The plane nearby at which Σ (premultiplied rgba − that of the mirror image)² is least."""
    grid = volume.grid
    rgba = volume.rgba.detach().double().numpy().copy()
    rgba[:3] *= rgba[3]
    smooth = gaussian_filter(rgba, (0, 1, 1, 1))
    near = seen & (smooth[3] > 0.02)
    every = slice(None, None, max(1, int(near.sum()) // SAMPLE))
    points, values = grid.centres()[near][every], smooth[:, near][:, every]

    def misfit(offset: np.ndarray) -> float:
        turned = replace(
            plane, turn=plane.turn + offset[0], shift=plane.shift + offset[1] * grid.voxel_size
        )
        at = grid.index_from_world(turned.mirror(points)).T[::-1]
        image = np.stack([map_coordinates(channel, at, order=1) for channel in smooth])
        known = map_coordinates(seen.astype(np.float32), at, order=1)
        return float((known * (image - values) ** 2).sum() / max(known.sum(), 1))

    first = np.array([[0, 0], [0.05, 0], [0, 1.0]])
    best = minimize(
        misfit, first[0], method="Nelder-Mead",
        options={"initial_simplex": first, "xatol": 1e-3, "fatol": 1e-7, "maxiter": 60},
    ).x  # fmt: skip
    turn, shift = plane.turn + best[0], plane.shift + best[1] * grid.voxel_size
    return replace(plane, turn=float(turn), shift=float(shift))
