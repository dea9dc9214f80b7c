"""Small networks of the real tabletop: told what some instants saw, judged by what others did.

    python studies/fused_tabletop.py --recording tabletop --results docs/results.md

What stays (protoscene.background.static_surface) is fused of every second instant, and of the
others, on voxels of 5 mm; the two that a person moves are in neither. One network (one_field.py) is
fitted to the first, at 1 cm; the networks of implicit.py, learnt from synthetic rooms alone, get it
as shares of 2 cm, the table being a quarter of a room. Both are judged by the second, on voxels
that were seen in both, beside interpolation of what they were given and, as the best that can be
hoped for, the first volume itself.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from implicit import Options as Trained
from implicit import coarser, interpolated, shares, trained
from jaxtyping import Bool, Float
from one_field import Options as OneField
from one_field import decoded, fit_field, iou
from PIL import Image
from results_page import write_between_markers
from scipy.ndimage import distance_transform_edt
from solids import View
from static_scenes import seen_from_above
from torch import Tensor

from protoscene.background import static_surface
from protoscene.formats import load
from protoscene.geometry import Grid
from protoscene.observe import observe
from protoscene.recording import Recording

GRID = Grid((-0.64, -0.64, -0.08), 0.005, (64, 256, 256))
"""A quarter of a room of static_scenes.py."""


@dataclass
class Options:
    """Fuses the tabletop twice and compares."""

    recording: Path
    octaves: int = 7
    trained: Trained = field(default_factory=Trained)
    """The networks of implicit.py; trained where they are not kept from there."""
    out: Path = Path("build/fused_tabletop")
    results: Path | None = None
    """Markdown file whose part about this study is replaced."""


@dataclass(frozen=True, eq=False)
class Fused:
    """What stays: straight rgba of all voxels, those that nobody saw like the nearest that somebody
    did, and which were seen."""

    rgba: Float[Tensor, "4 z y x"]
    known: Bool[np.ndarray, "z y x"]


def fused(recording: Recording, instants: slice, grid: Grid) -> Fused:
    times = recording.times[instants]
    frames = [frame for frame in recording.frames if frame.time in times]
    some = Recording(
        recording.source, frames, lambda frame: recording.view(recording.frames.index(frame))
    )
    distance = static_surface(some, grid).distance
    known = ~np.isnan(distance)
    total, count = np.zeros((3, *grid.shape), np.float32), np.zeros(grid.shape, np.float32)
    for evidence in observe(some, grid):
        total += evidence.rgb
        count += evidence.occupied
    coloured = (count > 0) & (np.abs(distance) < 2 * grid.voxel_size)
    colour = _spread(total / np.maximum(count, 1), coloured)
    occupied = _spread((distance < 0)[None].astype(np.float32), known)
    return Fused(torch.from_numpy(np.concatenate([colour, occupied])), known)


def _spread(values: Float[np.ndarray, "c z y x"], known: Bool[np.ndarray, "z y x"]) -> np.ndarray:
    """Each voxel that is not known has the values of the nearest one that is."""
    nearest = distance_transform_edt(~known, return_distances=False, return_indices=True)
    return values[:, *nearest]


def whole(known: Bool[np.ndarray, "z y x"], times: int) -> Bool[np.ndarray, "z y x"]:
    """Voxels of which all ``times``³ finer ones are known."""
    share = F.avg_pool3d(torch.from_numpy(known)[None].float(), times)[0]
    return (share == 1).numpy()


def one_network(told: Fused, octaves: int) -> tuple[Float[Tensor, "4 z y x"], float]:
    """Fitted at 1 cm, asked there; and the CPU seconds of the fit."""
    side = GRID.shape[2] // 2
    coarse = coarser(told.rgba, 2).numpy()
    above = ((0, side - coarse.shape[1]), (0, 0), (0, 0))  # one_field.py is of cubes
    view = View(np.pad(coarse, ((0, 0), *above)), np.pad(whole(told.known, 2), above))
    begin = time.process_time()
    network = fit_field(view, OneField(size=side), octaves, seed=0)
    seconds = time.process_time() - begin
    return decoded(network, side)[:, : coarse.shape[1]], seconds


def figures(
    said: dict[str, Float[Tensor, "4 z y x"]], truth: Fused, known: Bool[np.ndarray, "z y x"]
) -> dict[str, float]:
    """IoU of solid voxels among those known."""
    solid = truth.rgba[3].numpy() > 0.5
    return {way: iou(rgba[3].numpy()[known] > 0.5, solid[known]) for way, rgba in said.items()}


@torch.no_grad()
def judged(options: Options) -> tuple[dict[str, dict[str, float]], list[Tensor], float]:
    """{resolution: {way: IoU}}, volumes to look at, CPU seconds of the one network's fit."""
    recording = load(options.recording)
    told, held_out = (fused(recording, slice(k, None, 2), GRID) for k in (0, 1))
    known = told.known & held_out.known
    with torch.enable_grad():
        one, seconds = one_network(told, options.octaves)
    network, _ = trained(options.trained, options.trained.seeds[0])
    share = shares(told.rgba, 4)
    many, plain = network.decode(network(share), 4), interpolated(share, 4)
    fine = {
        "what the told instants saw": told.rgba,
        "shares of 2 cm interpolated": plain,
        "networks from shares of 2 cm": many,
    }
    halved = {way: coarser(torch.cat([v[:3], (v[3:] > 0.5).float()]), 2) for way, v in fine.items()}
    half = Fused(coarser(held_out.rgba, 2), whole(known, 2))
    found = {
        "5 mm": figures(fine, held_out, known),
        "1 cm": figures(halved | {"one network told at 1 cm": one}, half, half.known),
    }
    shown = [told.rgba, many, held_out.rgba, F.interpolate(one[None], scale_factor=2)[0]]
    return found, shown, seconds


def main(options: Options) -> dict[str, dict[str, float]]:
    torch.set_num_threads(1)
    found, shown, seconds = judged(options)
    options.out.mkdir(parents=True, exist_ok=True)
    views = np.concatenate([seen_from_above(volume.numpy()) for volume in shown], axis=1)
    Image.fromarray(views).save(options.out / "fused_tabletop.png")
    lines = ["| way | IoU at 5 mm | at 1 cm |", "|---" * 3 + "|"]
    for way, at in found["1 cm"].items():
        finer = f"{found['5 mm'][way]:.3f}" if way in found["5 mm"] else "–"
        lines.append(f"| {way} | {finer} | {at:.3f} |")
    title = (
        "What stays of the real tabletop, fused of every second instant, judged by what is fused "
        f"of the others, where both have seen; the one network took {seconds:.0f} CPU s."
    )
    text = "\n".join([title, "", *lines])
    print(text)
    if options.results:
        write_between_markers(options.results, "fused_tabletop", text)
    return found


if __name__ == "__main__":
    main(tyro.cli(Options))
