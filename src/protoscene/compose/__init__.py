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

A placement whose ``which`` is a row of weights stands for all K prototypes at its pose, each with
presence w · weight; a prototype keeps its own size. Three colours may be any C−1 features: the last
channel is always occupancy. The order of placements does not matter, up to rounding.

Two implementations with one signature: :mod:`torch_ops` (this package's ``compose``) and
:mod:`reference`, the formulas above in plain float64 loops.
"""

from __future__ import annotations

from torch import Tensor

from protoscene.compose import torch_ops
from protoscene.geometry import Grid
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.volume import Volume


def compose(
    prototypes: VoxelPrototypes,
    placements: Placements,
    grid: Grid,
    background: Volume | Tensor | None = None,
) -> Volume:
    """The (C, z, y, x) volume on ``grid`` (metres, world) that this package's docstring defines.

    ``background`` is a (C, z, y, x) tensor or a Volume on ``grid``, taken as it is, or a Volume on
    another grid, resampled trilinearly (zero outside of it). All poses are in metres and radians.

    Differentiable once in prototypes, background, centre, yaw, scale, presence and weights. There
    is no gradient to occupancy where A > 1 (the cap), and none to a pose from voxels outside of its
    placement's support. The result has the prototypes' and the background's common float type.

    Raises ValueError naming the row for a prototype index out of range, and for numbers of
    channels or of weights that do not agree.
    """
    _check(prototypes, placements, grid, background)
    return torch_ops.compose(prototypes, placements, grid, background)


def _check(
    prototypes: VoxelPrototypes,
    placements: Placements,
    grid: Grid,
    background: Volume | Tensor | None,
) -> None:
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
    if n_prototypes and rgba.shape[0] != prototypes.rgba(0).shape[0]:
        raise ValueError(
            f"background has {rgba.shape[0]} channels, prototypes {prototypes.rgba(0).shape[0]}"
        )
