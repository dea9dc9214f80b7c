"""compose with torch's own operators: any device, any float type, each placement on its crop.

Positions are computed in float64, because a float32 position lands in the neighbouring cell often
enough to spoil the gradients of poses. Interpolation is at least float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from protoscene.geometry import Grid, rotation_from_yaw
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.volume import Volume


def compose(
    prototypes: VoxelPrototypes,
    placements: Placements,
    grid: Grid,
    background: Volume | Tensor | None = None,
) -> Volume:
    """Same meaning and signature as :func:`protoscene.compose.compose`, arguments unchecked."""
    if isinstance(background, Tensor):
        background = Volume(background, grid)
    which, centre, yaw, scale, presence = _hard_rows(placements)
    used = sorted(set(which))
    volumes = [prototypes.rgba(k) for k in used]
    like = _likeness(volumes, background, prototypes)
    work = torch.promote_types(like.dtype, torch.float32)
    if background is None:
        canvas = like.new_zeros((like.shape[0], *grid.shape), dtype=work)
    else:
        canvas = _resampled(premultiplied(background.rgba.to(work)), background.grid, grid)
    if which:
        rows = [used.index(k) for k in which]
        grids = [prototypes.grid(k) for k in used]
        precise = torch.float32 if like.device.type == "mps" else torch.float64
        poses = [v.to(like.device, precise) for v in (centre, yaw, scale)]
        sources = [premultiplied(v.to(work)) for v in volumes]
        weights = presence.to(like.device, work)
        canvas = _Paste.apply(canvas, grid, grids, rows, *poses, weights, *sources)
    total = canvas[-1:]
    colour = canvas[:-1] / torch.where(total > 0, total, 1)
    return Volume(torch.cat([colour, total.clamp(max=1)]).to(like.dtype), grid)


def premultiplied(rgba: Tensor) -> Tensor:
    """(C, z, y, x) with every channel but the last multiplied by the last."""
    return torch.cat([rgba[:-1] * rgba[-1:], rgba[-1:]])


def _hard_rows(placements: Placements) -> tuple[list[int], Tensor, Tensor, Tensor, Tensor]:
    """which, centre, yaw, scale (n, 3), presence: a row of K weights becomes K rows."""
    p = placements
    scale = p.scale[:, None].expand(-1, 3) if p.scale.dim() == 1 else p.scale
    if p.which.dim() == 1:
        return p.which.tolist(), p.centre, p.yaw, scale, p.presence
    n, k = p.which.shape
    centre, yaw, scale = (v.repeat_interleave(k, dim=0) for v in (p.centre, p.yaw, scale))
    return list(range(k)) * n, centre, yaw, scale, (p.presence[:, None] * p.which).reshape(-1)


def _likeness(
    volumes: list[Tensor], background: Volume | None, prototypes: VoxelPrototypes
) -> Tensor:
    """An empty (C, 0) tensor with the result's channels, float type and device."""
    terms = volumes + ([background.rgba] if background is not None else [])
    if not terms:
        terms = [prototypes.rgba(0) if len(prototypes) else torch.empty(4, 0)]
    dtype = terms[0].dtype
    for term in terms[1:]:
        dtype = torch.promote_types(dtype, term.dtype)
    return terms[0].new_empty((terms[0].shape[0], 0), dtype=dtype)


def _resampled(volume: Tensor, source: Grid, target: Grid) -> Tensor:
    """(C, z, y, x) on ``source`` interpolated trilinearly at ``target``'s voxel centres.

    The axes are parallel, so that one linear interpolation per axis does it.
    """
    if source == target:
        return volume
    for axis, positions in enumerate(target.axes()):
        dim = 3 - axis
        index = source.index_from_world(np.stack([positions] * 3, axis=-1))[:, axis]
        low = np.floor(index)
        result: Tensor | float = 0.0
        for voxel, share in ((low, low + 1 - index), (low + 1, index - low)):
            inside = (voxel >= 0) & (voxel < volume.shape[dim])
            chosen = torch.as_tensor(voxel.clip(0, volume.shape[dim] - 1), device=volume.device)
            shape = [-1 if d == dim else 1 for d in range(4)]
            weight = torch.as_tensor(share * inside).to(volume).reshape(shape)
            result = result + volume.index_select(dim, chosen.long()) * weight
        assert isinstance(result, Tensor)
        volume = result
    return volume


