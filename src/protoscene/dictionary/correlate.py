"""Where, and turned how, one piece of space may lie in another: FFT over x and y, yaw by yaw."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from jaxtyping import Float
from scipy.fft import irfft2, rfft2

from protoscene.dictionary.portrait import NEAR
from protoscene.geometry import Grid, rotation_from_yaw
from protoscene.register import Model

YAWS = 36

Turned = tuple[np.ndarray, np.ndarray]
"""Spectra, conjugate, of an imprint's surface and of what is free."""


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
    inside = np.array([[-np.inf] * 3, [np.inf] * 3]) if within is None else within
    voxel = max(lattice.voxel_size, model.grid.voxel_size)
    # The distances saturate at the truncation: beyond most of it is beyond.
    beyond = min((NEAR + 0.25) * voxel, 0.9 * model.truncation)
    masks = _masks(
        model.distance, model.votes, model.grid.origin, model.grid.voxel_size, *lattice.axes(),
        rotation_from_yaw(yaw), inside, 0.75 * voxel, NEAR * voxel, beyond,
    )  # fmt: skip
    return Imprint(*masks)


@numba.njit(cache=True)
def _masks(  # type: ignore[no-untyped-def]
    distance, votes, origin, voxel, xs, ys, zs, rotation, within, on, near, beyond
):
    """(3, z, y, x): surface, thick and free at the places that ``rotation`` takes from the model's
    frame to the axes of a lattice."""
    nz, ny, nx = distance.shape
    masks = np.zeros((3, len(zs), len(ys), len(xs)), dtype=np.float32)
    for row in range(len(ys)):
        for column in range(len(xs)):
            x = xs[column] * rotation[0, 0] + ys[row] * rotation[1, 0]
            y = xs[column] * rotation[0, 1] + ys[row] * rotation[1, 1]
            ix = int(np.floor((x - origin[0]) / voxel))
            iy = int(np.floor((y - origin[1]) / voxel))
            if ix < 0 or iy < 0 or ix >= nx or iy >= ny:
                continue
            if x < within[0, 0] or x > within[1, 0] or y < within[0, 1] or y > within[1, 1]:
                continue
            for layer in range(len(zs)):
                z = zs[layer]
                iz = int(np.floor((z - origin[2]) / voxel))
                if iz < 0 or iz >= nz or z < within[0, 2] or z > within[1, 2]:
                    continue
                if votes[iz, iy, ix] > 0:
                    d = distance[iz, iy, ix]
                    masks[0, layer, row, column] = abs(d) < on
                    masks[1, layer, row, column] = abs(d) < near
                    masks[2, layer, row, column] = d > beyond
    return masks


class Correlator:
    """A fixed imprint, ready to be compared with many turned ones on lattices of as many voxels, or
    fewer (those count from the same corner)."""

    def __init__(self, fixed: Imprint) -> None:
        self._shape = fixed.surface.shape
        parts = (fixed.surface, fixed.thick, fixed.free)
        self._surface, self._thick, self._free = (rfft2(p, axes=(1, 2)) for p in parts)

    def turned(self, imprint: Imprint) -> Turned:
        """``imprint`` as :meth:`maps` takes it, of this and of any that is fixed on as many
        voxels."""
        nz, *size = self._shape
        surface, free = (
            np.conj(rfft2(part[:nz], s=size, axes=(1, 2)))
            for part in (imprint.surface, imprint.free)
        )
        return surface, free

    def maps(self, turned: Turned) -> list[Float[np.ndarray, "y x"]]:
        """[confirmed, through, hidden] by circular shift of ``turned`` in voxels: how much of its
        surface lies on the fixed one's, how much in its free space, and how much of the fixed
        surface lies in the free space of ``turned``."""
        surface, free = turned
        size = self._shape[1:]
        pairs = ((self._thick, surface), (self._free, surface), (self._surface, free))
        return [
            irfft2(np.einsum("zyx,zyx->yx", a[: len(b)], b), s=size).clip(min=0) for a, b in pairs
        ]
