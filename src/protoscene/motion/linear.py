"""Motions whose poses are linear in their parameters: polyline, accelerations, cubic spline."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from protoscene.geometry import wrap_angle
from protoscene.motion.knots import (
    acceleration_pieces,
    checked_knots,
    finite_differences,
    gauss_legendre,
    line_pieces,
    polynomials,
    spline_pieces,
    spread,
)
from protoscene.motion.least_squares import linear_fit, unwrapped
from protoscene.motion.model import (
    NO_SMOOTHNESS,
    USUAL_NOISE,
    Motion,
    Noise,
    Smoothness,
    median_log_scale,
    observed,
)
from protoscene.motion.outliers import followers


class LinearMotion(Motion):
    """``centre(t) = B(t) @ centre``, ``yaw(t) = B(t) @ yaw`` with piecewise polynomials B."""

    knots: Tensor
    pieces: Tensor
    goes_on = True
    """Beyond the first and last knot: at the speed it had there, or it holds."""

    def __init__(self, knots: Any) -> None:
        super().__init__()
        knots = checked_knots(knots)
        pieces = self.pieces_of(knots)
        self.register_buffer("knots", knots)
        self.register_buffer("pieces", pieces)
        n = pieces.shape[2]
        self.centre = nn.Parameter(torch.zeros(n, 3, dtype=torch.float64))
        self.yaw = nn.Parameter(torch.zeros(n, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.zeros((), dtype=torch.float64))

    @staticmethod
    @abstractmethod
    def pieces_of(knots: Float[Tensor, " k"]) -> Float[Tensor, "k-1 d p"]:
        """The polynomials between ``knots`` that each parameter adds."""

    @staticmethod
    @abstractmethod
    def knots_for(times: Float[Tensor, " t"]) -> Float[Tensor, " k"]:
        """The knots that :meth:`fit` takes for observed ``times``."""

    @classmethod
    def fit(
        cls,
        times: Any,
        centre: Any,
        yaw: Any,
        scale: Any = None,
        weight: Any = None,
        smoothness: Smoothness = NO_SMOOTHNESS,
        noise: Noise = USUAL_NOISE,
    ) -> LinearMotion:
        seen = observed(times, centre, yaw, scale, weight)
        motion = cls(cls.knots_for(seen.times))
        of_centre, of_yaw = (
            seen.weight * torch.from_numpy(mask) for mask in followers(seen, noise)
        )
        basis = motion.basis(seen.times)
        turned = unwrapped(seen.yaw, of_yaw, seen.times)[:, None]
        with torch.no_grad():
            rows = motion.penalty(smoothness.of_centre(), noise.centre)
            motion.centre.copy_(
                linear_fit(basis, seen.centre, seen.weight, of_centre, rows, noise.centre)
            )
            rows = motion.penalty(smoothness.of_yaw(), noise.yaw)
            motion.yaw.copy_(
                linear_fit(basis, turned, seen.weight, of_yaw, rows, noise.yaw, turns=True)[:, 0]
            )
            motion.log_scale.copy_(median_log_scale(seen))
        return motion

    def basis(self, times: Float[Tensor, " t"], order: int = 0) -> Float[Tensor, "t p"]:
        """B(t), or its derivative of that ``order`` between the first and last knot."""
        return polynomials(self.knots, self.pieces, times, order, self.goes_on)

    def differences(self, order: int) -> Float[Tensor, "q p"]:
        """Rows D with ``∫ |dᵏx/dtᵏ|² dt = |D c|²``, exact: 3 nodes see cubics' squared slopes."""
        times, weights = gauss_legendre(self.knots, 3)
        return weights.sqrt()[:, None] * self.basis(times, order)

    def penalty(self, expected: tuple[float, float, float], noise: float) -> Float[Tensor, "q p"]:
        """The rows of smoothness, and a trace of straightness for what poses leave open."""
        step = float(self.knots.diff().median())
        rows = [
            1e-8 / noise * step**0.5 * self.differences(1),
            1e-4 / noise * step**1.5 * self.differences(2),
        ]
        for order, value in enumerate(expected, start=1):
            if math.isfinite(value):
                rows.append(self.differences(order) / value)
        return torch.cat(rows)

    def pose(self, times: Float[Tensor, " t"]) -> tuple[Float[Tensor, "t 3"], Float[Tensor, " t"]]:
        basis = self.basis(times)
        return basis @ self.centre, basis @ self.continuous_yaw()

    def continuous_yaw(self) -> Float[Tensor, " p"]:
        return self.yaw

    def rough(self, order: int) -> tuple[Float[Tensor, "q 3"], Float[Tensor, " q"]]:
        rows = self.differences(order)
        return rows @ self.centre, rows @ self.continuous_yaw()


class Polyline(LinearMotion):
    """The literal trajectory: ``centre`` (k, 3) and ``yaw`` (k,) at each knot, linear in between,
    yaw along the shortest arc; holds beyond the ends. ``fit`` puts a knot at every instant.

    Smoothness by finite differences: nothing for fewer knots than a derivative needs.
    """

    goes_on = False

    @staticmethod
    def pieces_of(knots: Float[Tensor, " k"]) -> Float[Tensor, "k-1 2 k"]:
        return line_pieces(knots)

    @staticmethod
    def knots_for(times: Float[Tensor, " t"]) -> Float[Tensor, " k"]:
        return spread(times, every=1)

    def differences(self, order: int) -> Float[Tensor, "q p"]:
        return finite_differences(self.knots, order)

    def continuous_yaw(self) -> Float[Tensor, " k"]:
        return torch.cat([self.yaw[:1], self.yaw[0] + wrap_angle(self.yaw.diff()).cumsum(0)])


class Accelerated(LinearMotion):
    """Integrated accelerations, linear between knots and integrated exactly.

    Rows of ``centre`` (k + 2, 3) and ``yaw`` (k + 2,): position and velocity at the first knot
    (m, m/s), then the acceleration at each knot (m/s²); yaw likewise in radians. ``fit`` finds
    them all together by least squares, with a knot at every second instant. Beyond the ends:
    constant velocity.
    """

    @staticmethod
    def pieces_of(knots: Float[Tensor, " k"]) -> Float[Tensor, "k-1 4 k+2"]:
        return acceleration_pieces(knots)

    @staticmethod
    def knots_for(times: Float[Tensor, " t"]) -> Float[Tensor, " k"]:
        return spread(times, every=2)


class Spline(LinearMotion):
    """Uniform cubic B-spline (C²): control points ``centre`` (k + 2, 3), ``yaw`` (k + 2,).

    The curves are those of the clamped spline on the same knots. Knots must be equally far apart
    (ValueError); ``fit`` takes half as many segments as instants. Beyond the ends: constant
    velocity.
    """

    @staticmethod
    def pieces_of(knots: Float[Tensor, " k"]) -> Float[Tensor, "k-1 4 k+2"]:
        steps = knots.diff()
        if float(steps.max() - steps.min()) > 1e-6 * float(steps.mean()):
            raise ValueError(
                f"knots are {float(steps.min())} to {float(steps.max())} s apart, expected equal"
            )
        return spline_pieces(knots)

    @staticmethod
    def knots_for(times: Float[Tensor, " t"]) -> Float[Tensor, " k"]:
        ends = spread(times, every=len(times))
        count = len(times) // 2 + 1
        share = torch.linspace(0.0, 1.0, max(2, count), dtype=torch.float64)
        return ends[0] + share * (ends[-1] - ends[0])
