"""PLY, KITTI labels and recordings with masks, read again by others and compared with the scene."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from scipy import ndimage
from trackeval.datasets import Kitti2DBox

from protoscene.errors import Refused
from protoscene.export.kitti import scene_kitti
from protoscene.export.ply import scene_ply
from protoscene.export.transforms import write_masked
from protoscene.formats import load
from protoscene.geometry import rotation_from_yaw
from protoscene.prototypes import VoxelPrototypes
from protoscene.recording import Recording, View
from protoscene.scene import Scene
from report_scenes import toy_recording, toy_scene

CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / 2


def quiet(stage: str, done: int, total: int) -> None:
    pass


def box_corners(scene: Scene, row: int, time: float) -> np.ndarray:
    """(8, 3) corners of an object's box as scene.json has it."""
    thing = scene.objects[row]
    centre, yaw, scale = thing.track.pose(time)
    return scale * CORNERS * np.array(thing.dims_m) @ rotation_from_yaw(yaw).T + centre


# PLY


def test_a_ply_holds_each_thing_where_it_is_at_the_time() -> None:
    scene = toy_scene()
    track = scene.objects[1].track
    grown = replace(scene.objects[1], track=replace(track, scale=np.full(4, 1.5)))
    scene = replace(scene, objects=(scene.objects[0], grown))
    whole = [np.ones((4, *scene.prototypes.rgba(k).shape[1:]), np.float32) for k in (0, 1)]
    solid = replace(scene, prototypes=VoxelPrototypes.from_rgba(
        [torch.from_numpy(v) for v in whole], 0.05
    ))  # fmt: skip
    for time, present in ((0.25, (0, 1)), (1.9, (0,))):
        mesh = trimesh.load(io.BytesIO(scene_ply(solid, time)), "ply", process=False)
        white = (mesh.visual.vertex_colors[:, :3] == 255).all(axis=1)
        things = mesh.vertices[white]
        expected = np.concatenate([box_corners(solid, row, time) for row in present])
        for corner in expected:
            assert np.linalg.norm(things - corner, axis=1).min() < 1e-6
        low, high = expected.min(axis=0), expected.max(axis=0)
        np.testing.assert_allclose([things.min(axis=0), things.max(axis=0)], [low, high], atol=1e-6)
        floor = mesh.vertices[~white]
        np.testing.assert_allclose(floor[:, 2], 0, atol=1e-9)


def test_a_ply_keeps_colours_and_encloses_what_is_occupied() -> None:
    scene = toy_scene()
    empty = replace(scene.background.volume, rgba=torch.zeros_like(scene.background.volume.rgba))
    scene = replace(
        scene, objects=scene.objects[:1], background=replace(scene.background, volume=empty)
    )
    mesh = trimesh.load(io.BytesIO(scene_ply(scene, 0.5)), "ply")
    occupied = (scene.prototypes.rgba(0)[3] >= 0.5).sum()
    assert mesh.volume == pytest.approx(float(occupied) * 0.05**3)  # faces look outwards
    colours = {tuple(c) for c in mesh.visual.vertex_colors[:, :3].tolist()}
    assert (204, 51, 38) in colours and (242, 217, 76) in colours


def test_a_ply_of_nothing_has_no_vertices() -> None:
    scene = toy_scene()
    empty = replace(scene.background.volume, rgba=torch.zeros_like(scene.background.volume.rgba))
    bare = replace(scene, objects=(), background=replace(scene.background, volume=empty))
    data = scene_ply(bare, 0.0)
    assert b"element vertex 0\n" in data and data.endswith(b"end_header\n")


# KITTI


def kitti_corners(row: list[str]) -> np.ndarray:
    """(8, 3) corners in KITTI's axes, as its development kit computes them: the box stands on
    ``location``, ``rotation_y`` turns it about the axis that points down."""
    h, w, length, x, y, z, turn = map(float, row[10:17])
    cos, sin = math.cos(turn), math.sin(turn)
    rotation = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    box = np.array([
        [sx * length / 2, sy, sz * w / 2] for sx in (-1, 1) for sy in (0, -h) for sz in (-1, 1)
    ])  # fmt: skip
    return box @ rotation.T + [x, y, z]


def test_kitti_boxes_are_those_of_the_scene() -> None:
    scene = toy_scene()
    grown = replace(scene.objects[1].track, scale=np.full(4, 1.3))
    scene = replace(scene, objects=(scene.objects[0], replace(scene.objects[1], track=grown)))
    rows = [line.split(" ") for line in scene_kitti(scene).decode().splitlines()]
    assert len(rows) == 9 and all(len(row) == 18 for row in rows)
    assert [(int(r[0]), int(r[1])) for r in rows] == sorted((int(r[0]), int(r[1])) for r in rows)
    for row in rows:
        frame, number = int(row[0]), int(row[1])
        x, y, z = kitti_corners(row).T
        world = np.stack([z, -x, -y], axis=1)
        expected = box_corners(scene, number, scene.times[frame])
        gap = np.linalg.norm(world[:, None] - expected, axis=-1).min(axis=1)
        assert gap.max() < 1e-5  # 1 mm and 0.1° are asked
        assert row[2] == "Misc" and row[17] == f"{scene.objects[number].score:.6f}"
        yaw = scene.objects[number].track.yaw[frame]
        assert math.remainder(float(row[16]) + yaw + math.pi / 2, 2 * math.pi) == pytest.approx(
            0, abs=1e-6
        )
        assert -math.pi <= float(row[16]) < math.pi
    assert [row[4] for row in rows if row[1] == "0"] == ["0", "0", "2", "0", "0"]


