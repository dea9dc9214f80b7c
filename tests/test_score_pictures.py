"""Held-out pictures: PSNR and depth error of a rendering with known faults."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from protoscene.errors import Refused
from protoscene.geometry import Camera, Grid, look_at
from protoscene.prototypes import VoxelPrototypes
from protoscene.recording import Frame, Recording, View
from protoscene.scene import Scene, SceneObject, Track
from protoscene.score_pictures import layered_view, score_pictures
from protoscene.volume import Background, Volume

COLOUR = np.random.default_rng(0).integers(40, 200, (12, 16, 3)).astype(np.uint8)
DEPTH = np.full((12, 16), 2.0)
DEPTH[:4] = 0.0  # no return


def recording(folder: Path, n: int = 5) -> Recording:
    camera = Camera(16, 12, 10.0, 10.0, 8.0, 6.0, look_at((0, -2, 1), (0, 0, 0)))
    frames = [
        Frame(0.1 * i, "a", camera, folder / "rgb" / f"{i}.png", folder / "depth" / f"{i}.png")
        for i in range(n)
    ]
    return Recording(folder, frames, lambda f: View(f.camera, "a", f.time, COLOUR, DEPTH))


def write_instances(folder: Path, n: int, shape: tuple[int, int] = (12, 16)) -> None:
    (folder / "instances").mkdir()
    ids = np.zeros(shape, np.uint16)
    ids[5:9, 5:9] = 300
    for i in range(n):
        Image.fromarray(ids).save(folder / "instances" / f"{i}.png")


def exact() -> tuple[np.ndarray, np.ndarray]:
    return COLOUR.copy(), DEPTH.copy()


def test_the_recorded_picture_itself_is_perfect(tmp_path):
    write_instances(tmp_path, 5)
    result = score_pictures(lambda time, camera: exact(), recording(tmp_path))
    assert result.pictures == 5 and math.isnan(result.psnr_drawn_db)
    assert (result.psnr_db, result.psnr_objects_db) == (99, 99)
    assert (result.depth_median_m, result.depth_within_5cm) == (0, 1)


def test_known_faults_by_hand(tmp_path):
    write_instances(tmp_path, 5)

    def render_view(time, camera):
        assert (camera.width, camera.height, camera.fx, camera.cx) == (16, 12, 10.0, 8.0)
        colour, depth = exact()
        colour[5:9, 5:9] += 10  # the object's 16 pixels, of 192
        depth[4:, :4] += 0.2  # 32 of the 128 with a return
        depth[4:, 4:] += 0.01
        depth[11, 14:] = 0.0
        return colour, depth

    result = score_pictures(render_view, recording(tmp_path))
    assert result.psnr_objects_db == pytest.approx(20 * math.log10(25.5))
    assert result.psnr_db == pytest.approx(20 * math.log10(25.5) + 10 * math.log10(12))
    assert result.depth_median_m == pytest.approx(0.01)
    assert result.depth_within_5cm == pytest.approx(94 / 128)


def test_movers_are_told_from_what_is_parked(tmp_path):
    write_instances(tmp_path, 5)  # object 299 only

    def render_view(time, camera):
        colour, depth = exact()
        colour[5:9, 5:9] += 10
        return colour, depth

    for moving, expected in (({299}, 20 * math.log10(25.5)), ({300, 1}, math.nan)):
        result = score_pictures(render_view, recording(tmp_path), moving)
        assert result.psnr_movers_db == pytest.approx(expected, nan_ok=True)
        assert result.psnr_objects_db == pytest.approx(20 * math.log10(25.5))


def test_few_pictures_are_chosen_evenly_and_masks_may_be_missing(tmp_path):
    times = []

    def render_view(time, camera):
        times.append(round(time, 3))
        return exact()

    result = score_pictures(render_view, recording(tmp_path, 9), at_most=3)
    assert times == [0.0, 0.4, 0.8] and result.pictures == 3
    assert math.isnan(result.psnr_objects_db) and result.psnr_db == 99


def test_a_mask_of_another_size_is_refused(tmp_path):
    write_instances(tmp_path, 5, shape=(6, 8))
    with pytest.raises(Refused, match="size"):
        score_pictures(lambda time, camera: exact(), recording(tmp_path))


def test_a_mover_drawn_too_fat_counts_where_it_is_drawn(tmp_path):
    write_instances(tmp_path, 5)  # 16 pixels

    def fat(time, camera):
        colour, depth = exact()
        colour[5:9, 5:13] += 10  # and as many beside them
        depth[5:9, 5:13] = 1.5
        return colour, depth

    result = score_pictures(
        fat, recording(tmp_path), {299}, without=lambda time, camera: (COLOUR, DEPTH)
    )
    assert result.psnr_movers_db == pytest.approx(20 * math.log10(25.5))
    assert result.psnr_drawn_db == pytest.approx(20 * math.log10(25.5))

    def right(time, camera):
        return COLOUR, fat(time, camera)[1]  # as if what stays were of the mover's colour

    assert score_pictures(right, recording(tmp_path), {299}).psnr_movers_db == 99
    colour, depth = fat(0, None)
    colour[5:9, 5:9] = COLOUR[5:9, 5:9]
    half = score_pictures(
        lambda time, camera: (colour, depth), recording(tmp_path), {299},
        without=lambda time, camera: (COLOUR, DEPTH),
    )  # fmt: skip
    assert half.psnr_movers_db == 99
    assert half.psnr_drawn_db == pytest.approx(20 * math.log10(25.5) + 10 * math.log10(2))


def test_a_scene_is_drawn_with_its_things_where_they_are():
    grid = Grid((-1.0, -1.0, 0.0), 0.1, (10, 20, 20))
    rgba = torch.zeros(4, 10, 20, 20)
    rgba[:, :1] = torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None, None, None]  # a green floor
    block = torch.ones(4, 4, 4, 4) * torch.tensor([1.0, 0.0, 0.0, 1.0])[:, None, None, None]
    times = np.array([0.0, 1.0])
    centre = np.array([[-0.5, 0.0, 0.3], [0.5, 0.0, 0.3]])
    track = Track(times, centre, np.zeros(2), np.ones(2), np.ones(2, bool))
    dims = (0.4, 0.4, 0.4)
    scene = Scene(
        (0.0, 1.0),
        Background(Volume(rgba, grid)),
        VoxelPrototypes.from_rgba([block], 0.1),
        (SceneObject(0, 0, 1.0, True, dims, track),),
        (dims,),
    )
    camera = Camera(40, 30, 40.0, 40.0, 20.0, 15.0, look_at((0, -3, 1.5), (0, 0, 0.3)))
    view = layered_view(scene)
    for time, side in ((0.0, -1), (1.0, 1)):
        colour, depth = view(time, camera)
        assert colour.dtype == np.uint8 and colour.shape == (30, 40, 3)
        red = colour[..., 0] > 200
        assert red.any() and (np.sign(np.nonzero(red)[1] - 19.5) == side).all()
        assert 2.5 < np.median(depth[red]) < 3.5
    frames = [Frame(t, "a", camera, Path("rgb/a.png"), Path("depth/a.png")) for t in (0.0, 1.0)]
    itself = Recording(
        Path(), frames, lambda f: View(f.camera, "a", f.time, *layered_view(scene)(f.time, camera))
    )
    result = score_pictures(view, itself)
    assert result.psnr_db == 99 and result.depth_within_5cm == 1
