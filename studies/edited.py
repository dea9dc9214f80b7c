"""A thing removed from a scene, and the truth drawn without it: PSNR of whole pictures.

    python studies/edited.py --kinds four_cameras one_camera --seeds 20

Each thing that was found and is one (within a quarter of a metre) is removed by itself. Scenes and
figures are kept in ``--out``: delete it to measure anew.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from results_page import write_between_markers

from protoscene.discover import discover
from protoscene.edit import remove_object
from protoscene.formats import load
from protoscene.geometry import Camera
from protoscene.scene import Scene, SceneObject
from protoscene.score_pictures import layered_view
from protoscene.store import load_scene, save_scene
from protoscene.synth import SUITE, SynthSettings, write_recording
from protoscene.synth.cameras import heldout_cameras, recording_cameras
from protoscene.synth.layout import Actor, Layout, make_layout
from protoscene.synth.world import World

VOXEL_M = 0.05
BOUNDS = (-3.2, -3.2, -0.1, 3.2, 3.2, 1.5)
SAME_M = 0.25
INSTANTS = 2
"""Of the recording, evenly chosen, at which pictures are compared."""


@dataclass
class Options:
    """Measures edit --remove on the synthetic suite."""

    out: Path = Path("build/edited")
    """Folder of the scenes and of one JSON file per recording."""
    data: Path = Path("build/suite")
    """Folder of the recordings, KIND-SEED each."""
    kinds: tuple[str, ...] = tuple(SUITE)
    seeds: tuple[int, ...] = (20,)
    results: Path | None = None
    """A markdown file whose part between this study's markers is replaced by the table."""


def measure(scene: Scene, settings: SynthSettings) -> list[dict[str, float]]:
    """For each removed thing: whether it moves, and PSNRs (dB) with the truth without it: mean and
    worst whole picture of held-out and of recording cameras, of the held-out pictures' pixels in
    which it stood and nothing else does, and of whole pictures before the edit, with it."""
    layout, rows = make_layout(settings), []
    cameras = {
        "heldout": heldout_cameras(settings, recording_cameras(settings)),
        "recorded": [views[0] for views in recording_cameras(settings)],
    }
    instants = np.linspace(0, settings.n_instants - 1, INSTANTS + 2).round().astype(int)[1:-1]
    before, _ = _errors(scene, settings, layout, cameras["heldout"], instants, (layout, 0))
    for n, actor in enumerate(layout.actors):
        thing = _found(scene, actor)
        if thing is None:
            continue
        bare = replace(layout, actors=layout.actors[:n] + layout.actors[n + 1 :])
        without = remove_object(scene, thing.id)
        row: dict[str, float] = {"moving": float(actor.moving)}
        for of, places in cameras.items():
            whole, there = _errors(without, settings, bare, places, instants, (layout, n))
            decibels = [_psnr(e) for e in whole]
            row |= {of: float(np.mean(decibels)), f"worst {of}": min(decibels)}
            row[f"there {of}"] = _psnr(np.concatenate(there))
        row["before"] = float(np.mean([_psnr(e) for e in before]))
        rows.append(row)
    return rows


def _found(scene: Scene, actor: Actor) -> SceneObject | None:
    """The object of the scene that is the actor, if one is."""
    best, thing = SAME_M, None
    for one in scene.objects:
        i = [scene.times.index(t) for t in one.track.time]
        far = np.linalg.norm(one.track.centre[:, :2] - actor.poses[i, :2], axis=1)
        if np.median(far) < best:
            best, thing = float(np.median(far)), one
    return thing


def _errors(
    scene: Scene, settings: SynthSettings, layout: Layout, cameras: list[Camera],
    instants: np.ndarray, removed: tuple[Layout, int],
) -> tuple[list[np.ndarray], list[np.ndarray]]:  # fmt: skip
    """Squared errors of each picture against ``layout`` drawn: of all pixels, and of those in which
    the removed actor stood and nothing else does."""
    view, size = layered_view(scene), (settings.width, settings.height)
    stood, true = [], []
    whole, n = removed
    with World(whole, *size) as world:
        for i in instants:
            world.at(int(i))
            stood += [world.picture(camera)[2] == n for camera in cameras]
    with World(layout, *size) as world:
        for i in instants:
            world.at(int(i))
            true += [world.picture(camera) for camera in cameras]
    all_of, there = [], []
    for k, (colour, _, actors) in enumerate(true):
        i, c = divmod(k, len(cameras))
        drawn, _ = view(scene.times[instants[i]], cameras[c])
        squared = (drawn.astype(float) - colour) ** 2
        all_of.append(squared)
        there.append(squared[stood[k] & (actors < 0)])
    return all_of, there


def _psnr(squared: np.ndarray) -> float:
    return 10 * math.log10(255**2 / squared.mean()) if squared.size else math.nan


def markdown(found: dict[str, list[dict[str, float]]]) -> str:
    heads = (
        "recording", "removed", "of them parked", "held-out, dB", "worst picture",
        "recording's cameras, dB", "worst picture", "held-out, where it stood",
        "held-out, before the edit",
    )  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, rows in found.items():
        mean = {key: float(np.nanmean([r[key] for r in rows])) for key in rows[0]}
        worst = {key: min(r[key] for r in rows) for key in rows[0]}
        parked = sum(not r["moving"] for r in rows)
        cells = [mean["heldout"], worst["worst heldout"], mean["recorded"],
                 worst["worst recorded"], mean["there heldout"], mean["before"]]  # fmt: skip
        numbers = " | ".join(f"{value:.1f}" for value in cells)
        lines.append(f"| {name} | {len(rows)} | {parked} | {numbers} |")
    return "\n".join([*lines, "", (
        f"Each thing removed by itself; whole pictures at {INSTANTS} instants against the truth "
        "drawn without it and without noise (before the edit: drawn with it)."
    )])  # fmt: skip


def main(options: Options) -> None:
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = {}
    for kind in options.kinds:
        for seed in options.seeds:
            name, settings = f"{kind}-{seed}", SUITE[kind](seed)
            folder, file = options.out / name, options.out / f"{name}.json"
            if not (options.data / name).exists():
                options.data.mkdir(parents=True, exist_ok=True)
                write_recording(settings, options.data / name)
            if not folder.exists():
                recording = load(options.data / name / "recording")
                save_scene(discover(recording, voxel_size=VOXEL_M, bounds=BOUNDS), folder)
            if not file.exists():
                found = measure(load_scene(folder), settings)
                plain = [{k: None if math.isnan(v) else v for k, v in r.items()} for r in found]
                file.write_text(json.dumps(plain, indent=1) + "\n")
            rows[name] = [
                {k: math.nan if v is None else v for k, v in row.items()}
                for row in json.loads(file.read_text())
            ]
            print(f"{name}: {rows[name]}", flush=True)
    table = markdown(rows)
    print(table)
    if options.results is not None:
        write_between_markers(options.results, "edited", table)


if __name__ == "__main__":
    main(tyro.cli(Options))