def test_trackeval_reads_the_tracks(tmp_path: Path) -> None:
    scene = toy_scene()
    file = tmp_path / "0000.txt"
    file.write_bytes(scene_kitti(scene))
    data, ignored = Kitti2DBox._load_simple_text_file(
        str(file), time_col=0, id_col=1, remove_negative_ids=True, valid_filter={2: ["misc"]}
    )
    found = {int(frame): sorted(int(row[1]) for row in rows) for frame, rows in data.items()}
    assert found == {0: [0, 1], 1: [0, 1], 2: [0, 1], 3: [0, 1], 4: [0]} and not ignored


# transforms with masks


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scene, Recording, Path]:
    scene = toy_scene()
    second = replace(scene.objects[1], id=300)  # more than eight bits hold
    scene = replace(scene, objects=(scene.objects[0], second), times=scene.times[-2:])
    recording = toy_recording(scene, height=60)
    folder = tmp_path_factory.mktemp("masked") / "out"
    write_masked(scene, recording, folder, quiet)
    return scene, recording, folder


def test_what_is_written_is_the_recording_again(masked: tuple[Scene, Recording, Path]) -> None:
    _, recording, folder = masked
    again = load(folder)
    assert again.times == recording.times and again.camera_names == recording.camera_names
    for i, (one, other) in enumerate(zip(recording.frames, again.frames, strict=True)):
        before, after = recording.view(i), again.view(i)
        assert (one.time, one.camera_name) == (other.time, other.camera_name)
        np.testing.assert_array_equal(after.colour, before.colour)
        assert np.abs(after.depth - before.depth).max() <= 0.0005 + 1e-6
        camera = before.camera
        np.testing.assert_allclose(
            after.camera.world_from_camera, camera.world_from_camera, atol=1e-9
        )
        assert (after.camera.fx, after.camera.cx) == (camera.fx, camera.cx)


def test_masks_show_the_objects_where_they_are(masked: tuple[Scene, Recording, Path]) -> None:
    scene, recording, folder = masked
    frames = json.loads((folder / "transforms.json").read_text())["frames"]
    seen = set()
    for frame in frames:
        mask = np.asarray(Image.open(folder / frame["mask_path"]))
        ids_file = folder / frame["mask_path"].replace("masks/", "instances/")
        ids = np.asarray(Image.open(ids_file)).astype(int)
        assert mask.dtype == np.uint8 and set(np.unique(mask)) <= {0, 255}
        np.testing.assert_array_equal(mask == 0, ids > 0)
        seen |= set(np.unique(ids).tolist())
        colour = np.asarray(Image.open(folder / frame["file_path"])).astype(int)
        red = (np.abs(colour - 0.9 * np.array([204, 51, 38])) < 12).all(axis=-1)
        inside = ndimage.binary_erosion(red)  # its outline mixes with what is behind
        assert inside.sum() > 50 and (ids[inside] == 1).all()
        for number, row in ((1, 0), (301, 1)):
            if not scene.objects[row].track.covers(frame["time"]):
                assert not (ids == number).any()
                continue
            view = view_of(recording, frame)
            u, v, _ = view.camera.project(box_corners(scene, row, frame["time"])).T
            rows, columns = np.nonzero(ids == number)
            if len(rows):
                assert columns.min() >= u.min() - 1 and columns.max() <= u.max() + 1
                assert rows.min() >= v.min() - 1 and rows.max() <= v.max() + 1
    assert seen == {0, 1, 301}


def view_of(recording: Recording, frame: dict) -> View:
    (index,) = [
        i for i, f in enumerate(recording.frames)
        if (f.time, f.camera_name) == (frame["time"], frame["camera"])
    ]  # fmt: skip
    return recording.view(index)


def test_names_of_a_recording_never_become_names_of_files(tmp_path: Path) -> None:
    scene = replace(toy_scene(), times=(0.0,))
    recording = toy_recording(scene, names=("../../evil", "<b>\u202e"), height=24)
    write_masked(scene, recording, tmp_path / "out", quiet)
    names = [p.name for p in (tmp_path / "out").rglob("*.png")]
    assert len(names) == 8 and all(name.strip("0123456789_.png") == "" for name in names)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_id_that_masks_cannot_hold_is_refused(tmp_path: Path) -> None:
    scene = replace(toy_scene(), times=(0.0,))
    scene = replace(scene, objects=(replace(scene.objects[0], id=65535),))
    with pytest.raises(Refused, match="no mask can hold"):
        write_masked(scene, toy_recording(scene, height=24), tmp_path / "out", quiet)
    assert list(tmp_path.iterdir()) == []
