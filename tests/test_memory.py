"""What does not fit into memory is refused beforehand, with the numbers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import protoscene.learn  # noqa: F401  the name is that of its function
from moving_boxes import Box, record, ring
from protoscene import memory
from protoscene.discover import discover, memory_plan
from protoscene.distil import memory_plan as training_plan
from protoscene.errors import Refused
from protoscene.geometry import Grid
from protoscene.observe import choose_grid, observe
from protoscene.recording import Recording

learning = sys.modules["protoscene.learn"]
GIB = 2**30
TESTS = Path(__file__).resolve().parent


@pytest.fixture
def recording() -> Recording:
    return record(3, ring(2), lambda i: [Box((0.1 * i, 0, 0.2), (0.4, 0.3, 0.4))])


def test_refused_with_what_is_needed_for_what_and_what_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 3 * GIB)
    memory.require({"grid": GIB, "pictures": 2 * GIB}, "unused")  # exactly what there is
    with pytest.raises(Refused, match="unused"):
        memory.require({"grid": GIB, "pictures": 2 * GIB, "crumbs": 1}, "unused")
    parts = {"crumbs": 1, "grid": 2 * GIB, "pictures": GIB // 2, "evidence": 8 * GIB}
    with pytest.raises(Refused) as refused:
        memory.require(parts, "try a larger --voxel-size")
    assert str(refused.value) == (
        "memory: GiB: needs 10.5 (evidence 8.0, grid 2.0, pictures 0.5); "
        "try a larger --voxel-size (got 3.0 available, expected at least 10.5)"
    )


def test_available_is_what_the_system_has_left_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 2**20 < memory.available_bytes() <= everything
    monkeypatch.setattr(memory.resource, "getrlimit", lambda kind: (5 * 2**20, -1))
    assert memory.available_bytes() == 0  # this process takes more than that already


def test_of_a_limited_address_space_only_what_is_not_taken_is_available(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    taken = int(status["VmSize"].split()[0]) * 1024
    limit = taken + 256 * 2**20
    monkeypatch.setattr(memory.resource, "getrlimit", lambda kind: (limit, -1))
    assert memory.available_bytes() == pytest.approx(256 * 2**20, abs=2**23)


def test_processes_of_torchrun_share_what_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = memory.available_bytes()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory.available_bytes() == pytest.approx(alone / 4, rel=0.2)


def test_plan_grows_with_each_of_its_causes(recording: Recording) -> None:
    grid = Grid((-1, -1, 0), 0.1, (10, 20, 20))
    plan = memory_plan(recording, grid)
    assert set(plan) >= {"grid", "evidence", "pictures", "blobs"}
    assert all(size > 0 for size in plan.values())
    finer = memory_plan(recording, grid.resampled(0.05))
    assert finer["grid"] == 8 * plan["grid"] and finer["evidence"] > plan["evidence"]
    longer = memory_plan(record(6, ring(2), lambda i: []), grid)
    assert longer["evidence"] == 2 * plan["evidence"] and longer["grid"] == plan["grid"]
    more = memory_plan(record(3, ring(4), lambda i: []), grid)
    assert more["pictures"] > plan["pictures"] and more["blobs"] >= 2 * plan["blobs"]
    # An upper bound of what the evidence takes indeed.
    assert sum(e.n_bytes for e in observe(recording, grid)) <= plan["evidence"]


def test_discover_asks_before_it_takes(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: GIB // 2)
    monkeypatch.setattr(
        sys.modules["protoscene.discover"], "observe", lambda *_: pytest.fail("memory was taken")
    )
    with pytest.raises(Refused, match=r"memory: GiB: needs .*--voxel-size.*got 0\.5 available"):
        discover(recording, voxel_size=0.01)


@pytest.mark.parametrize("gib", [1, 2, 16])
def test_the_advised_voxel_size_fits_and_hardly_a_smaller_one(
    recording: Recording, monkeypatch: pytest.MonkeyPatch, gib: int
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: gib * GIB)
    with pytest.raises(Refused) as refused:
        discover(recording, voxel_size=0.0005, bounds=(-1, -1, -0.1, 1, 1, 1))
    advised = re.search(r"try --voxel-size (\S+),", refused.value.problem)
    assert advised, refused.value.problem

    def needed(size: float) -> int:
        grid = choose_grid(recording, size, (-1, -1, -0.1, 1, 1, 1))
        return sum(memory_plan(recording, grid).values())

    assert needed(float(advised[1])) <= gib * GIB < needed(float(advised[1]) / 1.2)


def test_where_no_voxel_size_would_fit_none_is_advised(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 2**20)
    with pytest.raises(Refused, match="try fewer instants or smaller pictures"):
        discover(recording)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    recording: Recording, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = type("Usage", (), {"free": 2**20})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    monkeypatch.setattr(
        sys.modules["protoscene.discover"], "observe", lambda *_: pytest.fail("work was begun")
    )
    with pytest.raises(Refused, match=r"work: output: not enough room .*got 1\.0 MiB free, expect"):
        discover(recording, work=tmp_path / "work")
    assert list(tmp_path.iterdir()) == []


def test_plan_of_training_grows_with_each_of_its_causes(recording: Recording) -> None:
    plan = training_plan([recording], (16, 32, 32), 0)
    assert all(size > 0 for name, size in plan.items() if name != "workers")
    larger = training_plan([recording], (32, 64, 64), 0)
    assert larger["batches"] == 8 * plan["batches"] and larger["pictures"] == plan["pictures"]
    more = training_plan([recording] * 3, (16, 32, 32), 0)
    assert more["pictures"] == 3 * plan["pictures"] and more["batches"] == plan["batches"]
    helped = training_plan([recording], (16, 32, 32), 2)
    assert helped["pictures"] == 2 * plan["pictures"] and helped["batches"] > plan["batches"]
    assert helped["workers"] > plan["workers"] == 0


@pytest.mark.parametrize(("fitting", "left"), [(3, 3), (2, 2), (0, 0)])
def test_as_many_workers_as_fit(
    recording: Recording, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fitting: int, left: int
) -> None:
    plan = training_plan([recording], choose_grid(recording).shape, fitting)
    monkeypatch.setattr(learning, "grid_that_fits", lambda recording, size: choose_grid(recording))
    for module in (memory, learning):
        monkeypatch.setattr(module, "available_bytes", lambda: sum(plan.values()))
    work = tmp_path / "work"
    assert learning.workers_that_fit([recording], work, learning.Learning(), 3) == left
    if fitting == 0:
        monkeypatch.setattr(memory, "available_bytes", lambda: sum(plan.values()) - 1)
        with pytest.raises(Refused, match=r"memory: GiB: needs .*\(batches|try fewer recordings"):
            learning.workers_that_fit([recording], work, learning.Learning(), 3)
    assert not work.exists()


OVERSIZE = """
import sys
from pathlib import Path
from unittest import mock
from moving_boxes import Box, record, ring
from small_scene import a_scene
from protoscene import cli, memory
from protoscene.discover import discover
from protoscene.errors import Refused
from protoscene.learn import Learning, learn
from protoscene.store import save_scene

