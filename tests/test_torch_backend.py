"""compose's torch backend against float64 formulas that share nothing with it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from protoscene.compose.torch_backend import backward, forward

NAMES = ("voxels", "centre", "yaw", "scale", "presence", "background")


@dataclass(frozen=True)
class Case:
    inputs: dict[str, Any]  # Tensors by NAMES; background may be None
    table: Tensor
    voxel_sizes: list[float]
    which: Tensor
    origin: tuple[float, float, float]
    voxel_size: float
    shape: tuple[int, int, int]
    channels: int

    def forward(self, cap: str, contiguous: bool, keep: bool = True) -> tuple[Tensor, Tensor]:
        return forward(*self._common(), self.channels, cap, keep, contiguous)

    def backward(
        self, gradient: Tensor, cap: str, contiguous: bool, needs: list[bool] | None = None
    ) -> dict[str, Tensor]:
        needs = [True] * 6 if needs is None else needs
        canvas, total = self.forward(cap, contiguous)
        found = backward(
            gradient, canvas, total, *self._common(), self.channels, cap, contiguous, needs
        )
        return dict(zip(NAMES, found, strict=True))

    def to(self, dtype: torch.dtype) -> Case:
        return replace(
            self, inputs={k: None if v is None else v.to(dtype) for k, v in self.inputs.items()}
        )

    def _common(self) -> tuple[Any, ...]:
        i = self.inputs
        return (
            *(i["voxels"], self.table, self.voxel_sizes, self.which, i["centre"], i["yaw"]),
            *(i["scale"], i["presence"], i["background"], self.origin, self.voxel_size, self.shape),
        )


def packed(volumes: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(flat voxels, table) of native (ny+2, nx+2, nz+2, C) blocks in their shell of zeros."""
    blocks, table, start = [], [], 0
    for volume in volumes:
        ny, nx, nz, channels = volume.shape
        block = volume.new_zeros(ny + 2, nx + 2, nz + 2, channels)
        block[1:-1, 1:-1, 1:-1] = volume
        blocks.append(block.reshape(-1))
        table.append((start, nz, ny, nx))
        start += block.numel()
    return torch.cat(blocks), torch.tensor(table)


def random_case(
    channels: int,
    seed: int = 0,
    n: int = 5,
    sizes: tuple[tuple[int, int, int], ...] = ((3, 5, 4), (6, 2, 3), (1, 1, 2)),
    shape: tuple[int, int, int] = (7, 9, 8),
    background: bool = True,
) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def rand(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator, dtype=torch.float64)

    voxels, table = packed([rand(*size, channels) for size in sizes])
    voxel_size, origin = 0.25, (-1.1, 0.3, 2.0)
    extent = torch.tensor(shape[::-1]) * voxel_size
    inputs = {
        "voxels": voxels,
        "centre": rand(n, 3) * extent + torch.tensor(origin, dtype=torch.float64),
        "yaw": rand(n) * 6 - 3,
        "scale": rand(n, 3) + 1.0,
        "presence": rand(n),
        "background": rand(channels, *shape) * 0.8 if background else None,
    }
    which = torch.randint(len(sizes), (n,), generator=generator)
    voxel_sizes = [0.2 + 0.1 * k for k in range(len(sizes))]
    return Case(inputs, table, voxel_sizes, which, origin, voxel_size, shape, channels)


