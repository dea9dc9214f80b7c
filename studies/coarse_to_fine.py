"""Networks for cells of 16³, and finer ones only where these are wrong: how many are needed?

    python studies/coarse_to_fine.py --results docs/results.md

Rooms as shares at 128³. Cells of 32 cm get networks from the shares at 64³; what these say is
compared with the shares at 128³, and the cells of 16 cm where they differ most get networks of
their own, by the same generator, from the network around them and the shares at 128³. Networks are
those of implicit.py, trained there or here. Judged by the voxels of 256³ above the ground.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from implicit import Options as Trained
from implicit import below, figures, interpolated, shares, solid_room, trained
from jaxtyping import Float
from PIL import Image
from results_page import write_between_markers
from static_scenes import seen_from_above
from torch import Tensor

from protoscene.networks.hypernet import STRIDE, SURFACE, WINDOW, FieldGenerator, mixed_cells

NEEDED = 4.0
"""Voxels' worth by which interpolation is wrong where a coarse network is made."""


@dataclass
class Options(Trained):
    """Refines rooms where they need it."""

    parts: tuple[float, ...] = (0.2, 0.3)
    """Networks in all, coarse ones included, over those of the uniformly fine model."""


def residual(
    occupancy: Float[Tensor, "z y x"], share: Float[Tensor, "4 z y x"], at: float = 0.5
) -> Float[Tensor, "cz cy cx"]:
    """Voxels' worth of share by which a finer occupancy is wrong within reach of each cell."""
    times = len(occupancy) // share.shape[1]
    said = F.avg_pool3d((occupancy > at)[None].float(), times)
    wrong = (said - share[3:]).abs()
    return F.avg_pool3d(wrong, WINDOW, STRIDE, (WINDOW - STRIDE) // 2)[0] * WINDOW**3


@torch.no_grad()
def judged(
    network: FieldGenerator, options: Options, room: int
) -> tuple[dict[str, dict[str, float]], list[Tensor]]:
    """{way: figures and numbers of networks}; volumes to look at."""
    truth = solid_room(room, options.size)
    low, high = shares(truth, 4), shares(truth, 2)
    ground = below(high.shape[1])
    mixed = mixed_cells(high)
    above = high.clone()
    above[:, :ground] = 0
    things = F.max_pool3d(above[3:], WINDOW, STRIDE, (WINDOW - STRIDE) // 2)[0] > 0
    every = network(low)
    rows = {
        "interpolated, coarse": figures(interpolated(low, 4), truth, SURFACE) | {"networks": 0.0},
        "interpolated, fine": figures(interpolated(high, 2), truth, SURFACE) | {"networks": 0.0},
    }
    for way, cells in (("uniformly fine", mixed), ("but for bare ground", mixed & things)):
        said = network.decode(network.refined(every, high, cells), 4)
        rows[way] = figures(said, truth) | {"networks": float(cells.sum())}
    # A coarse network is made only where interpolation alone is wrong.
    coarse = network(low, residual(interpolated(low, 4)[3], low, SURFACE) > NEEDED)
    rough = network.decode(coarse, 4)
    n_coarse = int(coarse.made.sum())
    rows["coarse alone"] = figures(rough, truth) | {"networks": float(n_coarse)}
    wrong = torch.where(mixed, residual(rough[3], high), 0)
    order = wrong.flatten().argsort(descending=True)
    volumes = [truth, rough]
    for part in options.parts:
        n = round(part * int(mixed.sum())) - n_coarse
        wanted = torch.zeros_like(mixed)
        wanted.view(-1)[order[: max(0, min(n, int((wrong > 0).sum())))]] = True
        said = network.decode(network.refined(coarse, high, wanted), 4)
        n_all = float(n_coarse + wanted.sum())
        rows[f"coarse to fine, {part:.0%}"] = figures(said, truth) | {"networks": n_all}
        volumes.append(said)
    return rows, volumes


def main(options: Options) -> None:
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, float]]] = {}
    for seed in options.seeds:
        network, _ = trained(options, seed)
        for room in options.test:
            rows, volumes = judged(network, options, room)
            for way, row in rows.items():
                found.setdefault(way, []).append(row)
            if (seed, room) == (options.seeds[0], options.test[0]):
                views = [seen_from_above(volume.numpy()) for volume in volumes]
                Image.fromarray(np.concatenate(views, axis=1)).save(
                    options.out / "coarse_to_fine.png"
                )
    names = ["IoU", "colour, dB", "networks"]
    uniform = np.mean([row["networks"] for row in found["uniformly fine"]])
    lines = [f"| way | {' | '.join(names)} | of uniform | of all cells |", "|---" * 6 + "|"]
    for way, each in found.items():
        mean = {name: float(np.mean([row[name] for row in each])) for name in names}
        least = min(row["IoU"] for row in each)
        lines.append(
            f"| {way} | {mean['IoU']:.3f} ({least:.3f}) | {mean['colour, dB']:.2f} | "
            f"{mean['networks']:.0f} | {mean['networks'] / uniform:.0%} | "
            f"{mean['networks'] / (options.size // 8) ** 3:.1%} |"
        )
    of_size, cells = (f"{options.size // n}³" for n in (4, 8))
    title = (
        f"Rooms {', '.join(map(str, options.test))}, given as shares at {of_size} and "
        f"{options.size // 2}³, judged at {options.size}³ above the ground: mean (least) over "
        f"training seeds {', '.join(map(str, options.seeds))}. Uniform: a network for each cell of "
        f"{cells} that is neither all empty nor all solid; percentages: of so many, coarse ones "
        "included."
    )
    text = "\n".join([title, "", *lines])
    print(text)
    if options.results:
        write_between_markers(options.results, "coarse_to_fine", text)


if __name__ == "__main__":
    main(tyro.cli(Options))
