"""Positions by evidence: heat map against literal positions, with and without encouragement;
centre-surround against product of evidence; and what a uniform heat map finds.

    python studies/heatmap.py --seeds 3 4 5

Everything is seen from above (bird's-eye maps of voxel_size, with the true sizes of the movers and
eight yaws, of which each place takes the best). Errors are horizontal, in voxels. Prints four
tables and writes heatmap.png. A recording that is missing is made (needs the extra ``sim``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from PIL import Image, ImageDraw
from torch import Tensor

from protoscene.background import estimate_background, subtract
from protoscene.formats import load
from protoscene.geometry import Grid
from protoscene.heatmap import (
    argmax,
    birds_eye,
    centre_surround,
    draw,
    encouragement,
    occupancy_error,
    peaks,
    product_of_evidence,
    sample,
    shares,
    soft_argmax,
)
from protoscene.observe import ViewStack, choose_grid, observe_instant
from protoscene.synth import NAMED, write_recording
from protoscene.truth import load_truth

BOUNDS = (-3.2, -3.2, -0.1, 3.2, 3.2, 1.5)
ABOVE_M, BELOW_M = 0.1, 0.7
"""Heights (m) that the bird's-eye maps look at: what stands on the ground, not the ground."""
RING_M = 0.15
WINDOW_M = 0.2
YAWS = torch.arange(8) * math.pi / 8
SHARPNESS = 10.0
"""Encouragement is exp(−SHARPNESS · error): a box with nothing in it has an error of about .3."""
SMOOTHNESS = 0.01
"""Weight of the mean squared second difference of a track, in voxels² per instant⁴."""
NEAR = 2.0
"""A detection is right within so many voxels of a true centre."""
APART_M = 0.3
"""Peaks are no closer to each other than this."""
MOST_PEAKS = 12

Encourage = Literal["off", "on", "drawn", "everywhere"]
"""A literal track has it on at its own positions; a heat map at a drawn one, or at all voxels."""


@dataclass
class Options:
    """Measures heat maps on synthetic recordings."""

    kind: str = "four_cameras"
    seeds: tuple[int, ...] = (3, 4, 5)
    data: Path = Path("build/suite")
    """Folder of the recordings, KIND-SEED each."""
    out: Path = Path("out/studies")
    voxel_size: float = 0.05
    steps: int = 150
    tries: int = 3
    """Uniform heat maps per recording."""


@dataclass(frozen=True, eq=False)
class Case:
    """Evidence (t, 1, y, x) of one recording from above; its n movers: centres (n, t, 3), dims."""

    grid: Grid
    occupied: Tensor
    free: Tensor
    changed: Tensor
    centres: Tensor
    dims: Tensor


def observe_case(folder: Path, voxel_size: float) -> Case:
    """Occupied and changed: anywhere in the column. Free: seen free in it, and not occupied."""
    recording, truth = load(folder / "recording"), load_truth(folder / "truth.json")
    grid = choose_grid(recording, voxel_size, BOUNDS)
    static = estimate_background(recording, grid)
    z = grid.axes()[2]
    standing = (z > ABOVE_M) & (z < BELOW_M)
    occupied, free, changed = [], [], []
    for i, now in enumerate(recording.times):
        views = list(recording.views(i))
        new = [
            replace(view, depth=np.where(mask > 0, view.depth, 0))
            for view, mask in zip(views, subtract(views, static), strict=True)
        ]
        everything = observe_instant(ViewStack.of(views), grid, now)
        occupied.append(everything.occupied[standing].any(axis=0))
        free.append(everything.free[standing].any(axis=0) & ~occupied[-1])
        changed.append(observe_instant(ViewStack.of(new), grid, now).occupied.any(axis=0))
    movers = [thing for thing in truth.objects if thing.moving]
    centres = torch.tensor(np.stack([thing.track.centre for thing in movers]), dtype=torch.float32)
    dims = torch.tensor([(*thing.dims_m[:2], voxel_size) for thing in movers])
    occupied_map, free_map, changed_map = (
        torch.tensor(np.stack(m)[:, None], dtype=torch.float32) for m in (occupied, free, changed)
    )
    return Case(birds_eye(grid), occupied_map, free_map, changed_map, centres, dims)


