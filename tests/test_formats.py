"""Every layout gives back the views that were written into it; what is made up is stated."""

from __future__ import annotations

import io
import itertools
import json
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import box_recording as box
from protoscene.check import check
from protoscene.errors import Refused
from protoscene.formats import load, read_cameras
from protoscene.formats.frames import require_one_unit
from protoscene.formats.manifest import edits
from protoscene.recording import Recording

TABLETOP = Path(__file__).parents[2] / "shared" / "data" / "tabletop"


def all_views(recording: Recording) -> list:
    return [recording.view(i) for i in range(len(recording.frames))]


def written(folder: Path, manifest: dict) -> Recording:
    box.write_manifest(folder, manifest)
    return load(folder)


@pytest.mark.parametrize("layout", box.WRITERS)
def test_every_layout_returns_what_was_written(tmp_path: Path, layout: str) -> None:
    taken = box.shots(4, 1)
    box.WRITERS[layout](tmp_path, taken)
    recording = load(tmp_path)
    assert len(recording) == 4
    assert load(tmp_path, format=layout).sha256 == recording.sha256
    for view, shot in zip(all_views(recording), taken, strict=True):
        np.testing.assert_array_equal(view.colour, shot.colour)
        np.testing.assert_array_equal(view.depth, shot.depth.astype(np.float32))
        np.testing.assert_allclose(view.camera.world_from_camera, shot.pose, atol=1e-6)
        camera = view.camera
        focal = (camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy)
        assert focal == (box.WIDTH, box.HEIGHT, box.FX, box.FY, box.CX, box.CY)
    start = recording.times[0]
    step = {"7scenes": 1.0}.get(layout, 0.5)  # that layout has no clock: the frame's number
    np.testing.assert_allclose([t - start for t in recording.times], np.arange(4) * step)
    assert check(tmp_path).problems == []


def test_unprojected_depth_lies_on_the_truth(tmp_path: Path) -> None:
    """Axes and half pixels: floor pixels are at z = 0, and some are on top of a box."""
    box.write_transforms(tmp_path, box.shots())
    for view in all_views(load(tmp_path)):
        heights = view.camera.unproject(view.depth)[..., 2][view.depth > 0]
        assert heights.min() > -0.002
        assert (np.abs(heights) < 0.002).mean() > 0.5
        assert (np.abs(heights - 0.5) < 0.002).sum() > 5


def test_instants_cameras_and_order_of_the_manifest(tmp_path: Path) -> None:
    taken = box.shots()
    manifest = box.write_transforms(tmp_path, taken)
    recording = load(tmp_path)
    assert recording.times == (0.0, 0.5, 1.0)
    assert recording.camera_names == ("cam0", "cam1")
    assert [len(recording.frames_at(i)) for i in range(3)] == [2, 2, 2]
    random.Random(0).shuffle(manifest["frames"])
    names = [frame.colour_file.name for frame in written(tmp_path, manifest).frames]
    assert names == [frame.colour_file.name for frame in recording.frames]


DEPTH_FILES = {
    "float16.npy": lambda m: m.astype(np.float16),
    "float32.npy": lambda m: m.astype(np.float32),
    "float64.npy": lambda m: m.astype(np.float64),
    "big-endian.npy": lambda m: m.astype(">f8"),
    "fortran.npy": lambda m: np.asfortranarray(m.astype(np.float32)),
    "one-channel.npy": lambda m: m.astype(np.float32)[..., None],
    "uint16.npy": lambda m: np.round(m * 1000).astype(np.uint16),
    "int32-big.npy": lambda m: np.round(m * 1000).astype(">i4"),
    "depth.npz": lambda m: m.astype(np.float32),
    "uint16.npz": lambda m: np.round(m * 1000).astype(np.uint16),
}


