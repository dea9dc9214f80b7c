"""Flipped bits and cut ends of every kind of file that protoscene writes: which are noticed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

import bad_inputs
from protoscene.checkpoints import FORMAT, VERSION, Checkpoint, load_checkpoint, save_checkpoint
from protoscene.errors import Refused
from protoscene.files import write_file
from protoscene.geometry import Grid
from protoscene.model import load_model
from protoscene.store import load_scene, save_scene
from protoscene.volume import Background, Volume
from protoscene.volume_file import load_volume, volume_bytes
from small_scene import a_scene


@dataclass(frozen=True)
class Kind:
    """``read()`` raises Refused where ``file`` is not as it was written."""

    name: str
    file: Path
    read: Callable[[], object]


@dataclass
class Noticed:
    """How many flips and cuts there were, and which of them were read as if nothing was."""

    flips: int = 0
    cuts: int = 0
    missed: list[str] = field(default_factory=list)


def kinds(folder: Path) -> list[Kind]:
    """One good file of each kind."""
    scene, bases = a_scene(), folder / "bases"
    bases.mkdir()
    bad_inputs.write_bases(bases)
    found = [
        Kind(f"scene, {file.name}", file, lambda: load_scene(bases / "scene"))
        for file in sorted((bases / "scene").rglob("*.*"))
    ]
    found += [
        Kind(f"model, {file.name}", file, lambda: load_model(bases / "model"))
        for file in sorted((bases / "model").rglob("*.*"))
    ]
    run = folder / "run"
    run.mkdir()
    state = {"weights": torch.rand(40), "step": torch.tensor(3)}
    checkpoint = Checkpoint(
        format=FORMAT, version=VERSION, files={}, step=3, identity={"seed": 0}, best_step=3,
        best_loss=0.5, history=[(3, 0.7, 0.5)],
    )  # fmt: skip
    save_checkpoint(run, checkpoint, state)
    found += [
        Kind(f"checkpoint, {file.name}", file, lambda: load_checkpoint(run, {"seed": 0}))
        for file in sorted(run.rglob("*.*"))
    ]
    volume = scene.compose(0.0)
    for suffix in (".safetensors", ".npz"):
        file = folder / f"volume{suffix}"
        write_file(file, volume_bytes(volume, suffix))
        found.append(Kind(f"volume, {suffix}", file, lambda file=file: load_volume(file)))
    return found


def damaged(kind: Kind, flips: int, cuts: int, seed: int) -> Noticed:
    """Single bits flipped and ends cut off at random, one at a time."""
    numbers = random.Random(f"{kind.name} {seed}")
    good, noticed = kind.file.read_bytes(), Noticed()
    kind.read()
    for _ in range(flips):
        place, bit = numbers.randrange(len(good)), numbers.randrange(8)
        bad = bytearray(good)
        bad[place] ^= 1 << bit
        noticed.flips += 1
        _read(kind, bytes(bad), f"bit {bit} of byte {place}", noticed)
    for _ in range(cuts):
        length = numbers.randrange(len(good))
        noticed.cuts += 1
        _read(kind, good[:length], f"cut to {length} of {len(good)}", noticed)
    kind.file.write_bytes(good)
    kind.read()
    return noticed


def _read(kind: Kind, data: bytes, what: str, noticed: Noticed) -> None:
    kind.file.write_bytes(data)
    try:
        kind.read()
    except Refused:
        return
    noticed.missed.append(f"{kind.name}: {what}")


def megabytes_per_second(folder: Path, side: int = 256) -> tuple[float, float]:
    """Of reading and verifying a scene whose background has ``side``³ voxels, in megabytes of file
    a second of processor time: the hash alone, and all of load_scene."""
    grid = Grid((0.0, 0.0, 0.0), 0.1, (side, side, side))
    background = Background(Volume(torch.zeros(4, side, side, side), grid))
    scene = a_scene()
    scene = type(scene)(
        times=scene.times, background=background, prototypes=scene.prototypes,
        objects=scene.objects, sizes_m=scene.sizes_m, symmetries=scene.symmetries,
        confidence=scene.confidence, made_by=scene.made_by,
    )  # fmt: skip
    save_scene(scene, folder / "large")
    from protoscene import scene_json, sealed

    entry = scene_json.read_scene_json(folder / "large")
    megabytes = entry.files[entry.background].bytes / 1e6
    seconds = []
    for work in (
        lambda: sealed._verified(folder / "large", entry, entry.background),
        lambda: load_scene(folder / "large"),
    ):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return megabytes / seconds[0], megabytes / seconds[1]
