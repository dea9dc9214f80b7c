"""What does not fit into memory is refused beforehand, with the numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from moving_boxes import Box, record, ring
from protoscene import memory
from protoscene.discover import discover, memory_plan
from protoscene.errors import Refused
from protoscene.geometry import Grid
from protoscene.observe import observe
from protoscene.recording import Recording

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
    monkeypatch.setattr(memory, "available_bytes", lambda: GIB // 4)
    monkeypatch.setattr(
        sys.modules["protoscene.discover"], "observe", lambda *_: pytest.fail("memory was taken")
    )
    with pytest.raises(Refused, match=r"memory: GiB: needs .*--voxel-size.*got 0\.2 available"):
        discover(recording)


OVERSIZE = """
import resource
from moving_boxes import Box, record, ring
from protoscene.discover import discover
from protoscene.errors import Refused

recording = record(3, ring(2), lambda i: [Box((0.1 * i, 0, 0.2), (0.4, 0.3, 0.4))])
for i in range(3):
    list(recording.views(i))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    discover(recording, voxel_size=0.0005)
except Refused as refused:
    print(refused.file, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_an_oversize_grid_takes_no_memory_to_refuse() -> None:
    source = TESTS.parent / "src"
    paths = os.pathsep.join([str(source), str(TESTS)])
    done = subprocess.run(
        [sys.executable, "-c", OVERSIZE], env={**os.environ, "PYTHONPATH": paths},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    file, grown_kib = done.stdout.split()
    assert file == "memory" and int(grown_kib) < 64 * 1024
