"""Scene folders: ``scene.json`` and safetensors volumes, hashed, complete or absent.

``docs/format.md`` describes the files. Nothing stored holds a clock time, a host or an absolute
path: the same scene gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from protoscene.errors import Failed, Refused
from protoscene.files import OutputLock, new_folder, prepare_output, write_file
from protoscene.geometry import Grid
from protoscene.prototypes import VoxelPrototypes
from protoscene.scene import Scene
from protoscene.scene_json import (
    SCENE_JSON,
    SceneEntry,
    entry_of_scene,
    objects_of,
    prototype_file,
    read_scene_json,
    symmetry_of,
)
from protoscene.sealed import Sealed, check_listing, read_listed, save_sealed
from protoscene.volume import Background, Outside, SparseVolume, Volume
from protoscene.volume_file import ROUNDING, volume_of, volume_tensors

__all__ = ["OutputLock", "load_scene", "new_folder", "prepare_output", "save_scene", "write_file"]


def save_scene(scene: Scene, folder: Path, lock: OutputLock | None = None) -> None:
    """Writes ``folder``, complete or not at all; ``lock`` if the caller holds it already.

    Volumes are stored as float16. Raises Refused where ``folder`` exists, cannot be written, is
    being written or does not fit on the disk; Failed where a number is not finite.
    """
    volumes = {"background.safetensors": _background_tensors(scene.background)}
    volumes |= prototype_tensors(scene.prototypes, scene.confidence)
    save_sealed(folder, SCENE_JSON, volumes, lambda files: entry_of_scene(scene, files), lock)


def load_scene(folder: Path) -> Scene:
    """The scene in ``folder``, volumes as float32.

    Raises Refused, naming file and field, where something is missing, was changed after it was
    written, was written by a newer version, or contradicts the rest.
    """
    folder = Path(folder)
    entry = read_scene_json(folder)
    files = [p.file for p in entry.prototypes]
    check_listing(folder, SCENE_JSON, "scene", entry, {entry.background, *files})
    prototypes, confidence = read_prototypes(folder, entry, files)
    return Scene(
        times=tuple(entry.times),
        background=_read_background(folder, entry),
        prototypes=prototypes,
        objects=tuple(objects_of(entry)),
        sizes_m=tuple(p.size_m for p in entry.prototypes),
        symmetries=tuple(symmetry_of(p) for p in entry.prototypes),
        confidence=confidence,
        made_by=entry.made_by,
    )


def prototype_tensors(
    prototypes: VoxelPrototypes, confidence: Sequence[Tensor | None] = ()
) -> dict[str, dict[str, Tensor]]:
    """What the files of a dictionary hold, by their names in a scene's or a model's folder."""
    found = {}
    for k in range(len(prototypes)):
        tensors = volume_tensors(Volume(prototypes.rgba(k), prototypes.grid(k)))
        seen = confidence[k] if confidence else None
        if seen is not None:
            if not _fits(seen, tensors["rgba"]):
                problem = "confidence is not (z, y, x) in [0, 1], nothing was written"
                raise Failed(f"prototype {k}: {problem}")
            tensors["confidence"] = seen.detach().to("cpu", torch.float16).contiguous()
        found[prototype_file(k)] = tensors
    return found


def read_prototypes(
    folder: Path, entry: Sealed, files: Sequence[str]
) -> tuple[VoxelPrototypes, tuple[Tensor | None, ...]]:
    """The dictionary of a sealed folder, one listed file each, and each voxel's confidence where
    it is known. Raises Refused as :func:`load_scene`."""
    read = [_read_prototype(folder, entry, name) for name in files]
    volumes = [volume for volume, _ in read]
    prototypes = VoxelPrototypes([v.rgba for v in volumes], [v.grid.voxel_size for v in volumes])
    return prototypes, tuple(seen for _, seen in read)


def _tensors(volume: Volume) -> dict[str, Tensor]:
    return _sparse_tensors(volume) if isinstance(volume, SparseVolume) else volume_tensors(volume)


def _sparse_tensors(volume: SparseVolume) -> dict[str, Tensor]:
    values = volume.values.detach()
    if not bool(((values > -ROUNDING) & (values < 1 + ROUNDING)).all()):
        raise Failed("a volume holds numbers outside of [0, 1], nothing was written")
    return {
        "places": volume.places.to("cpu", torch.int64).contiguous(),
        "values": values.clamp(0, 1).to("cpu", torch.float16).contiguous(),
        "shape": torch.tensor(volume.grid.shape, dtype=torch.int64),
        "origin": torch.tensor(volume.grid.origin, dtype=torch.float64),
        "voxel_size": torch.tensor(volume.grid.voxel_size, dtype=torch.float64),
    }


def _background_tensors(background: Background) -> dict[str, Tensor]:
    tensors = _tensors(background.volume)
    if background.outside is not None:
        tensors |= volume_tensors(background.outside.volume, "outside_")
        tensors["sky"] = background.outside.colour.detach().to("cpu", torch.float64).contiguous()
    for k, part in enumerate(background.detail):
        tensors |= volume_tensors(part, f"detail{k}_")
    return tensors


def _sparse_volume(path: Path, tensors: Mapping[str, Tensor], grid: Grid) -> Volume:
    """Of the occupied voxels alone, on a scene's grid."""
    places, values, shape = (tensors.get(name) for name in ("places", "values", "shape"))
    if places is None or places.dtype != torch.int64:
        raise Refused(path, "places", "must be (n,) int64")
    if shape is None or shape.dim() != 1 or tuple(shape.tolist()) != grid.shape:
        raise Refused(path, "grid", "is another than that of scene.json")
    if values is None or values.dim() != 2 or values.shape[1] != 4:
        raise Refused(path, "values", "must be (n, 4)")
    if not values.is_floating_point() or not bool(((values >= 0) & (values <= 1)).all()):
        raise Refused(path, "values", "must be numbers in [0, 1]")
    try:
        return SparseVolume(places, values.float(), grid)
    except ValueError as error:
        raise Refused(path, "places", str(error)) from None


