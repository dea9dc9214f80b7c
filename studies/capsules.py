"""Capsules: does the same thing in another pose get the same codes?

    python studies/capsules.py --results docs/results.md

Every capsule of a room has a place, a nose and a symmetry by formulas; a small network makes a
spatial latent of its surroundings in that frame, and a codebook makes a code of the latent. Things
of rooms not learnt from are stood alone, then turned by 90° or moved by half a cell, as they truly
look then on the voxels. What is kept is the share of codes that are the same, as multisets; beside
it without the yaw, and without any pose: a code for each cell, seen along the axes. Codes that say
nothing would be kept, too, so the share that a thing has of the codes of other kinds is given. How
far poses are from turning and moving with the thing is given in degrees and voxels.

A dictionary needs several windows to a code: with a code for each window of few rooms (64 of 59)
two looks at one thing fall to two windows that are nearly alike, and a quarter of codes flips.
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
MOST = 30
"""Windows of a room to learn from."""
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

    rooms: tuple[int, ...] = tuple(range(100, 112))
    tests: tuple[int, ...] = (20, 21, 22)
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the network."""
    steps: int = 300
    batch: int = 8
    codes: int = 64
    size: int = 256
    full: bool = False
    """Many rooms and steps, for a graphics card's machine."""
    out: Path = Path("build/studies")
    results: Path | None = None
    """Markdown file whose part about this study is replaced."""

    def __post_init__(self) -> None:
        if self.full:
            self.rooms, self.steps = tuple(range(100, 164)), 20000


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
    """On the graphics card, if there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(seed)
    net = CapsuleNet().to(device)
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=options.steps)
    random = torch.Generator().manual_seed(seed)
    for _ in range(options.steps):
        some = windows[torch.randint(len(windows), (options.batch,), generator=random)].to(device)
        said = net.decode(net.encode(some))
        loss = F.binary_cross_entropy(said[:, 3].clamp(1e-5, 1 - 1e-5), some[:, 3].clamp(0, 1))
        loss = loss + 5 * (said[:, :3] - some[:, :3]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return net.cpu()


@dataclass(frozen=True, eq=False)
class Seen:
    """A volume's capsules: the window of each and where it lies."""

    windows: Tensor
    where: Poses

    @classmethod
    def of(cls, rgba: Tensor, posing: Posing) -> Seen:
        where = posing(rgba)
        return cls(canonical(rgba, where, SIDE), where)


@dataclass(frozen=True, eq=False)
class Coder:
    """A network and its codebook (k, d)."""

    net: CapsuleNet
    book: Tensor

    @torch.no_grad()
    def codes(self, seen: Seen) -> Counter[int]:
        return Counter(self._nearest(seen).tolist())

    def _nearest(self, seen: Seen) -> Tensor:
        latents = self.net.encode(seen.windows).flatten(1)
        return torch.cdist(latents, self.book).argmin(dim=1)

    @torch.no_grad()
    def decoded(self, seen: Seen, shape: tuple[int, ...], voxel: float) -> Tensor:
        """The volume that the codes and poses mean."""
        windows = self.net.decode(self.book.reshape(len(self.book), -1, 4, 4, 4))
        windows[:, :3] /= windows[:, 3:].clamp(min=1e-3)
        windows[:, 3] = (windows[:, 3] > 0.5).float()
        dictionary = VoxelPrototypes.from_rgba(list(windows), voxel)
        grid = Grid((0.0, 0.0, 0.0), voxel, shape)
        placed = Placements(self._nearest(seen), seen.where.centre * voxel, seen.where.yaw)
        return compose(dictionary, placed, grid).rgba


def drawn(windows: Tensor, most: int) -> Tensor:
    """At most so many of them, drawn at random."""
    return windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))[:most]]


def make_coder(windows: Tensor, options: Options, seed: int) -> Coder:
    net = train(windows, options, seed)
    with torch.no_grad():
        latents = torch.cat([net.encode(some) for some in windows.split(64)]).flatten(1)
    return Coder(net, codebook(latents, options.codes))


@dataclass(frozen=True, eq=False)
class Stood:
    """A thing's capsules as it ``first`` stood alone: how many, their codes by each of several
    coders, then those after each of the moves; how far from where they belong a turn by 90° leaves
    them (:func:`_errors`)."""

    kind: str
    n: int
    first: list[Counter[int]]
    moved: dict[str, list[Counter[int]]]
    errors: Tensor


def stand(
    thing: Thing, posing: Posing, coders: list[Coder], random: np.random.Generator, voxel: float
) -> Stood:
    start = (*random.uniform(-HALF_CELL_M, HALF_CELL_M, 2), random.uniform(-np.pi, np.pi))
    before = alone(thing, start, voxel)
    first, moved, turned = Seen.of(before, posing), {}, None
    for name, (x, y, yaw) in MOVES.items():
        after = alone(thing, (start[0] + x, start[1] + y, start[2] + yaw), voxel)
        seen = Seen.of(after, posing)
        moved[name] = [coder.codes(seen) for coder in coders]
        if name == "90°":
            turned = seen.where
    middle = before.shape[-1] / 2 + torch.tensor([*start[:2], 0]).float() / voxel
    middle *= torch.tensor([1, 1, 0])
    x, y, z = (first.where.centre - middle).T
    errors = _errors(torch.stack([-y, x, z], 1) + middle, first.where, turned)
    codes = [coder.codes(first) for coder in coders]
    return Stood(thing.kind, len(first.where), codes, moved, errors)


