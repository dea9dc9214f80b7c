"""compose_sparse: the tiles that hold something are the whole volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import load_file, save_file
from torch import Tensor

from compose_cases import VOXEL, Case, cases, each_backend, random, scattered_case
from protoscene.compose import SparseVolume, compose
from protoscene.compose import compose_sparse as public_compose_sparse
from protoscene.errors import Refused
from protoscene.geometry import Grid
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.volume import Volume

SIDE = 16
UNEVEN = Grid((-0.3, -0.25, 0.1), VOXEL, (33, 70, 47))


def compose_sparse(
    case: Case, background: Volume | Tensor | None = None, **options: Any
) -> SparseVolume:
    prototypes = VoxelPrototypes(list(case.volumes), list(case.voxel_sizes))
    ground = case.background if background is None else background
    return public_compose_sparse(prototypes, case.placements, case.grid, ground, **options)


def two_corners(channels: int = 4, dtype: torch.dtype = torch.float64) -> Case:
    """One prototype across a corner of eight tiles, one half outside at the far corner, one of
    presence 0 and one outside: most of UNEVEN is empty."""
    lower, upper = torch.as_tensor(UNEVEN.lower), torch.as_tensor(UNEVEN.upper)
    centre = torch.stack([lower + SIDE * VOXEL, upper, (lower + upper) / 2, upper + 2.0])
    return Case(
        (random(channels, 4, 5, 6, seed=1),),
        (VOXEL,),
        Placements([0] * 4, centre, yaw=[0.4, 1, 2, 3], presence=[0.7, 1, 0, 1]),
        UNEVEN,
    ).to(dtype)


def whole_of(sparse: SparseVolume) -> Tensor:
    """dense(), tile by tile and voxel by voxel of the index."""
    nz, ny, nx = sparse.grid.shape
    rgba = torch.zeros(sparse.values.shape[1], nz, ny, nx, dtype=sparse.values.dtype)
    for (tz, ty, tx), tile in zip(sparse.index.tolist(), sparse.values, strict=True):
        here = rgba[:, SIDE * tz :, SIDE * ty :, SIDE * tx :][:, :SIDE, :SIDE, :SIDE]
        _, z, y, x = here.shape
        here.copy_(tile[:, :z, :y, :x])
        tile = tile.clone()
        tile[:, :z, :y, :x] = 0
        assert not tile.any()  # nothing beyond the grid
    return rgba


def equal_to_compose(sparse: SparseVolume, case: Case, **options: Any) -> None:
    """Colour apart where there is but a rounding's worth of occupancy."""
    expected = case.composed(**{"backend": "numba", **options}).rgba
    dense = sparse.dense()
    assert dense.grid == case.grid and dense.rgba.dtype == expected.dtype
    close = {"rtol": 0.0, "atol": 1e-9 if expected.dtype == torch.float64 else 1e-5}
    assert torch.equal(dense.rgba, whole_of(sparse))
    torch.testing.assert_close(dense.rgba[-1], expected[-1], **close)
    weighted = [v[:-1] * v[-1] for v in (dense.rgba, expected)]
    torch.testing.assert_close(*weighted, **close)


def no_tile_is_empty_or_twice(sparse: SparseVolume) -> None:
    assert bool((sparse.values[:, -1] > 0).flatten(1).any(dim=1).all())
    assert len({tuple(row) for row in sparse.index.tolist()}) == len(sparse.index)


@each_backend
@pytest.mark.parametrize("cap", ["hard", "smooth"])
def test_dense_is_compose(backend: str, cap: str) -> None:
    case = two_corners()
    sparse = compose_sparse(case, cap=cap, backend=backend)
    equal_to_compose(sparse, case, cap=cap, backend=backend)
    no_tile_is_empty_or_twice(sparse)
    corner = [[z, y, x] for z in (0, 1) for y in (0, 1) for x in (0, 1)]
    assert sorted(sparse.index.tolist()) == [*corner, [1, 4, 2], [2, 4, 2]]