def truth(case: Case, cap: str) -> tuple[Tensor, Tensor]:
    """(C, z, y, x) and A: the docstring's formulas, trilinear as products of hats, whole canvas."""
    i, (nz, ny, nx), ox = case.inputs, case.shape, case.origin
    x, y, z = (
        o + (torch.arange(n, dtype=torch.float64) + 0.5) * case.voxel_size
        for o, n in zip(ox, (nx, ny, nz), strict=True)
    )
    background = i["background"]
    channels = case.channels
    total = torch.zeros(channels, nz, ny, nx, dtype=torch.float64)
    if background is not None:
        total = torch.cat([background[:-1] * background[-1:], background[-1:]])
    for row, k in enumerate(case.which.tolist()):
        offset, *sizes = case.table[k].tolist()
        padded = (sizes[1] + 2, sizes[2] + 2, sizes[0] + 2, channels)
        block = i["voxels"][offset : offset + math.prod(padded)].view(padded)[1:-1, 1:-1, 1:-1]
        block = torch.cat([block[..., :-1] * block[..., -1:], block[..., -1:]], dim=-1)
        dx, dy = x - i["centre"][row, 0], (y - i["centre"][row, 1])[:, None]
        cos, sin = i["yaw"][row].cos(), i["yaw"][row].sin()
        own = (cos * dx + sin * dy, cos * dy - sin * dx, z - i["centre"][row, 2])
        hats = []
        for position, scale, size in zip(own, i["scale"][row], sizes[::-1], strict=True):
            index = position / (scale * case.voxel_sizes[k]) + (size - 1) / 2
            hats.append((1 - (index[..., None] - torch.arange(size)).abs()).clamp(min=0))
        pasted = torch.einsum("yxi,yxj,zk,jikc->czyx", *hats, block)
        total = total + i["presence"][row] * pasted
    occupancy = total[-1:]
    rgb = torch.where(occupancy > 0, total[:-1] / torch.where(occupancy > 0, occupancy, 1.0), 0.0)
    alpha = occupancy.clamp(max=1) if cap == "hard" else occupancy / (1 + occupancy**4) ** 0.25
    return torch.cat([rgb, alpha]), occupancy[0]


def true_gradients(case: Case, cap: str, gradient: Tensor) -> dict[str, Tensor]:
    leaves = {k: v.clone().requires_grad_() for k, v in case.inputs.items() if v is not None}
    canvas, _ = truth(replace(case, inputs={**case.inputs, **leaves}), cap)
    return dict(
        zip(leaves, torch.autograd.grad(canvas, list(leaves.values()), gradient), strict=True)
    )


def cotangent(case: Case, seed: int = 1) -> Tensor:
    """Random, (C, z, y, x)."""
    canvas, _ = case.forward("hard", contiguous=True)
    return torch.randn(canvas.shape, generator=torch.Generator().manual_seed(seed)).double()


def without_shell(flat: Tensor, table: Tensor, channels: int) -> list[Tensor]:
    found = []
    for offset, nz, ny, nx in table.tolist():
        padded = (ny + 2, nx + 2, nz + 2, channels)
        found.append(flat[offset : offset + math.prod(padded)].view(padded)[1:-1, 1:-1, 1:-1])
    return found


def native(volume: Tensor) -> Tensor:
    return volume.permute(2, 3, 1, 0)


