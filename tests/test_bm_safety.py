"""The benchmark of what safety costs, at a size of seconds."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from cart_recordings import PATHS, write_recording
from moving_boxes import ring
from protoscene import files
from protoscene.stages import Stages


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for folder in ("studies", "benchmarks"):
        monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / folder))
    import bm_safety

    return bm_safety


def test_what_is_left_out_is_put_back_and_what_is_timed_is_told(
    benchmark: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_recording(
        tmp_path / "data/recording", PATHS[0][:4], ring(1, width=64, height=48, focal=60)
    )
    before = files._write_durably, files.OutputLock.__enter__, Stages._keep
    results = tmp_path / "results.md"
    benchmark.main(benchmark.Options(tmp_path / "data", rounds=1, results=results))
    assert (files._write_durably, files.OutputLock.__enter__, Stages._keep) == before
    shares = dict(re.findall(r"\| ([a-z ,]+) \| [+-]?([\d.]+)% \|", results.read_text()))
    assert set(shares) == {
        "cost, by difference", "hash of the recording", "locks", "stages kept",
        "the scene written", "units and conventions", "together, as timed",
    }  # fmt: skip
    assert 0 < float(shares["stages kept"]) < float(shares["together, as timed"]) < 100
    assert "with all safeguards" in capfd.readouterr().out