@settings(max_examples=30, deadline=None)
@given(cases())
def test_dense_is_compose_whatever_it_is(case: Case) -> None:
    sparse = compose_sparse(case, backend="numba")
    equal_to_compose(sparse, case)
    no_tile_is_empty_or_twice(sparse)


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_any_number_of_channels(channels: int, dtype: torch.dtype) -> None:
    case = two_corners(channels, dtype)
    sparse = compose_sparse(case)
    assert sparse.values.shape[1:] == (channels, SIDE, SIDE, SIDE) and sparse.values.dtype == dtype
    equal_to_compose(sparse, case)


def test_a_background_is_kept_where_it_holds_something() -> None:
    """As a tensor, and as a Volume on another grid."""
    case = two_corners()
    ground = torch.zeros(4, *UNEVEN.shape).double()
    ground[:, 32, 20, 46] = torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    ground[:-1, 0, 69, 0] = 0.5  # the colour of nothing
    case = case._replace(background=ground)
    sparse = compose_sparse(case)
    equal_to_compose(sparse, case)
    no_tile_is_empty_or_twice(sparse)
    assert sparse.index.tolist()[-2:] == [[2, 1, 2], [2, 4, 2]] and len(sparse.index) == 11

    block = Volume(random(4, 2, 3, 4), Grid((1.0, 2.0, 1.0), 0.08, (2, 3, 4)))
    from_volume = compose_sparse(case._replace(background=None), block)
    prototypes = VoxelPrototypes(list(case.volumes), list(case.voxel_sizes))
    expected = compose(prototypes, case.placements, UNEVEN, block)
    torch.testing.assert_close(from_volume.dense().occupancy, expected.occupancy)
    assert len(from_volume.index) > 10


@pytest.mark.parametrize("background", [None, torch.zeros(4, *UNEVEN.shape)])
def test_an_empty_scene(background: Tensor | None, tmp_path: Path) -> None:
    case = two_corners(dtype=torch.float32)[:2]
    nobody = Case(*case, Placements(which=[], centre=torch.zeros(0, 3)), UNEVEN, background)
    sparse = compose_sparse(nobody)
    assert sparse.index.shape == (0, 3) and sparse.values.shape == (0, 4, SIDE, SIDE, SIDE)
    assert not sparse.dense().rgba.any() and sparse.dense().rgba.dtype == torch.float32
    points, channels = sparse.points()
    assert points.shape == (0, 3) and channels.shape == (0, 4)
    sparse.save(tmp_path / "nothing.safetensors")
    again = SparseVolume.load(tmp_path / "nothing.safetensors")
    assert again.grid == UNEVEN and again.values.shape == sparse.values.shape


@pytest.mark.parametrize("least", [0.5, 0.05, 0.0])
def test_points_are_the_centres_of_occupied_voxels(least: float) -> None:
    sparse = compose_sparse(two_corners())
    points, channels = sparse.points(least)
    rgba = sparse.dense().rgba
    chosen = (rgba[-1] >= least) & (rgba[-1] > 0)
    assert int(chosen.sum()) == len(points) > 0 and points.dtype == torch.float64
    found = {tuple(p): tuple(c) for p, c in zip(points.tolist(), channels.tolist(), strict=True)}
    centres = torch.as_tensor(UNEVEN.centres())[chosen].tolist()
    values = rgba[:, chosen].T.tolist()
    assert len(found) == len(points)
    for centre, value in zip(centres, values, strict=True):
        near = min(found, key=lambda p: sum((a - b) ** 2 for a, b in zip(p, centre, strict=True)))
        assert near == pytest.approx(centre, abs=1e-12) and found[near] == tuple(value)
        del found[near]


def test_a_scene_too_large_to_be_dense() -> None:
    """1600 × 1024 × 1024 voxels would be 27 GB; two prototypes reach 3 layers of tiles."""
    grid = Grid((0, 0, 0), VOXEL, (1600, 1024, 1024))
    centre = torch.tensor([[0.4, 0.4, 0.8], [51.0, 30.0, 79.9]])
    volume = torch.ones(4, 4, 4, 4)
    sparse = compose_sparse(Case((volume,), (VOXEL,), Placements([0, 0], centre), grid))
    assert sparse.index.tolist() == [[0, 0, 0], [1, 0, 0], [99, 37, 63]]
    points, _ = sparse.points()
    assert len(points) == 2 * 4**3
    near = torch.minimum(*((points - middle).abs().amax(dim=1) for middle in centre.double()))
    assert float(near.max()) < 2 * VOXEL


