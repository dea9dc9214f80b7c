"""compose: its laws hold in every backend, and every backend is the reference."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compose_cases import (
    GRID,
    VOXEL,
    Case,
    cases,
    crowd,
    cut,
    each_backend,
    each_fast_backend,
    mixed_sizes,
    random,
    same,
    scattered_case,
    two_prototypes,
)
from protoscene.compose import compose
from protoscene.geometry import Grid
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.volume import Volume

few = settings(max_examples=12, deadline=None)
varied = settings(max_examples=40, deadline=None)
UNEVEN = [(17, 33, 70), (300, 17, 2), (1, 1, 4000), (1, 3000, 1), (2000, 1, 1)]
NONE = Placements(which=[], centre=torch.zeros(0, 3))


@each_backend
def test_three_voxels_by_hand(backend: str) -> None:
    """One voxel of occupancy 0.5, moved by a quarter voxel, over a background of 0.75."""
    prototype = VoxelPrototypes.from_rgba(
        [torch.tensor([1.0, 0.5]).double().reshape(2, 1, 1, 1)], 1.0
    )
    background = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.75, 0.75]]).double().reshape(2, 1, 1, 3)
    grid = Grid((0, 0, 0), 1.0, (1, 1, 3))
    placements = Placements(which=[0], centre=[[0.75, 0.5, 0.5]])
    result = compose(prototype, placements, grid, background, backend=backend).rgba.float()
    torch.testing.assert_close(result[1].flatten(), torch.tensor([0.375, 0.875, 0.75]))
    torch.testing.assert_close(result[0].flatten(), torch.tensor([1.0, 0.125 / 0.875, 0.0]))


def scalar_by_scalar(case: Case) -> np.ndarray:
    """The formulas of compose for one placement without background, one number at a time."""
    volume = case.volumes[0].numpy()
    channels, *sizes = volume.shape
    p = case.placements
    (cx, cy, cz), yaw, presence = p.centre[0].tolist(), float(p.yaw[0]), float(p.presence[0])
    sx, sy, sz = p.scale.expand(1, 3)[0].tolist()
    grid, own = case.grid, case.voxel_sizes[0]
    result = np.zeros((channels, *grid.shape))
    for k, j, i in itertools.product(*map(range, grid.shape)):
        x, y, z = (
            o + (n + 0.5) * grid.voxel_size for o, n in zip(grid.origin, (i, j, k), strict=True)
        )
        dx, dy, dz = x - cx, y - cy, z - cz
        u = (math.cos(yaw) * dx + math.sin(yaw) * dy) / sx / own + sizes[2] / 2 - 0.5
        v = (math.cos(yaw) * dy - math.sin(yaw) * dx) / sy / own + sizes[1] / 2 - 0.5
        w = dz / sz / own + sizes[0] / 2 - 0.5
        for c, b, a in itertools.product(range(sizes[0]), range(sizes[1]), range(sizes[2])):
            near = max(0, 1 - abs(u - a)) * max(0, 1 - abs(v - b)) * max(0, 1 - abs(w - c))
            occupancy = presence * near * volume[-1, c, b, a]
            result[-1, k, j, i] += occupancy
            result[:-1, k, j, i] += occupancy * volume[:-1, c, b, a]
        if result[-1, k, j, i] > 0:
            result[:-1, k, j, i] /= result[-1, k, j, i]
    return result


@each_backend
@pytest.mark.parametrize("scale", [0.9, [1.7, 0.8, 1.2]])
def test_one_placement_scalar_by_scalar(backend: str, scale: float | list[float]) -> None:
    placement = Placements(
        which=[0],
        centre=torch.tensor([[0.013, -0.021, 0.017]]).double(),
        yaw=[0.7],
        scale=torch.tensor([scale]).double(),
        presence=[0.8],
    )
    grid = Grid((-0.15, -0.15, -0.1), VOXEL, (4, 6, 7))
    case = Case((random(2, 2, 4, 3),), (0.04,), placement, grid)
    same(case.composed(backend), Volume(torch.from_numpy(scalar_by_scalar(case)), grid), 1e-12)


@each_fast_backend
@varied
@given(case=cases(), cap=st.sampled_from(["hard", "smooth"]))
def test_is_the_reference(backend: str, case: Case, cap: str) -> None:
    same(case.composed(backend, cap=cap), case.composed("reference", cap=cap))


@each_fast_backend
@pytest.mark.parametrize("shape", UNEVEN, ids=str)
def test_canvas_that_no_tile_divides(backend: str, shape: tuple[int, int, int]) -> None:
    grid = Grid((1.0, -2.0, 0.5), VOXEL, shape)
    case = crowd(5, 9, 14.0, grid, kinds=2).to(torch.float64)
    same(case.composed(backend), case.composed("reference"))


@each_fast_backend
def test_prototypes_from_2_to_40_voxels_in_one_dictionary(backend: str) -> None:
    case = mixed_sizes()
    same(case.composed(backend), case.composed("reference"))


@each_fast_backend
def test_prototypes_of_8_and_128_voxels_in_one_dictionary(backend: str) -> None:
    case = mixed_sizes()
    volumes = (random(4, 8, 8, 8, seed=1), random(4, 128, 128, 128, seed=2))
    which = torch.arange(len(case.placements)) % 2
    placements = replace(case.placements, which=which)
    case = Case(volumes, (0.05, 0.006), placements, case.grid)
    same(case.composed(backend), case.composed("reference"))


@each_backend
@few
@given(case=cases(), cap=st.sampled_from(["hard", "smooth"]))
def test_occupancy_and_colour_stay_in_range(backend: str, case: Case, cap: str) -> None:
    rgba = case.composed(backend, cap=cap).rgba
    assert rgba.min() >= 0 and rgba.max() <= 1 + 1e-12
    assert rgba[-1].max() <= 1


@each_backend
def test_cap_is_reached(backend: str) -> None:
    occupancy = scattered_case(12).composed(backend).occupancy
    assert (occupancy == 1).any() and (occupancy < 1).any()


@each_backend
def test_smooth_cap(backend: str) -> None:
    """α = A/(1+A⁴)^¼, of a voxel that lies exactly on the canvas's, for A from 0 to 40."""
    totals = torch.linspace(0, 40, 400, dtype=torch.float64)
    voxel = VoxelPrototypes.from_rgba([torch.ones(2, 1, 1, 1, dtype=torch.float64)], 1.0)
    grid = Grid((0, 0, 0), 1.0, (1, 1, 400))
    centres = torch.stack([torch.arange(400) + 0.5, *[torch.full((400,), 0.5)] * 2], dim=1).double()
    rows = Placements(which=[0] * 400, centre=centres, presence=totals)
    alpha = compose(voxel, rows, grid, backend=backend, cap="smooth").occupancy.flatten()
    torch.testing.assert_close(alpha, totals / (1 + totals**4) ** 0.25, rtol=1e-12, atol=0)
    assert (alpha[1:] > alpha[:-1]).all() and alpha.max() < 1


