"""A network that makes a small network for each cell of 16³: how fine are its answers?

    python studies/implicit.py --results docs/results.md

Rooms come as shares of 64³ voxels that are solid. It learns from what is solid at one point of each
voxel, 64³ points a room, on a raster that is shifted by part of a voxel, differently in each room;
nothing finer is shown to it. Judged by the voxels of 256³, and of 128³, solid where half of the
finer ones in them are, of rooms not seen before, beside trilinear interpolation of the same shares.
In the same training the generator learns cells half as large, see coarse_to_fine.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from jaxtyping import Bool, Float
from PIL import Image
from results_page import write_between_markers
from safetensors.torch import load_file, save_file
from static_scenes import BELOW_M, SIDE_M, cube, room_on, room_settings, seen_from_above
from torch import Tensor, nn
from uneven_rooms import as_fused, on_uneven_ground

from protoscene.geometry import Grid
from protoscene.networks.hypernet import STRIDE, FieldGenerator, Fields, mixed_cells, near_surface
from protoscene.training import Training, fit

FLAT, UNEVEN = 0.1, 0.4
"""Of the points that see nothing but the ground, so many are learnt from; where it is uneven."""
BOX = 8
"""Cells that are refined in a step, to each side of a place."""
ROOMS, REFINED = 2, 4
"""Rooms of a step, and every so many steps one of them is refined."""


COLOUR = 50.0
"""What a squared error of colour counts beside the cross-entropy of occupancy."""


@dataclass
class Options:
    """Trains and judges convolutional implicit models."""

    seeds: tuple[int, ...] = (0,)
    """Of the training."""
    test: tuple[int, ...] = (20, 21, 22)
    """Rooms."""
    rooms: int = 48
    """To learn from."""
    uneven: float = 0.0
    """Part of them that are as if fused of real depth pictures, see uneven_rooms.py."""
    steps: int = 1200
    points: int = 3072
    size: int = 256
    """Voxels a side of the finest truth; only the lowest quarter of them has anything in it."""
    features: int = 64
    width: int = 64
    full: bool = False
    """Settings for a graphics card: more of everything."""
    out: Path = Path("build/implicit")
    results: Path | None = None
    """Markdown file whose part about this study is replaced."""

    def __post_init__(self) -> None:
        if self.full:
            self.rooms, self.steps, self.points = 512, 20000, 16384
            self.features, self.width = 128, 128


@dataclass(frozen=True, eq=False)
class Learnt:
    """A room to learn from: shares at 64³ and 128³, and what is at points of a raster of each."""

    shares: tuple[Tensor, Tensor]
    points: tuple[Tensor, Tensor]
    rgba: tuple[Tensor, Tensor]


def solid_room(seed: int, size: int) -> Float[Tensor, "4 z y x"]:
    """The lower quarter of a room at ``size``³."""
    whole = cube(size)
    lower = Grid(whole.origin, whole.voxel_size, (size // 4, size, size))
    return torch.from_numpy(room_on(room_settings(seed), lower).rgba)


def coarser(rgba: Float[Tensor, "4 z y x"], times: int) -> Float[Tensor, "4 Z Y X"]:
    """Solid where at least half of ``times``³ voxels is, their mean colour."""
    share = shares(rgba, times)
    return torch.cat([share[:3] / share[3:].clamp(min=0.05), (share[3:] >= 0.5).float()])


def shares(rgba: Float[Tensor, "4 z y x"], times: int) -> Float[Tensor, "4 Z Y X"]:
    """Premultiplied means of blocks of ``times``³ voxels."""
    return F.avg_pool3d(torch.cat([rgba[:3] * rgba[3:], rgba[3:]])[None], times)[0]


def learnt(seed: int, size: int, uneven: bool = False) -> Learnt:
    random = np.random.default_rng(seed)
    whole = solid_room(seed, size)
    told, flat, top = whole, FLAT, 0
    if uneven:
        whole, top = on_uneven_ground(whole, random)
        told, flat = as_fused(whole, random), UNEVEN
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for times in (4, 2):
        share = shares(told, times)
        where = near_surface(share[3])
        ground = below(len(where)) + math.ceil(top / times)
        above = where & (torch.arange(len(where)) >= ground)[:, None, None]
        some = above | (where & torch.from_numpy(random.random(where.shape) < flat))
        at = some.nonzero() * times + torch.from_numpy(random.integers(0, times, 3))
        z, y, x = at.T
        points = (2 * at.flip(1) + 1) / torch.tensor(whole.shape[:0:-1]) - 1
        parts.append((share, points, whole[:, z, y, x].T))
    low, high = parts
    return Learnt((low[0], high[0]), (low[1], high[1]), (low[2], high[2]))


def below(height: int) -> int:
    """Layers of ground of a room ``height`` layers high."""
    return round(BELOW_M / SIDE_M * 4 * height)


def drawn_rooms(
    rooms: list[Learnt], options: Options, seed: int, step: int
) -> Mapping[str, Tensor]:
    """Two rooms, turned and mirrored, and some of their points; now and then the box of the first
    that is refined, and points in there."""
    random = np.random.default_rng((seed, step))
    given: dict[str, list[Tensor]] = {"low": [], "low_points": [], "low_rgba": []}
    turns, mirrored = int(random.integers(4)), bool(random.integers(2))
    chosen = [rooms[k] for k in random.integers(len(rooms), size=ROOMS)]
    n_points = min(options.points, *(len(one.points[0]) for one in chosen))
    for one in chosen:
        some = random.permutation(len(one.points[0]))[:n_points]
        given["low"].append(_turned(one.shares[0], turns, mirrored))
        given["low_points"].append(_turned_points(one.points[0][some], turns, mirrored))
        given["low_rgba"].append(one.rgba[0][some])
    drawn = {name: torch.stack(each) for name, each in given.items()}
    if step % REFINED == 0:
        volume, points, rgba = (
            each[1] for each in (chosen[0].shares, chosen[0].points, chosen[0].rgba)
        )
        cells = torch.tensor(volume.shape[:1:-1]) // STRIDE
        cell = ((points[:, :2] + 1) / 2 * cells).floor()
        inside = ((cell - cell[random.integers(len(cell))]).abs() < BOX).all(dim=1).nonzero()[:, 0]
        some = inside[random.permutation(len(inside))[: options.points]]
        (x0, y0), (x1, y1) = (edge.long().tolist() for edge in cell[inside].aminmax(dim=0))
        box = torch.zeros(1, volume.shape[1] // STRIDE, *cells.flip(0).tolist())
        box[..., y0 : y1 + 1, x0 : x1 + 1] = 1
        drawn |= {
            "high": _turned(volume, turns, mirrored),
            "box": _turned(box, turns, mirrored)[0] > 0,
            "high_points": _turned_points(points[some], turns, mirrored),
            "high_rgba": rgba[some],
        }
    return drawn


def _turned(volume: Float[Tensor, "c z y x"], turns: int, mirrored: bool) -> Tensor:
    turned = torch.rot90(volume, turns, (2, 3))
    return turned.flip(3) if mirrored else turned


def _turned_points(points: Float[Tensor, "n 3"], turns: int, mirrored: bool) -> Tensor:
    x, y, z = points.T
    for _ in range(turns):
        x, y = y, -x
    return torch.stack([-x if mirrored else x, y, z], dim=1)


def loss(network: nn.Module, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    assert isinstance(network, FieldGenerator)
    volumes, points = given["low"], given["low_points"]
    coarse = [
        network(volume, context=context)
        for volume, context in zip(volumes, network.context(volumes), strict=True)
    ]
    said = torch.cat([network.answer(c, p) for c, p in zip(coarse, points, strict=True)])
    terms = {"low": _wrong(said, given["low_rgba"].flatten(0, 1))}
    if "high" in given:
        wanted = mixed_cells(given["high"]) & given["box"]
        fine = network.refined(coarse[0], given["high"], wanted)
        terms["high"] = _wrong(network.answer(fine, given["high_points"]), given["high_rgba"])
    return terms


def _wrong(logits: Float[Tensor, "n 4"], rgba: Float[Tensor, "n 4"]) -> Tensor:
    occupied = rgba[:, 3]
    colour = (logits[:, :3].sigmoid() - rgba[:, :3]).square().mean(dim=1)
    entropy = F.binary_cross_entropy_with_logits(logits[:, 3], occupied)
    return entropy + COLOUR * (colour * occupied).mean()


@cache
def learnt_rooms(n: int, size: int, uneven: float) -> list[Learnt]:
    return [learnt(100 + k, size, k < uneven * n) for k in range(n)]


def trained(options: Options, seed: int) -> tuple[FieldGenerator, float]:
    """The network and the CPU seconds of its training; kept, and read again."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        network = FieldGenerator(options.features, options.width)
    name = f"{seed}-{options.steps}-{options.rooms}-{options.points}"
    folder = options.out / (f"{name}-{options.uneven}" if options.uneven else name)
    weights, taken = folder / "weights.safetensors", folder / "seconds.txt"
    if not weights.exists():
        rooms = learnt_rooms(options.rooms, options.size, options.uneven)
        begin = time.process_time()
        settings = Training(options.steps, seed, learning_rate=3e-3, weight_decay=1e-3, clip=1.0)
        fit(
            network,
            lambda step, rank, ranks: drawn_rooms(rooms, options, seed, step),
            loss,
            folder / "training",
            settings,
            {"rooms": options.rooms, "points": options.points, "uneven": options.uneven},
        )
        save_file(network.state_dict(), weights)
        taken.write_text(f"{time.process_time() - begin:.0f}")
    network.load_state_dict(load_file(weights))
    return network.cpu().eval(), float(taken.read_text())


