"""K scenes, K prototypes: a network sees some sides of a scene and chooses among K volumes.

    python studies/k_scenes.py

Each scene is one thing on the ground, or with ``--what places`` a furnished room in which something
else stands every time: what is chosen then is its background. The network is told nothing but the
evidence itself: its K scores become weights, compose draws the weighted prototypes, compose_loss
compares them with what was seen. Right is one prototype per scene: the accuracy is that of views
that were not trained on, under the best pairing of scenes and prototypes. Prints a table over
seeds of what helps against one prototype taking all, and draws what became of the prototypes.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from PIL import Image
from results_page import write_between_markers
from scipy.optimize import linear_sum_assignment
from solids import View, from_above, furnished_rooms, seen, sides, things_on_the_ground
from torch import Tensor, nn

from protoscene import assign
from protoscene.compose import Target, compose_loss
from protoscene.geometry import Grid
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes

Select = Callable[[Tensor, float, torch.Generator], Tensor]
"""Scores (n, K) and the progress from 0 to 1 to weights (n, K)."""
SIZE_M = 1.1
LOOKED_AT = 16
"""The network sees the evidence at this many voxels a side."""
NEGLIGIBLE = 1e-3
"""Weights below draw nothing."""
COARSE_VIEWS, COARSE_STEPS, COARSE_BATCH = 8, 80, 8
"""Of a coarse round: views of each scene, steps, views of a step."""


@dataclass(frozen=True)
class Remedy:
    """How scores become weights, what is added to the loss, and where the prototypes start."""

    select: Select = lambda scores, progress, random: assign.softmax(scores)
    frequency: float = 0.0
    binarisation: float = 0.0
    reassigns: bool = False
    start: Literal["flat", "any views", "farthest first"] = "flat"


def _cooling(scores: Tensor, progress: float, random: torch.Generator) -> Tensor:
    return assign.softmax(scores, assign.decayed(4, 0.25, progress))


def _noisy(scores: Tensor, progress: float, random: torch.Generator) -> Tensor:
    return assign.softmax(scores, 1, assign.decayed(2, 0.05, progress), random)


def _gumbel(scores: Tensor, progress: float, random: torch.Generator) -> Tensor:
    return assign.gumbel(scores, assign.decayed(1, 0.1, progress), random)


def _greedy(scores: Tensor, progress: float, random: torch.Generator) -> Tensor:
    return assign.epsilon_greedy(scores, assign.decayed(0.5, 0.02, progress), random)


def _balanced(scores: Tensor, progress: float, random: torch.Generator) -> Tensor:
    return assign.balanced(scores, assign.decayed(1, 0.25, progress))


REMEDIES: dict[str, Remedy] = {
    "softmax": Remedy(),
    "temperature 4 to 1/4": Remedy(_cooling),
    "logit noise 2 to .05": Remedy(_noisy),
    "Gumbel 1 to .1": Remedy(_gumbel),
    "ε-greedy .5 to .02": Remedy(_greedy),
    "frequency loss": Remedy(frequency=1.0),
    "frequency + binarisation": Remedy(frequency=1.0, binarisation=0.1),
    "Gumbel + frequency + binarisation": Remedy(_gumbel, frequency=1.0, binarisation=0.1),
    "reassignment of the dead": Remedy(reassigns=True),
    "balanced (Sinkhorn)": Remedy(_balanced),
    "start: any K views": Remedy(start="any views"),
    "start: farthest first": Remedy(start="farthest first"),
}
DEFAULT = "start: farthest first"


@dataclass
class Options:
    """Trains choosers and prototypes together, and counts right choices."""

    seeds: tuple[int, ...] = tuple(range(10))
    resolution: int = 24
    scenes: int = 8
    views: int = 8
    """Of each scene to train on."""
    held_out: int = 4
    """Of each scene to measure with."""
    steps: int = 160
    batch: int = 16
    rate: float = 1e-3
    """Of the network's steps."""
    coarse: int = 0
    """Resolution of a first round, whose network and prototypes are then refined; 0: none."""
    what: Literal["things", "places"] = "things"
    remedies: tuple[str, ...] = ()
    """Only these."""
    out: Path = Path("out/studies")
    results: Path | None = None
    """Markdown file whose part about this study is replaced."""


