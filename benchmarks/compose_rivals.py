"""What compose is measured against: torch's ``grid_sample``, on crops and on the whole canvas.

:class:`CroppedCompose` is compose as one would write it well with torch's own operators: float32
positions, each placement on its crop of the canvas alone, added in place; everything else in place
too, and nothing kept for backward but the canvas. Backward samples nothing again: sampling S is
linear in the voxels v, so that the gradient to a placement's presence is ⟨g, S v⟩ = ⟨Sᵀg, v⟩, and
Sᵀg is what the voxels' gradient needs anyway. The rivals suppose that placements lie fully inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from protoscene.geometry import Grid, rotation_from_yaw
from protoscene.placements import Placements

POINTS_A_CALL = 2**20
NUMBERS_A_CALL = 2**24
"""The most samples, and numbers of the voxels' gradients, of one call of ``grid_sample``."""


@dataclass(frozen=True)
class Call:
    """One call of ``grid_sample``: crops of one shape (z, y, x), all of one prototype.

    ``rows`` (m,) are placements, ``starts`` (m, 3) their crops' first voxels, x y z.
    """

    prototype: int
    rows: np.ndarray
    starts: np.ndarray
    shape: tuple[int, int, int]

    def crops(self) -> list[tuple[slice, ...]]:
        """Slices of a (C, z, y, x) canvas."""
        return [
            (slice(None), *(slice(a, a + n) for a, n in zip(start[::-1], self.shape, strict=True)))
            for start in self.starts.tolist()
        ]