def interpolated(share: Float[Tensor, "4 z y x"], times: int) -> Float[Tensor, "4 Z Y X"]:
    """Trilinear, straight rgba."""
    fine = F.interpolate(share[None], scale_factor=times, mode="trilinear", align_corners=False)[0]
    return torch.cat([fine[:3] / fine[3:].clamp(min=0.05), fine[3:]])


def figures(
    said: Float[Tensor, "4 z y x"], truth: Float[Tensor, "4 z y x"], at: float = 0.5
) -> dict[str, float]:
    """Occupancy above ``at``: IoU above the ground and with it; dB of what is solid above it."""
    ground = below(truth.shape[1])
    occupied, solid = said[3] > at, truth[3] > 0.5
    wrong = (said[:3] - truth[:3])[:, ground:][:, solid[ground:]].square().mean()
    return {
        "IoU": iou(occupied[ground:], solid[ground:]),
        "IoU with ground": iou(occupied, solid),
        "colour, dB": float(-10 * torch.log10(wrong)),
    }


def iou(a: Bool[Tensor, "*n"], b: Bool[Tensor, "*n"]) -> float:
    return float((a & b).sum() / (a | b).sum())


def seam(occupancy: Float[Tensor, "z y x"], times: int) -> float:
    """Mean jump of occupancy across the borders of cells, over that across the borders of all other
    voxels of the input, each ``times`` voxels here; above the ground, where it jumps at all."""
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for axis in range(3):
        jump = occupancy[below(len(occupancy)) :].diff(dim=axis).abs()
        number = torch.arange(1, jump.shape[axis] + 1) / times
        cell = number % STRIDE == 0
        for on, jumps in zip((cell, (number % 1 == 0) & ~cell), found, strict=True):
            some = jump.index_select(axis, on.nonzero()[:, 0])
            jumps.append(some[some > 1e-3])
    across, elsewhere = (float(torch.cat(jumps).mean()) for jumps in found)
    return across / elsewhere


