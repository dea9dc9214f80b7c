"""The part of the corpus of bad inputs that damages picture files."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from damage import FRAMES, Case, N, depth, edit, put, replace_bytes, rgb


def png_bytes(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def picture(mode: str, size: tuple[int, int] = (64, 48), kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    body = name + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def bare_png(width: int, height: int, bits: int, channels: int, packed: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, channels, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def npy(array: np.ndarray, pickled: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=pickled)
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def depth_bytes(i: int, name: str, data: bytes) -> Callable[[Path], None]:
    """Damage that points a frame at another depth file with these bytes."""

    def damage(folder: Path) -> None:
        (folder / name).write_bytes(data)
        put("frames", i, "depth_file_path", value=name)(folder)

    return damage


def picture_cases() -> Iterator[Case]:
    rng = random.Random(0)

    def case(
        name: str, damage: Callable[[Path], None], file: str, says: str, on_load: bool = True
    ) -> Case:
        return Case(name, "transforms", damage, file, "frames[", says, on_load)

    for i, kind in product(FRAMES, (rgb, depth)):
        file = kind(i)
        for part in (0.3, 0.7, 0.99):
            cut = replace_bytes(file, lambda data, part=part: data[: int(len(data) * part)])
            yield case(f"21 {file} at {part}", cut, file, "truncated", on_load=False)
        header = replace_bytes(file, lambda data: data[:20])
        yield case(f"21 {file} header", header, file, "truncated")
        short = bare_png(64, 48, *((8, 2) if kind is rgb else (16, 0)), zlib.compress(b"\0" * 99))
        few = replace_bytes(file, lambda data, short=short: short)
        yield case(f"21 {file} too few pixels", few, file, "truncated or damaged", on_load=False)
        for _ in range(4):
            bit, place = 1 << rng.randrange(8), rng.random()

            def flip(data: bytes, bit: int = bit, place: float = place) -> bytes:
                at = 41 + int(place * (len(data) - 41 - 16))  # inside the compressed pixels
                return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]

            bad = replace_bytes(file, flip)
            yield case(f"22 {file} {place:.3f}", bad, file, "checksum of chunk", on_load=False)
        head = replace_bytes(file, lambda data: data[:19] + bytes([data[19] ^ 1]) + data[20:])
        yield case(f"22 {file} header", head, file, "checksum of chunk IHDR")
    for i in FRAMES:
        for name, data, says in (
            ("23 JPEG", picture("L", kind="JPEG"), "JPEG is lossy"),
            ("23 JPEG RGB", picture("RGB", kind="JPEG"), "JPEG is lossy"),
            ("24 8-bit", picture("L"), "not a depth picture"),
            ("24 1-bit", picture("1"), "not a depth picture"),
            ("24 RGB", picture("RGB"), "not a depth picture"),
            ("24 palette", picture("P"), "not a depth picture"),
            ("24 text", b"12345678901234567890", "neither PNG"),
            ("24 GIF", picture("P", kind="GIF"), "neither PNG"),
            ("26 size", picture("I;16", (32, 24)), "differ in size"),
            ("26 turned", picture("I;16", (48, 64)), "differ in size"),
            ("29 bomb", bare_png(60_000, 60_000, 16, 0, b""), "too large"),
        ):
            bad = replace_bytes(depth(i), lambda old, data=data: data)
            yield case(f"{name} {i}", bad, depth(i), says)
        for name, data, says in (
            ("25 palette", picture("P"), "not a colour picture"),
            ("25 16-bit", png_bytes(np.zeros((48, 64), np.uint16)), "not a colour picture"),
            ("25 1-bit", picture("1"), "not a colour picture"),
            ("25 CMYK", picture("CMYK", kind="JPEG"), "not a colour picture"),
            ("25 npy", npy(np.zeros((48, 64))), "not a colour picture"),
            ("28 size", picture("RGB", (65, 48)), "differ in size"),
            ("29 bomb", bare_png(60_000, 60_000, 8, 2, b""), "too large"),
            ("29 no pixels", bare_png(0, 48, 8, 2, b""), "no pixels"),
            ("21 JPEG header", picture("RGB", kind="JPEG")[:40], "truncated"),
        ):
            bad = replace_bytes(rgb(i), lambda old, data=data: data)
            file = depth(i) if "differ" in says else rgb(i)
            yield case(f"{name} {i}", bad, file, says)
        bad = replace_bytes(rgb(i), lambda old: picture("RGB", kind="JPEG")[:-20])
        yield case(f"21 JPEG {i}", bad, rgb(i), "truncated", on_load=False)
        small = edit(lambda manifest: manifest.update(w=32, h=24, cx=16, cy=12))
        yield case(f"27 intrinsics {i}", small, rgb(0), "size is not that of the intrinsics")
        own = put("frames", i, "w", value=60)
        yield case(f"27 own intrinsics {i}", own, rgb(i), "size is not that of the intrinsics")
    for i in (1, 2):
        for layout, name in (("tum", f"rgb/{i}.png"), ("7scenes", f"frame-00000{i}.color.png")):
            other = name.replace("rgb/", "depth/").replace("color", "depth")

            def shrink(folder: Path, name: str = name, other: str = other) -> None:
                (folder / name).write_bytes(picture("RGB", (32, 24)))
                (folder / other).write_bytes(picture("I;16", (32, 24)))

            yield Case(f"28 {name}", layout, shrink, name, "", "size is not that")


def array_cases() -> Iterator[Case]:
    good = np.ones((48, 64), np.float32)

    def case(name: str, i: int, data: bytes, says: str, on_load: bool = True) -> Case:
        file = f"d{i}." + ("npz" if data[:2] == b"PK" else "npy")
        damage = depth_bytes(i, file, data)
        return Case(
            f"{name} {i}", "transforms", damage, file, f"frames[{i}].depth_file_path", says, on_load
        )

    objects = np.array([[{}]], dtype=object)
    lying = npy(good).replace(b"(48, 64)", b"(48, 99)")
    for i in FRAMES:
        for size in (600 * 10**6, 300 * 10**6, 2**32 - 2):  # what the directory claims
            small = npz(depth=good)
            at = small.index(b"PK\x01\x02") + 24
            bomb = small[:at] + struct.pack("<I", size) + small[at + 4 :]
            yield case(f"30 bomb {size}", i, bomb, "unpacks to too much")
        yield case("30 other shape", i, npz(depth=np.zeros((480, 640))), "differ in size")
        yield case("31 objects", i, npy(objects, pickled=True), "pickled data is never loaded")
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("depth.npy", npy(objects, pickled=True))
        yield case("31 objects zip", i, file.getvalue(), "pickled data is never loaded")
        yield case("32 keys", i, npz(z=good, mask=good), 'no array named "depth"')
        yield case("32 none", i, b"PK\x03\x04" + npz()[4:], "npz")
        yield case("33 shape", i, lying, "does not fit the file")
        yield case("33 cut", i, npy(good)[:-1], "does not fit the file")
        yield case("33 long", i, npy(good) + b"\0", "does not fit the file")
        yield case("33 header", i, npy(good)[:40], "header is truncated")
        yield case("33 huge", i, npy(good).replace(b"(48, 64), }  ", b"(99999999999,)}"), "shape")
        yield case("33 zip cut", i, npz(depth=good)[:-30], "damaged")
        packed = npz(depth=np.random.default_rng(i).random((48, 64)))
        middle = len(packed) // 2
        flipped = packed[:middle] + bytes([packed[middle] ^ 4]) + packed[middle + 1 :]
        yield case("33 zip flip", i, flipped, "damaged", on_load=False)
        for dtype in ("complex64", "uint8", "bool", "S4", "M8[s]"):
            yield case(f"24 {dtype}", i, npy(np.zeros((48, 64), dtype)), "not depth")
        yield case("24 fields", i, npy(np.zeros((48, 64), [("z", "f4")])), "not depth")
        for shape in ((48 * 64,), (3, 48, 64), (48, 64, 2), ()):
            yield case(f"26 {shape}", i, npy(np.zeros(shape)), "wrong shape")
        yield case("26 turned", i, npy(good.T.copy()), "differ in size")


def empty_cases() -> Iterator[Case]:
    """No depth in any picture, in every way to say that nothing returned."""
    for number, value, dtypes in (
        (37, 0, ("<f4", ">f8", "<u2", "<i4", "<f2")),
        (38, np.nan, ("<f2", "<f4", ">f4", "<f8", ">f8")),
        (38, np.inf, ("<f4", "<f8")),
        (39, -1, ("<f2", ">f4", "<f8", "<i2", ">i4", "<i8")),
    ):
        for dtype, packed in product(dtypes, (False, True)):
            pixels = np.full((48, 64), value, dtype)
            data, suffix = (npz(depth=pixels), "npz") if packed else (npy(pixels), "npy")

            def damage(folder: Path, data: bytes = data, suffix: str = suffix) -> None:
                for i in range(N):
                    depth_bytes(i, f"d{i}.{suffix}", data)(folder)

            name = f"{number} {value} {dtype} {suffix}"
            yield Case(
                name,
                "transforms",
                damage,
                "",
                "depth",
                "no picture holds any valid depth",
                on_load=False,
            )


def cases() -> Iterator[Case]:
    yield from empty_cases()
    yield from picture_cases()
    yield from array_cases()
