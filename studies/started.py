"""What refinement starts from, of a recording of the suite: kept on disk between studies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from protoscene.backdrop import backdrop
from protoscene.background import Static, estimate_background, subtract
from protoscene.follow import follow, merge_fragments
from protoscene.formats import load
from protoscene.observe import choose_grid, observe
from protoscene.propose import propose
from protoscene.recording import Recording
from protoscene.start import Thing, start
from protoscene.synth import SUITE, write_recording
from protoscene.volume import Background, Evidence

VOXEL_M = 0.05
BOUNDS = (-3.2, -3.2, -0.1, 3.2, 3.2, 1.5)


@dataclass(frozen=True, eq=False)
class Started:
    """A recording, its evidence on 128×128×32 voxels, and what was found before refinement."""

    recording: Recording
    evidence: list[Evidence]
    background: Background
    things: list[Thing]


def started(kind: str, seed: int, data: Path, kept: Path) -> Started:
    """Made as ``discover`` does; the things are kept in ``kept`` (KIND-SEED.safetensors), to be
    deleted when what comes before refinement changed."""
    folder, file = data / f"{kind}-{seed}", kept / f"{kind}-{seed}.safetensors"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_recording(SUITE[kind](seed), folder)
    recording = load(folder / "recording")
    grid = choose_grid(recording, VOXEL_M, BOUNDS)
    evidence, static = observe(recording, grid), estimate_background(recording, grid)
    background = backdrop(recording, evidence, static)
    if not file.is_file():
        things = things_in(recording, static)
        kept.mkdir(parents=True, exist_ok=True)
        save_file({f"{k}.{n}": v for k, t in enumerate(things) for n, v in _arrays(t).items()},
                  file)  # fmt: skip
    return Started(recording, evidence, background, _things(file))


def things_in(recording: Recording, static: Static) -> list[Thing]:
    """Everything that moves, with the pictures around it."""
    grid = static.surface.grid
    bounds, blobs = np.stack([grid.lower, grid.upper]), []
    for i in range(len(recording)):
        views = list(recording.views(i))
        blobs.append(propose(i, views, subtract(views, static), VOXEL_M / 2, bounds))
    trails = merge_fragments(follow(blobs, recording.times))
    return start(recording, trails, blobs, static.noise)


def _arrays(thing: Thing) -> dict[str, np.ndarray]:
    arrays = {
        "instants": np.array(thing.instants), "dims": thing.dims, "poses": thing.poses,
        "misfits": thing.misfits, "rgba": thing.rgba.numpy(),
        "meta": np.array([thing.voxel_size, thing.score]),
    }  # fmt: skip
    return {name: np.ascontiguousarray(value) for name, value in arrays.items()}


def _things(file: Path) -> list[Thing]:
    stored = load_file(file)
    things: list[Thing] = []
    while f"{len(things)}.dims" in stored:
        own = {n: stored[f"{len(things)}.{n}"] for n in ("dims", "poses", "misfits")}
        instants, rgba, (voxel, score) = (
            stored[f"{len(things)}.{n}"] for n in ("instants", "rgba", "meta")
        )
        things.append(Thing(instants.tolist(), rgba=torch.from_numpy(rgba),
                            voxel_size=float(voxel), score=float(score), **own))  # fmt: skip
    return things
