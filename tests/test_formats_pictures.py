"""Every kind of picture file reads as the picture it holds, its lens's distortion undone."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import box_recording as box
from protoscene.errors import Refused
from protoscene.formats import load
from protoscene.formats.pictures import read_colour, read_depth
from protoscene.recording import Recording


def written(folder: Path, manifest: dict) -> Recording:
    box.write_manifest(folder, manifest)
    return load(folder)


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


def test_a_shape_of_two_numbers_in_one_place_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.ones((485, 64), np.float32))
    file = tmp_path / "d.npy"
    file.write_bytes(file.read_bytes().replace(b"(485, 64)", b"(485  64)"))
    with pytest.raises(Refused, match="array is not depth"):
        read_depth(file, "depth", 0.001)


def test_a_png_without_the_bytes_for_its_pixels_is_not_decoded(tmp_path: Path) -> None:
    file = tmp_path / "c.png"
    black = Image.fromarray(np.zeros((2000, 2000, 3), np.uint8))
    black.save(file, compress_level=9)
    assert read_colour(file, "colour").shape == (2000, 2000, 3)  # nothing packs more than this
    data = bytearray(file.read_bytes())
    data[16:24] = struct.pack(">II", 8000, 8000)
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    file.write_bytes(data)
    with pytest.raises(Refused, match=r"PNG is truncated .got .* bytes of pixels, expected"):
        read_colour(file, "colour")


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
    recording = written(tmp_path, manifest)
    first, second = recording.view(0), recording.view(1)
    assert np.abs(first.colour.astype(int) - taken[0].colour).mean() < 8
    np.testing.assert_array_equal(second.colour, taken[1].colour)


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
    half = np.sqrt(0.5)  # the camera is rolled by 45°: depth tells of both pixel directions
    shot.pose[:3, :3] = shot.pose[:3, :3] @ [[half, -half, 0], [half, half, 0], [0, 0, 1]]
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
    per_pixel = sum(np.abs(np.gradient(truth, axis=axis)) for axis in (0, 1))
    floor = both & (np.abs(view.camera.unproject(truth)[..., 2]) < 1e-6) & (per_pixel > 0)
    error, untouched = ((d - truth)[floor] / per_pixel[floor] for d in (view.depth, shot.depth))
    assert np.quantile(np.abs(error), 0.9) < 0.5 and np.abs(untouched).mean() > 0.2
    assert np.abs(error).mean() < 0.25
    assert abs(np.median(error)) < 0.05  # in pixels
    unchanged = np.all(np.abs(view.colour.astype(int) - truth_colour) < 20, axis=-1)[both]
    assert unchanged.mean() > 0.6  # the rest are edges of the pattern, where colours mix
    invented = ~np.isin(np.round(view.depth * 1000), np.round(shot.depth * 1000))
    assert not invented.any()  # depth is never interpolated


def test_undistorted_ramps_are_where_the_formula_says(tmp_path: Path) -> None:
    """Red grows by 4 a column, green by 5 a row: a picture of where each pixel was seen."""
    k = (-0.2, 0.08, 0.15, 0.01, -0.02)
    shot = box.shots(1, 1)[0]
    rows, columns = np.mgrid[: box.HEIGHT, : box.WIDTH]
    shot.colour = np.stack([4 * columns, 5 * rows, 0 * rows], axis=-1).astype(np.uint8)
    manifest = box.write_transforms(tmp_path, [shot])
    manifest.update(zip(("k1", "k2", "k3", "p1", "p2"), k, strict=True), camera_model="OPENCV")
    colour = written(tmp_path, manifest).view(0).colour.astype(float)
    x, y, _ = np.moveaxis(box.pixel_directions(), -1, 0)
    u, v = bent(x, y, k)
    column, row = u * box.FX + box.CX - 0.5, v * box.FY + box.CY - 0.5
    inside = (column > 0) & (column < box.WIDTH - 1) & (row > 0) & (row < box.HEIGHT - 1)
    assert inside.mean() > 0.9
    assert np.abs(colour[..., 0] - 4 * column)[inside].max() <= 0.51
    assert np.abs(colour[..., 1] - 5 * row)[inside].max() <= 0.51


def test_what_the_lens_did_not_see_is_black_without_depth(tmp_path: Path) -> None:
    shot = box.shots(1, 1)[0]
    shot.colour[:], shot.depth[:] = 200, 1.0
    manifest = box.write_transforms(tmp_path, [shot])
    manifest.update(camera_model="OPENCV", k1=0.3)  # pinhole corners lie outside this picture
    view = written(tmp_path, manifest).view(0)
    assert view.depth[0, 0] == 0 and view.colour[0, 0].max() == 0
    assert view.depth[24, 32] == 1.0 and view.colour[24, 32].min() == 200


def test_beyond_the_fold_of_the_lens_nothing_is_seen(tmp_path: Path) -> None:
    """r(1 − r²) turns back at r² = 1/3: farther out the formula would show the middle again."""
    shot = box.shots(1, 1)[0]
    shot.depth[:] = 1.0
    manifest = box.write_transforms(tmp_path, [shot])
    manifest.update(camera_model="OPENCV", k1=-1.0)
    r2 = (box.pixel_directions()[..., :2] ** 2).sum(axis=-1)
    assert (r2 > 1 / 3).any()
    np.testing.assert_array_equal(written(tmp_path, manifest).view(0).depth > 0, r2 < 1 / 3)


def test_pictures_are_decoded_only_when_asked_for(tmp_path: Path) -> None:
    box.write_transforms(tmp_path, box.shots())
    file = tmp_path / "rgb/0_000.png"
    file.write_bytes(file.read_bytes()[:60])
    recording = load(tmp_path)
    recording.view(1)
    with pytest.raises(Refused, match=r"0_000.png: frames\[0\].file_path: PNG is truncated"):
        recording.view(0)


def test_a_jpeg_too_small_for_its_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (512, 512), (200, 30, 90)).save(buffer, "JPEG", quality=1)
    data, file = buffer.getvalue(), tmp_path / "a.jpg"
    file.write_bytes(data)
    assert read_colour(file, "field").shape == (512, 512, 3)  # as small as such a picture gets
    size = data.index(b"\xff\xc0") + 5
    file.write_bytes(data[:size] + struct.pack(">HH", 7000, 8000) + data[size + 4 :])
    with pytest.raises(Refused, match=r"field: JPEG is truncated: too small.*8000×7000 in"):
        read_colour(file, "field")
