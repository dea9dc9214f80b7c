"""A volume as a mesh: the faces between occupied voxels and empty ones."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8

from protoscene.geometry import Grid
from protoscene.volume import Background, Volume

OCCUPIED = 0.5
"""Occupancy from which a voxel is drawn."""


def visible_faces(
    volume: Volume, closed: bool
) -> tuple[Float[np.ndarray, "n 4 3"], UInt8[np.ndarray, "n 3"]]:
    """Corners (m, counter-clockwise seen from outside) and colours of the faces that show.

    A face shows where an occupied voxel meets an empty one. Where a volume is not ``closed``, its
    outermost faces are left out, so that one can look into a room cut off by its grid.
    """
    occupied = volume.occupancy.detach().cpu().numpy() >= OCCUPIED
    rgb = volume.colour.detach().cpu().clamp(0, 1).numpy()
    padded = np.pad(occupied, 1, constant_values=not closed)
    corners, colours = [], []
    for axis in range(3):  # of x y z; the array's axes run the other way
        b, c = np.eye(3)[(axis + 1) % 3], np.eye(3)[(axis + 2) % 3]
        square = np.array([0 * b, b, b + c, c])
        for side in (0, 1):
            window = [slice(1, -1)] * 3
            window[2 - axis] = slice(2, None) if side else slice(None, -2)
            z, y, x = np.nonzero(occupied & ~padded[tuple(window)])
            ring = (square if side else square[::-1]) + side * np.eye(3)[axis]
            corners.append(np.stack([x, y, z], axis=-1)[:, None, :] + ring)
            colours.append(np.rint(255 * rgb[:, z, y, x].T).astype(np.uint8))
    return volume.grid.world_from_voxel(np.concatenate(corners)), np.concatenate(colours)


def background_faces(
    background: Background,
) -> tuple[Float[np.ndarray, "n 4 3"], UInt8[np.ndarray, "n 3"]]:
    """The faces of a background, as of a volume that is not closed: those of its detail in the
    place of the coarse voxels for which it stands. What lies outside of its grid has none."""
    corners, colours = visible_faces(background.volume, closed=False)
    outward = np.cross(corners[:, 1] - corners[:, 0], corners[:, 3] - corners[:, 0])
    voxels = corners.mean(axis=1) - outward / (2 * background.volume.grid.voxel_size)
    for part in background.detail:
        inside = ((voxels > part.grid.lower) & (voxels < part.grid.upper)).all(axis=1)
        corners, colours, voxels = corners[~inside], colours[~inside], voxels[~inside]
    meshes = [visible_faces(part, closed=False) for part in background.detail]
    return (
        np.concatenate([corners, *(mesh[0] for mesh in meshes)]),
        np.concatenate([colours, *(mesh[1] for mesh in meshes)]),
    )


def welded(
    corners: Float[np.ndarray, "n 4 3"], values: Shaped[np.ndarray, "n c"]
) -> tuple[Float[np.ndarray, "m 3"], Float[np.ndarray, "m c"], Int[np.ndarray, "n 4"]]:
    """Faces with common vertices: their places (m), there the mean of the values of all faces that
    meet, and each face's four vertices."""
    if len(corners) == 0:
        return np.zeros((0, 3)), np.zeros((0, values.shape[1])), np.zeros((0, 4), dtype=np.int64)
    points = corners.reshape(-1, 3)
    low, high = points.min(axis=0), points.max(axis=0)
    steps = np.rint((points - low) / max(float((high - low).max()), 1e-9) * (2**20 - 1))
    key = steps.astype(np.int64) @ np.array([2**40, 2**20, 1])
    _, first, vertex = np.unique(key, return_index=True, return_inverse=True)
    count = np.bincount(vertex)
    means = [np.bincount(vertex, np.repeat(column, 4)) / count for column in values.T]
    return points[first], np.stack(means, axis=1), vertex.reshape(-1, 4)


def at_most(volume: Volume, n_faces: int) -> Volume:
    """``volume``, its voxels doubled until at most ``n_faces`` faces show."""
    while volume.grid.n_voxels > 1 and len(visible_faces(volume, closed=False)[0]) > n_faces:
        volume = halved(volume)
    return volume


def halved(volume: Volume) -> Volume:
    """Voxels of twice the size: largest occupancy, colours weighted by occupancy."""
    grid = volume.grid
    padding = [n for count in reversed(grid.shape) for n in (0, count % 2)]
    rgba = torch.nn.functional.pad(volume.rgba.detach().float(), padding)
    occupancy = rgba[-1:]
    weight = torch.nn.functional.avg_pool3d(occupancy, 2)
    colour = torch.nn.functional.avg_pool3d(rgba[:-1] * occupancy, 2) / weight.clamp(min=1e-6)
    largest = torch.nn.functional.max_pool3d(occupancy, 2)
    shape = (int(weight.shape[1]), int(weight.shape[2]), int(weight.shape[3]))
    return Volume(torch.cat([colour, largest]), Grid(grid.origin, 2 * grid.voxel_size, shape))
