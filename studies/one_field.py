"""One small network for one observed room: occupancy and colour where anything was seen.

    python studies/one_field.py --results docs/results.md

A room at 64³ is seen from four sides: the nearest solid voxels of each are known to be solid, what
lies before them to be free, the rest is unknown, and so is a tenth of the voxels by chance. These
last ones are what the network is asked besides what it has learnt from.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from jaxtyping import Bool, Float
from PIL import Image
from results_page import write_between_markers
from scipy.ndimage import binary_dilation
from solids import View, seen
from static_scenes import BELOW_M, SIDE_M, room, room_settings, seen_from_above
from torch import Tensor

from protoscene.fields import Field

SIDES = 4


@dataclass
class Options:
    """Fits one network to one room."""

    rooms: tuple[int, ...] = (20, 21, 22)
    size: int = 64
    steps: int = 600
    points: int = 4096
    octaves: tuple[int, ...] = (0, 7)
    """Frequencies of the positional encoding; a row each."""
    width: int = 96
    full: bool = False
    """Settings for a graphics card: finer rooms, a larger network, more steps."""
    out: Path = Path("build/one_field")
    results: Path | None = None
    """Markdown file whose part about this study is replaced."""

    def __post_init__(self) -> None:
        if self.full:
            self.size, self.width, self.octaves = 256, 256, (0, 9)
            self.steps, self.points = 5000, 1 << 16

    @property
    def device(self) -> str:
        return "cuda" if self.full and torch.cuda.is_available() else "cpu"


def middles(size: int) -> Float[Tensor, "n 3"]:
    """Of all voxels of a cube, x y z, −1..1."""
    at = torch.arange(size**3)
    zyx = torch.stack([at // size**2, at // size % size, at % size], dim=1)
    return (2 * zyx.flip(1) + 1) / size - 1


def fit_field(view: View, options: Options, octaves: int, seed: int) -> Field:
    """Half of the points are solid, four tenths free beside what is solid, the rest free."""
    size = view.known.shape[0]
    solid = view.known & (view.rgba[3] > 0.5)
    free = view.known & ~solid
    beside = free & binary_dilation(solid, iterations=2)
    kinds = [torch.from_numpy(np.flatnonzero(kind)) for kind in (solid, beside, free)]
    counts = [options.points // 2, 2 * options.points // 5, options.points // 10]
    field = Field(octaves, options.width, seed=seed).to(options.device)
    optimiser = torch.optim.Adam(field.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.steps)
    draw = torch.Generator().manual_seed(seed)
    points, rgba = middles(size), torch.from_numpy(view.rgba).flatten(1).T
    for _ in range(options.steps):
        some = torch.cat([
            kind[torch.randint(len(kind), (n,), generator=draw)]
            for kind, n in zip(kinds, counts, strict=True)
        ])  # fmt: skip
        said, true = field(points[some].to(options.device)), rgba[some].to(options.device)
        colour = (said[:, :3].sigmoid() - true[:, :3]).square().mean(dim=1) * true[:, 3]
        occupied = F.binary_cross_entropy_with_logits(said[:, 3], true[:, 3])
        optimiser.zero_grad()
        (occupied + 2 * colour.mean()).backward()
        optimiser.step()
        schedule.step()
    return field


@torch.no_grad()
def decoded(field: Field, size: int) -> Float[Tensor, "4 z y x"]:
    device = next(field.parameters()).device
    parts = middles(size).split(1 << 16)
    said = torch.cat([field(part.to(device)).sigmoid().cpu() for part in parts])
    return said.T.reshape(4, size, size, size)


def iou(a: Bool[np.ndarray, "*n"], b: Bool[np.ndarray, "*n"]) -> float:
    return float((a & b).sum() / (a | b).sum())


def measured(
    said: Float[np.ndarray, "4 z y x"],
    truth: Float[np.ndarray, "4 z y x"],
    told: Bool[np.ndarray, "z y x"],
    untold: Bool[np.ndarray, "z y x"],
) -> dict[str, float]:
    """IoU of solid voxels among those told, with and without the ground, and among those that were
    seen but not told; decibels of the colour of solid voxels told."""
    occupied, solid = said[3] > 0.5, truth[3] > 0.5
    above = np.arange(len(solid))[:, None, None] >= round(BELOW_M / SIDE_M * len(solid))
    wrong = np.square(said[:3] - truth[:3])[:, told & solid].mean()
    return {
        "IoU": iou(occupied[told], solid[told]),
        "above the ground": iou(occupied[told & above], solid[told & above]),
        "not told": iou(occupied[untold & above], solid[untold & above]),
        "colour, dB": float(-10 * np.log10(wrong)),
    }


def study(options: Options, seed: int, octaves: int) -> tuple[dict[str, float], np.ndarray]:
    """Figures of one room, and what is known, what is said and the truth, from above."""
    truth = room(room_settings(seed), options.size).rgba
    sides = [0.3 + k * 2 * np.pi / SIDES for k in range(SIDES)]
    view, all_seen = (
        seen(truth, sides, np.random.default_rng(seed), missing=missing) for missing in (0.1, 0.0)
    )
    begin = time.process_time()
    field = fit_field(view, options, octaves, seed)
    seconds = time.process_time() - begin
    said = decoded(field, options.size).numpy()
    found = measured(said, truth, view.known, all_seen.known & ~view.known)
    # What nobody knows is left out of the picture.
    shown = np.concatenate([said[:3], (said[3:] > 0.5) & view.known])
    pictures = [seen_from_above(v) for v in (view.rgba, shown, truth)]
    return found | {"CPU s": seconds}, np.concatenate(pictures, axis=1)


def main(options: Options) -> None:
    torch.set_num_threads(1)
    lines, shown = [], []
    for octaves in options.octaves:
        each, pictures = zip(*(study(options, s, octaves) for s in options.rooms), strict=True)
        names = list(each[0])
        if not lines:
            lines = [f"| octaves | numbers | {' | '.join(names)} |", "|---" * 6 + "|---|"]
        cells = [
            f"{np.mean(values):.3f} ({min(values):.3f})"
            for values in ([row[name] for row in each] for name in names[:-1])
        ]
        taken = f"{max(row['CPU s'] for row in each):.0f}"
        weights = sum(p.numel() for p in Field(octaves, options.width).parameters())
        lines.append(f"| {octaves} | {weights} | {' | '.join(cells)} | {taken} |")
        shown.append(pictures[0])
    options.out.mkdir(parents=True, exist_ok=True)
    stacked = np.concatenate(shown).repeat(4, axis=0).repeat(4, axis=1)
    Image.fromarray(stacked).save(options.out / "one_field.png")
    title = (
        f"Rooms {', '.join(map(str, options.rooms))} at {options.size}³ seen from {SIDES} sides: "
        f"mean (least); {options.steps} steps of {options.points} points, the longest time."
    )
    text = "\n".join([title, "", *lines])
    print(text)
    if options.results:
        write_between_markers(options.results, "one_field", text)


if __name__ == "__main__":
    main(tyro.cli(Options))
