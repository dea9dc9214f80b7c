"""The network form of joint training: a detector taught by what EM found, and by reconstruction.

    python studies/joint_network.py --results docs/results.md

EM (`protoscene.joint`) learns prototypes from some instants and finds them in more of them. A
detector learns these finds, turned anyhow; then it goes on through compose: what it says at its
own peaks becomes placements (softmax of its logits over the dictionary, centre, soft-argmax yaw,
heat as presence), compose_loss compares them with the evidence, and the gradient reaches the
network and the prototypes. Measured on instants that neither has seen. Also prints what a step
costs at 256³.
"""

from __future__ import annotations

import copy
import math
import resource
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from instants import Scenery, evidence, make_scenery, scene_grid, things_of
from joint import SIDE_M, SIZE_M, Result, measure, start_shape, table
from results_page import write_between_markers
from torch import Tensor

from protoscene.compose import Target, compose_loss
from protoscene.geometry import Grid
from protoscene.joint import Joint, boxes, learn_jointly, random_prototypes, recognise
from protoscene.labels import Labels
from protoscene.networks import Detector, Prediction, detection_loss, detections
from protoscene.networks.centernet import read_boxes
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.samples import Sample, batch
from protoscene.slots import Finds
from protoscene.targets import targets

LEAST = 0.3
"""A peak of less heat places nothing."""
GOES_ON: dict[str, float | None] = {
    "network": None,
    "network, as long without compose": 0.0,
    "network, then through compose": 100.0,
}
"""Weight of compose_loss beside the finds' loss, when training goes on."""


@dataclass
class Options:
    """Trains a detector from no labels at all."""

    seeds: tuple[int, ...] = (0, 1)
    scenes: int = 24
    """From which EM learns."""
    more: int = 40
    """In which it only finds things again, for the network."""
    held_out: int = 24
    steps: int = 900
    joint_steps: int = 150
    batch: int = 6
    resolution: int = 64
    step_at: int = 256
    """What one step costs is measured at this resolution; 0 leaves it out."""
    results: Path | None = None
    """Markdown file whose part about this study is replaced."""


def network_volume(seen: Tensor) -> Tensor:
    """(n, 5, z, y, x): colour, occupied and free, as `network_input` has them."""
    return seen[:, [2, 3, 4, 0, 1]]


def labels_of(joint: Joint, finds: Finds, grid: Grid, scene: int) -> Labels:
    """What was found in one scene as a detector's labels, surer the more it explains."""
    mine = finds[finds.instant == scene]
    _, _, *size = boxes(joint.prototypes)[mine.which].T
    rows = torch.stack([*mine.place.T, size[2] / 2, *size], dim=1).double().numpy()
    rows *= grid.voxel_size
    rows[:, :3] += np.array([*grid.lower[:2], 0.0])
    weight = mine.score.double().numpy().clip(0, 1)
    return Labels(
        mine.which.numpy(), np.column_stack([rows, mine.yaw.double().numpy()]),
        np.where(weight > 0.2, 1.0, 0.0),
    )  # fmt: skip


def turned_sample(volume: Tensor, labels: Labels, grid: Grid, stride: int, yaw: float) -> Sample:
    """Everything turned about the middle of the scene; voxels are those nearest."""
    cos, sin = math.cos(yaw), math.sin(yaw)
    theta = torch.tensor([[cos, sin, 0, 0], [-sin, cos, 0, 0], [0, 0, 1, 0]])[None]
    at = F.affine_grid(theta, [1, *volume.shape], align_corners=False)
    moved = F.grid_sample(volume[None], at, mode="nearest", align_corners=False)[0]
    rows = labels.boxes.copy()
    x, y = rows[:, 0].copy(), rows[:, 1].copy()
    rows[:, 0], rows[:, 1] = cos * x - sin * y, sin * x + cos * y
    rows[:, 6] += yaw
    wanted = targets(replace(labels, boxes=rows), moved.numpy(), grid, stride)
    return Sample(moved, *(torch.from_numpy(part) for part in wanted))


