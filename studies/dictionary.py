"""One dictionary on the synthetic suite: kinds, parked things, emptied places, completed shapes.

    python studies/dictionary.py --kinds four_cameras one_camera --seeds 3 4 5

A row per recording beside the plain pipeline's, worst numbers last. What was measured is kept in
``--out``: delete it to measure anew.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from completion import completion
from plain_pipeline import plain_pipeline
from results_page import write_between_markers

from protoscene.backdrop import backdrop
from protoscene.background import estimate_background
from protoscene.dictionary import find_again, share, vacated
from protoscene.discover import KEEP_SCORE, propose_all, scene_of
from protoscene.follow import follow, merge_fragments
from protoscene.formats import load
from protoscene.observe import choose_grid, observe
from protoscene.recording import Recording
from protoscene.refine import refine
from protoscene.scene import Scene
from protoscene.score import ScoreCard, Truth, load_truth, score_objects
from protoscene.score_pictures import layered_view
from protoscene.start import start
from protoscene.synth import SUITE, write_recording
from protoscene.synth.cameras import heldout_cameras, recording_cameras
from protoscene.synth.layout import make_layout
from protoscene.synth.settings import SynthSettings
from protoscene.synth.world import World

VOXEL_M = 0.05
BOUNDS = (-3.2, -3.2, -0.1, 3.2, 3.2, 1.5)
COLUMNS = (
    ("V", "v", 2, min), ("V, plain", "plain_v", 2, min), ("parked recall@.5", "parked", 2, min),
    ("plain", "plain_parked", 2, min), ("precision@.5", "precision", 3, min),
    ("F1@.5", "f1", 3, min), ("F1, plain", "plain_f1", 3, min), ("flips", "flips", 3, max),
    ("emptied, dB", "emptied", 1, min), ("surface F1: instant", "instant", 2, min),
    ("thing", "thing", 2, min), ("kind", "kind", 2, min),
    ("solid IoU: instant", "instant_iou", 2, min), ("thing", "thing_iou", 2, min),
    ("kind", "kind_iou", 2, min), ("gained where ≤ .6", "gained_iou", 2, min),
    ("added, s CPU", "seconds", 1, max),
)  # fmt: skip


@dataclass
class Options:
    """Measures sharing and finding again on the synthetic suite."""

    out: Path = Path("build/dictionary")
    """Folder for one JSON file per recording."""
    data: Path = Path("build/suite")
    """Folder of the recordings, KIND-SEED each."""
    kinds: tuple[str, ...] = tuple(SUITE)
    seeds: tuple[int, ...] = (3, 4, 5)
    results: Path | None = None
    """A markdown file whose part between this study's markers is replaced by the table."""


def measure(recording: Recording, truth: Truth, settings: SynthSettings) -> dict[str, float | None]:
    """Everything of one recording; seconds are of processor time of what the dictionary adds."""
    grid = choose_grid(recording, VOXEL_M, BOUNDS)
    evidence, static = observe(recording, grid), estimate_background(recording, grid)
    plain = score_objects(plain_pipeline(evidence), truth, VOXEL_M)
    blobs = propose_all(recording, static)
    trails = merge_fragments(follow(blobs, recording.times))
    started = start(recording, trails, blobs, static.noise)
    background = backdrop(recording, evidence, static)
    refined = refine([t for t in started if t.score >= KEEP_SCORE], evidence, background)
    begin = time.process_time()
    kinds = share(refined.things)
    again = find_again(recording, evidence, static, kinds)
    emptied = vacated(refined.background, kinds, again)
    seconds = time.process_time() - begin
    scene = scene_of(kinds, again, emptied, recording.times)
    card = score_objects(scene.objects, truth, VOXEL_M)
    return {
        **_numbers("", card), **_numbers("plain_", plain), "seconds": seconds,
        "flips": card.yaw.flips, "emptied": emptied_psnr(scene, settings),
        **completion(refined.things, kinds, make_layout(settings), truth, recording.times),
    }  # fmt: skip


def _numbers(prefix: str, card: ScoreCard) -> dict[str, float]:
    found = card.at_iou_50
    numbers = {"v": card.prototypes.v_measure, "parked": found.parked_recall,
               "precision": found.precision, "f1": found.f1}  # fmt: skip
    return {prefix + name: value for name, value in numbers.items()}


def emptied_psnr(scene: Scene, settings: SynthSettings) -> float:
    """PSNR (dB) of the background at held-out cameras against pictures drawn without the parked
    things, over the pixels in which they stood and nothing else does."""
    layout = make_layout(settings)
    n_moving = sum(actor.moving for actor in layout.actors)
    bare = replace(layout, actors=layout.actors[:n_moving])
    view, errors = layered_view(replace(scene, objects=())), []
    size = (settings.width, settings.height)
    for camera in heldout_cameras(settings, recording_cameras(settings)):
        with World(layout, *size) as world:
            world.at(0)
            stood = world.picture(camera)[2] >= n_moving
        with World(bare, *size) as world:
            world.at(0)
            true, _, actors = world.picture(camera)
        pixels = stood & (actors < 0)
        drawn, _ = view(scene.times[0], camera)
        errors.append((drawn[pixels].astype(float) - true[pixels]) ** 2)
    squared = np.concatenate(errors)
    return 10 * math.log10(255**2 / squared.mean()) if squared.size else math.nan


def markdown(rows: dict[str, dict[str, float | None]]) -> str:
    lines = [
        "| recording | " + " | ".join(c[0] for c in COLUMNS) + " |",
        "|---" * (1 + len(COLUMNS)) + "|",
    ]

    def line(name: str, row: dict[str, float | None]) -> str:
        cells = [_text(row.get(key), digits) for _, key, digits, _ in COLUMNS]
        return f"| {name} | " + " | ".join(cells) + " |"

    lines += [line(name, row) for name, row in rows.items()]
    for word, chosen in (("mean", None), ("worst", True)):
        whole: dict[str, float | None] = {}
        for _, key, _, worst in COLUMNS:
            values = [v for row in rows.values() if (v := row.get(key)) is not None]
            if values:
                whole[key] = worst(values) if chosen else float(np.mean(values))
        lines.append(line(f"**{word}**", whole))
    return "\n".join([*lines, "", (
        "Emptied: PSNR of the background where parked things stood, against pictures without them. "
        "Surface F1 at one voxel of 5 cm with the whole true surface, its never seen bottom "
        "included, and IoU with the solid thing, of things that share a prototype: a single "
        "instant, a thing alone, its kind; gained: from an instant to the kind, of things whose "
        "single instants have .6 and less."
    )])  # fmt: skip


def _text(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def main(options: Options) -> None:
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = {}
    for kind in options.kinds:
        for seed in options.seeds:
            folder, file = options.data / f"{kind}-{seed}", options.out / f"{kind}-{seed}.json"
            settings = SUITE[kind](seed)
            if not folder.exists():
                folder.parent.mkdir(parents=True, exist_ok=True)
                write_recording(settings, folder)
            if not file.exists():
                found = measure(
                    load(folder / "recording"), load_truth(folder / "truth.json"), settings
                )
                plain = {k: None if v is None or math.isnan(v) else v for k, v in found.items()}
                file.write_text(json.dumps(plain, indent=1) + "\n")
            rows[f"{kind}-{seed}"] = json.loads(file.read_text())
            print(f"{kind}-{seed}: {rows[f'{kind}-{seed}']}", flush=True)
    table = markdown(rows)
    print(table)
    if options.results is not None:
        write_between_markers(options.results, "dictionary", table)


if __name__ == "__main__":
    main(tyro.cli(Options))
