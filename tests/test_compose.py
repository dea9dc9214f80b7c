"""compose: its laws hold for the torch form and for the float64 reference, which agree."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from protoscene.compose import compose, reference
from protoscene.geometry import Grid
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.volume import Volume

Compose = Callable[..., Volume]
both = pytest.mark.parametrize("paste", [compose, reference.compose], ids=["torch", "reference"])
VOXEL = 0.05
GRID = Grid((-0.3, -0.25, -0.2), VOXEL, (8, 11, 12))


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64).to(dtype)


def two_prototypes(dtype: torch.dtype = torch.float64) -> VoxelPrototypes:
    return VoxelPrototypes.from_rgba(
        [random(4, 3, 4, 5, seed=1, dtype=dtype), random(4, 6, 5, 4, seed=2, dtype=dtype)],
        [VOXEL, 0.7 * VOXEL],
    )


def scattered(n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Placements:
    return Placements(
        which=torch.arange(n) % 2,
        centre=(random(n, 3, seed=seed, dtype=dtype) - 0.5) * 0.6,
        yaw=random(n, seed=seed + 1, dtype=dtype) * 7,
        scale=0.6 + random(n, 3, seed=seed + 2, dtype=dtype),
        presence=random(n, seed=seed + 3, dtype=dtype),
    )


def same(a: Volume, b: Volume, tolerance: float = 1e-9) -> None:
    """Equal occupancy, and equal colour wherever there is more occupancy than rounding leaves."""
    assert a.grid == b.grid
    seen = a.occupancy > tolerance
    torch.testing.assert_close(a.occupancy, b.occupancy, rtol=0, atol=tolerance)
    torch.testing.assert_close(a.colour[:, seen], b.colour[:, seen], rtol=0, atol=10 * tolerance)


def test_three_voxels_by_hand() -> None:
    """One voxel of occupancy 0.5, moved by a quarter voxel, over a background of 0.75."""
    prototype = VoxelPrototypes.from_rgba([torch.tensor([1.0, 0.5]).reshape(2, 1, 1, 1)], 1.0)
    background = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.75, 0.75]]).reshape(2, 1, 1, 3)
    grid = Grid((0, 0, 0), 1.0, (1, 1, 3))
    placements = Placements(which=[0], centre=[[0.75, 0.5, 0.5]])
    result = compose(prototype, placements, grid, background).rgba.reshape(2, 3)
    torch.testing.assert_close(result[1], torch.tensor([0.375, 0.875, 0.75]))
    torch.testing.assert_close(result[0], torch.tensor([1.0, 0.125 / 0.875, 0.0]))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(0, 5), seed=st.integers(0, 99), with_background=st.booleans())
def test_torch_is_the_reference(n: int, seed: int, with_background: bool) -> None:
    background = random(4, *GRID.shape, seed=seed) * 0.5 if with_background else None
    arguments = two_prototypes(), scattered(n, seed), GRID, background
    same(compose(*arguments), reference.compose(*arguments))


@both
@pytest.mark.parametrize("seed", [0, 1])
def test_occupancy_and_colour_stay_in_range(paste: Compose, seed: int) -> None:
    rgba = paste(two_prototypes(), scattered(9, seed), GRID, random(4, *GRID.shape)).rgba
    assert rgba.min() >= 0 and rgba.max() <= 1 + 1e-12
    assert (rgba[3] == 1).any() and (rgba[3] < 1).any()  # the cap was reached, and not everywhere


@both
def test_order_does_not_matter(paste: Compose) -> None:
    placements = scattered(6)
    order = [3, 1, 5, 0, 2, 4]
    same(
        paste(two_prototypes(), placements, GRID), paste(two_prototypes(), placements[order], GRID)
    )


@both
@pytest.mark.parametrize("shift", [(1, 0, 0), (0, -2, 0), (2, 1, -1)])
def test_shift_in_is_shift_out(paste: Compose, shift: tuple[int, int, int]) -> None:
    """Moving the placements by whole voxels moves the volume; the canvas's edges cut it off."""
    placements = scattered(4)
    moved = replace(placements, centre=placements.centre + VOXEL * torch.tensor(shift).double())
    there = Grid(
        tuple(o - VOXEL * d for o, d in zip(GRID.origin, shift, strict=True)), VOXEL, GRID.shape
    )
    same(
        paste(two_prototypes(), moved, GRID),
        Volume(paste(two_prototypes(), placements, there).rgba, GRID),
    )
    before, after = (paste(two_prototypes(), p, GRID).rgba for p in (placements, moved))
    x, y, z = shift
    inner = (slice(2, -2),) * 3
    rolled = before.roll((z, y, x), dims=(1, 2, 3))
    torch.testing.assert_close(after[:, *inner], rolled[:, *inner], rtol=0, atol=1e-9)


