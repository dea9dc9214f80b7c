"""Discovery on LiDAR sweeps of a street whose truth is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import street_world as street
from protoscene.boxes import iou_bev
from protoscene.cli import main
from protoscene.discover import discover
from protoscene.formats import load
from protoscene.geometry import Grid, rotation_from_yaw, wrap_angle
from protoscene.lidar.ground import find_ground
from protoscene.lidar.rays import Rays, seen_through
from protoscene.recording import Sweep
from protoscene.scene import Scene, SceneObject
from protoscene.store import load_scene, save_scene
from protoscene.volume import SparseVolume


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return street.write_street(tmp_path_factory.mktemp("street") / "recording")


@pytest.fixture(scope="module")
def scene(folder: Path) -> Scene:
    return discover(load(folder))


def overlaps(scene: Scene, solid: street.Solid, moved: np.ndarray | None = None) -> np.ndarray:
    """Bird's-eye IoU (objects, instants) with a solid; 0 where an object does not exist."""
    found = np.zeros((len(scene.objects), len(scene.times)))
    for n, thing in enumerate(scene.objects):
        for time, centre, yaw in zip(
            thing.track.time, thing.track.centre, thing.track.yaw, strict=True
        ):
            truth = solid.at(time)
            if moved is not None:
                truth[:3] = moved[:3, :3] @ truth[:3] + moved[:3, 3]
                truth[6] += np.arctan2(moved[1, 0], moved[0, 0])
            box = np.array([[*centre, *thing.dims_m, yaw]])
            found[n, scene.times.index(time)] = iou_bev(box, truth[None])[0, 0]
    return found


def best(scene: Scene, solid: street.Solid) -> SceneObject:
    return scene.objects[int(overlaps(scene, solid).mean(axis=1).argmax())]


def test_what_moves_is_found_at_every_instant_by_one_object(scene: Scene) -> None:
    for solid, least in ((street.CAR, 0.7), (street.WALKER, 0.4)):
        overlap = overlaps(scene, solid).max(axis=0)
        thing = best(scene, solid)
        assert thing.moving and thing.score > 0.7
        assert (overlap > least).all(), overlap
    assert sum(thing.moving for thing in scene.objects) == 2


def test_the_nose_points_ahead_and_the_box_stands_on_the_ground(scene: Scene) -> None:
    car = best(scene, street.CAR)
    assert np.abs(wrap_angle(car.track.yaw)).max() < np.radians(4)
    bottom = car.track.centre[:, 2] - car.dims_m[2] / 2
    np.testing.assert_allclose(bottom, 0, atol=0.1)
    np.testing.assert_allclose(car.dims_m, (4.0, 1.8, 1.6), atol=0.3)


def test_its_like_is_found_where_it_stands(scene: Scene) -> None:
    parked = [thing for thing in scene.objects if not thing.moving]
    assert len(parked) == 1
    assert parked[0].prototype == best(scene, street.CAR).prototype
    assert (overlaps(scene, street.PARKED).max(axis=0) > 0.6).all()
    assert parked[0].track.visible.all()


def test_intensity_is_the_colour(scene: Scene) -> None:
    rgba = scene.prototypes.rgba(best(scene, street.CAR).prototype)
    on = rgba[3] > 0.5
    assert on.sum() > 500
    np.testing.assert_allclose(rgba[:3, on].numpy(), 0.8, atol=0.02)


def test_the_background_is_what_stays(scene: Scene) -> None:
    volume = scene.background.volume
    assert isinstance(volume, SparseVolume)
    solid = volume.rgba[3] > 0.5
    middles = scene.grid.centres()[solid.numpy()]
    assert len(volume.places) == len(middles) < 0.2 * scene.grid.n_voxels

    def around(row: np.ndarray) -> int:
        own = (middles - row[:3]) @ rotation_from_yaw(row[6])
        inside = (np.abs(own) < row[3:6] / 2 + 0.1).all(axis=1) & (middles[:, 2] > 0.4)
        return int(inside.sum())

    assert around(street.WALL.at(0)) > 500
    for time in scene.times[:-1:3]:
        assert around(street.CAR.at(time)) == 0
    assert around(street.PARKED.at(0)) == 0


def test_a_moved_world_gives_the_moved_scene(scene: Scene, tmp_path: Path) -> None:
    moved = np.eye(4)
    moved[:3, :3], moved[:3, 3] = rotation_from_yaw(0.7), (310.0, -45.0, 12.0)
    other = discover(load(street.write_street(tmp_path / "moved", moved=moved)))
    assert len(other.objects) == len(scene.objects)
    for solid, least in ((street.CAR, 0.65), (street.WALKER, 0.35), (street.PARKED, 0.5)):
        overlap = overlaps(other, solid, moved).max(axis=0)
        assert (overlap > least).mean() >= 0.9, (solid, overlap)


def test_a_street_scene_is_written_and_read(scene: Scene, tmp_path: Path) -> None:
    save_scene(scene, tmp_path / "scene")
    read = load_scene(tmp_path / "scene")
    volume, again = scene.background.volume, read.background.volume
    assert isinstance(again, SparseVolume) and isinstance(volume, SparseVolume)
    assert again.grid == volume.grid and (again.places == volume.places).all()
    np.testing.assert_allclose(again.values, volume.values, atol=1e-3)
    composed = read.compose(read.times[3])
    assert composed.rgba.shape == (4, *scene.grid.shape)


