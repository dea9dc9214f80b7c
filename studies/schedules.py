"""Which variables does the gradient improve, and in which order?

    python studies/schedules.py --seeds 3 4

Every schedule refines the same start: each kind of variable alone, of the background also its
colours alone, alternating, and all jointly, with as many epochs; and jointly with things that
become solid. ``--disturbed`` first puts the poses of every instant 3 cm and 3° (one sigma) off,
prototypes' and background's colours halfway to grey and the background's occupancy to 80 %. The
background is that of the grid, without finer parts. Prints a table and writes schedules.png, or
schedules_disturbed.png: the first recording's held-out pictures, as drawn after each schedule.
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
from drawn import beside
from measures import GroundTruth, ground_truth, measure
from started import Started, started

from protoscene.dictionary import alone
from protoscene.discover import scene_of
from protoscene.formats import load
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
from protoscene.scene import Scene
from protoscene.score_pictures import layered_view
from protoscene.volume import Background, Volume

Schedule = tuple[Phase, ...]
PRESENT = SETTINGS.phases
COLOURS_ONLY = "background's colours"
"""Its occupancy is as it was found."""


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
    pictures: int = 4
    """Held-out pictures of each recording."""
    out: Path = Path("out/studies")


def solid_again(phases: Schedule, first: float) -> Schedule:
    return tuple(replace(p, solid=(first, 1.0)) for p in phases)


SCHEDULES: dict[str, Schedule] = {
    "as found": PRESENT,
    "background": (*PRESENT, Phase("background", (BACKGROUND,), 4)),
    COLOURS_ONLY: (*PRESENT, Phase("background", (BACKGROUND,), 4)),
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


def refined_by(name: str, found: Started) -> Refined:
    settings = RefineSettings(phases=SCHEDULES[name])
    refined = refine(found.things, found.evidence, found.background, settings)
    if name != COLOURS_ONLY:
        return refined
    rgba = refined.background.volume.rgba.clone()
    rgba[3] = found.background.volume.rgba[3]
    volume = Volume(rgba, refined.background.volume.grid)
    return replace(refined, background=replace(refined.background, volume=volume))


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
    ("movers true or drawn, dB", lambda r: r["pictures"]["drawn"], ".2f"),
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
            found = replace(found, background=replace(found.background, detail=()))
            known = ground_truth(kind, seed, options.data / f"{kind}-{seed}")
            if options.disturbed:
                found = disturb(found, np.random.default_rng(seed))
            scenes = {}
            for name in options.schedules or SCHEDULES:
                begin = time.process_time()
                refined = refined_by(name, found)
                seconds = time.process_time() - begin
                kinds = [alone(k, t) for k, t in enumerate(refined.things)]
                scenes[name] = scene_of(kinds, [], refined.background, found.recording.times)
                result = {**measure(scenes[name], known, options.pictures),
                          "losses": explained(refined, found), "seconds": seconds}  # fmt: skip
                rows.setdefault(name, []).append(result)
                print(f"{kind}-{seed}: {row(name, [result])}", flush=True)
            if len(rows[name]) == 1:
                draw_beside(scenes, known, options)
    print(f"| {' | '.join(['variables', *(c[0] for c in COLUMNS)])} |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for name, results in rows.items():
        print(row(name, results))


def draw_beside(scenes: dict[str, Scene], known: GroundTruth, options: Options) -> None:
    assert known.truth.heldout is not None
    moving = [thing.id for thing in known.truth.objects if thing.moving]
    views = {name: layered_view(scene) for name, scene in scenes.items()}
    name = "schedules_disturbed.png" if options.disturbed else "schedules.png"
    beside(views, load(known.truth.heldout), moving, options.out / name)


def row(name: str, results: list[dict[str, Any]]) -> str:
    """Means over recordings."""
    cells = [f"{np.mean([of(r) for r in results]):{digits}}" for _, of, digits in COLUMNS]
    return f"| {' | '.join([name, *cells])} |"


if __name__ == "__main__":
    main(tyro.cli(Options))
