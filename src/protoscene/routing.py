"""Routing: parts that claim the same space compete for it, over a few rounds.

One-shot detection asks every candidate by itself whether it explains enough, so that what several
of them explain is counted for each. Here a voxel is shared out among those that claim it, the more
to a part the more that part explains of what is its own, and the shares are found by iteration as
in EM: shares from gains, gains from shares.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

TEMPERATURES = (1.0, 0.3, 0.05)
"""Of each round's shares, times the mean gain of a candidate."""


def shares(
    gains: Float[Tensor, " n"], owner: Int[Tensor, " m"], voxel: Int[Tensor, " m"], scale: float
) -> Float[Tensor, " m"]:
    """Of each claim (``owner`` wants ``voxel``) softmax over the voxel's claims, gain / scale."""
    n_voxels = int(voxel.max()) + 1 if len(voxel) else 0
    scores = gains[owner] / scale
    most = scores.new_full((n_voxels,), -torch.inf).scatter_reduce(0, voxel, scores, "amax")
    size = (scores - most[voxel]).exp()
    return size / size.new_zeros(n_voxels).index_add(0, voxel, size)[voxel]


def route(
    value: Float[Tensor, " m"],
    owner: Int[Tensor, " m"],
    voxel: Int[Tensor, " m"],
    n: int,
    temperatures: tuple[float, ...] = TEMPERATURES,
) -> Float[Tensor, " n"]:
    """What each of ``n`` candidates explains that nobody explains better: Σ share · ``value`` over
    its claims (m of them; ``value`` is what the claim explains alone, negative where it is wrong).

    Without ``temperatures``: Σ value, the one-shot gain. A voxel claimed once counts in full; all
    the candidates together never gain more than Σ over voxels of the largest value.
    """
    gains = value.new_zeros(n).index_add(0, owner, value)
    if not len(value):
        return gains
    unit = float(gains.clamp(min=0).mean().clamp(min=1e-6))
    for temperature in temperatures:
        part = shares(gains, owner, voxel, temperature * unit)
        # Where a claim is wrong, it is wrong for all who make it.
        paid = torch.where(value > 0, part * value, value)
        gains = value.new_zeros(n).index_add(0, owner, paid)
    return gains