def unblended(fields: Fields) -> Fields:
    """The same, where the parameters change over one voxel only, at the cells' borders."""
    codes, parameters, made = fields.codes, fields.parameters, fields.made
    for axis in range(3):
        made = made.repeat_interleave(STRIDE, dim=axis)
        codes, parameters = (
            each.repeat_interleave(STRIDE, dim=axis + 1) for each in (codes, parameters)
        )
    return Fields(fields.volume, codes, parameters, made)


@torch.no_grad()
def judged(network: FieldGenerator, options: Options) -> dict[str, dict[str, float]]:
    """{way at a resolution: figures}, means over rooms. The coarser voxels are judged by the finer
    ones in them, as the truth is; "asked once": by their middles alone."""
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in options.test:
        whole = solid_room(seed, options.size)
        half, share = coarser(whole, 2), shares(whole, 4)
        fields, plain = network(share), interpolated(share, 4)
        for way, rgba, at in (
            ("interpolated", plain, 0.5),
            ("interpolated, at .4", plain, 0.4),
            ("networks", network.decode(fields, 4), 0.5),
        ):
            found = figures(rgba, whole, at) | {"seam": seam(rgba[3], 4)}
            rows.setdefault(f"{way}, {options.size}³", []).append(found)
            found = figures(coarser(torch.cat([rgba[:3], (rgba[3:] > at).float()]), 2), half)
            del found["colour, dB"]  # there is none where nothing is said to be
            rows.setdefault(f"{way}, {options.size // 2}³", []).append(found)
        for way, asked in (("asked once", fields), ("asked once, not blended", unblended(fields))):
            once = network.decode(asked, 2)
            rows.setdefault(f"{way}, {options.size // 2}³", []).append(
                figures(once, half) | {"seam": seam(once[3], 2)}
            )
    return {
        way: {name: float(np.mean([row[name] for row in each])) for name in each[0]}
        for way, each in rows.items()
    }


