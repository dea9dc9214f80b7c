"""Knots in time, what is polynomial between them, and integrals over them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


def checked_knots(knots: Any) -> Float[Tensor, " k"]:
    """(k,) seconds in float64. Raises ValueError unless they are ≥ 2, finite and increase."""
    knots = torch.as_tensor(knots, dtype=torch.float64).reshape(-1)
    knots = knots.detach().clone(memory_format=torch.contiguous_format)  # not the caller's
    if len(knots) < 2:
        raise ValueError(f"a motion needs at least 2 knots, got {len(knots)}")
    check_increasing("knots", knots)
    return knots


def check_increasing(name: str, times: Tensor) -> None:
    """Raises ValueError naming the first row that is not finite or not after the one before."""
    values = times.detach().tolist()
    for row, value in enumerate(values):
        if not math.isfinite(value):
            raise ValueError(f"{name}[{row}] is {value}, expected finite seconds")
        if row and value <= values[row - 1]:
            raise ValueError(
                f"{name}[{row}] is {value}, expected more than {values[row - 1]} before it"
            )


def spread(times: Float[Tensor, " t"], every: int) -> Float[Tensor, " k"]:
    """Knots at every ``every``-th time and the last; for a single time, it and a second later."""
    if len(times) == 1:
        return torch.stack([times[0], times[0] + 1.0])
    return torch.cat([times[:-1:every], times[-1:]])


def segment(
    knots: Float[Tensor, " k"], times: Float[Tensor, " t"]
) -> tuple[Int[Tensor, " t"], Float[Tensor, " t"]]:
    """Which of the k − 1 segments a time is in, and seconds since its knot; times beyond the ends
    belong to the first and the last segment, with a time < 0 or more than its length."""
    index = torch.searchsorted(knots, times.detach(), right=True) - 1
    index = index.clamp(0, len(knots) - 2)
    return index, times - knots[index]


def polynomials(
    knots: Float[Tensor, " k"],
    pieces: Float[Tensor, "k-1 d p"],
    times: Float[Tensor, " t"],
    order: int = 0,
    goes_on: bool = True,
) -> Float[Tensor, "t p"]:
    """Rows B with ``x(t) = B @ coefficients``: the ``order``-th derivative of the polynomials
    ``Σ_d s^d pieces[i, d]``, s seconds since knot i.

    Beyond the ends it holds, or ``goes_on`` at the speed it had there.
    """
    index, since = segment(knots, times)
    length = knots[1:][index] - knots[:-1][index]
    inside = torch.minimum(since.clamp_min(0.0), length)
    rows = _derivative(pieces[index], inside, order)
    if order == 0 and goes_on:
        rows = rows + (since - inside)[:, None] * _derivative(pieces[index], inside, 1)
    return rows


def _derivative(pieces: Tensor, s: Tensor, order: int) -> Tensor:
    result = torch.zeros_like(pieces[:, 0])
    for degree in range(pieces.shape[1] - 1, order - 1, -1):  # Horner
        result = result * s[:, None] + math.perm(degree, order) * pieces[:, degree]
    return result


def gauss_legendre(
    knots: Float[Tensor, " k"], n: int
) -> tuple[Float[Tensor, " q"], Float[Tensor, " q"]]:
    """Times and weights (seconds) with ``∫ f dt = Σ weight f(time)`` over all segments, exact for
    polynomials of degree ≤ 2n − 1 between knots."""
    nodes, weights = (values.to(knots) for values in unit_nodes(n))
    length = knots.diff()
    times = knots[:-1, None] + length[:, None] * nodes
    return times.reshape(-1), (length[:, None] * weights).reshape(-1)


def unit_nodes(n: int) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Gauss–Legendre nodes and weights on 0..1."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy(0.5 * (nodes + 1)), torch.from_numpy(0.5 * weights)


def acceleration_pieces(knots: Float[Tensor, " k"]) -> Float[Tensor, "k-1 4 k+2"]:
    """Cubics of a motion whose acceleration is linear between knots.

    Coefficients: position and velocity at the first knot, then the acceleration at each knot:
    ``x_i + v_i s + a_i s²/2 + (a_{i+1} − a_i) s³/6h``, with
    ``v_{i+1} = v_i + h (a_i + a_{i+1})/2`` and ``x_{i+1} = x_i + v_i h + h² (2 a_i + a_{i+1})/6``.
    """
    count = len(knots)
    unit = torch.eye(count + 2, dtype=torch.float64)
    place, speed, acceleration = unit[0], unit[1], unit[2:]
    pieces = torch.empty(count - 1, 4, count + 2, dtype=torch.float64)
    for i, h in enumerate(knots.diff().tolist()):
        now, then = acceleration[i], acceleration[i + 1]
        pieces[i] = torch.stack([place, speed, now / 2, (then - now) / (6 * h)])
        place = place + h * speed + h * h * (2 * now + then) / 6
        speed = speed + h * (now + then) / 2
    return pieces


def spline_pieces(knots: Float[Tensor, " k"]) -> Float[Tensor, "k-1 4 k+2"]:
    """Cubics of the uniform cubic B-spline: segment i blends control points i to i + 3."""
    matrix = [[1, 4, 1, 0], [-3, 0, 3, 0], [3, -6, 3, 0], [-1, 3, -3, 1]]
    blend = torch.tensor(matrix, dtype=torch.float64) / 6
    pieces = torch.zeros(len(knots) - 1, 4, len(knots) + 2, dtype=torch.float64)
    for i, h in enumerate(knots.diff().tolist()):
        pieces[i, :, i : i + 4] = blend / h ** torch.arange(4, dtype=torch.float64)[:, None]
    return pieces


def line_pieces(knots: Float[Tensor, " k"]) -> Float[Tensor, "k-1 2 k"]:
    """Straight lines between one value per knot."""
    unit = torch.eye(len(knots), dtype=torch.float64)
    return torch.stack([unit[:-1], unit.diff(dim=0) / knots.diff()[:, None]], dim=1)


def finite_differences(knots: Float[Tensor, " k"], order: int) -> Float[Tensor, "q k"]:
    """Rows D with ``Σ (D x)² ≈ ∫ (d^order x / dt^order)² dt`` for values at non-uniform knots.

    Divided differences times order!, each weighted with the mean length of its steps, all weights
    scaled to sum to the whole time: exact for polynomials of that degree. Too few knots: no rows.
    """
    rows = torch.eye(len(knots), dtype=torch.float64, device=knots.device)
    if len(knots) <= order:
        return rows[:0]
    for step in range(1, order + 1):
        rows = step * rows.diff(dim=0) / (knots[step:] - knots[:-step])[:, None]
    weight = knots[order:] - knots[:-order]
    weight = weight * (knots[-1] - knots[0]) / weight.sum()
    return weight.sqrt()[:, None] * rows
