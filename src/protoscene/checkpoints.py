"""Checkpoints of a training run: sealed folders ``step-N``, of which the last two are kept."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numba
import numpy as np
import scipy
import torch
from torch import Tensor

from protoscene import __version__
from protoscene.errors import Failed, Refused
from protoscene.files import discard_folder, remove_temporaries
from protoscene.sealed import (
    FileEntry,
    Sealed,
    check_listing,
    read_listed,
    read_sealed,
    save_sealed,
)

FORMAT, VERSION = "protoscene-checkpoint", 1
JSON_NAME, STATE = "checkpoint.json", "state.safetensors"
KEPT = 2

Identity = Mapping[str, str | int | float | None]
"""Everything that a run's outcome depends on, by name: settings, inputs, versions, threads."""


class Checkpoint(Sealed, kw_only=True):
    """The state of a run after ``step`` steps, but for its tensors."""

    step: int
    identity: dict[str, str | int | float | None]
    best_step: int
    best_loss: float | None
    """Of the averaged weights on what is held out; null before the first such check."""
    history: list[tuple[int, float, float | None]]
    """Step, mean loss since the row before, held-out loss."""


def save_checkpoint(folder: Path, checkpoint: Checkpoint, tensors: Mapping[str, Tensor]) -> None:
    """Writes ``folder``/step-N, then removes all but the last two.

    Raises Failed, with nothing written, where a number is not finite.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise Failed(f"step {checkpoint.step}: {name} is not finite, not saved")
    place = folder / f"step-{checkpoint.step:08d}"

    def with_files(files: dict[str, FileEntry]) -> Checkpoint:
        checkpoint.files = files
        return checkpoint

    save_sealed(place, JSON_NAME, {STATE: tensors}, with_files)
    for old in _saved(folder)[:-KEPT]:
        discard_folder(old)


def load_checkpoint(
    folder: Path, identity: Identity
) -> tuple[Checkpoint, dict[str, Tensor]] | None:
    """The last whole checkpoint, or None where there is none yet.

    Damaged ones are removed with a warning as long as an older one is whole, and so is what a
    killed process left half-written. Raises Refused where all are damaged, or where the run was
    begun with another ``identity``, naming the first difference.
    """
    remove_temporaries(folder)
    damaged: dict[Path, Refused] = {}
    for place in reversed(_saved(folder)):
        try:
            found = _read(place)
        except Refused as error:
            damaged[place] = error
            continue
        check_identity(place, found[0].identity, identity)
        for other, problem in damaged.items():
            warnings.warn(f"{problem}; going on from {place.name}", stacklevel=2)
            discard_folder(other)
        return found
    if damaged:
        raise next(iter(damaged.values()))
    return None


def _read(place: Path) -> tuple[Checkpoint, dict[str, Tensor]]:
    checkpoint = read_sealed(place, JSON_NAME, "checkpoint", FORMAT, Checkpoint)
    check_listing(place, JSON_NAME, "checkpoint", checkpoint, {STATE})
    return checkpoint, read_listed(place, checkpoint, STATE)


def _saved(folder: Path) -> list[Path]:
    """In the order in which they were written."""
    return sorted(folder.glob("step-*"))


def check_identity(place: Path, then: Identity, now: Identity) -> None:
    """Raises Refused, naming the first difference, unless the run that left ``place`` had the same
    identity."""
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            problem = "is another than that of the interrupted run"
            raise Refused(place, name, problem, now.get(name), then.get(name))


def versions() -> Identity:
    """Of what computes: libraries, and threads, which change the order of sums."""
    return {
        "protoscene": __version__, "torch": str(torch.__version__), "numba": numba.__version__,
        "numpy": np.__version__, "scipy": scipy.__version__, "threads": torch.get_num_threads(),
    }  # fmt: skip