def test_not_differentiable_and_inputs_stay() -> None:
    case = two_corners()
    tensors = {name: value.requires_grad_() for name, value in case.tensors().items()}
    before = {name: value.detach().clone() for name, value in tensors.items()}
    assert not compose_sparse(case.holding(tensors)).values.requires_grad
    assert all(torch.equal(tensors[name], before[name]) for name in before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_saved_and_loaded(dtype: torch.dtype, tmp_path: Path) -> None:
    path, twin = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    sparse = compose_sparse(two_corners(dtype=dtype))
    sparse.save(path)
    again = SparseVolume.load(path)
    assert again.grid == sparse.grid and torch.equal(again.index, sparse.index)
    assert torch.equal(again.values, sparse.values) and again.values.dtype == dtype
    again.save(twin)
    assert twin.read_bytes() == path.read_bytes()


def refusal(path: Path) -> Refused:
    with pytest.raises(Refused) as caught:
        SparseVolume.load(path)
    assert str(caught.value).startswith(str(caught.value.file))
    return caught.value


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    assert refusal(path).field == "content"
    assert refusal(tmp_path).field == "content"
    compose_sparse(two_corners(dtype=torch.float32)).save(path)
    data = path.read_bytes()
    for n in (0, 4, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:n])
        assert refusal(path).field == "content", n


def broken(tensors: dict[str, Tensor]) -> dict[str, tuple[str, Tensor | None]]:
    """What of a file is wrong: the field that is named, and what a tensor is replaced by."""
    index, values = tensors["index"], tensors["values"]
    high = index.clone()
    high[0, 1] = 5  # UNEVEN is 3, 5, 3 tiles
    return {
        "index outside": ("index", high),
        "index negative": ("index", -1 - index),
        "index twice": ("index", torch.zeros_like(index)),
        "index short": ("values", index[1:].contiguous()),
        "index of floats": ("index", index.float()),
        "index flat": ("values", index.reshape(-1)),
        "values side": ("values", values[..., :8].contiguous()),
        "values of four axes": ("values", values[:, 0].contiguous()),
        "values of none": ("values", torch.tensor(1.0)),
        "values of integers": ("values", values.to(torch.uint8)),
        "values without channels": ("values", values[:, :0].contiguous()),
        "shape one": ("content", torch.tensor(3)),
        "shape two": ("content", torch.tensor([33, 70])),
        "shape zero": ("content", torch.tensor([0, 70, 47])),
        "origin two": ("content", torch.zeros(2)),
        "origin none": ("content", torch.full((3,), torch.nan)),
        "voxel_size two": ("content", torch.ones(2)),
        "voxel_size none": ("content", torch.tensor(0.0)),
        **{f"{name} missing": ("content", None) for name in tensors},
    }


def test_a_file_with_something_wrong_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    compose_sparse(two_corners(dtype=torch.float32)).save(path)
    tensors = load_file(path)
    for what, (field, value) in broken(tensors).items():
        name = what.split()[0]
        changed = {k: v for k, v in tensors.items() if k != name}
        save_file(changed if value is None else changed | {name: value}, path)
        assert refusal(path).field == field, what


@each_backend
def test_errors_name_what_is_wrong(backend: str) -> None:
    case = scattered_case(3)

    def refused(match: str, case: Case, **options: Any) -> None:
        with pytest.raises(ValueError, match=match):
            compose_sparse(case, **{"backend": backend, **options})

    refused("background is", case._replace(background=torch.zeros(4, 2, 2, 2)))
    refused(r"placements\.which\[1\]", case.posed(which=torch.tensor([0, 2, 0])))
    nobody = case._replace(placements=case.placements[:0], background=None)
    refused("cap", nobody, cap="round")
    refused("backend", nobody, backend="fortran")
    case.placements.scale[2] = -1
    refused(r"placements\.scale\[2\]", case)
