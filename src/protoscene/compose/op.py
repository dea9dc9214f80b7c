"""compose as operators of torch: what autograd, torch.compile and opcheck see.

``protoscene::compose`` has the autograd formula, ``protoscene::compose_backward`` is it. Both take
hard rows only (one prototype index each), float tensors of one type, and plain numbers; the public
:func:`protoscene.compose.compose` prepares these. Nothing is computed here.

Canvas: (ny, nx, nz, C), or (C, nz, ny, nx) where ``contiguous``; straight colour, α = cap(A).
Total: A as (ny, nx, nz), empty unless ``keep_total``, with the hard cap meant only where A ≥ 1.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import CustomOpDef

from protoscene.compose import cpu, torch_backend
from protoscene.geometry import Grid

N_INPUTS = 17
DIFFERENTIABLE = (0, 4, 5, 6, 7, 8)
"""Positions of voxels, centre, yaw, scale, presence and background among the inputs."""


def _check(
    voxels: Tensor, table: Tensor, voxel_sizes: Tensor, which: Tensor, centre: Tensor, yaw: Tensor,
    scale: Tensor, presence: Tensor, background: Tensor | None, shape: Sequence[int], channels: int,
) -> None:  # fmt: skip
    """Raise ValueError where a backend would read or write beyond a tensor."""
    n, k = which.shape[0], table.shape[0]
    if len(shape) != 3 or min(shape) < 1 or channels < 1:
        raise ValueError(
            f"shape is {tuple(shape)} with {channels} channels, expected nz, ny, nx ≥ 1"
        )
    sizes = (table[:, 1:] + 2).prod(dim=1) * channels
    last = int((table[:, 0] + sizes).max()) if k else 0
    if voxels.dim() != 1 or len(voxels) < last or (k and int(table.min()) < 0):
        raise ValueError(f"voxels is {tuple(voxels.shape)}, its table needs {last}")
    if n and not (int(which.min()) >= 0 and int(which.max()) < k):
        raise ValueError(f"which is {int(which.min())}..{int(which.max())}, expected 0..{k - 1}")
    _expect("voxel_sizes", voxel_sizes, (k,))
    for name, value, expected in (
        ("centre", centre, (n, 3)), ("yaw", yaw, (n,)), ("scale", scale, (n, 3)),
        ("presence", presence, (n,)),
    ):  # fmt: skip
        _expect(name, value, expected)
    if background is not None:
        _expect("background", background, (channels, *shape))


def _expect(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} is {tuple(value.shape)}, expected {shape}")


def _operator(name: str) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """A custom operator whose kernel for processors is called as it is: that of custom_op's own
    making imports torch._dynamo at its first call, which takes longer than to compose."""

    def define(function: Callable[..., Any]) -> CustomOpDef:
        name_in_torch = f"protoscene::{name}"
        function = inspect.unwrap(function)  # torch looks its types up where it was written
        operator = torch.library.custom_op(name_in_torch, function, mutates_args=())
        torch.library.impl(name_in_torch, "cpu", function)
        return operator

    return define


@_operator("compose")
def compose_op(
    voxels: Tensor,
    table: Tensor,
    voxel_sizes: Tensor,
    which: Tensor,
    centre: Tensor,
    yaw: Tensor,
    scale: Tensor,
    presence: Tensor,
    background: Tensor | None,
    origin: Sequence[float],
    voxel_size: float,
    shape: Sequence[int],
    channels: int,
    cap: str,
    backend: str,
    keep_total: bool,
    contiguous: bool,
) -> tuple[Tensor, Tensor]:
    rows = voxels, table, voxel_sizes, which, centre, yaw, scale, presence, background
    _check(*rows, shape, channels)
    if backend == "numba":
        grid = Grid((origin[0], origin[1], origin[2]), voxel_size, (shape[0], shape[1], shape[2]))
        return cpu.forward(*rows, grid, channels, cap, keep_total, contiguous)
    return torch_backend.forward(
        *rows, origin, voxel_size, shape, channels, cap, keep_total, contiguous
    )


@compose_op.register_fake
def _(
    voxels: Tensor, table: Tensor, voxel_sizes: Tensor, which: Tensor, centre: Tensor, yaw: Tensor,
    scale: Tensor, presence: Tensor, background: Tensor | None, origin: Sequence[float],
    voxel_size: float, shape: Sequence[int], channels: int, cap: str, backend: str,
    keep_total: bool, contiguous: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    nz, ny, nx = shape
    canvas = (channels, nz, ny, nx) if contiguous else (ny, nx, nz, channels)
    return voxels.new_empty(canvas), voxels.new_empty(ny * nx * nz if keep_total else 0)


@_operator("compose_backward")
def compose_backward_op(
    gradient: Tensor,
    canvas: Tensor,
    total: Tensor,
    voxels: Tensor,
    table: Tensor,
    voxel_sizes: Tensor,
    which: Tensor,
    centre: Tensor,
    yaw: Tensor,
    scale: Tensor,
    presence: Tensor,
    background: Tensor | None,
    origin: Sequence[float],
    voxel_size: float,
    shape: Sequence[int],
    channels: int,
    cap: str,
    backend: str,
    contiguous: bool,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of voxels, centre, yaw, scale, presence, background; empty where not needed."""
    rows = voxels, table, voxel_sizes, which, centre, yaw, scale, presence, background
    _check(*rows, shape, channels)
    nz, ny, nx = shape
    layout = (channels, nz, ny, nx) if contiguous else (ny, nx, nz, channels)
    _expect("gradient", gradient, layout)
    _expect("canvas", canvas, layout)
    _expect("total", total, (nz * ny * nx,))
    if backend == "numba":
        grid = Grid((origin[0], origin[1], origin[2]), voxel_size, (shape[0], shape[1], shape[2]))
        found = cpu.backward(gradient, canvas, total, *rows, grid, channels, cap, contiguous, needs)
    else:
        found = torch_backend.backward(
            gradient, canvas, total, *rows, origin, voxel_size, shape, channels, cap, contiguous,
            needs,
        )  # fmt: skip
    inputs = voxels, centre, yaw, scale, presence, background
    return tuple(
        value.to(given.dtype) if need and given is not None else voxels.new_empty(0)
        for value, given, need in zip(found, inputs, needs, strict=True)
    )  # type: ignore[return-value]


