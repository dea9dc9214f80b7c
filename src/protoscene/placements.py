"""Rows that say where which prototype stands: the one type that discovery and detection share."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, init=False)
class Placements:
    """n placements. Anything array-like is accepted; missing yaw, scale, presence are 0, 1, 1.

    ``which`` (n,) long indices into the prototypes, or (n, K) weights over all of them;
    ``centre`` (n, 3) metres, world; ``yaw`` (n,) radians; ``scale`` (n,) or (n, 3), > 0;
    ``presence`` (n,) in [0, 1]. Raises ValueError naming the field (and the row, for a value that
    is not finite or a scale ≤ 0).
    """

    which: Tensor
    centre: Tensor
    yaw: Tensor
    scale: Tensor
    presence: Tensor

    def __init__(
        self, which: Any, centre: Any, yaw: Any = None, scale: Any = None, presence: Any = None
    ) -> None:
        centre = _floating(centre).reshape(-1, 3)
        n = centre.shape[0]
        which = which if isinstance(which, Tensor) else torch.as_tensor(which)
        which = which.to(centre.device)
        if which.dim() < 2:
            which = which.reshape(-1).long()
        values = {
            "which": which,
            "centre": centre,
            "yaw": _filled(yaw, n, 0.0, centre),
            "scale": _filled(scale, n, 1.0, centre),
            "presence": _filled(presence, n, 1.0, centre),
        }
        for name, value in values.items():
            if value.shape[0] != n:
                raise ValueError(f"placements.{name} has {value.shape[0]} rows, centre has {n}")
            object.__setattr__(self, name, value)
        self.check()

    def check(self) -> None:
        """Raise ValueError where a value is none (an optimizer's step may have made it so)."""
        weights = ("which",) if self.which.is_floating_point() else ()
        for name in ("centre", "yaw", "scale", "presence", *weights):
            value = getattr(self, name).detach()
            bad = ~torch.isfinite(value)
            if name == "scale":
                bad |= value <= 0
            if bad.any():
                row = int(bad.reshape(len(self), -1).any(dim=1).nonzero()[0])
                expected = "finite and > 0" if name == "scale" else "finite"
                raise ValueError(
                    f"placements.{name}[{row}] is {value[row].tolist()}, expected {expected}"
                )

    def __len__(self) -> int:
        return int(self.centre.shape[0])

    def __getitem__(self, rows: Any) -> Placements:
        """The rows that an index, a slice or a boolean mask chooses."""
        if isinstance(rows, int):
            rows = slice(rows, rows + 1)
        return Placements(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def _floating(value: Any) -> Tensor:
    # torch.compile warns where as_tensor meets a tensor that carries a graph.
    tensor = value if isinstance(value, Tensor) else torch.as_tensor(value)
    return tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())


def _filled(value: Any, n: int, default: float, like: Tensor) -> Tensor:
    if value is None:
        return like.new_full((n,), default)
    if not isinstance(value, Tensor):
        value = torch.as_tensor(value)
    tensor = value.to(like.device)
    return tensor.to(like.dtype) if tensor.dim() else tensor.to(like.dtype).expand(n)