def over_yaws(score: Callable[[float], Tensor]) -> Tensor:
    return torch.stack([score(float(yaw)) for yaw in YAWS]).amax(0)


def error_of(case: Case, dims: Tensor) -> Tensor:
    """Occupancy error (t, 1, y, x) of a box of ``dims`` at its best yaw."""
    return -over_yaws(lambda yaw: -occupancy_error(case.changed, case.grid, dims, RING_M, yaw))


def misses(case: Case, found: Tensor, true: Tensor) -> Tensor:
    """Horizontal distance in voxels."""
    return (found - true)[..., :2].norm(dim=-1) / case.grid.voxel_size


def track_loss(case: Case, error: Tensor, track: Tensor, smoothness: float = SMOOTHNESS) -> Tensor:
    bend = (track[2:] - 2 * track[1:-1] + track[:-2]) / case.grid.voxel_size
    return sample(error, case.grid, track).mean() + smoothness * (bend**2).sum(-1).mean()


def by_positions(
    case: Case, error: Tensor, start: Tensor, steps: int, encourage: Encourage
) -> Tensor:
    """A literal track, Adam on its positions."""
    track = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([track], lr=0.02)
    for _ in range(steps):
        loss = track_loss(case, error, track)
        if encourage == "on":
            loss = loss - encouragement(SHARPNESS * error, case.grid, track).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return track.detach()


def by_heat_map(
    case: Case,
    error: Tensor,
    scores: Tensor,
    steps: int,
    encourage: Encourage,
    smoothness: float = SMOOTHNESS,
) -> Tensor:
    """The track that is the soft-argmax of heat maps, Adam on their scores."""
    scores = scores.clone().requires_grad_()
    optimiser = torch.optim.Adam([scores], lr=0.1)
    random = torch.Generator().manual_seed(0)
    mean_reward = torch.zeros(len(scores))
    for _ in range(steps):
        track = soft_argmax(scores, case.grid, window_m=WINDOW_M)
        loss = track_loss(case, error, track, smoothness)
        if encourage == "everywhere":
            loss = loss - (shares(scores) * torch.exp(-SHARPNESS * error)).sum((1, 2, 3)).mean()
        if encourage == "drawn":
            position, log_share = draw(scores, case.grid, random)
            reward = encouragement(SHARPNESS * error, case.grid, position)
            loss = loss - ((reward - mean_reward) * log_share).mean()
            mean_reward = 0.9 * mean_reward + 0.1 * reward
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return soft_argmax(scores.detach(), case.grid, window_m=WINDOW_M)


def heat_around(case: Case, start: Tensor, sigma_m: float) -> Tensor:
    """Scores (t, 1, y, x): the logarithm of a bell around each start."""
    offset = torch.tensor(case.grid.centres()[..., :2]).float() - start[:, None, None, None, :2]
    return -(offset**2).sum(-1) / (2 * sigma_m**2)


def variables_table(cases: list[Case], options: Options) -> list[str]:
    """Tracks from starts that are off, every instant on its own."""
    rows = ["| start off by, m | variable | encouragement | median | 90 % | within 2 | s a track |",
            "|---|---|---|---|---|---|---|"]  # fmt: skip
    plans: list[tuple[str, Encourage]] = [
        ("positions", "off"), ("positions", "on"),
        ("heat map", "off"), ("heat map", "drawn"), ("heat map", "everywhere"),
    ]  # fmt: skip
    for off in (0.3, 0.6):
        for variable, encourage in plans:
            random = torch.Generator().manual_seed(1)
            found, seconds = [], []
            for case in cases:
                for true, dims in zip(case.centres, case.dims, strict=True):
                    angle = 2 * math.pi * torch.rand(len(true), generator=random)
                    push = off * torch.stack([angle.cos(), angle.sin(), 0 * angle], dim=-1)
                    error = error_of(case, dims)
                    begin = time.perf_counter()
                    if variable == "positions":
                        track = by_positions(case, error, true + push, options.steps, encourage)
                    else:
                        scores = heat_around(case, true + push, off)
                        track = by_heat_map(case, error, scores, options.steps, encourage)
                    seconds.append(time.perf_counter() - begin)
                    found.append(misses(case, track, true))
            miss = torch.cat(found)
            rows.append(
                f"| {off} | {variable} | {encourage} | {miss.median():.2f} | "
                f"{miss.quantile(0.9):.2f} | {(miss <= NEAR).float().mean():.3f} | "
                f"{np.mean(seconds):.2f} |"
            )
    return rows


