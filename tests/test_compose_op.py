"""compose as an operator: what torch, threads, forked children and wrong arguments do to it."""

from __future__ import annotations

import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numba
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from compose_cases import (
    GRID,
    VOXEL,
    Case,
    agree,
    backward_arguments,
    crowd,
    each_fast_backend,
    forward,
    gradients,
    random,
    raw_arguments,
    same,
    scattered_case,
    two_prototypes,
)
from protoscene.compose import compose
from protoscene.geometry import Grid
from protoscene.placements import Placements

DIFFERENTIABLE = [0, *range(4, 9)]  # voxels, poses, presence, background
SMALL = Grid((0, 0, 0), VOXEL, (40, 41, 42))


def small_crowd(seed: int = 0) -> Case:
    """Float32, big enough for every core to get its part."""
    return crowd(30, 11, 12.0, SMALL, kinds=3, seed=seed)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@each_fast_backend
@pytest.mark.parametrize("contiguous", [False, True])
@pytest.mark.parametrize("background", [False, True])
def test_opcheck(backend: str, contiguous: bool, background: bool) -> None:
    case = scattered_case(3, dtype=torch.float32)
    case = case if background else case._replace(background=None)
    arguments = raw_arguments(case, backend, contiguous=contiguous)
    torch.library.opcheck(torch.ops.protoscene.compose.default, tuple(arguments))
    canvas, total = forward(*arguments)
    assert canvas.is_contiguous() and total.numel() == 11 * 12 * 8
    assert canvas.shape == ((4, 8, 11, 12) if contiguous else (11, 12, 8, 4))
    back = backward_arguments(torch.randn_like(canvas), arguments)
    torch.library.opcheck(torch.ops.protoscene.compose_backward.default, tuple(back))
    for position in DIFFERENTIABLE:
        if arguments[position] is not None:
            arguments[position] = arguments[position].requires_grad_()
    torch.library.opcheck(torch.ops.protoscene.compose.default, tuple(arguments))


@each_fast_backend
def test_compiles_in_one_graph(backend: str) -> None:
    arguments = raw_arguments(small_crowd(), backend)
    torch.compiler.reset()
    compiled = torch.compile(forward, fullgraph=True, backend="aot_eager")
    for mine, expected in zip(compiled(*arguments), forward(*arguments), strict=True):
        assert torch.equal(mine, expected)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo's own, at a break
@each_fast_backend
def test_a_compiled_caller_gets_the_same_gradients(backend: str) -> None:
    case = scattered_case(4)
    cotangent = normal(4, *GRID.shape).double()
    expected = gradients(case, backend, cotangent)
    prototypes = two_prototypes()
    centre, yaw = (
        v.clone().requires_grad_() for v in (case.placements.centre, case.placements.yaw)
    )

    def caller(centre: Tensor, yaw: Tensor) -> Tensor:
        rows = Placements(
            case.placements.which,
            2 * centre / 2,
            yaw,
            case.placements.scale,
            case.placements.presence,
        )
        return compose(prototypes, rows, GRID, case.background, backend=backend).rgba

    torch.compiler.reset()
    result = torch.compile(caller, backend="aot_eager")(centre, yaw)
    found = torch.autograd.grad(result, [centre, yaw], cotangent)
    agree(dict(zip(("centre", "yaw"), found, strict=True)), expected_of(expected), 1e-12)


def expected_of(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: gradients[name] for name in ("centre", "yaw")}


@each_fast_backend
def test_no_grad_and_inference_give_the_same(backend: str) -> None:
    case = scattered_case(4)
    leaf = case.posed(centre=case.placements.centre.clone().requires_grad_())
    expected = leaf.composed(backend).rgba
    assert expected.requires_grad
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            inside = leaf.composed(backend).rgba
            assert not inside.requires_grad
            assert torch.equal(inside, expected.detach())


@each_fast_backend
@pytest.mark.parametrize("cap", ["hard", "smooth"])
def test_contiguous_is_the_same_in_another_layout(backend: str, cap: str) -> None:
    case = small_crowd()
    native = case.composed(backend, cap=cap).rgba
    plain = case.composed(backend, cap=cap, contiguous=True).rgba
    assert native.permute(2, 3, 1, 0).is_contiguous() and not native.is_contiguous()
    assert plain.is_contiguous()
    torch.testing.assert_close(native, plain, rtol=0, atol=1e-6)


@each_fast_backend
def test_contiguous_has_the_same_gradients(backend: str) -> None:
    case = scattered_case(4)
    cotangent = normal(4, *GRID.shape).double()
    plain = gradients(case, backend, cotangent, contiguous=True)
    agree(plain, gradients(case, backend, cotangent), 1e-12)


@each_fast_backend
def test_inputs_that_are_not_contiguous(backend: str) -> None:
    case = scattered_case(4)
    same(strided(case).composed(backend), case.composed(backend), 1e-15)
    cotangent = normal(4, *GRID.shape).double()
    expected = gradients(case, backend, cotangent)
    agree(gradients(strided(case), backend, cotangent), expected, 1e-12)


def strided(case: Case) -> Case:
    """The same numbers, each tensor a view of every other number of a transposed one."""

    def view(tensor: Tensor) -> Tensor:
        wide = torch.full((*tensor.shape[::-1], 2), math.nan, dtype=tensor.dtype)
        wide[..., 0] = tensor.permute(*range(tensor.dim())[::-1])
        return wide[..., 0].permute(*range(tensor.dim())[::-1])

    return case.holding({name: view(value) for name, value in case.tensors().items()})


