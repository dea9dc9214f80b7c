"""Capsules: does the same thing in another pose get the same codes?

    python studies/capsules.py --results docs/results.md

Every capsule of a room has a place, a nose and a symmetry by formulas; a small network makes a
spatial latent of its surroundings in that frame, and a codebook makes a code of the latent. Things
of rooms not learnt from are stood alone, then turned by 90° or moved by half a cell, as they truly
look then on the voxels. What is kept is the share of codes that are the same, as multisets; beside
it without the yaw, and without any pose: a code for each cell, seen along the axes. How far poses
are from turning and moving with the thing is given in degrees and voxels.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from PIL import Image
from results_page import write_between_markers
from room_measures import STRIDE, halves, iou
from solids import solid
from static_scenes import KINDS, SIDE_M, room, room_settings, seen_from_above
from torch import Tensor

from protoscene.compose import compose
from protoscene.geometry import Grid
from protoscene.networks.capsules import CapsuleNet, Poses, canonical, codebook, poses, solid_blocks
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.synth.layout import make_layout
from protoscene.synth.things import Thing

SIDE = 32
"""Voxels along a capsule's window."""
HALF_CELL_M = 0.08
MOST = 240
"""Windows to learn from."""
MOVES = {
    "90°": (0.0, 0.0, math.pi / 2),
    "half a cell": (HALF_CELL_M, 0.0, 0.0),
    "37°": (0.0, 0.0, math.radians(37)),
    "90°, half a cell": (HALF_CELL_M, HALF_CELL_M, math.pi / 2),
}
"""x, y (m), yaw (rad) added to where the thing stood."""
Posing = Callable[[Tensor], Poses]


@dataclass
class Options:
    """Learns codes of pieces, and turns and moves things."""

    rooms: tuple[int, ...] = (100, 101, 102, 103)
    tests: tuple[int, ...] = (20, 21, 22)
    seeds: tuple[int, ...] = (0,)
    """Of the network."""
    steps: int = 60
    batch: int = 8
    codes: int = 64
    size: int = 256
    full: bool = False
    """Many rooms and steps, for a graphics card's machine."""
    out: Path = Path("build/studies")
    results: Path | None = None
    """Markdown file whose part about this study is replaced."""