def detector_maps(case: Case) -> dict[str, Tensor]:
    """Scores (t, 1, y, x) per detector: each place's best over yaws and the movers' sizes."""

    def best(score: Callable[[Tensor, float], Tensor]) -> Tensor:
        sizes = case.dims.unique(dim=0)
        return torch.stack([over_yaws(partial(score, dims)) for dims in sizes]).amax(0)

    maps = (case.occupied, case.free, case.changed)
    return {
        "centre-surround": best(
            lambda dims, yaw: centre_surround(case.changed, case.grid, dims, RING_M, yaw)
        ),
        "product of evidence": best(
            lambda dims, yaw: product_of_evidence(*maps, case.grid, dims, RING_M, yaw)
        ),
    }


def detections(case: Case, scores: Tensor) -> np.ndarray:
    """(n, 2) score and whether it is right, of the peaks of all instants, best first; a true centre
    is given away once."""
    rows = []
    for now, true in zip(scores, case.centres.unbind(1), strict=True):
        positions, values = peaks(now, case.grid, float(now.mean()), APART_M)
        free = torch.ones(len(true), dtype=torch.bool)
        for position, value in zip(positions[:MOST_PEAKS], values, strict=False):
            miss = misses(case, position, true).masked_fill(~free, math.inf)
            right = bool(miss.min() <= NEAR)
            free[miss.argmin()] &= not right
            rows.append((float(value), right))
    return np.array(sorted(rows, reverse=True))


def detectors_table(cases: list[Case], maps: list[dict[str, Tensor]]) -> list[str]:
    """The threshold is the one of best F1 on the other recordings."""
    rows = ["| detector | recall | precision | recall per recording |", "|---|---|---|---|"]
    n_true = [case.centres.shape[0] * case.centres.shape[1] for case in cases]
    for name in maps[0]:
        found = [detections(case, m[name]) for case, m in zip(cases, maps, strict=True)]
        right, said = [], []
        for i, own in enumerate(found):
            others = np.concatenate(found[:i] + found[i + 1 :])
            others = others[np.argsort(-others[:, 0])]
            f1 = (
                2
                * others[:, 1].cumsum()
                / (np.arange(1, len(others) + 1) + sum(n_true) - n_true[i])
            )
            kept = own[own[:, 0] >= others[f1.argmax(), 0]]
            right.append(kept[:, 1].sum())
            said.append(len(kept))
        each = " ".join(f"{r / n:.2f}" for r, n in zip(right, n_true, strict=True))
        rows.append(
            f"| {name} | {sum(right) / sum(n_true):.3f} | {sum(right) / max(sum(said), 1):.3f} | "
            f"{each} |"
        )
    return rows


def sits_on(case: Case, track: Tensor) -> Tensor:
    """(t,) number of the mover in whose half-length a track is, −1 for none."""
    miss = misses(case, track, case.centres) * case.grid.voxel_size
    miss = miss.masked_fill(miss > case.dims[:, None, :2].amax(-1) / 2, math.inf)
    return torch.where(miss.amin(0).isfinite(), miss.argmin(0), -1)


