"""What the tests of compose share: made-up cases, small by hypothesis and at full size."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from protoscene.compose import compose
from protoscene.geometry import Grid
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.volume import Volume

BACKENDS = ["reference", "torch", "numba"]
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_fast_backend = pytest.mark.parametrize("backend", BACKENDS[1:])
VOXEL = 0.05
GRID = Grid((-0.3, -0.25, -0.2), VOXEL, (8, 11, 12))
POSE = ("centre", "yaw", "scale", "presence")


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64).to(dtype)


class Case(NamedTuple):
    """One call of compose. ``volumes`` are the prototypes as (C, z, y, x)."""

    volumes: tuple[Tensor, ...]
    voxel_sizes: tuple[float, ...]
    placements: Placements
    grid: Grid
    background: Tensor | None = None

    def composed(self, backend: str, **options: Any) -> Volume:
        prototypes = VoxelPrototypes(list(self.volumes), list(self.voxel_sizes))
        return compose(
            prototypes, self.placements, self.grid, self.background, backend=backend, **options
        )

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a gradient can be asked for, by name."""
        named = {f"volume {k}": volume for k, volume in enumerate(self.volumes)}
        named |= {name: getattr(self.placements, name) for name in POSE}
        if self.placements.which.dim() == 2:
            named["weights"] = self.placements.which
        if self.background is not None:
            named["background"] = self.background
        return named

    def holding(self, tensors: dict[str, Tensor]) -> Case:
        """The same case made of other tensors."""
        which = tensors.get("weights", self.placements.which)
        return self._replace(
            volumes=tuple(tensors[f"volume {k}"] for k in range(len(self.volumes))),
            placements=Placements(which=which, **{name: tensors[name] for name in POSE}),
            background=tensors.get("background"),
        )

    def to(self, dtype: torch.dtype) -> Case:
        return self.holding({name: value.to(dtype) for name, value in self.tensors().items()})

    def posed(self, **values: Any) -> Case:
        """The same case with some of its placements' fields replaced."""
        return self._replace(placements=replace(self.placements, **values))


def gradients(
    case: Case, backend: str, cotangent: Tensor, only: str | None = None, **options: Any
) -> dict[str, Tensor]:
    """Of ⟨cotangent, rgba⟩, for every tensor of ``case`` or for one."""
    tensors = {name: value.detach() for name, value in case.tensors().items()}
    leaves = [value.requires_grad_() for name, value in tensors.items() if only in (None, name)]
    rgba = case.holding(tensors).composed(backend, **options).rgba
    found = torch.autograd.grad(
        rgba, leaves, cotangent.to(rgba.dtype), allow_unused=True, materialize_grads=True
    )
    return dict(zip([name for name in tensors if only in (None, name)], found, strict=True))


def where_solid(case: Case, cotangent: Tensor, cap: str = "hard") -> Tensor:
    """``cotangent``, 0 where A < 0.01: colour's gradient grows as 1/A, and what rounding makes of
    positions as 1/A², in the reference too."""
    solid = case.composed("reference", cap=cap).occupancy >= 0.01
    return cotangent * solid


def agree(mine: dict[str, Tensor], truth: dict[str, Tensor], tolerance: float) -> None:
    """Every entry within ``tolerance`` of the largest entry of its tensor."""
    assert mine.keys() == truth.keys()
    for name, expected in truth.items():
        if not expected.numel():
            continue
        largest = max(float(part.abs().max()) for part in expected.chunk(4))
        parts = zip(mine[name].chunk(4), expected.chunk(4), strict=True)  # to save memory
        error = max(float((a - b).abs().max()) for a, b in parts)
        assert math.isfinite(error) and error <= tolerance * largest, (
            f"{name} is off by {error:.3g}, {error / max(largest, 1e-300):.3g} of {largest:.3g}"
        )