@both
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_of_a_cube_are_exact(paste: Compose, quarters: int) -> None:
    """Counter-clockwise seen from +z: what was at +x comes to +y."""
    cube = random(4, 6, 6, 6)
    grid = Grid((-3, -3, -3), 1.0, (6, 6, 6))
    yaw = torch.tensor([quarters * math.pi / 2], dtype=torch.float64)
    placement = Placements(which=[0], centre=torch.zeros(1, 3).double(), yaw=yaw)
    turned = paste(VoxelPrototypes.from_rgba([cube], 1.0), placement, grid).rgba
    expected = cube.rot90(quarters, dims=(3, 2))
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-9)


@both
def test_presence_may_be_split_in_two(paste: Compose) -> None:
    whole = scattered(2)
    halves = whole[[0, 0, 1]]
    split = replace(halves, presence=halves.presence * torch.tensor([0.3, 0.7, 1.0]))
    same(paste(two_prototypes(), whole, GRID), paste(two_prototypes(), split, GRID))


@both
def test_one_hot_weights_are_an_index(paste: Compose) -> None:
    hard = scattered(4)
    soft = replace(hard, which=torch.eye(2, dtype=torch.float64)[hard.which])
    same(paste(two_prototypes(), hard, GRID), paste(two_prototypes(), soft, GRID))


@both
def test_weights_blend_prototypes_of_different_sizes(paste: Compose) -> None:
    placement = scattered(1)
    soft = replace(placement, which=torch.tensor([[0.25, 0.75]], dtype=torch.float64))
    rows = placement[[0, 0]]
    blend = rows.presence * torch.tensor([0.25, 0.75])
    hard = replace(rows, which=torch.tensor([0, 1]), presence=blend)
    same(paste(two_prototypes(), soft, GRID), paste(two_prototypes(), hard, GRID))


@both
def test_colour_of_empty_voxels_never_shows(paste: Compose) -> None:
    """Red where occupied, green where empty: between the two it is red and thinner."""
    rgba = torch.zeros(4, 4, 4, 4, dtype=torch.float64)
    rgba[1] = 1.0
    rgba[:, 1:3, 1:3, 1:3] = torch.tensor([1.0, 0.0, 0.0, 1.0]).double().reshape(4, 1, 1, 1)
    prototypes = VoxelPrototypes.from_rgba([rgba], VOXEL)
    centre = torch.tensor([[0.013, 0.007, -0.011]])
    result = paste(prototypes, Placements(which=[0], centre=centre, yaw=[0.4]), GRID)
    seen = result.occupancy > 0
    assert seen.any() and ((result.occupancy > 0) & (result.occupancy < 0.9)).any()
    torch.testing.assert_close(result.rgba[0][seen], torch.ones_like(result.rgba[0][seen]))
    assert result.rgba[1].max() == 0


@both
def test_outside_leaves_no_trace_and_half_inside_is_cut(paste: Compose) -> None:
    away = Placements(which=[0, 1], centre=[[9, 0, 0], [0, -9, 3]])
    assert paste(two_prototypes(), away, GRID).rgba.abs().max() == 0
    at_the_face = Placements(which=[1], centre=torch.tensor([[-0.3, -0.25, 0.2]]), yaw=[0.5])
    wide = Grid((-0.6, -0.55, -0.2), VOXEL, (14, 17, 18))
    cut = paste(two_prototypes(), at_the_face, wide).rgba[:, :8, 6:, 6:]
    same(paste(two_prototypes(), at_the_face, GRID), Volume(cut, GRID))


@both
def test_no_placements_leave_the_background(paste: Compose) -> None:
    none = Placements(which=[], centre=torch.zeros(0, 3))
    background = random(4, *GRID.shape)
    same(paste(two_prototypes(), none, GRID, background), Volume(background, GRID))
    assert paste(two_prototypes(), none, GRID).rgba.abs().max() == 0
    nothing = VoxelPrototypes.from_rgba([], 0.1)
    same(paste(nothing, none, GRID, background), Volume(background, GRID))
    assert paste(nothing, none, GRID).rgba.shape == (4, *GRID.shape)


