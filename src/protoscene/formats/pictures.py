"""Picture files → arrays. What a header says is checked before any pixel is decoded.

Colour: 8-bit PNG or JPEG, RGB or greyscale; an alpha channel is ignored, a palette refused, EXIF
orientation ignored. Depth: 16-bit greyscale PNG, ``.npy`` or ``.npz`` (``arrays.py``). The kind of
a file is what its first bytes say, not its name.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from protoscene.errors import Refused
from protoscene.formats.arrays import ZIP_MAGIC, array_header, npy_bytes, parse_npy
from protoscene.formats.foreign import kind_of
from protoscene.formats.lens import MAX_PIXELS
from protoscene.formats.paths import read_file, require_regular

MAX_BYTES = 2**30
_PNG, _JPEG, _NPY = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"\x93NUMPY"
_PNG_CHANNELS = {0: "greyscale", 2: "RGB", 3: "palette", 4: "greyscale with alpha", 6: "RGBA"}
_PNG_SAMPLES = {2: 3, 4: 2, 6: 4}
"""Of a pixel; one where it is none of these."""
_MOST_PIXELS = 1024
"""That a byte of a JPEG can stand for at most: a bit for each block of the first scan, and a block
of 8×8 for at most two blocks' pixels."""
_MOST_INFLATED = 1032
"""Bytes that a byte of deflate's can stand for at most."""
_DECODER_ERRORS = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error, KeyError)


@dataclass(frozen=True)
class Header:
    """Size of a picture and what its samples are, in words."""

    kind: str
    width: int
    height: int
    samples: str

    @property
    def has_alpha(self) -> bool:
        return self.samples.endswith(("alpha", "RGBA"))

    def __str__(self) -> str:
        return f"{self.samples} {self.kind}"


def colour_header(path: Path, field: str) -> Header:
    """Header of a colour picture; raises Refused for anything that is not read as one."""
    header = _header(path, field)
    allowed = ("8-bit RGB", "8-bit RGBA", "8-bit greyscale", "8-bit greyscale with alpha")
    if header.kind not in ("PNG", "JPEG") or header.samples not in allowed:
        expected = "8-bit RGB or greyscale, PNG or JPEG"
        raise Refused(path, field, "not a colour picture", got=header, expected=expected)
    return header


def depth_header(path: Path, field: str) -> Header:
    """Header of a depth picture; raises Refused for anything that is not read as one."""
    header = _header(path, field)
    expected = "16-bit greyscale PNG, .npy or .npz"
    if header.kind == "JPEG":
        raise Refused(path, field, "JPEG is lossy and cannot hold depth", "JPEG", expected)
    if header.kind == "PNG" and header.samples != "16-bit greyscale":
        raise Refused(path, field, "not a depth picture", got=header, expected=expected)
    return header


def read_colour(path: Path, field: str) -> UInt8[np.ndarray, "h w 3"]:
    """All pixels of a colour picture; grey is repeated, alpha dropped."""
    header = colour_header(path, field)
    pixels = _decoded(path, field, header)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    return np.ascontiguousarray(pixels[..., :3] if pixels.shape[2] > 2 else pixels[..., [0, 0, 0]])


def read_depth(
    path: Path, field: str, unit: float, no_return: int | None = None
) -> Float[np.ndarray, "h w"]:
    """z-depth in metres as float32, 0 where nothing returned.

    Integers are multiplied by ``unit`` (metres); floating point arrays are metres already. 0, NaN,
    infinite and negative values, and the integer ``no_return``, mean that nothing returned.
    """
    header = depth_header(path, field)
    if header.kind == "PNG":
        raw = _decoded(path, field, header)
    else:
        data = read_file(path, field, MAX_BYTES)
        raw = parse_npy(npy_bytes(data, path, field), path, field)
    with np.errstate(over="ignore", invalid="ignore"):
        metres = raw.astype(np.float64) * (1.0 if raw.dtype.kind == "f" else unit)
        depth = metres.astype(np.float32)
        nothing = ~(np.isfinite(depth) & (depth > 0))
    if no_return is not None:
        nothing |= raw == no_return
    depth[nothing] = 0
    return depth


def _header(path: Path, field: str) -> Header:
    size = require_regular(path, field)
    if size > MAX_BYTES:
        raise Refused(path, field, "file is too large", f"{size} bytes", "at most 1 GiB")
    try:
        with path.open("rb") as file:
            magic = file.read(8)
            file.seek(0)
            if magic == _PNG:
                header = _png_header(file, path, field)
            elif magic[:2] == _JPEG:
                header = _jpeg_header(file, path, field)
            elif magic[:6] == _NPY or magic[:4] == ZIP_MAGIC:
                shape, samples = array_header(file, size, path, field)
                kind = ".npy" if magic[:6] == _NPY else ".npz"
                header = Header(kind, shape[1], shape[0], samples)
            else:
                problem = "file is neither PNG, JPEG, .npy nor .npz"
                raise Refused(path, field, problem, kind_of(path) or f"first bytes {magic!r}")
    except OSError as error:
        raise Refused(path, field, f"file cannot be read: {error}") from error
    got = f"{header.width}×{header.height}"
    if header.width < 1 or header.height < 1:
        raise Refused(path, field, "picture has no pixels", got=got)
    if header.width * header.height > MAX_PIXELS:
        raise Refused(path, field, "picture is too large", got=got, expected="at most 64 MP")
    return header