def _read_background(folder: Path, entry: SceneEntry) -> Background:
    path = folder / entry.background
    tensors = read_listed(folder, entry, entry.background)
    if "places" in tensors:
        grid = Grid(entry.grid.origin, entry.grid.voxel_size, entry.grid.shape)
        return Background(_sparse_volume(path, tensors, grid))
    volume = volume_of(path, tensors)
    grid = Grid(entry.grid.origin, entry.grid.voxel_size, entry.grid.shape)
    if volume.grid != grid:
        raise Refused(path, "grid", "is another than that of scene.json", got=volume.grid.shape)
    detail: list[Volume] = []
    while f"detail{len(detail)}_rgba" in tensors:
        detail.append(volume_of(path, tensors, f"detail{len(detail)}_"))
    if "outside_rgba" not in tensors:
        return Background(volume, None, tuple(detail))
    sky = tensors.get("sky")
    if sky is None or tuple(sky.shape) != (3,) or not bool(((sky >= 0) & (sky <= 1)).all()):
        raise Refused(path, "sky", "must be three numbers in [0, 1]")
    return Background(
        volume, Outside(volume_of(path, tensors, "outside_"), sky.float()), tuple(detail)
    )


def _read_prototype(folder: Path, entry: Sealed, name: str) -> tuple[Volume, Tensor | None]:
    tensors = read_listed(folder, entry, name)
    volume, seen = volume_of(folder / name, tensors), tensors.get("confidence")
    middle = (volume.grid.lower + volume.grid.upper) / 2
    if np.abs(middle).max() > 1e-6 * max(volume.grid.size_m):
        problem = "must put the frame's origin at the volume's middle"
        raise Refused(folder / name, "origin", problem, got=volume.grid.origin)
    if seen is None:
        return volume, None
    if not _fits(seen, volume.rgba):
        problem = "must be (z, y, x) as its volume, in [0, 1]"
        raise Refused(folder / name, "confidence", problem, got=tuple(seen.shape))
    return volume, seen.float()


def _fits(confidence: Tensor, rgba: Tensor) -> bool:
    """Whether it is a number in [0, 1] for each voxel."""
    same = confidence.shape == rgba.shape[1:] and confidence.is_floating_point()
    return same and bool(((confidence >= 0) & (confidence <= 1)).all())
