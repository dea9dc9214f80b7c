"""Motion on wheels: the nose leads, curvature is linear in arc length between knots."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from protoscene.geometry import wrap_angle
from protoscene.motion.knots import (
    acceleration_pieces,
    checked_knots,
    gauss_legendre,
    polynomials,
)
from protoscene.motion.least_squares import levenberg_marquardt, trust
from protoscene.motion.linear import Accelerated, LinearMotion
from protoscene.motion.model import (
    NO_SMOOTHNESS,
    USUAL_NOISE,
    Motion,
    Noise,
    Observed,
    Smoothness,
    observed,
)
from protoscene.motion.wheels import Road, Wheels

CREEP = 0.05
"""m/s and m: slower or shorter says little about curvature, when one is guessed."""
ROUNDS = 3
STEPS = 30


class Clothoid(Motion):
    """Yaw is the heading; ``position = start + ∫ (cos θ, sin θ) ds`` by Gauss–Legendre.

    ``travel`` (k + 1,): signed speed at the first knot (m/s; < 0 reverses), then its rate of change
    at each knot (m/s²), linear in between. ``heading`` () rad and ``curvature`` () 1/m at the first
    knot, ``sharpness`` (k − 1,) 1/m²: its change per metre in each segment. ``start`` (2,) metres.
    ``height`` (k + 2,): z as in :class:`Accelerated`. Turning on the spot and sliding are beyond
    it. ``fit`` puts a knot at every second instant, begins with an :class:`Accelerated` fit and
    goes on by Levenberg–Marquardt. Beyond the ends: constant speed and curvature.
    """

    knots: Tensor
    pieces: Tensor

    def __init__(self, knots: Any) -> None:
        super().__init__()
        knots = checked_knots(knots)
        self.register_buffer("knots", knots)
        self.register_buffer("pieces", acceleration_pieces(knots))
        k = len(knots)
        self.start = _parameter(2)
        self.heading = _parameter()
        self.curvature = _parameter()
        self.sharpness = _parameter(k - 1)
        self.travel = _parameter(k + 1)
        self.height = _parameter(k + 2)
        self.log_scale = _parameter()

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
    ) -> Clothoid:
        seen = observed(times, centre, yaw, scale, weight)
        guide = Accelerated.fit(times, centre, yaw, scale, weight, smoothness, noise)
        motion = cls(guide.knots)
        with torch.no_grad():
            motion._follow(guide)
            motion._refine(seen, smoothness, noise)
        return motion

    def pose(self, times: Float[Tensor, " t"]) -> tuple[Float[Tensor, "t 3"], Float[Tensor, " t"]]:
        xy, heading = self._road.drive(self._wheels, times)
        z = polynomials(self.knots, self.pieces, times) @ self.height
        return torch.cat([xy, z[:, None]], dim=1), heading

    def rough(self, order: int) -> tuple[Float[Tensor, "q 3"], Float[Tensor, " q"]]:
        """By 4 Gauss–Legendre nodes a segment; x and y along and across the heading."""
        times, weights = gauss_legendre(self.knots, 4)
        path, turn = self._road.rates(self._wheels, times, order)
        z = polynomials(self.knots, self.pieces, times, order) @ self.height
        root = weights.sqrt()
        return root[:, None] * torch.cat([path, z[:, None]], dim=1), root * turn

    @property
    def _road(self) -> Road:
        return Road(self.knots, self.pieces)

    @property
    def _wheels(self) -> Wheels:
        return Wheels(self.start, self.heading, self.curvature, self.sharpness, self.travel)

    def _follow(self, guide: LinearMotion) -> None:
        """Speed along the guide's yaw, and its turning per metre; height and scale are its."""
        times, _ = gauss_legendre(self.knots, 3)
        slope = polynomials(self.knots, self.pieces, times, 1)
        heading, velocity = guide.basis(times) @ guide.yaw, slope @ guide.centre[:, :2]
        speed = velocity[:, 0] * heading.cos() + velocity[:, 1] * heading.sin()
        self.travel.copy_(torch.linalg.lstsq(slope[:, 1:], speed[:, None]).solution[:, 0])
        centre, yaw = guide.pose(self.knots)
        self.start.copy_(centre[0, :2])
        self.heading.copy_(yaw[0])
        speed = self._road.travelled(self._wheels, self.knots, 1)
        turning = guide.basis(self.knots, 1) @ guide.yaw
        curvature = turning * speed / (speed.square() + CREEP**2)
        length = self._road.travelled(self._wheels, self.knots).diff()
        self.curvature.copy_(curvature[0])
        self.sharpness.copy_(curvature.diff() * length / (length.square() + CREEP**2))
        self.height.copy_(guide.centre[:, 2])
        self.log_scale.copy_(guide.log_scale)

    def _refine(self, seen: Observed, smoothness: Smoothness, noise: Noise) -> None:
        """Least squares of the wheels' variables from where they are."""
        road, sizes = self._road, [value.numel() for value in self._wheels]
        nodes, share = gauss_legendre(self.knots, 4)
        expected = list(zip(smoothness.of_centre(), smoothness.of_yaw(), strict=True))

        def wheels(point: Tensor) -> Wheels:
            parts = zip(point.split(sizes), self._wheels, strict=True)
            return Wheels(*(part.reshape(old.shape) for part, old in parts))

        def misfit(point: Tensor) -> tuple[Tensor, Tensor]:
            xy, heading = road.drive(wheels(point), seen.times)
            turn = wrap_angle(seen.yaw - heading)[:, None]
            return (seen.centre[:, :2] - xy) / noise.centre, turn / noise.yaw

        def residuals(of_xy: Tensor, of_yaw: Tensor, point: Tensor) -> Tensor:
            xy, turn = misfit(point)
            rows = [(of_xy.sqrt()[:, None] * xy).reshape(-1), of_yaw.sqrt() * turn[:, 0]]
            for order, (metres, radians) in enumerate(expected, start=1):
                if math.isfinite(metres) or math.isfinite(radians):
                    path, turning = road.rates(wheels(point), nodes, order)
                    path, turning = path / metres, turning / radians
                    rows += [(share.sqrt()[:, None] * path).reshape(-1), share.sqrt() * turning]
            return torch.cat(rows)

        point = torch.cat([value.detach().reshape(-1) for value in self._wheels])
        for _ in range(ROUNDS):
            weights = [trust(r, seen.weight) for r in misfit(point)]
            point = levenberg_marquardt(partial(residuals, *weights), point, STEPS)
        for parameter, value in zip(self._wheels, wheels(point), strict=True):
            parameter.copy_(value)


def _parameter(*size: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(size, dtype=torch.float64))