def _png_header(file: io.BufferedIOBase, path: Path, field: str) -> Header:
    head = file.read(33)
    if len(head) < 33 or head[8:16] != b"\x00\x00\x00\rIHDR":
        raise Refused(path, field, "PNG header is truncated", got=f"{len(head)} bytes")
    width, height, bits, channels = struct.unpack(">IIBB", head[16:26])
    if zlib.crc32(head[12:29]) != int.from_bytes(head[29:33], "big"):
        raise Refused(path, field, "PNG is damaged: checksum of chunk IHDR is wrong")
    return Header("PNG", width, height, f"{bits}-bit {_PNG_CHANNELS.get(channels, '?')}")


def _jpeg_header(file: io.BufferedIOBase, path: Path, field: str) -> Header:
    """Walk the markers to the start of frame, which holds precision, size and channels."""
    file.seek(2)
    while True:
        marker = file.read(2)
        while len(marker) == 2 and marker[1] == 0xFF:  # padding before a marker
            marker = marker[1:] + file.read(1)
        length = file.read(2)
        if len(marker) < 2 or marker[0] != 0xFF or len(length) < 2 or length < b"\x00\x02":
            raise Refused(path, field, "JPEG header is truncated or damaged")
        if 0xC0 <= marker[1] <= 0xCF and marker[1] not in (0xC4, 0xC8, 0xCC):
            break
        file.seek(int.from_bytes(length, "big") - 2, io.SEEK_CUR)
    start = file.read(6)
    if len(start) < 6:
        raise Refused(path, field, "JPEG header is truncated or damaged")
    bits, height, width, channels = struct.unpack(">BHHB", start)
    names = {1: "greyscale", 3: "RGB", 4: "CMYK"}
    return Header("JPEG", width, height, f"{bits}-bit {names.get(channels, '?')}")


def _decoded(path: Path, field: str, header: Header) -> np.ndarray:
    data = read_file(path, field, MAX_BYTES)
    if header.kind == "PNG":
        data = _verified_png(data, path, field)
    elif data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise Refused(path, field, "JPEG is truncated", got=f"{len(data)} bytes")
    elif header.width * header.height > _MOST_PIXELS * len(data):
        got = f"{header.width}×{header.height} in {len(data)} bytes"
        raise Refused(path, field, "JPEG is truncated: too small for its pixels", got)
    try:
        with Image.open(io.BytesIO(data), formats=(header.kind,)) as image:
            pixels = np.array(image)
    except (*_DECODER_ERRORS, Image.DecompressionBombError) as error:
        problem = f"{header.kind} is truncated or damaged: {error}"
        raise Refused(path, field, problem) from error
    if pixels.shape[:2] != (header.height, header.width) or pixels.dtype.itemsize > 2:
        raise Refused(path, field, f"{header.kind} is not what its header says")
    return pixels


def _verified_png(data: bytes, path: Path, field: str) -> bytes:
    """The PNG's pixels alone: every checksum verified, chunks that are not pixels left out.

    Pillow skips some checksums and interprets chunks (transparency, animation, text) that could
    change or blow up what is decoded.
    """
    position, kept = 8, [data[:8]]
    name = b""
    while name != b"IEND":
        if position + 12 > len(data):
            raise Refused(path, field, "PNG is truncated", got=f"{len(data)} bytes")
        length = int.from_bytes(data[position : position + 4], "big")
        end = position + 12 + length
        if end > len(data):
            raise Refused(
                path, field, "PNG is truncated", got=f"{len(data)} of {end} bytes or more"
            )
        chunk = data[position:end]
        name = chunk[4:8]
        if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
            problem = f"PNG is damaged: checksum of chunk {name.decode('latin-1')} is wrong"
            raise Refused(path, field, problem)
        if name in (b"IHDR", b"IDAT", b"IEND"):
            kept.append(chunk)
        position = end
    _require_bytes_for_pixels(kept, path, field)
    return b"".join(kept)


def _require_bytes_for_pixels(chunks: list[bytes], path: Path, field: str) -> None:
    """A PNG that says that it is large is not decoded, into hundreds of MB, only to find it cut."""
    if chunks[1][:8] != b"\x00\x00\x00\rIHDR":
        raise Refused(path, field, "PNG header is truncated")
    width, height, bits, channels = struct.unpack(">IIBB", chunks[1][8:18])
    packed = sum(len(chunk) - 12 for chunk in chunks if chunk[4:8] == b"IDAT")
    needed = height * (width * bits * _PNG_SAMPLES.get(channels, 1) // 8) // _MOST_INFLATED
    if packed < needed:
        got, expected = f"{packed} bytes of pixels", f"{needed} or more"
        raise Refused(path, field, "PNG is truncated", got, expected)