@pytest.mark.parametrize("name", DEPTH_FILES)
def test_array_depth_is_the_same_depth(tmp_path: Path, name: str) -> None:
    taken = box.shots(1, 1)
    manifest = box.write_transforms(tmp_path, taken)
    array = DEPTH_FILES[name](taken[0].depth)
    if name.endswith("npy"):
        np.save(tmp_path / name, array)
    else:
        np.savez_compressed(tmp_path / name, depth=array, confidence=array)
    manifest["frames"][0]["depth_file_path"] = name
    depth = written(tmp_path, manifest).view(0).depth
    tolerance = 2e-3 if "float16" in name else 0.0
    np.testing.assert_allclose(depth, taken[0].depth.astype(np.float32), atol=tolerance)


def test_what_is_no_depth_reads_as_zero(tmp_path: Path) -> None:
    taken = box.shots(1, 1)
    manifest = box.write_transforms(tmp_path, taken)
    depth = np.full((box.HEIGHT, box.WIDTH), 1.5)
    depth[0, :6] = [np.nan, np.inf, -np.inf, -1.0, 0.0, 1e300]
    np.save(tmp_path / "d.npy", depth)
    manifest["frames"][0]["depth_file_path"] = "d.npy"
    read = written(tmp_path, manifest).view(0).depth
    assert read[0, :6].tolist() == [0] * 6
    assert (read.ravel()[6:] == 1.5).all()


def test_depth_unit_applies_to_integers(tmp_path: Path) -> None:
    taken = box.shots(1, 1)
    manifest = box.write_transforms(tmp_path, taken)
    manifest["depth_unit_scale_factor"] = 0.002
    np.testing.assert_allclose(
        written(tmp_path, manifest).view(0).depth, 2 * taken[0].depth, rtol=1e-6
    )
    del manifest["depth_unit_scale_factor"]
    np.testing.assert_allclose(written(tmp_path, manifest).view(0).depth, taken[0].depth, rtol=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA"])
def test_grey_is_repeated_and_alpha_ignored(tmp_path: Path, mode: str) -> None:
    taken = box.shots(1, 1)
    box.write_transforms(tmp_path, taken)
    picture = Image.fromarray(taken[0].colour).convert(mode)
    if mode != "L":
        picture.putalpha(Image.fromarray(taken[0].colour[..., 0]))
    picture.save(tmp_path / "rgb/0_000.png")
    if mode == "L":
        recording = load(tmp_path)
    else:
        with pytest.warns(UserWarning, match="alpha channel of 1 pictures is ignored"):
            recording = load(tmp_path)
    grey = np.asarray(Image.fromarray(taken[0].colour).convert("L"))
    expected = taken[0].colour if mode == "RGBA" else np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(recording.view(0).colour, expected)


def test_jpeg_colour_and_transparency_chunks(tmp_path: Path) -> None:
    """EXIF orientation and a tRNS chunk do not change what is read."""
    taken = box.shots(2, 1)
    manifest = box.write_transforms(tmp_path, taken)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(taken[0].colour).save(tmp_path / "rgb/a.jpg", quality=95, exif=exif)
    manifest["frames"][0]["file_path"] = "./rgb/a.jpg"
    Image.fromarray(taken[1].colour).save(tmp_path / "rgb/0_001.png", transparency=(180, 170, 150))
    first, second = all_views(written(tmp_path, manifest))
    assert np.abs(first.colour.astype(int) - taken[0].colour).mean() < 8
    np.testing.assert_array_equal(second.colour, taken[1].colour)


def bent(x: np.ndarray, y: np.ndarray, k: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    k1, k2, k3, p1, p2 = k
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y),
    )


