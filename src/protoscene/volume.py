"""What a piece of space holds: a composed volume, or the evidence of one instant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from protoscene.geometry import Grid


@dataclass(frozen=True, eq=False)
class Volume:
    """Channels on a grid: ``rgba`` is (C, z, y, x) in [0, 1], the last channel is occupancy."""

    rgba: Tensor
    grid: Grid

    def __post_init__(self) -> None:
        if tuple(self.rgba.shape[1:]) != self.grid.shape:
            raise ValueError(
                f"rgba must be (C, z, y, x) with the grid's shape {self.grid.shape}, "
                f"got {tuple(self.rgba.shape)}"
            )

    @property
    def colour(self) -> Tensor:
        """(C−1, z, y, x), meaningless where occupancy is 0."""
        return self.rgba[:-1]

    @property
    def occupancy(self) -> Tensor:
        """(z, y, x) in [0, 1]."""
        return self.rgba[-1]


class SparseVolume(Volume):
    """A volume of which only the occupied voxels are kept, as a street's: 0 everywhere else.

    ``places`` (n,) are their numbers in (z, y, x) order, ascending; ``values`` (n, C). Its ``rgba``
    is made anew each time that it is asked for.
    """

    def __init__(self, places: Tensor, values: Tensor, grid: Grid) -> None:
        if places.dim() != 1 or values.dim() != 2 or len(places) != len(values):
            got = f"{tuple(places.shape)} and {tuple(values.shape)}"
            raise ValueError(f"places and values must be (n,) and (n, C), got {got}")
        within = len(places) == 0 or (places[0] >= 0 and places[-1] < grid.n_voxels)
        if not within or not bool((places.diff() > 0).all()):
            raise ValueError("places must be ascending numbers of the grid's voxels")
        object.__setattr__(self, "places", places.long())
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "grid", grid)

    places: Tensor
    values: Tensor

    @property
    def rgba(self) -> Tensor:
        """(C, z, y, x)."""
        dense = self.values.new_zeros((self.values.shape[1], self.grid.n_voxels))
        dense[:, self.places] = self.values.T
        return dense.reshape(-1, *self.grid.shape)


@dataclass(frozen=True, eq=False)
class Outside:
    """What a picture shows beyond the scene's grid: a coarse volume around it, then a colour.

    ``volume`` counts only outside the scene's grid; ``colour`` (C−1,) in [0, 1] lies behind it all.
    """

    volume: Volume
    colour: Tensor


@dataclass(frozen=True, eq=False)
class Background:
    """What stays: a volume on the scene's grid, what lies outside of it, and ``detail``: parts of
    it on finer voxels. In a picture drawn thing by thing each stands for its part of ``volume``."""

    volume: Volume
    outside: Outside | None = None
    detail: tuple[Volume, ...] = ()


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the sensors said of each voxel at one instant, packed: a bit each for occupied and
    free, and a colour per occupied voxel. A voxel that is neither is unknown; none is both.

    ``occupied_bits`` and ``free_bits`` pack (z, y, x) booleans eight to a byte (numpy.packbits);
    ``colours`` (n_occupied, 3) follows the occupied voxels in (z, y, x) order.
    """

    grid: Grid
    time: float
    occupied_bits: UInt8[np.ndarray, " bytes"]
    free_bits: UInt8[np.ndarray, " bytes"]
    colours: UInt8[np.ndarray, "n 3"]

    @property
    def occupied(self) -> Bool[np.ndarray, "z y x"]:
        return self._unpack(self.occupied_bits)

    @property
    def free(self) -> Bool[np.ndarray, "z y x"]:
        return self._unpack(self.free_bits)

    @property
    def unknown(self) -> Bool[np.ndarray, "z y x"]:
        return ~(self.occupied | self.free)

    @property
    def rgb(self) -> Float[np.ndarray, "3 z y x"]:
        """Mean colour in [0, 1]; zero where not occupied."""
        dense = np.zeros((*self.grid.shape, 3), dtype=np.float32)
        dense[self.occupied] = self.colours / np.float32(255)
        return np.moveaxis(dense, -1, 0)

    @property
    def n_bytes(self) -> int:
        return self.occupied_bits.nbytes + self.free_bits.nbytes + self.colours.nbytes

    def _unpack(self, bits: np.ndarray) -> np.ndarray:
        flat = np.unpackbits(bits, count=self.grid.n_voxels)
        return flat.view(bool).reshape(self.grid.shape)
