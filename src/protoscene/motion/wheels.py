"""Where wheels take a thing: heading and place from travelled length and curvature."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from protoscene.motion.knots import polynomials, unit_nodes

NODES = 8
"""Gauss–Legendre nodes an arc: errors below 1e-9 of its length up to half a turn within it."""


class Wheels(NamedTuple):
    """The variables; see :class:`Clothoid`, whose parameters they are."""

    start: Tensor
    heading: Tensor
    curvature: Tensor
    sharpness: Tensor
    travel: Tensor


class Road(NamedTuple):
    """k knots (s) and the cubics (:func:`acceleration_pieces`) of the travelled length."""

    knots: Tensor
    pieces: Tensor

    def travelled(
        self, wheels: Wheels, times: Float[Tensor, " t"], order: int = 0
    ) -> Float[Tensor, " t"]:
        """Signed length since the first knot (m), or its ``order``-th derivative by time."""
        rows = polynomials(self.knots, self.pieces, times, order)
        return rows[:, 1:] @ wheels.travel  # column 0 is the length at the first knot: 0

    def drive(
        self, wheels: Wheels, times: Float[Tensor, " t"]
    ) -> tuple[Float[Tensor, "t 2"], Float[Tensor, " t"]]:
        """Position (m) and heading (rad). Beyond the ends curvature stays what it was there."""
        heading, curvature, sharpness, beyond, knot = self._arcs(wheels, times)
        lengths = self.travelled(wheels, self.knots).diff()
        first = slice(0, len(lengths))
        arcs = _arc(heading[first], curvature[first], wheels.sharpness, lengths)
        corners = torch.cat([wheels.start[None], wheels.start + arcs.cumsum(dim=0)])
        bend = curvature[knot], sharpness, beyond
        xy = corners[knot] + _arc(heading[knot], *bend)
        return xy, heading[knot] + _turn(*bend)

    def rates(
        self, wheels: Wheels, times: Float[Tensor, " t"], order: int
    ) -> tuple[Float[Tensor, "t 2"], Float[Tensor, " t"]]:
        """``order``-th derivatives by time between the ends: of position, along and across the
        heading, and of heading. With ṡ, s̈, s⃛ of the travelled length, curvature κ and its
        change per metre c: (ṡ, 0), (s̈, κṡ²), (s⃛ − κ²ṡ³, 3κṡs̈ + cṡ³); κṡ, cṡ² + κs̈,
        3cṡs̈ + κs⃛."""
        _, curvature, sharpness, beyond, knot = self._arcs(wheels, times)
        bend = curvature[knot] + sharpness * beyond
        speed = self.travelled(wheels, times, 1)
        if order == 1:
            return torch.stack([speed, torch.zeros_like(speed)], dim=1), bend * speed
        faster = self.travelled(wheels, times, 2)
        if order == 2:
            path = torch.stack([faster, bend * speed**2], dim=1)
            return path, sharpness * speed**2 + bend * faster
        jerk = self.travelled(wheels, times, 3)
        across = 3 * bend * speed * faster + sharpness * speed**3
        path = torch.stack([jerk - bend**2 * speed**3, across], dim=1)
        return path, 3 * sharpness * speed * faster + bend * jerk

    def _arcs(
        self, wheels: Wheels, times: Float[Tensor, " t"]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Heading and curvature at the knots; per time: sharpness, length since its knot, knot."""
        place = torch.searchsorted(self.knots, times.detach(), right=True)
        knot = (place - 1).clamp_min(0)
        straight = wheels.sharpness.new_zeros(1)
        sharpness = torch.cat([straight, wheels.sharpness, straight])[place]
        lengths = self.travelled(wheels, self.knots)
        step = lengths.diff()
        curvature = wheels.curvature + (wheels.sharpness * step).cumsum(0)
        curvature = torch.cat([wheels.curvature[None], curvature])
        turns = _turn(curvature[:-1], wheels.sharpness, step).cumsum(0)
        heading = torch.cat([wheels.heading[None], wheels.heading + turns])
        beyond = self.travelled(wheels, times) - lengths[knot]
        return heading, curvature, sharpness, beyond, knot


def _turn(curvature: Tensor, sharpness: Tensor, length: Tensor) -> Tensor:
    return curvature * length + 0.5 * sharpness * length**2


def _arc(heading: Tensor, curvature: Tensor, sharpness: Tensor, length: Tensor) -> Tensor:
    """(n, 2) metres: ``∫ (cos θ, sin θ) dσ`` from 0 to ``length``, θ = heading + κσ + cσ²/2."""
    nodes, weights = unit_nodes(NODES)
    along = length[:, None] * nodes.to(length)
    angle = heading[:, None] + _turn(curvature[:, None], sharpness[:, None], along)
    share = length[:, None] * weights.to(length)
    return torch.stack([(share * angle.cos()).sum(1), (share * angle.sin()).sum(1)], dim=1)