def boxes(placements: Placements, sizes_m: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """First voxel and number of voxels, both (n, 3) x y z, of each placement's crop.

    ``sizes_m`` (n, 3): extent of the row's prototype and a voxel more, as its support reaches half
    a voxel beyond its box.
    """
    scale = placements.scale.detach().double().numpy().reshape(len(placements), -1)
    turned = np.abs(rotation_from_yaw(placements.yaw.detach().numpy()))
    half = (turned @ (0.5 * sizes_m * scale)[:, :, None])[:, :, 0]
    centre = placements.centre.detach().double().numpy()
    starts = np.floor(grid.voxel_from_world(centre - half)).astype(int)
    stops = np.ceil(grid.voxel_from_world(centre + half)).astype(int)
    if (starts < 0).any() or (stops > grid.shape[::-1]).any():
        raise ValueError("a placement reaches outside of the grid")
    return starts, stops - starts


def one_by_one(which: Sequence[int], starts: np.ndarray, sizes: np.ndarray) -> list[Call]:
    """A call for each placement, on exactly its crop; a prototype's placements in sequence."""
    return [
        Call(which[i], np.array([i]), starts[i : i + 1], tuple(sizes[i, ::-1].tolist()))
        for i in np.argsort(which, kind="stable")
    ]


def batched(
    which: Sequence[int],
    starts: np.ndarray,
    sizes: np.ndarray,
    grid: Grid,
    numbers: Sequence[int],
    threads: int,
) -> list[Call]:
    """As few calls as memory lets, as torch gives each thread whole crops of one call: those of a
    prototype of ``numbers[k]`` numbers grow to one shape, or a crop is cut into slabs."""
    calls = []
    for k in sorted(set(which)):
        rows = np.flatnonzero(np.asarray(which) == k)
        rows = rows[np.argsort(sizes[rows].prod(axis=1), kind="stable")]
        points = int(sizes[rows].prod(axis=1).max())
        many = max(1, min(POINTS_A_CALL // points, NUMBERS_A_CALL // numbers[k], len(rows)))
        for at in range(0, len(rows), many):
            calls.append(_together(k, rows[at : at + many], starts, sizes, grid, threads))
    return calls


def _together(
    k: int, rows: np.ndarray, starts: np.ndarray, sizes: np.ndarray, grid: Grid, threads: int
) -> Call:
    size = sizes[rows].max(axis=0)
    slabs = -(-threads // len(rows))
    deep = -(-size[2] // slabs)
    if deep * slabs > grid.shape[0]:
        slabs, deep = 1, size[2]
    size[2] = deep * slabs
    start = np.minimum(starts[rows], np.array(grid.shape[::-1]) - size)
    start = np.repeat(start, slabs, axis=0)
    start[:, 2] += np.tile(np.arange(slabs), len(rows)) * deep
    return Call(k, np.repeat(rows, slabs), start, (int(deep), int(size[1]), int(size[0])))


def cropped(
    rgba: list[Tensor],
    voxel_size: float,
    placements: Placements,
    grid: Grid,
    in_batches: bool,
) -> Tensor:
    """The composed (C, z, y, x) volume, contiguous; differentiable in ``rgba`` and poses."""
    which = placements.which.tolist()
    extents = np.array([v.shape[:0:-1] for v in rgba]) * voxel_size
    starts, sizes = boxes(placements, extents[which] + voxel_size, grid)
    if in_batches:
        numbers = [v.numel() for v in rgba]
        calls = batched(which, starts, sizes, grid, numbers, torch.get_num_threads())
    else:
        calls = one_by_one(which, starts, sizes)
    rows = torch.as_tensor(np.concatenate([c.rows for c in calls]))
    firsts = torch.as_tensor(np.concatenate([c.starts for c in calls])).double()
    maps = _sampler_from_crop(placements, rows, firsts, torch.as_tensor(extents[which]), grid)
    return CroppedCompose.apply(calls, grid.shape, maps, placements.presence[rows], *rgba)


def _sampler_from_crop(
    placements: Placements, rows: Tensor, firsts: Tensor, extents: Tensor, grid: Grid
) -> Tensor:
    """(m, 3, 4) float32: voxel x y z of a crop that starts at ``firsts`` → ``grid_sample``'s."""
    inverse = local_from_world(placements)[rows]
    inverse = 2 / extents[rows][:, :, None] * inverse
    corner = firsts.new_tensor(grid.origin) + (firsts + 0.5) * grid.voxel_size
    shift = inverse @ (corner - placements.centre[rows].double())[:, :, None]
    return torch.cat([inverse * grid.voxel_size, shift], dim=2).float()


def local_from_world(placements: Placements) -> Tensor:
    """(n, 3, 3) float64: turns back by yaw, then divides by scale."""
    yaw = placements.yaw.double()
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)
    turned = [yaw.cos(), yaw.sin(), zero, -yaw.sin(), yaw.cos(), zero, zero, zero, one]
    scale = placements.scale.double().reshape(len(placements), -1, 1)
    return torch.stack(turned, dim=1).reshape(-1, 3, 3) / scale


class CroppedCompose(torch.autograd.Function):
    """calls, canvas shape, maps (m, 3, 4), presence (m,), *straight (C, z, y, x) → the volume."""

    @staticmethod
    def forward(
        ctx: Any,
        calls: list[Call],
        shape: tuple[int, ...],
        maps: Tensor,
        presence: Tensor,
        *rgba: Tensor,
    ) -> Tensor:
        canvas = rgba[0].new_zeros((rgba[0].shape[0], *shape))
        premultiplied, weights, at = Premultiplied(rgba), presence.tolist(), 0
        for call in calls:
            m = len(call.rows)
            source = premultiplied[call.prototype].expand(m, -1, -1, -1, -1)
            sampled = _sample(source, _positions(maps[at : at + m], call.shape))
            for part, crop, weight in zip(sampled, call.crops(), weights[at : at + m], strict=True):
                canvas[crop].add_(part, alpha=weight)
            at += m
        total = canvas[-1].clone()
        canvas[:-1].div_(torch.where(total > 0, total, 1))
        canvas[-1].clamp_(max=1)
        ctx.calls = calls
        ctx.save_for_backward(canvas, total, maps, presence, *rgba)
        return canvas

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        canvas, total, maps, presence, *rgba = ctx.saved_tensors
        of_sum = _gradient_of_sum(gradient, canvas, total)
        of_maps, of_presence = torch.empty_like(maps), torch.empty_like(presence)
        of_rgba: list[Tensor | None] = [None] * len(rgba)
        premultiplied, at = Premultiplied(rgba), 0
        for call in ctx.calls:
            k, m, rows = call.prototype, len(call.rows), slice(at, at + len(call.rows))
            source = premultiplied[k]
            upstream = torch.stack([of_sum[crop] for crop in call.crops()])
            of_source, of_positions = torch.ops.aten.grid_sampler_3d_backward(
                upstream, source.expand(m, -1, -1, -1, -1), _positions(maps[rows], call.shape),
                0, 0, False, [True, True],
            )  # fmt: skip
            flat = of_source.view(m, -1)
            of_presence[rows] = flat @ source.view(-1)
            if of_rgba[k] is None:
                of_rgba[k] = torch.zeros_like(rgba[k])
            of_rgba[k].view(-1).addmv_(flat.T, presence[rows])
            of_maps[rows] = presence[rows, None, None] * _gradient_of_maps(of_positions)
            at += m
        for found, volume in zip(of_rgba, rgba, strict=True):
            if found is not None:
                _straightened(found, volume)
        return (None, None, of_maps, of_presence, *of_rgba)


class Premultiplied:
    """The last volume asked for, its colours multiplied by its occupancy, (1, C, z, y, x)."""

    def __init__(self, rgba: Sequence[Tensor]) -> None:
        self._rgba = rgba
        self._last: tuple[int, Tensor] | None = None

    def __getitem__(self, k: int) -> Tensor:
        if self._last is None or self._last[0] != k:
            volume = torch.empty_like(self._rgba[k])
            torch.mul(self._rgba[k][:-1], self._rgba[k][-1:], out=volume[:-1])
            volume[-1] = self._rgba[k][-1]
            self._last = k, volume[None]
        return self._last[1]


def _sample(source: Tensor, positions: Tensor) -> Tensor:
    return F.grid_sample(source, positions, padding_mode="zeros", align_corners=False)


def _positions(maps: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """(m, z, y, x, 3). Yaw leaves the vertical alone: what x and y add is the same in each layer,
    and the last coordinate depends on z only."""
    z, y, x = (torch.arange(n, dtype=maps.dtype) for n in shape)
    result = maps.new_empty((len(maps), *shape, 3))
    for axis in (0, 1):
        along_x, along_y, _, shift = maps[:, axis].unbind(1)
        plane = along_y[:, None, None] * y[:, None] + along_x[:, None, None] * x
        result[..., axis] = (plane + shift[:, None, None])[:, None]
    heights = maps[:, 2, 2, None] * z + maps[:, 2, 3, None]
    result[..., 2] = heights[:, :, None, None]
    return result


def _gradient_of_maps(of_positions: Tensor) -> Tensor:
    """(m, 3, 4) from (m, z, y, x, 3); zero where the map is always zero."""
    nz, ny, nx = of_positions.shape[1:4]
    z, y, x = (torch.arange(n, dtype=of_positions.dtype) for n in (nz, ny, nx))
    plane = of_positions.sum(dim=1)
    result = of_positions.new_zeros((len(of_positions), 3, 4))
    result[:, :2, 0] = torch.einsum("mxc,x->mc", plane.sum(dim=1), x)[:, :2]
    result[:, :2, 1] = torch.einsum("myc,y->mc", plane.sum(dim=2), y)[:, :2]
    result[:, 2, 2] = of_positions[..., 2].sum(dim=(2, 3)) @ z
    result[:, :, 3] = plane.sum(dim=(1, 2))
    return result


def _gradient_of_sum(gradient: Tensor, canvas: Tensor, total: Tensor) -> Tensor:
    """To Σ aᵢcᵢ and Σ aᵢ, (C, z, y, x), from the gradient to c and α = min(A, 1)."""
    result = torch.empty_like(canvas)
    torch.div(gradient[:-1], torch.where(total > 0, total, 1), out=result[:-1])
    torch.mul(gradient[-1], total <= 1, out=result[-1])
    for of_colour, colour in zip(result[:-1], canvas[:-1], strict=True):
        result[-1].addcmul_(of_colour, colour, value=-1)
    return result


def _straightened(found: Tensor, volume: Tensor) -> None:
    """Turns the gradient to the premultiplied volume into that to the straight one, in place."""
    for of_colour, colour in zip(found[:-1], volume[:-1], strict=True):
        found[-1].addcmul_(of_colour, colour)
    found[:-1].mul_(volume[-1:])


@torch.no_grad()
def full_grid(rgba: list[Tensor], voxel_size: float, placements: Placements, grid: Grid) -> Tensor:
    """The composed volume by ``affine_grid`` and ``grid_sample`` on the whole canvas, a placement
    at a time; forward only."""
    n, sizes = len(placements), torch.tensor(grid.shape[::-1], dtype=torch.float64)
    which = placements.which.tolist()
    extents = torch.tensor([v.shape[:0:-1] for v in rgba], dtype=torch.float64)[which] * voxel_size
    maps = _sampler_from_crop(
        placements, torch.arange(n), torch.zeros(n, 3).double(), extents, grid
    ).double()
    # affine_grid counts from −1 to 1: voxel = size / 2 · its coordinate + (size − 1) / 2.
    shift = maps[:, :, 3:] + maps[:, :, :3] @ (sizes[:, None] - 1) / 2
    thetas = torch.cat([maps[:, :, :3] * sizes / 2, shift], dim=2).float()
    canvas = rgba[0].new_zeros((rgba[0].shape[0], *grid.shape))
    premultiplied = Premultiplied(rgba)
    for k, theta, weight in zip(which, thetas, placements.presence.tolist(), strict=True):
        positions = F.affine_grid(theta[None], [1, 1, *grid.shape], align_corners=False)
        canvas.add_(_sample(premultiplied[k], positions)[0], alpha=weight)
    canvas[:-1].div_(torch.where(canvas[-1] > 0, canvas[-1], 1))
    canvas[-1].clamp_(max=1)
    return canvas
