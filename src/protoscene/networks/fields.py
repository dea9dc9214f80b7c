"""Tiny networks that answer what is at a position: colour and occupancy, at any float position.

One network for one scene (:class:`Field`), or one whose hidden layers are scaled and shifted by
parameters that another network gives for every place (:class:`ModulatedField`).
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
    """Two layers h ← relu((1 + s) · (W h + b) + t) and a linear one; W and b are everybody's, s and
    t each point's own: the network that is meant there.

    Parameters of 0 are the plain network. To begin with it answers 0, whatever the parameters.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.hidden = nn.ModuleList([nn.Linear(inputs, width), nn.Linear(width, width)])
        self.out = nn.Linear(width, RGBA)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    @property
    def n_parameters(self) -> int:
        """How many numbers make a network of one's own: s and t of both layers."""
        return sum(2 * layer.out_features for layer in self.hidden)  # type: ignore[misc,operator]

    def forward(
        self, inputs: Float[Tensor, "n i"], parameters: Float[Tensor, "n m"]
    ) -> Float[Tensor, "n 4"]:
        h = inputs
        s1, t1, s2, t2 = parameters.chunk(4, dim=-1)
        for layer, scale, shift in zip(self.hidden, (s1, s2), (t1, t2), strict=True):
            h = F.relu(layer(h) * (1 + scale) + shift)
        answers: Tensor = self.out(h)
        return answers