def most():
    # KiB at most so far; that of getrusage begins with what the process had that started this.
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


recording = record(3, ring(2), lambda i: [Box((0.1 * i, 0, 0.2), (0.4, 0.3, 0.4))])
folder = Path(sys.argv[1])
save_scene(a_scene(), folder / "scene")
cli.main(["compose", str(folder / "scene"), "--time", "0", "-o", str(folder / "a.npz")])
for i in range(3):
    list(recording.views(i))
refused = 0
before = most()
with mock.patch.object(memory, "available_bytes", lambda: 2**30):
    for voxel_size in (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.003, 0.004, 0.005):
        for bounds in (None, (-2, -2, -0.1, 2, 2, 1)):
            try:
                discover(recording, voxel_size, bounds)
            except Refused as problem:
                refused += problem.file == "memory" and "try --voxel-size" in problem.problem
    for resolution in (300, 600, 1200, 2048):
        command = ["compose", str(folder / "scene"), "--time", "0", "-o", str(folder / "b.npz")]
        refused += cli.main([*command, "--resolution", str(resolution)]) == 2
    for voxel_size in (0.0001, 0.001):
        for recordings in ([recording], 3 * [recording]):
            try:
                learn(recordings, folder / "work", Learning(voxel_size))
            except Refused as problem:
                refused += problem.file == "memory" and "try --voxel-size" in problem.problem
with mock.patch("protoscene.files.free_bytes", lambda path: 10**6):
    for recordings in ([recording], 3 * [recording]):
        try:
            learn(recordings, folder / "work", Learning(0.1))
        except Refused as problem:
            refused += "not enough room on the disk" in problem.problem
    for resolution in (300, 256):
        command = ["compose", str(folder / "scene"), "--time", "0", "-o", str(folder / "b.npz")]
        refused += cli.main([*command, "--resolution", str(resolution)]) == 2
grown = most() - before
print(refused, grown, (folder / "b.npz").exists() or (folder / "work").exists())
"""


def test_oversize_requests_take_no_memory_to_refuse(tmp_path: Path) -> None:
    source = TESTS.parent / "src"
    paths = os.pathsep.join([str(source), str(TESTS)])
    done = subprocess.run(
        [sys.executable, "-c", OVERSIZE, str(tmp_path)], env={**os.environ, "PYTHONPATH": paths},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    refused, grown_kib, written = done.stdout.splitlines()[-1].split()
    assert (refused, written) == ("28", "False") and int(grown_kib) < 64 * 1024
    assert done.stderr.count("try --resolution 2") == 4
