"""What every motion model is: poses as a function of time, and how rough they are."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from protoscene.motion.knots import check_increasing


@dataclass(frozen=True)
class Noise:
    """Standard deviation of observed poses: ``centre`` metres per axis, ``yaw`` radians."""

    centre: float = 0.03
    yaw: float = math.radians(3.0)


@dataclass(frozen=True)
class Smoothness:
    """What a track is expected to do; ``inf`` expects nothing.

    A term is ``∫ (|dᵏx/dtᵏ| / expected)² dt``: a second at the expected value costs as much as
    one instant that is off by its noise. Metres and radians per second, second², second³.
    """

    velocity: float = math.inf
    acceleration: float = math.inf
    jerk: float = math.inf
    yaw_velocity: float = math.inf
    yaw_acceleration: float = math.inf
    yaw_jerk: float = math.inf

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                value = getattr(self, field.name)
                raise ValueError(f"smoothness.{field.name} is {value}, expected > 0")

    def of_centre(self) -> tuple[float, float, float]:
        return self.velocity, self.acceleration, self.jerk

    def of_yaw(self) -> tuple[float, float, float]:
        return self.yaw_velocity, self.yaw_acceleration, self.yaw_jerk


NO_SMOOTHNESS = Smoothness()
USUAL_NOISE = Noise()


class Motion(nn.Module, ABC):
    """A track: centre (m), yaw (rad) and one scale as differentiable functions of time (s).

    Parameters and arithmetic are float64. Yaw is continuous: it is not wrapped to one turn.
    """

    log_scale: nn.Parameter

    @classmethod
    @abstractmethod
    def fit(
        cls,
        times: Any,
        centre: Any,
        yaw: Any,
        scale: Any = None,
        weight: Any = None,
        smoothness: Smoothness = NO_SMOOTHNESS,
        noise: Noise = USUAL_NOISE,
    ) -> Motion:
        """The motion that least squares find for observed poses, with gross outliers let go.

        Minimises ``Σ weight (|Δcentre|²/noise.centre² + Δyaw²/noise.yaw²) + Σ smoothness terms``,
        Δyaw along the shortest arc. ``times`` (n,) seconds, increasing; ``centre`` (n, 3) metres;
        ``yaw`` (n,) radians; ``scale`` (n,) > 0, of which the median stays (1 if left out);
        ``weight`` (n,) ≥ 0. Missing instants are rows left out or of weight 0. An instant farther
        than 3 noises from the rest counts less (weight · (3/r)⁴). Where the poses leave something
        open, it is the straightest and then the shortest. Raises ValueError naming the row.
        """

    @abstractmethod
    def pose(self, times: Float[Tensor, " t"]) -> tuple[Float[Tensor, "t 3"], Float[Tensor, " t"]]:
        """Centre (m) and yaw (rad) at float64 ``times``."""

    @abstractmethod
    def rough(self, order: int) -> tuple[Float[Tensor, "q 3"], Float[Tensor, " q"]]:
        """The ``order``-th derivatives of centre and yaw at q times, each multiplied with the root
        of its share of the time, so that the sum of their squares is ``∫ |dᵏx/dtᵏ|² dt``; centre
        in any orthonormal frame."""

    def at(
        self, times: Any, dtype: torch.dtype = torch.float64
    ) -> tuple[Float[Tensor, "t 3"], Float[Tensor, " t"], Float[Tensor, " t"]]:
        """Centre (t, 3) metres, yaw (t,) radians and scale (t,) at ``times`` (s), in any order.

        Raises ValueError naming a time that is not finite.
        """
        times = torch.as_tensor(times, dtype=torch.float64, device=self.log_scale.device)
        times = times.reshape(-1).contiguous()
        check_finite("times", times)
        centre, yaw = self.pose(times)
        return centre.to(dtype), yaw.to(dtype), self.scale(times).to(dtype)

    def scale(self, times: Float[Tensor, " t"]) -> Float[Tensor, " t"]:
        """One scale for the whole track."""
        return self.log_scale.exp().expand(len(times))

    def smoothness(self, expected: Smoothness) -> dict[str, Tensor]:
        """``∫ (|dᵏx/dtᵏ| / expected)² dt`` from the first knot to the last, by the names of
        ``expected``'s fields; those that are ``inf`` are left out. With 1 as expected value it
        is the plain integral: m²/s, m²/s³, m²/s⁵ and the same in radians."""
        terms: dict[str, Tensor] = {}
        for order, name in enumerate(("velocity", "acceleration", "jerk"), start=1):
            centre, yaw = self.rough(order)
            for key, rows in ((name, centre), (f"yaw_{name}", yaw)):
                if math.isfinite(getattr(expected, key)):
                    terms[key] = (rows / getattr(expected, key)).square().sum()
        return terms


@dataclass(frozen=True, eq=False)
class Observed:
    """Checked observations, float64, detached: those that :meth:`Motion.fit` takes."""

    times: Tensor
    centre: Tensor
    yaw: Tensor
    scale: Tensor
    weight: Tensor


def observed(
    times: Any, centre: Any, yaw: Any = 0.0, scale: Any = None, weight: Any = None
) -> Observed:
    """Raises ValueError naming what is empty, of another length, or the first row that is wrong."""
    seconds = _float64(times).reshape(-1)
    n = len(seconds)
    if n == 0:
        raise ValueError("times is empty, expected at least one instant")
    check_increasing("times", seconds)
    rows = {
        "centre": _float64(centre),
        "yaw": _float64(yaw),
        "scale": _float64(1.0 if scale is None else scale),
        "weight": _float64(1.0 if weight is None else weight),
    }
    for name, value in rows.items():
        if value.dim() == 0 and name != "centre":
            rows[name] = value = value.expand(n)
        expected = (n, 3) if name == "centre" else (n,)
        if tuple(value.shape) != expected:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}, expected {expected}: times has {n} rows"
            )
        check_finite(name, value)
    _check_rows("scale", rows["scale"], rows["scale"] > 0, "more than 0")
    _check_rows("weight", rows["weight"], rows["weight"] >= 0, "at least 0")
    if not (rows["weight"] > 0).any():
        raise ValueError("weight is 0 in every row, expected an instant that says something")
    return Observed(seconds, **rows)


def check_finite(name: str, value: Tensor) -> None:
    _check_rows(name, value, torch.isfinite(value.detach()), "finite")


def _check_rows(name: str, value: Tensor, fine: Tensor, expected: str) -> None:
    bad = ~fine.reshape(len(fine), -1).all(dim=1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(f"{name}[{row}] is {value[row].tolist()}, expected {expected}")


def _float64(value: Any) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64).detach().cpu().contiguous()


def median_log_scale(seen: Observed) -> Tensor:
    """Of the instants that have a weight."""
    return torch.quantile(seen.scale[seen.weight > 0].log(), 0.5)
