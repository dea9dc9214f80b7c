"""Position by evidence: a heat map over positions instead of three numbers, and what fills it.

A heat map is a tensor of scores (*n, z, y, x) on a Grid, one number per voxel, −∞ where a thing
cannot be. A bird's-eye map is one on a grid a single voxel high (:func:`birds_eye`). Evidence is a
tensor of the same shape in [0, 1]. All positions are world metres, xyz. Everything here is
differentiable except :func:`argmax`, :func:`draw`'s choice, :func:`peaks` and, where it says so, a
target.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from protoscene.geometry import Grid

FLOOR = 0.02
"""What a witness that saw nothing is worth: one alone must not veto, nor end all gradients."""


def birds_eye(grid: Grid) -> Grid:
    """The grid one voxel high at the middle height of ``grid``, for maps over the ground."""
    x, y, z = grid.lower
    middle = z + (grid.size_m[2] - grid.voxel_size) / 2
    return Grid((x, y, middle), grid.voxel_size, (1, *grid.shape[1:]))


def shares(
    scores: Float[Tensor, "*n z y x"], temperature: float = 1.0
) -> Float[Tensor, "*n z y x"]:
    """exp(score / T) over its sum: how likely each voxel is. Raises ValueError for T ≤ 0, NaN, +∞
    and a map of −∞ only."""
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    _check(scores)
    return torch.softmax(scores.flatten(-3) / temperature, dim=-1).view_as(scores)


def argmax(scores: Float[Tensor, "*n z y x"], grid: Grid) -> Float[Tensor, "*n 3"]:
    """Centre (m) of the voxel with the largest score, the first of several. No gradient."""
    _check(scores, grid)
    return _centre_of(scores.detach().flatten(-3).argmax(dim=-1), scores, grid)


def soft_argmax(
    scores: Float[Tensor, "*n z y x"],
    grid: Grid,
    temperature: float = 1.0,
    window_m: float | None = None,
) -> Float[Tensor, "*n 3"]:
    """Σ share(v) · centre(v), in metres; with T → 0 it becomes :func:`argmax`.

    With ``window_m`` only voxels whose centres lie within that distance of the argmax count, so
    that two peaks do not average to a place between them; then only those voxels get a gradient.
    Raises ValueError like :func:`shares`, and where the map does not fit the grid.
    """
    _check(scores, grid)
    if window_m is not None:
        peak = argmax(scores, grid)[..., None, None, None, :]
        x, y, z = _axes(grid, scores)
        distance2 = (
            (x - peak[..., 0]) ** 2
            + (y[:, None] - peak[..., 1]) ** 2
            + (z[:, None, None] - peak[..., 2]) ** 2
        )
        # Centres often lie exactly on the window's edge, where rounding must not decide.
        limit = window_m + 1e-3 * grid.voxel_size
        scores = scores.masked_fill(distance2 > limit**2, -math.inf)
    share = shares(scores, temperature)
    along = (share.sum((-3, -2)), share.sum((-3, -1)), share.sum((-2, -1)))
    axes = _axes(grid, scores)
    return torch.stack([(s * a).sum(-1) for s, a in zip(along, axes, strict=True)], dim=-1)


def draw(
    scores: Float[Tensor, "*n z y x"],
    grid: Grid,
    generator: torch.Generator,
    temperature: float = 1.0,
) -> tuple[Float[Tensor, "*n 3"], Float[Tensor, "*n"]]:
    """One voxel centre (m) per map, drawn by its share, and the log of that share.

    The logarithm is differentiable: reward · log share is a policy gradient, for rewards that
    cannot be had at every voxel.
    """
    _check(scores, grid)
    share = shares(scores, temperature).detach().flatten(-3)
    # The first of independent exponential arrivals, of rates as the shares: no limit to the voxels.
    arrival = torch.empty_like(share).exponential_(generator=generator) / share
    index = arrival.argmin(dim=-1)
    log_share = torch.log_softmax(scores.flatten(-3) / temperature, dim=-1)
    return _centre_of(index, scores, grid), log_share.gather(-1, index[..., None])[..., 0]


def sample(
    values: Float[Tensor, "*n z y x"], grid: Grid, positions: Float[Tensor, "*n 3"]
) -> Float[Tensor, "*n"]:
    """Each map at its own position (m), trilinear; beyond the outermost centres as at them."""
    maps = values.reshape(-1, 1, *grid.shape)
    where = grid.sampler_from_world(positions).to(values.dtype).reshape(-1, 1, 1, 1, 3)
    picked = F.grid_sample(maps, where, padding_mode="border", align_corners=False)
    return picked.reshape(positions.shape[:-1])


def encouragement(
    error: Float[Tensor, "*n z y x"], grid: Grid, positions: Float[Tensor, "*n 3"]
) -> Float[Tensor, "*n"]:
    """exp(−error at the position), in (0, 1] for an error ≥ 0: a reward that far misses, whose
    error is large, hardly move. With ``positions`` from :func:`draw` it rewards places that the
    heat map does not yet prefer; over all voxels its mean is Σ share · exp(−error)."""
    return torch.exp(-sample(error, grid, positions))


def centre_surround(
    evidence: Float[Tensor, "*n z y x"],
    grid: Grid,
    dims_m: Float[Tensor, "3"],
    ring_m: float,
    yaw: Tensor | float = 0.0,
) -> Float[Tensor, "*n z y x"]:
    """Mean evidence in the box of ``dims_m`` (x y z) around each voxel's centre, minus the mean in
    the ring of ``ring_m`` metres around that box: 1 for such a box alone, 0 where evidence is even,
    negative beside a box.

    A convolution with a fixed kernel (weights in the box sum to 1, in the ring to −1). The box, its
    own x at ``yaw``, covers voxels in part, so this is differentiable in ``dims_m`` and ``yaw`` as
    well as in ``evidence``. What lies outside the grid is left out of both means. Raises ValueError
    for NaN and for sizes ≤ 0.
    """
    inside, ring, _ = _inside_and_ring(evidence, grid, dims_m, ring_m, yaw)
    return inside - ring


def occupancy_error(
    evidence: Float[Tensor, "*n z y x"],
    grid: Grid,
    dims_m: Float[Tensor, "3"],
    ring_m: float,
    yaw: Tensor | float = 0.0,
) -> Float[Tensor, "*n z y x"]:
    """Mean of |box − evidence| over a solid box around each voxel's centre and its ring: what would
    stay unexplained if the thing were there. Arguments as in :func:`centre_surround`."""
    inside, ring, share = _inside_and_ring(evidence, grid, dims_m, ring_m, yaw)
    return share * (1 - inside) + (1 - share) * ring


def centre_surround_loss(
    scores: Float[Tensor, "*n z y x"],
    evidence: Float[Tensor, "*n z y x"],
    grid: Grid,
    dims_m: Float[Tensor, "3"],
    ring_m: float,
    yaw: Tensor | float = 0.0,
) -> Float[Tensor, ""]:
    """mean (sigmoid(score) − max(centre_surround, 0))²: the score as what a heat map is to become.
    The target has no gradient. Raises ValueError like both."""
    _check(scores, grid)
    target = centre_surround(evidence, grid, dims_m, ring_m, yaw).detach().clamp(min=0)
    return ((torch.sigmoid(scores) - target) ** 2).mean()


def product_of_evidence(
    occupied: Float[Tensor, "*n z y x"],
    free: Float[Tensor, "*n z y x"],
    changed: Float[Tensor, "*n z y x"],
    grid: Grid,
    dims_m: Float[Tensor, "3"],
    ring_m: float,
    yaw: Tensor | float = 0.0,
) -> Float[Tensor, "*n z y x"]:
    """Σ log((f + m) / (f + 1)) over three witnesses m in [0, 1], f = ``FLOOR``: the logarithm of
    their product, as if independent, 0 where all three are certain and at least 3 log(f / (f + 1)).

    They are, for a box around each voxel's centre: mean ``occupied`` inside it, mean ``free`` in
    the ring around it, mean ``changed`` (what is otherwise not there) inside it. All must agree,
    where a sum lets one outvote two. Arguments as in :func:`centre_surround`.
    """
    witnesses = (
        _inside_and_ring(occupied, grid, dims_m, ring_m, yaw)[0],
        _inside_and_ring(free, grid, dims_m, ring_m, yaw)[1],
        _inside_and_ring(changed, grid, dims_m, ring_m, yaw)[0],
    )
    return torch.stack([torch.log((FLOOR + m) / (FLOOR + 1)) for m in witnesses]).sum(0)


def peaks(
    scores: Float[Tensor, "z y x"], grid: Grid, least: float, radius_m: float
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"]]:
    """Centres (m) and scores, best first, of voxels with at least the score ``least`` that no
    better one suppresses: none of their 26 neighbours, and no peak within ``radius_m``."""
    _check(scores, grid)
    flat = scores.detach().flatten()
    around = F.max_pool3d(scores.detach()[None, None], 3, stride=1, padding=1).flatten()
    candidates = torch.nonzero((flat >= least) & (flat >= around)).flatten()
    candidates = candidates[torch.argsort(flat[candidates], descending=True, stable=True)]
    centres = _centre_of(candidates, scores, grid)
    kept: list[int] = []
    for i in range(len(candidates)):
        if not kept or bool(((centres[kept] - centres[i]).norm(dim=1) > radius_m).all()):
            kept.append(i)
    return centres[kept], flat[candidates[kept]]


def _inside_and_ring(
    evidence: Tensor, grid: Grid, dims_m: Tensor, ring_m: float, yaw: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    """Means inside the box and in the ring, and the box's share of the volume of both."""
    if not (bool((dims_m > 0).all()) and ring_m > 0):
        raise ValueError(f"sizes must be > 0 m, got dims {dims_m.tolist()} and ring {ring_m}")
    if tuple(evidence.shape[-3:]) != grid.shape or not bool(torch.isfinite(evidence).all()):
        raise ValueError(f"evidence must be finite and (…, {grid.shape})")
    offsets = _offsets(grid, dims_m.detach() + 2 * ring_m, evidence)
    inner = _box(offsets, dims_m.to(evidence), yaw, grid.voxel_size)
    ring = _box(offsets, dims_m.to(evidence) + 2 * ring_m, yaw, grid.voxel_size) - inner
    inner_sum, ring_sum = _correlated(evidence, inner), _correlated(evidence, ring)
    everywhere = evidence.new_ones(grid.shape)
    inner_volume, ring_volume = _correlated(everywhere, inner), _correlated(everywhere, ring)
    # The box is never empty; the ring is where the grid ends inside of the box.
    empty = ring_volume < 1e-3
    ring_mean = (ring_sum / ring_volume.masked_fill(empty, 1)).masked_fill(empty, 0)
    return inner_sum / inner_volume, ring_mean, inner_volume / (inner_volume + ring_volume)


