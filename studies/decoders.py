"""Free voxels, a stored half, latents: what does it cost to store less of a prototype?

    python studies/decoders.py

All kinds of things, seen from 4 or from 2 sides, turned a little in their box. Their fused evidence
(what no side saw as free is solid) is the target of compose_loss, at known poses; Adam fits each
dictionary as many steps. The plane is found in the fused evidence; what has none is stored whole.
Prints solid IoU with the true thing and the numbers stored per thing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image
from results_page import write_between_markers
from scipy.ndimage import distance_transform_edt
from solids import cube, from_above, seen, solid
from torch import nn

from protoscene.compose import Target, compose_loss
from protoscene.decoders import LatentPrototypes, MirroredPrototypes
from protoscene.geometry import Grid
from protoscene.mirror import mirror_plane
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.synth.things import KINDS, build_thing
from protoscene.volume import Volume

LEARNING_RATE = {"free voxels": 0.1, "stored half": 0.1, "latents": 0.003}

UNSEEN = 0.1
"""What hidden space, which is taken for solid, counts beside what was seen."""


@dataclass
class Options:
    """Fits three kinds of dictionaries to the same evidence."""

    kinds: tuple[str, ...] = KINDS
    sides: tuple[int, ...] = (4, 2)
    seeds: tuple[int, ...] = (0, 1)
    resolution: int = 32
    steps: int = 150
    out: Path = Path("out/studies")
    results: Path | None = None
    """Markdown file whose part about this study is replaced."""


@dataclass(frozen=True, eq=False)
class Case:
    """The true solids and the fused evidence of each kind, and where that is known."""

    grid: Grid
    true: list[np.ndarray]
    fused: list[np.ndarray]
    known: list[np.ndarray]


def make_case(options: Options, n_sides: int, seed: int) -> Case:
    random = np.random.default_rng(seed)
    case = Case(cube(options.resolution), [], [], [])
    for i, kind in enumerate(options.kinds):
        x, y = random.uniform(-0.03, 0.03, 2)
        true = solid(build_thing(kind, i, 0.9), case.grid, x, y, random.uniform(-0.1, 0.1))
        first = random.uniform(0, 2 * np.pi)
        azimuths = [first + side * 2 * np.pi / n_sides for side in range(n_sides)]
        view = seen(true, azimuths, random, missing=0)
        surface = view.rgba[3] > 0
        # It stands on a ground, below which nothing of it is.
        known = view.known.copy()
        known[: np.argwhere(true[3] > 0)[:, 0].min()] = True
        inside = ~known | surface
        nearest = distance_transform_edt(~surface, return_distances=False, return_indices=True)
        colour = view.rgba[:3][(slice(None), *nearest)]
        case.true.append(true)
        case.fused.append(np.concatenate([colour * inside, inside[None]]).astype(np.float32))
        case.known.append(known)
    return case


def dictionaries(case: Case) -> dict[str, nn.Module]:
    """Each before it is fitted: grey haze where the evidence allows something."""
    size, shape = case.grid.voxel_size, case.grid.shape
    haze = [torch.from_numpy(0.5 * np.repeat(fused[3:], 4, axis=0)) for fused in case.fused]
    planes = []
    for fused, known in zip(case.fused, case.known, strict=True):
        found = mirror_plane(Volume(torch.from_numpy(fused), case.grid), known)
        planes.append(None if found is None else (found.turn, found.shift))
    return {
        "free voxels": VoxelPrototypes.from_rgba(haze, size, trainable=True),
        "stored half": MirroredPrototypes(haze, size, planes, trainable=True),
        "latents": LatentPrototypes([shape] * len(haze), size),
    }


def fit(dictionary: nn.Module, case: Case, steps: int, rate: float) -> float:
    """Adam on compose_loss, all prototypes side by side on one canvas; seconds of the processor."""
    n, (nz, ny, nx) = len(case.true), case.grid.shape
    side = case.grid.size_m[0]
    grid = Grid((0.0, *case.grid.origin[1:]), case.grid.voxel_size, (nz, ny, n * nx))
    trust = np.where(np.concatenate(case.known, axis=-1), np.float32(1), np.float32(UNSEEN))
    target = Target(np.concatenate(case.fused, axis=-1), trust)
    centre = torch.zeros(n, 3)
    centre[:, 0] = (torch.arange(n) + 0.5) * side
    placements = Placements(torch.arange(n), centre)
    optimiser = torch.optim.Adam(dictionary.parameters(), lr=rate)
    begin = time.process_time()
    for _ in range(steps):
        optimiser.zero_grad()
        compose_loss(dictionary(), placements, grid, target, mse=0, bce=1)["loss"].backward()
        optimiser.step()
        if not isinstance(dictionary, LatentPrototypes):
            for parameter in dictionary.parameters():
                parameter.data.clamp_(0, 1)
    return time.process_time() - begin


def numbers_stored(dictionary: nn.Module, case: Case) -> int:
    """What is stored whole counts as the box around all that the evidence allows: a half is cut to
    that, too."""
    boxes = [np.argwhere(fused[3] > 0) for fused in case.fused]
    whole = [4 * int((np.ptp(box, axis=0) + 1).prod()) for box in boxes]
    if isinstance(dictionary, VoxelPrototypes):
        return sum(whole)
    if isinstance(dictionary, MirroredPrototypes):
        stored = zip(dictionary.planes, dictionary.stored, whole, strict=True)
        return sum(n if plane is None else half.numel() for plane, half, n in stored)
    return sum(p.numel() for p in dictionary.parameters())


def solid_ious(dictionary: nn.Module, case: Case) -> list[float]:
    """Of occupancy from .5 on with the true things."""
    prototypes, found = dictionary(), []
    for k, true in enumerate(case.true):
        ours, theirs = prototypes.rgba(k)[3].detach().numpy() >= 0.5, true[3] > 0
        found.append(float((ours & theirs).sum() / (ours | theirs).sum()))
    return found


def main(options: Options) -> None:
    rows = [
        "| sides seen | dictionary | stored by half | solid IoU | worst loss of a thing "
        "| numbers stored | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    pictures: list[np.ndarray] = []
    for n_sides in options.sides:
        cases = [make_case(options, n_sides, seed) for seed in options.seeds]
        made = [dictionaries(case) for case in cases]
        whole: list[float] = []
        for name in made[0]:
            ious, seconds, stored, halves = [], 0.0, 0, 0
            for case, dictionary in zip(cases, (each[name] for each in made), strict=True):
                seconds += fit(dictionary, case, options.steps, LEARNING_RATE[name])
                ious += solid_ious(dictionary, case)
                stored += numbers_stored(dictionary, case)
                halves += sum(p is not None for p in getattr(dictionary, "planes", ()))
            whole = whole or ious
            n_stored = f"{stored / len(cases) / len(options.kinds):,.0f}"
            cells = (
                f"{n_sides}", name, f"{halves} of {len(ious)}", f"{np.mean(ious):.3f}",
                f"{max(np.subtract(whole, ious)):.3f}", n_stored, f"{seconds / len(cases):.1f}",
            )  # fmt: skip
            rows.append(f"| {' | '.join(cells)} |")
            print(rows[-1], flush=True)
            last = made[-1][name]()
            pictures.append(np.concatenate([from_above(last.rgba(k)) for k in range(len(last))], 1))
    text = "\n".join(rows)
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(pictures)).save(options.out / "decoders.png")
    if options.results:
        write_between_markers(options.results, "decoders", text)


if __name__ == "__main__":
    main(tyro.cli(Options))