def no_proposals_table(cases: list[Case], options: Options) -> tuple[list[str], Tensor]:
    """Heat maps that begin uniform, up to noise; a track of the first case, to be drawn."""
    rows = ["| from a uniform heat map | on some mover | on the same one |", "|---|---|---|"]
    shown = torch.empty(0)
    plans: list[tuple[Encourage, float]] = [
        ("off", 0), ("drawn", 0), ("everywhere", 0), ("everywhere", SMOOTHNESS)
    ]  # fmt: skip
    errors = [error_of(case, case.dims.median(dim=0).values) for case in cases]
    for encourage, smoothness in plans:
        shares_on = []
        for case, error in zip(cases, errors, strict=True):
            for attempt in range(options.tries):
                random = torch.Generator().manual_seed(attempt)
                scores = 1e-3 * torch.randn(error.shape, generator=random)
                track = by_heat_map(case, error, scores, options.steps, encourage, smoothness)
                shares_on.append(some_and_same(case, track))
                if case is cases[0] and encourage == "everywhere" and not smoothness:
                    shown = track
        some, same = np.mean(shares_on, axis=0)
        smooth = ", smooth track" if smoothness else ""
        rows.append(f"| encouragement {encourage}{smooth} | {some:.2f} | {same:.2f} |")
    least = [some_and_same(c, argmax(-e, c.grid)) for c, e in zip(cases, errors, strict=True)]
    some, same = np.mean(least, axis=0)
    rows.append(f"| no optimisation: the least error | {some:.2f} | {same:.2f} |")
    return rows, shown


def some_and_same(case: Case, track: Tensor) -> tuple[float, float]:
    """Shares of the instants in which a track sits on any mover, and on its most frequent one."""
    on = sits_on(case, track)
    same = max(float((on == k).float().mean()) for k in range(len(case.dims)))
    return float((on >= 0).float().mean()), same


def picture(case: Case, maps: dict[str, Tensor], track: Tensor, file: Path) -> None:
    """The middle instant: what changed, with true tracks (green) and the track from a uniform heat
    map (red); then each detector's map with its best peaks (red) and true centres (green)."""
    now, zoom = case.centres.shape[1] // 2, 4
    panels = []
    for name, scores in {"changed": case.changed, **maps}.items():
        layer = scores[now, 0].flip(0)  # y up
        grey = (255 * (layer - layer.min()) / (layer.max() - layer.min())).byte().numpy()
        panel = Image.fromarray(grey).resize((zoom * grey.shape[1], zoom * grey.shape[0]), 0)
        panel = panel.convert("RGB")
        pen = ImageDraw.Draw(panel)
        pixels = zoom * case.grid.voxel_from_world(torch.cat([track[None], case.centres]))[..., :2]
        pixels[..., 1] = panel.height - pixels[..., 1]
        if name == "changed":
            for line, colour in zip(pixels, ["red"] + ["lime"] * len(case.centres), strict=True):
                pen.line([tuple(p) for p in line.tolist()], colour, 2)
        else:
            best = peaks(scores[now], case.grid, float(scores.mean()), APART_M)[0]
            marks = zoom * case.grid.voxel_from_world(best[: len(case.centres)])[:, :2]
            for x, y in marks.tolist():
                pen.ellipse([x - 9, panel.height - y - 9, x + 9, panel.height - y + 9], None, "red")
            for x, y in pixels[1:, now].tolist():
                pen.ellipse([x - 3, y - 3, x + 3, y + 3], "lime")
        pen.text((6, 4), name, "white")
        panels.append(panel)
    whole = Image.new("RGB", (sum(p.width + 4 for p in panels), panels[0].height))
    for i, panel in enumerate(panels):
        whole.paste(panel, (i * (panel.width + 4), 0))
    file.parent.mkdir(parents=True, exist_ok=True)
    whole.save(file)


def main(options: Options) -> None:
    cases = []
    for seed in options.seeds:
        folder = options.data / f"{options.kind}-{seed}"
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            write_recording(NAMED[options.kind](seed), folder)
        cases.append(observe_case(folder, options.voxel_size))
    maps = [detector_maps(case) for case in cases]
    print("\n".join(detectors_table(cases, maps)), end="\n\n", flush=True)
    lines, track = no_proposals_table(cases, options)
    print("\n".join(lines), end="\n\n", flush=True)
    picture(cases[0], maps[0], track, options.out / "heatmap.png")
    print("\n".join(variables_table(cases, options)))


if __name__ == "__main__":
    main(tyro.cli(Options))