@both
def test_background_on_another_grid_is_one_more_unturned_placement(paste: Compose) -> None:
    """Finer, coarser or aside: as if it were a prototype of its own at the middle of its box."""
    rgba = random(4, 5, 6, 7)
    for size in (0.03, 0.05, 0.11):
        grid = Grid((-0.21, -0.13, -0.1), size, (5, 6, 7))
        middle = torch.as_tensor((grid.lower + grid.upper) / 2)[None]
        none = Placements(which=[], centre=torch.zeros(0, 3))
        prototypes = VoxelPrototypes.from_rgba([rgba], size)
        same(
            paste(prototypes, none, GRID, Volume(rgba, grid)),
            paste(prototypes, Placements(which=[0], centre=middle), GRID),
        )


@both
def test_scale_may_be_one_number_or_three(paste: Compose) -> None:
    one = replace(scattered(2), scale=torch.tensor([0.8, 1.3]).double())
    three = replace(one, scale=one.scale[:, None].expand(-1, 3))
    same(paste(two_prototypes(), one, GRID), paste(two_prototypes(), three, GRID))


@both
def test_scale_is_along_the_prototypes_own_axes(paste: Compose) -> None:
    """Stretched along its own x and turned by 90°, a cube is long along the world's y."""
    cube = VoxelPrototypes.from_rgba([torch.ones(4, 4, 4, 4, dtype=torch.float64)], VOXEL)
    grid = Grid((-0.5, -0.5, -0.5), VOXEL, (20, 20, 20))
    scale = torch.tensor([[3.0, 1.0, 1.0]]).double()
    placement = Placements(which=[0], centre=[[0, 0, 0]], yaw=[math.pi / 2], scale=scale)
    occupancy = paste(cube, placement, grid).occupancy
    counts = [int((occupancy > 0.5).any(dim=2).any(dim=0).sum())]
    counts.append(int((occupancy > 0.5).any(dim=1).any(dim=0).sum()))
    assert counts == [12, 4]


@pytest.mark.parametrize("channels", [1, 2, 9])
def test_any_number_of_channels(channels: int) -> None:
    prototypes = VoxelPrototypes.from_rgba([random(channels, 3, 3, 3)], VOXEL)
    placements = Placements(which=[0, 0], centre=random(2, 3) * 0.2)
    arguments = prototypes, placements, GRID
    same(compose(*arguments), reference.compose(*arguments))


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 2e-4), (torch.float16, 2e-2), (torch.bfloat16, 1e-1)],
)
def test_float_types(dtype: torch.dtype, tolerance: float) -> None:
    arguments = two_prototypes(dtype), scattered(4, dtype=dtype), GRID
    result = compose(*arguments)
    assert result.rgba.dtype == dtype
    difference = result.rgba.double() - reference.compose(*arguments).rgba
    assert (difference[3]).abs().max() < tolerance


def test_views_that_are_not_contiguous() -> None:
    flipped = two_prototypes().rgba(0).transpose(1, 3)
    placements = replace(scattered(3), which=torch.tensor([0, 0, 0]))
    canvases = [
        compose(VoxelPrototypes.from_rgba([v], VOXEL), placements, GRID)
        for v in (flipped, flipped.contiguous())
    ]
    assert torch.equal(canvases[0].rgba, canvases[1].rgba)


Inputs = dict[str, Tensor]
GRID64 = Grid((0, 0, 0), VOXEL, (64, 64, 64))


def differentiable_inputs(n: int, grid: Grid, size: int, soft: bool = False) -> Inputs:
    extent = torch.as_tensor(grid.size_m)
    background = random(4, *grid.shape, seed=7)
    background[3] *= 0.3
    inputs = {
        "first": random(4, size, size + 1, size - 1, seed=8),
        "second": random(4, size - 1, size, size, seed=9),
        "background": background,
        "centre": torch.as_tensor(grid.lower) + (0.1 + 0.8 * random(n, 3, seed=10)) * extent,
        "yaw": random(n, seed=11) * 6,
        "scale": 0.7 + 0.6 * random(n, 3, seed=12),
        "presence": 0.1 + 0.3 * random(n, seed=13),
    }
    if soft:
        inputs["which"] = random(n, 2, seed=14)
    return inputs


def composed(paste: Compose, inputs: Inputs, grid: Grid) -> Tensor:
    prototypes = VoxelPrototypes.from_rgba([inputs["first"], inputs["second"]], VOXEL)
    pose = {name: inputs[name] for name in ("centre", "yaw", "scale", "presence")}
    which = inputs.get("which", torch.arange(len(pose["yaw"])) % 2)
    return paste(prototypes, Placements(which=which, **pose), grid, inputs["background"]).rgba


