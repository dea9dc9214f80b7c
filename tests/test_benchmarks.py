"""The benchmark of discovery: what it takes of a recording, its fit, its table."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from protoscene.formats import load
from protoscene.synth import TINY, write_recording

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for folder in ("studies", "benchmarks"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    import bm_discover

    return bm_discover


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mujoco")
    out = tmp_path_factory.mktemp("benchmark") / "tiny"
    write_recording(replace(TINY, width=80, height=60, n_instants=4, n_heldout=0), out)
    return out / "recording"


def test_longer_than_the_recording_is_there_and_back(benchmark: ModuleType, folder: Path) -> None:
    whole = load(folder)
    long = benchmark.taken(whole, 9, 2)
    order = [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert [f.colour_file for f in long.frames[::2]] == [
        whole.frames[2 * i].colour_file for i in order
    ]
    assert len(long) == 9 and np.allclose(np.diff(long.times), 0.3)
    few = benchmark.taken(whole, 2, 1)
    assert [f.colour_file for f in few.frames] == [whole.frames[i].colour_file for i in (0, 6)]


def test_a_run_is_measured_and_tabled(benchmark: ModuleType, folder: Path) -> None:
    run = benchmark.alone(benchmark.measure, folder, 3, 2)  # its peak is of nothing else
    assert run.seconds > 0 and run.cpu_seconds > 0 and "threads" in run.threading
    assert run.peak_mb > 50 and run.planned_mb > 500
    assert run.planned_mb == pytest.approx(run.peak_mb, rel=0.5)
    text = benchmark.markdown([run, replace(run, instants=6, seconds=2 * run.seconds)])
    assert "| 3 | 2 |" in text and "| 6 | 2 |" in text
    assert "| instants × views | 1.00 |" in text


def test_the_fit_finds_the_power(benchmark: ModuleType) -> None:
    row = benchmark.Run(1, 1, 0.0, 1.0, 1.0, 1.0, 0, 0.0, "")
    runs = [replace(row, instants=n, views=v, seconds=3 * (n * v) ** 1.5)
            for n, v in ((2, 1), (4, 2), (9, 4))]  # fmt: skip
    assert benchmark.growth(runs, "seconds") == pytest.approx(1.5)
    assert benchmark.growth(runs, "peak_mb") == pytest.approx(0, abs=1e-9)


def test_memory_is_predicted_of_a_volume(
    benchmark: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import bm_memory

    environment = dict(os.environ)
    results = tmp_path / "results.md"
    bm_memory.main(bm_memory.Options(tmp_path / "data", 31, 0, 1, 0, results=results))
    assert environment == dict(os.environ)  # or the tests that follow run on other threads
    rows = [line for line in results.read_text().splitlines() if line.startswith("| compose")]
    assert len(rows) == 1
    for row in rows:
        assert abs(float(row.split("|")[4].strip(" %"))) < 15, row
    assert "Error of 1 settings: median" in capfd.readouterr().out
