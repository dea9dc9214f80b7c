"""Static scenes parsed: what hangs together is a thing; repetition tells apart what touches."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moving_boxes import CART_DIMS, Box, cart, record, recording_of, ring
from protoscene.background import estimate_background
from protoscene.cli import main
from protoscene.errors import Refused
from protoscene.geometry import wrap_angle
from protoscene.grouping import grouped, parts_of, whole_pieces
from protoscene.observe import choose_grid
from protoscene.parse import parse
from protoscene.recording import Recording
from protoscene.scene import Scene
from protoscene.standing import Standing, components, floor_of, standing
from protoscene.store import save_scene

BOUNDS = (-1.3, -1.2, -0.11, 1.3, 1.3, 0.84)
BLOCK = Box((-0.62, 0.5, 0.25), (0.3, 0.34, 0.5), 0.0, (60, 60, 220), thing=3)
WALL = Box((0.0, -1.1, 0.2), (2.4, 0.1, 0.4), 0.0, (150, 150, 150), thing=9)
ALONE, TOUCHING = (0.5, -0.25, 0.7), (-0.62, 0.18, 0.0)
"""x y yaw of two carts; the second one leans on the block."""


def boxes(*things: list[Box]) -> list[Box]:
    return [box for thing in things for box in thing]


def recorded(*things: list[Box]) -> Recording:
    cameras = ring(4, width=144, height=108, focal=120) + ring(4, 1.6, 1.9, 1.1, focal=80)
    return record(2, cameras, lambda _: boxes(*things))


@pytest.fixture(scope="module")
def recording() -> Recording:
    return recorded(cart(*ALONE, 1), cart(*TOUCHING, 2), [BLOCK], [WALL])


@pytest.fixture(scope="module")
def found(recording: Recording) -> Standing:
    static = estimate_background(recording, choose_grid(recording, 0.05, BOUNDS))
    return standing(recording, static, floor_of(static.surface))


@pytest.fixture(scope="module")
def scene(recording: Recording) -> Scene:
    return parse(recording, voxel_size=0.05, bounds=BOUNDS)


def things_at(points: np.ndarray, *things: list[Box]) -> np.ndarray:
    """Which thing is nearest to each point."""
    far = [np.min([box.distance(points) for box in thing], axis=0) for thing in things]
    return np.argmin(far, axis=0)


def test_what_stands_is_on_the_surfaces_of_what_stands(found: Standing) -> None:
    solid = boxes(cart(*ALONE), cart(*TOUCHING), [BLOCK])
    off = np.abs(np.min([box.distance(found.points) for box in solid], axis=0))
    assert np.quantile(off, 0.95) < found.voxel
    assert found.floor == pytest.approx(0, abs=0.01)
    assert (found.points[:, 2] > found.floor).all()


def test_a_wall_does_not_stand(found: Standing) -> None:
    near = WALL.distance(found.points) < 0.1
    assert near.mean() < 0.02
    assert (whole_pieces(found, components(found))[near] == -1).all()  # crumbs


def test_parts_are_small_and_cover_everything(found: Standing) -> None:
    parts = parts_of(found)
    assert len(parts) == len(found.points)
    for k in np.unique(parts):
        assert np.linalg.norm(np.ptp(found.points[parts == k], axis=0)) < 12 * found.voxel


def test_repetition_tells_apart_what_touches(found: Standing) -> None:
    true = things_at(found.points, cart(*ALONE), cart(*TOUCHING), [BLOCK])
    pieces, labels = whole_pieces(found, components(found)), grouped(found)
    assert len(np.unique(pieces[(true > 0) & (pieces >= 0)])) == 1
    kept = labels >= 0
    for k in range(3):
        of_thing = np.bincount(labels[kept & (true == k)])
        assert of_thing.max() >= 0.9 * (kept & (true == k)).sum()
        assert of_thing.max() >= 0.9 * (labels == of_thing.argmax()).sum()


def test_things_stand_where_they_stood_and_a_kind_is_one_prototype(scene: Scene) -> None:
    assert len(scene.objects) == 3 and len(scene.prototypes) == 2
    carts = [thing for thing in scene.objects if np.allclose(thing.dims_m, CART_DIMS, atol=0.05)]
    assert len(carts) == 2 and carts[0].prototype == carts[1].prototype
    yaws = []
    for thing in carts:
        centre, yaw, _ = thing.track.pose(scene.times[0])
        x, y, true_yaw = min((ALONE, TOUCHING), key=lambda p: np.hypot(*(centre[:2] - p[:2])))
        np.testing.assert_allclose(centre[:2], [x, y], atol=0.03)
        yaws.append(yaw - true_yaw)
        assert not thing.moving and thing.track.visible.all()
        assert len(thing.track.time) == len(scene.times)
    assert abs(wrap_angle(yaws[0] - yaws[1])) < np.deg2rad(4)


def test_what_became_a_thing_left_the_background(scene: Scene) -> None:
    grid = scene.grid
    above = grid.axes()[2] > 0.1
    full = scene.background.volume.occupancy.numpy()[above] > 0.5
    places = grid.centres()[above][full]
    solid = boxes(cart(*ALONE), cart(*TOUCHING), [BLOCK])
    inside = np.min([box.distance(places) for box in solid], axis=0) < 0
    assert inside.sum() <= 5
    assert (WALL.distance(places) < 0.05).sum() > 100


def test_what_two_piles_have_in_common_is_a_thing() -> None:
    crate = Box((0.74, -0.4, 0.22), (0.24, 0.5, 0.44), 0.0, (220, 200, 60))
    leaning = cart(0.36, -0.4, 1.2)
    recording = recorded(leaning, cart(*TOUCHING), [BLOCK], [crate])
    static = estimate_background(recording, choose_grid(recording, 0.05, BOUNDS))
    found = standing(recording, static, floor_of(static.surface))
    pieces = whole_pieces(found, components(found))
    assert len(np.unique(pieces[pieces >= 0])) == 2
    true = things_at(found.points, leaning, cart(*TOUCHING), [BLOCK], [crate])
    labels = grouped(found)
    owners = [int(np.bincount(labels[(true == k) & (labels >= 0)]).argmax()) for k in range(4)]
    assert len(set(owners)) == 4


def test_what_stands_twice_in_one_pile_is_a_thing() -> None:
    things = [cart(-0.3, 0.1, 0.0), [Box((0.06, 0.02, 0.25), (0.2, 0.4, 0.5), 0, (60, 60, 220))],
              cart(0.33, 0.1, 1.5)]  # fmt: skip
    recording = recorded(*things)
    static = estimate_background(recording, choose_grid(recording, 0.05, BOUNDS))
    found = standing(recording, static, floor_of(static.surface))
    pieces = whole_pieces(found, components(found))
    assert len(np.unique(pieces[pieces >= 0])) == 1
    true, labels = things_at(found.points, *things), grouped(found)
    for k in range(3):
        of_thing = np.bincount(labels[(labels >= 0) & (true == k)])
        assert of_thing.max() >= 0.85 * (labels == of_thing.argmax()).sum()
        assert of_thing.max() >= 0.85 * of_thing.sum()


def test_nothing_that_stands_is_no_object() -> None:
    scene = parse(recorded([WALL]), voxel_size=0.05, bounds=BOUNDS)
    assert scene.objects == () and len(scene.prototypes) == 0


def test_the_same_recording_gives_the_same_bytes(
    recording: Recording, scene: Scene, tmp_path: Path
) -> None:
    for name, one in (("a", scene), ("b", parse(recording, 0.05, BOUNDS))):
        save_scene(one, tmp_path / name)
    names = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes()
               for n in names)  # fmt: skip


def test_sweeps_are_refused(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(self: Recording) -> None:
        raise Refused(self.source, "recording", "holds no pictures")

    monkeypatch.setattr(Recording, "require_pictures", none)
    with pytest.raises(Refused, match="holds no pictures"):
        parse(recording)


def test_poses_that_contradict_the_pictures_are_refused(recording: Recording) -> None:
    views = [v for i in range(len(recording)) for v in recording.views(i)]
    cameras = [replace(v.camera, world_from_camera=v.camera.camera_from_world) for v in views]
    turned = [[replace(v, camera=c)] for v, c in zip(views, cameras, strict=True)]
    with pytest.raises(Refused, match=r"poses: .*inverted"):
        parse(recording_of(turned))


def test_the_command_writes_a_scene_and_leaves_a_finished_one(
    recording: Recording, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("protoscene.formats.load", lambda *_: recording)
    monkeypatch.setattr(sys.modules["protoscene.parse"], "parse", lambda *_: scene)
    command = ["parse", "room", "-o", str(tmp_path / "scene")]
    assert main(command) == 0
    assert "3 objects of 2 prototypes" in capsys.readouterr().out
    assert main(command) == 2
    assert main([*command, "--resume"]) == 0
    assert main([*command, "--resume", "--seed", "1"]) == 2
    assert "made from another seed (got 0, expected 1)" in capsys.readouterr().err
    assert main(["discover", *command[1:], "--resume"]) == 2
    assert "made from another command (got parse, expected discover)" in capsys.readouterr().err


def test_an_interrupted_run_leaves_nothing_behind(
    recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Neither half a scene nor a work folder: there is nothing that it could go on from."""

    def interrupted(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("protoscene.formats.load", lambda *_: recording)
    monkeypatch.setattr(sys.modules["protoscene.parse"], "grouped", interrupted)
    where = ["--voxel-size", "0.05", "--bounds", *map(str, BOUNDS)]
    assert main(["parse", "room", "-o", str(tmp_path / "scene"), *where]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "protoscene: error: interrupted"
    assert list(tmp_path.iterdir()) == []