def picture(network: FieldGenerator, truth: Float[Tensor, "4 z y x"], file: Path) -> None:
    """Truth, interpolation and networks of four times finer voxels, from above."""
    share = shares(truth, 4)
    with torch.no_grad():
        said = network.decode(network(share), 4)
    views = [seen_from_above(v.numpy()) for v in (truth, interpolated(share, 4), said)]
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(views, axis=1)).save(file)


def main(options: Options) -> None:
    torch.set_num_threads(1)
    runs, seconds = [], []
    for seed in options.seeds:
        network, taken = trained(options, seed)
        runs.append(judged(network, options))
        seconds.append(taken)
        print(seed, f"{taken:.0f} s", runs[-1], flush=True)
    shown = solid_room(options.test[0], options.size)
    picture(network, shown, options.out / "implicit.png")
    names = ["IoU", "IoU with ground", "colour, dB", "seam"]
    lines = [f"| way | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for way in runs[0]:
        cells = []
        for name in names:
            each = [run[way].get(name, float("nan")) for run in runs]
            worst = max if name == "seam" else min
            cells.append("–" if np.isnan(each[0]) else f"{np.mean(each):.3f} ({worst(each):.3f})")
        lines.append(f"| {way} | {' | '.join(cells)} |")
    of_size = f"{options.size // 4}³"
    title = (
        f"Rooms {', '.join(map(str, options.test))}, given as shares at {of_size}; mean (worst) "
        f"over training seeds {', '.join(map(str, options.seeds))}; {options.steps} steps with "
        f"{options.rooms} rooms, {np.mean(seconds):.0f} CPU s. Seam: jump of occupancy across "
        "borders of cells over that across the borders of the input's other voxels."
    )
    text = "\n".join([title, "", *lines])
    print(text)
    if options.results:
        write_between_markers(options.results, "implicit", text)


if __name__ == "__main__":
    main(tyro.cli(Options))
