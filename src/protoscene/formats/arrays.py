"""``.npy`` and ``.npz`` depth files, parsed here: no pickle, no size that the bytes do not have."""

from __future__ import annotations

import io
import math
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np

from protoscene.errors import Refused
from protoscene.formats.lens import MAX_PIXELS

ZIP_MAGIC = b"PK\x03\x04"
_MAX_ARRAY_BYTES = 8 * MAX_PIXELS + 4096
_FREE_EXPANSION = 256 * 10**6
_MAX_HEADER = 10_000
_HEADER = re.compile(
    r"\{\s*'descr':\s*'([^']*)',\s*'fortran_order':\s*(True|False),"
    r"\s*'shape':\s*\(\s*((?:\d+\s*,\s*)*\d*)\s*\),?\s*\}\s*"
)
_DTYPES = re.compile(r"[<>=]f[248]|[<>=][iu][248]")


def array_header(
    file: io.BufferedIOBase, size: int, path: Path, field: str
) -> tuple[tuple[int, int], str]:
    """(height, width) and dtype of a depth array, from the header (and zip directory) alone."""
    if file.read(4) == ZIP_MAGIC:
        member, archive = _member(file, path, field)
        with archive:
            size = member.file_size
            with _opened(archive, member, path, field) as unpacked:
                head = _read(unpacked, 12 + _MAX_HEADER, path, field)
    else:
        file.seek(0)
        head = file.read(12 + _MAX_HEADER)
    shape, dtype, _, start = _parsed_header(head, path, field)
    needed = start + math.prod(shape) * dtype.itemsize
    if needed != size:
        problem = f"array {shape[0]}×{shape[1]} {dtype.name} does not fit the file"
        raise Refused(path, field, problem, got=f"{size} bytes", expected=f"{needed}")
    return shape, dtype.name


def npy_bytes(data: bytes, path: Path, field: str) -> bytes:
    """The ``.npy`` bytes of a file: itself, or the array inside a ``.npz``, checksum verified."""
    if data[:4] != ZIP_MAGIC:
        return data
    member, archive = _member(io.BytesIO(data), path, field)
    with archive, _opened(archive, member, path, field) as unpacked:
        content = _read(unpacked, member.file_size + 1, path, field)
    if len(content) != member.file_size:
        raise Refused(path, field, "archive is truncated", f"{len(content)} bytes")
    return content


def parse_npy(data: bytes, path: Path, field: str) -> np.ndarray:
    """The (height, width) array; raises Refused where the header and the bytes disagree."""
    shape, dtype, transposed, start = _parsed_header(data[: 12 + _MAX_HEADER], path, field)
    needed = start + math.prod(shape) * dtype.itemsize
    if needed != len(data):
        problem = f"array {shape[0]}×{shape[1]} {dtype.name} does not fit the file"
        raise Refused(path, field, problem, got=f"{len(data)} bytes", expected=f"{needed}")
    values = np.frombuffer(data, dtype, offset=start)
    return values.reshape(shape[::-1]).T if transposed else values.reshape(shape)


def _parsed_header(
    head: bytes, path: Path, field: str
) -> tuple[tuple[int, int], np.dtype, bool, int]:
    """Shape, dtype, whether columns come first (Fortran order), and where the elements start."""
    if head[:6] != b"\x93NUMPY" or len(head) < 12 or head[6] not in (1, 2):
        raise Refused(path, field, ".npy header is truncated or of another version")
    start = 10 if head[6] == 1 else 12
    length = int.from_bytes(head[8:start], "little")
    text = head[start : start + length].decode("latin-1")
    if length > _MAX_HEADER or len(text) < length:
        raise Refused(path, field, ".npy header is truncated or too long", f"{length} bytes")
    match = _HEADER.fullmatch(text)
    if match and "O" in match[1]:
        raise Refused(path, field, "pickled data is never loaded", got="object array")
    if not match or not _DTYPES.fullmatch(match[1]):
        got = match[1] if match else text.strip()
        expected = "float16/32/64 or 16/32/64-bit integers"
        raise Refused(path, field, "array is not depth", got=got, expected=expected)
    sizes = [word.strip() for word in match[3].split(",")]
    shape = [int(word) if len(word) < 10 else 10**10 for word in sizes if word]
    if len(shape) == 3 and shape[2] == 1:
        shape = shape[:2]
    if len(shape) != 2:
        got = f"({', '.join(sizes)})"
        raise Refused(path, field, "depth array has the wrong shape", got, "(height, width)")
    return (shape[0], shape[1]), np.dtype(match[1]), match[2] == "True", start + length


def _member(
    file: io.BufferedIOBase, path: Path, field: str
) -> tuple[zipfile.ZipInfo, zipfile.ZipFile]:
    """The one array of an archive: named ``depth``, or the only one there is."""
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise Refused(path, field, f".npz is truncated or damaged: {error}") from error
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if "depth" in members or len(members) == 1:
        return members.get("depth") or next(iter(members.values())), archive
    got = ", ".join(sorted(members)) or "no arrays"
    raise Refused(path, field, '.npz has no array named "depth"', got=got, expected='"depth"')


def _opened(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, field: str
) -> zipfile.ZipExtFile:
    size = member.file_size
    if size > _MAX_ARRAY_BYTES or size > max(_FREE_EXPANSION, 20 * member.compress_size):
        got, expected = f"{size} bytes unpacked", "at most 64 MP, and 20:1 beyond 256 MB"
        raise Refused(path, field, "archive unpacks to too much", got, expected)
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Refused(path, field, ".npz compression is neither stored nor deflated")
    try:
        return archive.open(member)  # type: ignore[return-value]
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, ValueError) as error:
        raise Refused(path, field, f".npz is damaged: {error}") from error


def _read(unpacked: zipfile.ZipExtFile, size: int, path: Path, field: str) -> bytes:
    try:
        return unpacked.read(size)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        raise Refused(path, field, f".npz is truncated or damaged: {error}") from error
