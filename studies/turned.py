"""K scenes, each turned by an unknown yaw: which one, and how far?

    python studies/turned.py

Evidence is resampled to cylinders around the scene's axis, (height, radius, azimuth), where a turn
is a shift: `over_yaw` has the differences of `assign.differences` at all turns by FFT. Views to
start from are farthest first over the best turns, then prototypes are averages of the views that
are nearest to them, each turned back (a few rounds). A network learns these choices without truth:
a score per prototype and azimuth; the prototype is chosen by softmax, the yaw is the soft-argmax
over azimuths plus a residual. Then everything goes on by gradient through compose_loss. Measured
on views held out: choices, and yaw up to one turn per prototype, by the network and by correlation
with the prototype that the network chose.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from cylinders import HEIGHTS, RADII, Cylinders, cylinders, over_yaw, parabola
from jaxtyping import Float
from k_scenes import accuracy
from PIL import Image
from results_page import write_between_markers
from solids import FACING, View, cube, from_above, seen, sides, solid, with_ground
from torch import Tensor, nn

from protoscene import assign
from protoscene.compose import Target, compose_loss
from protoscene.geometry import Grid, wrap_angle
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.synth.things import build_thing

AZIMUTHS = 72
LEARNT_AZIMUTHS = 36
"""Resolution of cylinders for correlation, and of what the network sees."""
WINDOW = 3
"""The soft-argmax looks so many azimuths to either side of the best."""
ROUNDS = 5


@dataclass
class Options:
    """Finds scenes again that were turned."""

    seeds: tuple[int, ...] = (0, 1, 2)
    resolution: int = 32
    scenes: int = 8
    views: int = 24
    steps: int = 300
    joint_steps: int = 40
    out: Path = Path("out/studies")
    results: Path | None = None
    """Markdown file whose part about this study is replaced."""


@dataclass(frozen=True, eq=False)
class Turned:
    """Views, their true scenes and yaws (for scoring), and whether each is held out."""

    views: list[View]
    scenes: np.ndarray
    yaws: np.ndarray
    held_out: np.ndarray


def make_views(options: Options, seed: int) -> Turned:
    random = np.random.default_rng(seed)
    grid = cube(options.resolution)
    views, scenes, yaws, held_out = [], [], [], []
    for scene in range(options.scenes):
        thing = build_thing(FACING[scene % len(FACING)], int(random.integers(8)), 0.95)
        for i in range(options.views + 8):
            yaw = random.uniform(-np.pi, np.pi)
            shown = with_ground(solid(thing, grid, yaw=yaw))
            views.append(seen(shown, sides(random), random))
            scenes.append(scene)
            yaws.append(yaw)
            held_out.append(i >= options.views)
    return Turned(views, np.array(scenes), np.array(yaws), np.array(held_out))


def cluster(views: Cylinders, k: int) -> tuple[Cylinders, Tensor, Tensor]:
    """K prototypes as cylinders, and of each view which one it shows and by how many azimuths."""
    against = over_yaw(views, views).amin(dim=-1)
    prototypes = views[assign.farthest_first(0.5 * (against + against.T), k)]
    for _ in range(ROUNDS):
        found = over_yaw(views, prototypes)
        which = found.amin(dim=-1).argmin(dim=-1)
        steps = found[torch.arange(len(which)), which].argmin(dim=-1)
        back = views.turned(-steps)
        sums = [
            torch.zeros((k, *v.shape[1:])).index_add(0, which, v)
            for v in (back.known, back.occupied, back.colour)
        ]
        prototypes = Cylinders(*sums)
        count = prototypes.known.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1)
        known, occupied, colour = sums
        prototypes = Cylinders(known / count, occupied / count, colour / count[:, None])
    return prototypes, which, steps


class TurnedChooser(nn.Module):
    """(n, K, azimuths) scores, and residuals of the yaw (rad): convolutions along the azimuth go
    round, so that a turned view has turned scores."""

    def __init__(self, k: int, width: int = 64) -> None:
        super().__init__()

        def around(a: int, b: int) -> nn.Module:
            return nn.Conv1d(a, b, 9, padding=4, padding_mode="circular")

        self.body = nn.Sequential(
            nn.Conv1d(5 * HEIGHTS * RADII // 4, width, 1), nn.ReLU(),
            around(width, width), nn.ReLU(), around(width, width), nn.ReLU(),
            around(width, width), nn.ReLU(), around(width, width), nn.ReLU(),
            nn.Conv1d(width, 2 * k, 1),
        )  # fmt: skip

    def forward(self, looks: Tensor) -> tuple[Tensor, Tensor]:
        scores, residual = self.body(looks).chunk(2, dim=1)
        return scores, torch.tanh(residual) * (2 * math.pi / LEARNT_AZIMUTHS)


def look(views: Cylinders) -> Float[Tensor, "n c a"]:
    channels = torch.cat([
        (views.known - views.occupied)[:, None], 3 * views.occupied[:, None], 3 * views.colour
    ], dim=1)  # fmt: skip
    pooled = nn.functional.avg_pool3d(channels.flatten(0, 1)[:, None], (2, 2, 1))
    return pooled.reshape(len(channels), -1, channels.shape[-1])


def choices(scores: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (n, K) of prototypes, and each one's yaw (n, K): the circular mean of azimuths within
    WINDOW of the best, weighted by softmax, and the residuals there."""
    best = scores.argmax(dim=-1, keepdim=True)
    around = (best + torch.arange(-WINDOW, WINDOW + 1)) % scores.shape[-1]
    weights = torch.softmax(scores.gather(-1, around), dim=-1)
    offset = (weights * torch.arange(-WINDOW, WINDOW + 1)).sum(dim=-1)
    extra = (weights * residual.gather(-1, around)).sum(dim=-1)
    step = 2 * math.pi / scores.shape[-1]
    return scores.logsumexp(dim=-1), (best[..., 0] + offset) * step + extra


