"""The whole method: what it finds, and what must not change what it finds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import box_recording as layouts
from moving_boxes import CART_DIMS, Box, cart, cast, record, ring
from moving_cart import smooth
from protoscene.dictionary import alone
from protoscene.discover import discover, scene_of
from protoscene.errors import Refused
from protoscene.formats import load
from protoscene.geometry import Camera, Grid, look_at
from protoscene.recording import Frame, Recording
from protoscene.scene import Mirror, Scene
from protoscene.score import load_truth, score
from protoscene.start import Thing
from protoscene.store import load_scene, save_scene
from protoscene.synth import TINY, write_recording
from protoscene.volume import Background, Volume

TABLETOP = Path(__file__).parents[2] / "shared" / "data" / "tabletop"
STAYS = Box((-0.2, 0.75, 0.25), (0.4, 0.3, 0.5), 0.4, (60, 60, 220), thing=2)
BOUNDS = (-1.3, -1.2, -0.11, 1.3, 1.3, 0.84)


def boxes(i: int) -> list[Box]:
    return [*cart(*smooth()[i]), STAYS]


def cart_recording() -> Recording:
    return record(12, ring(2, width=144, height=108, focal=135), boxes)


@pytest.fixture(scope="module")
def found() -> Scene:
    return discover(cart_recording(), voxel_size=0.05, bounds=BOUNDS)


def assert_same_scene(a: Scene, b: Scene, shift: np.ndarray | float = 0.0) -> None:
    """``b`` is ``a`` moved by ``shift`` metres, but for rounding."""
    assert a.times == pytest.approx([t - b.times[0] + a.times[0] for t in b.times])
    assert (a.grid.shape, a.grid.voxel_size) == (b.grid.shape, b.grid.voxel_size)
    np.testing.assert_allclose(b.grid.lower, a.grid.lower + shift, atol=1e-9)
    assert len(a.objects) == len(b.objects) == len(a.prototypes) == len(b.prototypes)
    for x, y in zip(a.objects, b.objects, strict=True):
        assert x.score == pytest.approx(y.score, abs=1e-3)
        np.testing.assert_allclose(x.dims_m, y.dims_m, atol=1e-4)
        np.testing.assert_array_equal(x.track.visible, y.track.visible)
        np.testing.assert_allclose(y.track.centre, x.track.centre + shift, rtol=0, atol=1e-4)
        np.testing.assert_allclose(np.exp(1j * x.track.yaw), np.exp(1j * y.track.yaw), atol=1e-4)
    pairs = [(a.background.volume, b.background.volume)]
    assert a.background.outside is not None and b.background.outside is not None
    pairs += [(a.background.outside.volume, b.background.outside.volume)]
    volumes = [(x.rgba, y.rgba) for x, y in pairs]
    volumes += [(a.prototypes.rgba(k), b.prototypes.rgba(k)) for k in range(len(a.prototypes))]
    for x, y in volumes:
        off = (x - y).abs()
        assert x.shape == y.shape and float(off.mean()) < 1e-4
        # A pixel on the edge between two voxels may count for the other one.
        assert float((off > 1e-3).float().mean()) < 2e-3


def test_the_cart_is_found_and_nothing_else(found: Scene) -> None:
    (thing,) = found.objects
    assert thing.score > 0.9 and thing.moving
    np.testing.assert_allclose(thing.dims_m, CART_DIMS, atol=0.03)
    assert thing.track.visible.all() and list(thing.track.time) == list(found.times)
    true = smooth()
    np.testing.assert_allclose(thing.track.centre[:, :2], true[:, :2], atol=0.015)
    np.testing.assert_allclose(thing.track.centre[:, 2], CART_DIMS[2] / 2, atol=0.01)
    np.testing.assert_allclose(thing.track.yaw, true[:, 2], atol=np.deg2rad(2))
    assert found.sizes_m == (thing.dims_m,)
    assert dict(found.made_by) == {
        "command": "discover", "seed": 0, "recording_sha256": "0" * 64,
    }  # fmt: skip


def test_it_is_told_what_of_the_cart_was_seen(found: Scene) -> None:
    """Its outside from all sides, and nothing below it or in its middle."""
    (seen,), occupancy = found.confidence, found.prototypes.rgba(0)[3]
    assert seen.shape == occupancy.shape
    edge = (occupancy > 0.2) & (occupancy < 0.8)
    assert seen[edge].quantile(0.25) > 0.6
    nz, ny, nx = seen.shape
    assert seen[0].max() == seen[nz // 4, ny // 2, nx // 2] == 0
    assert occupancy[nz // 4, ny // 2, nx // 2] > 0.9


def test_mirror_planes_are_found_where_there_are_any() -> None:
    """A block with a ridge along it, and one with the same ridge beside the middle."""
    kinds = []
    for y in (12, 6):
        rgba = torch.zeros(4, 20, 24, 40)
        rgba[:, 2:8, 3:21, 3:37] = torch.tensor([0.8, 0.3, 0.2, 1])[:, None, None, None]
        rgba[:, 8:16, y - 3 : y + 3, 8:37] = torch.tensor([0.2, 0.3, 0.7, 1])[:, None, None, None]
        thing = Thing([0], np.ones(3), np.zeros((1, 4)), np.zeros(1), rgba, 0.02, 1.0)
        kinds.append(alone(len(kinds), thing))
    grid = Grid((0, 0, 0), 1.0, (1, 1, 1))
    scene = scene_of(kinds, [], Background(Volume(torch.zeros(4, 1, 1, 1), grid)), (0.0,))
    plane, none = scene.symmetries
    assert isinstance(plane, Mirror) and none is None
    assert abs(plane.normal[1]) == pytest.approx(1, abs=0.01)
    assert plane.offset_m == pytest.approx(0, abs=0.01)
    assert 0.7 <= plane.score <= 1


def test_composed_it_stands_where_it_stood(found: Scene) -> None:
    """Full where the cart or the other box is, empty above the floor everywhere else."""
    centres = found.grid.centres()
    for i in (0, 6, 11):
        occupancy = found.compose(found.times[i]).occupancy.numpy()
        solid = np.min([b.distance(centres) for b in cart(*smooth()[i])], axis=0)
        skin = (solid < -0.01) & (solid > -0.06)
        assert occupancy[skin].mean() > 0.8
        beyond = np.minimum(solid, np.minimum(STAYS.distance(centres), centres[..., 2]))
        assert occupancy[(beyond > 0.1) & (centres[..., 2] < 0.4)].mean() < 0.02


def test_same_recording_same_bytes(found: Scene, tmp_path: Path) -> None:
    again = discover(cart_recording(), voxel_size=0.05, bounds=BOUNDS)
    save_scene(found, tmp_path / "a")
    save_scene(again, tmp_path / "b")
    names = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*"))
    assert Path("scene.json") in names and Path("prototypes/0.safetensors") in names
    assert names == sorted(p.relative_to(tmp_path / "b") for p in (tmp_path / "b").rglob("*"))
    for name in names:
        if (tmp_path / "a" / name).is_file():
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def one_camera_shots() -> list[layouts.Shot]:
    """The cart before one camera, depth in whole millimetres with some holes."""
    camera = Camera(
        layouts.WIDTH, layouts.HEIGHT, layouts.FX, layouts.FY, layouts.CX, layouts.CY,
        look_at((0.4, -1.9, 1.3), (0, 0.1, 0.1)),
    )  # fmt: skip
    rng, taken = np.random.default_rng(0), []
    for i in range(12):
        colour, depth, _ = cast(camera, boxes(i))
        depth = np.round(depth, 3)
        depth[rng.random(depth.shape) < 0.02] = 0
        taken.append(layouts.Shot(0, float(i), camera.world_from_camera, colour, depth))
    return taken


@pytest.fixture
def large_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"WIDTH": 160, "HEIGHT": 120, "FX": 150.0, "FY": 151.0, "CX": 79.0, "CY": 61.5}
    for name, value in sizes.items():
        monkeypatch.setattr(layouts, name, value)


@pytest.mark.usefixtures("large_pictures")
def test_every_layout_gives_the_same_scene(tmp_path: Path) -> None:
    shots, scenes = one_camera_shots(), {}
    for layout, write in layouts.WRITERS.items():
        write(tmp_path / layout, shots)
        scenes[layout] = discover(load(tmp_path / layout))
    first = scenes.pop("transforms")
    (thing,) = first.objects
    np.testing.assert_allclose(thing.track.centre[:, :2], smooth()[:, :2], atol=0.05)
    assert thing.score > 0.5
    for scene in scenes.values():
        assert_same_scene(first, scene)


@pytest.mark.usefixtures("large_pictures")
def test_order_of_frames_is_irrelevant(tmp_path: Path) -> None:
    manifest = layouts.write_transforms(tmp_path, one_camera_shots())
    first = discover(load(tmp_path), voxel_size=0.05)
    np.random.default_rng(1).shuffle(manifest["frames"])
    assert manifest["frames"][0]["time"] != 0
    layouts.write_manifest(tmp_path, manifest)
    other = discover(load(tmp_path), voxel_size=0.05)
    assert other.made_by["recording_sha256"] != first.made_by["recording_sha256"]
    save_scene(replace(first, made_by={}), tmp_path / "a")
    save_scene(replace(other, made_by={}), tmp_path / "b")
    for file in ("scene.json", "background.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_moving_the_world_by_whole_voxels_moves_the_scene(found: Scene) -> None:
    shift = np.array([7, -12, 4]) * 0.05
    pose = np.eye(4)
    pose[:3, 3] = shift
    here = cart_recording()
    views = {(v.time, v.camera_name): v for i in range(12) for v in here.views(i)}

    def moved(frame: Frame) -> Camera:
        camera = frame.camera
        return replace(camera, world_from_camera=pose @ camera.world_from_camera)

    frames = [replace(f, camera=moved(f)) for f in here.frames]
    there = Recording(
        here.source, frames,
        lambda f: replace(views[f.time, f.camera_name], camera=f.camera), "0" * 64,
    )  # fmt: skip
    bounds = np.array(BOUNDS) + [*shift, *shift]
    x0, y0, z0, x1, y1, z1 = (float(v) for v in bounds)
    assert_same_scene(found, discover(there, 0.05, (x0, y0, z0, x1, y1, z1)), shift)


def test_nothing_moves_nothing_is_found(tmp_path: Path) -> None:
    still = record(8, ring(2), lambda i: [STAYS, *cart(0.2, 0, 0.3)])
    scene = discover(still, voxel_size=0.05, bounds=BOUNDS)
    assert scene.objects == () and len(scene.prototypes) == 0
    save_scene(scene, tmp_path / "scene")
    assert load_scene(tmp_path / "scene").objects == ()
    assert float(scene.compose(0.1).occupancy.max()) == 1


def test_what_cannot_be_discovered_is_refused() -> None:
    with pytest.raises(Refused, match=r"boxes: time: nothing can move in one instant \(got 1, "):
        discover(record(1, ring(2), boxes))
    with pytest.raises(Refused, match="boxes: depth: no picture holds any valid depth"):
        discover(record(3, ring(2), boxes, np.zeros_like))
    with pytest.raises(Refused, match="--bounds"):
        discover(record(3, ring(2), boxes), bounds=(0, 0, 0, -1, 1, 1))


def test_progress_is_told_in_whole_stages() -> None:
    told: list[tuple[str, int, int]] = []
    discover(record(4, ring(1), boxes), 0.1, BOUNDS, progress=lambda *what: told.append(what))
    stages = list(dict.fromkeys(stage for stage, _, _ in told))
    assert stages[:3] == ["observe", "background", "propose"]
    for stage in stages[:3]:
        assert [(k, n) for s, k, n in told if s == stage] == [(k, 4) for k in range(1, 5)]
    assert all(0 < done <= total for _, done, total in told)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mujoco", reason="the extra `sim` is not installed")
    folder = tmp_path_factory.mktemp("tiny") / "tiny"
    try:
        write_recording(TINY, folder)
    except Refused as problem:
        pytest.skip(f"no picture can be drawn here: {problem}")
    return folder


def test_movers_of_a_synthetic_recording_are_found(tiny: Path) -> None:
    (truth_file,) = tiny.rglob("truth.json")
    (manifest,) = (m for m in tiny.rglob("transforms.json") if "heldout" not in m.parts)
    scene = discover(load(manifest.parent))
    card = score(scene, load_truth(truth_file), pictures=False)
    assert card.at_iou_50.moving_recall > 0.95 and card.at_iou_50.precision > 0.95
    assert card.identity.purity == 1 and card.centre.median_m < 0.05


@pytest.fixture(scope="module")
def tabletop() -> Scene:
    if not TABLETOP.is_dir():
        pytest.skip(f"the real recording is not there: {TABLETOP}")
    return discover(load(TABLETOP))


def test_real_recording_has_two_things_that_stay_themselves(tabletop: Scene) -> None:
    """A cereal bag and a yellow starch carton, moved by hand between the instants."""
    sure = [o for o in tabletop.objects if o.score > 0.5]
    assert len(sure) == 2 and len(tabletop.times) == 11
    for thing in sure:
        assert list(thing.track.time) == list(tabletop.times) and thing.track.visible.all()

    def yellowness(k: int) -> float:
        rgba = tabletop.prototypes.rgba(k)
        r, g, b = rgba[:3, rgba[3] > 0.5].mean(dim=1).tolist()
        return (r + g) / 2 - b

    bag, carton = sorted(sure, key=lambda o: yellowness(o.prototype))
    assert yellowness(carton.prototype) > yellowness(bag.prototype) + 0.03
    assert carton.dims_m[2] == pytest.approx(0.19, abs=0.02)
    assert bag.dims_m[2] == pytest.approx(0.25, abs=0.02)
    places = {0: ((0.05, -0.06), (-0.36, -0.31)), 10: ((-0.35, -0.34), (0.12, 0.04))}
    for instant, (bag_place, carton_place) in places.items():
        assert np.linalg.norm(bag.track.centre[instant, :2] - bag_place) < 0.08
        assert np.linalg.norm(carton.track.centre[instant, :2] - carton_place) < 0.08
