"""How much the chunks of an MCAP file unpack to, before anything unpacks them.

The file is a row of records: opcode (1 byte), length (8), content. A chunk's content is when it
begins and ends (8 + 8), its size unpacked (8), a checksum (4), the name of its compression (4 +
name), its size (8), and the packed bytes, which may unpack to more than they say.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from protoscene.errors import Refused

MAGIC_BYTES = 8
CHUNK = 0x06
FREE_BYTES = 256 * 2**20
"""A chunk may unpack to so much, whatever its size; beyond that to 20 times its size."""
MOST_EXPANSION = 20
LZ4_EXPANSION = 255
"""A byte of LZ4 stands for no more."""
LONGEST_NAME = 64
ZSTD_HEAD = 18


def require_small_chunks(file: Path) -> None:
    """Raises Refused where a chunk unpacks to more than 256 MB and 20 times its size. What cannot
    be read is left to the parser to complain of."""
    with file.open("rb") as opened:
        end = opened.seek(0, 2)
        start = MAGIC_BYTES
        while start + 9 <= end:
            opened.seek(start)
            opcode, length = struct.unpack("<BQ", opened.read(9))
            if opcode == CHUNK:
                _require_small(file, opened, start)
            start += 9 + length


def _require_small(file: Path, opened: BinaryIO, start: int) -> None:
    head = opened.read(32)
    if len(head) < 32:
        return
    claimed, name_bytes = struct.unpack("<16xQ4xI", head)
    name = opened.read(min(name_bytes, LONGEST_NAME)).decode(errors="replace")
    packed_bytes = int.from_bytes(opened.read(8), "little")
    most = max(FREE_BYTES, MOST_EXPANSION * packed_bytes)
    size = claimed
    if name == "zstd":
        size = _zstd_size(opened.read(ZSTD_HEAD), claimed)
    elif name == "lz4" and LZ4_EXPANSION * packed_bytes > most:
        size = max(claimed, _lz4_size(opened, packed_bytes, most))
    if size > most:
        expected = f"at most {MOST_EXPANSION}:1 beyond {FREE_BYTES // 2**20} MiB"
        problem = "chunk unpacks to too much"
        raise Refused(file, f"byte {start}", problem, f"{size} bytes or more", expected)


def _zstd_size(head: bytes, claimed: int) -> int:
    """What a reader makes room for: the size in the frame's head, or else the claimed one, at
    which it stops."""
    import zstandard

    try:
        said = zstandard.get_frame_parameters(head).content_size
    except zstandard.ZstdError:
        return claimed
    return claimed if said == zstandard.CONTENTSIZE_UNKNOWN else max(said, claimed)


def _lz4_size(opened: BinaryIO, packed_bytes: int, most: int) -> int:
    """Bytes that come out, counted until they are more than ``most``."""
    from lz4.frame import LZ4FrameDecompressor

    unpacker, size, left = LZ4FrameDecompressor(), 0, packed_bytes
    try:
        while size <= most and not unpacker.eof:
            packed = b""
            if unpacker.needs_input:
                packed = opened.read(min(left, 2**16))
                left -= len(packed)
                if not packed:
                    break
            size += len(unpacker.decompress(packed, max_length=2**20))
    except RuntimeError:  # damaged: the parser says so
        pass
    return size