def test_the_same_bytes_again(folder: Path, scene: Scene, tmp_path: Path) -> None:
    save_scene(scene, tmp_path / "a")
    save_scene(discover(load(folder)), tmp_path / "b")
    names = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()]
    assert len(names) > 2
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_nothing_moves_in_a_still_street(tmp_path: Path) -> None:
    still = (street.PARKED, street.WALL, street.CORNER, street.POST)
    scene = discover(load(street.write_street(tmp_path / "still", 8, world=still)))
    assert scene.objects == () and len(scene.prototypes) == 0
    assert isinstance(scene.background.volume, SparseVolume)


def test_rays_see_through_what_is_before_their_ends() -> None:
    pose = street.sensor_pose(0.0)
    wall = street.Solid((10.0, 0.0, 2.0, 0.2, 20.0, 6.0, 0.0))
    rows = cast_one(pose, wall)
    rays = Rays.of(rows)
    points = np.array([[5.0, 0, 1.7], [9.9, 0.5, 1.5], [11.0, 0, 1.7], [5.0, 3.0, 1.0]])
    through, confirmed = seen_through(points, [rays, rays])
    assert through.tolist() == [2, 0, 0, 2]
    assert confirmed.tolist() == [0, 2, 0, 0]


def test_a_hole_says_nothing() -> None:
    pose = street.sensor_pose(0.0)
    rays = Rays.of(cast_one(pose, street.POST))  # above the horizon nothing returns
    through, confirmed = seen_through(np.array([[20.0, 0.0, 2.6], [0.0, 0.0, 60.0]]), [rays])
    assert through.tolist() == [0, 0] and confirmed.tolist() == [0, 0]


def cast_one(pose: np.ndarray, solid: street.Solid) -> Sweep:
    rows = street.cast(pose, [(solid.at(0.0), 0.5)], 0).astype(np.float32)
    return Sweep(0.0, pose, rows[:, :3], rows[:, 3])


def test_the_ground_slopes_and_walls_do_not_lift_it() -> None:
    clouds, car = [], street.PARKED.at(0) + [0, 0, 1.6, 0, 0, 0, 0]
    for k in range(6):
        pose = street.sensor_pose(0.4 * k)
        pose[2, 3] += 0.1 * pose[0, 3]
        rows = street.cast(pose, [(street.WALL.at(0), 0.3), (car, 0.3)], k, 0.1)
        clouds.append(rows[:, :3] @ pose[:3, :3].T + pose[:3, 3])
    points = np.concatenate(clouds)
    stray = np.array([[8.3, 1.3, -4.0]] * 3)  # a reflection in a puddle
    roof = np.random.default_rng(0).uniform((-4, -11, 0), (1, -7, 0.05), (2000, 3))  # nothing below
    roof[:, 2] += 0.1 * roof[:, 0] + 1.5
    below = ((points > (-4, -11, -9)) & (points < (1, -7, 9))).all(axis=1)
    ground = find_ground(np.concatenate([points[~below], stray, roof]))
    assert ground.stands_on(roof).all()
    x, y = np.meshgrid(np.linspace(-5, 15, 9), np.linspace(-6, 6, 7))
    asked = np.stack([x, y, 0 * x], axis=-1).reshape(-1, 3)
    np.testing.assert_allclose(ground.under(asked), 0.1 * asked[:, 0], atol=0.1)
    own = (points - car[:3]) @ rotation_from_yaw(car[6])
    on_the_car = (np.abs(own[:, :2]) < (2.05, 0.95)).all(axis=1)
    high = on_the_car & (points[:, 2] > 0.1 * points[:, 0] + 0.45)
    assert high.sum() > 50 and ground.stands_on(points[high]).all()


def test_what_works_on_pictures_refuses_sweeps(
    folder: Path, scene: Scene, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save_scene(scene, tmp_path / "scene")
    before = sorted(tmp_path.rglob("*"))
    given = [str(folder), "-o", str(tmp_path / "out")]
    for command in (
        ["learn", *given],
        ["export", str(tmp_path / "scene"), "--to", "transforms", "--recording", *given],
    ):
        assert main(command) == 2
        assert "holds LiDAR sweeps, and this works on pictures" in capfd.readouterr().err
        assert sorted(tmp_path.rglob("*")) == before


def test_the_command_finds_and_says_what_moves(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["discover", str(folder), "-o", str(tmp_path / "scene"), "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert [thing["moving"] for thing in said["objects"]] == [True, True, False]
    assert said["grid"]["voxel_size"] == 0.2


def test_voxel_size_and_bounds_are_the_backgrounds(folder: Path) -> None:
    scene = discover(load(folder), voxel_size=0.5, bounds=(0, -10, -1, 30, 10, 4))
    assert scene.grid.shape == (10, 40, 60) and scene.grid.origin == (0, -10, -1)


def test_a_sparse_volume_is_its_dense_one() -> None:
    dense = torch.zeros(4, 2, 3, 5)
    dense[:, 1, 2, 4], dense[:, 0, 1, 3] = torch.tensor([0.1, 0.2, 0.3, 1.0]), 0.5
    grid = Grid((0.0, 0.0, 0.0), 0.2, (2, 3, 5))
    places = dense[3].reshape(-1).nonzero()[:, 0]
    volume = SparseVolume(places, dense.reshape(4, -1)[:, places].T, grid)
    assert torch.equal(volume.rgba, dense) and torch.equal(volume.occupancy, dense[3])
    for wrong in ([3, 3], [5, 4], [-1, 4], [4, 30]):
        with pytest.raises(ValueError, match="ascending numbers of the grid's voxels"):
            SparseVolume(torch.tensor(wrong), torch.zeros(2, 4), grid)
    with pytest.raises(ValueError, match="must be"):
        SparseVolume(torch.tensor([1]), torch.zeros(2, 4), grid)