@each_backend
@few
@given(case=cases(), data=st.data())
def test_order_does_not_matter(backend: str, case: Case, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(case.placements))))
    shuffled = case._replace(placements=case.placements[torch.tensor(order, dtype=torch.long)])
    same(case.composed(backend), shuffled.composed(backend))


@each_backend
@few
@given(case=cases(background=False), shift=st.tuples(*[st.integers(-3, 3)] * 3))
def test_shift_in_is_shift_out(backend: str, case: Case, shift: tuple[int, int, int]) -> None:
    """Placements moved by whole voxels x y z: the volume moves, the canvas's edges cut it off."""
    moved = case.posed(centre=case.placements.centre + VOXEL * torch.tensor(shift).double())
    after = moved.composed(backend).rgba
    x, y, z = shift
    nz, ny, nx = case.grid.shape
    margin = max(map(abs, shift))
    wide = case._replace(grid=case.grid.cropped([-margin] * 3, [n + margin for n in (nz, ny, nx)]))
    start = [margin - d for d in (z, y, x)]
    there = tuple(slice(s, s + n) for s, n in zip(start, (nz, ny, nx), strict=True))
    same(Volume(after, case.grid), Volume(wide.composed(backend).rgba[:, *there], case.grid))


@each_backend
@few
@given(case=cases(background=True), data=st.data())
def test_a_smaller_canvas_is_cut_out(backend: str, case: Case, data: st.DataObject) -> None:
    """Whatever of a placement lies outside of the canvas changes nothing inside."""
    start = [data.draw(st.integers(0, n - 1)) for n in case.grid.shape]
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, case.grid.shape, strict=True)]
    inner = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    assert case.background is not None
    grid = case.grid.cropped(start, stop)
    small = case._replace(grid=grid, background=case.background[:, *inner])
    same(small.composed(backend), Volume(case.composed(backend).rgba[:, *inner], grid))


@each_backend
@pytest.mark.parametrize("quarters", [1, 2, 3, 4])
@pytest.mark.parametrize("side", [6, 7])
def test_quarter_turns_of_a_cube_are_exact(backend: str, quarters: int, side: int) -> None:
    """Counter-clockwise seen from +z: what was at +x comes to +y."""
    cube = random(4, side, side, side)
    grid = Grid((-side / 2,) * 3, 1.0, (side,) * 3)
    yaw = torch.tensor([quarters * math.pi / 2], dtype=torch.float64)
    placement = Placements(which=[0], centre=torch.zeros(1, 3).double(), yaw=yaw)
    turned = Case((cube,), (1.0,), placement, grid).composed(backend).rgba
    torch.testing.assert_close(turned, cube.rot90(quarters, dims=(3, 2)), rtol=0, atol=1e-12)


