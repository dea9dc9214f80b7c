"""compose_loss: the formula on the composed volume, in every backend, without the volume."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch
from torch import Tensor

from compose_cases import (
    GRID,
    VOXEL,
    Case,
    agree,
    each_backend,
    random,
    scattered_case,
)
from protoscene.compose import Target, cpu, loss
from protoscene.compose import compose_loss as public_compose_loss
from protoscene.geometry import Grid
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.volume import Volume

UNEVEN = Grid((-0.3, -0.25, -0.2), VOXEL, (67, 19, 18))
"""Cut by every side of a tile, with most of it empty."""
ALL = {"mse": 0.7, "bce": 0.3, "colour": 1.3}


def compose_loss(case: Case, target: Target | Volume, **options: Any) -> dict[str, Tensor]:
    prototypes = VoxelPrototypes(list(case.volumes), list(case.voxel_sizes))
    return public_compose_loss(
        prototypes, case.placements, case.grid, target, case.background, **options
    )


def everything(case: Case, target: Target, backend: str, **options: Any) -> dict[str, Tensor]:
    """The loss, its terms and its gradient to every tensor of ``case``."""
    tensors = {name: value.detach().requires_grad_() for name, value in case.tensors().items()}
    found = compose_loss(case.holding(tensors), target, backend=backend, **options)
    slopes = torch.autograd.grad(
        found["loss"], list(tensors.values()), allow_unused=True, materialize_grads=True
    )
    terms = {name: value.detach()[None] for name, value in found.items()}
    return terms | dict(zip(tensors, slopes, strict=True))


def many_channels(channels: int, grid: Grid = GRID, background: bool = True) -> Case:
    """Six placements of two prototypes, some half outside, one covering another, solid ones too:
    A is above 1 in places."""
    n = 6
    placements = Placements(
        which=torch.arange(n) % 2,
        centre=(random(n, 3, seed=1) - 0.5) * 0.6,
        yaw=random(n, seed=2) * 7,
        scale=0.6 + random(n, 3, seed=3),
        presence=0.3 + 0.7 * random(n, seed=4),
    )
    volumes = random(channels, 3, 4, 5, seed=5), random(channels, 6, 5, 4, seed=6)
    ground = 0.6 * random(channels, *grid.shape, seed=7) if background else None
    return Case(volumes, (VOXEL, 0.7 * VOXEL), placements, grid, ground)


def target_of(case: Case, dtype: torch.dtype, weight: torch.dtype | None) -> Target:
    """Random, with half of its voxels empty; a third of the weights 0."""
    shape = case.grid.shape
    rgba = random(case.volumes[0].shape[0], *shape, seed=20)
    rgba[-1] *= random(*shape, seed=21) < 0.5
    if dtype == torch.uint8:
        rgba = (255 * rgba).round()
    weights = 3 * random(*shape, seed=22) * (random(*shape, seed=23) < 0.67)
    if weight in (torch.bool, torch.uint8):
        weights = weights.ceil()
    return Target(rgba.to(dtype), None if weight is None else weights.to(weight))


TYPES = [
    (torch.uint8, None),
    (torch.uint8, torch.bool),
    (torch.float16, torch.uint8),
    (torch.float32, torch.float32),
    (torch.float32, torch.float16),
    (torch.float64, None),
]


@pytest.mark.parametrize(("dtype", "weight"), TYPES, ids=str)
@pytest.mark.parametrize(("cap", "background"), [("hard", True), ("smooth", False)])
def test_backends_agree(
    dtype: torch.dtype, weight: torch.dtype | None, cap: str, background: bool
) -> None:
    case = many_channels(4, background=background)
    target = target_of(case, dtype, weight)
    truth = everything(case, target, "reference", cap=cap, **ALL)
    assert all(float(value.abs().max()) > 0 for value in truth.values())
    for backend in ("numba", "torch"):
        agree(everything(case, target, backend, cap=cap, **ALL), truth, 1e-9)


@pytest.mark.parametrize(("dtype", "weight"), [(torch.uint8, None), (torch.float16, torch.bool)])
@pytest.mark.parametrize(("cap", "background"), [("smooth", True), ("hard", False)])
def test_backends_agree_in_float32(
    dtype: torch.dtype, weight: torch.dtype | None, cap: str, background: bool
) -> None:
    """Poses too are float32: rounded before the reference gets them."""
    case = many_channels(4, background=background).to(torch.float32)
    target = target_of(case, dtype, weight)
    truth = everything(case.to(torch.float64), target, "reference", cap=cap, **ALL)
    for backend in ("numba", "torch"):
        found = everything(case, target, backend, cap=cap, **ALL)
        assert {value.dtype for value in found.values()} == {torch.float32}
        agree({name: value.double() for name, value in found.items()}, truth, 1e-5)


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("cap", ["hard", "smooth"])
def test_any_number_of_channels(channels: int, cap: str) -> None:
    case = many_channels(channels)
    target = target_of(case, torch.float64, None)
    truth = everything(case, target, "reference", cap=cap, **ALL)
    assert (float(truth["colour"]) > 0) == (channels > 1)
    for backend in ("numba", "torch"):
        agree(everything(case, target, backend, cap=cap, **ALL), truth, 1e-9)


@pytest.mark.parametrize("background", [True, False])
def test_many_tiles_in_several_batches_and_parts(
    background: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = many_channels(4, UNEVEN, background)
    case = case.posed(centre=case.placements.centre + torch.tensor([0.1, 0.2, 1.3]))
    target = target_of(case, torch.uint8, torch.uint8)
    truth = everything(case, target, "torch", **ALL)
    agree(everything(case, target, "numba", **ALL), truth, 1e-9)
    monkeypatch.setattr(cpu, "BATCH_BYTES", 1)
    agree(everything(case, target, "numba", **ALL), truth, 1e-9)
    monkeypatch.setattr(loss, "READ_BYTES", 1)
    monkeypatch.setattr(cpu, "BATCH_BYTES", 3 * 2**20)
    agree(everything(case, target, "numba", **ALL), truth, 1e-9)
    monkeypatch.setattr(loss, "SLAB_VOXELS", 9 * 19 * 18)
    agree(everything(case, target, "torch", **ALL), truth, 1e-9)


SHARES = [dict(zip(ALL, shares, strict=True)) for shares in itertools.product((0.0, 0.4), repeat=3)]


@pytest.mark.parametrize("shares", SHARES, ids=lambda s: "+".join(k for k in s if s[k]) or "none")
def test_shares(shares: dict[str, float]) -> None:
    """A term without a share may be left out, and has no gradient."""
    case = many_channels(4)
    target = target_of(case, torch.uint8, None)
    truth = everything(case, target, "reference", **shares)
    expected = sum(share * truth[name] for name, share in shares.items())
    torch.testing.assert_close(truth["loss"], torch.as_tensor(expected))
    for name in [name for name, share in shares.items() if not share]:
        truth.pop(name)
    for backend in ("numba", "torch"):
        found = everything(case, target, backend, **shares)
        agree({name: found[name] for name in truth}, truth, 1e-9)


@each_backend
def test_soft_weights(backend: str) -> None:
    """A row of weights over prototypes has a gradient as well."""
    case = many_channels(4).posed(which=random(6, 2, seed=30))
    target = target_of(case, torch.uint8, None)
    found = everything(case, target, backend, cap="smooth", **ALL)
    assert float(found["weights"].abs().min()) > 0
    agree(found, everything(case, target, "reference", cap="smooth", **ALL), 1e-9)


def by_formula(case: Case, target: np.ndarray, weight: np.ndarray, cap: str) -> dict[str, float]:
    """The formulas of compose_loss on the whole composed volume, in numpy."""
    rgba = case.composed("reference", cap=cap).rgba.numpy()
    a, b = rgba[-1], target[-1]
    s = 1e-3
    entropy = b * np.log(a + s) + (1 - b) * np.log(1 - a + s) - np.log(1 + 2 * s)
    off = ((rgba[:-1] - target[:-1]) ** 2).mean(axis=0)
    terms = {"mse": (a - b) ** 2, "bce": -entropy, "colour": b * off}
    known = weight.sum()
    means = {name: float((weight * term).sum() / known) for name, term in terms.items()}
    return means | {"loss": sum(ALL[name] * mean for name, mean in means.items())}


@each_backend
@pytest.mark.parametrize("cap", ["hard", "smooth"])
def test_is_the_formula_on_the_dense_volume(backend: str, cap: str) -> None:
    case = many_channels(4)
    target = target_of(case, torch.uint8, torch.uint8)
    assert isinstance(target.rgba, Tensor) and isinstance(target.weight, Tensor)
    whole = by_formula(case, target.rgba.numpy() / 255, target.weight.double().numpy(), cap)
    found = compose_loss(case, target, cap=cap, backend=backend, **ALL)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(whole, rel=1e-9)


@each_backend
def test_a_volume_compared_with_itself(backend: str) -> None:
    """All is zero, also the gradient; entropy is as small as it can be, not zero."""
    case = many_channels(4)
    itself = case.composed(backend).rgba
    found = everything(case, Target(itself), backend, mse=1, colour=1)
    terms = ("loss", "mse", "colour")
    assert all(float(found[name]) < 1e-28 for name in terms)
    assert all(float(v.abs().max()) < 1e-14 for k, v in found.items() if k not in (*terms, "bce"))
    same = compose_loss(case, Volume(itself, GRID), backend=backend)
    assert float(same["loss"]) == float(found["loss"])
    solid = case.posed(presence=torch.full((6,), 1e3))
    solid = solid._replace(background=None)
    rgba = solid.composed(backend).rgba
    filled = (rgba[-1] == 0) | (rgba[-1] == 1)
    found = compose_loss(solid, Target(rgba, filled), backend=backend, bce=1)
    assert float(found["bce"]) == pytest.approx(np.log(1.002 / 1.001), rel=1e-9)


@each_backend
def test_what_is_unknown_may_hold_anything(backend: str) -> None:
    """NaN where the weight is 0, and in the colour of what is empty, changes nothing."""
    case = many_channels(4)
    clean = target_of(case, torch.float32, torch.float32)
    assert isinstance(clean.rgba, Tensor) and isinstance(clean.weight, Tensor)
    rgba = clean.rgba.clone()
    rgba[:, clean.weight == 0] = np.nan
    rgba[:-1, clean.rgba[-1] == 0] = np.nan
    rgba[1, 0, 0, 0] = np.inf
    clean.weight[0, 0, 0] = 0
    found = everything(case, Target(rgba, clean.weight), backend, **ALL)
    truth = everything(case, clean, backend, **ALL)
    assert all(torch.equal(found[name], truth[name]) for name in truth)


@each_backend
@pytest.mark.parametrize("background", [True, False])
def test_nothing_known(backend: str, background: bool) -> None:
    case = many_channels(4, background=background)
    target = Target(random(4, *GRID.shape, dtype=torch.float32) * np.nan, torch.zeros(GRID.shape))
    found = everything(case, target, backend, **ALL)
    assert all(bool((value == 0).all()) for value in found.values())


@each_backend
@pytest.mark.parametrize("background", [True, False])
def test_no_placements(backend: str, background: bool) -> None:
    """Only the target counts, and the background if there is one."""
    case = many_channels(4, UNEVEN, background)
    case = case._replace(placements=Placements(which=[], centre=torch.zeros(0, 3).double()))
    target = target_of(case, torch.uint8, None)
    assert isinstance(target.rgba, Tensor)
    whole = by_formula(case, target.rgba.numpy() / 255, np.ones(UNEVEN.shape), "hard")
    found = everything(case, target, backend, **ALL)
    assert {name: float(found[name]) for name in whole} == pytest.approx(whole, rel=1e-9)
    assert not found["volume 0"].any() and found["centre"].shape == (0, 3)
    assert not background or found["background"].any()


@each_backend
def test_an_empty_dictionary(backend: str) -> None:
    none = VoxelPrototypes.from_rgba([], 1.0)
    rows = Placements(which=[], centre=torch.zeros(0, 3))
    target = Target(torch.ones(4, *GRID.shape))
    found = public_compose_loss(none, rows, GRID, target, backend=backend)
    assert float(found["mse"]) == 1 and float(found["colour"]) == 1


@pytest.mark.parametrize("cap", ["hard", "smooth"])
def test_gradcheck(cap: str) -> None:
    """Against differences of the loss itself. A is below 1: the hard cap's kink is far."""
    grid = Grid((-0.15, -0.12, -0.1), VOXEL, (4, 5, 6))
    case = Case(
        (random(4, 2, 3, 2, seed=1), random(4, 3, 2, 3, seed=2)),
        (0.06, 0.05),
        Placements(
            which=0.3 * random(3, 2, seed=9),
            centre=0.1 * random(3, 3, seed=3) - 0.05,
            yaw=random(3, seed=4),
            scale=0.8 + 0.4 * random(3, 3, seed=5),
            presence=0.5 * random(3, seed=6),
        ),
        grid,
        0.2 + 0.2 * random(4, *grid.shape, seed=7),
    )
    target = target_of(case, torch.float64, torch.uint8)
    tensors = {name: value.requires_grad_() for name, value in case.tensors().items()}

    def value(*values: Tensor) -> Tensor:
        held = case.holding(dict(zip(tensors, values, strict=True)))
        return compose_loss(held, target, cap=cap, **ALL)["loss"]

    assert torch.autograd.gradcheck(value, list(tensors.values()), eps=1e-7, atol=1e-6)


