"""Evidence on cylinders around an upright axis, (height, radius, azimuth): a turn is a shift."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from solids import View
from torch import Tensor, nn

RADII, HEIGHTS = 16, 16


@dataclass(frozen=True, eq=False)
class Cylinders:
    """n partial views, (n, height, radius, azimuth): the share of known space, and times that
    occupancy and colour."""

    known: Float[Tensor, "n z r a"]
    occupied: Float[Tensor, "n z r a"]
    colour: Float[Tensor, "n 3 z r a"]

    def __getitem__(self, rows: Tensor | list[int]) -> Cylinders:
        return Cylinders(self.known[rows], self.occupied[rows], self.colour[rows])

    def turned(self, steps: Tensor) -> Cylinders:
        """Each by its own number of azimuths, counter-clockwise."""
        shifted = [
            torch.stack([torch.roll(v, s, -1) for v, s in zip(volume, steps.tolist(), strict=True)])
            for volume in (self.known, self.occupied, self.colour)
        ]
        return Cylinders(*shifted)


def cylinders(views: list[View], azimuths: int, scale: float = 1.0) -> Cylinders:
    """Trilinear samples; a ring's samples stand for its area by √radius. Lengths are those of
    something ``scale`` times as large that stands on the ground."""
    n = views[0].known.shape[-1]
    volumes = np.stack([np.concatenate([v.known[None], v.rgba[3:], v.rgba[:3]]) for v in views])
    radius = (torch.arange(RADII) + 0.5) / RADII
    angle = torch.arange(azimuths) * (2 * math.pi / azimuths)
    height = (torch.arange(HEIGHTS) + 0.5) / HEIGHTS * 2 - 1
    z, r, a = torch.meshgrid(scale * (height + 1) - 1, scale * radius, angle, indexing="ij")
    at = torch.stack([r * torch.cos(a), r * torch.sin(a), z], dim=-1).expand(
        len(views), -1, -1, -1, -1
    )
    stacked = torch.from_numpy(volumes).float()
    # Averaged first to the cylinders' own resolution: else thin surfaces fall between samples.
    stacked = nn.functional.avg_pool3d(stacked, max(1, n // (2 * RADII)))
    found = nn.functional.grid_sample(stacked, at, align_corners=False) * radius[:, None].sqrt()
    return Cylinders(found[:, 0], found[:, 1], found[:, 2:])


def over_yaw(left: Cylinders, right: Cylinders) -> Float[Tensor, "n m a"]:
    """`assign.differences` of left i with right j turned by each azimuth: all correlations are
    products of spectra along the azimuth."""

    def spectrum(volume: Tensor) -> Tensor:
        return torch.fft.rfft(volume.flatten(1, -2), dim=-1)

    def correlated(a: Tensor, b: Tensor) -> Tensor:
        product = torch.einsum("npf,mpf->nmf", a, b.conj())
        return torch.fft.irfft(product, n=left.known.shape[-1])

    parts = []
    for side in (left, right):
        known = side.known.clamp(min=1e-6)
        brightness = (side.colour**2).mean(dim=1) / side.occupied.clamp(min=1e-6)
        parts.append([
            spectrum(v) for v in
            (side.known, side.occupied, side.occupied**2 / known, brightness, side.colour)
        ])  # fmt: skip
    (known, occupied, squares, bright, colour), (known2, occupied2, squares2, bright2, colour2) = (
        parts
    )
    both = correlated(occupied, occupied2)
    shape = correlated(squares, known2) + correlated(known, squares2) - 2 * both
    paint = correlated(bright, occupied2) + correlated(occupied, bright2)
    paint = paint - 2 / 3 * correlated(colour, colour2)
    union = correlated(occupied, known2) + correlated(known, occupied2) - both
    return (shape + paint).clamp(min=0) / union.clamp(min=1e-3)


def parabola(differences: Float[Tensor, "n a"]) -> Float[Tensor, " n"]:
    """The turn (rad) of the least difference, between azimuths by the parabola through three."""
    n = differences.shape[-1]
    best = differences.argmin(dim=-1)
    before, at, after = (
        differences.gather(-1, ((best + d) % n)[:, None])[:, 0] for d in (-1, 0, 1)
    )
    offset = 0.5 * (before - after) / (before - 2 * at + after).clamp(min=1e-9)
    return (best + offset.clamp(-0.5, 0.5)) * (2 * math.pi / n)
