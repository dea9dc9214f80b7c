"""A track in parts: each between two breaks has a motion of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from protoscene.motion.knots import check_increasing
from protoscene.motion.model import NO_SMOOTHNESS, USUAL_NOISE, Motion, Noise, Smoothness, observed


class Parts(nn.Module):
    """Motions one after the other: a time at or after a break belongs to the later part.

    There is no smoothness across a break. ``breaks`` (p − 1,) seconds, increasing, for p parts;
    ValueError otherwise.
    """

    breaks: Tensor

    def __init__(self, parts: Sequence[Motion], breaks: Any) -> None:
        super().__init__()
        breaks = torch.as_tensor(breaks, dtype=torch.float64).reshape(-1)
        check_increasing("breaks", breaks)
        if len(parts) != len(breaks) + 1:
            raise ValueError(f"{len(parts)} parts have {len(parts) - 1} breaks, got {len(breaks)}")
        self.parts = nn.ModuleList(parts)
        self.register_buffer("breaks", breaks)

    @classmethod
    def fit(
        cls,
        model: type[Motion],
        breaks: Any,
        times: Any,
        centre: Any,
        yaw: Any,
        scale: Any = None,
        weight: Any = None,
        smoothness: Smoothness = NO_SMOOTHNESS,
        noise: Noise = USUAL_NOISE,
    ) -> Parts:
        """``model.fit`` of the instants between each two of ``breaks`` (s); a part in which none
        has a weight is joined to the next (the last to the one before)."""
        seen = observed(times, centre, yaw, scale, weight)
        breaks = torch.as_tensor(breaks, dtype=torch.float64).reshape(-1)
        check_increasing("breaks", breaks)
        part = torch.searchsorted(breaks, seen.times, right=True)
        full = torch.unique(part[seen.weight > 0])
        breaks = breaks[full[:-1]]  # the break at which each full part but the last ends
        part = torch.searchsorted(breaks, seen.times, right=True)
        motions = []
        for k in range(len(full)):
            rows = part == k
            motions.append(
                model.fit(
                    seen.times[rows],
                    seen.centre[rows],
                    seen.yaw[rows],
                    seen.scale[rows],
                    seen.weight[rows],
                    smoothness,
                    noise,
                )
            )
        return cls(motions, breaks)

    def at(
        self, times: Any, dtype: torch.dtype = torch.float64
    ) -> tuple[Float[Tensor, "t 3"], Float[Tensor, " t"], Float[Tensor, " t"]]:
        """As :meth:`Motion.at`, each time by the motion of its part."""
        times = torch.as_tensor(times, dtype=torch.float64, device=self.breaks.device)
        times = times.reshape(-1).contiguous()
        part = torch.searchsorted(self.breaks, times.detach(), right=True)
        order = torch.argsort(part, stable=True)
        poses = [motion.at(times[part == k], dtype) for k, motion in enumerate(self._motions())]
        centre, yaw, scale = (
            torch.cat(values)[order.argsort()] for values in zip(*poses, strict=True)
        )
        return centre, yaw, scale

    def smoothness(self, expected: Smoothness) -> dict[str, Tensor]:
        """The sums of the parts' terms."""
        terms = [motion.smoothness(expected) for motion in self._motions()]
        return {name: torch.stack([t[name] for t in terms]).sum() for name in terms[0]}

    def _motions(self) -> list[Motion]:
        return [cast(Motion, part) for part in self.parts]