class _Paste(torch.autograd.Function):
    """canvas + Σ rows. Each row is computed, and in backward computed again and differentiated, on
    its crop alone: autograd's own slices would copy the canvas's gradient once a row."""

    @staticmethod
    def forward(
        ctx: Any,
        canvas: Tensor,
        grid: Grid,
        grids: list[Grid],
        rows: list[int],
        centre: Tensor,
        yaw: Tensor,
        scale: Tensor,
        presence: Tensor,
        *volumes: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(centre, yaw, scale, presence, *volumes)
        ctx.geometry = grid, grids, rows, _crops(grid, grids, rows, centre, yaw, scale)
        canvas = canvas.clone()
        for i, (k, crop) in enumerate(zip(rows, ctx.geometry[3], strict=True)):
            if crop is not None:
                pose = centre[i], yaw[i], scale[i]
                canvas[crop] += _pasted(grid, crop, grids[k], *pose, presence[i], volumes[k])
        return canvas

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        needed = ctx.needs_input_grad[4:]
        grid, grids, rows, crops = ctx.geometry
        sums = [torch.zeros_like(v) if n else None for v, n in zip(inputs, needed, strict=True)]
        for i, (k, crop) in enumerate(zip(rows, crops, strict=True)):
            if crop is None:
                continue
            # Where each of the row's five inputs sits: its row of the pose tensors, its volume.
            slots = [(0, i), (1, i), (2, i), (3, i), (4 + k, ...)]
            leaves = [inputs[s][at].detach().requires_grad_(needed[s]) for s, at in slots]
            with torch.enable_grad():
                pasted = _pasted(grid, crop, grids[k], *leaves)
            wanted = [j for j, leaf in enumerate(leaves) if leaf.requires_grad]
            if not wanted:
                continue
            found = torch.autograd.grad(pasted, [leaves[j] for j in wanted], gradient[crop])
            for j, value in zip(wanted, found, strict=True):
                slot, at = slots[j]
                sums[slot][at] += value
        return (gradient if ctx.needs_input_grad[0] else None, None, None, None, *sums)


def _crops(
    grid: Grid, grids: list[Grid], rows: list[int], centre: Tensor, yaw: Tensor, scale: Tensor
) -> list[tuple[slice, ...] | None]:
    """Per row the (C, z, y, x) slice of the canvas that holds its support; None where it misses."""
    # Support reaches half a voxel beyond the prototype's box: one voxel more in all.
    sizes = np.array([g.size_m + g.voxel_size for g in grids])[rows]
    half = 0.5 * sizes * scale.detach().cpu().double().numpy()
    turned = np.abs(rotation_from_yaw(yaw.detach().cpu().numpy())) @ half[:, :, None]
    middle = centre.detach().cpu().double().numpy()
    limits = np.array(grid.shape[::-1])
    starts = np.floor(grid.voxel_from_world(middle - turned[:, :, 0])).clip(0, limits).astype(int)
    stops = np.ceil(grid.voxel_from_world(middle + turned[:, :, 0])).clip(0, limits).astype(int)
    crops: list[tuple[slice, ...] | None] = []
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        box = [slice(a, b) for a, b in zip(start[::-1], stop[::-1], strict=True)]
        crops.append((slice(None), *box) if all(s.start < s.stop for s in box) else None)
    return crops


def _pasted(
    grid: Grid,
    crop: tuple[slice, ...],
    source: Grid,
    centre: Tensor,
    yaw: Tensor,
    scale: Tensor,
    presence: Tensor,
    volume: Tensor,
) -> Tensor:
    """One row on its crop: presence · trilinear(volume)(T⁻¹x), premultiplied (C, z, y, x)."""
    box = grid.cropped([s.start for s in crop[1:]], [s.stop for s in crop[1:]])
    x, y, z = (torch.as_tensor(v).to(centre) for v in box.axes())
    x, y, z = x - centre[0], (y - centre[1])[:, None], (z - centre[2])[:, None, None]
    cos, sin = yaw.cos(), yaw.sin()
    axes = (cos * x + sin * y, cos * y - sin * x, z)
    local = torch.stack([v.expand(box.shape) for v in axes], dim=-1) / scale
    positions = source.sampler_from_world(local).to(volume.dtype)
    sampled = F.grid_sample(
        volume[None], positions[None], padding_mode="zeros", align_corners=False
    )
    return presence * sampled[0]
