"""More and smaller prototypes: translation, yaw and scale, introduced one after another.

    python studies/introduced.py

Each scene holds three things anywhere, turned anyhow, .8 to 1.2 times as large, among more
prototypes than there are kinds. Pieces of evidence give the slots; their places are a voxel off.
A schedule is a list of stages, each with the transforms that it may use. A stage searches
prototype, yaw and scale of every slot (correlation of cylinders around the slots, prototypes are
averages of the slots nearest to them), then everything that is allowed goes on by gradient through
compose_loss on whole scenes: weights, places, yaws, scales, prototypes. Without search only the
prototypes' start is farthest first, and the gradient has to find the rest.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from cylinders import Cylinders, cylinders, over_yaw, parabola
from PIL import Image
from results_page import write_between_markers
from scipy.ndimage import label
from solids import FACING, View, from_above, seen, solid
from torch import Tensor
from turned import AZIMUTHS

from protoscene import assign
from protoscene.compose import Target, compose_loss
from protoscene.geometry import Grid, wrap_angle
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.score import v_measure
from protoscene.synth.things import build_thing

VOXEL, SIDE = 0.04, 24
"""Metres of a voxel, and voxels a side of a prototype."""
SCENE = (SIDE, 80, 80)
SCALES = (0.8, 0.87, 0.94, 1.02, 1.1, 1.2)
ROUNDS = 4


@dataclass(frozen=True)
class Stage:
    """What may vary besides the choice, and whether it is searched before the gradient."""

    yaw: bool = False
    scale: bool = False
    searches: bool = True


SCHEDULES: dict[str, tuple[Stage, ...]] = {
    "gradient, all at once": (Stage(True, True, searches=False),),
    "gradient, one after another": (
        Stage(searches=False), Stage(True, searches=False), Stage(True, True, searches=False),
    ),
    "search, all at once": (Stage(True, True),),
    "search, one after another": (Stage(), Stage(True), Stage(True, True)),
    "search, yaw first, then scale": (Stage(True), Stage(True, True)),
}  # fmt: skip


@dataclass
class Options:
    """Finds prototypes in scenes of several things."""

    seeds: tuple[int, ...] = (0, 1, 2)
    kinds: int = 5
    prototypes: int = 7
    scenes: int = 10
    steps: int = 60
    """Of the gradient, over all stages together."""
    schedules: tuple[str, ...] = tuple(SCHEDULES)
    out: Path = Path("out/studies")
    results: Path | None = None
    """Markdown file whose part about this study is replaced."""


@dataclass(frozen=True, eq=False)
class Slots:
    """Scenes, and pieces of them: scene, a crop around each, where that is, and the truth: kind,
    place (x, y), yaw and scale."""

    views: list[View]
    scene: np.ndarray
    crops: list[View]
    centre: np.ndarray
    kind: np.ndarray
    place: np.ndarray
    yaw: np.ndarray
    scale: np.ndarray


def make_slots(options: Options, seed: int) -> Slots:
    random = np.random.default_rng(seed)
    views, rows, crops = [], [], []
    colours = random.permutation(8)
    _, ny, nx = SCENE
    for scene in range(options.scenes):
        whole = np.zeros((4, *SCENE), np.float32)
        corners = random.permutation([(x, y) for x in (-0.8, 0, 0.8) for y in (-0.8, 0, 0.8)])[:3]
        truths = []
        for corner in corners:
            kind, scale = int(random.integers(options.kinds)), random.uniform(0.8, 1.2)
            thing = build_thing(FACING[kind], int(colours[kind]), 0.65 * scale)
            (x, y), yaw = corner + random.uniform(-0.08, 0.08, 2), random.uniform(-np.pi, np.pi)
            grid = Grid((-nx * VOXEL / 2, -ny * VOXEL / 2, -thing.size_m[2] / 2), VOXEL, SCENE)
            placed = solid(thing, grid, x, y, yaw)
            whole = np.where(placed[3] > 0, placed, whole)
            truths.append((kind, x, y, yaw, scale))
        sides = random.uniform(0, 2 * np.pi) + np.arange(4) * np.pi / 2
        view = seen(whole, sides, random)
        views.append(view)
        pieces, n = label((view.rgba[3] > 0).any(axis=0), np.ones((3, 3)))
        found = [np.argwhere(pieces == i + 1) for i in range(n)]
        boxes = np.array([(f.min(0) + f.max(0) + 1) / 2 for f in found if len(f) > 20])
        numbers = [i + 1 for i in range(n) if len(found[i]) > 20]
        for kind, x, y, yaw, scale in truths:
            own = np.array([y, x]) / VOXEL + np.array([ny, nx]) / 2
            nearest = int(np.linalg.norm(boxes - own, axis=1).argmin())
            at = np.rint(boxes[nearest] + random.uniform(-1, 1, 2)).astype(int)
            crops.append(crop(view, pieces == numbers[nearest], at))
            centre = (at[::-1] - np.array([nx, ny]) / 2) * VOXEL
            rows.append((scene, *centre, kind, x, y, yaw, scale))
    table = np.array(rows)
    return Slots(
        views, table[:, 0].astype(int), crops, table[:, 1:3], table[:, 3].astype(int),
        table[:, 4:6], table[:, 6], table[:, 7],
    )  # fmt: skip


def crop(view: View, piece: np.ndarray, at: np.ndarray) -> View:
    """SIDE³ voxels around the corner ``at`` (y, x); what is of another piece is unknown there."""
    half = SIDE // 2
    lines, columns = (slice(a, a + SIDE) for a in at)
    pad = ((0, 0), (half, half), (half, half))
    known = np.pad(view.known, pad)[:, lines, columns]
    rgba = np.pad(view.rgba, ((0, 0), *pad))[:, :, lines, columns]
    mine = np.pad(piece, half)[lines, columns] | (rgba[3] == 0)
    return View(rgba * mine, known & mine)


@dataclass(eq=False)
class Fit:
    """The variables: K prototypes, and per slot logits (n, K), place (m), yaw, log of scale."""

    rgba: Tensor
    logits: Tensor
    centre: Tensor
    yaw: Tensor
    log_scale: Tensor


def search(crops: list[View], stage: Stage, fit: Fit | None, k: int) -> Fit:
    """Every slot's prototype, yaw and scale by correlation; prototypes anew from the slots.

    Without a ``fit`` to go on from, prototypes start as the slots that are farthest first."""
    scales = SCALES if stage.scale else (1.0,)
    sampled = [cylinders(crops, AZIMUTHS, scale) for scale in scales]
    n = len(crops)
    if fit is None:
        middle = sampled[len(sampled) // 2]
        against = _allowed(torch.stack([over_yaw(s, middle) for s in sampled]), stage).amin((0, 3))
        prototypes = middle[assign.farthest_first(0.5 * (against + against.T), k)]
    else:
        whole = [View(v.numpy(), np.ones((SIDE,) * 3, dtype=bool)) for v in fit.rgba]
        prototypes = cylinders(whole, AZIMUTHS)
    for _ in range(ROUNDS):
        found = _allowed(torch.stack([over_yaw(s, prototypes) for s in sampled]), stage)
        which = found.amin(dim=(0, 3)).argmin(dim=1)
        mine = found[:, torch.arange(n), which]
        size = mine.amin(dim=2).argmin(dim=0)
        best = mine[size, torch.arange(n)]
        chosen = Cylinders(*(
            torch.stack([getattr(sampled[s], name)[i] for i, s in enumerate(size.tolist())])
            for name in ("known", "occupied", "colour")
        ))  # fmt: skip
        back = chosen.turned(-best.argmin(dim=1))
        kept = prototypes
        prototypes = averaged(back, which, kept)
    yaw = parabola(best) if stage.yaw else torch.zeros(n)
    scale = torch.tensor(scales)[size]
    fused = fuse(crops, which, yaw, scale, k)
    logits = torch.full((n, k), -2.0)
    logits[torch.arange(n), which] = 2.0
    return Fit(fused, logits, torch.zeros(n, 2), yaw, scale.log())


def _allowed(found: Tensor, stage: Stage) -> Tensor:
    if stage.yaw:
        return found
    held = torch.full_like(found, math.inf)
    held[..., 0] = found[..., 0]
    return held


def averaged(views: Cylinders, which: Tensor, otherwise: Cylinders) -> Cylinders:
    """Sums over the views of each prototype, by how often most is known; what has none stays."""
    k = len(otherwise.known)
    sums = [
        torch.zeros((k, *v.shape[1:])).index_add(0, which, v)
        for v in (views.known, views.occupied, views.colour)
    ]
    count = torch.bincount(which, minlength=k).clamp(min=1).float()[:, None, None, None]
    means = [sums[0] / count, sums[1] / count, sums[2] / count[:, None]]
    there = torch.bincount(which, minlength=k) > 0
    old = (otherwise.known, otherwise.occupied, otherwise.colour)
    merged = [
        torch.where(there.reshape(-1, *[1] * (m.dim() - 1)), m, o)
        for m, o in zip(means, old, strict=True)
    ]
    return Cylinders(*merged)


def fuse(crops: list[View], which: Tensor, yaw: Tensor, scale: Tensor, k: int) -> Tensor:
    """(K, 4, z, y, x): known-weighted means of the crops, turned and scaled back to 1, standing on
    the lowest layer."""
    stacked = torch.from_numpy(np.stack([np.concatenate([v.rgba, v.known[None]]) for v in crops]))
    cos, sin = scale * torch.cos(yaw), scale * torch.sin(yaw)
    zero = torch.zeros_like(yaw)
    rows = [cos, -sin, zero, zero, sin, cos, zero, zero, zero, zero, scale, scale - 1]
    theta = torch.stack(rows, dim=-1).reshape(-1, 3, 4)
    at = torch.nn.functional.affine_grid(theta, list(stacked.shape), align_corners=False)
    back = torch.nn.functional.grid_sample(stacked.float(), at, align_corners=False)
    sums = torch.zeros(k, *back.shape[1:]).index_add(0, which, back)
    colour = sums[:, :3] / sums[:, 3:4].clamp(min=1e-3)
    return torch.cat([colour, sums[:, 3:4] / sums[:, 4:].clamp(min=1e-3)], dim=1).clamp(0, 1)


def descend(slots: Slots, fit: Fit, stage: Stage, steps: int) -> float:
    """Adam on all that the stage allows, in place, all scenes every step; the last loss."""
    prototypes = VoxelPrototypes.from_rgba(list(fit.rgba), VOXEL, trainable=True)
    names = ["logits", "centre", *["yaw"] * stage.yaw, *["log_scale"] * stage.scale]
    rates = {"logits": 0.1, "centre": 0.004, "yaw": 0.02, "log_scale": 0.01}
    leaves = {name: getattr(fit, name).clone().requires_grad_() for name in names}
    groups = [{"params": [leaves[name]], "lr": rates[name]} for name in names]
    optimiser = torch.optim.Adam([*groups, {"params": prototypes.parameters(), "lr": 0.03}])
    start = torch.from_numpy(slots.centre).float()
    _, ny, nx = SCENE
    grid = Grid((-nx * VOXEL / 2, -ny * VOXEL / 2, 0.0), VOXEL, SCENE)
    targets = [Target(v.rgba, v.known) for v in slots.views]
    total = 0.0
    for _ in range(steps):
        at = {name: leaves.get(name, getattr(fit, name)) for name in rates}
        weights, scale = assign.softmax(at["logits"]), at["log_scale"].exp()
        height = scale * (SIDE * VOXEL / 2)  # it stands on the ground
        centre = torch.cat([start + at["centre"], height[:, None]], dim=1)
        losses = []
        for i, target in enumerate(targets):
            mine = torch.from_numpy(np.flatnonzero(slots.scene == i))
            rows, which = (weights[mine] > 1e-3).nonzero(as_tuple=True)
            rows = mine[rows]
            placements = Placements(
                which, centre[rows], at["yaw"][rows], scale[rows], weights[rows, which]
            )
            losses.append(compose_loss(prototypes, placements, grid, target)["loss"])
        loss = torch.stack(losses).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            prototypes.voxels.clamp_(0, 1)
        total = float(loss.detach())
    for name, leaf in leaves.items():
        setattr(fit, name, leaf.detach())
    fit.rgba = torch.stack([prototypes.rgba(k).detach() for k in range(len(prototypes))])
    return total


def run(slots: Slots, schedule: tuple[Stage, ...], options: Options) -> tuple[Fit, float]:
    fit: Fit | None = None
    for stage in schedule:
        if stage.searches or fit is None:
            start = stage if stage.searches else Stage()
            again = search(slots.crops, start, fit, options.prototypes)
            if fit is not None:
                again.centre = fit.centre
            fit = again
        loss = descend(slots, fit, stage, options.steps // len(schedule))
    return fit, loss


@dataclass(frozen=True, eq=False)
class Result:
    v_measure: float
    used: int
    place: np.ndarray
    yaw: np.ndarray
    scale: np.ndarray
    loss: float
    seconds: float


def measure(slots: Slots, schedule: tuple[Stage, ...], options: Options) -> tuple[Result, Fit]:
    """Places in voxels, yaws in degrees and scales in %, each up to one offset per prototype."""
    begin = time.process_time()
    fit, loss = run(slots, schedule, options)
    seconds = time.process_time() - begin
    which = fit.logits.argmax(dim=1).numpy()
    joint = np.zeros((options.prototypes, options.kinds), dtype=int)
    np.add.at(joint, (which, slots.kind), 1)
    yaw, scale, place = [], [], []
    found = slots.centre + fit.centre.numpy()
    for k in np.unique(which):
        mine = (which == k) & (slots.kind == joint[k].argmax())
        turns = wrap_angle(fit.yaw.numpy() - slots.yaw)[mine]
        spread = np.abs(wrap_angle(turns[:, None] - turns)).sum(axis=1)
        yaw.append(np.rad2deg(np.abs(wrap_angle(turns - turns[spread.argmin()]))))
        sizes = (fit.log_scale.numpy() - np.log(slots.scale))[mine]
        scale.append(100 * np.abs(sizes - np.median(sizes)))
        # A prototype's own frame may be off its thing's: the same way in all instances.
        cos, sin = np.cos(fit.yaw.numpy()[mine]), np.sin(fit.yaw.numpy()[mine])
        x, y = ((found - slots.place)[mine] / np.exp(fit.log_scale.numpy()[mine, None])).T
        own = np.stack([cos * x + sin * y, cos * y - sin * x], axis=1)
        place.append(np.linalg.norm(own - np.median(own, axis=0), axis=1) / VOXEL)
    parts = (np.concatenate(v) for v in (place, yaw, scale))
    score = v_measure(joint).v_measure
    return Result(score, len(np.unique(which)), *parts, loss, seconds), fit


def main(options: Options) -> None:
    results: dict[str, list[Result]] = {}
    pictures = []
    for seed in options.seeds:
        slots = make_slots(options, seed)
        for name in options.schedules:
            result, fit = measure(slots, SCHEDULES[name], options)
            results.setdefault(name, []).append(result)
            if seed == options.seeds[0]:
                pictures.append(np.concatenate([from_above(v) for v in fit.rgba], axis=1))
    columns = ("schedule", "V-measure", "worst", "prototypes used", "place, voxels", "yaw, °",
               "yaw 90 %", "scale, %", "loss", "CPU s")  # fmt: skip
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, found in results.items():
        place, yaw, scale = (
            np.concatenate([getattr(r, part) for r in found]) for part in ("place", "yaw", "scale")
        )
        scores = [r.v_measure for r in found]
        cells = (
            name, f"{np.mean(scores):.3f}", f"{min(scores):.3f}",
            f"{np.mean([r.used for r in found]):.1f}", f"{np.median(place):.2f}",
            f"{np.median(yaw):.2f}", f"{np.quantile(yaw, 0.9):.1f}", f"{np.median(scale):.1f}",
            f"{np.mean([r.loss for r in found]):.4f}", f"{np.mean([r.seconds for r in found]):.0f}",
        )  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    title = (
        f"{options.scenes} scenes of 3 things of {options.kinds} kinds, {options.prototypes} "
        f"prototypes of {SIDE}³ voxels in {SCENE[0]} × {SCENE[1]} × {SCENE[2]}, "
        f"{len(options.seeds)} seeds, {options.steps} steps."
    )
    text = "\n".join([title, "", *rows])
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(pictures)).save(options.out / "introduced.png")
    if options.results:
        write_between_markers(options.results, "introduced", text)


if __name__ == "__main__":
    main(tyro.cli(Options))