def alone(thing: Thing, pose: tuple[float, float, float], voxel: float) -> Tensor:
    """The thing on a cube twice as long as itself, at x, y (m) from the middle, turned."""
    n = STRIDE * math.ceil(2 * max(thing.size_m) / voxel / STRIDE)
    grid = Grid((-n * voxel / 2, -n * voxel / 2, -thing.size_m[2] / 2), voxel, (n // 2, n, n))
    return torch.from_numpy(solid(thing, grid, *pose))


def without_yaw(rgba: Tensor) -> Poses:
    found = poses(rgba)
    return Poses(found.centre, torch.zeros_like(found.yaw), found.symmetry)


def cells(rgba: Tensor) -> Poses:
    """No pose head: every cell that has anything solid, by its middle."""
    at, _, _ = solid_blocks(rgba)
    cell = torch.unique((at // STRIDE).long(), dim=0)
    n = len(cell)
    return Poses((cell + 0.5) * STRIDE, torch.zeros(n), torch.ones(n, dtype=torch.long))


POSINGS: dict[str, Posing] = {
    "place and yaw": poses, "place alone": without_yaw, "no pose, cells": cells,
}  # fmt: skip


def train(windows: Tensor, options: Options, seed: int) -> CapsuleNet:
    torch.manual_seed(seed)
    net = CapsuleNet()
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    random = torch.Generator().manual_seed(seed)
    for _ in range(options.steps):
        some = windows[torch.randint(len(windows), (options.batch,), generator=random)]
        said = net.decode(net.encode(some))
        loss = F.binary_cross_entropy(said[:, 3].clamp(1e-5, 1 - 1e-5), some[:, 3].clamp(0, 1))
        loss = loss + 5 * (said[:, :3] - some[:, :3]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net


@dataclass(frozen=True, eq=False)
class Coder:
    """A network, its codebook (k, d) and where windows lie."""

    net: CapsuleNet
    book: Tensor
    posing: Posing

    @torch.no_grad()
    def codes(self, rgba: Tensor) -> tuple[Tensor, Poses]:
        where = self.posing(rgba)
        latents = self.net.encode(canonical(rgba, where, SIDE)).flatten(1)
        return torch.cdist(latents, self.book).argmin(dim=1), where

    @torch.no_grad()
    def decoded(self, rgba: Tensor, size: int) -> Tensor:
        """The volume that the codes and poses mean."""
        which, where = self.codes(rgba)
        windows = self.net.decode(self.book.reshape(len(self.book), -1, 4, 4, 4))
        windows[:, :3] /= windows[:, 3:].clamp(min=1e-3)
        windows[:, 3] = (windows[:, 3] > 0.5).float()
        voxel = SIDE_M / size
        dictionary = VoxelPrototypes.from_rgba(list(windows), voxel)
        grid = Grid((0.0, 0.0, 0.0), voxel, tuple(rgba.shape[1:]))
        placed = Placements(which, where.centre * voxel, where.yaw)
        return compose(dictionary, placed, grid).rgba


def drawn(where: Poses, most: int, seed: int) -> Poses:
    """At most so many of them, drawn at random."""
    rows = torch.randperm(len(where), generator=torch.Generator().manual_seed(seed))[:most]
    return Poses(where.centre[rows], where.yaw[rows], where.symmetry[rows])


def make_coder(rooms: list[Tensor], posing: Posing, options: Options, seed: int) -> Coder:
    some = [drawn(posing(rgba), MOST // len(rooms), seed) for rgba in rooms]
    windows = torch.cat([canonical(*pair, SIDE) for pair in zip(rooms, some, strict=True)])
    net = train(windows, options, seed)
    with torch.no_grad():
        latents = torch.cat([net.encode(some) for some in windows.split(64)]).flatten(1)
    return Coder(net, codebook(latents, options.codes), posing)


def kept(coder: Coder, things: list[Thing], voxel: float) -> tuple[dict[str, float], Tensor]:
    """Of each move the share of codes that stay; and of turns by 90° how far places (voxels) and
    noses (degrees, where there is one) are from where they belong."""
    random = np.random.default_rng(0)
    same, total, wrong = Counter(), 0, []
    for thing in things:
        start = (*random.uniform(-HALF_CELL_M, HALF_CELL_M, 2), random.uniform(-np.pi, np.pi))
        before = alone(thing, start, voxel)
        codes, where = coder.codes(before)
        total += len(codes)
        for name, (x, y, yaw) in MOVES.items():
            after = alone(thing, (start[0] + x, start[1] + y, start[2] + yaw), voxel)
            again, there = coder.codes(after)
            shared = Counter(codes.tolist()) & Counter(again.tolist())
            same[name] += shared.total()
            if name == "90°":
                middle = before.shape[-1] / 2 + torch.tensor([*start[:2], 0]).float() / voxel
                own = where.centre - middle * torch.tensor([1, 1, 0])
                due = torch.stack([-own[:, 1], own[:, 0], own[:, 2]], 1)
                due = due + middle * torch.tensor([1, 1, 0])
                wrong.append(_errors(due, where, there))
    return {name: n / total for name, n in same.items()}, torch.cat(wrong)


def _errors(due: Tensor, where: Poses, there: Poses) -> Tensor:
    """(n, 2): voxels, and degrees or NaN for what is round or changed its symmetry."""
    apart, nearest = torch.cdist(due, there.centre).min(dim=1)
    period = 2 * math.pi / where.symmetry.clamp(min=1)
    turned = there.yaw[nearest] - where.yaw - math.pi / 2
    off = ((turned + period / 2) % period - period / 2).abs().rad2deg()
    known = (where.symmetry > 0) & (where.symmetry == there.symmetry[nearest])
    return torch.stack([apart, torch.where(known, off, math.nan)], dim=1)


def main(options: Options) -> None:
    torch.set_num_threads(1)
    if options.full:
        options.rooms, options.steps = tuple(range(100, 164)), 20000
    begin = time.process_time()
    voxel = SIDE_M / options.size
    rooms = [halves(room(room_settings(s), options.size)).above for s in options.rooms]
    tests = [halves(room(room_settings(s), options.size)).above for s in options.tests]
    things = [t for seed in options.tests for t in make_layout(room_settings(seed)).things]
    lines = [
        "| pose of a code | codes of a thing | 90° | half a cell | 37° | 90°, half a cell | IoU |",
        "|---" * 7 + "|",
    ]
    shown = [seen_from_above(tests[0].numpy())]
    equivariance = ""
    for name, posing in POSINGS.items():
        rows, ious = [], []
        for seed in options.seeds:
            coder = make_coder(rooms, posing, options, seed)
            share, wrong = kept(coder, things, voxel)
            rows.append([share[move] for move in MOVES])
            if posing is not cells:
                pictured = [coder.decoded(rgba, options.size) for rgba in tests]
                ious.append(np.mean([iou(d, t) for d, t in zip(pictured, tests, strict=True)]))
                if seed == options.seeds[0]:
                    shown.append(seen_from_above(pictured[0].contiguous().numpy()))
            if posing is poses and not equivariance:
                apart, off = wrong.T
                near, known = apart < STRIDE / 2, ~off.isnan()
                equivariance = (
                    f"Turned by 90°, {float(near.float().mean()):.2f} of {len(near)} capsules are "
                    f"within half a cell of where they belong (median {apart.median():.2f} voxels, "
                    f"90 %: {apart.quantile(0.9):.2f}); their noses are off by "
                    f"{off[known].median():.1f}° (90 %: {off[known].quantile(0.9):.1f}°), "
                    f"{float((~known).float().mean()):.2f} of them round or changed."
                )
        n = sum(len(posing(alone(t, (0, 0, 0), voxel))) for t in things) / len(things)
        mean, spread = np.mean(rows, axis=0), np.std(rows, axis=0)
        shares = [f"{m:.2f} ± {s:.2f}" for m, s in zip(mean, spread, strict=True)]
        drawn_iou = f"{np.mean(ious):.2f}" if ious else "–"
        lines.append(f"| {name} | {n:.1f} | {' | '.join(shares)} | {drawn_iou} |")
    title = (
        f"{len(things)} things of {len(KINDS)} kinds from rooms "
        f"{', '.join(map(str, options.tests))}, learnt from rooms "
        f"{', '.join(map(str, options.rooms))} at {options.size}³; {options.codes} codes, "
        f"{options.steps} steps, {len(options.seeds)} seeds; {time.process_time() - begin:.0f} "
        "CPU s in all. IoU: rooms drawn from codes and poses alone."
    )
    text = "\n".join([title, "", *lines, "", equivariance])
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(shown, axis=1)).save(options.out / "capsules.png")
    if options.results:
        write_between_markers(options.results, "capsules", text)


if __name__ == "__main__":
    main(tyro.cli(Options))