def same(a: Volume, b: Volume, tolerance: float = 1e-9) -> None:
    """Equal occupancy and equal colour times occupancy; equal colour wherever there is more
    occupancy than what rounding leaves at the rim of a placement."""
    assert a.grid == b.grid and a.rgba.shape == b.rgba.shape
    mine, other = a.rgba.double(), b.rgba.double()
    close = {"rtol": 0.0, "atol": tolerance}
    torch.testing.assert_close(mine[-1], other[-1], **close)
    torch.testing.assert_close(mine[:-1] * mine[-1], other[:-1] * other[-1], **close)
    seen = mine[-1] > 1e4 * tolerance
    torch.testing.assert_close(mine[:-1, seen], other[:-1, seen], rtol=0, atol=10 * tolerance)


@st.composite
def cases(
    draw: st.DrawFn,
    least_rows: int = 0,
    background: bool | None = None,
    channels: tuple[int, ...] = (4, 2, 1),
) -> Case:
    """Small calls in float64: any sizes, indices or weights, one scale or three, placements that
    cover the canvas, lie half outside or miss it. numba compiles for every number of channels."""
    seed = draw(st.integers(0, 2**16))
    side = st.integers(1, 7)
    sizes = draw(st.lists(st.tuples(side, side, side), min_size=1, max_size=3))
    n = draw(st.integers(least_rows, 6))
    n_channels = draw(st.sampled_from(channels))
    shape = draw(st.tuples(*[st.integers(1, 10)] * 3))
    per_axis, soft = draw(st.booleans()), draw(st.booleans())
    grid = Grid((-0.3, 0.2, -0.1), VOXEL, shape)
    spread = 1.6 * random(n, 3, seed=seed) - 0.3  # 0..1 is the canvas
    presence = random(n, seed=seed + 3)
    placements = Placements(
        which=random(n, len(sizes), seed=seed + 4) if soft else torch.arange(n) % len(sizes),
        centre=torch.as_tensor(grid.lower) + spread * torch.as_tensor(grid.size_m),
        yaw=14 * random(n, seed=seed + 1) - 7,
        scale=0.3 + 2 * random(*([n, 3] if per_axis else [n]), seed=seed + 2),
        presence=torch.where(presence < 0.1, 0.0, presence),
    )
    with_background = draw(st.booleans()) if background is None else background
    return Case(
        tuple(random(n_channels, *size, seed=seed + 5 + k) for k, size in enumerate(sizes)),
        tuple(VOXEL * (0.6 + 0.3 * k) for k in range(len(sizes))),
        placements,
        grid,
        0.6 * random(n_channels, *shape, seed=seed + 9) if with_background else None,
    )


def mixed_sizes() -> Case:
    """Prototypes of 2 to 40 voxels a side in one dictionary."""
    sizes = [(2, 2, 2), (5, 3, 9), (40, 40, 40), (1, 30, 2), (33, 17, 4)]
    n = 10
    placements = Placements(
        which=torch.arange(n) % 5,
        centre=1.1 * random(n, 3, seed=7),
        yaw=7 * random(n, seed=8),
        scale=0.7 + random(n, 3, seed=9),
        presence=0.5 * random(n, seed=10),
    )
    grid = Grid((0, 0, 0), VOXEL, (18, 20, 22))
    volumes = tuple(random(4, *size, seed=k) for k, size in enumerate(sizes))
    return Case(volumes, (VOXEL, 0.06, 0.02, 0.03, 0.04), placements, grid)


def two_prototypes(dtype: torch.dtype = torch.float64) -> VoxelPrototypes:
    return VoxelPrototypes.from_rgba(
        [random(4, 3, 4, 5, seed=1, dtype=dtype), random(4, 6, 5, 4, seed=2, dtype=dtype)],
        [VOXEL, 0.7 * VOXEL],
    )


