"""Wrong units and poses of LiDAR recordings are noticed, right ones are left alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

import street_world as street
from protoscene.check import check
from protoscene.conventions import require_conventions
from protoscene.discover import discover
from protoscene.errors import Refused
from protoscene.formats import load
from protoscene.geometry import rigid_inverse
from protoscene.recording import Recording
from protoscene.sweep_conventions import (
    AS_GIVEN,
    READINGS,
    SweepFit,
    SweepReading,
    better_sweep_reading,
    fitted_sweeps,
)
from sweep_recording import pose_line


@pytest.fixture
def own(study) -> ModuleType:
    module: ModuleType = study("sweep_conventions")
    return module


@pytest.fixture
def drive(own: ModuleType) -> Recording:
    recording: Recording = own.a_street(3)
    return recording


def test_what_is_right_is_left_alone(own: ModuleType, drive: Recording) -> None:
    require_conventions(drive)
    for seed in (1, 2):
        require_conventions(own.shaken(drive, seed))


def test_mistakes_are_noticed_with_what_would_be_right(own: ModuleType, drive: Recording) -> None:
    for what, mistake in own.MISTAKES.items():
        with pytest.raises(Refused) as refused:
            require_conventions(own.with_mistake(drive, mistake))
        assert refused.value.problem.endswith(mistake.reading.words), what
        assert refused.value.field == ("poses" if mistake.reading.scale == 1 else "points")


def test_of_a_sensor_that_stands_still_nothing_is_said(own: ModuleType) -> None:
    still = own.a_street(3, speed=0.0)
    assert better_sweep_reading(fitted_sweeps(still)) is None
    for mistake in own.MISTAKES.values():
        require_conventions(own.with_mistake(still, mistake))


def test_one_sweep_says_nothing(drive: Recording) -> None:
    one = Recording(drive.source, [], sweeps=drive.sweeps[:1], read_sweep=drive._read_sweep)
    assert fitted_sweeps(one) == {}
    require_conventions(one)


def test_a_better_fit_must_be_much_better() -> None:
    bad = dict.fromkeys(READINGS, SweepFit(0, 0, 1.0))
    other = SweepReading(inverted=True)

    def said(given: SweepFit, better: SweepFit) -> SweepReading | None:
        return better_sweep_reading({**bad, AS_GIVEN: given, other: better})

    good = SweepFit(1000, 40, 0.3)
    assert said(SweepFit(900, 120, 0.3), good) == other
    assert said(SweepFit(900, 85, 0.3), good) is None  # not by so many times
    assert said(SweepFit(900, 30, 0.3), SweepFit(1000, 5, 0.3)) is None  # too few points
    assert said(SweepFit(399, 0, 0.3), good) == other  # much more agrees
    assert said(SweepFit(401, 0, 0.3), good) is None
    assert said(SweepFit(10, 0, 0.3), SweepFit(199, 0, 0.3)) is None  # too few agree
    assert said(SweepFit(10, 0, 0.3), SweepFit(1000, 500, 0.3)) is None  # contradicts itself
    assert said(SweepFit(10, 0, 0.3), replace(good, moved=0.01)) is None  # hardly moved
    assert better_sweep_reading({}) is None


def test_check_and_discover_refuse(tmp_path: Path) -> None:
    folder = street.write_street(tmp_path / "street", 5)
    assert check(folder).problems == []
    poses = [rigid_inverse(street.sensor_pose(0.2 * k)) for k in range(5)]
    (folder / "poses.txt").write_text("".join(map(pose_line, poses)))
    (problem,) = check(folder).problems
    assert problem.problem == "the sweeps only agree with poses inverted"
    with pytest.raises(Refused, match="poses: the sweeps only agree with poses inverted"):
        discover(load(folder))


def test_every_suggestion_can_be_read_to_its_end() -> None:
    for reading in READINGS:
        problem = f"the sweeps only agree with {reading.words}"
        assert Refused("f" * 100, "poses", problem).problem.endswith(reading.words)


def test_the_study_counts(own: ModuleType, tmp_path: Path) -> None:
    results = tmp_path / "results.md"
    own.main(own.Options(first=3, number=1, results=results))
    assert "| as they are | 1 | 0 | – |" in results.read_text()
    assert "| **all mistakes** | 6 | 6 (100.0%) | 6 |" in results.read_text()
