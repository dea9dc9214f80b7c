"""A thing that was fused → a prototype: a volume centred on its box, and how big it is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from protoscene.geometry import centred_grid
from protoscene.lidar.fuse import VOXEL_M, Rigid, fuse, grid_around
from protoscene.register import Model

LEAST_ENDS = 2
"""A voxel is of the surface if so many rays ended in it."""
EDGE = 0.01
"""Share of the surface that may lie beyond the box on each side: noise."""


@dataclass(frozen=True, eq=False)
class Kind:
    """A prototype: signed distance and votes on a grid centred on its box, ``surface`` voxels
    (its mirror image where nobody saw), and ``dims`` length, width, height (m)."""

    model: Model
    surface: Bool[np.ndarray, "z y x"]
    dims: Float[np.ndarray, "3"]

    @property
    def rgba(self) -> Float[Tensor, "4 z y x"]:
        """Intensity as grey, occupancy 1 on the surface."""
        colour = np.where(self.model.coloured[..., None] > 0, self.model.colour, 0.0)
        mirrored = colour[:, ::-1]
        colour = np.where(self.model.coloured[..., None] > 0, colour, mirrored)
        rgba = np.concatenate([colour, self.surface[..., None]], axis=3)
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(rgba, 3, 0))).float().clamp(0, 1)

    @property
    def confidence(self) -> Float[Tensor, "z y x"]:
        """1 − exp(−votes / 3)."""
        return torch.from_numpy(1 - np.exp(-self.model.votes / 3)).float()

    def surface_points(self) -> Float[np.ndarray, "n 3"]:
        """Middles (own frame, m) of the surface's voxels."""
        z, y, x = np.nonzero(self.surface)
        along_x, along_y, along_z = self.model.grid.axes()
        return np.stack([along_x[x], along_y[y], along_z[z]], axis=1)


def kind_of(thing: Rigid) -> tuple[Kind, Rigid]:
    """The prototype of a registered thing, and the thing with its poses at the box's middle.

    The box is upright, from the ground to the top, along the path's direction: the smallest that
    leaves 1 % of the surface's voxels out on each side.
    """
    rough = fuse(thing, grid_around(thing))
    lower, upper = _bounds(rough)
    middle, dims = (lower + upper) / 2, upper - lower
    cos, sin = np.cos(thing.poses[:, 3]), np.sin(thing.poses[:, 3])
    poses = thing.poses.copy()
    poses[:, 0] += cos * middle[0] - sin * middle[1]
    poses[:, 1] += sin * middle[0] + cos * middle[1]
    poses[:, 2] += middle[2]
    centred = replace(thing, poses=poses)
    model = fuse(centred, centred_grid(dims, VOXEL_M, padding=2))
    seen = model.coloured >= LEAST_ENDS
    return Kind(model, seen | (seen[:, ::-1] & (model.votes == 0)), dims), centred


def _bounds(model: Model) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    z, y, x = np.nonzero(model.coloured >= LEAST_ENDS)
    if len(z) == 0:
        z, y, x = np.nonzero(model.coloured > 0)
    along_x, along_y, along_z = model.grid.axes()
    middles = np.stack([along_x[x], along_y[y], along_z[z]], axis=1)
    half = 0.5 * model.grid.voxel_size
    lower, upper = np.quantile(middles, [EDGE, 1 - EDGE], axis=0) + [[-half], [half]]
    lower[2] = 0.0  # the wheels, which are taken for ground
    return lower, upper
