"""Volume and camera → colour, depth and opacity: differentiable ray marching.

Along a pixel's ray, samples lie half a voxel apart. Occupancy α and occupancy times colour are
read trilinearly, so that the colour of empty voxels never counts, and one step stops

    o = 1 − (1 − α)²      of the light, with colour c:      o c = (2 − α) · (α c)

so that (1 − α)⁴ of it crosses a voxel. Why the fourth power: a surface in an occupancy volume is a
ramp from 0 to 1 over one voxel, and a ray that meets it head on has lost half of its light where
α = 0.5: that is where depth lies, measured on boxes to 0.1 voxel head on, to 0.4 voxel up to 70°
from it, and more than a voxel too near where a ray grazes a face. With the first power depth would
lie a third of a voxel too deep, and a wall one voxel thick would let 13 % of the light through.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from protoscene.geometry import Camera, Grid
from protoscene.volume import Outside, Volume

STEP = 0.5
"""Distance between samples, in voxels."""
BLOCK = 8
"""Samples of one ray that are taken, or skipped as empty, together: four voxels' worth."""
OPAQUE = 1e-3
"""A ray that has less light left than this stops (only where no gradient is wanted)."""


@dataclass(frozen=True, eq=False)
class Picture:
    """What a camera sees. ``opacity`` is the share of light that the volumes stop.

    ``depth`` is z-depth in metres: the mean over where the ray's light was stopped, and 0 where
    opacity ≤ 0.5. It is as steep in the volume as colour is; no gradient crosses the 0.5.
    """

    colour: Float[Tensor, "h w c"]
    depth: Float[Tensor, "h w"]
    opacity: Float[Tensor, "h w"]


def render(volume: Volume, camera: Camera, outside: Outside | None = None) -> Picture:
    """The picture of ``volume`` from ``camera``, with ``outside`` around and behind it.

    With transmittance T (1 at the camera), step opacity o, colour c and z-depth t of each sample:
    colour = Σ T o c + T_end · sky, opacity = 1 − T_end, depth = Σ T o t / opacity. ``outside``'s
    volume is sampled before the ray enters and after it leaves ``volume``'s grid (leave it empty
    inside: its own interpolation carries values half a voxel out); the sky is its colour, or black.
    Within half a voxel of a grid's faces the outermost voxel's value holds.

    Differentiable in the volumes and the sky (poses: through ``compose``), not in the camera. Where
    no gradient is wanted, empty space is skipped, which changes nothing, and a ray ends once it has
    lost all but 0.1 % of its light. Memory beyond the volumes is bounded: rays go in chunks, which
    backward computes again. Results are float32, or float64 for a float64 volume.
    """
    dtype = torch.promote_types(volume.rgba.dtype, torch.float32)
    volumes = [volume] if outside is None else [volume, outside.volume]
    black = volume.rgba.new_zeros(volume.rgba.shape[0] - 1)
    sky = (black if outside is None else outside.colour).to(volume.rgba.device, dtype)
    learning = torch.is_grad_enabled() and any(
        term.requires_grad for term in (sky, *(v.rgba for v in volumes))
    )
    media = [_medium(v, dtype, learning) for v in volumes]
    light: Callable[..., tuple[Tensor, ...]] = _light
    if learning:
        light = partial(checkpoint, _light, use_reentrant=False, preserve_rng_state=False)
    directions = camera.directions().reshape(-1, 3)
    size = 4096 if learning else 16384
    parts = [
        light(camera.centre, directions[i : i + size], media, sky)
        for i in range(0, len(directions), size)
    ]
    colour, depth, opacity = (
        torch.cat(part).reshape(camera.height, camera.width, *part[0].shape[1:])
        for part in zip(*parts, strict=True)
    )
    return Picture(colour, depth, opacity)


@dataclass(frozen=True, eq=False)
class _Medium:
    """A volume made ready: (C, z, y, x) premultiplied, and, where empty space may be skipped, the
    (z, y, x) cells of BLOCK · STEP voxels a side that are not empty or touch one that is not."""

    premultiplied: Tensor
    grid: Grid
    occupied: Tensor | None


def _medium(volume: Volume, dtype: torch.dtype, learning: bool) -> _Medium:
    rgba = volume.rgba.to(dtype)
    premultiplied = torch.cat([rgba[:-1] * rgba[-1:], rgba[-1:]])
    occupied = None
    if not learning:
        # A block reaches two voxels either way from its middle, and its samples one voxel more:
        # never beyond the cells next to the one that holds its middle.
        cells = F.max_pool3d(rgba[-1:], int(BLOCK * STEP), ceil_mode=True)
        occupied = F.max_pool3d(cells, 3, stride=1, padding=1)[0] > 0
    return _Medium(premultiplied, volume.grid, occupied)


