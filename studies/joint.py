"""Dictionary and placements learnt together by reconstruction: no labels, no motion.

    python studies/joint.py --results docs/results.md
    python studies/joint.py --world fleet --seeds 0 4 6 --results docs/results.md
    python studies/joint.py --world sizes --results docs/results.md

Single instants of three kinds of things, three or four at a time, some touching, seen from one to
four sides. EM (`protoscene.joint`) starts from random prototypes, or from the dictionary that
`discover` found in a recording where these things move (``--world fleet``), then all goes on by
gradient through compose_loss on the whole 64³ scenes. Every row is measured on the same scenes: a
box counts if it overlaps a true one by half or by .7; V-measure is that of prototypes against
kinds. With ``--world sizes`` things of a kind come in ``FACTORS`` of its size, and how large each
is has to be found too: scales at once, or places first, then scales, then yaws.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from fleet import scenes, settings
from instants import Scenery, evidence, instant, make_scenery, things_of
from PIL import Image
from results_page import write_between_markers
from solids import from_above
from torch import Tensor

from protoscene.compose import compose
from protoscene.gains import Looks
from protoscene.geometry import Grid, wrap_angle
from protoscene.joint import (
    COLD,
    YAWS,
    Joint,
    boxes,
    descend,
    learn_jointly,
    random_prototypes,
)
from protoscene.matching import average_precision, match
from protoscene.placements import Placements
from protoscene.scene import Scene
from protoscene.score import v_measure
from protoscene.synth.layout import make_layout

SIZE_M = 0.45
"""About how wide things are: what centre-surround looks for."""
SIDE_M = 1.2
"""Of a prototype."""
FACTORS = (0.8, 1.0, 1.25)
"""Sizes of things of one kind, and the scales that are tried."""


@dataclass
class Options:
    """Learns what stands in single instants."""

    seeds: tuple[int, ...] = (0, 1, 2)
    resolution: int = 64
    scenes: int = 24
    prototypes: int = 6
    steps: int = 40
    """Of the gradient."""
    world: Literal["kinds", "fleet", "sizes"] = "kinds"
    """Any three kinds by seed, or the first three of studies/fleet.py's recording of that seed; or
    any three kinds, each in several sizes."""
    starts: tuple[str, ...] = ()
    """Left out: all that there are."""
    data: Path = Path("build/detector")
    """Folder of the fleet's recordings, and of what was discovered in them."""
    out: Path = Path("out/studies")
    results: Path | None = None
    """Markdown file whose part about this study is replaced."""


@dataclass(frozen=True, eq=False)
class Result:
    ap: tuple[float, float]
    v: float
    used: int
    place: np.ndarray
    yaw: np.ndarray
    scale: np.ndarray
    loss: float
    seconds: float


def predicted_boxes(joint: Joint, scenery: Scenery, scene: int) -> np.ndarray:
    """(n, 7) boxes in metres of what was found in one scene."""
    finds = joint.finds[joint.finds.instant == scene]
    x, y, *size = (boxes(joint.prototypes)[finds.which] * finds.scale[:, None]).T
    cos, sin = torch.cos(finds.yaw), torch.sin(finds.yaw)
    middle = finds.place + torch.stack([cos * x - sin * y, sin * x + cos * y], dim=1)
    rows = torch.stack([*middle.T, size[2] / 2, *size], dim=1).double().numpy()
    rows *= scenery.grid.voxel_size
    rows[:, :2] += scenery.grid.lower[:2]
    return np.column_stack([rows, finds.yaw.double().numpy()])


def measure(joint: Joint, scenery: Scenery, loss: float, seconds: float) -> Result:
    """Places in voxels; yaws in degrees up to one turn per prototype, scales up to one factor per
    prototype, in per cent."""
    sequence, order = [], []
    for scene in range(len(scenery)):
        mine = (joint.finds.instant == scene).nonzero()[:, 0]
        found = predicted_boxes(joint, scenery, scene)
        sequence.append(instant(scenery, scene, found, len(order)))
        order += mine.tolist()
    finds = joint.finds[torch.tensor(order, dtype=torch.long)]
    scores, which = finds.score.numpy(), finds.which.numpy()
    ap = tuple(average_precision(sequence, scores, least) for least in (0.5, 0.7))
    matches = match(sequence, 0.5, len(order), len(scenery.scene))
    prototype, kind = which[matches.pairs[:, 1]], scenery.kind[matches.pairs[:, 2]]
    counts = np.zeros((len(joint.prototypes), scenery.kind.max() + 1), dtype=int)
    np.add.at(counts, (prototype, kind), 1)
    apart = matches.boxes[:, 0] - matches.boxes[:, 1]
    place = np.linalg.norm(apart[:, :2], axis=1) / scenery.grid.voxel_size
    true_log = np.log(matches.boxes[:, 1, 3:6]).mean(axis=1)
    log_scale = np.log(finds.scale.numpy()[matches.pairs[:, 1]]) - true_log
    yaw, scale = [np.zeros(0)], [np.zeros(0)]
    for k in np.unique(prototype):
        own = (prototype == k) & (kind == counts[k].argmax())
        yaw.append(_spread(apart[own, 6]))
        scale.append(100 * np.expm1(np.abs(log_scale[own] - np.median(log_scale[own]))))
    used = len(np.unique(which))
    score = v_measure(counts).v_measure if len(matches.pairs) else 0.0
    turned, scaled = np.concatenate(yaw), np.concatenate(scale)
    return Result(ap, score, used, place, turned, scaled, loss, seconds)


def _spread(turns: np.ndarray) -> np.ndarray:
    """Degrees from the turn that most share: which way a prototype looks is its own choice."""
    if not len(turns):
        return turns
    nearness = np.abs(wrap_angle(turns[:, None] - turns)).sum(axis=1)
    return np.rad2deg(np.abs(wrap_angle(turns - turns[nearness.argmin()])))