class Chooser(nn.Module):
    """K scores of a view, from rgb of its surface, surface and free space at 16³."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(5, 16, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv3d(16, 32, 4, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(32 * (LOOKED_AT // 4) ** 3, k)

    def forward(self, looks: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(looks))
        return scores


def look(view: View) -> Tensor:
    """(5, 16, 16, 16): block means of colour and occupancy of the surface, and of free space."""
    free = view.known & (view.rgba[3] == 0)
    shown = torch.from_numpy(np.concatenate([view.rgba * view.rgba[3], free[None]]))
    return nn.functional.adaptive_avg_pool3d(shown.float(), LOOKED_AT)


@dataclass(frozen=True, eq=False)
class Pool:
    """Views to train on, and what the network sees of these and of views held out, each
    with the number of its scene (for scoring); held-out ones come last."""

    views: list[View]
    looks: Tensor
    scenes: np.ndarray
    held_out: np.ndarray


def make_pool(options: Options, seed: int) -> Pool:
    random = np.random.default_rng(seed)
    n, size = options.scenes, options.resolution
    make = things_on_the_ground if options.what == "things" else furnished_rooms
    scenery = make(n, size, random)
    # Large views would take more memory than the prototypes and their gradients.
    kept_as = np.float32 if size <= 64 else np.float16
    views, looks, rows = [], [], []
    for scene, drawn in enumerate(scenery):
        for i in range(options.views + options.held_out):
            shown, hidden = drawn(random)
            view = seen(shown, sides(random), random)
            # Of a background only what no passer-by covers is asked for, as after `subtract`.
            known = view.known & ~hidden
            view = View((view.rgba * known).astype(kept_as), known)
            looks.append(look(view))
            rows.append((i >= options.views, scene, len(rows)))
            if i < options.views:
                views.append(view)
    held_out, scenes, order = np.array(sorted(rows)).T
    every = torch.stack(looks)[torch.from_numpy(order)]
    size_of = every.square().mean(dim=(0, 2, 3, 4), keepdim=True).sqrt().clamp(min=1e-3)
    return Pool(views, every / size_of, scenes, held_out > 0)


class Dictionary:
    """K prototypes of the scene's size, drawn by weights, side by side for a batch of views."""

    def __init__(self, rgba: Tensor) -> None:
        self.size = rgba.shape[-1]
        self.voxel = SIZE_M / self.size
        self.prototypes = VoxelPrototypes.from_rgba(list(rgba), self.voxel, trainable=True)

    def loss(self, weights: Tensor, views: list[View]) -> Tensor:
        """compose_loss of a batch: one canvas on which the views stand in a row along x."""
        n, size = len(views), self.size
        shape = (size, size, n * size)
        grid = Grid((0.0, -SIZE_M / 2, -SIZE_M / 2), self.voxel, shape)
        # One block of memory per view would be a copy more: the target is compose's own layout.
        rgba = torch.from_numpy(np.concatenate([v.rgba for v in views], axis=-1))
        known = torch.from_numpy(np.concatenate([v.known for v in views], axis=-1))
        rows, which = (weights > NEGLIGIBLE).nonzero(as_tuple=True)
        centre = torch.zeros(len(rows), 3)
        centre[:, 0] = (rows + 0.5) * SIZE_M
        placements = Placements(which, centre, presence=weights[rows, which])
        return compose_loss(self.prototypes, placements, grid, Target(rgba, known))["loss"]

    @torch.no_grad()
    def clamp(self) -> None:
        self.prototypes.voxels.clamp_(0, 1)

    @torch.no_grad()
    def enlarged(self, size: int) -> Tensor:
        """(K, 4, size, size, size): the prototypes on smaller voxels."""
        each = [self.prototypes.rgba(k)[None] for k in range(len(self.prototypes))]
        return torch.cat([nn.functional.interpolate(v, size, mode="trilinear") for v in each])


