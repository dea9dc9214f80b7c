"""compose_loss: a composed volume compared with a target of any size, without ever being held.

With α, rgb the composed volume, α*, rgb* the target and w the weight of a voxel (0: unknown),

    mse    = Σ w (α − α*)² / Σ w
    bce    = −Σ w (α* log (α + s) + (1 − α*) log (1 − α + s) − log (1 + 2s)) / Σ w,   s = 0.001
    colour = Σ w α* mean_c (rgb − rgb*)² / Σ w

over all voxels of the grid. Two ways: numba makes the volume tile by tile (:mod:`fused`); any other
backend composes slab by slab, which is also the slow twin.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from protoscene.compose import fused, reference
from protoscene.compose.cpu import Job, Scatter
from protoscene.compose.fused import SOFT, Wish
from protoscene.compose.gather import Pile
from protoscene.compose.inputs import check, check_choices, common_type, hard_rows, resampled
from protoscene.compose.op import compose_op
from protoscene.geometry import Grid
from protoscene.packing import flat
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.threads import pieces_one_by_one
from protoscene.volume import Volume

TILE = (64, 16, 16)
SLAB_VOXELS = 2**21
"""Of the slabs that are composed at once where there are no tiles."""
READ_BYTES = 64 * 2**20
"""Of the target, between two times that a memory map's pages are given back."""
TERMS = ("mse", "bce", "colour")
FLOATS = ("float16", "float32", "float64")


@dataclass(frozen=True, eq=False)
class Target:
    """What a composed volume should be.

    ``rgba`` (C, z, y, x), any strides: uint8 (255 is 1), float16, float32 or float64; a tensor, an
    array or a memory map (read as it is needed, and its pages given back). ``weight`` (z, y, x):
    boolean, uint8 or float, 0 where nothing is known; all 1 if left out.
    """

    rgba: Tensor | np.ndarray
    weight: Tensor | np.ndarray | None = None

    def check(self, grid: Grid, channels: int) -> None:
        """Raise ValueError where shapes or types do not fit."""
        expected = (channels, *grid.shape)
        if tuple(self.rgba.shape) != expected:
            raise ValueError(f"target.rgba is {tuple(self.rgba.shape)}, expected {expected}")
        _expect_type("rgba", self.rgba, ("uint8", *FLOATS))
        if self.weight is None:
            return
        if tuple(self.weight.shape) != grid.shape:
            raise ValueError(f"target.weight is {tuple(self.weight.shape)}, expected {grid.shape}")
        _expect_type("weight", self.weight, ("bool", "uint8", *FLOATS))


def _expect_type(name: str, values: Tensor | np.ndarray, types: tuple[str, ...]) -> None:
    if str(values.dtype).removeprefix("torch.") not in types:
        raise ValueError(f"target.{name} is {values.dtype}, expected {', '.join(types)}")


def compose_loss(
    prototypes: VoxelPrototypes,
    placements: Placements,
    grid: Grid,
    target: Target | Volume,
    background: Volume | Tensor | None = None,
    *,
    mse: float = 1.0,
    bce: float = 0.0,
    colour: float = 1.0,
    cap: str = "hard",
    backend: str | None = None,
) -> dict[str, Tensor]:
    """How far ``compose(prototypes, placements, grid, background)`` is from ``target``.

    {"loss": mse · its term + bce · its term + colour · its term, "mse", "bce", "colour": the terms
    themselves}; this module's docstring has the formulas. Only "loss" is differentiable, once, in
    all that compose is; a term whose weight is 0 may be left at 0. Neither the volume nor its
    gradient is ever held, only that of the inputs.

    Raises ValueError as compose does, and where the target does not fit the grid.
    """
    check(prototypes, placements, grid, background)
    check_choices(cap, backend)
    if isinstance(target, Volume):
        if target.grid != grid:
            raise ValueError(f"target is on {target.grid}, expected {grid}")
        target = Target(target.rgba)
    channels = prototypes.channels
    target.check(grid, channels)
    if isinstance(background, Volume):
        background = resampled(background, grid)
    voxels, ground, _ = common_type(prototypes.voxels, background)
    if backend is None:
        backend = "numba" if voxels.device.type == "cpu" else "torch"
    which, *poses = (v.to(voxels.device) for v in hard_rows(placements))
    inputs = [voxels, *poses, ground]
    if not torch.is_grad_enabled():  # a Function asks its inputs only
        inputs = [None if v is None else v.detach() for v in inputs]
    sizes = torch.tensor(prototypes.voxel_size, dtype=torch.float64)
    plan = _Plan(prototypes.table, sizes, which, grid, channels, target, (mse, bce, colour), cap)
    if backend == "numba":
        terms = _Fused.apply(plan, *inputs)
    else:
        terms = _SlabBySlab.apply(plan, backend, *inputs)
    return dict(zip(("loss", *TERMS), terms, strict=True))


@dataclass(frozen=True, eq=False)
class _Plan:
    """What of a loss is no variable."""

    table: Tensor
    voxel_sizes: Tensor
    which: Tensor
    grid: Grid
    channels: int
    target: Target
    shares: tuple[float, float, float]
    cap: str


