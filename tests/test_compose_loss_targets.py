"""compose_loss: where its target lies, threads, what it refuses, what it holds in memory."""

from __future__ import annotations

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
    each_backend,
    scattered_case,
)
from compose_loss_cases import ALL, UNEVEN, compose_loss, everything, many_channels, target_of
from protoscene.compose import Target
from protoscene.geometry import Grid
from protoscene.volume import Volume


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