@pytest.mark.parametrize("layout", ["transforms", "tum"])
def test_distortion_is_undone(tmp_path: Path, layout: str) -> None:
    """A distorted picture is ray-cast along the directions its pixels really looked in."""
    k = (-0.12, 0.03, 0.01, 0.004, -0.006)
    straight = box.pixel_directions()
    x, y = straight[..., 0].copy(), straight[..., 1].copy()
    for _ in range(60):  # invert by fixed point, independently of the product
        u, v = bent(x, y, k)
        x, y = x + straight[..., 0] - u, y + straight[..., 1] - v
    shot = box.shots(1, 1)[0]
    truth_colour, truth = box.cast(shot.pose, straight, 0.0)
    shot.colour, shot.depth = box.cast(shot.pose, np.stack([x, y, np.ones_like(x)], axis=-1), 0.0)
    if layout == "tum":
        box.write_tum(tmp_path, [shot])
        k1, k2, k3, p1, p2 = k
        text = f"{box.FX} {box.FY} {box.CX} {box.CY} {k1} {k2} {p1} {p2} {k3}"
        (tmp_path / "calibration.txt").write_text(text)
    else:
        manifest = box.write_transforms(tmp_path, [shot])
        manifest["camera_model"] = "OPENCV"
        manifest.update(zip(("k1", "k2", "k3", "p1", "p2"), k, strict=True))
        box.write_manifest(tmp_path, manifest)
    view = load(tmp_path).view(0)
    both = (view.depth > 0) & (truth > 0)
    assert both.mean() > 0.9 * (truth > 0).mean()
    per_pixel = np.abs(np.gradient(truth, axis=0))  # of the floor: the camera is upright
    floor = both & (np.abs(view.camera.unproject(truth)[..., 2]) < 1e-6) & (per_pixel > 0)
    error, untouched = (((d - truth) / per_pixel)[floor] for d in (view.depth, shot.depth))
    assert np.quantile(np.abs(error), 0.95) < 0.55 < np.quantile(np.abs(untouched), 0.9)
    assert abs(np.median(error)) < 0.05  # in pixels
    unchanged = np.all(np.abs(view.colour.astype(int) - truth_colour) < 20, axis=-1)[both]
    assert unchanged.mean() > 0.6  # the rest are edges of the pattern, where colours mix
    invented = ~np.isin(np.round(view.depth * 1000), np.round(shot.depth * 1000))
    assert not invented.any()  # depth is never interpolated


def test_what_the_lens_did_not_see_is_black_without_depth(tmp_path: Path) -> None:
    shot = box.shots(1, 1)[0]
    shot.colour[:], shot.depth[:] = 200, 1.0
    manifest = box.write_transforms(tmp_path, [shot])
    manifest.update(camera_model="OPENCV", k1=0.3)  # pinhole corners lie outside this picture
    view = written(tmp_path, manifest).view(0)
    assert view.depth[0, 0] == 0 and view.colour[0, 0].max() == 0
    assert view.depth[24, 32] == 1.0 and view.colour[24, 32].min() == 200


def test_intrinsics_defaults_and_overrides(tmp_path: Path) -> None:
    manifest = box.write_transforms(tmp_path, box.shots(2, 1))
    for key in ("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_model"):
        del manifest[key]
    manifest["camera_angle_x"] = 2 * np.arctan(32 / 50)
    manifest["frames"][1].update(fl_x=70.0, cx=30.0)
    first, second = (frame.camera for frame in written(tmp_path, manifest).frames)
    np.testing.assert_allclose([first.fx, first.fy, first.cx, first.cy], [50, 50, 32, 24])
    assert (first.width, first.height) == (64, 48)
    assert (second.fx, second.fy, second.cx, second.cy) == (70, 70, 30, 24)


def test_intrinsics_from_the_caller(tmp_path: Path) -> None:
    for layout in ("tum", "7scenes"):
        box.WRITERS[layout](tmp_path / layout, box.shots(2, 1))
        for name in ("calibration.txt", "camera-intrinsics.txt"):
            (tmp_path / layout / name).unlink(missing_ok=True)
        with pytest.raises(Refused, match="intrinsics"):
            load(tmp_path / layout)
        camera = load(tmp_path / layout, intrinsics=(50, 51, 30, 20)).frames[0].camera
        assert (camera.fx, camera.fy, camera.cx, camera.cy) == (50, 51, 30, 20)


