"""Dictionaries that store less than their voxels: latents with a network, and mirrored halves.

Like :class:`VoxelPrototypes`, each is called to get the VoxelPrototypes that compose takes, packed
with their graph, so that gradients reach what is stored: ``compose(decoder(), placements, grid)``.
Sizes are free to differ, 8³ and 128³ in one dictionary.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from protoscene.geometry import Grid, centred_grid
from protoscene.prototypes import VoxelPrototypes, one_each

FIRST_SIDE = 4
"""Voxels a side that a latent becomes by one linear layer; each transposed convolution doubles."""
LEAK, EMPTY = 0.1, -2.0
"""Slope of the activations below zero, and the logit of occupancy to begin with: most is empty. A
network that falls to nothing at its first steps gets no gradient any more."""
SOLID = 1e-3
"""Occupancy above this counts when the extent of a stored half is chosen."""

MirrorPlane = tuple[float, float]
"""(turn, shift): the vertical plane x cos turn + y sin turn = shift, own frame, rad and m."""


class LatentPrototypes(nn.Module):
    """K latents, one network: a linear layer to 4³ features, then transposed convolutions that
    double the side and halve the features; a 1×1×1 convolution per side gives sigmoid(rgba).

    A prototype of (nz, ny, nx) voxels is read at the first side that holds it and resized to its
    shape (trilinear), so that small ones cost little.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]],
        voxel_size: float | Sequence[float],
        latent_dim: int = 16,
        features: int = 64,
        channels: int = 4,
        seed: int = 0,
    ) -> None:
        """``shapes`` (nz, ny, nx) of each; ``features`` at 4³. The same seed gives the same."""
        super().__init__()
        self.shapes = list(shapes)
        self.voxel_size = tuple(float(v) for v in one_each(voxel_size, len(shapes)))
        doublings = [max(0, math.ceil(math.log2(max(s) / FIRST_SIDE))) for s in self.shapes]
        self.doublings = doublings
        widths = [max(4, features >> n) for n in range(max(doublings, default=0) + 1)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.latents = nn.Parameter(torch.randn(len(shapes), latent_dim))
            self.first = nn.Linear(latent_dim, features * FIRST_SIDE**3)
            self.up = nn.ModuleList(
                nn.ConvTranspose3d(a, b, 4, stride=2, padding=1)
                for a, b in itertools.pairwise(widths)
            )
            self.rgba = nn.ModuleList(nn.Conv3d(width, channels, 1) for width in widths)
        bias = torch.zeros(channels)
        bias[-1] = EMPTY
        for to_rgba in self.rgba:
            to_rgba.load_state_dict({"weight": to_rgba.weight, "bias": bias})

    def __len__(self) -> int:
        return len(self.shapes)

    def forward(self) -> VoxelPrototypes:
        return VoxelPrototypes([self._decoded(k) for k in range(len(self))], self.voxel_size)

    def _decoded(self, k: int) -> Float[Tensor, "C z y x"]:
        features = self.first(self.latents[k]).reshape(1, -1, *(FIRST_SIDE,) * 3)
        for up in self.up[: self.doublings[k]]:
            features = up(F.leaky_relu(features, LEAK))
        logits = self.rgba[self.doublings[k]](F.leaky_relu(features, LEAK))
        if tuple(logits.shape[2:]) != self.shapes[k]:
            logits = F.interpolate(logits, self.shapes[k], mode="trilinear", align_corners=False)
        return torch.sigmoid(logits[0])


class MirroredPrototypes(nn.Module):
    """Prototypes of which one side of a mirror plane is stored, (C, z, along, away): ``along`` the
    plane, and ``away`` from it on either side. What has no plane is stored whole, (C, z, y, x).

    Decoded trilinearly, colour premultiplied by occupancy, zero beyond what is stored: exact where
    the plane lies on the prototype's voxel faces, else as smooth as any interpolation.
    """

    def __init__(
        self,
        rgba: Sequence[Tensor],
        voxel_size: float | Sequence[float],
        planes: Sequence[MirrorPlane | None],
        confidence: Sequence[Tensor] | None = None,
        trainable: bool = False,
    ) -> None:
        """Halves of whole volumes (C, z, y, x): the mean of both sides, weighted by ``confidence``
        (z, y, x) where given, so that a side that nobody saw is what its mirror image shows. Stored
        as far as anything is occupied; all of the box where nothing is.

        Raises ValueError where there is not one plane for each.
        """
        super().__init__()
        if len(planes) != len(rgba):
            raise ValueError(f"{len(rgba)} prototypes but {len(planes)} mirror planes")
        self.voxel_size = tuple(float(v) for v in one_each(voxel_size, len(rgba)))
        self.planes = list(planes)
        self.grids = [
            _grid_of(volume, size) for volume, size in zip(rgba, self.voxel_size, strict=True)
        ]
        self.half_grids: list[Grid] = []
        stored = []
        for k, (volume, plane) in enumerate(zip(rgba, planes, strict=True)):
            half_grid = self.grids[k]
            if plane is not None:
                half_grid = _half_grid(volume[-1], self.grids[k], plane)
                weight = torch.ones_like(volume[-1]) if confidence is None else confidence[k]
                volume = _folded(volume, weight, self.grids[k], half_grid, plane)
            self.half_grids.append(half_grid)
            stored.append(nn.Parameter(volume.detach().clone(), requires_grad=trainable))
        self.stored = nn.ParameterList(stored)

    def __len__(self) -> int:
        return len(self.planes)

    def forward(self) -> VoxelPrototypes:
        return VoxelPrototypes([self._decoded(k) for k in range(len(self))], self.voxel_size)

    def _decoded(self, k: int) -> Float[Tensor, "C z y x"]:
        plane, volume = self.planes[k], self.stored[k]
        if plane is None:
            return volume
        away, along = _from_plane(self.grids[k], plane)
        half = self.half_grids[k]
        # The voxels just across the plane are the mirror images of the first ones.
        padded = torch.cat([volume[..., :1], volume], dim=-1)
        start = (half.origin[0] - half.voxel_size, *half.origin[1:])
        nz, n_along, n_away = half.shape
        grid = Grid(start, half.voxel_size, (nz, n_along, n_away + 1))
        layers = _level(_premultiplied(padded), grid, torch.stack([away.abs(), along], -1))
        below = _layers_below(half, self.grids[k])
        above = self.grids[k].shape[0] - nz - below
        return _straight(F.pad(layers, (0, 0, 0, 0, below, above)))


def _grid_of(volume: Tensor, voxel_size: float) -> Grid:
    nz, ny, nx = volume.shape[1:]
    return centred_grid((nx * voxel_size, ny * voxel_size, nz * voxel_size), voxel_size)


def _from_plane(grid: Grid, plane: MirrorPlane) -> tuple[Tensor, Tensor]:
    """Signed distance (y, x) from the plane and position along it, of a grid's columns, metres."""
    turn, shift = plane
    x, y, _ = (torch.from_numpy(middles).float() for middles in grid.axes())
    away = x * math.cos(turn) + y[:, None] * math.sin(turn) - shift
    return away, y[:, None] * math.cos(turn) - x * math.sin(turn)


def _half_grid(occupancy: Tensor, grid: Grid, plane: MirrorPlane) -> Grid:
    """x: away from the plane, from it on; y: along it; z as it was. Holds all that is occupied."""
    away, along = _from_plane(grid, plane)
    there = (occupancy > SOLID).any(dim=0).to(away.device)
    if not there.any():
        there = torch.ones_like(there)
    size = grid.voxel_size
    # Along the plane on the voxels' own raster, so that a plane along an axis is exact.
    first = math.floor(float(along[there].min() - along.min()) / size + 1e-4) * size
    lower = float(along.min()) + first - size / 2
    n_along = math.ceil((float(along[there].max()) - lower) / size + 0.5 - 1e-4)
    n_away = math.ceil(float(away[there].abs().max()) / size + 0.5 - 1e-4)
    layers = (occupancy > SOLID).flatten(1).any(dim=1).nonzero()[:, 0].tolist() or [0, -1]
    below, n_layers = layers[0], (layers[-1] - layers[0]) % grid.shape[0] + 1
    bottom = grid.origin[2] + below * size
    return Grid((0.0, lower, bottom), size, (n_layers, n_along, n_away))


def _layers_below(half_grid: Grid, grid: Grid) -> int:
    return round((half_grid.origin[2] - grid.origin[2]) / grid.voxel_size)


def _folded(
    volume: Tensor, confidence: Tensor, grid: Grid, half_grid: Grid, plane: MirrorPlane
) -> Float[Tensor, "C z along away"]:
    """Mean of the two sides of a volume, on the half's grid, weighted by confidence."""
    turn, shift = plane
    away, along, _ = (torch.from_numpy(middles).float() for middles in half_grid.axes())
    trusted = torch.cat([_premultiplied(volume), torch.ones_like(volume[-1:])]) * confidence
    both: Tensor | float = 0.0
    for side in (1.0, -1.0):
        out = shift + side * away
        x = out * math.cos(turn) - along[:, None] * math.sin(turn)
        y = out * math.sin(turn) + along[:, None] * math.cos(turn)
        both = both + _level(trusted, grid, torch.stack([x, y], -1))
    assert isinstance(both, Tensor)
    below = _layers_below(half_grid, grid)
    both = both[:, below : below + half_grid.shape[0]]
    return _straight(both[:-1] / both[-1:].clamp(min=1e-6))


def _level(
    volume: Float[Tensor, "C z y x"], grid: Grid, xy: Float[Tensor, "v u 2"]
) -> Float[Tensor, "C z v u"]:
    """``volume`` at horizontal positions ``xy`` (m) of every layer; zero outside."""
    points = torch.cat([xy, torch.zeros_like(xy[..., :1])], dim=-1)
    at = grid.sampler_from_world(points)[..., :2].to(volume)
    layers = volume.flatten(0, 1)[None]
    found = F.grid_sample(layers, at[None], padding_mode="zeros", align_corners=False)
    return found[0].reshape(*volume.shape[:2], *xy.shape[:2])


def _premultiplied(rgba: Tensor) -> Tensor:
    return torch.cat([rgba[:-1] * rgba[-1:], rgba[-1:]])


def _straight(volume: Tensor) -> Tensor:
    return torch.cat([volume[:-1] / volume[-1:].clamp(min=1e-6), volume[-1:]])
