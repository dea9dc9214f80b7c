"""compose's gradients: of the formulas in float64, and in float32 at full size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compose_cases import (
    GRID,
    POSE,
    VOXEL,
    Case,
    agree,
    cases,
    crowd,
    cut,
    each_backend,
    each_fast_backend,
    gradients,
    mixed_sizes,
    random,
    scattered,
    scattered_case,
    where_solid,
)
from protoscene.compose import compose
from protoscene.geometry import Grid
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes

CAPS = st.sampled_from(["hard", "smooth"])


def normal(shape: tuple[int, ...], seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def small_case(soft: bool) -> Case:
    grid = Grid((0, 0, 0), VOXEL, (3, 3, 4))
    return Case(
        (random(4, 3, 4, 2, seed=8), random(4, 2, 3, 3, seed=9)),
        (VOXEL, 0.8 * VOXEL),
        Placements(
            which=random(2, 2, seed=14) if soft else torch.tensor([1, 0]),
            centre=(0.1 + 0.8 * random(2, 3, seed=10)) * torch.as_tensor(grid.size_m),
            yaw=6 * random(2, seed=11),
            scale=0.7 + 0.6 * random(2, 3, seed=12),
            presence=0.1 + 0.6 * random(2, seed=13),
        ),
        grid,
        0.6 * random(4, *grid.shape, seed=7),
    )


@each_backend
@pytest.mark.parametrize("cap", ["hard", "smooth"])
@pytest.mark.parametrize("soft", [False, True], ids=["index", "weights"])
def test_gradcheck(backend: str, soft: bool, cap: str) -> None:
    case = small_case(soft)
    names = list(case.tensors())
    leaves = tuple(value.requires_grad_() for value in case.tensors().values())
    assert torch.autograd.gradcheck(
        lambda *values: (
            case.holding(dict(zip(names, values, strict=True))).composed(backend, cap=cap).rgba
        ),
        leaves,
        eps=1e-7,
        atol=1e-5,
        fast_mode=backend != "numba",  # the others are compared with each other below
    )


@each_fast_backend
@settings(max_examples=30, deadline=None)
@given(case=cases(least_rows=1, channels=(4, 2)), cap=CAPS)
def test_gradients_are_the_references(backend: str, case: Case, cap: str) -> None:
    cotangent = normal((case.volumes[0].shape[0], *case.grid.shape))
    cotangent = where_solid(case, cotangent, cap)
    mine = gradients(case, backend, cotangent, cap=cap)
    agree(mine, gradients(case, "reference", cotangent, cap=cap), 1e-8)


@pytest.fixture(scope="module")
def of_mixed_sizes() -> tuple[Tensor, dict[str, Tensor]]:
    """A cotangent, and what the reference makes of it."""
    case = mixed_sizes()
    cotangent = where_solid(case, normal((4, *case.grid.shape)))
    return cotangent, gradients(case, "reference", cotangent)


@each_fast_backend
def test_gradients_of_prototypes_from_2_to_40_voxels(
    backend: str, of_mixed_sizes: tuple[Tensor, dict[str, Tensor]]
) -> None:
    cotangent, truth = of_mixed_sizes
    agree(gradients(mixed_sizes(), backend, cotangent), truth, 1e-9)


@each_fast_backend
def test_each_gradient_alone_is_the_one_among_all(backend: str) -> None:
    case = scattered_case(5).posed(which=random(5, 2, seed=4))
    cotangent = normal((4, *GRID.shape))
    together = gradients(case, backend, cotangent)
    assert len(together) == 8
    for name, expected in together.items():
        agree(gradients(case, backend, cotangent, only=name), {name: expected}, 1e-12)


@each_backend
def test_no_gradient_above_the_cap_or_outside_of_the_support(backend: str) -> None:
    """Two solid cubes in one place: no occupancy can change, and one far away sees nothing."""
    grid = Grid((-0.1, -0.1, -0.1), VOXEL, (4, 4, 4))
    cubes = torch.full((4, 4, 4, 4), 0.7).double(), torch.full((4, 2, 2, 2), 0.7).double()
    centre = torch.tensor([[0, 0, 0], [0, 0, 0], [3, 0, 0]]).double()
    rows = Placements([0, 0, 1], centre)
    case = Case(cubes, (VOXEL, VOXEL), rows, grid, 0.5 * random(4, *grid.shape))
    of_occupancy = torch.zeros(4, *grid.shape).double()
    of_occupancy[3] = normal(grid.shape)
    for name, gradient in gradients(case, backend, of_occupancy).items():
        assert gradient.abs().max() == 0, name
    everything = gradients(case, backend, torch.ones(4, *grid.shape).double())
    assert everything["volume 0"].abs().max() > 0
    assert everything["volume 1"].abs().max() == 0
    for name in ("centre", "yaw", "scale", "presence"):
        assert everything[name][2].abs().max() == 0, name


@each_backend
def test_solid_voxels_can_become_thinner(backend: str) -> None:
    """Up to A = 1, and there too: what is full is no dead end."""
    levels = torch.tensor([0.5, 0.9, 0.99, 0.999, 0.99999, 1.0]).double()
    volume = levels.expand(4, 1, 1, 6)
    grid = Grid((-3, -0.5, -0.5), 1.0, (1, 1, 6))
    case = Case((volume,), (1.0,), Placements([0], torch.zeros(1, 3).double()), grid)
    of_occupancy = torch.zeros(4, 1, 1, 6).double()
    of_occupancy[3] = 1
    slope = gradients(case, backend, of_occupancy)["volume 0"][3]
    torch.testing.assert_close(slope, torch.ones_like(slope), rtol=0, atol=1e-12)


@each_backend
def test_smooth_cap_has_a_gradient_everywhere(backend: str) -> None:
    totals = torch.linspace(0, 40, 300).double().requires_grad_()
    voxel = VoxelPrototypes.from_rgba([torch.ones(4, 1, 1, 1).double()], 1.0)
    grid = Grid((0, 0, 0), 1.0, (1, 1, 300))
    centres = torch.stack([torch.arange(300) + 0.5, *[torch.full((300,), 0.5)] * 2], dim=1).double()
    rows = Placements([0] * 300, centres, presence=totals)
    alpha = compose(voxel, rows, grid, backend=backend, cap="smooth").occupancy
    (slope,) = torch.autograd.grad(alpha.sum(), totals)
    assert slope.min() > 0
    torch.testing.assert_close(slope, (1 + totals.detach() ** 4) ** -1.25, rtol=1e-9, atol=0)


@each_fast_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("background", [False, True])
def test_next_to_nothing_is_divided_by_without_harm(
    backend: str, dtype: torch.dtype, background: bool
) -> None:
    """Occupancies down to the smallest number that there is: all stays finite and in range."""
    case = scattered_case(6, dtype=dtype)
    case = case if background else case._replace(background=None)
    smallest = float(torch.finfo(dtype).smallest_normal)
    for occupancy in (0, smallest / 2**20, smallest, 1e-35, 1e-29, 1e-20, 1e-9):
        for name, value in case.tensors().items():
            if name.startswith(("volume", "background")):
                value[3] = occupancy
        rgba = case.composed(backend).rgba
        assert rgba.isfinite().all() and rgba.min() >= 0 and rgba.max() <= 1 + 1e-6
        for name, value in gradients(case, backend, normal((4, *GRID.shape))).items():
            assert value.isfinite().all(), name


@each_fast_backend
def test_trainable_prototypes_get_their_gradient_in_native_layout(backend: str) -> None:
    """The padding around every block gets none, so that a step leaves it zero."""
    case = scattered_case(5)
    cotangent = normal((4, *GRID.shape))
    trained = VoxelPrototypes(list(case.volumes), list(case.voxel_sizes), trainable=True)
    parameter = trained.voxels
    assert list(trained.parameters()) == [parameter]
    rgba = compose(trained, case.placements, GRID, case.background, backend=backend).rgba
    rgba.backward(cotangent)
    assert parameter.grad is not None and parameter.grad.abs().max() > 0
    blocks = VoxelPrototypes.from_voxels(
        parameter.grad, trained.table, trained.voxel_size, trained.channels
    )
    truth = gradients(case, "reference", cotangent)
    agree({f"volume {k}": blocks.rgba(k) for k in range(2)}, pick(truth, "volume"), 1e-9)
    for k in range(2):
        padding = blocks.native(k).clone()
        padding[1:-1, 1:-1, 1:-1] = 0
        assert padding.abs().max() == 0


def pick(named: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name: value for name, value in named.items() if name.startswith(start)}


@each_fast_backend
def test_cotangents_of_any_strides(backend: str) -> None:
    case = scattered_case(4)
    cotangent = normal((4, *GRID.shape))
    expected = gradients(case, backend, cotangent)
    for order in ([2, 3, 1, 0], [3, 2, 1, 0], [1, 0, 3, 2]):
        back = [order.index(d) for d in range(4)]
        strided = cotangent.permute(order).contiguous().permute(back)
        agree(gradients(case, backend, strided), expected, 1e-12)
    wide = torch.zeros(4, 2 * GRID.shape[0], *GRID.shape[1:]).double()
    wide[:, ::2] = cotangent
    agree(gradients(case, backend, wide[:, ::2]), expected, 1e-12)
    one = torch.ones(1, 1, 1, 1).double()
    agree(
        gradients(case, backend, one.expand(4, *GRID.shape)),
        gradients(case, backend, one.repeat(4, *GRID.shape)),
        1e-12,
    )


@each_fast_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradients_of_halves(backend: str, dtype: torch.dtype) -> None:
    """Each in its input's type, summed in better: what is lost is the rounding of the result."""
    case = scattered_case(5, dtype=dtype)
    cotangent = normal((4, *GRID.shape)).to(dtype).double()
    mine = gradients(case, backend, cotangent)
    assert {value.dtype for value in mine.values()} == {dtype}
    truth = gradients(case.to(torch.float64), "reference", cotangent)
    agree({name: value.double() for name, value in mine.items()}, truth, torch.finfo(dtype).eps)