def learn(
    chooser: TurnedChooser, looks: Tensor, which: Tensor, yaw: Tensor, steps: int,
    random: torch.Generator,
) -> None:  # fmt: skip
    """Cross-entropy with the correlation's prototype and azimuth, and its yaw; views are turned
    anew every time."""
    optimiser = torch.optim.Adam(chooser.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    step = 2 * math.pi / LEARNT_AZIMUTHS
    for _ in range(steps):
        batch = torch.randint(len(looks), (32,), generator=random)
        turns = torch.randint(LEARNT_AZIMUTHS, (32,), generator=random)
        shown = torch.stack(
            [
                torch.roll(looks[i], t, -1)
                for i, t in zip(batch.tolist(), turns.tolist(), strict=True)
            ]
        )
        target = yaw[batch] + turns * step
        scores, residual = chooser(shown)
        flat = scores.flatten(1)
        # Both azimuths beside the yaw count, by how near they are.
        lower = torch.floor(target / step)
        share = target / step - lower
        first = which[batch] * LEARNT_AZIMUTHS
        log = torch.log_softmax(flat, dim=-1)
        near = (lower.long() % LEARNT_AZIMUTHS, (lower.long() + 1) % LEARNT_AZIMUTHS)
        loss = -((1 - share) * log.gather(1, (first + near[0])[:, None])[:, 0]
                 + share * log.gather(1, (first + near[1])[:, None])[:, 0]).mean()  # fmt: skip
        _, found = choices(scores, residual)
        error = wrap_angle(found[torch.arange(32), which[batch]] - target)
        loss = loss + 2 * error.abs().clamp(max=step).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def fuse(views: list[View], which: np.ndarray, yaw: np.ndarray, k: int) -> Tensor:
    """(K, 4, z, y, x): known-weighted means of the views, turned back; empty where unknown."""
    stacked = torch.from_numpy(np.stack([np.concatenate([v.rgba, v.known[None]]) for v in views]))
    cos, sin = np.cos(yaw), np.sin(yaw)
    zero, one = np.zeros_like(yaw), np.ones_like(yaw)
    # grid_sample asks where a voxel of the result comes from: turned by the yaw.
    rows = np.stack([cos, -sin, zero, zero, sin, cos, zero, zero, zero, zero, one, zero], -1)
    theta = torch.from_numpy(rows.reshape(-1, 3, 4)).float()
    at = nn.functional.affine_grid(theta, list(stacked.shape), align_corners=False)
    back = nn.functional.grid_sample(stacked.float(), at, align_corners=False)
    sums = torch.zeros(k, *back.shape[1:]).index_add(0, torch.as_tensor(which), back)
    colour = sums[:, :3] / sums[:, 3:4].clamp(min=1e-3)
    return torch.cat([colour, sums[:, 3:4] / sums[:, 4:].clamp(min=1e-3)], dim=1).clamp(0, 1)


def joint(
    chooser: TurnedChooser, rgba: Tensor, looks: Tensor, views: list[View], steps: int,
    random: torch.Generator,
) -> VoxelPrototypes:  # fmt: skip
    """The network and the prototypes by gradient through compose_loss; per view all prototypes,
    weighted by softmax, each at the yaw that the network says."""
    size = rgba.shape[-1]
    grid = cube(size)
    side = grid.size_m[0]
    prototypes = VoxelPrototypes.from_rgba(list(rgba), grid.voxel_size, trainable=True)
    optimiser = torch.optim.Adam([
        {"params": chooser.parameters(), "lr": 2e-4},
        {"params": prototypes.parameters(), "lr": 0.02},
    ])  # fmt: skip
    for _ in range(steps):
        batch = torch.randint(len(views), (8,), generator=random).tolist()
        scores, yaw = choices(*chooser(looks[torch.tensor(batch)]))
        weights = assign.softmax(scores)
        rows, which = (weights > 1e-3).nonzero(as_tuple=True)
        centre = torch.zeros(len(rows), 3)
        centre[:, 0] = (rows + 0.5) * side
        placements = Placements(which, centre, yaw[rows, which], presence=weights[rows, which])
        wide = Grid((0.0, *grid.origin[1:]), grid.voxel_size, (size, size, 8 * size))
        target = Target(
            np.concatenate([views[i].rgba for i in batch], axis=-1),
            np.concatenate([views[i].known for i in batch], axis=-1),
        )
        loss = compose_loss(prototypes, placements, wide, target)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            prototypes.voxels.clamp_(0, 1)
    return prototypes


def yaw_errors(
    found: np.ndarray, which: np.ndarray, turned: Turned, rows: np.ndarray
) -> np.ndarray:
    """Degrees, of rows whose prototype is the most frequent of their scene; each prototype's own
    direction is free: the circular median of its differences is taken away."""
    difference = found - turned.yaws[rows]
    errors = []
    for scene in np.unique(turned.scenes[rows]):
        mine = turned.scenes[rows] == scene
        k = np.bincount(which[mine]).argmax()
        mine &= which == k
        own = difference[mine]
        # The median of what is near the commonest direction.
        spread = np.abs(wrap_angle(own[:, None] - own)).sum(axis=1)
        centred = wrap_angle(own - own[spread.argmin()])
        errors += np.abs(np.rad2deg(wrap_angle(centred - np.median(centred)))).tolist()
    return np.array(errors)


def measure(
    options: Options, seed: int
) -> tuple[dict[str, tuple[float, np.ndarray]], float, Tensor]:
    """{stage: (accuracy, yaw errors)} on views held out, CPU seconds, and the prototypes."""
    turned = make_views(options, seed)
    random = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    begin = time.process_time()
    fine = cylinders(turned.views, AZIMUTHS)
    looks = look(cylinders(turned.views, LEARNT_AZIMUTHS))
    mine = torch.as_tensor(np.flatnonzero(~turned.held_out))
    rest = torch.as_tensor(np.flatnonzero(turned.held_out))
    prototypes, which, _ = cluster(fine[mine], options.scenes)
    found = over_yaw(fine[mine], prototypes)[torch.arange(len(mine)), which]
    yaw = parabola(found)
    results = {}

    def note(stage: str, chosen: Tensor, angles: Tensor) -> None:
        picked = chosen.numpy()
        right = accuracy(picked, turned.scenes[rest], options.scenes)
        errors = yaw_errors(angles.detach().numpy(), picked, turned, rest.numpy())
        results[stage] = right, errors

    against = over_yaw(fine[rest], prototypes)
    nearest = against.amin(dim=-1).argmin(dim=-1)
    rows = torch.arange(len(rest))
    note("correlation alone", nearest, parabola(against[rows, nearest]))
    chooser = TurnedChooser(options.scenes)
    learn(chooser, looks[mine], which, yaw, options.steps, random)
    views = [turned.views[i] for i in mine.tolist()]
    rgba = fuse(views, which.numpy(), yaw.numpy(), options.scenes)
    for stage in ("network", "network, after compose_loss"):
        if stage != "network":
            rgba = joint(chooser, rgba, looks[mine], views, options.joint_steps, random)
        with torch.no_grad():
            scores, angles = choices(*chooser(looks[rest]))
        chosen = scores.argmax(dim=-1)
        note(stage, chosen, angles[rows, chosen])
    note("network's choice, yaw by correlation", chosen, parabola(against[rows, chosen]))
    return results, time.process_time() - begin, rgba


def main(options: Options) -> None:
    stages: dict[str, list[tuple[float, np.ndarray]]] = {}
    seconds, pictures = [], []
    for seed in options.seeds:
        found, took, prototypes = measure(options, seed)
        seconds.append(took)
        for stage, result in found.items():
            stages.setdefault(stage, []).append(result)
        pictures.append(
            np.concatenate([from_above(prototypes.rgba(k)) for k in range(len(prototypes))], 1)
        )
    rows = [
        "| by | accuracy | worst seed | yaw error, °: median | 90 % | beyond 90° |",
        "|---" * 6 + "|",
    ]
    for stage, parts in stages.items():
        errors = np.concatenate([e for _, e in parts])
        right = [a for a, _ in parts]
        cells = (
            stage, f"{np.mean(right):.3f}", f"{min(right):.3f}", f"{np.median(errors):.2f}",
            f"{np.quantile(errors, 0.9):.2f}", f"{(errors > 90).mean():.3f}",
        )  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    title = (
        f"{options.scenes} scenes at {options.resolution}³, turned anyhow, {options.views} views "
        f"of each to learn from, {len(options.seeds)} seeds; {np.mean(seconds):.0f} CPU s a seed."
    )
    text = "\n".join([title, "", *rows])
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(pictures)).save(options.out / "turned.png")
    if options.results:
        write_between_markers(options.results, "turned", text)


if __name__ == "__main__":
    main(tyro.cli(Options))
