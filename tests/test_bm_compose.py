"""The benchmark of compose: its rivals compute the same thing, its figures are what they say."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from protoscene.compose import reference
from protoscene.geometry import Grid
from protoscene.prototypes import VoxelPrototypes

ROOT = Path(__file__).resolve().parent.parent
Module = Callable[[str], ModuleType]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Module:
    for folder in ("studies", "benchmarks"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    return importlib.import_module


def true_volume(module: Module, workload: object) -> tuple[Tensor, list[Tensor]]:
    """The reference's volume of a workload, and the leaves that it depends on."""
    workloads = module("compose_workloads")
    rgba, poses = workloads.random_rgba(workload), workloads.random_poses(workload)
    leaves = [v.requires_grad_() for v in (*rgba, *poses)]
    prototypes = VoxelPrototypes.from_rgba(rgba, workload.voxel_size)
    volume = reference.compose(prototypes, workloads.placed(workload, poses), workload.grid)
    return volume.rgba, leaves


def agrees(found: Tensor, true: Tensor) -> None:
    """Within 2e-5 of the largest entry: positions are float32."""
    assert (found.double() - true.double()).abs().max() <= 2e-5 * true.abs().max()


@pytest.mark.parametrize(
    "change",
    [{}, {"n_placements": 9}, {"size": 4, "covered": 9, "canvas": 24}],
    ids=["smaller", "many", "larger"],
)
@pytest.mark.parametrize("threads", [1, 3])
def test_the_contenders_compute_the_same_volume_and_gradients(
    module: Module, monkeypatch: pytest.MonkeyPatch, change: dict[str, int], threads: int
) -> None:
    contenders = module("compose_contenders").CONTENDERS
    workload = replace(module("compose_workloads").TINY, **change)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    true, leaves = true_volume(module, workload)
    weights = torch.rand(true.shape, generator=torch.Generator().manual_seed(5))
    expected = torch.autograd.grad(true, leaves, weights.double())
    for name, make in contenders.items():
        contender = make(workload)
        volume = contender.compose()
        agrees(volume, true)
        agrees(contender.forward(), true)
        assert volume.stride() == contender.gradient.stride(), name
        found = torch.autograd.grad(volume, contender.leaves, weights)
        n_last = 4 if name == "native" else len(leaves)  # its voxels are one tensor
        for got, want in zip(found[-n_last:], expected[-n_last:], strict=True):
            agrees(got, want)


def test_a_pass_leaves_no_gradient(module: Module) -> None:
    for make in module("compose_contenders").CONTENDERS.values():
        contender = make(module("compose_workloads").TINY)
        contender.forward_backward()
        assert all(leaf.grad is None for leaf in contender.leaves)


def test_the_whole_canvas_gives_the_same_volume(module: Module) -> None:
    workloads, workload = module("compose_workloads"), module("compose_workloads").TINY
    rgba, poses = workloads.random_rgba(workload), workloads.random_poses(workload)
    placements = workloads.placed(workload, poses)
    full = module("compose_rivals").full_grid
    agrees(
        full(rgba, workload.voxel_size, placements, workload.grid),
        true_volume(module, workload)[0].detach(),
    )


def test_what_reaches_outside_is_no_rivals_workload(module: Module) -> None:
    workloads, boxes = module("compose_workloads"), module("compose_rivals").boxes
    for workload in workloads.WORKLOADS.values():
        placements = workloads.placed(workload, workloads.random_poses(workload))
        sizes_m = np.full((workload.n_placements, 3), workload.covered + workload.voxel_size)
        starts, sizes = boxes(placements, sizes_m, workload.grid)
        assert starts.min() >= 0 and (starts + sizes).max() <= workload.canvas
        with pytest.raises(ValueError, match="outside"):
            boxes(placements, sizes_m, Grid((0, 0, 0), 1.0, (4, 4, 4)))


def test_one_crop_is_interpolated_alike(module: Module) -> None:
    """With presence 1 and full occupancy inside, compose's colour is the plain interpolation."""
    workloads, crops = module("compose_workloads"), module("compose_one_crop")
    workload = replace(workloads.TINY, size=9, covered=6, n_prototypes=1, n_placements=1)
    rgba = workloads.random_rgba(workload)[0]
    rgba[-1] = 1
    centre, yaw, scale, presence = workloads.random_poses(workload)
    placement = workloads.placed(workload, [centre, yaw, scale, torch.ones_like(presence)])
    crop = crops.crop_of(placement, rgba, workload.voxel_size, workload.grid)
    prototypes = VoxelPrototypes.from_rgba([rgba], workload.voxel_size)
    true = reference.compose(prototypes, placement, crop).rgba
    arguments = (rgba, workload.voxel_size, placement, crop)
    inside = true[-1] > 1 - 1e-9  # no neighbour lies outside of the volume
    assert inside.sum() > 50
    by_scipy = torch.as_tensor(crops.by_scipy(*arguments)())
    agrees(by_scipy[:, inside], true[:, inside])
    agrees(by_scipy[-1], true[-1])  # outside it fades to zero, as compose does
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetArrayFromImage(crops.by_simpleitk(*arguments)())
    agrees(torch.as_tensor(image).permute(3, 0, 1, 2)[:, inside], true[:, inside])


