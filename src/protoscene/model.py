"""What ``learn`` makes: a dictionary and a detector of its things, in a sealed folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from msgspec import UNSET, Struct
from torch import Tensor

from protoscene import __version__
from protoscene.errors import Failed, Refused
from protoscene.files import OutputLock
from protoscene.networks import Detector
from protoscene.prototypes import VoxelPrototypes
from protoscene.scene_json import PrototypeEntry, check_prototypes, prototype_entries
from protoscene.sealed import (
    FileEntry,
    Sealed,
    check_listing,
    read_listed,
    read_sealed,
    save_sealed,
)
from protoscene.store import prototype_tensors, read_prototypes

FORMAT, VERSION = "protoscene-model", 1
MODEL_JSON, WEIGHTS = "model.json", "weights.safetensors"
MOST_VOXELS = 1024
"""Along a side of what a detector reads."""


@dataclass(frozen=True, eq=False)
class Model:
    """``prototypes`` with ``sizes_m`` and ``confidence`` as in a scene; ``detector`` finds them in
    evidence of ``shape`` (nz, ny, nx) voxels of ``voxel_size`` metres, the ground at the bottom."""

    prototypes: VoxelPrototypes
    sizes_m: tuple[tuple[float, float, float], ...]
    confidence: Sequence[Tensor | None]
    detector: Detector
    voxel_size: float
    shape: tuple[int, int, int]
    made_by: Mapping[str, str | int] = field(default_factory=dict)
    sha256: str = ""
    """Of the model.json that it was read from."""


class InputEntry(Struct):
    voxel_size: float
    shape: tuple[int, int, int]


class ModelEntry(Sealed, kw_only=True):
    input: InputEntry
    prototypes: list[PrototypeEntry]
    weights: str
    made_by: dict[str, str | int]


def save_model(model: Model, folder: Path, lock: OutputLock | None = None) -> None:
    """Writes ``folder``, complete or not at all; ``lock`` if the caller holds it already.

    Weights are stored as float32, prototypes as float16. Raises Refused where ``folder`` exists,
    cannot be written, is being written or does not fit on the disk; Failed where a weight is not
    finite.
    """
    weights = {
        name: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in model.detector.state_dict().items()
    }
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise Failed(f"weight {name} is not finite, nothing was written")
    tensors = {WEIGHTS: weights, **prototype_tensors(model.prototypes, model.confidence)}

    def entry(files: dict[str, FileEntry]) -> ModelEntry:
        return ModelEntry(
            format=FORMAT,
            version=VERSION,
            input=InputEntry(model.voxel_size, model.shape),
            prototypes=prototype_entries(model.sizes_m, [None] * len(model.prototypes)),
            weights=WEIGHTS,
            files=files,
            made_by={"protoscene": __version__, **model.made_by},
        )

    save_sealed(folder, MODEL_JSON, tensors, entry, lock)


def load_model(folder: Path) -> Model:
    """The model in ``folder``, ready to detect.

    Raises Refused, naming file and field, where something is missing, was changed after it was
    written, was written by a newer version, or contradicts the rest.
    """
    folder = Path(folder)
    file = folder / MODEL_JSON
    entry = read_sealed(folder, MODEL_JSON, "model", FORMAT, ModelEntry)
    check_prototypes(file, entry.prototypes)
    _check_input(file, entry)
    files = [p.file for p in entry.prototypes]
    check_listing(folder, MODEL_JSON, "model", entry, {entry.weights, *files})
    prototypes, confidence = read_prototypes(folder, entry, files)
    return Model(
        prototypes=prototypes,
        sizes_m=tuple(p.size_m for p in entry.prototypes),
        confidence=confidence,
        detector=_read_detector(folder, entry),
        voxel_size=entry.input.voxel_size,
        shape=entry.input.shape,
        made_by=entry.made_by,
        sha256="" if entry.sha256 is UNSET else str(entry.sha256),
    )


def _check_input(file: Path, entry: ModelEntry) -> None:
    if not entry.prototypes:
        raise Refused(file, "prototypes", "there is none", got=0, expected="1 or more")
    if not 0 < entry.input.voxel_size < float("inf"):
        got = entry.input.voxel_size
        raise Refused(file, "input.voxel_size", "is no length", got, "more than 0 metres")
    if not all(1 <= n <= MOST_VOXELS for n in entry.input.shape):
        expected = f"1 to {MOST_VOXELS} a side"
        raise Refused(file, "input.shape", "is none of a volume", entry.input.shape, expected)


def _read_detector(folder: Path, entry: ModelEntry) -> Detector:
    weights = read_listed(folder, entry, entry.weights)
    with torch.device("meta"):  # no numbers are drawn
        detector = Detector(len(entry.prototypes), entry.input.shape)
    forms = {name: (t.shape, t.dtype) for name, t in detector.state_dict().items()}
    path = folder / entry.weights
    for name in sorted({*forms, *weights}):
        read = weights.get(name)
        if read is None or name not in forms or (read.shape, read.dtype) != forms[name]:
            raise Refused(path, name, "is not what this version's detector of such input has")
        if not bool(torch.isfinite(read).all()):
            raise Refused(path, name, "holds a number that is not finite")
    detector.load_state_dict(weights, assign=True)
    return detector.eval().requires_grad_(False)