def average(views: list[View]) -> Tensor:
    """(4, z, y, x): mean of what is known per voxel; occupancy 0 where nobody saw anything."""
    total = np.zeros(views[0].rgba.shape, np.float32)
    known = np.zeros(views[0].known.shape, np.float32)
    for view in views:
        total += view.rgba * np.concatenate([view.rgba[3:]] * 3 + [view.known[None]])
        known += view.known
    total[:3] /= np.maximum(total[3], 1)
    total[3] /= np.maximum(known, 1)
    return torch.from_numpy(total)


def start(pool: list[View], k: int, how: str, random: torch.Generator) -> Tensor:
    """(K, 4, z, y, x): grey haze, or what single views know, and elsewhere the average."""
    shape = pool[0].rgba.shape
    if how == "flat":
        return (0.5 + 0.02 * torch.randn((k, *shape), generator=random)).clamp(0, 1)
    if how == "farthest first":
        rgba, known = (torch.stack(shown) for shown in zip(*map(shrunk, pool), strict=True))
        chosen = assign.farthest_first(assign.differences(rgba, known > 0.5), k)
    else:
        chosen = torch.randperm(len(pool), generator=random)[:k].tolist()
    mean = average(pool)
    known = [torch.from_numpy(pool[i].known) for i in chosen]
    views = [torch.from_numpy(pool[i].rgba).float() for i in chosen]
    return torch.stack([torch.where(m, v, mean) for m, v in zip(known, views, strict=True)])