def test_times_and_cameras_that_are_made_up(tmp_path: Path) -> None:
    manifest = box.write_transforms(tmp_path, box.shots())
    without_time = [{**f} for f in manifest["frames"]]
    for frame in without_time:
        del frame["time"]
    recording = written(tmp_path, {**manifest, "frames": without_time})
    assert recording.times == (0.0, 1.0, 2.0) and recording.camera_names == ("cam0", "cam1")
    neither = [{k: v for k, v in f.items() if k != "camera"} for f in without_time]
    recording = written(tmp_path, {**manifest, "frames": neither})
    assert len(recording) == 6 and recording.camera_names == ("0",)
    no_camera = [{k: v for k, v in f.items() if k != "camera"} for f in manifest["frames"]]
    recording = written(tmp_path, {**manifest, "frames": no_camera[::-1]})
    assert len(recording) == 3 and recording.camera_names == ("0", "1")
    assert [f.colour_file.name[0] for f in recording.frames] == ["0", "1"] * 3
    numbered = [{**f, "camera": int(f["camera"][3])} for f in manifest["frames"]]
    assert written(tmp_path, {**manifest, "frames": numbered}).camera_names == ("0", "1")


def test_three_by_four_poses_and_printed_decimals(tmp_path: Path) -> None:
    taken = box.shots(2, 1)
    manifest = box.write_transforms(tmp_path, taken)
    exact = [frame["transform_matrix"] for frame in manifest["frames"]]

    def rounded(decimals: int) -> dict:
        frames = [
            {**f, "transform_matrix": np.round(m, decimals)[:3].tolist()}
            for f, m in zip(manifest["frames"], exact, strict=True)
        ]
        return {**manifest, "frames": frames}

    for decimals in (15, 7):
        recording = written(tmp_path, rounded(decimals))
        np.testing.assert_allclose(
            recording.frames[0].camera.world_from_camera, taken[0].pose, atol=10.0**-decimals
        )
    with pytest.warns(UserWarning, match="2 rotations are off orthonormal .*: repaired"):
        recording = written(tmp_path, rounded(3))
    rotation = recording.frames[0].camera.world_from_camera[:3, :3]
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(rotation, taken[0].pose[:3, :3], atol=1e-3)
    with pytest.raises(Refused, match=r"frames\[0\].transform_matrix.*not orthonormal"):
        written(tmp_path, rounded(1))


def test_known_keys_are_silent_and_unknown_ones_named_once(tmp_path: Path) -> None:
    manifest = box.write_transforms(tmp_path, box.shots(2, 1))
    manifest.update(
        aabb_scale=16, applied_transform=[[1, 0, 0, 0]] * 3, orientation_override="none"
    )
    manifest.update(k4=0, is_fisheye=False, train_filenames=["a"], ply_file_path="x.ply")
    for frame in manifest["frames"]:
        frame.update(colmap_im_id=3, sharpness=20.5, mask_path="m.png")
    assert len(written(tmp_path, manifest)) == 2
    manifest["photographer"] = "somebody"
    for frame in manifest["frames"]:
        frame["weather"] = 1
    with pytest.warns(UserWarning) as warned:
        written(tmp_path, manifest)
    assert [str(w.message).split(": ", 1)[1] for w in warned] == [
        "unknown keys are ignored: 'photographer', 'weather'"
    ]


def test_edits_is_levenshtein_up_to_two() -> None:
    def slow(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))

    words = ["".join(w) for n in range(4) for w in itertools.product("ab", repeat=n)]
    for a, b in itertools.product(words, words):
        assert edits(a, b) == min(slow(a, b), 3)


