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

import torch
from torch import Tensor

from protoscene.compose import reference
from protoscene.compose.inputs import check, check_choices, common_type, hard_rows, resampled
from protoscene.compose.loss import Target, compose_loss
from protoscene.compose.op import compose_op
from protoscene.compose.sparse import SparseVolume, compose_sparse
from protoscene.geometry import Grid
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.volume import Volume

__all__ = ["SparseVolume", "Target", "compose", "compose_loss", "compose_sparse"]


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
    check_choices(cap, backend)
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