class _Fused(torch.autograd.Function):
    """Gradients are made in forward, with the loss, and scaled in backward."""

    @staticmethod
    def forward(
        ctx: Any, plan: _Plan, voxels: Tensor, centre: Tensor, yaw: Tensor, scale: Tensor,
        presence: Tensor, ground: Tensor | None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        inputs = voxels, centre, yaw, scale, presence, ground
        needs = list(ctx.needs_input_grad[1:])
        terms, gradients = _fused_terms(plan, inputs, needs)
        ctx.save_for_backward(*gradients)
        result = _with_loss(terms, plan.shares, voxels)
        ctx.mark_non_differentiable(*result[1:])
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_scaled(ctx.saved_tensors, gradient, ctx.needs_input_grad[1:])


def _with_loss(
    terms: Tensor, shares: tuple[float, float, float], like: Tensor
) -> tuple[Tensor, ...]:
    loss = sum(share * term for share, term in zip(shares, terms, strict=True))
    return tuple(torch.as_tensor(v).to(like.device, like.dtype) for v in (loss, *terms))


def _scaled(gradients: Sequence[Tensor], by: Tensor, needs: Sequence[bool]) -> list[Tensor | None]:
    return [g * by.to(g) if need else None for g, need in zip(gradients, needs, strict=True)]


def _fused_terms(
    plan: _Plan, inputs: tuple[Tensor | None, ...], needs: list[bool]
) -> tuple[Tensor, list[Tensor]]:
    """mse, bce, colour (3,) float64 and the gradients of the inputs, empty where not needed."""
    voxels, centre, yaw, scale, presence, ground = inputs
    assert voxels is not None and centre is not None and yaw is not None and scale is not None
    assert presence is not None
    rows = voxels, plan.table, plan.voxel_sizes, plan.which, centre, yaw, scale, presence
    job = Job.of(rows, plan.grid, plan.channels, TILE)
    sink = Scatter(job, needs[0], any(needs[1:5]))
    found = torch.empty_like(ground) if needs[5] and ground is not None else None
    flats = [flat(v, job.dtype) for v in (ground, found)]
    wish = _wish(plan)
    sums = np.zeros(4)
    # A target's innermost axis comes first: a memory map's pages are then read once.
    z_is_innermost = wish.strides[1] < wish.strides[3]
    tiles = job.tiling.columns() if z_is_innermost else np.arange(job.tiling.n_tiles)
    has_room = (np.diff(job.placed.first) > 0)[tiles] if ground is None else None
    per_tile = job.tiling.n_voxels * plan.channels * wish.values.itemsize
    for pile in job.heaps(tiles, has_room):
        for part in _parts(pile, max(1, READ_BYTES // per_tile)):
            terms = np.zeros((len(part.tiles), 4))
            with pieces_one_by_one():
                fused.compare_tiles(  # type: ignore[call-arg]
                    part, job.placed, *flats, wish, terms, plan.cap == "smooth", any(needs),
                    job.like,
                )  # fmt: skip
            sums += terms.sum(axis=0)
            _give_back(plan.target)
        if any(needs[:5]):
            there = np.flatnonzero(np.diff(job.placed.first)[pile.tiles])
            sink.add(pile._replace(tiles=pile.tiles[there], offsets=pile.offsets[there]))
    known = sums[3] or 1.0
    gradients = [sink.voxels(), *sink.poses(plan.voxel_sizes, yaw, scale)]
    gradients.append(voxels.new_empty(0) if found is None else found)
    result = [
        g.div_(known).to(v.dtype) if need and v is not None else voxels.new_empty(0)
        for g, v, need in zip(gradients, inputs, needs, strict=True)
    ]
    return torch.from_numpy(sums[:3] / known), result


def _parts(pile: Pile, n: int) -> Iterator[Pile]:
    """The pile, n tiles at a time: where nothing is, it may be all of the canvas."""
    for i in range(0, len(pile.tiles), n):
        yield pile._replace(tiles=pile.tiles[i : i + n], offsets=pile.offsets[i : i + n])


def _wish(plan: _Plan) -> Wish:
    values = as_array(plan.target.rgba)
    decoding = np.zeros(0)
    if values.dtype == np.uint8:
        decoding = np.arange(256) / 255
    elif values.dtype == np.float16:  # numba has no halves on processors
        values = values.view(np.uint16)
        decoding = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float64)
    rgba = flat(values, values.dtype)
    if plan.target.weight is None:
        weights, strides = np.zeros(0, np.float32), np.zeros(3, np.int64)
    else:
        weight = as_array(plan.target.weight)
        if weight.dtype == bool:
            weight = weight.view(np.uint8)
        elif weight.dtype == np.float16:
            weight = weight.astype(np.float32)
        one = flat(weight[None], weight.dtype)
        weights, strides = one.values, one.strides[1:]
    for values in (rgba.values, weights):
        values.flags.writeable = False  # else there is one more kernel for maps that are
    return Wish(rgba.values, rgba.strides, decoding, weights, strides, np.array(plan.shares))


def as_array(values: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy()
    if any(s < 0 or s % values.itemsize for s in values.strides):
        return np.ascontiguousarray(values)  # neither Flat nor torch has such strides
    return np.asarray(values)


def _give_back(target: Target) -> None:
    """Pages of a memory map that were read count as this process's until they are given back."""
    for values in (target.rgba, target.weight):
        if isinstance(values, np.memmap) and values.mode in ("r", "r+"):
            mapped = values._mmap  # type: ignore[attr-defined]
            if hasattr(mapped, "madvise"):
                mapped.madvise(mmap.MADV_DONTNEED)


class _SlabBySlab(torch.autograd.Function):
    """Any backend: slabs of the canvas composed, compared and differentiated one by one."""

    @staticmethod
    def forward(
        ctx: Any, plan: _Plan, backend: str, voxels: Tensor, centre: Tensor, yaw: Tensor,
        scale: Tensor, presence: Tensor, ground: Tensor | None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        inputs = [voxels, centre, yaw, scale, presence, ground]
        needs = ctx.needs_input_grad[2:]
        leaves = [
            v.detach().requires_grad_(n) if v is not None else None
            for v, n in zip(inputs, needs, strict=True)
        ]
        found = [torch.zeros_like(v) if n and v is not None else voxels.new_empty(0)
                 for v, n in zip(inputs, needs, strict=True)]  # fmt: skip
        terms = torch.zeros(4, dtype=torch.float64)
        nz, ny, nx = plan.grid.shape
        thick = max(1, SLAB_VOXELS // (ny * nx))
        wanted = [i for i, n in enumerate(needs) if n]
        for z in range(0, nz, thick):
            with torch.set_grad_enabled(bool(wanted)):
                some, loss = _slab_terms(plan, backend, leaves, z, min(z + thick, nz))
            terms += some.detach().double().cpu()
            if wanted and loss.requires_grad:
                given = [v for i in wanted if (v := leaves[i]) is not None]
                for i, g in zip(wanted, torch.autograd.grad(loss, given, allow_unused=True),
                                strict=True):  # fmt: skip
                    found[i] += 0 if g is None else g
            _give_back(plan.target)
        known = float(terms[3]) or 1.0
        ctx.save_for_backward(*(g / known for g in found))
        result = _with_loss(terms[:3] / known, plan.shares, voxels)
        ctx.mark_non_differentiable(*result[1:])
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *_scaled(ctx.saved_tensors, gradient, ctx.needs_input_grad[2:])


def _slab_terms(
    plan: _Plan, backend: str, leaves: Sequence[Tensor | None], z0: int, z1: int
) -> tuple[Tensor, Tensor]:
    """(mse, bce, colour, weight) summed over z0..z1, and their weighted sum."""
    voxels, centre, yaw, scale, presence, ground = leaves
    assert voxels is not None and centre is not None and yaw is not None and scale is not None
    assert presence is not None
    _, ny, nx = plan.grid.shape
    grid = plan.grid.cropped((z0, 0, 0), (z1, ny, nx))
    here = None if ground is None else ground[:, z0:z1]
    if backend == "reference":
        prototypes = VoxelPrototypes.from_voxels(
            voxels, plan.table, plan.voxel_sizes.tolist(), plan.channels
        )
        rows = Placements(plan.which, centre, yaw, scale, presence)
        rgba = reference.compose(prototypes, rows, grid, here, cap=plan.cap).rgba
    else:
        canvas, _ = compose_op(
            voxels, plan.table, plan.voxel_sizes, plan.which, centre, yaw, scale, presence, here,
            grid.origin, grid.voxel_size, grid.shape, plan.channels, plan.cap, backend,
            torch.is_grad_enabled(), False,
        )  # fmt: skip
        rgba = canvas.permute(3, 2, 0, 1)
    values = torch.tensor(as_array(plan.target.rgba[:, z0:z1]), device=rgba.device)
    values = values.to(rgba.dtype) / (255 if values.dtype == torch.uint8 else 1)
    weight = torch.ones_like(rgba[-1])
    if plan.target.weight is not None:
        weight = torch.tensor(as_array(plan.target.weight[z0:z1])).to(weight)
    terms = volume_terms(rgba, values, weight)
    return terms, (terms[:3] * terms.new_tensor(plan.shares)).sum()


def volume_terms(rgba: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Σ w (squared error), Σ w (cross entropy), Σ w α* (mean squared colour error), Σ w.

    What the target holds where it counts for nothing may be anything, NaN too."""
    wanted = torch.where(weight == 0, 0, target[-1])
    target = torch.where((weight == 0) | (wanted == 0), 0, target)
    alpha = rgba[-1]
    entropy = wanted * (alpha + SOFT).log() + (1 - wanted) * (1 - alpha + SOFT).log()
    entropy = np.log(1 + 2 * SOFT) - entropy
    off = (rgba[:-1] - target[:-1]) ** 2
    colour = wanted * off.sum(dim=0) / max(1, len(off))
    return torch.stack(
        [(weight * v).sum() for v in ((alpha - wanted) ** 2, entropy, colour)] + [weight.sum()]
    )