class Reconstruction:
    """compose_loss of what a network says, with prototypes that learn as well."""

    def __init__(self, joint: Joint, grid: Grid) -> None:
        alpha = joint.prototypes[:, 3:]
        straight = torch.cat([joint.prototypes[:, :3] / alpha.clamp(min=1e-3), alpha], dim=1)
        self.prototypes = VoxelPrototypes.from_rgba(
            list(straight.clamp(0, 1)), grid.voxel_size, trainable=True
        )
        self.grid, self.height = grid, joint.prototypes.shape[2] * grid.voxel_size / 2

    def placements(self, prediction: Prediction, stride: int) -> Placements:
        """At the batch's peaks, its instants side by side along x."""
        heat = prediction.heat.sigmoid()
        around = F.max_pool2d(heat[:, None], 3, stride=1, padding=1)[:, 0]
        cells = torch.nonzero((heat >= around) & (heat >= LEAST))
        rows = read_boxes(prediction, cells, self.grid, stride)
        b, y, x = cells.T
        right = b * self.grid.size_m[0]
        standing = torch.full_like(rows[:, 0], self.height)
        centre = torch.stack([rows[:, 0] + right.to(rows), rows[:, 1], standing], dim=1)
        weights = prediction.kind[b, :, y, x].softmax(dim=1)
        return Placements(weights, centre, rows[:, 6], presence=heat[b, y, x])

    def loss(self, prediction: Prediction, volume: Tensor, stride: int) -> Tensor:
        nz, ny, nx = self.grid.shape
        wide = Grid(self.grid.origin, self.grid.voxel_size, (nz, ny, len(volume) * nx))
        side_by_side = torch.cat(list(volume), dim=-1)
        target = Target(side_by_side[:4], side_by_side[3] + side_by_side[4])
        placements = self.placements(prediction, stride)
        return compose_loss(self.prototypes, placements, wide, target)["loss"]