def _light(
    eye: np.ndarray, rays: np.ndarray, media: list[_Medium], sky: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Colour (n, C−1), depth (n,) and opacity (n,) of n rays. The media: inner, or inner, outer."""
    inner, *outer = media
    # Per ray: light left, and the sums of T·o·c and of T·o·t so far.
    n, like = len(rays), inner.premultiplied
    state = like.new_ones(n), like.new_zeros((n, like.shape[0] - 1)), like.new_zeros(n)
    enter, leave = _crossing(inner.grid, eye, rays)
    missed = leave <= enter
    for medium in outer:
        start, stop = _crossing(medium.grid, eye, rays)
        before = np.where(missed, stop, np.minimum(enter, stop))
        state = _march(medium, eye, rays, start, before, state)
    state = _march(inner, eye, rays, enter, leave, state)
    for medium in outer:
        after = np.where(missed, stop, np.maximum(leave, start))
        state = _march(medium, eye, rays, after, stop, state)
    light, colour, depth = state
    opacity = 1 - light
    seen = opacity > 0.5
    depth = torch.where(seen, depth / torch.where(seen, opacity, 1), 0)
    return colour + light[:, None] * sky, depth, opacity


def _crossing(grid: Grid, eye: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """z-depths (n,) at which each ray enters and leaves the grid's box; leave ≤ enter: missed."""
    slopes = np.where(np.abs(rays) < 1e-12, 1e-12, rays)
    first, second = (grid.lower - eye) / slopes, (grid.upper - eye) / slopes
    enter = np.minimum(first, second).max(axis=-1).clip(min=0)
    return enter, np.maximum(first, second).min(axis=-1)


def _march(
    medium: _Medium,
    eye: np.ndarray,
    rays: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    state: tuple[Tensor, Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """``state`` (light, colour, depth sums) after the rays went from z-depth start to stop.

    Rays are positions eye + t·ray with t the z-depth. Round r takes every ray's r-th block.
    """
    step = STEP * medium.grid.voxel_size / np.linalg.norm(rays, axis=-1)
    n_steps = ((stop - start) / step).clip(min=0)
    n_blocks = np.ceil(n_steps / BLOCK).astype(int)
    if not n_blocks.any():
        return state
    like = medium.premultiplied
    begin, end, stride, length = (torch.as_tensor(v).to(like) for v in (start, stop, step, n_steps))
    origin = torch.as_tensor(medium.grid.sampler_from_world(eye)).to(like)
    slope = torch.as_tensor(medium.grid.sampler_from_world(eye + rays)).to(like) - origin
    block = torch.arange(int(n_blocks.max()), device=like.device)
    visited = block < torch.as_tensor(n_blocks, device=like.device)[:, None]
    if medium.occupied is not None:
        middle = begin[:, None] + (block + 0.5) * (BLOCK * stride[:, None])
        visited &= _may_hold(medium, origin + slope[:, None, :] * middle[..., None])
    rounds = visited.sum(dim=1)
    order = visited.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    light, colour, depth = state
    for r in range(int(rounds.max())):
        going = rounds > r
        if medium.occupied is not None:
            going &= light > OPAQUE
        chosen = going.nonzero()[:, 0]
        sample = order[chosen, r, None] * BLOCK + torch.arange(BLOCK, device=like.device)
        t = begin[chosen, None] + (sample + 0.5) * stride[chosen, None]
        t = torch.minimum(t, end[chosen, None])
        values = _read(medium, origin + slope[chosen, None, :] * t[..., None])
        alpha = values[-1].clamp(0, 1)
        # The share of the step that lies before the end: 1 for all but a ray's last steps.
        share = (length[chosen, None] - sample).clamp(0, 1)
        clear = 1 - share * (1 - (1 - alpha) ** 2)
        passed = torch.cat([light[chosen, None], clear], dim=1).cumprod(dim=1)
        reached = passed[:, :-1]
        colour = colour.index_add(
            0, chosen, (reached * share * (2 - alpha) * values[:-1]).sum(dim=2).T
        )
        depth = depth.index_add(0, chosen, (reached * (1 - clear) * t).sum(dim=1))
        light = light.index_copy(0, chosen, passed[:, -1])
    return light, colour, depth


def _may_hold(medium: _Medium, positions: Tensor) -> Tensor:
    """Whether a block of samples with its middle at ``positions`` (…, 3) can meet anything."""
    occupied = medium.occupied
    assert occupied is not None
    counts = positions.new_tensor(medium.grid.shape[::-1])
    cells = ((positions + 1) * (0.5 / (BLOCK * STEP)) * counts).long()
    x, y, z = (cells[..., d].clamp(0, occupied.shape[2 - d] - 1) for d in range(3))
    return occupied[z, y, x]


def _read(medium: _Medium, positions: Tensor) -> Tensor:
    """(C, …) premultiplied values at sampler ``positions`` (…, 3)."""
    flat = positions.reshape(1, 1, *positions.shape)
    values = F.grid_sample(
        medium.premultiplied[None], flat, padding_mode="border", align_corners=False
    )
    return values[0, :, 0]