def shrunk(view: View, most: int = 32) -> tuple[Tensor, Tensor]:
    """rgba and the share of known voxels as block means, so that comparing all pairs of large views
    stays cheap."""
    factor = -(-view.known.shape[-1] // most)
    both = torch.from_numpy(np.concatenate([view.rgba, view.known[None]])).float()
    means = nn.functional.avg_pool3d(both, factor)
    return means[:4], means[4]


def train(
    pool: Pool, remedy: Remedy, options: Options, seed: int
) -> tuple[Chooser, Dictionary]:  # fmt: skip
    random = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    views, looks = pool.views, pool.looks[: len(pool.views)]
    if options.coarse:
        rough = replace(
            options, resolution=options.coarse, coarse=0,
            views=COARSE_VIEWS, steps=COARSE_STEPS, batch=COARSE_BATCH,
        )  # fmt: skip
        chooser, coarse = train(make_pool(rough, seed), remedy, rough, seed)
        dictionary = Dictionary(coarse.enlarged(options.resolution))
    else:
        chooser = Chooser(options.scenes)
        dictionary = Dictionary(start(views, options.scenes, remedy.start, random))
    optimiser = torch.optim.Adam(
        [
            {"params": chooser.parameters(), "lr": options.rate},
            {"params": dictionary.prototypes.parameters(), "lr": 0.1},
        ]
    )
    for step in range(options.steps):
        batch = torch.randperm(len(views), generator=random)[: options.batch]
        weights = remedy.select(chooser(looks[batch]), step / options.steps, random)
        loss = dictionary.loss(weights, [views[i] for i in batch.tolist()])
        loss = loss + remedy.frequency * assign.frequency_loss(weights)
        loss = loss + remedy.binarisation * assign.binarisation_loss(weights)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        dictionary.clamp()
        if remedy.reassigns and step % 10 == 9 and step < 0.8 * options.steps:
            reassign(chooser, dictionary, looks, views)
    return chooser, dictionary


@torch.no_grad()
def reassign(chooser: Chooser, dictionary: Dictionary, looks: Tensor, views: list[View]) -> None:
    """Dead prototypes become the worst explained views. Their scores are those of the busiest one,
    1 more for the view that they became and as much less for what is unlike it."""
    features = chooser.body(looks)
    weights = assign.softmax(chooser.head(features))
    errors = torch.stack(
        [dictionary.loss(w[None], [v]) for w, v in zip(weights, views, strict=True)]
    )
    busiest = int(weights.mean(dim=0).argmax())
    for k, i in assign.replacements(weights, errors):
        known = torch.from_numpy(views[i].known)
        old = dictionary.prototypes.rgba(busiest)
        dictionary.prototypes.rgba(k).copy_(
            torch.where(known, torch.from_numpy(views[i].rgba).float(), old)
        )
        towards = features[i] - features.mean(dim=0)
        towards /= towards.square().sum()
        chooser.head.weight[k] = chooser.head.weight[busiest] + towards
        chooser.head.bias[k] = chooser.head.bias[busiest] - towards @ features.mean(dim=0)


def accuracy(chosen: np.ndarray, scenes: np.ndarray, k: int) -> float:
    """Share of views whose choice is right, under the best pairing of scenes and prototypes."""
    counts = np.zeros((k, k))
    np.add.at(counts, (scenes, chosen), 1)
    return float(counts[linear_sum_assignment(-counts)].sum() / len(scenes))


@dataclass(frozen=True)
class Result:
    accuracy: float
    entropy: float
    dead: int
    seconds: float


def measure(
    pool: Pool, remedy: Remedy, options: Options, seed: int
) -> tuple[Result, Dictionary]:  # fmt: skip
    begin = time.process_time()
    chooser, dictionary = train(pool, remedy, options, seed)
    seconds = time.process_time() - begin
    with torch.no_grad():
        scores = chooser(pool.looks[torch.as_tensor(pool.held_out)])
    used = assign.usage(assign.hardened(assign.softmax(scores)))
    scenes = pool.scenes[pool.held_out]
    found = accuracy(scores.argmax(dim=1).numpy(), scenes, options.scenes)
    return Result(found, used.entropy, len(used.dead), seconds), dictionary


def picture(dictionary: Dictionary) -> np.ndarray:
    """The prototypes in a row, from above."""
    prototypes = dictionary.prototypes
    return np.concatenate([from_above(prototypes.rgba(k)) for k in range(len(prototypes))], axis=1)


def row(name: str, results: list[Result]) -> str:
    found = [r.accuracy for r in results]
    cells = (
        f"{sum(a == 1 for a in found)} of {len(found)}", f"{np.mean(found):.2f}",
        f"{min(found):.2f}", f"{np.mean([r.entropy for r in results]):.2f}",
        f"{np.mean([r.dead for r in results]):.1f}",
        f"{np.mean([r.seconds for r in results]):.1f}",
    )  # fmt: skip
    return f"| {' | '.join([name, *cells])} |"


HEAD = "| remedy | all right | accuracy | worst | usage entropy | dead | CPU s |\n|---|---|---|---|---|---|---|"  # noqa: E501


def main(options: Options) -> None:
    results: dict[str, list[Result]] = {}
    names = options.remedies or tuple(REMEDIES)
    pictures = []
    for seed in options.seeds:
        pool = make_pool(options, seed)
        for name in names:
            result, dictionary = measure(pool, REMEDIES[name], options, seed)
            results.setdefault(name, []).append(result)
            print(f"seed {seed}: {row(name, [result])}", flush=True)
            if seed == options.seeds[0]:
                pictures.append(picture(dictionary))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    table = "\n".join([HEAD, *(row(name, found) for name, found in results.items())])
    title = f"{options.scenes} {options.what} at {options.resolution}³"
    text = f"{title}, {len(options.seeds)} seeds, {options.steps} steps of {options.batch} views"
    if options.coarse:
        text += f" after {COARSE_STEPS} steps of {COARSE_BATCH} at {options.coarse}³"
    text = f"{text}; peak memory {peak:.1f} GB.\n\n{table}"
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    name = f"k_scenes-{options.what}-{options.resolution}"
    Image.fromarray(np.concatenate(pictures)).save(options.out / f"{name}.png")
    if options.results:
        write_between_markers(options.results, name, text)


if __name__ == "__main__":
    main(tyro.cli(Options))
