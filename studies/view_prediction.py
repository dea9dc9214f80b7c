"""Does it help to draw the recorded pictures and to learn from what is wrong with them?

    python studies/view_prediction.py --seeds 3 4

The same registered things, occupancy held, with colours from four sources: the mean over all
pixels (as fused); the median of the pictures that show a place best; view prediction, which fits
the colours to all recorded pixels as drawn (``colours``); and that without zoom, the thing on the
scene grid's voxels, as it is where a picture is drawn of the whole composed scene. Prints a table
of held-out pictures and writes view_prediction.png. Recordings that are missing are made.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from drawn import beside
from scipy import ndimage
from started import BOUNDS, VOXEL_M, things_in

from protoscene.backdrop import backdrop
from protoscene.background import estimate_background
from protoscene.colours import fitted
from protoscene.dictionary import alone
from protoscene.discover import scene_of
from protoscene.formats import load
from protoscene.geometry import centred_grid
from protoscene.observe import choose_grid, observe
from protoscene.prototypes import VoxelPrototypes
from protoscene.register import Fusion
from protoscene.score_pictures import layered_view, score_pictures
from protoscene.shape import repainted
from protoscene.start import Thing
from protoscene.synth import SUITE, write_recording
from protoscene.truth import load_truth

Made = tuple[torch.Tensor, float]
"""A prototype: rgba and the size of its voxels (m)."""


@dataclass
class Options:
    """Compares prototypes' colours from four sources in held-out pictures."""

    data: Path = Path("build/suite")
    """Folder of the recordings, KIND-SEED each."""
    kinds: tuple[str, ...] = ("four_cameras",)
    seeds: tuple[int, ...] = (3, 4)
    pictures: int = 6
    """Held-out pictures of each recording."""
    out: Path = Path("out/studies")


def variants(thing: Thing) -> tuple[dict[str, Made], float]:
    """The thing's prototype with colours from each source; seconds that view prediction takes."""
    assert thing.crops is not None
    every = np.ones(len(thing.poses), bool)
    grid = centred_grid(thing.dims, thing.voxel_size, padding=3)
    model = (
        Fusion(thing.crops, grid, max(3 * thing.voxel_size, 0.03)).add(thing.poses, every).model()
    )
    nearest = ndimage.distance_transform_edt(
        model.coloured == 0, return_distances=False, return_indices=True
    )
    made = {}
    sharpest = repainted(model, thing.crops, thing.poses, every)
    for name, source in (("mean", model), ("sharpest", sharpest)):
        colour = np.moveaxis(source.colour[tuple(nearest)], -1, 0)
        own = np.concatenate([colour, thing.rgba[3:].numpy()]).astype(np.float32)
        made[name] = (torch.from_numpy(own), thing.voxel_size)
    begin = time.process_time()
    own = fitted(made["sharpest"][0].numpy(), grid, thing.crops, thing.poses, every)
    seconds = time.process_time() - begin
    made["view prediction"] = (torch.from_numpy(own), thing.voxel_size)
    times = max(1, round(VOXEL_M / thing.voxel_size))
    coarse = pooled(made["sharpest"][0], times)
    large = centred_grid(np.array(coarse.shape[:0:-1]) * times * thing.voxel_size,
                         times * thing.voxel_size)  # fmt: skip
    own = fitted(coarse.numpy(), large, thing.crops, thing.poses, every)
    made["without zoom"] = (torch.from_numpy(own), large.voxel_size)
    return made, seconds


def pooled(rgba: torch.Tensor, times: int) -> torch.Tensor:
    """Mean occupancy and occupied colour of blocks of ``times``³ voxels around the same middle."""
    missing = [-n % times for n in rgba.shape[:0:-1]]
    pads = [p for m in missing for p in (m // 2, m - m // 2)]
    padded = F.pad(torch.cat([rgba[:3] * rgba[3:], rgba[3:]]), pads)
    mean = F.avg_pool3d(padded, times)
    return torch.cat([mean[:3] / mean[3:].clamp(min=1e-6), mean[3:]]).clamp(0, 1)


def study(kind: str, seed: int, options: Options, picture: Path | None) -> dict[str, list[float]]:
    folder = options.data / f"{kind}-{seed}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_recording(SUITE[kind](seed), folder)
    recording, truth = load(folder / "recording"), load_truth(folder / "truth.json")
    assert truth.heldout is not None
    heldout, moving = load(truth.heldout), [t.id for t in truth.objects if t.moving]
    grid = choose_grid(recording, VOXEL_M, BOUNDS)
    static = estimate_background(recording, grid)
    background = backdrop(recording, observe(recording, grid), static)
    things = things_in(recording, static)
    scene = scene_of([alone(k, t) for k, t in enumerate(things)], [], background, recording.times)
    made = [variants(thing) for thing in things]
    views = {}
    for name in made[0][0]:
        rgba, sizes = zip(*(own[name] for own, _ in made), strict=True)
        views[name] = layered_view(replace(scene, prototypes=VoxelPrototypes(rgba, sizes)))
    without, results = layered_view(replace(scene, objects=())), {}
    for name, view in views.items():
        score = score_pictures(view, heldout, moving, options.pictures, without)
        results[name] = [score.psnr_movers_db, score.psnr_drawn_db, score.psnr_objects_db]
        print(f"{kind}-{seed} {name}: {results[name]}", flush=True)
    results["view prediction"].append(float(np.mean([seconds for _, seconds in made])))
    if picture is not None:
        beside(views, heldout, moving, picture)
    return results


def main(options: Options) -> None:
    torch.set_num_threads(1)
    found = []
    for kind in options.kinds:
        for seed in options.seeds:
            picture = None if found else options.out / "view_prediction.png"
            found.append(study(kind, seed, options, picture))
    print("| colours | movers, dB | movers true or drawn, dB | all objects, dB | CPU s a thing |")
    print("|---|---|---|---|---|")
    for name in found[0]:
        cells = [f"{v:.2f}" for v in np.mean([result[name] for result in found], axis=0)]
        print(f"| {name} | {' | '.join([*cells, '–'][:4])} |")


if __name__ == "__main__":
    main(tyro.cli(Options))
