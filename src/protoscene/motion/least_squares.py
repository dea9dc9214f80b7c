"""Least squares that let gross outliers go: linear, and by Levenberg–Marquardt."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from protoscene.geometry import wrap_angle

ROUNDS = 8
GROSS = 3.0
"""Noises from which on an instant counts less."""


def trust(residual: Float[Tensor, "n d"], weight: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """``weight · min(1, 3/r)⁴`` of residuals in noises, r their length; noise is taken to be larger
    where the median of the residuals says so."""
    length = torch.linalg.vector_norm(residual, dim=1) / math.sqrt(residual.shape[1])
    usual = torch.quantile(length[weight > 0], 0.5) * 1.5  # median |N(0, 1)| is 0.67
    reach = GROSS * max(1.0, float(usual))
    return weight * (reach / length.clamp_min(reach)) ** 4


def linear_fit(
    basis: Float[Tensor, "n p"],
    targets: Float[Tensor, "n d"],
    weight: Float[Tensor, " n"],
    first: Float[Tensor, " n"],
    penalty: Float[Tensor, "q p"],
    noise: float,
    turns: bool = False,
) -> Float[Tensor, "p d"]:
    """Minimises ``Σ weight |basis c − targets|²/noise² + |penalty c|²``, weights ``first`` and then
    those of :func:`trust`. ``turns``: targets are angles, the nearest turn of each counts."""
    weights = first
    zeros = torch.zeros(len(penalty), targets.shape[1], dtype=torch.float64)
    solution = torch.zeros(basis.shape[1], targets.shape[1], dtype=torch.float64)
    for _ in range(ROUNDS):
        root = weights.sqrt()[:, None] / noise
        rows = torch.cat([root * basis, penalty])
        solution = torch.linalg.lstsq(rows, torch.cat([root * targets, zeros])).solution
        residual = targets - basis @ solution
        if turns:
            residual = wrap_angle(residual)
            targets = basis @ solution + residual
        weights = trust(residual / noise, weight)
    return solution


def levenberg_marquardt(
    residuals: Callable[[Tensor], Tensor], start: Float[Tensor, " p"], steps: int
) -> Float[Tensor, " p"]:
    """A minimum of ``|residuals(p)|²`` from ``start``; stops where a step gains < 10⁻⁶ of it."""
    point, damping = start, 1e-3
    value = residuals(point)
    matrix = _jacobian(residuals, point)
    for _ in range(steps):
        normal, slope = matrix.T @ matrix, matrix.T @ value
        diagonal = normal.diagonal().clamp_min(1e-9 * normal.diagonal().max())
        step = torch.linalg.solve(normal + damping * diagonal.diag(), slope)
        tried = residuals(point - step)
        before, after = float(value.square().sum()), float(tried.square().sum())
        if after < before:
            point, value, damping = point - step, tried, max(damping / 5, 1e-12)
            if before - after < 1e-6 * before:
                break
            matrix = _jacobian(residuals, point)
        else:
            damping *= 8
            if damping > 1e8:
                break
    return point


def _jacobian(
    residuals: Callable[[Tensor], Tensor], point: Float[Tensor, " p"]
) -> Float[Tensor, "q p"]:
    """Central differences, all columns at once: in float64 good to 1e-9, and no slower than
    forward-mode differentiation."""
    step = 1e-6 * torch.eye(len(point), dtype=torch.float64)
    many = torch.func.vmap(residuals, out_dims=1, chunk_size=64)
    return (many(point + step) - many(point - step)) / 2e-6


def unwrapped(
    yaw: Float[Tensor, " n"], kept: Float[Tensor, " n"], times: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Yaws made continuous: shortest arcs between those kept (> 0), the others beside them."""
    rows = kept.nonzero()[:, 0]
    steps = wrap_angle(yaw[rows].diff())
    chain = torch.cat([yaw[rows[:1]], yaw[rows[0]] + steps.cumsum(0)])
    after = torch.searchsorted(times[rows], times).clamp(1, max(1, len(rows) - 1))
    after = after.clamp_max(len(rows) - 1)
    before = (after - 1).clamp_min(0)
    length = (times[rows[after]] - times[rows[before]]).clamp_min(1e-12)
    share = ((times - times[rows[before]]) / length).clamp(0, 1)
    guess = chain[before] + share * (chain[after] - chain[before])
    return guess + wrap_angle(yaw - guess)