@compose_backward_op.register_fake
def _(
    gradient: Tensor, canvas: Tensor, total: Tensor, voxels: Tensor, table: Tensor,
    voxel_sizes: Tensor, which: Tensor, centre: Tensor, yaw: Tensor, scale: Tensor,
    presence: Tensor, background: Tensor | None, origin: Sequence[float], voxel_size: float,
    shape: Sequence[int], channels: int, cap: str, backend: str, contiguous: bool,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    inputs = voxels, centre, yaw, scale, presence, background
    return tuple(
        torch.empty_like(given) if need and given is not None else voxels.new_empty(0)
        for given, need in zip(inputs, needs, strict=True)
    )  # type: ignore[return-value]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output, *inputs[:9])
    ctx.plain = inputs[9:]
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, gradient: Tensor | None, _total: Any) -> tuple[Tensor | None, ...]:
    result: list[Tensor | None] = [None] * N_INPUTS
    if gradient is None:
        return tuple(result)
    canvas, total, *inputs = ctx.saved_tensors
    *plain, keep_total, contiguous = ctx.plain
    if not keep_total:
        raise RuntimeError("protoscene::compose is differentiated, but keep_total was False")
    needs = [ctx.needs_input_grad[i] for i in DIFFERENTIABLE]
    found = torch.ops.protoscene.compose_backward(
        gradient, canvas, total, *inputs, *plain, contiguous, needs
    )
    for i, value, need in zip(DIFFERENTIABLE, found, needs, strict=True):
        result[i] = value if need else None
    return tuple(result)


compose_op.register_autograd(_differentiate, setup_context=_save)