@each_fast_backend
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_leave_no_sliver_beside_the_cube(backend: str, quarters: int) -> None:
    """cos 90° is 6e-17 in a computer: that much occupancy would show the cube's full colour."""
    cube = random(4, 4, 4, 4)
    grid = Grid((-4, -4, -4), 1.0, (8, 8, 8))
    yaw = torch.tensor([quarters * math.pi / 2], dtype=torch.float64)
    placement = Placements(which=[0], centre=torch.zeros(1, 3).double(), yaw=yaw)
    turned = Case((cube,), (1.0,), placement, grid).composed(backend).rgba
    expected = torch.nn.functional.pad(cube.rot90(quarters, dims=(3, 2)), (2,) * 6)
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-12)


@each_backend
@few
@given(case=cases(least_rows=1), share=st.floats(0, 1), data=st.data())
def test_presence_may_be_split_in_two(
    backend: str, case: Case, share: float, data: st.DataObject
) -> None:
    n = len(case.placements)
    row = data.draw(st.integers(0, n - 1))
    twice = case.placements[[*range(n), row]]
    shares = torch.ones(n + 1).double()
    shares[row], shares[n] = share, 1 - share
    split = case._replace(placements=replace(twice, presence=twice.presence * shares))
    same(case.composed(backend), split.composed(backend))


@each_backend
@few
@given(case=cases())
def test_weights_are_a_presence_for_each_prototype(backend: str, case: Case) -> None:
    n, k = len(case.placements), len(case.volumes)
    weights = random(n, k, seed=5)
    rows = case.placements[torch.arange(n).repeat_interleave(k)]
    presence = rows.presence * weights.flatten()
    hard = replace(rows, which=torch.arange(k).repeat(n), presence=presence)
    soft = case.posed(which=weights)
    same(soft.composed(backend), case._replace(placements=hard).composed(backend))


@each_backend
@few
@given(case=cases(), cut=st.integers(0, 6))
def test_half_may_be_composed_onto_the_other_half(backend: str, case: Case, cut: int) -> None:
    """As long as nothing is capped on the way."""
    thin = case.posed(presence=case.placements.presence / 20)
    first, rest = (
        thin._replace(placements=thin.placements[r]) for r in (slice(cut), slice(cut, 9))
    )
    halves = rest._replace(background=first.composed(backend).rgba.double())
    same(thin.composed(backend), halves.composed(backend))


@each_fast_backend
def test_32768_placements(backend: str) -> None:
    """The truth is the reference on two corners of the canvas, of all that can reach them. Torch's
    own operators take a millisecond for each that reaches it: their canvas is a corner."""
    grid = Grid((-0.8, -0.8, -0.8), VOXEL, (32, 32, 32))
    case = crowd(32768, 2, 2.0, grid, kinds=2).to(torch.float64)
    case = case.posed(presence=case.placements.presence / 2)
    if backend == "torch":
        corner = [32, 6, 6]
        inner = tuple(map(slice, corner))
        grid = grid.cropped([0, 0, 0], corner)
        case = case._replace(grid=grid, background=case.background[:, *inner])
    whole = case.composed(backend)
    assert (whole.occupancy == 1).any() and (whole.occupancy < 0.9).any()
    nz, ny, nx = grid.shape
    for start, stop in (([0, 0, 0], [5, 5, 5]), ([nz - 5, ny - 3, nx - 3], [nz, ny, nx])):
        part, inner, near = cut(case, start, stop)
        assert near.sum() > 50
        same(Volume(whole.rgba[:, *inner], part.grid), part.composed("reference"))


@each_backend
def test_colour_of_empty_voxels_never_shows(backend: str) -> None:
    """Red where occupied, green where empty: between the two it is red and thinner."""
    rgba = torch.zeros(4, 4, 4, 4, dtype=torch.float64)
    rgba[1] = 1.0
    rgba[:, 1:3, 1:3, 1:3] = torch.tensor([1.0, 0.0, 0.0, 1.0]).double().reshape(4, 1, 1, 1)
    placement = Placements(which=[0], centre=[[0.013, 0.007, -0.011]], yaw=[0.4])
    result = Case((rgba,), (VOXEL,), placement, GRID).composed(backend)
    seen = result.occupancy > 0
    assert seen.any() and (seen & (result.occupancy < 0.9)).any()
    torch.testing.assert_close(result.rgba[0][seen], torch.ones_like(result.rgba[0][seen]))
    assert result.rgba[1].max() == 0