@each_fast_backend
def test_inputs_that_share_memory(backend: str) -> None:
    """A pose expanded from one row, a background from one channel."""
    rows = Placements(
        which=[0, 1, 0],
        centre=torch.tensor([[0.01, 0.02, 0.03]]).double().expand(3, 3),
        yaw=torch.tensor(0.4).double(),
        scale=torch.tensor([[1.2]]).double().expand(3, 3),
        presence=torch.tensor(0.3).double(),
    )
    flat = random(1, *GRID.shape).expand(4, *GRID.shape)
    case = scattered_case(0)._replace(placements=rows, background=flat)
    same(case.composed(backend), case.composed("reference"))


@each_fast_backend
def test_same_bytes_again_on_any_number_of_threads(backend: str) -> None:
    case, cotangent = small_crowd(), normal(4, *SMALL.shape)

    def everything() -> list[Tensor]:
        return [case.composed(backend).rgba, *gradients(case, backend, cotangent).values()]

    first = everything()
    most = numba.config.NUMBA_NUM_THREADS
    try:
        for threads in (1, most, most):
            numba.set_num_threads(threads)
            assert all(torch.equal(a, b) for a, b in zip(everything(), first, strict=True))
    finally:
        numba.set_num_threads(most)


@each_fast_backend
@pytest.mark.parametrize("contiguous", [False, True])
def test_nothing_of_a_result_is_what_was_in_memory_before(backend: str, contiguous: bool) -> None:
    """Also far from the only placement, and in what is kept for the backward pass."""
    case = scattered_case(1, dtype=torch.float32)._replace(background=None)
    corner = torch.tensor([GRID.origin], dtype=torch.float32)
    arguments = raw_arguments(case.posed(centre=corner), backend, contiguous=contiguous)
    first = forward(*arguments)
    for i in range(20):
        litter = [torch.full((n,), i + 0.5) for n in (GRID.n_voxels, 4 * GRID.n_voxels)]
        del litter
        again = forward(*arguments)
        assert all(torch.equal(a, b) for a, b in zip(again, first, strict=True))


@each_fast_backend
def test_inputs_stay_as_they_are(backend: str) -> None:
    case, cotangent = small_crowd(), normal(4, *SMALL.shape)
    before = {name: value.clone() for name, value in case.tensors().items()}
    given = cotangent.clone()
    gradients(case, backend, cotangent)
    assert torch.equal(cotangent, given)
    for name, value in case.tensors().items():
        assert torch.equal(value, before[name]), name


@each_fast_backend
def test_a_result_is_kept_when_the_next_is_made(backend: str) -> None:
    case = small_crowd()
    first = case.composed(backend).rgba
    kept = first.clone()
    small_crowd(seed=1).composed(backend)
    assert torch.equal(first, kept)


def test_two_python_threads_at_once() -> None:
    cases = [small_crowd(seed) for seed in range(4)]
    cotangent = normal(4, *SMALL.shape)

    def everything(case: Case) -> list[Tensor]:
        return [case.composed("numba").rgba, *gradients(case, "numba", cotangent).values()]

    expected = [everything(case) for case in cases]
    with ThreadPoolExecutor(2) as pool:
        for found, truth in zip(pool.map(everything, cases * 4), expected * 4, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(found, truth, strict=True))


class Composed(Dataset):
    """Bytes of a volume and of its gradients. A forked child may not enter torch's autograd once
    its parent has: the operator's backward is called as it is."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> list[bytes]:
        arguments = raw_arguments(small_crowd(index), "numba")
        found = [forward(*arguments)[0]]
        back = backward_arguments(normal(*found[0].shape), arguments)
        found += torch.ops.protoscene.compose_backward(*back)
        volume = small_crowd(index).composed("numba").rgba
        return [value.contiguous().numpy().tobytes() for value in [volume, *found]]


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_forked_data_loader_workers_at_once() -> None:
    """After their parent, and while it goes on. A worker that hangs fails the test in a minute."""
    dataset = Composed()
    expected = [dataset[i] for i in range(len(dataset))]
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=2,
        multiprocessing_context="fork",
        timeout=60,
        collate_fn=list,
    )
    for index, found in enumerate(loader):
        assert found == expected[index]
        assert dataset[index] == expected[index]


PROGRAM = """
import importlib, pkgutil, sys
import protoscene as ps
ps.compose
package = sys.modules["protoscene.compose"]
for module in pkgutil.iter_modules(package.__path__, "protoscene.compose."):
    importlib.import_module(module.name)
from numba.core.registry import CPUDispatcher
kernels = {
    f"{module}.{name}": value
    for module in sorted(sys.modules) if module.startswith("protoscene.compose")
    for name, value in vars(sys.modules[module]).items() if isinstance(value, CPUDispatcher)
}
assert kernels
print("compiled by import:", [name for name, k in kernels.items() if k.signatures])
import torch
rgba = torch.rand(4, 3, 3, 3, requires_grad=True)
placements = ps.Placements(which=[0], centre=torch.zeros(1, 3))
grid = ps.Grid((-1, -1, -1), 0.5, (4, 4, 4))
ps.compose(ps.VoxelPrototypes.from_rgba([rgba], 0.5), placements, grid).rgba.sum().backward()
print("used:", any(k.signatures for k in kernels.values()))
compiled = [name for name, k in kernels.items() if sum(k.stats.cache_misses.values())]
print("not from cache:", compiled)
"""


def test_import_compiles_nothing_and_a_second_process_neither() -> None:
    for _ in range(2):
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120
        )
        assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["compiled by import: []", "used: True", "not from cache: []"]