def kept(things: list[Stood], coder: int) -> list[float]:
    """Of each move the share of codes that stay; and the share of a thing's codes that a thing of
    another kind has, in the mean over pairs."""
    codes = [thing.first[coder] for thing in things]
    total = sum(own.total() for own in codes)
    shares = []
    for name in MOVES:
        again = [thing.moved[name][coder] for thing in things]
        shares.append(sum((a & b).total() for a, b in zip(codes, again, strict=True)) / total)
    others = [
        (a & b).total() / a.total()
        for a, one in zip(codes, things, strict=True)
        for b, other in zip(codes, things, strict=True)
        if one.kind != other.kind
    ]
    return [*shares, sum(others) / max(len(others), 1)]


def _errors(due: Tensor, where: Poses, there: Poses) -> Tensor:
    """(n, 2): voxels, and degrees or NaN for what is round or changed its symmetry."""
    apart, nearest = torch.cdist(due, there.centre).min(dim=1)
    period = 2 * math.pi / where.symmetry.clamp(min=1)
    turned = there.yaw[nearest] - where.yaw - math.pi / 2
    off = ((turned + period / 2) % period - period / 2).abs().rad2deg()
    known = (where.symmetry > 0) & (where.symmetry == there.symmetry[nearest])
    return torch.stack([apart, torch.where(known, off, math.nan)], dim=1)


def in_words(errors: Tensor) -> str:
    apart, off = errors.T
    near, known = apart < STRIDE / 2, ~off.isnan()
    return (
        f"Turned by 90°, {float(near.float().mean()):.2f} of {len(near)} capsules are within half "
        f"a cell of where they belong (median {apart.median():.2f} voxels, 90 %: "
        f"{apart.quantile(0.9):.2f}); their noses are off by {off[known].median():.1f}° (90 %: "
        f"{off[known].quantile(0.9):.1f}°), {float((~known).float().mean()):.2f} of them round or "
        "changed."
    )


def main(options: Options) -> None:
    torch.set_num_threads(1)
    begin = time.process_time()
    voxel = SIDE_M / options.size
    rooms = [halves(room(room_settings(s), options.size)).above for s in options.rooms]
    tests = [halves(room(room_settings(s), options.size)).above for s in options.tests]
    things = [t for seed in options.tests for t in make_layout(room_settings(seed)).things]
    lines = [
        "| pose of a code | codes of a thing | 90° | half a cell | 37° | 90°, half a cell "
        "| of another kind | IoU |",
        "|---" * 8 + "|",
    ]
    shown = [seen_from_above(tests[0].numpy())]
    equivariance = ""
    for name, posing in POSINGS.items():
        windows = [drawn(Seen.of(rgba, posing).windows, MOST) for rgba in rooms]
        coders = [make_coder(torch.cat(windows), options, seed) for seed in options.seeds]
        random = np.random.default_rng(0)
        stood = [stand(thing, posing, coders, random, voxel) for thing in things]
        rows, ious = [kept(stood, number) for number in range(len(coders))], []
        if posing is not cells:
            for number, rgba in enumerate(tests):
                seen = Seen.of(rgba, posing)
                for coder in coders:
                    pictured = coder.decoded(seen, tuple(rgba.shape[1:]), voxel)
                    ious.append(iou(pictured, rgba))
                    if number == 0 and coder is coders[0]:
                        shown.append(seen_from_above(pictured.contiguous().numpy()))
        if posing is poses:
            equivariance = in_words(torch.cat([one.errors for one in stood]))
        n = sum(one.n for one in stood) / len(stood)
        mean, spread = np.mean(rows, axis=0), np.std(rows, axis=0)
        shares = [f"{m:.2f} ± {s:.2f}" for m, s in zip(mean, spread, strict=True)]
        drawn_iou = f"{np.mean(ious):.2f}" if ious else "–"
        lines.append(f"| {name} | {n:.1f} | {' | '.join(shares)} | {drawn_iou} |")
    title = (
        f"{len(things)} things of {len(KINDS)} kinds from rooms "
        f"{', '.join(map(str, options.tests))}, learnt from rooms "
        f"{', '.join(map(str, options.rooms))} at {options.size}³; {options.codes} codes, "
        f"{options.steps} steps, {len(options.seeds)} seeds; {time.process_time() - begin:.0f} "
        "CPU s in all. Of another kind: the share of its codes that a thing of another kind has. "
        "IoU: rooms drawn from codes and poses alone."
    )
    text = "\n".join([title, "", *lines, "", equivariance])
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(shown, axis=1)).save(options.out / "capsules.png")
    if options.results:
        write_between_markers(options.results, "capsules", text)


if __name__ == "__main__":
    main(tyro.cli(Options))