@each_fast_backend
def test_poses_may_be_finer_than_voxels(backend: str) -> None:
    """Every gradient has its own input's type."""
    case, cotangent = scattered_case(5, dtype=torch.float32), normal((4, *GRID.shape))
    mixed = case._replace(placements=scattered(5))
    mine = gradients(mixed, backend, cotangent)
    assert {name: value.dtype for name, value in mine.items()} == {
        name: value.dtype for name, value in mixed.tensors().items()
    }
    truth = gradients(mixed.to(torch.float64), "reference", cotangent)
    agree({name: mine[name] for name in POSE}, {name: truth[name] for name in POSE}, 1e-5)


@each_fast_backend
def test_is_differentiable_once(backend: str) -> None:
    case = small_case(soft=False)
    presence = case.placements.presence.requires_grad_()
    rgba = case.posed(presence=presence).composed(backend).rgba
    (gradient,) = torch.autograd.grad(rgba.sum(), presence, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(gradient.sum(), presence)


@each_backend
def test_only_what_needs_a_gradient_gets_one(backend: str) -> None:
    case = scattered_case(3)
    assert not case.composed(backend).rgba.requires_grad
    centre = case.placements.centre.clone().requires_grad_()
    case.posed(centre=centre).composed(backend).rgba.sum().backward()
    assert centre.grad is not None and centre.grad.abs().max() > 0
    with torch.no_grad():
        assert not case.posed(centre=centre).composed(backend).rgba.requires_grad


FULL = Grid((-6.4, -6.4, -6.4), VOXEL, (256, 256, 256))
WORKLOADS = {
    # Placements, prototype side, voxels covered a side, prototypes, weights instead of an index.
    "W8": (8, 128, 64.0, 2, True),
    "W64": (64, 128, 64.0, 2, False),
    "W512": (512, 32, 16.0, 8, False),
}
SMOOTH_AT_1 = 2**-0.25  # α of the smooth cap at A = 1, where it climbs by 2^-1.25 per A


def away_from_the_cap(case: Case, backend: str) -> Tensor:
    """(z, y, x): 0 where A of float64 lies within 2e-6 of 1, else 1. There the hard cap's
    derivative jumps from 1 to 0, and rounding decides on which side of it float32 is."""
    smooth = case.composed(backend, cap="smooth").occupancy
    return (smooth - SMOOTH_AT_1).abs() > 2**-1.25 * 2e-6


@pytest.mark.parametrize("workload", WORKLOADS)
def test_float32_at_full_size(workload: str) -> None:
    """Values and every gradient within 1e-5 of the largest entry of float64: small sizes hide
    positions that fall into the wrong cell."""
    n, side, covered, kinds, soft = WORKLOADS[workload]
    single = crowd(n, side, covered, FULL, kinds, soft)
    double = single.to(torch.float64)
    cotangent = torch.randn((4, *FULL.shape), generator=torch.Generator().manual_seed(1))
    cotangent *= away_from_the_cap(double, "numba")
    mine = single.composed("numba").rgba
    truth = double.composed("numba").rgba
    assert mine.dtype == torch.float32 and truth.dtype == torch.float64
    assert (truth[3] == 1).double().mean() > 0.003 and (truth[3] < 1).double().mean() > 0.5
    agree({"rgba": mine}, {"rgba": truth}, 1e-5)
    del mine, truth
    found = gradients(single, "numba", cotangent)
    agree(found, gradients(double, "numba", cotangent), 1e-5)


def same_in_a_part(case: Case, start: list[int], stop: list[int]) -> None:
    """Value, and gradients of what is seen in a part of the canvas, are those of the reference."""
    part, inner, near = cut(case, start, stop)
    seen = where_solid(part, normal((4, *part.grid.shape)))
    cotangent = torch.zeros(4, *case.grid.shape, dtype=torch.float64)
    cotangent[:, *inner] = seen
    value = case.composed("numba").rgba[:, *inner]
    assert float((value - part.composed("reference").rgba).abs().max()) <= 1e-9
    mine, truth = gradients(case, "numba", cotangent), gradients(part, "reference", seen)
    for name in POSE:
        assert truth[name].abs().max() > 0
        assert mine[name][~near].abs().sum() == 0
        mine[name] = mine[name][near]
    everywhere, mine["background"] = mine["background"], mine["background"][:, *inner]
    assert everywhere.count_nonzero() == mine["background"].count_nonzero()
    agree(mine, truth, 1e-9)


@pytest.mark.parametrize("start", [[100, 90, 120], [236, 0, 100]], ids=["inside", "edge"])
def test_full_size_is_the_reference_in_a_part(start: list[int]) -> None:
    case = crowd(24, 128, 64.0, FULL, kinds=1).to(torch.float64)
    same_in_a_part(case, start, [a + 20 for a in start])


def test_32768_placements_have_the_references_gradients() -> None:
    grid = Grid((-0.8, -0.8, -0.8), VOXEL, (32, 32, 32))
    case = crowd(32768, 2, 2.0, grid, kinds=2).to(torch.float64)
    case = case.posed(presence=case.placements.presence / 2)
    same_in_a_part(case, [0, 9, 0], [3, 12, 4])


@pytest.mark.parametrize(
    ("backend", "side"), [("numba", 2), ("numba", 8), ("numba", 50), ("torch", 8)]
)
def test_float32_on_a_canvas_of_64_voxels_a_side(backend: str, side: int) -> None:
    """One voxel of a coarse prototype sums the gradients of thousands of canvas voxels."""
    single = crowd(8, side, 40.0, Grid((0, 0, 0), VOXEL, (64, 64, 64)), kinds=2, soft=True)
    double = single.to(torch.float64)
    cotangent = normal((4, 64, 64, 64)) * away_from_the_cap(double, backend)
    agree(gradients(single, backend, cotangent), gradients(double, backend, cotangent), 1e-5)
