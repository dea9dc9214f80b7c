"""VoxelPrototypes: one flat tensor in blocks with shells of zeros, and views into it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from protoscene.compose import compose
from protoscene.geometry import Grid
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes

SHAPES = [(2, 3, 4), (1, 1, 1), (5, 2, 3)]


def volumes(
    shapes: list[tuple[int, int, int]] = SHAPES, channels: int = 4, **options: Any
) -> list[Tensor]:
    """Numbers in [0.1, 1]: none of them looks like padding."""
    make = torch.Generator().manual_seed(5)
    return [0.1 + 0.9 * torch.rand(channels, *s, generator=make, **options) for s in shapes]


side = st.integers(1, 6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(side, side, side), max_size=5), st.integers(1, 5))
def test_packed_and_taken_out_again(shapes: list[tuple[int, int, int]], channels: int) -> None:
    rgba = volumes(shapes, channels)
    prototypes = VoxelPrototypes.from_rgba(rgba, 0.1)
    assert len(prototypes) == len(shapes)
    assert prototypes.table.dtype == torch.int64
    assert prototypes.table[:, 1:].tolist() == [list(s) for s in shapes]
    start = 0
    for k, (volume, (nz, ny, nx)) in enumerate(zip(rgba, shapes, strict=True)):
        assert torch.equal(prototypes.rgba(k), volume)
        assert prototypes.grid(k).shape == (nz, ny, nx)
        native = prototypes.native(k)
        assert native.shape == (ny + 2, nx + 2, nz + 2, channels) and native.is_contiguous()
        assert native.storage_offset() == prototypes.table[k, 0] == start
        start += native.numel()
        inner = native[1:-1, 1:-1, 1:-1]
        assert torch.equal(inner, volume.permute(2, 3, 1, 0))
        assert native.count_nonzero() == inner.count_nonzero() == volume.numel()
    assert prototypes.voxels.shape == (start,)


def test_grid_has_its_frame_at_the_middle() -> None:
    grid = VoxelPrototypes(volumes(), [0.1, 0.2, 0.05]).grid(0)
    assert grid.voxel_size == 0.1
    np.testing.assert_allclose(grid.lower, (-0.2, -0.15, -0.1))


def test_blocks_are_views() -> None:
    given_rgba = volumes()
    prototypes = VoxelPrototypes.from_rgba(given_rgba, 0.1)
    prototypes.rgba(2)[3, 4, 1, 2] = 0.25
    assert prototypes.native(2)[2, 3, 5, 3] == 0.25
    assert (prototypes.voxels == 0.25).sum() == 1
    prototypes.voxels.zero_()
    assert all(prototypes.rgba(k).count_nonzero() == 0 for k in range(3))
    assert given_rgba[2].count_nonzero() == given_rgba[2].numel()  # copied, never shared


def test_common_float_type() -> None:
    half, single = volumes()[0].half(), volumes()[2]
    prototypes = VoxelPrototypes.from_rgba([half, single], 0.1)
    assert prototypes.voxels.dtype == torch.float32
    assert torch.equal(prototypes.rgba(0), half.float()) and torch.equal(prototypes.rgba(1), single)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        rgba = [v.to(dtype) for v in volumes()]
        assert VoxelPrototypes.from_rgba(rgba, 0.1).rgba(1).dtype == dtype


def test_volumes_that_are_not_contiguous() -> None:
    turned = [v.transpose(1, 3).flip(2) for v in volumes()]
    for k, volume in enumerate(turned):
        assert torch.equal(VoxelPrototypes.from_rgba(turned, 0.1).rgba(k), volume)


def test_gradients_reach_the_volumes_makers() -> None:
    rgba = volumes()
    leaves = [rgba[0].half().requires_grad_(), rgba[1], rgba[2].clone().requires_grad_()]
    prototypes = VoxelPrototypes.from_rgba([leaves[0], leaves[1], 2 * leaves[2]], 0.1)
    assert not isinstance(prototypes.voxels, torch.nn.Parameter)
    plain = [leaves[0], leaves[1], 2 * leaves[2]]
    assert torch.equal(
        prototypes.voxels, VoxelPrototypes.from_rgba([v.detach() for v in plain], 0.1).voxels
    )
    weights = torch.arange(prototypes.voxels.numel()).float()
    (prototypes.voxels * weights).sum().backward()
    inner = VoxelPrototypes.from_voxels(weights, prototypes.table, 0.1, 4)
    assert torch.equal(leaves[0].grad, inner.rgba(0).half())
    assert leaves[1].grad is None
    assert torch.equal(leaves[2].grad, 2 * inner.rgba(2))
    with torch.no_grad():
        assert not VoxelPrototypes.from_rgba(leaves, 0.1).voxels.requires_grad


def test_trainable_is_one_parameter_changed_through_its_views() -> None:
    leaf = volumes()[0].requires_grad_()
    prototypes = VoxelPrototypes.from_rgba([2 * leaf], 0.1, trainable=True)
    assert [name for name, _ in prototypes.named_parameters()] == ["voxels"]
    assert prototypes.voxels.is_leaf and prototypes.voxels.requires_grad
    before = prototypes.voxels.detach().clone()
    with torch.no_grad():
        prototypes.rgba(0)[3] = 0.5
    assert (prototypes.voxels == 0.5).sum() == 24
    placements = Placements(which=[0], centre=torch.zeros(1, 3))
    grid = Grid((-0.25, -0.25, -0.25), 0.1, (5, 5, 5))
    optimizer = torch.optim.SGD(prototypes.parameters(), lr=0.1)
    compose(prototypes, placements, grid).rgba.sum().backward()
    optimizer.step()
    assert not torch.equal(prototypes.voxels, before) and leaf.grad is None
    shell = F.pad(torch.zeros(3, 4, 2, 4), (0, 0, 1, 1, 1, 1, 1, 1), value=1.0)
    assert (prototypes.native(0) * shell).abs().max() == 0  # a step leaves the padding zero


@pytest.mark.parametrize("trainable", [False, True])
def test_state_dict_and_moves(trainable: bool) -> None:
    prototypes = VoxelPrototypes.from_rgba(volumes(), 0.1, trainable)
    other = VoxelPrototypes.from_rgba([v.flip(0) for v in volumes()], 0.1, trainable)
    assert list(prototypes.state_dict()) == ["voxels"]
    view = other.rgba(2)
    other.load_state_dict(prototypes.state_dict())
    assert torch.equal(other.voxels, prototypes.voxels) and torch.equal(view, prototypes.rgba(2))
    other.to("meta")
    assert other.voxels.device.type == "meta" and other.table.device.type == "cpu"
    assert other.rgba(0).shape == (4, 2, 3, 4)
    assert prototypes.double().rgba(0).dtype == torch.float64


def test_from_voxels_takes_the_tensor_as_it_is() -> None:
    packed = VoxelPrototypes.from_rgba(volumes(), 0.1)
    kept = VoxelPrototypes.from_voxels(packed.voxels, packed.table, (0.1, 0.2, 0.3), 4)
    assert kept.voxels is packed.voxels and kept.voxel_size == (0.1, 0.2, 0.3)
    assert all(torch.equal(kept.rgba(k), packed.rgba(k)) for k in range(3))
    trained = VoxelPrototypes.from_voxels(packed.voxels, packed.table, 0.1, 4, trainable=True)
    assert isinstance(trained.voxels, torch.nn.Parameter)
    assert trained.voxels.data_ptr() == packed.voxels.data_ptr()
    again = VoxelPrototypes.from_voxels(trained.voxels, packed.table, 0.1, 4, trainable=True)
    assert again.voxels is trained.voxels
    made = trained.voxels * 2
    assert VoxelPrototypes.from_voxels(made, packed.table, 0.1, 4).voxels is made


def test_empty_dictionary() -> None:
    for trainable in (False, True):
        for empty in (
            VoxelPrototypes([], [], trainable),
            VoxelPrototypes.from_rgba([], 0.1, trainable),
            VoxelPrototypes.from_voxels(
                torch.zeros(0), torch.zeros(0, 4, dtype=torch.int64), [], 4, trainable
            ),
        ):
            assert len(empty) == 0 and empty.channels == 4 and empty.voxel_size == ()
            assert empty.table.shape == (0, 4) and empty.voxels.shape == (0,)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4, 2, 2), r"prototype 1 has shape \(4, 2, 2\), expected \(C, z, y, x\), each at least 1"),
        ((5, 2, 2, 2), r"prototype 1 has .* with one C for all: prototype 0 has 4"),
        ((0, 2, 2, 2), r"prototype 1 has shape \(0, 2, 2, 2\), .* each at least 1"),
        ((4, 2, 0, 2), r"prototype 1 has shape \(4, 2, 0, 2\), .* each at least 1"),
    ],
)
def test_wrong_volumes_are_named(shape: tuple[int, ...], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        VoxelPrototypes.from_rgba([torch.ones(4, 2, 2, 2), torch.ones(shape)], 0.1)


def test_wrong_sizes_and_types_are_named() -> None:
    rgba = volumes()
    with pytest.raises(ValueError, match="3 prototypes but 2 voxel sizes"):
        VoxelPrototypes(rgba, [0.1, 0.1])
    for size in (0.0, -0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=rf"prototype 1 has voxel size {size}, expected"):
            VoxelPrototypes(rgba, [0.1, size, 0.1])
    with pytest.raises(ValueError, match=r"prototype 1 has type torch\.uint8, expected a float"):
        VoxelPrototypes.from_rgba([rgba[0], torch.ones(4, 1, 1, 1, dtype=torch.uint8)], 0.1)


def test_a_table_that_does_not_fit_is_refused() -> None:
    packed = VoxelPrototypes.from_rgba(volumes(), 0.1)
    voxels, table = packed.voxels, packed.table

    def refused(message: str, voxels: Tensor, table: Tensor, channels: int = 4) -> None:
        with pytest.raises(ValueError, match=message):
            VoxelPrototypes.from_voxels(voxels, table, 0.1, channels)

    n = len(voxels)
    refused(f"voxels has {n - 1} numbers, expected {n} by its table", voxels[:-1], table)
    refused(f"voxels has {n} numbers, expected", voxels, table[:2])
    refused("prototype 1's block starts at 480, expected 360", voxels, table, channels=3)
    refused(r"prototype 0 has \(nz, ny, nx\) \(2, 0, 4\)", voxels, table * (table != 3))
    refused(r"table has shape \(3, 3\), expected \(K, 4\)", voxels, table[:, :3])
    refused("channels is 0", voxels, table, channels=0)
    refused(r"voxels is torch\.float32 \(1, \d+\), expected", voxels[None], table)
    refused("voxels is .* contiguous floats", torch.zeros(2 * n)[::2], table)
    refused(r"voxels is torch\.int64", voxels.long(), table)
    with pytest.raises(ValueError, match="3 prototypes but 1 voxel sizes"):
        VoxelPrototypes.from_voxels(voxels, table, [0.1], 4)
