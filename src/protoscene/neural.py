"""Prototypes that are small networks: position in, colour and occupancy out, at any resolution.

One trunk is shared; what a net is of its own is a code, from which each layer's scale and shift
follow. A code is a net: a codebook of codes (:mod:`protoscene.codebook`) is a dictionary of nets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from protoscene.fields import RGBA, ModulatedField, position_features
from protoscene.geometry import centred_grid
from protoscene.prototypes import VoxelPrototypes, one_each

EMPTY = -2.0
"""The logit of occupancy to begin with: most is empty."""


class CodedField(nn.Module):
    """f(p; c): rgba logits at positions p in [−1, 1]³ of the net whose code is c: a
    :class:`ModulatedField` of p and its sines and cosines, its parameters linear in c."""

    def __init__(
        self, code_dim: int = 32, hidden: int = 48, layers: int = 3, octaves: int = 4,
        channels: int = RGBA,
    ) -> None:  # fmt: skip
        super().__init__()
        self.octaves = octaves
        self.field = ModulatedField(3 + 6 * octaves, hidden, layers, channels)
        self.modulation = nn.Linear(code_dim, self.field.n_parameters)
        with torch.no_grad():
            self.field.out.bias.zero_()[-1] = EMPTY

    def forward(
        self, positions: Float[Tensor, "n p 3"], codes: Float[Tensor, "n d"]
    ) -> Float[Tensor, "n p C"]:
        """Logits of n nets at p positions each."""
        inputs = torch.cat([positions, position_features(positions, self.octaves)], dim=-1)
        logits: Tensor = self.field(inputs, self.modulation(codes)[:, None])
        return logits


class NeuralPrototypes(nn.Module):
    """K codes of one :class:`CodedField`; prototype k spans ``shapes[k]`` voxels of its
    ``voxel_size``, its longest side from −1 to 1.

    Called like any dictionary for the voxels to compose, sigmoid(f) at voxel middles, with their
    graph; ``finer`` times as many voxels a side, as much smaller, where that is asked for.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]],
        voxel_size: float | Sequence[float],
        code_dim: int = 32,
        hidden: int = 48,
        channels: int = RGBA,
        seed: int = 0,
    ) -> None:
        """``shapes`` (nz, ny, nx) of each. The same seed gives the same."""
        super().__init__()
        self.shapes = list(shapes)
        self.voxel_size = tuple(float(v) for v in one_each(voxel_size, len(shapes)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.codes = nn.Parameter(torch.randn(len(shapes), code_dim))
            self.field = CodedField(code_dim, hidden, channels=channels)

    def __len__(self) -> int:
        return len(self.shapes)

    def forward(self, finer: int = 1) -> VoxelPrototypes:
        volumes = [self._decoded(k, finer) for k in range(len(self))]
        return VoxelPrototypes(volumes, [size / finer for size in self.voxel_size])

    def _decoded(self, k: int, finer: int) -> Float[Tensor, "C z y x"]:
        nz, ny, nx = (finer * n for n in self.shapes[k])
        positions = voxel_positions((nz, ny, nx)).to(self.codes)
        logits = self.field(positions[None], self.codes[k : k + 1])[0]
        return torch.sigmoid(logits.T.reshape(-1, nz, ny, nx))


def voxel_positions(shape: tuple[int, int, int]) -> Float[Tensor, "p 3"]:
    """Middles x y z of (nz, ny, nx) voxels in (z, y, x) order, the longest side from −1 to 1."""
    size = 2 / max(shape)
    grid = centred_grid([n * size for n in reversed(shape)], size)
    return torch.from_numpy(grid.centres().reshape(-1, 3)).float()