def worst(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest entry."""
    assert found.shape == expected.shape
    difference = (found.double() - expected.double()).abs().max()
    return float(difference / expected.double().abs().max())


@pytest.mark.parametrize("contiguous", [False, True])
@pytest.mark.parametrize("cap", ["hard", "smooth"])
@pytest.mark.parametrize("channels", [1, 4, 6])
def test_values_and_gradients_are_the_formulas(channels: int, cap: str, contiguous: bool) -> None:
    case = random_case(channels, seed=channels)
    expected, occupancy = truth(case, cap)
    assert (occupancy > 1).any() and (occupancy < 1).any()
    canvas, total = case.forward(cap, contiguous)
    assert canvas.is_contiguous() and total.is_contiguous()
    torch.testing.assert_close(canvas, expected if contiguous else native(expected))
    torch.testing.assert_close(total, occupancy.permute(1, 2, 0).flatten())
    gradient = cotangent(case)
    found = case.backward(gradient if contiguous else native(gradient), cap, contiguous)
    for name, value in true_gradients(case, cap, gradient).items():
        assert worst(found[name], value) < 1e-12, name


@pytest.mark.parametrize("background", [False, True])
def test_a_gradient_that_nobody_needs_is_empty_and_changes_no_other(background: bool) -> None:
    case = random_case(4, background=background)
    gradient = native(cotangent(case))
    everything = case.backward(gradient, "hard", False)
    choices = [[i == j for i in range(6)] for j in range(6)]
    choices += [[not n for n in needs] for needs in choices] + [[False] * 6]
    for needs in choices:
        found = case.backward(gradient, "hard", False, needs)
        for name, needed in zip(NAMES, needs, strict=True):
            if needed:
                assert torch.equal(found[name], everything[name]), (name, needs)
            else:
                assert found[name].shape == (0,), (name, needs)


def test_the_shell_has_no_gradient() -> None:
    case = random_case(4)
    found = case.backward(native(cotangent(case)), "hard", False)["voxels"]
    inner = without_shell(found, case.table, 4)
    assert all((part != 0).any() for part in inner)
    for part in inner:
        part.zero_()
    assert (found == 0).all()


def test_nothing_pasted() -> None:
    case = random_case(4, n=0)
    expected, _ = truth(case, "hard")
    torch.testing.assert_close(case.forward("hard", True)[0], expected)
    gradient = cotangent(case)
    found = case.backward(gradient, "hard", True)
    leaf = case.inputs["background"].clone().requires_grad_()
    (wanted,) = torch.autograd.grad(
        truth(replace(case, inputs={**case.inputs, "background": leaf}), "hard")[0], leaf, gradient
    )
    torch.testing.assert_close(found["background"], wanted)
    assert (found["voxels"] == 0).all() and found["centre"].shape == (0, 3)


def test_an_empty_dictionary_on_an_empty_canvas() -> None:
    case = random_case(4, n=0, background=False)
    inputs = {**case.inputs, "voxels": torch.zeros(0)}
    case = replace(case, inputs=inputs, table=torch.zeros(0, 4, dtype=torch.int64), voxel_sizes=[])
    canvas, total = case.forward("hard", True, keep=False)
    assert canvas.shape == (4, *case.shape) and total.shape == (0,) and (canvas == 0).all()


def test_an_untouched_background_comes_back_bit_by_bit() -> None:
    case = random_case(4, n=1).to(torch.float32)
    background = case.inputs["background"]
    _, touched = replace(case, inputs={**case.inputs, "background": None}).forward("hard", True)
    canvas, _ = case.forward("hard", True)
    untouched = (touched == 0).view(9, 8, 7).permute(2, 0, 1)
    assert 0 < untouched.sum() < untouched.numel()
    assert torch.equal(canvas[:, untouched], background[:, untouched])


def test_outside_of_the_canvas_is_nothing() -> None:
    case = random_case(4, n=6, background=False)
    case.inputs["centre"][:, 0] += torch.tensor([1e3, -1e3, 1e300, 40, -40, 9])
    canvas, _ = case.forward("hard", False)
    assert (canvas == 0).all()
    found = case.backward(torch.ones_like(canvas), "hard", False)
    assert all((found[name] == 0).all() for name in NAMES)


def test_an_exact_quarter_turn_leaves_no_trace_of_rounding() -> None:
    case = random_case(4, n=1, sizes=((4, 4, 4),), shape=(10, 10, 10), background=False)
    case = replace(case, origin=(0.0, 0.0, 0.0), voxel_size=0.2)
    inputs = {
        **case.inputs,
        "centre": torch.tensor([[1.0, 1.0, 1.0]]),
        "yaw": torch.tensor([math.pi / 2], dtype=torch.float64),
        "scale": torch.ones(1, 3),
        "presence": torch.ones(1),
    }
    case = replace(case, inputs=inputs)
    canvas, _ = case.forward("hard", False)
    volume = without_shell(inputs["voxels"], case.table, 4)[0]
    # The nose, +x, turns to +y: what was at (y, x) = (j, i) comes to (i, 3 − j).
    expected = torch.zeros_like(canvas)
    expected[3:7, 3:7, 3:7] = volume.flip(0).transpose(0, 1)
    torch.testing.assert_close(canvas, expected)
    gradient = torch.randn(canvas.shape, generator=torch.Generator().manual_seed(0))
    inputs = {**inputs, "voxels": inputs["voxels"].float()}
    single = replace(case, inputs=inputs).backward(gradient, "hard", False)
    double = case.backward(gradient.double(), "hard", False)
    for name in NAMES[:5]:
        assert worst(single[name], double[name]) < 1e-5, name
    above = torch.zeros_like(canvas)
    above[:, :, 7] = 1  # the first layer that the volume does not reach
    assert (case.backward(above, "hard", False)["centre"] == 0).all()


def test_the_hard_cap_lets_nothing_through_above_1() -> None:
    """A solid voxel, A = 1, can still become thinner."""
    case = random_case(4, n=0, shape=(1, 1, 4))
    occupancy = torch.tensor([0.5, 1.0, 2.0, 0.0]).double().view(1, 1, 1, 4)
    background = torch.cat([torch.zeros(3, 1, 1, 4).double(), occupancy])
    case = replace(case, inputs={**case.inputs, "background": background})
    found = case.backward(torch.ones(4, 1, 1, 4).double(), "hard", True)["background"]
    assert found[3, 0, 0].tolist() == [1, 1, 0, 1]


def test_many_placements_add_up_precisely() -> None:
    case = random_case(4, n=500, sizes=((3, 3, 3),), shape=(6, 6, 6))
    gradient = native(cotangent(case).abs())
    single, double = case.to(torch.float32), case.to(torch.float32).to(torch.float64)
    found = single.backward(gradient.float(), "smooth", False)
    expected = double.backward(gradient.float().double(), "smooth", False)
    for name in NAMES:
        assert worst(found[name], expected[name]) < 1e-6, name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(dtype: torch.dtype) -> None:
    case = random_case(4).to(dtype)
    single = case.to(torch.float32)
    canvas, total = case.forward("smooth", False)
    expected, expected_total = single.forward("smooth", False)
    assert canvas.dtype == total.dtype == dtype
    assert torch.equal(canvas, expected.to(dtype))
    assert torch.equal(total, expected_total.to(dtype))
    gradient = native(cotangent(case)).to(dtype)
    found = case.backward(gradient, "smooth", False)
    wanted = single.backward(gradient.float(), "smooth", False)
    for name in NAMES:  # the rounded canvas and A are all that differs
        assert found[name].dtype == dtype
        assert worst(found[name], wanted[name]) < 8 * torch.finfo(dtype).eps, name


def test_a_background_of_another_type_decides_with_the_voxels() -> None:
    case = random_case(4)
    expected = case.to(torch.float32).to(torch.float64)
    mixed = case.to(torch.float32)
    mixed.inputs["background"] = expected.inputs["background"]
    canvas, _ = mixed.forward("hard", False)
    assert canvas.dtype == torch.float64
    torch.testing.assert_close(canvas, expected.forward("hard", False)[0])
    gradient = native(cotangent(case))
    found, wanted = (c.backward(gradient, "hard", False) for c in (mixed, expected))
    assert found["background"].dtype == torch.float64 and found["voxels"].dtype == torch.float32
    for name in NAMES:
        assert worst(found[name], wanted[name]) < 1e-6, name


def test_strided_inputs() -> None:
    case = random_case(4)
    gradient = native(cotangent(case))
    expected = case.backward(gradient, "hard", False)
    strided = {k: v if k == "voxels" else spread(v) for k, v in case.inputs.items()}
    assert not strided["centre"].is_contiguous()
    case = replace(case, inputs=strided)
    found = case.backward(spread(gradient), "hard", False)
    for name in NAMES:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-12)


def spread(tensor: Tensor) -> Tensor:
    """The same numbers with a gap after each, the axes stored in another order."""
    order = tuple(reversed(range(tensor.dim())))
    stored = tensor.permute(order).repeat_interleave(2, dim=-1)
    return stored[..., ::2].permute(order)


def test_total_known_above_1_alone_is_enough_for_the_hard_cap() -> None:
    case = random_case(4)
    gradient = native(cotangent(case))
    expected = case.backward(gradient, "hard", False)
    canvas, total = case.forward("hard", False)
    total = torch.where(total > 1, total, 0)
    found = backward(gradient, canvas, total, *case._common(), 4, "hard", False, [True] * 6)
    for name, value in zip(NAMES, found, strict=True):
        torch.testing.assert_close(value, expected[name])


def test_float32_is_precise_at_full_size() -> None:
    case = random_case(4, n=8, sizes=((64, 64, 64),) * 2, shape=(128,) * 3).to(torch.float32)
    case.inputs["centre"][:] = (
        torch.rand(8, 3, generator=torch.Generator().manual_seed(3)) * 20
        + torch.tensor(case.origin)
        + 6
    )
    double = case.to(torch.float64)
    canvas, occupancy = double.forward("hard", False)
    assert worst(case.forward("hard", False)[0][..., 3], canvas[..., 3]) < 1e-6
    gradient = torch.randn(canvas.shape, generator=torch.Generator().manual_seed(1))
    gradient[(occupancy - 1).abs().view(canvas.shape[:3]) < 1e-6] = 0  # it jumps there
    found = case.backward(gradient, "hard", False)
    for name, value in double.backward(gradient.double(), "hard", False).items():
        assert worst(found[name], value) < 1e-5, name