def start_shape(seen: Tensor, scenery: Scenery) -> tuple[int, int, int]:
    side = round(SIDE_M / scenery.grid.voxel_size / 4) * 2
    return seen.shape[2] // 2, side, side


def laid(scene: Scene, shape: tuple[int, int, int], voxel: float) -> Tensor:
    """(K, 4, z, y, x): a scene's prototypes on other voxels, standing; colours times occupancy."""
    _, ny, nx = shape
    grid = Grid((-nx * voxel / 2, -ny * voxel / 2, 0.0), voxel, shape)
    heights = {o.prototype: o.dims_m[2] for o in scene.objects}
    volumes = [
        compose(scene.prototypes, Placements([k], [[0, 0, high / 2]]), grid).rgba.contiguous()
        for k, high in sorted(heights.items())
    ]
    rgba = torch.stack(volumes).float()
    return torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1)


LOOKS = {
    "random": (),
    "random, places before yaws": (Looks.of(1), Looks.of(YAWS)),
    "random, all at once": (Looks.of(YAWS, FACTORS),),
    "random, places, then scales, then yaws": (
        Looks.of(1), Looks.of(1, FACTORS), Looks.of(YAWS, FACTORS),
    ),
}  # fmt: skip
"""What is tried, stage after stage."""
STARTS = {
    "kinds": ("random", "random, places before yaws"),
    "fleet": ("random", "dictionary"),
    "sizes": ("random", "random, all at once", "random, places, then scales, then yaws"),
}


def learn(scenery: Scenery, start: str, options: Options, seed: int) -> Joint:
    random = torch.Generator().manual_seed(seed)
    seen, voxel = evidence(scenery), scenery.grid.voxel_size
    shape = start_shape(seen, scenery)
    if start == "dictionary":
        (scene,) = scenes(options.data, options.data / "scenes", (("four", seed),))
        return learn_jointly(
            seen, voxel, SIZE_M, laid(scene, shape, 2 * voxel), random, temperature=COLD
        )
    first = random_prototypes(options.prototypes, shape, random)
    return learn_jointly(seen, voxel, SIZE_M, first, random, LOOKS[start])


def study(options: Options, seed: int, note: Callable[[str, Result], None]) -> Joint:
    if options.world == "fleet":
        things = list(make_layout(settings("four", seed)).things[:3])
    else:
        things = things_of(seed, 3, FACTORS if options.world == "sizes" else (1.0,))
    scenery = make_scenery(things, options.scenes, seed, options.resolution)
    background = torch.from_numpy(scenery.ground)
    for start in options.starts or STARTS[options.world]:
        begin = time.process_time()
        joint = learn(scenery, start, options, seed)
        _, loss = descend(joint, scenery.views, scenery.grid, background, 0.0, 1)
        note(start, measure(joint, scenery, loss, time.process_time() - begin))
        begin = time.process_time()
        joint, loss = descend(joint, scenery.views, scenery.grid, background, 0.0, options.steps)
        seconds = time.process_time() - begin
        note(f"{start}, then by gradient", measure(joint, scenery, loss, seconds))
    return joint


def table(results: dict[str, list[Result]]) -> str:
    columns = ("start", "AP@.5", "worst", "AP@.7", "V-measure", "worst", "prototypes",
               "centre, voxels", "yaw, °", "90 %", "scale, %", "90 %", "loss × 1000",
               "CPU s")  # fmt: skip
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, found in results.items():
        half, tight, v = (
            np.array(values) for values in zip(*((*r.ap, r.v) for r in found), strict=True)
        )
        place, yaw, scale = (
            np.concatenate([getattr(r, part) for r in found]) for part in ("place", "yaw", "scale")
        )
        cells = (
            name, f"{half.mean():.3f}", f"{half.min():.3f}", f"{tight.mean():.3f}",
            f"{v.mean():.3f}", f"{v.min():.3f}", f"{np.mean([r.used for r in found]):.1f}",
            f"{np.median(place):.2f}", f"{np.median(yaw):.1f}", f"{np.quantile(yaw, 0.9):.1f}",
            f"{np.median(scale):.1f}", f"{np.quantile(scale, 0.9):.1f}",
            "–" if math.isnan(found[0].loss) else f"{1000 * np.mean([r.loss for r in found]):.2f}",
            f"{np.mean([r.seconds for r in found]):.0f}",
        )  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def main(options: Options) -> None:
    torch.set_num_threads(1)
    results: dict[str, list[Result]] = {}
    pictures = []
    for seed in options.seeds:

        def note(name: str, result: Result, seed: int = seed) -> None:
            results.setdefault(name, []).append(result)
            print(f"seed {seed}: {table({name: [result]}).splitlines()[-1]}", flush=True)

        joint = study(options, seed, note)
        alpha = joint.prototypes[:, 3:]
        straight = torch.cat([joint.prototypes[:, :3] / alpha.clamp(min=1e-3), alpha], dim=1)
        pictures.append(np.concatenate([from_above(v) for v in straight[:3]], axis=1))
    several = f" in sizes {FACTORS}" if options.world == "sizes" else ""
    title = (
        f"{options.scenes} instants of 3 or 4 things of 3 kinds{several} at {options.resolution}³, "
        f"{options.prototypes} prototypes to begin with, "
        f"seeds {', '.join(map(str, options.seeds))}."
    )
    text = "\n".join([title, "", table(results)])
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(pictures)).save(options.out / "joint.png")
    if options.results:
        name = "joint" if options.world == "kinds" else f"joint_{options.world}"
        write_between_markers(options.results, name, text)


if __name__ == "__main__":
    main(tyro.cli(Options))
