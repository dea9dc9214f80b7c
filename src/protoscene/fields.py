"""Tiny networks that answer what is at a position: colour and occupancy, at any float position.

One network for one scene (:class:`Field`), or one whose hidden layers are scaled and shifted by
parameters of each place's or each prototype's own (:class:`ModulatedField`).
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

RGBA = 4
"""Answers: the logits of red, green, blue and occupancy."""
LEAK = 0.1
"""Slope of the modulated layers' activation below zero: no parameters leave a layer silent."""


def position_features(
    x: Float[Tensor, "*n d"], octaves: int, period: float = 2.0
) -> Float[Tensor, "*n features"]:
    """sin and cos of 2π 2ᵏ x / ``period``, k < ``octaves``: (…, 2 · octaves · d).

    They repeat with ``period``, so they are smooth across the borders of cells of that size.
    """
    frequency = 2 * math.pi / period * 2.0 ** torch.arange(octaves, dtype=x.dtype, device=x.device)
    angle = (x[..., None] * frequency).flatten(-2)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class Field(nn.Module):
    """One scene as one network: position → logits of r, g, b and occupancy.

    ``depth`` layers of ``width`` and ReLU over the position and its sines and cosines of
    ``octaves`` frequencies, the lowest of which spans the scene's box, −1..1.
    """

    def __init__(self, octaves: int = 6, width: int = 64, depth: int = 3, seed: int = 0) -> None:
        super().__init__()
        self.octaves = octaves
        widths = [3 + 6 * octaves, *[width] * depth]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
            self.out = nn.Linear(width, RGBA)

    def forward(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 4"]:
        """``points`` x y z, −1..1 over the scene's box (``Grid.sampler_from_world``)."""
        h = torch.cat([points, position_features(points, self.octaves, period=4.0)], dim=-1)
        for layer in self.hidden:
            h = F.relu(layer(h))
        answers: Tensor = self.out(h)
        return answers


class ModulatedField(nn.Module):
    """``depth`` layers h ← leaky((1 + s) · (W h + b) + t) and a linear one; W and b are of all, s
    and t each point's own: the network that is meant there. With 0 it is the plain network.
    """

    def __init__(self, inputs: int, width: int, depth: int = 2, channels: int = RGBA) -> None:
        super().__init__()
        widths = [inputs, *[width] * depth]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.out = nn.Linear(width, channels)

    @property
    def n_parameters(self) -> int:
        """How many numbers make a network of one's own: s and t of every layer."""
        return 2 * len(self.hidden) * self.out.in_features

    def forward(
        self, inputs: Float[Tensor, "*n i"], parameters: Float[Tensor, "*#n m"]
    ) -> Float[Tensor, "*n c"]:
        """``parameters`` s₁ t₁ s₂ t₂ …, broadcast against ``inputs``."""
        h = inputs
        own = parameters.chunk(2 * len(self.hidden), dim=-1)
        for layer, scale, shift in zip(self.hidden, own[::2], own[1::2], strict=True):
            h = F.leaky_relu(layer(h) * (1 + scale) + shift, LEAK)
        answers: Tensor = self.out(h)
        return answers
