"""detect: each instant by itself, every detection an object of one instant."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cart_recordings import PATHS, write_recording
from moving_boxes import CART_DIMS
from protoscene import cli, memory
from protoscene.detect import detect, memory_plan, parts_of
from protoscene.distil import a_detector
from protoscene.errors import Refused
from protoscene.formats import load
from protoscene.geometry import Grid
from protoscene.model import Model, load_model, save_model
from protoscene.networks import Detections
from protoscene.observe import choose_grid
from protoscene.recording import Recording
from protoscene.report import write_page
from protoscene.scene import SceneObject, Track
from protoscene.score import score_objects
from protoscene.store import load_scene, save_scene
from protoscene.truth import Truth, TruthPrototype
from test_model import a_model

PLACES = [(-0.45, 0.0), (0.6, 0.9), (0.1, -0.8)]
BOXES = np.array([[x, y, 0.18, *CART_DIMS, 0.3] for x, y in PLACES])
SCORES = np.array([0.9, 0.8, 0.7])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recording(tmp_path_factory.mktemp("recording") / "r", PATHS[0][:3])


@pytest.fixture(scope="module")
def recording(folder: Path) -> Recording:
    return load(folder)


@pytest.fixture
def sees_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that finds ``BOXES``, those that are in what it is shown."""

    def found(_: Any, volume: np.ndarray, grid: Grid, least: float) -> Detections:
        assert volume.shape == (5, *grid.shape) and volume[3].max() == 1
        inside = ((BOXES[:, :2] > grid.lower[:2]) & (BOXES[:, :2] < grid.upper[:2])).all(axis=1)
        inside &= least <= SCORES
        n = int(inside.sum())
        return Detections(BOXES[inside], SCORES[inside], np.arange(n) % 2, np.zeros((n, 2)))

    # By name it would be the function that the package shows in the module's place.
    monkeypatch.setattr(sys.modules["protoscene.detect"], "detect_in_volume", found)


def small(model: Model) -> Model:
    """Reads a part of the scene only."""
    return replace(model, shape=(8, 20, 24), voxel_size=0.1)


def wide() -> Model:
    """Reads all of the scene at once."""
    shape = (8, 96, 96)
    return replace(a_model(), detector=a_detector(2, shape, 0), shape=shape, voxel_size=0.1)


@pytest.mark.parametrize("shape", [(8, 20, 24), (8, 400, 400), (8, 7, 300)])
def test_each_thing_is_found_once_at_every_instant(
    recording: Recording, sees_all: None, shape: tuple[int, int, int]
) -> None:
    scene = detect(replace(a_model(), shape=shape, voxel_size=0.1), recording)
    assert scene.times == recording.times
    assert sorted(o.id for o in scene.objects) == list(range(9))
    for time in recording.times:
        now = [o for o in scene.objects if o.track.time.tolist() == [time]]
        assert sorted(o.score for o in now) == [0.7, 0.8, 0.9]
        found = sorted(tuple(np.round(o.track.centre[0, :2], 6)) for o in now)
        assert found == sorted(PLACES)
        assert len(scene.at(time)) == 3
    assert float(scene.background.volume.rgba.abs().max()) == 0
    assert all(o.dims_m == CART_DIMS and not o.moving for o in scene.objects)


def test_the_parts_cover_everything_and_overlap() -> None:
    model = small(a_model())
    for nx in range(1, 130, 7):
        whole = Grid((-1.0, 2.0, -0.1), 0.1, (12, 2 * nx, nx))
        parts = parts_of(whole, model)
        lower, upper = (np.array([getattr(g, side) for g in parts]) for side in ("lower", "upper"))
        assert (lower.min(axis=0)[:2] <= whole.lower[:2] + 1e-9).all()
        assert (upper.max(axis=0)[:2] >= whole.upper[:2] - 1e-9).all()
        assert (lower[:, 2] == -0.1).all() and all(g.shape == model.shape for g in parts)
        for axis, side in ((0, 2.4), (1, 2.0)):
            starts = np.unique(lower[:, axis])
            assert len(starts) == 1 or np.diff(starts).max() <= 0.75 * side + 1e-9


