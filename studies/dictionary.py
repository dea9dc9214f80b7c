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
from plain_pipeline import plain_pipeline
from results_page import write_between_markers
from scipy.spatial import KDTree
from solids import solid

from protoscene.backdrop import backdrop
from protoscene.background import estimate_background
from protoscene.dictionary import Kind, find_again, share, vacated
from protoscene.dictionary.portrait import portrait
from protoscene.discover import KEEP_SCORE, propose_all, scene_of
from protoscene.follow import follow, merge_fragments
from protoscene.formats import load
from protoscene.geometry import centred_grid, rotation_from_yaw
from protoscene.observe import choose_grid, observe
from protoscene.recording import Recording
from protoscene.refine import refine
from protoscene.scene import Scene
from protoscene.score import ScoreCard, Truth, load_truth, score_objects
from protoscene.score_pictures import layered_view
from protoscene.shape_errors import surface_points
from protoscene.start import Thing, start
from protoscene.synth import SUITE, write_recording
from protoscene.synth.cameras import heldout_cameras, recording_cameras
from protoscene.synth.layout import make_layout
from protoscene.synth.settings import SynthSettings
from protoscene.synth.world import World
from protoscene.volume import Volume

VOXEL_M = 0.05
BOUNDS = (-3.2, -3.2, -0.1, 3.2, 3.2, 1.5)
ONE_INSTANT = 4
"""Instants of a thing (evenly chosen) of which each alone is compared with its kind."""
COLUMNS = (
    ("V", "v", 2, min), ("V, plain", "plain_v", 2, min), ("parked recall@.5", "parked", 2, min),
    ("plain", "plain_parked", 2, min), ("precision@.5", "precision", 3, min),
    ("F1@.5", "f1", 3, min), ("F1, plain", "plain_f1", 3, min), ("flips", "flips", 3, max),
    ("emptied, dB", "emptied", 1, min), ("surface F1: instant", "instant", 2, min),
    ("thing", "thing", 2, min), ("kind", "kind", 2, min), ("added, s CPU", "seconds", 1, max),
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
        **completion(refined.things, kinds, recording, truth, settings),
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


def completion(
    before: list[Thing], kinds: list[Kind], recording: Recording, truth: Truth,
    settings: SynthSettings,
) -> dict[str, float]:  # fmt: skip
    """Mean surface F1 at one voxel, with the true thing's whole surface: of single instants of the
    things that share a kind, of each such thing alone, and of the kind."""
    actors, rows = make_layout(settings).actors, []
    for kind in kinds:
        for member, thing in zip(kind.members, kind.things, strict=True):
            k = len(thing.instants) // 2
            true = _true_object(thing, k, recording, truth)
            if len(kind.things) < 2 or true is None or thing.crops is None:
                continue
            whole = _whole_surface(actors[true].thing)
            pose = truth.objects[true].track.pose(recording.times[thing.instants[k]])
            at = np.array([*pose[0], pose[1]])

            def score(points: np.ndarray, own: np.ndarray, at=at, whole=whole) -> float:  # type: ignore[no-untyped-def]
                world = points @ rotation_from_yaw(own[3]).T + own[:3]
                return f1((world - at[:3]) @ rotation_from_yaw(at[3]), whole)

            one = []
            for i in np.linspace(0, len(thing.instants) - 1, ONE_INSTANT).round().astype(int):
                alone = portrait(
                    thing.crops, thing.poses, np.arange(len(thing.poses)) == i, kind.dims
                )
                one.append(score(alone.model.surface(4000), thing.poses[k]))
            rows.append([
                float(np.mean(one)), score(_surface(before[member]), before[member].poses[k]),
                score(_surface(thing), thing.poses[k]),
            ])  # fmt: skip
    means = np.mean(rows, axis=0) if rows else np.full(3, np.nan)
    return dict(zip(("instant", "thing", "kind"), means.tolist(), strict=True))


def _true_object(thing: Thing, k: int, recording: Recording, truth: Truth) -> int | None:
    """The true object within a quarter of a metre of a thing at its k-th instant."""
    now = recording.times[thing.instants[k]]
    far = [np.linalg.norm(o.track.pose(now)[0] - thing.poses[k, :3]) for o in truth.objects]
    return int(np.argmin(far)) if min(far) < 0.25 else None


def _surface(thing: Thing) -> np.ndarray:
    _, nz, ny, nx = thing.rgba.shape
    size = thing.voxel_size
    grid = centred_grid((nx * size, ny * size, nz * size), size)
    return surface_points(Volume(thing.rgba, grid))


def _whole_surface(thing) -> np.ndarray:  # type: ignore[no-untyped-def]
    grid = centred_grid(thing.size_m, 0.02, padding=2)
    return surface_points(Volume(torch.from_numpy(solid(thing, grid)), grid))


def f1(found: np.ndarray, true: np.ndarray) -> float:
    """Harmonic mean of the shares of either set of points within a voxel of the other."""
    if len(found) == 0:
        return 0.0
    right = (KDTree(true).query(found)[0] <= VOXEL_M).mean()
    whole = (KDTree(found).query(true)[0] <= VOXEL_M).mean()
    return float(2 * right * whole / (right + whole)) if right + whole else 0.0


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
        "included, of things that share a prototype: a single instant, a thing alone, its kind."
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
