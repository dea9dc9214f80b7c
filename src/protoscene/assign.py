"""Who explains what: soft choices among K prototypes, and what keeps one of them from taking all.

Functions of scores (n, K), the higher the better, and of weights (n, K) whose rows sum to 1. They
choose the rows of :class:`Placements`' ``which``; random ones draw from a torch.Generator. From a
flat start all prototypes get the same gradient and one of them takes everything. What works is to
start them apart, and then a plain softmax: :func:`farthest_first` of :func:`differences`, which
compares two partial views only where both saw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

DEAD = 0.2
"""A prototype that has less than this share of an even share of the choices is dead."""


def softmax(
    scores: Float[Tensor, "n K"],
    temperature: float = 1.0,
    noise: float = 0.0,
    random: torch.Generator | None = None,
) -> Float[Tensor, "n K"]:
    """softmax((scores + ``noise`` · N(0, 1)) / ``temperature``)."""
    if noise:
        scores = scores + noise * torch.randn(scores.shape, generator=random).to(scores)
    return torch.softmax(scores / temperature, dim=-1)


def gumbel(
    scores: Float[Tensor, "n K"],
    temperature: float = 1.0,
    random: torch.Generator | None = None,
) -> Float[Tensor, "n K"]:
    """softmax((scores + Gumbel noise) / ``temperature``); in the limit of 0 a draw from
    softmax(scores)."""
    uniform = torch.rand(scores.shape, generator=random).to(scores).clamp(1e-6, 1 - 1e-6)
    return torch.softmax((scores - torch.log(-torch.log(uniform))) / temperature, dim=-1)


def epsilon_greedy(
    scores: Float[Tensor, "n K"], epsilon: float, random: torch.Generator | None = None
) -> Float[Tensor, "n K"]:
    """One prototype a row: the best, or with probability ``epsilon`` any, all alike. In backward
    the gradient of softmax(scores) (straight through)."""
    n, k = scores.shape
    explores = torch.rand(n, generator=random) < epsilon
    drawn = torch.randint(k, (n,), generator=random)
    chosen = torch.where(explores.to(scores.device), drawn.to(scores.device), scores.argmax(dim=-1))
    return hardened(torch.softmax(scores, dim=-1), chosen)


def hardened(
    weights: Float[Tensor, "n K"], chosen: Tensor | None = None
) -> Float[Tensor, "n K"]:  # fmt: skip
    """1 at the largest weight of each row (or at ``chosen``), else 0; gradients pass unchanged."""
    chosen = weights.argmax(dim=-1) if chosen is None else chosen
    hard = torch.nn.functional.one_hot(chosen, weights.shape[-1]).to(weights)
    return hard + weights - weights.detach()


def balanced(
    scores: Float[Tensor, "n K"], temperature: float = 1.0, sweeps: int = 30
) -> Float[Tensor, "n K"]:
    """Sinkhorn: the weights closest to softmax(scores / ``temperature``) of which every prototype
    has the same share, n / K. Rows sum to 1 exactly, columns after enough ``sweeps``."""
    logs = scores / temperature
    n, k = scores.shape
    for _ in range(sweeps):
        logs = logs - logs.logsumexp(dim=0, keepdim=True) + math.log(n / k)
        logs = logs - logs.logsumexp(dim=1, keepdim=True)
    return logs.exp()


def decayed(first: float, last: float, progress: float) -> float:
    """From ``first`` at progress 0 to ``last`` at 1, by equal factors (both above 0)."""
    return first * (last / first) ** min(max(progress, 0.0), 1.0)


def frequency_loss(weights: Float[Tensor, "n K"], least: float = 1.0) -> Float[Tensor, ""]:
    """1 − Σ_k min(mean_n weights, ``least`` / K) / ``least``: 0 where every prototype has at least
    ``least`` of an even share, 1 − 1/K (for ``least`` 1) where one has everything."""
    floor = least / weights.shape[-1]
    return 1 - weights.mean(dim=0).clamp(max=floor).sum() / least


def binarisation_loss(weights: Float[Tensor, "n K"]) -> Float[Tensor, ""]:
    """Mean over rows of Σ_k min(w, 1 − w): 0 where each row has chosen one."""
    return torch.minimum(weights, 1 - weights).sum(dim=-1).mean()


@dataclass(frozen=True)
class Usage:
    """``shares`` of the K prototypes (sum 1); their ``entropy`` over log K, 1 if all are used
    alike; ``dead``: those with less than ``DEAD`` of an even share."""

    shares: tuple[float, ...]
    entropy: float
    dead: tuple[int, ...]


def usage(weights: Float[Tensor, "n K"]) -> Usage:
    """How much each prototype is used, by mean weight."""
    shares = weights.detach().double().mean(dim=0)
    k = len(shares)
    entropy = float(-(shares * shares.clamp(min=1e-12).log()).sum() / math.log(k)) if k > 1 else 1.0
    dead = tuple((shares < DEAD / k).nonzero()[:, 0].tolist())
    return Usage(tuple(shares.tolist()), entropy, dead)


def replacements(
    weights: Float[Tensor, "n K"], errors: Float[Tensor, " n"]
) -> list[tuple[int, int]]:
    """(k, i): dead prototype k should become what row i shows, the worst explained rows first."""
    worst = errors.detach().argsort(descending=True, stable=True).tolist()
    return list(zip(usage(weights).dead, worst, strict=False))


def differences(
    rgba: Float[Tensor, "n C z y x"], known: Bool[Tensor, "n z y x"]
) -> Float[Tensor, "n n"]:
    """How different partial views are where both saw: with o occupancy and c colour,

        Σ (o_i − o_j)² + o_i o_j mean (c_i − c_j)²  over  Σ o_i + o_j − o_i o_j

    over voxels known in both; the mean of all pairs where that is nothing. Both in the same frame.
    What lies in neither's known space says nothing, so that two sides of one thing may be alike.
    """
    known = known.flatten(1).to(rgba.dtype)
    colour, occupied = rgba[:, :-1].flatten(2), rgba[:, -1].flatten(1) * known
    both = occupied @ occupied.T
    # Σ over what both know of o_i² is o_i² · known_j.
    squares = (occupied**2) @ known.T
    shape = squares + squares.T - 2 * both
    tinted = (colour * occupied[:, None]).flatten(1)
    brightness = (colour**2).mean(dim=1) * occupied
    mixed = tinted @ tinted.T / colour.shape[1]
    paint = brightness @ occupied.T + occupied @ brightness.T - 2 * mixed
    union = occupied @ known.T + known @ occupied.T - both
    measured = union > 0
    found = (shape + paint).clamp(min=0) / union.clamp(min=1e-6)
    return torch.where(measured, found, found[measured].mean() if measured.any() else 0.0)


def farthest_first(differences: Float[Tensor, "n n"], k: int) -> list[int]:
    """``k`` rows to start prototypes from: the pair that differs most, then always the one whose
    nearest chosen one is farthest. Raises ValueError for ``k`` above n."""
    n = len(differences)
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}, expected 1 to {n}")
    chosen = [int(differences.max(dim=1).values.argmax())]
    while len(chosen) < k:
        nearest = differences[chosen].min(dim=0).values.clone()
        nearest[chosen] = -math.inf
        chosen.append(int(nearest.argmax()))
    return chosen
