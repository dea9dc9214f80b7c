"""What compose is given, checked and brought into the form that the operators take."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from protoscene.geometry import Grid
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.volume import Volume

CAPS = ("hard", "smooth")
BACKENDS = ("numba", "torch", "reference")


def common_type(
    voxels: Tensor, background: Tensor | None
) -> tuple[Tensor, Tensor | None, torch.dtype]:
    """Both in the type to compute in, which is at least float32, and the result's type."""
    dtype = voxels.dtype
    if background is not None:
        # An empty dictionary has no say.
        own = dtype if len(voxels) else background.dtype
        dtype = torch.promote_types(own, background.dtype)
    work = torch.promote_types(dtype, torch.float32)
    device = voxels.device if len(voxels) or background is None else background.device
    ground = None if background is None else background.to(device, work)
    return voxels.to(device, work), ground, dtype


def hard_rows(placements: Placements) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """which, centre, yaw, scale (n, 3), presence: a row of K weights becomes K rows."""
    p = placements
    scale = p.scale[:, None].expand(-1, 3) if p.scale.dim() == 1 else p.scale
    if p.which.dim() == 1:
        return p.which, p.centre, p.yaw, scale, p.presence
    n, k = p.which.shape
    centre, yaw, scale = (v.repeat_interleave(k, dim=0) for v in (p.centre, p.yaw, scale))
    which = torch.arange(k, device=p.which.device).repeat(n)
    return which, centre, yaw, scale, (p.presence[:, None] * p.which).reshape(-1)


def resampled(volume: Volume, grid: Grid) -> Tensor:
    """``volume``'s (C, z, y, x) at ``grid``'s voxel centres, colour premultiplied on the way.

    The axes are parallel, so that one linear interpolation per axis does it.
    """
    if volume.grid == grid:
        return volume.rgba
    values = torch.cat([volume.colour * volume.occupancy, volume.rgba[-1:]])
    for axis, positions in enumerate(grid.axes()):
        dim = 3 - axis
        index = volume.grid.index_from_world(np.stack([positions] * 3, axis=-1))[:, axis]
        low = np.floor(index)
        result: Tensor | float = 0.0
        for voxel, share in ((low, low + 1 - index), (low + 1, index - low)):
            inside = (voxel >= 0) & (voxel < values.shape[dim])
            chosen = torch.as_tensor(voxel.clip(0, values.shape[dim] - 1), device=values.device)
            shape = [-1 if d == dim else 1 for d in range(4)]
            weight = torch.as_tensor(share * inside).to(values).reshape(shape)
            result = result + values.index_select(dim, chosen.long()) * weight
        assert isinstance(result, Tensor)
        values = result
    occupancy = values[-1:]
    return torch.cat([values[:-1] / torch.where(occupancy > 0, occupancy, 1), occupancy])


def check_choices(cap: str, backend: str | None) -> None:
    """Raise ValueError for a cap or a backend that there is not."""
    if cap not in CAPS or backend not in (None, *BACKENDS):
        raise ValueError(f"cap is {cap!r} of {CAPS}, backend {backend!r} of {BACKENDS}")


def check(
    prototypes: VoxelPrototypes,
    placements: Placements,
    grid: Grid,
    background: Volume | Tensor | None,
) -> None:
    """Raise ValueError for what does not fit together."""
    placements.check()
    which, n_prototypes = placements.which, len(prototypes)
    if which.dim() == 2:
        if which.shape[1] != n_prototypes:
            raise ValueError(
                f"placements.which has {which.shape[1]} weights a row for {n_prototypes} prototypes"
            )
    else:
        wrong = (which < 0) | (which >= n_prototypes)
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"placements.which[{row}] is {int(which[row])}, expected 0..{n_prototypes - 1}"
            )
    if background is None:
        return
    rgba = background.rgba if isinstance(background, Volume) else background
    if not isinstance(background, Volume) and tuple(rgba.shape[1:]) != grid.shape:
        raise ValueError(f"background is {tuple(rgba.shape)}, expected (C, *{grid.shape})")
    if n_prototypes and rgba.shape[0] != prototypes.channels:
        raise ValueError(
            f"background has {rgba.shape[0]} channels, prototypes {prototypes.channels}"
        )