def test_the_least_that_moves_is_counted(module: Module, tmp_path: Path) -> None:
    rate = module("memory_rate")
    workload = replace(module("compose_workloads").TINY, n_placements=7)
    block, canvas = 16 * 8**3, 16 * 16**3  # two prototypes of 6³ and their shells; four floats
    assert rate.bytes_to_move(workload, 2 * block) == 2 * block + canvas
    assert rate.bytes_to_move(workload, 2 * block - 1) == 7 * block + canvas
    assert rate.last_level_cache(tmp_path) == 32 * 2**20
    for level, size in enumerate(("48K", "2M", "260M")):
        (tmp_path / f"index{level}").mkdir()
        (tmp_path / f"index{level}" / "size").write_text(f"{size}\n")
    assert rate.last_level_cache(tmp_path) == 260 * 2**20


def test_rounds_are_interleaved_and_rotate(module: Module) -> None:
    benchmark, calls = module("bm_compose"), []
    contenders = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = benchmark.interleaved(contenders, 4)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert all(len(seconds) == 4 and min(seconds) > 0 for seconds in times.values())
    times = {"a": [2.0, 30.0, 4.0], "b": [1.0, 10.0, 4.0]}
    assert benchmark.ratio(times, "a", "b") == "2.00 (1.00–3.00)"


def test_a_workload_is_measured_and_tabled(module: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark, workloads = module("bm_compose"), module("compose_workloads")
    rate = module("memory_rate")
    memory = rate.Copy(rows=4)
    monkeypatch.setitem(benchmark.WORKLOADS, "W8", replace(workloads.TINY, name="W8"))
    monkeypatch.setitem(benchmark.WORKLOADS, "tiny", workloads.TINY)
    found = {
        name: benchmark.measured(benchmark.WORKLOADS[name], 3, memory) for name in ("W8", "tiny")
    }
    assert "whole canvas" in found["W8"]
    times = found["tiny"]["forward"]
    share = rate.bytes_to_move(workloads.TINY, rate.last_level_cache()) / memory.n_bytes
    assert times["limit"] == pytest.approx([share * t for t in times["copy"]])
    text = benchmark.passes(found, "forward")
    assert "| tiny | " in text and "native / limit" in text
    assert "limit" not in benchmark.passes(found, "forward and backward")
    assert "W8: " in benchmark.whole_canvas(found)
    assert "| protoscene | " in benchmark.one_crop(workloads.TINY, 1)
    assert "threads" in benchmark.note(found, 3, memory, 0.0)


def test_the_losses_are_the_same(module: Module, tmp_path: Path) -> None:
    losses, workload = module("compose_losses"), module("compose_workloads").TINY
    expected = losses.unfused(workload, "native")
    wanted = [expected.loss(), *torch.autograd.grad(expected.loss(), expected.leaves)]
    assert wanted[0] > 1e-3 and all(gradient.abs().max() > 1e-5 for gradient in wanted[1:])
    rival = losses.unfused(workload, "crop by crop")
    agrees(rival.loss().detach(), wanted[0].detach())
    for kind, factor in (("uint8", 1), ("float16", 1), ("uint8", 2), ("memory map", 4)):
        found = losses.fused(workload, factor * workload.canvas, kind, tmp_path)
        values = [found.loss(), *torch.autograd.grad(found.loss(), found.leaves)]
        for got, want in zip(values, wanted, strict=True):  # targets are rounded
            assert (got * factor**3 - want).abs().max() < 0.02 * want.abs().max(), kind
    assert [f.stat().st_size for f in tmp_path.iterdir()] == [4 * 64**3]


def test_losses_are_measured_and_tabled(
    module: Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark, tiny = module("bm_compose"), module("compose_workloads").TINY
    monkeypatch.setitem(benchmark.WORKLOADS, "tiny", tiny)
    text = benchmark.loss_table({"tiny": benchmark.losses(tiny, 2, tmp_path)})
    assert "| memory map 64³ / uint8 16³ | native / uint8 16³ |" in text and "| tiny | " in text
    assert text.splitlines()[0].count("|") == text.splitlines()[2].count("|")


def test_the_peak_is_what_was_resident_at_once() -> None:
    """In a fresh process, as it is meant: here, memory that other tests freed may serve again."""
    code = (
        "import json, numpy, compose_alone\n"
        "print(json.dumps(compose_alone.highest(lambda: numpy.ones(12_500_000))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "benchmarks", check=True, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    found = json.loads(done.stdout)  # 100 MB, twice
    assert 95 < found["above"] < 150 and found["peak"] > found["above"]


def test_a_fresh_process_tells_its_peak(module: Module) -> None:
    workload = json.dumps(asdict(replace(module("compose_workloads").TINY, canvas=100)))
    found = module("compose_alone").alone("peak", "crop by crop", workload)
    assert 16 < found["above"] < 300  # at least the result: 16 MB


def test_importing_compiles_nothing(module: Module) -> None:
    found = module("compose_alone").alone("first")
    assert found["compiled_on_import"] == 0
    assert min(found["torch"], found["forward"], found["forward_backward"]) > 0