def gradients(paste: Compose, inputs: Inputs, grid: Grid, dtype: torch.dtype) -> Inputs:
    leaves = {k: v.float().to(dtype).requires_grad_() for k, v in inputs.items()}
    result = composed(paste, leaves, grid)
    cotangent = torch.randn(result.shape, generator=torch.Generator().manual_seed(3))
    found = torch.autograd.grad((result * cotangent.to(dtype)).sum(), list(leaves.values()))
    return dict(zip(leaves, (g.double() for g in found), strict=True))


@both
@pytest.mark.parametrize("soft", [False, True], ids=["index", "weights"])
def test_gradcheck(paste: Compose, soft: bool) -> None:
    grid = Grid((0, 0, 0), VOXEL, (3, 3, 4))
    inputs = differentiable_inputs(2, grid, 3, soft)
    leaves = {k: v.requires_grad_() for k, v in inputs.items()}
    assert torch.autograd.gradcheck(
        lambda *values: composed(paste, dict(zip(leaves, values, strict=True)), grid),
        tuple(leaves.values()),
        eps=1e-7,
        atol=1e-5,
        fast_mode=paste is reference.compose,
    )


def test_gradients_are_the_references() -> None:
    grid = Grid((0, 0, 0), VOXEL, (12, 13, 14))
    inputs = differentiable_inputs(3, grid, 7, soft=True)
    mine = gradients(compose, inputs, grid, torch.float64)
    truth = gradients(reference.compose, inputs, grid, torch.float64)
    for name, expected in truth.items():
        assert (mine[name] - expected).abs().max() <= 1e-9 * expected.abs().max(), name


def test_float32_gradients_at_a_fuller_size() -> None:
    """Small sizes hide positions that fall into the wrong cell."""
    inputs = differentiable_inputs(8, GRID64, 24)
    single = gradients(compose, inputs, GRID64, torch.float32)
    double = gradients(compose, inputs, GRID64, torch.float64)
    for name, expected in double.items():
        assert (single[name] - expected).abs().max() <= 3e-4 * expected.abs().max(), name


def test_only_what_needs_a_gradient_gets_one() -> None:
    inputs = differentiable_inputs(2, GRID, 4)
    inputs["centre"].requires_grad_()
    composed(compose, inputs, GRID).sum().backward()
    assert inputs["centre"].grad is not None and inputs["centre"].grad.abs().max() > 0
    with torch.no_grad():
        assert not composed(compose, inputs, GRID).requires_grad


def test_no_gradient_above_the_cap() -> None:
    rgba = torch.full((4, 4, 4, 4), 0.7, dtype=torch.float64, requires_grad=True)
    centre = torch.zeros(2, 3, dtype=torch.float64)
    prototypes = VoxelPrototypes.from_rgba([rgba], VOXEL)
    grid = Grid((-0.1, -0.1, -0.1), VOXEL, (4, 4, 4))
    compose(prototypes, Placements(which=[0, 0], centre=centre), grid).occupancy.sum().backward()
    assert rgba.grad is not None and rgba.grad[3].abs().max() == 0


def test_same_bytes_again() -> None:
    arguments = two_prototypes(torch.float32), scattered(5, dtype=torch.float32), GRID
    assert torch.equal(compose(*arguments).rgba, compose(*arguments).rgba)


def test_errors_name_the_row() -> None:
    prototypes = two_prototypes()
    with pytest.raises(ValueError, match=r"placements\.which\[1\] is 2, expected 0\.\.1"):
        compose(prototypes, Placements(which=[0, 2], centre=torch.zeros(2, 3)), GRID)
    with pytest.raises(ValueError, match="3 weights a row for 2 prototypes"):
        compose(prototypes, Placements(which=torch.ones(1, 3), centre=torch.zeros(1, 3)), GRID)
    row = Placements(which=[0], centre=torch.zeros(1, 3))
    with pytest.raises(ValueError, match="background has 5 channels, prototypes 4"):
        compose(prototypes, row, GRID, torch.zeros(5, *GRID.shape))
    with pytest.raises(ValueError, match="background is"):
        compose(prototypes, row, GRID, torch.zeros(4, 2, 2, 2))
    with pytest.raises(ValueError, match=r"placements\.scale\[1\]"):
        Placements(which=[0, 0], centre=torch.zeros(2, 3), scale=[1.0, 0.0])
    with pytest.raises(ValueError, match=r"placements\.centre\[0\]"):
        Placements(which=[0], centre=[[math.nan, 0, 0]])
