"""A long job's stages: what each came to is kept, so that a killed job goes on after the last one.

Every stage is a sealed folder, complete or absent. A stage's outcome is what was kept of it, also
where it has just been computed: whoever goes on from it has the same bits before him.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from protoscene.checkpoints import Identity, check_identity
from protoscene.errors import Failed, Refused
from protoscene.files import discard_folder, make_folder, remove_temporaries
from protoscene.memory import give_back
from protoscene.records import name_of, packed, unpacked
from protoscene.sealed import (
    FileEntry,
    Sealed,
    check_listing,
    read_listed,
    read_sealed,
    save_sealed,
)

FORMAT, VERSION = "protoscene-stage", 1
JSON_NAME = "stage.json"
FILE_BYTES = 2**24
"""Tensors of a stage share a file up to so many: writing one takes twice its bytes in memory."""

T = TypeVar("T")


class Stage(Sealed, kw_only=True):
    """What a stage came to, but for its tensors."""

    identity: dict[str, str | int | float | None]
    outcome: Any


class Stages:
    """The finished stages of the job with this ``identity``, as ``folder``/NAME; the folder is made
    when the first one is finished. Nothing is kept where ``folder`` is None. ``classes`` are those
    of which outcomes consist. One process at a time.

    Raises Refused where a stage was kept by a job of another identity, naming the difference.
    """

    def __init__(self, folder: Path | None, identity: Identity, *classes: type) -> None:
        self.folder, self.identity = folder, identity
        self._classes = {name_of(one): one for one in classes}
        if folder is not None and folder.is_dir():
            remove_temporaries(folder)
            for file in sorted(folder.glob(f"*/{JSON_NAME}")):
                self._read(file.parent)

    def outcome(self, name: str, compute: Callable[[], T]) -> T:
        """What the stage ``name`` came to, computed only if it is not kept. Raises Failed where it
        cannot be written, with the stages before it kept."""
        place = None if self.folder is None else self.folder / name
        if place is not None and place.exists() and (stage := self._read(place)):
            read = [read_listed(place, stage, name) for name in stage.files]
            kept = stage.outcome, {n: t.clone() for own in read for n, t in own.items()}  # as made
            del read
        else:
            kept = packed(compute())
            if place is not None:
                self._keep(place, *kept)
        result: T = unpacked(*kept, self._classes)
        del kept
        give_back()
        return result

    def _read(self, place: Path) -> Stage | None:
        """The stage in ``place``; one that is damaged is removed, with a warning."""
        try:
            stage = read_sealed(place, JSON_NAME, "stage", FORMAT, Stage)
            check_listing(place, JSON_NAME, "stage", stage, ())
        except Refused as problem:
            warnings.warn(f"{problem}; doing this part again", stacklevel=4)
            discard_folder(place)
            return None
        check_identity(place, stage.identity, self.identity)
        return stage

    def _keep(self, place: Path, outcome: Any, tensors: dict[str, Tensor]) -> None:
        make_folder(place.parent)

        def entry(files: dict[str, FileEntry]) -> Stage:
            return Stage(
                format=FORMAT, version=VERSION, files=files, identity=dict(self.identity),
                outcome=outcome,
            )  # fmt: skip

        try:
            save_sealed(place, JSON_NAME, _in_files(tensors), entry)
        except Refused as problem:  # by the disk, not of the input
            raise Failed(str(problem)) from None


def _in_files(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors one after the other, as many to a file as ``FILE_BYTES`` allow."""
    files: list[dict[str, Tensor]] = []
    size = 0
    for name, tensor in tensors.items():
        size += tensor.nbytes
        if not files or size > FILE_BYTES:
            files.append({})
            size = tensor.nbytes
        files[-1][name] = tensor
    return {f"state-{k}.safetensors": own for k, own in enumerate(files)}
