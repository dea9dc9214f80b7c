"""Which variables does the gradient improve, and in which order?

    python studies/schedules.py --seeds 3 4

Every schedule refines the same start: each kind of variable alone, alternating, and all jointly,
with as many epochs. ``--disturbed`` first puts the poses of every instant 3 cm and 3° (one sigma)
off, prototypes' and background's colours halfway to grey and the background's occupancy to 80 %.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from measures import ground_truth, measure
from started import Started, started

from protoscene.dictionary import alone
from protoscene.discover import scene_of
from protoscene.refine import (
    ALTERNATING,
    BACKGROUND,
    JOINT,
    OBJECTS,
    PRESENCE,
    SETTINGS,
    TRACKS,
    Phase,
    Refined,
    Refinement,
    RefineSettings,
    refine,
)
from protoscene.volume import Background, Volume

Schedule = tuple[Phase, ...]
PRESENT = SETTINGS.phases


@dataclass
class Options:
    """Refines found things by several schedules and measures each scene."""

    data: Path = Path("build/suite")
    """Folder of the recordings, KIND-SEED each."""
    kept: Path = Path("build/refine/things")
    """Folder of what was found in them."""
    kinds: tuple[str, ...] = ("four_cameras",)
    seeds: tuple[int, ...] = (3, 4)
    schedules: tuple[str, ...] = ()
    """Only these."""
    disturbed: bool = False


def solid_again(phases: Schedule, first: float) -> Schedule:
    return tuple(replace(p, solid=(first, 1.0)) for p in phases)


SCHEDULES: dict[str, Schedule] = {
    "as found": PRESENT,
    "background": (*PRESENT, Phase("background", (BACKGROUND,), 4)),
    "objects": (*PRESENT, Phase("objects", (OBJECTS,), 4)),
    "tracks": (*PRESENT, Phase("tracks", (TRACKS,), 8)),
    "alternating": (*PRESENT, *ALTERNATING),
    "jointly": (*PRESENT, *JOINT),
    "jointly, solid from .3 to 1": (*PRESENT, *solid_again(JOINT, 0.3)),
}


def disturb(found: Started, rng: np.random.Generator) -> Started:
    things = []
    for thing in found.things:
        poses = thing.poses.copy()
        poses[:, :2] += rng.normal(0, 0.03, (len(poses), 2))
        poses[:, 3] += rng.normal(0, np.deg2rad(3), len(poses))
        rgba = thing.rgba.clone()
        rgba[:3] = 0.5 * rgba[:3] + 0.25
        things.append(replace(thing, poses=poses, rgba=rgba))
    rgba = found.background.volume.rgba.clone()
    rgba[:3], rgba[3] = 0.5 * rgba[:3] + 0.25, 0.8 * rgba[3]
    volume = Volume(rgba, found.background.volume.grid)
    return replace(found, things=things, background=Background(volume, found.background.outside))


def explained(refined: Refined, found: Started) -> dict[str, float]:
    """Mean losses of a result on the whole grid, its objects all solid."""
    work = Refinement(refined.things, found.evidence, refined.background)
    work.variables[PRESENCE].fill_(20.0)
    losses = [work.losses(i, (BACKGROUND,)) or {} for i in range(len(found.evidence))]
    return {n: float(np.mean([float(loss[n]) for loss in losses])) for n in losses[0]}


COLUMNS: tuple[tuple[str, Callable[[dict[str, Any]], float], str], ...] = (
    ("centre, voxels", lambda r: float(np.median(r["centre"])), ".3f"),
    ("yaw, °", lambda r: float(np.median([*r["yaw"], *r["yaw_nearly_round"]])), ".2f"),
    ("movers, dB", lambda r: r["pictures"]["movers"], ".2f"),
    ("objects, dB", lambda r: r["pictures"]["objects"], ".2f"),
    ("picture, dB", lambda r: r["pictures"]["whole"], ".2f"),
    ("background alone, dB", lambda r: r["background"]["whole"], ".2f"),
    ("outside, %", lambda r: 100 * float(np.mean([o["outside"] for o in r["objects"]])), ".2f"),
    ("occupied, loss", lambda r: r["losses"]["occupied"], ".3f"),
    ("free, loss", lambda r: r["losses"]["free"], ".4f"),
    ("colour, loss", lambda r: r["losses"]["colour"], ".4f"),
    ("CPU s", lambda r: r["seconds"], ".1f"),
)


def main(options: Options) -> None:
    torch.set_num_threads(1)
    rows: dict[str, list[dict[str, Any]]] = {}
    for kind in options.kinds:
        for seed in options.seeds:
            found = started(kind, seed, options.data, options.kept)
            known = ground_truth(kind, seed, options.data / f"{kind}-{seed}")
            if options.disturbed:
                found = disturb(found, np.random.default_rng(seed))
            for name, phases in SCHEDULES.items():
                if options.schedules and name not in options.schedules:
                    continue
                begin = time.process_time()
                refined = refine(found.things, found.evidence, found.background,
                                 RefineSettings(phases=phases))  # fmt: skip
                seconds = time.process_time() - begin
                kinds = [alone(k, t) for k, t in enumerate(refined.things)]
                scene = scene_of(kinds, [], refined.background, found.recording.times)
                result = {**measure(scene, known), "losses": explained(refined, found),
                          "seconds": seconds}  # fmt: skip
                rows.setdefault(name, []).append(result)
                print(f"{kind}-{seed}: {row(name, [result])}", flush=True)
    print(f"| {' | '.join(['variables', *(c[0] for c in COLUMNS)])} |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for name, results in rows.items():
        print(row(name, results))


def row(name: str, results: list[dict[str, Any]]) -> str:
    """Means over recordings."""
    cells = [f"{np.mean([of(r) for r in results]):{digits}}" for _, of, digits in COLUMNS]
    return f"| {' | '.join([name, *cells])} |"


if __name__ == "__main__":
    main(tyro.cli(Options))