def train(
    detector: Detector, volumes: Tensor, labels: list[Labels], grid: Grid, options: Options,
    random: np.random.Generator, reconstruction: Reconstruction | None = None,
    through: float = 0.0,
) -> None:  # fmt: skip
    """The finds' loss; with a ``reconstruction`` it goes on at a tenth of the rate, and ``through``
    times compose_loss is added."""
    steps, rate = options.steps, 2e-3
    groups = [{"params": list(detector.parameters())}]
    if reconstruction:
        steps, rate = options.joint_steps, 2e-4
        groups.append({"params": list(reconstruction.prototypes.parameters()), "lr": 5e-3})
    optimiser = torch.optim.AdamW(groups, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        drawn = batch(
            turned_sample(
                volumes[i],
                labels[i],
                grid,
                detector.stride,
                float(random.uniform(-math.pi, math.pi)),
            )
            for i in random.integers(len(volumes), size=options.batch)
        )
        prediction = detector(drawn.volume)
        loss = torch.stack(list(detection_loss(prediction, drawn).values())).sum()
        if reconstruction and through:
            composed = reconstruction.loss(prediction, drawn.volume, detector.stride)
            loss = loss + through * composed
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if reconstruction:
            with torch.no_grad():
                reconstruction.prototypes.voxels.clamp_(0, 1)


@torch.inference_mode()
def said(detector: Detector, volumes: Tensor, grid: Grid) -> tuple[Finds, float]:
    """What the detector finds in each instant, and CPU seconds of one."""
    begin = time.process_time()
    rows = []
    for i, volume in enumerate(volumes):
        found = detections(detector(volume[None]), grid, detector.stride, 0.1)[0]
        place = (found.boxes[:, :2] - grid.lower[:2]) / grid.voxel_size
        for j in range(len(found.kind)):
            rows.append((i, found.kind[j], *place[j], found.boxes[j, 6], found.score[j]))
    table = torch.tensor(np.array(rows, dtype=np.float64).reshape(-1, 6)).float()
    instant, which, x, y, yaw, score = table.T
    finds = Finds(
        instant.long(), which.long(), torch.stack([x, y], 1), yaw, torch.ones(len(yaw)), score
    )
    return finds, (time.process_time() - begin) / len(volumes)


def study(options: Options, seed: int, results: dict[str, list[Result]]) -> dict[str, float]:
    things = things_of(seed, 3)
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    scenery, more, rest = (
        make_scenery(things, n, 1000 * part + seed, options.resolution)
        for part, n in enumerate((options.scenes, options.more, options.held_out))
    )
    first, second, held_out = (evidence(s) for s in (scenery, more, rest))
    high = max(v.shape[2] for v in (first, second, held_out))
    first, second, held_out = (
        F.pad(v, (0, 0, 0, 0, 0, high - v.shape[2])) for v in (first, second, held_out)
    )
    begin = time.process_time()
    drawn = torch.Generator().manual_seed(seed)
    start = random_prototypes(6, start_shape(first, scenery), drawn)
    joint = learn_jointly(first, scenery.grid.voxel_size, SIZE_M, start, drawn)
    learnt = time.process_time() - begin
    begin = time.process_time()
    again = replace(joint, finds=recognise(joint, held_out))
    spent = {"EM": (time.process_time() - begin) / len(rest)}
    _note(results, "EM", again, rest, learnt)

    grid = Grid((*scenery.grid.origin[:2], 0.0), scenery.grid.voxel_size, first.shape[2:])
    also = recognise(joint, second)
    volumes = network_volume(torch.cat([first, second]))
    labels = [labels_of(joint, joint.finds, grid, i) for i in range(len(scenery))]
    labels += [labels_of(joint, also, grid, i) for i in range(len(more))]
    detector = Detector(len(joint.prototypes), grid.shape)
    begin = time.process_time()
    train(detector, volumes, labels, grid, options, random)
    seconds = time.process_time() - begin
    for name, through in GOES_ON.items():
        own = copy.deepcopy(detector)
        begin = time.process_time()
        if through is not None:
            train(own, volumes, labels, grid, options, random, Reconstruction(joint, grid), through)
        took = time.process_time() - begin + (seconds if through is None else 0)
        finds, spent[name] = said(own, network_volume(held_out), grid)
        _note(results, name, replace(joint, finds=finds), rest, took)
    return spent


def _note(
    results: dict[str, list[Result]], name: str, joint: Joint, scenery: Scenery, seconds: float
) -> None:
    result = measure(joint, scenery, math.nan, seconds)
    results.setdefault(name, []).append(result)
    print(table({name: [result]}).splitlines()[-1], flush=True)


def step_cost(resolution: int) -> str:
    """One step of detector and prototypes at a resolution: four things, three prototypes."""
    whole = scene_grid(resolution)
    side = round(SIDE_M / whole.voxel_size)
    grid = Grid(whole.origin, whole.voxel_size, whole.shape)
    random = torch.Generator().manual_seed(0)
    shape = (3, 4, round(0.8 / whole.voxel_size), side, side)
    empty = torch.zeros(0)
    none = Finds(empty.long(), empty.long(), torch.zeros(0, 2), empty, empty, empty)
    joint = Joint(0.5 * torch.rand(shape, generator=random), torch.zeros(3, 4, 1, 1, 1), 1.0, none)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    detector, reconstruction = Detector(3, grid.shape), Reconstruction(joint, grid)
    optimiser = torch.optim.Adam([*detector.parameters(), reconstruction.prototypes.voxels])
    volume = (torch.rand(1, 5, *grid.shape, generator=random) < 0.2).float()
    volume[:, 4] = 1 - volume[:, 3]
    forced = torch.zeros(detector(volume).heat.shape)
    forced[0, 8:28:14, 8:28:14] = 9.0
    seconds = {}
    for _ in range(2):  # the first compiles
        begin = time.process_time()
        prediction = detector(volume)
        prediction = prediction._replace(heat=prediction.heat + forced)
        middle = time.process_time()
        loss = reconstruction.loss(prediction, volume, detector.stride)
        composed = time.process_time() - middle
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seconds = {"all": time.process_time() - begin, "compose": composed}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return (
        f"One step at {resolution}³ (detector, compose_loss with its gradients, Adam; 4 placements "
        f"of 3 prototypes of {side}² columns): {seconds['all']:.2f} CPU s, of which compose_loss "
        f"{seconds['compose'] / seconds['all']:.0%}; {peak / 2**20:.2f} GB above the start."
    )


def main(options: Options) -> None:
    torch.set_num_threads(1)
    results: dict[str, list[Result]] = {}
    spent = []
    cost = step_cost(options.step_at) if options.step_at else ""
    print(cost, flush=True)
    for seed in options.seeds:
        spent.append(study(options, seed, results))
    each = ", ".join(f"{name} {np.mean([s[name] for s in spent]):.2f}" for name in spent[0])
    title = (
        f"{options.held_out} instants held out at {options.resolution}³, seeds "
        f"{', '.join(map(str, options.seeds))}; EM from {options.scenes} instants, the network "
        f"from EM's finds in these and {options.more} more; {options.steps} steps of "
        f"{options.batch}, then {options.joint_steps}. CPU s of one instant: {each}."
    )
    text = "\n".join([title, "", table(results), "", cost])
    print(text)
    if options.results:
        write_between_markers(options.results, "joint_network", text)


if __name__ == "__main__":
    main(tyro.cli(Options))