def test_hash_covers_every_file_and_nothing_else(tmp_path: Path) -> None:
    box.write_tum(tmp_path, box.shots(2, 1))
    before = load(tmp_path).sha256
    (tmp_path / "notes.txt").write_text("not part of it")
    assert load(tmp_path).sha256 == before
    for name in ("rgb/1.png", "depth/0.png", "groundtruth.txt", "calibration.txt"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data + b"\n")
        assert load(tmp_path).sha256 != before, name
        (tmp_path / name).write_bytes(data)
    assert load(tmp_path).sha256 == before


def test_tum_leaves_out_what_has_no_partner(tmp_path: Path) -> None:
    box.write_tum(tmp_path, box.shots(4, 1))
    lines = (tmp_path / "depth.txt").read_text().splitlines()
    (tmp_path / "depth.txt").write_text("\n".join([lines[0], *lines[2:]]))
    with pytest.warns(UserWarning, match=r"1 of 4 pictures .* are left out"):
        recording = load(tmp_path)
    assert len(recording) == 3
    assert recording.frames[0].depth_file.name == "1.png"


def test_tum_gives_a_depth_picture_to_the_nearest_colour_only(tmp_path: Path) -> None:
    box.write_tum(tmp_path, box.shots(2, 1))
    with (tmp_path / "rgb.txt").open("a") as file:
        file.write("100.512000 rgb/0.png\n")  # 7 ms from depth/1, whose own colour is 5 ms off
    with pytest.warns(UserWarning, match=r"1 of 3 pictures"):
        recording = load(tmp_path)
    assert [f.colour_file.name for f in recording.frames] == ["0.png", "1.png"]


def test_cameras_to_render_need_no_pictures(tmp_path: Path) -> None:
    taken = box.shots(2, 1)
    manifest = box.manifest_of(taken)
    for frame in manifest["frames"]:
        del frame["depth_file_path"]
    file = tmp_path / "cameras.json"
    file.write_text(json.dumps(manifest))
    cameras = read_cameras(file)
    assert [(time, name) for _, time, name in cameras] == [
        (0.0, "rgb/0_000.png"),
        (0.5, "rgb/0_001.png"),
    ]
    np.testing.assert_allclose(cameras[1][0].world_from_camera, taken[1].pose, atol=1e-12)
    for change, says in (
        ({"file_path": "../x.png"}, "leaves"),
        ({"file_path": "rgb/0_000.png"}, "same picture"),
        ({"fl_x": -1}, "focal"),
    ):
        manifest["frames"][1] = {**box.manifest_of(taken)["frames"][1], **change}
        file.write_text(json.dumps(manifest))
        with pytest.raises(Refused, match=rf"frames\[1\]\.{next(iter(change))}.*{says}"):
            read_cameras(file)
    del manifest["w"]
    file.write_text(json.dumps(manifest))
    with pytest.raises(Refused, match="w: picture size"):
        read_cameras(file)


def test_pictures_are_decoded_only_when_asked_for(tmp_path: Path) -> None:
    box.write_transforms(tmp_path, box.shots())
    file = tmp_path / "rgb/0_000.png"
    file.write_bytes(file.read_bytes()[:60])
    recording = load(tmp_path)
    recording.view(1)
    with pytest.raises(Refused, match=r"0_000.png: frames\[0\].file_path: PNG is truncated"):
        recording.view(0)


def test_check_lists_every_problem_and_sums_up(tmp_path: Path) -> None:
    manifest = box.write_transforms(tmp_path, box.shots(3, 2))
    found = check(tmp_path)
    assert found.problems == []
    summary = found.summary
    assert summary is not None
    assert (summary.instants, summary.pictures, summary.cameras) == (3, 6, ("cam0", "cam1"))
    assert summary.sizes == ("64×48",) and (summary.first_time, summary.last_time) == (0.0, 1.0)
    low, middle, high = summary.depth_percentiles or (0, 0, 0)
    assert 0.5 < low < middle < high < 8
    assert 0.04 < summary.without_depth < 0.3
    (tmp_path / "depth/1_001.png").unlink()
    file = tmp_path / "rgb/0_002.png"
    file.write_bytes(file.read_bytes()[:-30])
    manifest["frames"][3]["transform_matrix"][0][0] = 3.0
    manifest["frames"][4]["camera"] = None
    manifest["frame"] = 1
    box.write_manifest(tmp_path, manifest)
    found = check(tmp_path)
    assert [(Path(p.file).name, p.field) for p in found.problems] == [
        ("transforms.json", "frame"),
        ("transforms.json", "frames[3].transform_matrix"),
        ("transforms.json", "frames[4].camera"),
        ("1_001.png", "frames[1].depth_file_path"),
        ("0_002.png", "frames[2].file_path"),
    ]
    assert found.summary is not None and found.summary.pictures == 3


