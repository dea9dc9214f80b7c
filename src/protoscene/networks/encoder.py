"""Evidence of one instant → features over the ground; no convolution above 32 cells a side."""

from __future__ import annotations

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from protoscene.network_input import CHANNELS

MOST_CELLS = 32
"""Along any axis, for any number of voxels."""
PATCH = 24
"""Features of a patch of voxels, before all heights become channels."""
WIDTHS = (64, 128, 192)
"""Features at the cells, and at cells twice and four times as large."""
GROUP = 8
"""Channels that are normalised together."""


def stride_of(shape: tuple[int, int, int]) -> int:
    """Voxels along a cell's side: the fewest that make at most ``MOST_CELLS`` cells."""
    return math.ceil(max(shape) / MOST_CELLS)


class Encoder(nn.Module):
    """Patches of stride³ voxels are embedded by one strided convolution, heights are folded into
    channels, and a small U-net over the ground looks around.

    ``shape`` (nz, ny, nx) is the evidence's; nz is fixed, the others may differ from call to call
    up to ``MOST_CELLS`` cells. What does not fill a cell is filled up with unknown.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.stride = stride_of(shape)
        self.heights = math.ceil(shape[0] / self.stride)
        fine, middle, coarse = WIDTHS
        self.embed = nn.Conv3d(CHANNELS, PATCH, self.stride, stride=self.stride)
        self.fold = _layer(self.heights * PATCH, fine, 1)
        self.fine = _block(fine, fine)
        self.middle = _block(fine, middle, stride=2)
        self.coarse = _block(middle, coarse, stride=2)
        self.from_coarse = nn.Conv2d(coarse, middle, 1)
        self.middle_again = _layer(middle, middle)
        self.from_middle = nn.Conv2d(middle, fine, 1)
        self.fine_again = _layer(fine, fine)

    @property
    def width(self) -> int:
        """Number of features."""
        return WIDTHS[0]

    def forward(self, volume: Float[Tensor, "b 5 z y x"]) -> Float[Tensor, "b f cy cx"]:
        """Features of each cell. Raises ValueError for another height, or too many cells."""
        cells = [math.ceil(n / self.stride) for n in volume.shape[2:]]
        if cells[0] != self.heights or max(cells) > MOST_CELLS:
            raise ValueError(
                f"volume makes {cells} cells (z y x) of {self.stride}³ voxels, "
                f"expected {self.heights} in height and at most {MOST_CELLS} a side"
            )
        # The ground by fours, so that it can be halved twice.
        pad = [p for n in volume.shape[:2:-1] for p in (0, -n % (4 * self.stride))]
        pad += [0, -volume.shape[2] % self.stride]
        patches = F.relu(self.embed(F.pad(volume, pad) if any(pad) else volume))
        fine = self.fine(self.fold(patches.flatten(1, 2)))
        middle = self.middle(fine)
        up = self.from_coarse(_twice(self.coarse(middle)))
        middle = self.middle_again(middle + up)
        fine = self.fine_again(fine + self.from_middle(_twice(middle)))
        return fine[..., : cells[1], : cells[2]]


def _twice(features: Tensor) -> Tensor:
    return F.interpolate(features, scale_factor=2.0, mode="nearest")


def _layer(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(outputs // GROUP, outputs), nn.ReLU())


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(_layer(inputs, outputs, stride=stride), _layer(outputs, outputs))
