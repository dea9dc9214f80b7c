"""Folders of one JSON file and safetensors files, sealed by hashes: complete or absent.

The JSON file lists length and sha256 of every other file and carries its own; it is written last.
What a scene, a model or a checkpoint writes into it is their own business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as tensor_bytes
from torch import Tensor

from protoscene.errors import Refused
from protoscene.files import OutputLock, check_disk_space, new_folder, write_file
from protoscene.formats.foreign import refuse_file
from protoscene.formats.manifest import read_json
from protoscene.formats.paths import read_file, resolve_inside

MOST_JSON_BYTES = 64 * 2**20
MOST_FILE_BYTES = 64 * 2**30
NO_HASH = "0" * 64


class FileEntry(Struct):
    bytes: int
    sha256: str


class Sealed(Struct, kw_only=True):
    """What the JSON file of every sealed folder holds."""

    format: str
    version: int
    files: dict[str, FileEntry]
    sha256: str | UnsetType = UNSET
    """Of this file with these 64 digits as zeros. A file written by hand may leave it out."""


class _Header(Struct):
    format: str
    version: int


Entry = TypeVar("Entry", bound=Sealed)


def save_sealed(
    folder: Path,
    json_name: str,
    tensors: Mapping[str, Mapping[str, Tensor]],
    entry_of: Callable[[dict[str, FileEntry]], Sealed],
    lock: OutputLock | None = None,
) -> None:
    """Writes ``folder``, complete or not at all: ``tensors[NAME]`` as safetensors into NAME, then
    ``entry_of(files)`` into ``json_name``. ``lock`` if the caller holds it already.

    Raises Refused where ``folder`` exists, cannot be written, is being written or does not fit on
    the disk.
    """
    folder = Path(folder)
    with nullcontext() if lock else OutputLock(folder):
        total = sum(t.nbytes for group in tensors.values() for t in group.values())
        check_disk_space(folder, total + 2**20)
        with new_folder(folder) as temporary:
            files = {}
            for name, group in tensors.items():
                data = tensor_bytes(dict(group))
                files[name] = FileEntry(len(data), hashlib.sha256(data).hexdigest())
                (temporary / name).parent.mkdir(exist_ok=True)
                write_file(temporary / name, data)
            write_file(temporary / json_name, encode_sealed(entry_of(files)))


def encode_sealed(entry: Sealed) -> bytes:
    """The JSON file as bytes: sorted keys, its own hash filled in."""
    entry.sha256 = NO_HASH
    return with_own_hash(msgspec.json.encode(entry, order="sorted") + b"\n", b'"sha256":"')


def with_own_hash(data: bytes, before: bytes) -> bytes:
    """``data`` with its own sha256 in the place of the 64 zeros that follow ``before``."""
    own = hashlib.sha256(data).hexdigest()
    return data.replace(before + NO_HASH.encode(), before + own.encode())


def is_own_hash(data: bytes, digits: str) -> bool:
    """Whether ``digits`` in ``data`` are the sha256 of ``data`` with zeros in their place."""
    if len(digits) != len(NO_HASH):
        return False
    zeros = data.replace(digits.encode(), NO_HASH.encode())
    return hashlib.sha256(zeros).hexdigest() == digits


def read_sealed(folder: Path, json_name: str, noun: str, form: str, kind: type[Entry]) -> Entry:
    """The JSON file of the ``noun`` in ``folder``, checked by itself: format ``form`` version 1,
    the fields of ``kind``, its own hash. The files that it lists are not looked at.

    Raises Refused, naming file and field.
    """
    folder = Path(folder)
    if not folder.exists():
        raise Refused(folder, noun, "is missing")
    if not folder.is_dir():
        refuse_file(folder, noun, f"a {noun}'s folder")
    file = folder / json_name
    data = read_file(file, noun, MOST_JSON_BYTES)
    header = _decoded(file, data, noun, _Header)
    if header.format != form:
        raise Refused(file, "format", f"is not a {noun}", got=header.format, expected=form)
    if header.version > 1:
        raise Refused(file, "version", f"made by version {header.version}, this reads ≤ 1")
    entry = _decoded(file, data, noun, kind)
    _check_own_hash(file, data, noun, entry)
    return entry


def _decoded(file: Path, data: bytes, noun: str, kind: Any) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at `$.")
        raise Refused(file, where.rstrip("`") or noun, problem) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(file, "JSON", str(error)) from None


def _check_own_hash(file: Path, data: bytes, noun: str, entry: Sealed) -> None:
    if entry.sha256 is UNSET:
        keys = _decoded(file, data, noun, dict[str, msgspec.Raw])
        if close := get_close_matches("sha256", [k for k in keys if k != "made_by"], 1, 0.7):
            raise Refused(file, close[0], "unknown field; did you mean 'sha256'?")
        read_json(file)  # by hand a key is easily written twice
        return
    if not is_own_hash(data, str(entry.sha256)):
        raise Refused(file, "sha256", "the file was changed after it was written")


def check_listing(
    folder: Path, json_name: str, noun: str, entry: Sealed, used: Collection[str]
) -> None:
    """Raises Refused unless every file in ``used`` is listed, every listed file is inside the
    folder, those not in ``used`` are whole, and no other safetensors file is there."""
    file = folder / json_name
    for name in sorted(set(used) - set(entry.files)):
        raise Refused(file, "files", f"a file of the {noun} is not listed", got=name)
    for name in entry.files:
        resolve_inside(folder, name, file, "files")
        if name not in used:  # those are verified when they are read
            _verified(folder, entry, name)
    for path in sorted(folder.rglob("*.safetensors")):
        if path.relative_to(folder).as_posix() not in entry.files:
            raise Refused(path, "file", f"does not belong to this {noun}", expected="a listed file")


def read_listed(folder: Path, entry: Sealed, name: str) -> dict[str, Tensor]:
    """The tensors of a listed file, after its length and hash were found right."""
    data = _verified(folder, entry, name)
    try:
        return read_tensors(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise Refused(folder / name, "safetensors", str(error)) from None


def _verified(folder: Path, entry: Sealed, name: str) -> bytes:
    path, listed = folder / name, entry.files[name]
    data = read_file(path, "file", MOST_FILE_BYTES)
    if len(data) != listed.bytes:
        raise Refused(path, "bytes", "is not whole", got=len(data), expected=listed.bytes)
    if hashlib.sha256(data).hexdigest() != listed.sha256:
        raise Refused(path, "sha256", "was changed after it was written")
    return data