@each_backend
def test_only_what_needs_a_gradient_gets_one(backend: str) -> None:
    case = many_channels(4)
    target = target_of(case, torch.uint8, None)
    whole = everything(case, target, backend, **ALL)
    for name in case.tensors():
        tensors = {key: value.detach().clone() for key, value in case.tensors().items()}
        tensors[name].requires_grad_()
        found = compose_loss(case.holding(tensors), target, backend=backend, **ALL)
        assert not any(found[term].requires_grad for term in ALL)
        (3 * found["loss"]).backward()
        agree({name: tensors[name].grad / 3}, {name: whole[name]}, 1e-12)
        assert all(value.grad is None for key, value in tensors.items() if key != name)


@each_backend
def test_without_gradients(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under no_grad nothing is prepared for backward either: no slab is scattered."""
    case = many_channels(4)
    target = target_of(case, torch.uint8, None)
    truth = everything(case, target, backend, **ALL)
    tensors = {name: value.detach().requires_grad_() for name, value in case.tensors().items()}
    monkeypatch.setattr(cpu.scatter, "scatter_slabs", None)
    monkeypatch.setattr(torch.autograd, "grad", None)
    with torch.no_grad():
        found = compose_loss(case.holding(tensors), target, backend=backend, **ALL)
    assert not found["loss"].requires_grad
    torch.testing.assert_close(found["loss"], truth["loss"][0], rtol=1e-12, atol=0)


def test_half_prototypes_are_computed_in_float32() -> None:
    case = many_channels(4).to(torch.float16)
    target = target_of(case, torch.uint8, None)
    found = everything(case, target, "numba", **ALL)
    assert found["loss"].dtype == torch.float32 and found["volume 0"].dtype == torch.float16
    truth = everything(case.to(torch.float32), target, "numba", **ALL)
    assert float(found["loss"]) == float(truth["loss"])


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16], ids=str)
def test_tensor_array_and_memory_map_are_the_same(
    backend: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """In any memory layout: channel last, axes turned round, a crop of something larger."""
    case = many_channels(4, background=False)
    given = target_of(case, dtype, torch.uint8)
    assert isinstance(given.rgba, Tensor) and isinstance(given.weight, Tensor)
    rgba, weight = given.rgba.numpy(), given.weight.numpy()
    truth = everything(case, given, backend, **ALL)

    def mapped(name: str, values: np.ndarray) -> np.memmap:
        file = np.memmap(tmp_path / name, values.dtype, "w+", shape=values.shape)
        file[:] = values
        file.flush()
        return np.memmap(tmp_path / name, values.dtype, "r", shape=values.shape)

    wide = np.zeros((5, 10, 13, 12), rgba.dtype)
    wide[1:, 2:, 1:12] = rgba
    native = np.ascontiguousarray(rgba.transpose(2, 3, 1, 0))
    turned = np.ascontiguousarray(rgba[:, ::-1, :, ::-1])
    for target in (
        Target(rgba, weight),
        Target(mapped("plain", rgba), mapped("weight", weight)),
        Target(mapped("wide", wide)[1:, 2:, 1:12], weight),
        Target(mapped("native", native).transpose(3, 2, 0, 1), given.weight),
        Target(torch.from_numpy(native).permute(3, 2, 0, 1), weight),
        Target(mapped("turned", turned)[:, ::-1, :, ::-1], weight[::-1].copy()[::-1]),
    ):
        found = everything(case, target, backend, **ALL)
        assert all(torch.equal(found[name], truth[name]) for name in truth)
        assert np.array_equal(target.rgba, rgba)  # still there


def test_same_bytes_again_on_any_number_of_threads() -> None:
    case = many_channels(4, UNEVEN)
    target = target_of(case, torch.uint8, None)
    first = everything(case, target, "numba", **ALL)
    most = numba.config.NUMBA_NUM_THREADS
    try:
        for threads in (1, most, most):
            numba.set_num_threads(threads)
            again = everything(case, target, "numba", **ALL)
            assert all(torch.equal(again[name], first[name]) for name in first)
    finally:
        numba.set_num_threads(most)


def test_inputs_stay_as_they_are() -> None:
    case = many_channels(4)
    target = target_of(case, torch.uint8, torch.float32)
    assert isinstance(target.rgba, Tensor) and isinstance(target.weight, Tensor)
    given = {**case.tensors(), "target": target.rgba, "known": target.weight}
    before = {name: value.clone() for name, value in given.items()}
    everything(case, target, "numba", **ALL)
    assert all(torch.equal(given[name], before[name]) for name in given)


@each_backend
def test_errors_name_what_is_wrong(backend: str) -> None:
    case = scattered_case(3)
    rgba = torch.zeros(4, *GRID.shape)

    def refused(match: str, target: Target | Volume, case: Case = case, **options: Any) -> None:
        with pytest.raises(ValueError, match=match):
            compose_loss(case, target, **{"backend": backend, **options})

    refused(r"target\.rgba is \(3, 8, 11, 12\), expected \(4, 8, 11, 12\)", Target(rgba[:3]))
    refused(r"target\.rgba is \(4, 8, 11, 11\)", Target(rgba[..., :11]))
    for dtype in (torch.int32, torch.bfloat16, torch.bool):
        refused(rf"target\.rgba is {dtype}, expected uint8", Target(rgba.to(dtype)))
    refused(r"target\.rgba is >f4", Target(rgba.numpy().astype(">f4")))
    refused(r"target\.weight is \(8, 11, 11\)", Target(rgba, rgba[0, ..., :11]))
    refused(r"target\.weight is torch\.int64, expected bool", Target(rgba, rgba[0].long()))
    moved = Grid((0, 0, 0), VOXEL, GRID.shape)
    refused(r"target is on Grid\(origin=\(0\.0", Volume(rgba, moved))
    refused("cap", Target(rgba), cap="round")
    refused("backend", Target(rgba), backend="fortran")
    refused("background is", Target(rgba), case._replace(background=rgba[:, 1:]))
    refused(r"placements\.which\[1\]", Target(rgba), case.posed(which=torch.tensor([0, 2, 0])))
    case.placements.yaw[2] = torch.nan
    refused(r"placements\.yaw\[2\]", Target(rgba))


MEMORY = """
import re, sys
from pathlib import Path
import numpy as np, torch
import protoscene as ps

def resident(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def rise(shape, centres, name):
    target = ps.Target(np.memmap(name, np.uint8, "r", shape=(4, *shape)))
    grid = ps.Grid((0, 0, 0), 0.05, shape)
    rows = ps.Placements([0] * len(centres), torch.tensor(centres).reshape(-1, 3))
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = resident("VmRSS")
    ps.compose_loss(prototypes, rows, grid, target, bce=1.0)["loss"].backward()
    return resident("VmHWM") - before

rgba = torch.rand(4, 32, 32, 32)
prototypes = ps.VoxelPrototypes.from_rgba([rgba], 0.05, trainable=True)
name = sys.argv[1]
rise((8, 8, 8), [[0.2, 0.2, 0.2]], name)  # the kernels
many = (torch.rand(400, 3) * 12.8).tolist()
print(rise((256, 256, 256), many, name))
print(rise((256, 512, 512), [[6.0, 12.0, 12.0]], name))
"""


def test_the_volume_is_never_held(tmp_path: Path) -> None:
    """256³ composed is 256 MiB and its gradient as much, and the larger target a map of 256 MiB.
    What is held is a batch of 64 MiB, and as much of the map."""
    name = tmp_path / "target"
    with name.open("wb") as file:
        for _ in range(4):
            file.write(bytes([100]) * 2**26)
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, str(name)], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    composed, mapped = (float(line) for line in run.stdout.split())  # MiB
    assert 40 < composed < 170, composed  # a batch is seen at all
    assert 20 < mapped < 110, mapped
