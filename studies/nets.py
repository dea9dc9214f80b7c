"""One fit by compose, a dictionary of voxels or of networks in it: one setting.

    python studies/nets.py --prototypes voxels neural --results docs/results.md

The things of studies/decoders.py, seen from four sides, at known poses: Adam on compose_loss, as
many steps for both. Prints solid IoU with the true things and the numbers stored; of networks also
the IoU on twice as fine voxels, which they were never fitted on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from decoders import Case, make_case
from decoders import Options as CaseOptions
from results_page import write_between_markers
from solids import cube, solid
from torch import nn

from protoscene.compose import Target, compose_loss
from protoscene.geometry import Grid
from protoscene.neural import NeuralPrototypes
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.synth.things import KINDS, build_thing

Kind = Literal["voxels", "neural"]
RATE: dict[Kind, float] = {"voxels": 0.1, "neural": 0.005}


@dataclass
class Options:
    """Fits one dictionary of each of ``prototypes``."""

    prototypes: tuple[Kind, ...] = ("voxels", "neural")
    kinds: tuple[str, ...] = KINDS[:6]
    resolution: int = 24
    steps: int = 150
    seed: int = 0
    results: Path | None = None
    """Markdown file whose part about this study is replaced."""


def dictionary_of(kind: Kind, options: Options, case: Case) -> nn.Module:
    """The only line that differs."""
    size, shape = case.grid.voxel_size, case.grid.shape
    if kind == "neural":
        return NeuralPrototypes([shape] * len(case.true), size, seed=options.seed)
    haze = [torch.from_numpy(0.5 * np.repeat(fused[3:], 4, axis=0)) for fused in case.fused]
    return VoxelPrototypes.from_rgba(haze, size, trainable=True)


def fit(dictionary: nn.Module, case: Case, options: Options, rate: float) -> None:
    n, (nz, ny, nx) = len(case.true), case.grid.shape
    grid = Grid((0.0, *case.grid.origin[1:]), case.grid.voxel_size, (nz, ny, n * nx))
    trust = np.where(np.concatenate(case.known, axis=-1), np.float32(1), np.float32(0.1))
    target = Target(np.concatenate(case.fused, axis=-1), trust)
    centre = torch.zeros(n, 3)
    centre[:, 0] = (torch.arange(n) + 0.5) * case.grid.size_m[0]
    placements = Placements(torch.arange(n), centre)
    optimiser = torch.optim.Adam(dictionary.parameters(), lr=rate)
    for _ in range(options.steps):
        optimiser.zero_grad()
        compose_loss(dictionary(), placements, grid, target, mse=0, bce=1)["loss"].backward()
        optimiser.step()
        if isinstance(dictionary, VoxelPrototypes):
            dictionary.voxels.data.clamp_(0, 1)


def iou(prototypes: VoxelPrototypes, true: list[np.ndarray]) -> float:
    """Mean over things, of occupancy from .5 on."""
    found = []
    for k, thing in enumerate(true):
        ours, theirs = prototypes.rgba(k)[3].detach().numpy() >= 0.5, thing[3] > 0
        found.append(float((ours & theirs).sum() / (ours | theirs).sum()))
    return float(np.mean(found))


def fitted(kind: Kind, options: Options, case: Case) -> dict[str, float]:
    dictionary = dictionary_of(kind, options, case)
    begin = time.process_time()
    fit(dictionary, case, options, RATE[kind])
    found = {"CPU s": time.process_time() - begin, "IoU": iou(dictionary(), case.true)}
    if isinstance(dictionary, NeuralPrototypes):
        found["IoU, twice as fine"] = iou(dictionary(2), finer(options))
    found["numbers stored"] = sum(p.numel() for p in dictionary.parameters())
    return found


def main(options: Options) -> dict[str, dict[str, float]]:
    case_options = CaseOptions(kinds=options.kinds, resolution=options.resolution)
    case = make_case(case_options, 4, options.seed)
    rows: dict[str, dict[str, float]] = {}
    for kind in options.prototypes:
        rows[kind] = fitted(kind, options, case)
        print(kind, {name: round(value, 3) for name, value in rows[kind].items()})
    if options.results:
        write_between_markers(options.results, "nets", table(rows, options))
    return rows


def table(rows: dict[str, dict[str, float]], options: Options) -> str:
    lines = [
        f"{len(options.kinds)} things at {options.resolution}³ seen from four sides, "
        f"{options.steps} steps by compose_loss; solid IoU with the true things.",
        "",
        "| prototypes | IoU | on voxels twice as fine | numbers stored | CPU s |",
        "|---" * 5 + "|",
    ]
    for kind, found in rows.items():
        twice = found.get("IoU, twice as fine")
        lines.append(
            f"| {kind} | {found['IoU']:.3f} | {'–' if twice is None else f'{twice:.3f}'} | "
            f"{found['numbers stored']:.0f} | {found['CPU s']:.0f} |"
        )
    return "\n".join(lines)


def finer(options: Options) -> list[np.ndarray]:
    """The true things of ``make_case`` on twice as fine voxels."""
    random, things = np.random.default_rng(options.seed), []
    for i, kind in enumerate(options.kinds):
        x, y = random.uniform(-0.03, 0.03, 2)
        yaw = random.uniform(-0.1, 0.1)
        random.uniform(0, 2 * np.pi)  # the first side it is seen from
        things.append(solid(build_thing(kind, i, 0.9), cube(2 * options.resolution), x, y, yaw))
    return things


if __name__ == "__main__":
    main(tyro.cli(Options))
