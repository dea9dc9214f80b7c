"""Where, and turned how, one piece of space may lie in another: FFT over x and y, yaw by yaw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from protoscene.dictionary.portrait import NEAR, look
from protoscene.geometry import Grid, rotation_from_yaw
from protoscene.register import Model

YAWS = 36


@dataclass(frozen=True, eq=False)
class Imprint:
    """A model seen on a lattice, 1 where true: its ``surface``, that and all within a voxel of it
    (``thick``), and what was seen ``free`` beyond."""

    surface: Float[Tensor, "z y x"]
    thick: Float[Tensor, "z y x"]
    free: Float[Tensor, "z y x"]


def imprint(
    model: Model,
    lattice: Grid,
    yaw: float = 0.0,
    within: Float[np.ndarray, "2 3"] | None = None,
) -> Imprint:
    """``model`` turned by ``yaw`` about its frame's z, on a ``lattice`` of that frame before the
    turn. Only what lies ``within`` a box of the model's frame (lower, upper) is kept."""
    points = lattice.centres() @ rotation_from_yaw(yaw)
    distance, known, _ = look(model, points)
    if within is not None:
        known = known & ((points >= within[0]) & (points <= within[1])).all(axis=-1)
    voxel = max(lattice.voxel_size, model.grid.voxel_size)
    far = np.abs(distance)
    # The distances saturate at the truncation: beyond most of it is beyond.
    beyond = min((NEAR + 0.25) * voxel, 0.9 * model.truncation)
    masks = (known & (far < 0.75 * voxel), known & (far < NEAR * voxel),
             known & (distance > beyond))  # fmt: skip
    return Imprint(*(torch.from_numpy(mask.astype(np.float32)) for mask in masks))


class Correlator:
    """A fixed imprint, ready to be compared with many turned ones on lattices of as many voxels, or
    fewer (those count from the same corner)."""

    def __init__(self, fixed: Imprint) -> None:
        self._shape = tuple(fixed.surface.shape)
        parts = (fixed.surface, fixed.thick, fixed.free)
        self._surface, self._thick, self._free = (torch.fft.rfft2(p) for p in parts)

    def maps(self, turned: Imprint) -> tuple[Tensor, Tensor, Tensor]:
        """(confirmed, through, hidden), each (y, x) by circular shift of ``turned`` in voxels: how
        much of its surface lies on the fixed one's, how much in its free space, and how much of the
        fixed surface lies in the free space of ``turned``."""
        size = self._shape[1:]
        surface = torch.fft.rfft2(turned.surface, s=size).conj()
        free = torch.fft.rfft2(turned.free, s=size).conj()
        nz = len(turned.surface)
        sums = [
            (self._thick[:nz] * surface).sum(dim=0),
            (self._free[:nz] * surface).sum(dim=0),
            (self._surface[:nz] * free).sum(dim=0),
        ]
        confirmed, through, hidden = (torch.fft.irfft2(s, s=size).clamp(min=0) for s in sums)
        return confirmed, through, hidden
