"""What nobody saw below a thing's surface: its inside, or the open space beneath a seat."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

OPEN = 0.5
"""A patch of a layer is open if more than this share of its border, as far as that was seen, is."""


def opened(
    rgba: Float[Tensor, "4 z y x"], confidence: Float[Tensor, "z y x"]
) -> Float[Tensor, "4 z y x"]:
    """``rgba`` of a prototype without what is full only because nobody saw it (``confidence`` 0)
    where it is open to its sides: layer by layer, connected patches of it are emptied whose
    neighbours in that layer, of those that were seen, are mostly (``OPEN``) free. What is inside of
    a thing is bounded by its surface; what lies below a seat, or a car, by the air around."""
    full, seen = (rgba[3] > 0.5).numpy(), (confidence > 0).numpy()
    in_layer = np.zeros((3, 3, 3), dtype=bool)
    in_layer[1] = ndimage.generate_binary_structure(2, 1)
    patch, n = ndimage.label(full & ~seen, in_layer)
    counts = np.zeros((2, n + 1))
    for axis, step in ((1, 1), (1, -1), (2, 1), (2, -1)):  # nothing is full at a prototype's edge
        beside = np.roll(full, step, axis), np.roll(seen, step, axis)
        for k, state in enumerate((beside[0] & beside[1], ~beside[0] & beside[1])):
            counts[k] += np.bincount(patch[state], minlength=n + 1)
    is_open = counts[1] > OPEN * counts.sum(axis=0)
    is_open[0] = False
    emptied = rgba.clone()
    emptied[3][torch.from_numpy(is_open[patch])] = 0
    return emptied
