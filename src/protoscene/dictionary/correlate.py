"""Where, and turned how, one piece of space may lie in another: FFT over x and y, yaw by yaw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.fft import irfft2, rfft2

from protoscene.dictionary.portrait import NEAR, look
from protoscene.geometry import Grid, rotation_from_yaw
from protoscene.register import Model

YAWS = 36


@dataclass(frozen=True, eq=False)
class Imprint:
    """A model seen on a lattice, 1 where true: its ``surface``, that and all within a voxel of it
    (``thick``), and what was seen ``free`` beyond."""

    surface: Float[np.ndarray, "z y x"]
    thick: Float[np.ndarray, "z y x"]
    free: Float[np.ndarray, "z y x"]


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
    return Imprint(*(mask.astype(np.float32) for mask in masks))


class Correlator:
    """A fixed imprint, ready to be compared with many turned ones on lattices of as many voxels, or
    fewer (those count from the same corner)."""

    def __init__(self, fixed: Imprint) -> None:
        self._shape = fixed.surface.shape
        parts = (fixed.surface, fixed.thick, fixed.free)
        self._surface, self._thick, self._free = (rfft2(p, axes=(1, 2)) for p in parts)

    def maps(self, turned: Imprint) -> list[Float[np.ndarray, "y x"]]:
        """[confirmed, through, hidden] by circular shift of ``turned`` in voxels: how much of its
        surface lies on the fixed one's, how much in its free space, and how much of the fixed
        surface lies in the free space of ``turned``."""
        nz, *size = self._shape
        surface, free = (
            np.conj(rfft2(part[:nz], s=size, axes=(1, 2))) for part in (turned.surface, turned.free)
        )
        pairs = ((self._thick, surface), (self._free, surface), (self._surface, free))
        return [
            irfft2(np.einsum("zyx,zyx->yx", a[: len(b)], b), s=size).clip(min=0) for a, b in pairs
        ]
