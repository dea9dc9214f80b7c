"""Scene folders: ``scene.json`` and safetensors volumes, hashed, complete or absent.

``docs/format.md`` describes the files. Nothing stored holds a clock time, a host or an absolute
path: the same scene gives the same bytes.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as tensor_bytes
from torch import Tensor

from protoscene.errors import Failed, Refused
from protoscene.files import (
    OutputLock,
    check_disk_space,
    new_folder,
    prepare_output,
    write_file,
)
from protoscene.formats.paths import read_file, resolve_inside
from protoscene.geometry import Grid
from protoscene.prototypes import VoxelPrototypes
from protoscene.scene import Scene
from protoscene.scene_json import (
    FileEntry,
    SceneEntry,
    encode_scene,
    objects_of,
    prototype_file,
    read_scene_json,
)
from protoscene.volume import Background, Outside, Volume

__all__ = ["OutputLock", "load_scene", "new_folder", "prepare_output", "save_scene", "write_file"]

MOST_VOLUME_BYTES = 64 * 2**30
ROUNDING = 1e-3
"""By how much a computed occupancy or colour may leave [0, 1]."""


def save_scene(scene: Scene, folder: Path, lock: OutputLock | None = None) -> None:
    """Writes ``folder``, complete or not at all; ``lock`` if the caller holds it already.

    Volumes are stored as float16. Raises Refused where ``folder`` exists, cannot be written, is
    being written or does not fit on the disk; Failed where a number is not finite.
    """
    folder = Path(folder)
    volumes = {"background.safetensors": _background_tensors(scene.background)}
    for k in range(len(scene.prototypes)):
        volume = Volume(scene.prototypes.rgba(k), scene.prototypes.grid(k))
        volumes[prototype_file(k)] = _volume_tensors(volume)
    with nullcontext() if lock else OutputLock(folder):
        total = sum(t.nbytes for tensors in volumes.values() for t in tensors.values())
        check_disk_space(folder, total + 2**20)
        with new_folder(folder) as temporary:
            (temporary / "prototypes").mkdir()
            files = {}
            for name, tensors in volumes.items():
                data = tensor_bytes(tensors)
                files[name] = FileEntry(len(data), hashlib.sha256(data).hexdigest())
                write_file(temporary / name, data)
            write_file(temporary / "scene.json", encode_scene(scene, files))


def load_scene(folder: Path) -> Scene:
    """The scene in ``folder``, volumes as float32.

    Raises Refused, naming file and field, where something is missing, was changed after it was
    written, was written by a newer version, or contradicts the rest.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise Refused(folder, "scene", "is not a folder" if folder.exists() else "is missing")
    file = folder / "scene.json"
    entry = read_scene_json(file)
    _check_listing(folder, entry)
    background = _read_background(folder, entry)
    volumes = [_read_prototype(folder, entry, p.file) for p in entry.prototypes]
    return Scene(
        times=tuple(entry.times),
        background=background,
        prototypes=VoxelPrototypes([v.rgba for v in volumes], [v.grid.voxel_size for v in volumes]),
        objects=tuple(objects_of(entry)),
        sizes_m=tuple(p.size_m for p in entry.prototypes),
        symmetries=tuple(p.symmetry for p in entry.prototypes),
        made_by=entry.made_by,
    )


def volume_bytes(volume: Volume, suffix: str) -> bytes:
    """A composed volume as the bytes of a ``.safetensors`` or ``.npz`` file: ``rgba`` (float32),
    ``origin`` and ``voxel_size``."""
    tensors = _volume_tensors(volume, dtype=torch.float32)
    if suffix == ".safetensors":
        return tensor_bytes(tensors)
    if suffix != ".npz":
        raise ValueError(f"a volume is written as .safetensors or .npz, not {suffix}")
    archive = io.BytesIO()
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    np.savez_compressed(archive, allow_pickle=False, **arrays)
    return archive.getvalue()


