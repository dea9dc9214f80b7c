"""compose: prototypes, pasted by placements onto a background, as one volume.

Placement i of prototype k, with presence w and pose T (scale, then turn by yaw, then move to the
centre), covers the canvas at x with

    aᵢ(x)       = w · trilinear(α_k)(T⁻¹x)              occupancy
    aᵢ(x) cᵢ(x) = w · trilinear(α_k c_k)(T⁻¹x)          occupancy times colour

Colour is interpolated premultiplied by its occupancy, so that the colour of an empty voxel never
counts. Outside of a prototype everything is zero: it falls linearly to zero over one voxel, from
the outermost voxel centres to half a voxel beyond the box. With the background as one more term,

    A = Σ aᵢ + α_background,    α = min(A, 1),    c = (Σ aᵢ cᵢ + α_background c_background) / A

and c = 0 where A = 0. A canvas voxel takes the value at its centre: nothing is averaged over it.

The hard cap has no gradient where A > 1. The smooth one, α = A / (1 + A⁴)^¼, has one everywhere and
differs from A by 1 % at A = ½; a solid voxel alone then has α = .84.

A placement whose ``which`` is a row of weights stands for all K prototypes at its pose, each with
presence w · weight; a prototype keeps its own size. Three colours may be any C−1 features: the last
channel is always occupancy. The order of placements does not matter, up to rounding.

Backends, the same in meaning: ``numba`` (:mod:`cpu`; tiles and slabs, deterministic), ``torch``
(:mod:`torch_backend`; any device and float type) and ``reference`` (:mod:`reference`; the formulas
above in plain float64 loops). The first two stand behind the operators of :mod:`op`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from protoscene.compose import reference
from protoscene.compose.op import compose_op
from protoscene.geometry import Grid
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.volume import Volume

CAPS = ("hard", "smooth")
BACKENDS = ("numba", "torch", "reference")


def compose(
    prototypes: VoxelPrototypes,
    placements: Placements,
    grid: Grid,
    background: Volume | Tensor | None = None,
    *,
    cap: str = "hard",
    backend: str | None = None,
    contiguous: bool = False,
) -> Volume:
    """The (C, z, y, x) volume on ``grid`` (metres, world) that this package's docstring defines.

    ``background`` is a (C, z, y, x) tensor or a Volume on ``grid``, taken as it is, or a Volume on
    another grid, resampled trilinearly (zero outside of it). All poses are in metres and radians.
    ``backend`` is numba on the processor and torch elsewhere, unless named. The result's memory is
    (y, x, z, C), its shape (C, z, y, x) a view of it, unless ``contiguous``: that costs a copy.

    Differentiable once in prototypes, background, centre, yaw, scale, presence and weights. There
    is no gradient to occupancy where A > 1 (the hard cap), none to colour where A = 0, and none to
    a pose from voxels outside of its placement's support; at a kink of the interpolation it is one
    of the two sides'. The result has the prototypes' and the background's common float type; half
    types are computed in float32. Float32 values and gradients are within 1e-5 of float64's
    largest.

    Raises ValueError naming the row for a prototype index out of range, and for numbers of
    channels or of weights that do not agree.
    """
    check(prototypes, placements, grid, background)
    if cap not in CAPS or backend not in (None, *BACKENDS):
        raise ValueError(f"cap is {cap!r} of {CAPS}, backend {backend!r} of {BACKENDS}")
    if backend == "reference":
        return reference.compose(prototypes, placements, grid, background, cap=cap)
    if isinstance(background, Volume):
        background = resampled(background, grid)
    voxels, ground, dtype = common_type(prototypes.voxels, background)
    if backend is None:
        backend = "numba" if voxels.device.type == "cpu" else "torch"
    which, *poses = (v.to(voxels.device) for v in hard_rows(placements))
    inputs = [voxels, *poses, *([] if ground is None else [ground])]
    keeps_total = torch.is_grad_enabled() and any(v.requires_grad for v in inputs)
    canvas, _ = compose_op(
        voxels, prototypes.table, torch.tensor(prototypes.voxel_size, dtype=torch.float64), which,
        *poses, ground, grid.origin, grid.voxel_size, grid.shape, prototypes.channels, cap,
        backend, keeps_total, contiguous,
    )  # fmt: skip
    return Volume((canvas if contiguous else canvas.permute(3, 2, 0, 1)).to(dtype), grid)


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