def test_check_says_a_fault_of_all_frames_once_and_finds_empty_depth(tmp_path: Path) -> None:
    manifest = box.write_transforms(tmp_path, box.shots())
    box.write_manifest(tmp_path, {**manifest, "fl_x": "60"})
    assert [p.field for p in check(tmp_path).problems] == ["fl_x"]
    box.write_manifest(tmp_path, manifest)
    for file in (tmp_path / "depth").iterdir():
        box.write_png(file, np.zeros((box.HEIGHT, box.WIDTH), np.uint16))
    found = check(tmp_path)
    assert [p.problem for p in found.problems] == ["all 6 depth pictures are empty"]
    assert found.summary is not None and found.summary.depth_percentiles is None
    assert check(tmp_path / "absent").problems[0].problem == "folder does not exist"


def test_even_and_uneven_clocks_are_not_a_mix_of_units() -> None:
    rng = np.random.default_rng(0)
    for times in (
        np.arange(50) / 30,
        1.3e9 + np.arange(50) / 30,
        np.arange(30).repeat(2) + np.tile([0, 0.001], 30),  # two cameras, 1 ms apart
        np.concatenate([np.arange(30) / 10, 4000 + np.arange(30) / 10]),  # a long pause
        np.cumsum(rng.exponential(1.0, 200)),
        np.geomspace(0.001, 1e5, 40),
    ):
        require_one_unit(times.tolist(), Path("x"), "time")
    for factor, split in itertools.product((1e3, 1e6, 1e9), (2, 5, 19)):
        for start in (0.1, 1.3e9):
            times = start + np.arange(20) / 10
            times[split:] *= factor
            with pytest.raises(Refused, match="mix of units"):
                require_one_unit(times.tolist(), Path("x"), "time")


def test_interlaced_and_16_bit_values_are_exact(tmp_path: Path) -> None:
    """Every 16-bit value comes back; written chunk by chunk, not by the library that reads it."""
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 256, 256, 16, 0, 0, 0, 0))
    packed = zlib.compress(raw)
    data += chunk(b"IDAT", packed[:100]) + chunk(b"IDAT", packed[100:]) + chunk(b"IEND", b"")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), values)
    manifest = box.write_transforms(tmp_path, box.shots(1, 1))
    (tmp_path / "depth/0_000.png").write_bytes(data)
    box.write_png(tmp_path / "rgb/0_000.png", np.zeros((256, 256, 3), np.uint8))
    manifest.update(w=256, h=256, depth_unit_scale_factor=1.0)
    np.testing.assert_array_equal(written(tmp_path, manifest).view(0).depth, values)


def test_real_recording_loads() -> None:
    if not TABLETOP.is_dir():
        pytest.skip(f"the real recording is not there: {TABLETOP}")
    recording = load(TABLETOP)
    assert (len(recording), len(recording.frames)) == (11, 22)
    assert recording.camera_names == ("0", "1")
    view = recording.view(0)
    assert view.colour.shape == (480, 640, 3)
    heights = view.camera.unproject(view.depth)[..., 2][view.depth > 0]
    on_table = np.abs(heights) < 0.01
    assert on_table.mean() > 0.1  # +z is up and the table top is z = 0