def test_one_time_is_the_nearest_instant(recording: Recording, sees_all: None) -> None:
    scene = detect(small(a_model()), recording, time=0.12)
    assert scene.times == (recording.times[1],)
    assert {o.track.time[0] for o in scene.objects} == {recording.times[1]}
    with pytest.raises(Refused, match="time: has no such time"):
        detect(small(a_model()), recording, time=0.3)


def test_what_does_not_fit_into_memory_is_refused_before_a_picture_is_read(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small(a_model())
    parts = parts_of(choose_grid(recording, model.voxel_size), model)
    plan = memory_plan(model, recording, parts)
    assert min(plan.values()) > 0
    larger = replace(model, shape=tuple(2 * n for n in model.shape))
    assert memory_plan(larger, recording, parts)["volume"] == 8 * plan["volume"]
    monkeypatch.setattr(memory, "available_bytes", lambda: sum(plan.values()) - 1)
    monkeypatch.setattr(sys.modules["protoscene.detect"], "ViewStack", None)
    with pytest.raises(
        Refused, match=r"memory: GiB: needs .*program .*try a model of larger voxels"
    ):
        detect(model, recording)


def test_an_untrained_detector_gives_a_scene_that_can_be_stored(
    recording: Recording, tmp_path: Path
) -> None:
    grid = choose_grid(recording, 0.1)
    model = wide()
    with torch.no_grad():  # finds something in many cells
        model.detector.head.bias[0] = 0.0
    scene = detect(model, recording)
    assert scene.objects and scene.grid.lower[2] == grid.lower[2]
    for name in ("one", "two"):
        save_scene(detect(model, recording), tmp_path / name)
    one, two = ((tmp_path / name / "scene.json").read_bytes() for name in ("one", "two"))
    assert one == two


def test_stored_scored_composed_and_shown(
    recording: Recording, sees_all: None, tmp_path: Path
) -> None:
    scene = detect(small(a_model()), recording)
    save_scene(scene, tmp_path / "scene")
    loaded = load_scene(tmp_path / "scene")
    times = np.array(recording.times)
    truth = []
    for k, box in enumerate(BOXES):
        track = Track(times, np.tile(box[:3], (3, 1)), np.full(3, box[6]), np.ones(3),
                      np.ones(3, bool))  # fmt: skip
        truth.append(SceneObject(k, 0, 1.0, k == 0, CART_DIMS, track, "cart"))
    known = Truth(recording.times, truth, [TruthPrototype("cart", CART_DIMS)])
    card = score_objects(loaded.objects, known, 0.1)
    assert card.at_iou_50.f1 == card.ap50_pooled == card.at_iou_50.parked_recall == 1.0
    assert card.identity.idf1 < 0.6  # nothing is followed
    assert float(loaded.compose(recording.times[1]).occupancy.max()) > 0.1
    write_page(loaded, tmp_path / "page.html", recording, None)
    assert "9 detections of 2 prototypes" in (tmp_path / "page.html").read_text()


def test_the_command(
    folder: Path, sees_all: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(wide(), tmp_path / "model")
    command = ["detect", str(tmp_path / "model"), str(folder), "-o"]
    assert cli.main([*command, str(tmp_path / "scene"), "--time", "0.1", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["instants"] == 1 and len(said["detections"]) == 3
    assert said["detections"][0]["dims_m"] == list(CART_DIMS)
    made_by = load_scene(tmp_path / "scene").made_by
    assert made_by["command"] == "detect"
    assert made_by["model_sha256"] == load_model(tmp_path / "model").sha256
    assert cli.main([*command, str(tmp_path / "all")]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path / 'all'}: 3 instants, 9 detections\n")
    for output, more in (("all", []), ("new", ["--time", "7"])):
        assert cli.main([*command, str(tmp_path / output), *more]) == 2
        assert capsys.readouterr().err.count("\n") <= 2
    assert cli.main(["detect", str(folder), str(folder), "-o", str(tmp_path / "new")]) == 2
    assert "model.json: model: file is missing" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all", "model", "scene"]
