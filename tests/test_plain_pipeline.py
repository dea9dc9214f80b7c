"""The plain pipeline on evidence built by hand, and the suite's table."""

import sys
from pathlib import Path

import numpy as np
import pytest

from protoscene.geometry import Grid
from protoscene.volume import Evidence

STUDIES = str(Path(__file__).resolve().parent.parent / "studies")
GRID = Grid((0.0, 0.0, 0.0), 0.1, (12, 40, 40))


@pytest.fixture
def studies(monkeypatch):
    monkeypatch.syspath_prepend(STUDIES)
    yield
    for name in ("plain_pipeline", "suite", "results_page"):
        sys.modules.pop(name, None)


def evidence(instant: int) -> Evidence:
    """A floor, a block that stands, and one of 8 × 4 × 5 voxels that moves two voxels a time."""
    occupied = np.zeros(GRID.shape, bool)
    occupied[0] = True
    occupied[1:6, 30:36, 5:11] = True
    occupied[1:6, 10:14, 2 + 2 * instant : 10 + 2 * instant] = True
    colours = np.zeros((int(occupied.sum()), 3), np.uint8)
    return Evidence(GRID, 0.1 * instant, np.packbits(occupied), np.packbits(~occupied), colours)


def test_finds_what_moves_where_it_is(studies):
    from plain_pipeline import plain_pipeline

    (mover,) = plain_pipeline([evidence(i) for i in range(14)])
    assert len(mover.track.time) == 14 and mover.score == 1
    np.testing.assert_allclose(mover.track.centre[:, 0], 0.6 + 0.2 * np.arange(14), atol=1e-9)
    np.testing.assert_allclose(mover.track.centre[:, 1:], [[1.2, 0.3]] * 14, atol=0.051)
    np.testing.assert_allclose(mover.dims_m, (0.7, 0.3, 0.5), atol=1e-9)
    np.testing.assert_allclose(mover.track.yaw, 0, atol=1e-9)


def test_the_table_replaces_only_what_is_between_its_markers(studies, tmp_path):
    from results_page import write_between_markers
    from suite import entry

    file = tmp_path / "results.md"
    file.write_text("# Before\n")
    for text in ("first", "second"):
        write_between_markers(file, "suite", text)
        write_between_markers(file, "other", "beside")
    assert file.read_text().startswith("# Before\n") and "first" not in file.read_text()
    assert "\nsecond\n" in file.read_text() and file.read_text().count("\nbeside\n") == 1
    results = [{"a": {"b": 1.0}}, {"a": {"b": 2.0}}, {"a": {"b": None}}, {"a": None}]
    assert entry(results, "a", "b", 2) == "1.50 ± 0.71"
    assert entry(results[2:], "a", "b", 2) == "–"