@each_backend
def test_outside_leaves_no_trace(backend: str) -> None:
    """Also where it is so far away that its voxel's number is no integer of any size."""
    far = [[9, 0, 0], [0, -9, 3], [0, 0, 1e3], [1e12, 0, 0], [0, -1e30, 0], [0, 0, 1e300]]
    centre = torch.tensor(far, dtype=torch.float64)
    case = scattered_case(0)
    away = case._replace(placements=Placements(which=[0, 1] * 3, centre=centre))
    assert away._replace(background=None).composed(backend).rgba.abs().max() == 0
    same(away.composed(backend), case.composed(backend), 1e-15)


@each_backend
def test_scales_from_less_than_a_voxel_to_the_sky(backend: str) -> None:
    """Shrunk between the voxels' centres it is nowhere; beyond the canvas, one colour."""
    rgba = random(4, 2, 3, 4)
    centre = torch.tensor([[0.011, 0.012, 0.013]]).double()
    tiny, huge = (
        Case((rgba,), (VOXEL,), Placements([0], centre, [0.3], [scale]), GRID).composed(backend)
        for scale in (1e-9, 1e9)
    )
    assert tiny.rgba.abs().max() == 0
    middle = rgba[:, :, 1, 1:3].clone()  # 2 × 1 × 2 voxels around the prototype's middle
    occupancy = middle[3].mean()
    colour = (middle[:3] * middle[3]).mean(dim=(1, 2)) / occupancy
    expected = torch.cat([colour, occupancy[None]])[:, None, None, None].expand(4, *GRID.shape)
    torch.testing.assert_close(huge.rgba, expected, rtol=0, atol=1e-6)


@each_backend
def test_no_placements_leave_the_background(backend: str) -> None:
    background = random(4, *GRID.shape)
    nothing = VoxelPrototypes.from_rgba([], 0.1)
    for prototypes in (two_prototypes(), nothing):
        kept = compose(prototypes, NONE, GRID, background, backend=backend)
        same(kept, Volume(background, GRID))
        assert kept.rgba.data_ptr() != background.data_ptr()
        empty = compose(prototypes, NONE, GRID, backend=backend).rgba
        assert empty.shape == (4, *GRID.shape) and empty.abs().max() == 0


@each_backend
def test_background_on_another_grid_is_one_more_unturned_placement(backend: str) -> None:
    """Finer, coarser or aside: as if it were a prototype of its own at the middle of its box."""
    rgba = random(4, 5, 6, 7)
    for size in (0.03, 0.05, 0.11):
        grid = Grid((-0.21, -0.13, -0.1), size, (5, 6, 7))
        middle = torch.as_tensor((grid.lower + grid.upper) / 2)[None]
        prototypes = VoxelPrototypes.from_rgba([rgba], size)
        same(
            compose(prototypes, NONE, GRID, Volume(rgba, grid), backend=backend),
            compose(prototypes, Placements([0], middle), GRID, backend=backend),
        )


@each_backend
def test_scale_is_along_the_prototypes_own_axes(backend: str) -> None:
    """Stretched along its own x and turned by 90°, a cube is long along the world's y."""
    scale = torch.tensor([[3.0, 1.0, 1.0]]).double()
    placement = Placements([0], centre=[[0, 0, 0]], yaw=[math.pi / 2], scale=scale)
    grid = Grid((-0.5, -0.5, -0.5), VOXEL, (20, 20, 20))
    cube = Case((torch.ones(4, 4, 4, 4).double(),), (VOXEL,), placement, grid)
    solid = cube.composed(backend).occupancy > 0.5
    lengths = [int(solid.any(dim=2).any(dim=0).sum()), int(solid.any(dim=1).any(dim=0).sum())]
    assert lengths == [12, 4]


def half_ulp(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps / 2


@each_fast_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_float_types(backend: str, dtype: torch.dtype) -> None:
    """What is lost is the rounding of the result: a half is not computed in halves."""
    case = scattered_case(7, dtype=dtype)
    result = case.composed(backend)
    assert result.rgba.dtype == dtype
    truth = case.to(torch.float64).composed("reference")
    off: Tensor = (result.rgba.double() - truth.rgba).abs()
    tolerance = half_ulp(dtype) + 1e-6
    assert off[3].max() <= tolerance
    assert off[:, truth.occupancy > 1e-3].max() <= 1.01 * tolerance


@each_fast_backend
def test_a_float64_background_makes_the_result_float64(backend: str) -> None:
    case = scattered_case(3, dtype=torch.float32)
    assert case.background is not None
    mixed = case._replace(background=case.background.double())
    assert mixed.composed(backend).rgba.dtype == torch.float64
    same(mixed.composed(backend), case.to(torch.float64).composed(backend))