def scattered(n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Placements:
    """n placements of two prototypes over GRID, some of them half outside."""
    return Placements(
        which=torch.arange(n) % 2,
        centre=(random(n, 3, seed=seed, dtype=dtype) - 0.5) * 0.6,
        yaw=random(n, seed=seed + 1, dtype=dtype) * 7,
        scale=0.6 + random(n, 3, seed=seed + 2, dtype=dtype),
        presence=random(n, seed=seed + 3, dtype=dtype),
    )


def scattered_case(n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Case:
    """``scattered`` over a background."""
    prototypes = two_prototypes(dtype)
    return Case(
        (prototypes.rgba(0), prototypes.rgba(1)),
        prototypes.voxel_size,
        scattered(n, seed, dtype),
        GRID,
        0.6 * random(4, *GRID.shape, seed=seed, dtype=dtype),
    )


def crowd(
    n: int, side: int, covered: float, grid: Grid, kinds: int, soft: bool = False, seed: int = 0
) -> Case:
    """n placements of ``kinds`` prototypes of side³ voxels, each over about ``covered`` voxels a
    side of ``grid``, anywhere on it, with a background: float32."""
    scale = covered / side * (0.8 + 0.4 * random(n, 3, seed=seed))
    weights = random(n, kinds, seed=seed + 1)
    spread = random(n, 3, seed=seed + 2) * torch.as_tensor(grid.size_m)
    generator = torch.Generator().manual_seed(seed + 3)
    volumes = [torch.rand(4, side, side, side, generator=generator) for _ in range(kinds)]
    background = torch.rand(4, *grid.shape, generator=generator)
    background[-1] *= 0.5
    placements = Placements(
        which=(weights / weights.sum(1, keepdim=True)).float() if soft else torch.arange(n) % kinds,
        centre=(torch.as_tensor(grid.lower) + spread).float(),
        yaw=7 * random(n, seed=seed + 4, dtype=torch.float32),
        scale=scale.float(),
        presence=0.3 + 0.7 * random(n, seed=seed + 5, dtype=torch.float32),
    )
    return Case(tuple(volumes), (grid.voxel_size,) * kinds, placements, grid, background)


def cut(case: Case, start: list[int], stop: list[int]) -> tuple[Case, tuple[slice, ...], Tensor]:
    """A case on a part of its canvas (voxels z y x) with only the placements that may reach it;
    the part as slices; and (n,) which placements these are."""
    grid = case.grid.cropped(start, stop)
    rows, longest = case.placements, max(max(volume.shape[1:]) for volume in case.volumes)
    radius = rows.scale.amax(dim=1) * (longest + 1) * max(case.voxel_sizes) * 3**0.5 / 2
    middle = torch.as_tensor((grid.lower + grid.upper) / 2)
    reach = radius + float(torch.as_tensor(grid.size_m).norm()) / 2
    near = (rows.centre - middle).norm(dim=1) <= reach
    inner = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    background = None if case.background is None else case.background[:, *inner]
    part = case._replace(grid=grid, placements=rows[near], background=background)
    return part, inner, near


def raw_arguments(
    case: Case, backend: str, cap: str = "hard", contiguous: bool = False
) -> list[Any]:
    """Of torch.ops.protoscene.compose."""
    prototypes = VoxelPrototypes(list(case.volumes), list(case.voxel_sizes))
    rows, grid = case.placements, case.grid
    scale = rows.scale[:, None].expand(-1, 3) if rows.scale.dim() == 1 else rows.scale
    return [
        *(prototypes.voxels, prototypes.table, torch.tensor(prototypes.voxel_size).double()),
        *(rows.which, rows.centre, rows.yaw, scale, rows.presence, case.background),
        *(list(grid.origin), grid.voxel_size, list(grid.shape), prototypes.channels),
        *(cap, backend, True, contiguous),
    ]


def forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    return torch.ops.protoscene.compose(*arguments)


def backward_arguments(gradient: Tensor, arguments: list[Any]) -> list[Any]:
    """Of torch.ops.protoscene.compose_backward, for all that it can be asked for."""
    *inputs, _, contiguous = arguments
    return [gradient, *forward(*arguments), *inputs, contiguous, [True] * 6]