def _volume_tensors(
    volume: Volume, prefix: str = "", dtype: torch.dtype = torch.float16
) -> dict[str, Tensor]:
    rgba = volume.rgba.detach()
    if not bool(((rgba > -ROUNDING) & (rgba < 1 + ROUNDING)).all()):
        raise Failed("a volume holds numbers outside of [0, 1], nothing was written")
    rgba = rgba.clamp(0, 1).to("cpu", dtype).contiguous()
    return {
        f"{prefix}rgba": rgba,
        f"{prefix}origin": torch.tensor(volume.grid.origin, dtype=torch.float64),
        f"{prefix}voxel_size": torch.tensor(volume.grid.voxel_size, dtype=torch.float64),
    }


def _background_tensors(background: Background) -> dict[str, Tensor]:
    tensors = _volume_tensors(background.volume)
    if background.outside is not None:
        tensors |= _volume_tensors(background.outside.volume, "outside_")
        tensors["sky"] = background.outside.colour.detach().to("cpu", torch.float64).contiguous()
    for k, part in enumerate(background.detail):
        tensors |= _volume_tensors(part, f"detail{k}_")
    return tensors


def _check_listing(folder: Path, entry: SceneEntry) -> None:
    file = folder / "scene.json"
    volumes = {entry.background, *(p.file for p in entry.prototypes)}
    for name in sorted(volumes - set(entry.files)):
        raise Refused(file, "files", "a volume of the scene is not listed", got=name)
    for name in entry.files:
        resolve_inside(folder, name, file, "files")
        if name not in volumes:  # volumes are verified when they are read
            _verified(folder, entry, name)
    for path in sorted(folder.rglob("*.safetensors")):
        if path.relative_to(folder).as_posix() not in entry.files:
            raise Refused(path, "file", "does not belong to this scene", expected="a listed file")


def _verified(folder: Path, entry: SceneEntry, name: str) -> bytes:
    """One listed file, after its length and hash were found right."""
    path, listed = folder / name, entry.files[name]
    data = read_file(path, "file", MOST_VOLUME_BYTES)
    if len(data) != listed.bytes:
        raise Refused(path, "bytes", "is not whole", got=len(data), expected=listed.bytes)
    if hashlib.sha256(data).hexdigest() != listed.sha256:
        raise Refused(path, "sha256", "was changed after it was written")
    return data


def _tensors(folder: Path, entry: SceneEntry, name: str) -> dict[str, Tensor]:
    data = _verified(folder, entry, name)
    try:
        return read_tensors(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise Refused(folder / name, "safetensors", str(error)) from None


def _volume(path: Path, tensors: Mapping[str, Tensor], prefix: str = "") -> Volume:
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


def _read_background(folder: Path, entry: SceneEntry) -> Background:
    path = folder / entry.background
    tensors = _tensors(folder, entry, entry.background)
    volume = _volume(path, tensors)
    grid = Grid(entry.grid.origin, entry.grid.voxel_size, entry.grid.shape)
    if volume.grid != grid:
        raise Refused(path, "grid", "is another than that of scene.json", got=volume.grid.shape)
    detail: list[Volume] = []
    while f"detail{len(detail)}_rgba" in tensors:
        detail.append(_volume(path, tensors, f"detail{len(detail)}_"))
    if "outside_rgba" not in tensors:
        return Background(volume, None, tuple(detail))
    sky = tensors.get("sky")
    if sky is None or tuple(sky.shape) != (3,) or not bool(((sky >= 0) & (sky <= 1)).all()):
        raise Refused(path, "sky", "must be three numbers in [0, 1]")
    return Background(
        volume, Outside(_volume(path, tensors, "outside_"), sky.float()), tuple(detail)
    )


def _read_prototype(folder: Path, entry: SceneEntry, name: str) -> Volume:
    volume = _volume(folder / name, _tensors(folder, entry, name))
    middle = (volume.grid.lower + volume.grid.upper) / 2
    if np.abs(middle).max() > 1e-6 * max(volume.grid.size_m):
        problem = "must put the frame's origin at the volume's middle"
        raise Refused(folder / name, "origin", problem, got=volume.grid.origin)
    return volume
