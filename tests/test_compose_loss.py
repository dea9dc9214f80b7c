"""compose_loss: the formula on the composed volume, in every backend, without the volume."""

from __future__ import annotations

import itertools

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
)
from compose_loss_cases import ALL, UNEVEN, compose_loss, everything, many_channels, target_of
from protoscene.compose import Target, cpu, loss
from protoscene.compose import compose_loss as public_compose_loss
from protoscene.geometry import Grid
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.volume import Volume

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
