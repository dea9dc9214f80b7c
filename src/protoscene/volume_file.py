"""A volume as tensors, and a composed one as a file of its own that carries its hash."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import torch
from msgspec import Struct, field
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as tensor_bytes
from torch import Tensor

from protoscene.errors import Failed, Refused
from protoscene.formats.paths import read_file
from protoscene.geometry import Grid
from protoscene.sealed import MOST_FILE_BYTES, NO_HASH, is_own_hash, with_own_hash
from protoscene.volume import Volume

ROUNDING = 1e-3
"""By how much a computed occupancy or colour may leave [0, 1]."""
DAMAGED = (
    ValueError, KeyError, TypeError, OSError, EOFError, RuntimeError, NotImplementedError,
    MemoryError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What numpy and zipfile raise for an archive that is damaged, or says that it is huge."""
COMMENT = b"sha256:"
"""Begins an archive's comment."""


def volume_bytes(volume: Volume, suffix: str) -> bytes:
    """A composed volume as the bytes of a ``.safetensors`` or ``.npz`` file: ``rgba`` (float32),
    ``origin`` and ``voxel_size``; with the file's own sha256 in safetensors' metadata or in the
    archive's comment."""
    tensors = volume_tensors(volume, dtype=torch.float32)
    if suffix == ".safetensors":
        return with_own_hash(tensor_bytes(tensors, {"sha256": NO_HASH}), b'"sha256":"')
    if suffix != ".npz":
        raise ValueError(f"a volume is written as .safetensors or .npz, not {suffix}")
    file = io.BytesIO()
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    np.savez_compressed(file, allow_pickle=False, **arrays)
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = COMMENT + NO_HASH.encode()
    return with_own_hash(file.getvalue(), COMMENT)


def load_volume(path: str | Path) -> Volume:
    """A volume that ``compose`` wrote. Raises Refused, naming the field, where the file is missing,
    was changed after it was written or holds no volume."""
    path = Path(path)
    data = read_file(path, "volume", MOST_FILE_BYTES)
    packed = data[:2] == b"PK"
    digits = _hash_in_archive(data) if packed else _hash_in_header(path, data)
    if not is_own_hash(data, digits):
        raise Refused(path, "sha256", "is none, or the file was changed after it was written")
    try:  # whoever changes a file may mend its hash
        return volume_of(path, _unpacked(data) if packed else read_tensors(data))
    except (*DAMAGED, SafetensorError) as error:
        raise Refused(path, "volume", f"cannot be read: {error}") from None


def _unpacked(data: bytes) -> dict[str, Tensor]:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def _hash_in_archive(data: bytes) -> str:
    return data[-len(NO_HASH) :].decode("latin-1")


class _Header(Struct):
    metadata: dict[str, str] = field(name="__metadata__", default_factory=dict)


def _hash_in_header(path: Path, data: bytes) -> str:
    """Of the bytes that were read: the file may have been written over since."""
    end = 8 + int.from_bytes(data[:8], "little")
    try:
        return msgspec.json.decode(data[8:end], type=_Header).metadata.get("sha256", "")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(path, "safetensors", str(error)) from None


def volume_tensors(
    volume: Volume, prefix: str = "", dtype: torch.dtype = torch.float16
) -> dict[str, Tensor]:
    """What a file holds of a volume: ``rgba`` on the CPU, ``origin`` and ``voxel_size`` as float64.
    Raises Failed where a number is not in [0, 1]."""
    rgba = volume.rgba.detach()
    if not bool(((rgba > -ROUNDING) & (rgba < 1 + ROUNDING)).all()):
        raise Failed("a volume holds numbers outside of [0, 1], nothing was written")
    rgba = rgba.clamp(0, 1).to("cpu", dtype).contiguous()
    return {
        f"{prefix}rgba": rgba,
        f"{prefix}origin": torch.tensor(volume.grid.origin, dtype=torch.float64),
        f"{prefix}voxel_size": torch.tensor(volume.grid.voxel_size, dtype=torch.float64),
    }


def volume_of(path: Path, tensors: Mapping[str, Tensor], prefix: str = "") -> Volume:
    """The volume in the tensors of ``path``, as float32. Raises Refused where one is missing, has
    another form or holds a number outside of [0, 1]."""
    parts = {}
    for name, dims in (("rgba", 4), ("origin", 1), ("voxel_size", 0)):
        part = tensors.get(prefix + name)
        if part is None:
            raise Refused(path, prefix + name, "is missing", expected=f"{dims} dimensions")
        if part.dim() != dims or not part.is_floating_point():
            got = f"{part.dtype} {tuple(part.shape)}"
            expected = f"floating point, {dims} dimensions"
            raise Refused(path, prefix + name, "has the wrong form", got=got, expected=expected)
        parts[name] = part
    rgba = parts["rgba"].float()
    if rgba.shape[0] != 4 or not bool(((rgba >= 0) & (rgba <= 1)).all()):
        raise Refused(path, prefix + "rgba", "must be (4, z, y, x) in [0, 1]")
    _, nz, ny, nx = rgba.shape
    try:
        x, y, z = parts["origin"].tolist()
        return Volume(rgba, Grid((x, y, z), float(parts["voxel_size"]), (nz, ny, nx)))
    except ValueError as error:
        raise Refused(path, prefix + "origin", str(error)) from None