def _offsets(grid: Grid, dims_m: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets x y z (m, broadcastable) between centres of the grid, as far as a box may reach."""
    reach = (float(dims_m[:2].norm()), float(dims_m[:2].norm()), float(dims_m[2]))
    x, y, z = (
        torch.arange(-limit, limit + 1).to(like) * grid.voxel_size
        for size, n in zip(reach, grid.shape[::-1], strict=True)
        for limit in [min(int(size / 2 / grid.voxel_size) + 1, n - 1)]
    )
    return x, y[:, None], z[:, None, None]


def _box(
    offsets: tuple[Tensor, Tensor, Tensor], dims_m: Tensor, yaw: Tensor | float, voxel: float
) -> Tensor:
    """How much (0..1) of each voxel a box around the origin covers: exact at yaw 0, else as if the
    voxels were turned with it."""
    x, y, z = offsets
    yaw = torch.as_tensor(yaw).to(dims_m)
    along, across = x * yaw.cos() + y * yaw.sin(), y * yaw.cos() - x * yaw.sin()
    covered = dims_m.new_ones(())
    for offset, size in zip((along, across, z), dims_m, strict=True):
        end = torch.minimum(size, 2 * offset + voxel)
        start = torch.maximum(-size, 2 * offset - voxel)
        covered = covered * ((end - start) / (2 * voxel)).clamp(min=0)
    return covered


def _correlated(values: Tensor, kernel: Tensor) -> Tensor:
    """Σ kernel(offset) · values(voxel + offset), zero outside; the kernel is its own mirror image,
    so this is also the convolution. By Fourier transform."""
    shape = [n + k // 2 for n, k in zip(values.shape[-3:], kernel.shape, strict=True)]
    spectrum = torch.fft.rfftn(values, s=shape) * torch.fft.rfftn(_wrapped(kernel, shape))
    full = torch.fft.irfftn(spectrum, s=shape)
    return full[..., : values.shape[-3], : values.shape[-2], : values.shape[-1]]


def _wrapped(kernel: Tensor, shape: list[int]) -> Tensor:
    """The kernel with its middle at index 0 of a periodic volume of ``shape``."""
    pad = [p for n, k in zip(shape[::-1], kernel.shape[::-1], strict=True) for p in (0, n - k)]
    middle = [-(k // 2) for k in kernel.shape]
    return F.pad(kernel, pad).roll(middle, dims=(0, 1, 2))


def _axes(grid: Grid, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, y, z = (like.new_tensor(axis) for axis in grid.axes())
    return x, y, z


def _centre_of(index: Int[Tensor, "*n"], scores: Tensor, grid: Grid) -> Float[Tensor, "*n 3"]:
    """Centres (m) of voxels that are numbered in (z, y, x) order."""
    x, y, z = _axes(grid, scores)
    _, ny, nx = grid.shape
    return torch.stack([x[index % nx], y[index // nx % ny], z[index // (nx * ny)]], dim=-1)


def _check(scores: Tensor, grid: Grid | None = None) -> None:
    if grid is not None and tuple(scores.shape[-3:]) != grid.shape:
        raise ValueError(f"heat map is {tuple(scores.shape)}, expected (…, {grid.shape})")
    largest = scores.detach().amax((-3, -2, -1))
    if not bool(torch.isfinite(largest).all()):  # NaN and +∞ are always the largest
        raise ValueError("heat map holds NaN or +∞, or nothing but −∞")
