"""Heads for the detector: the one that it has, two with another heat map, and one with anchors.

    python studies/heads.py --out build/heads --results docs/results.md

CenterNet         focal loss towards a Gaussian, the centre's offset from its cell by regression
soft-argmax       the offset is the soft-argmax of the heat map's 3 × 3 cells around a peak
centre-surround   the heat map is to become what a centre-surround kernel as large as the thing says
                  of the things' footprints, by least squares
anchors           a box of each kind's size along x and along y in each cell (studies/anchors.py)

Encoder, samples, true labels and steps are the same, the recordings studies/fleet.py's, those that
it is measured on others than studies/detector.py's. What exists in ``--out`` is kept.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from anchors import AnchorHead, Things, things_in
from detector import BATCH, COLUMNS, LESS_IS_BETTER, as_objects, measures, spread, true_labels
from detector import Options as DetectorOptions
from fleet import APART_S, GRID, Name, later, recordings
from jaxtyping import Float
from results_page import write_between_markers
from torch import Tensor

from protoscene import heatmap
from protoscene.geometry import Grid
from protoscene.network_input import network_input
from protoscene.networks import Detections, Detector, Prediction, detection_loss, detections
from protoscene.observe import ViewStack
from protoscene.recording import Recording
from protoscene.samples import Sample, Samples, batch
from protoscene.scene import SceneObject
from protoscene.training import Training, fit

LEAST_SCORE = 0.1
NOTHING = -30.0
"""Heat beyond the edge of the map."""
RING_M = 0.2
"""Width of the ring around a thing in which nothing is to be."""
FINER = 4
"""Footprints are drawn with so many points along a cell's side."""
SEVERAL: tuple[Name, ...] = (("four", 8), ("moving", 9), ("three", 10), ("crowd", 11))
ONE: tuple[Name, ...] = (("one", 8), ("one_moving", 9))
"""What the heads are measured on."""


class CenterNet(Detector):
    """The detector as it is. ``sizes``: a row a kind."""

    def __init__(self, sizes: Float[np.ndarray, "k 4"], grid: Grid) -> None:
        super().__init__(len(sizes), grid.shape)
        self.grid = grid

    def said(self, volume: Float[Tensor, "b 5 z y x"]) -> Prediction:
        """With bfloat16 inside of the network."""
        with torch.autocast("cpu", torch.bfloat16):
            prediction = self(volume)
        return Prediction(*(part.float() for part in prediction))

    def terms(self, sample: Sample) -> dict[str, Tensor]:
        return detection_loss(self.said(sample.volume), sample)

    def found(self, volume: Float[np.ndarray, "5 z y x"]) -> Detections:
        said = self.said(torch.from_numpy(volume)[None])
        return detections(said, self.grid, self.stride, LEAST_SCORE)[0]


class SoftArgmax(CenterNet):
    """x and y are read from the heat map."""

    def said(self, volume: Float[Tensor, "b 5 z y x"]) -> Prediction:
        said = super().said(volume)
        return said._replace(place=torch.cat([offsets(said.heat), said.place[:, 2:]], dim=1))

    def terms(self, sample: Sample) -> dict[str, Tensor]:
        """x and y are taught at the centres alone: other cells do not have the peak in their
        middle."""
        said = self.said(sample.volume)
        centre = (sample.heat >= 1)[:, None]
        xy = torch.where(centre, said.place[:, :2], sample.box[:, :2])
        place = torch.cat([xy, said.place[:, 2:]], dim=1)
        return detection_loss(said._replace(place=place), sample)


def offsets(heat: Float[Tensor, "b y x"]) -> Float[Tensor, "b 2 y x"]:
    """Σ softmax(heat)(k) · (x, y)(k), in cells, over the nine cells k around each and itself."""
    ny, nx = heat.shape[1:]
    padded = F.pad(heat, (1, 1, 1, 1), value=NOTHING)
    steps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    around = torch.stack(
        [padded[:, 1 + dy : 1 + dy + ny, 1 + dx : 1 + dx + nx] for dy, dx in steps]
    )
    share = around.softmax(dim=0)
    away = torch.tensor(steps).to(heat).T.flip(0)
    return torch.einsum("kbyx,ck->bcyx", share, away)


class CentreSurround(CenterNet):
    """Heat is the score of a centre-surround kernel."""

    def terms(self, sample: Sample) -> dict[str, Tensor]:
        said = self.said(sample.volume)
        cell = self.stride * self.grid.voxel_size
        cells = (int(sample.heat.shape[1]), int(sample.heat.shape[2]))
        wanted = torch.stack([surround(one, cells, cell) for one in things_in(sample, cell)])
        off = sample.known * (said.heat.sigmoid() - wanted) ** 2
        centres = (sample.known * (sample.heat >= 1)).sum().clamp(min=1)
        return {**detection_loss(said, sample), "heat": off.sum() / centres}


def surround(things: Things, cells: tuple[int, int], cell: float) -> Float[Tensor, "y x"]:
    """max over things of the response of a kernel of each one's size and yaw to the footprints of
    all, by its response at the thing's own cell; 0 where it is negative."""
    grid = Grid((0.0, 0.0, 0.0), cell, (1, *cells))
    seen = torch.from_numpy(footprints(things, cells, cell))[None]
    wanted = torch.zeros(cells)
    for n, box in enumerate(things.boxes):
        dims = torch.tensor([box[3], box[4], cell], dtype=torch.float32)
        response = heatmap.centre_surround(seen, grid, dims, RING_M, float(box[6]))[0]
        at = response[things.row[n], things.column[n]].clamp(min=0.1)
        near = np.hypot(
            *np.meshgrid(
                np.arange(cells[0]) - things.row[n],
                np.arange(cells[1]) - things.column[n],
                indexing="ij",
            )
        )
        own = torch.from_numpy(near * cell <= np.hypot(box[3], box[4]) / 2)
        wanted = torch.maximum(wanted, (response / at).clamp(0, 1) * own)
        wanted[things.row[n], things.column[n]] = 1
    return wanted


def footprints(things: Things, cells: tuple[int, int], cell: float) -> Float[np.ndarray, "y x"]:
    """The share of each cell on which something stands."""
    y, x = np.meshgrid(*((np.arange(FINER * n) + 0.5) * cell / FINER for n in cells), indexing="ij")
    taken = np.zeros(y.shape, dtype=bool)
    for box in things.boxes:
        cos, sin = np.cos(box[6]), np.sin(box[6])
        dx, dy = x - box[0], y - box[1]
        along, across = np.abs(cos * dx + sin * dy), np.abs(cos * dy - sin * dx)
        taken |= (along <= box[3] / 2) & (across <= box[4] / 2)
    return taken.reshape(cells[0], FINER, cells[1], FINER).mean(axis=(1, 3)).astype(np.float32)


Head = CenterNet | AnchorHead
HEADS: dict[str, type[CenterNet] | type[AnchorHead]] = {
    "CenterNet": CenterNet,
    "soft-argmax": SoftArgmax,
    "centre-surround": CentreSurround,
    "anchors": AnchorHead,
}


@dataclass
class Options:
    """Trains and measures heads of the detector."""

    out: Path = Path("build/heads")
    data: Path = Path("build/suite")
    """Folder of the recordings."""
    heads: tuple[str, ...] = tuple(HEADS)
    seeds: tuple[int, ...] = (0,)
    """Of the training."""
    steps: int = 800
    results: Path | None = None
    """A markdown file whose part between the study's markers is replaced by the table."""


def usual_sizes(samples: Samples, n_kinds: int) -> Float[np.ndarray, "k 4"]:
    """Per kind the mean length, width, height, and height of the centre above the grid's floor."""
    floor = float(samples.grids[0].lower[2])
    each = [labels for of_recording in samples.labels for labels in of_recording]
    boxes = np.concatenate([labels.boxes for labels in each])
    kind = np.concatenate([labels.kind for labels in each])
    rows = np.column_stack([boxes[:, 3:6], boxes[:, 2] - floor])
    return np.stack([rows[kind == k].mean(axis=0) for k in range(n_kinds)])


def train(
    name: str, sizes: np.ndarray, samples: Samples, seed: int, steps: int, folder: Path
) -> Head:
    def batches(step: int, rank: int, ranks: int) -> Mapping[str, Tensor]:
        return batch(samples.draw(seed, step, k) for k in range(rank, BATCH, ranks))._asdict()

    def loss(module: torch.nn.Module, given: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        assert isinstance(module, Head)
        return module.terms(Sample(**given))

    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        head = HEADS[name](sizes, samples.grids[0])
    fit(head, batches, loss, folder, Training(steps, seed), {"head": name})
    return head


@torch.inference_mode()
def found_in(head: Head, seen: Sequence[Recording]) -> list[SceneObject]:
    """Each instant of each recording by itself, the recordings ``APART_S`` apart."""
    objects: list[SceneObject] = []
    for r, recording in enumerate(seen):
        for i, t in enumerate(recording.times):
            volume = network_input(ViewStack.of(recording.views(i)), GRID)
            now = as_objects(head.found(volume), t)
            objects += later(now, r * APART_S, len(objects))
    return objects


def measure(
    options: Options, name: str, seed: int, samples: Samples, n_kinds: int
) -> dict[str, dict[str, float]]:
    """Of one training; kept in the folder of its name."""
    folder = options.out / f"{name}-{seed}-{options.steps}"
    file = folder / "measured.json"
    if file.exists():
        return dict(json.loads(file.read_text()))
    start = time.process_time()
    sizes = usual_sizes(samples, n_kinds)
    head = train(name, sizes, samples, seed, options.steps, folder / "training")
    minutes = (time.process_time() - start) / 60
    results: dict[str, dict[str, float]] = {"training": {"cpu_minutes": minutes}}
    for cameras, test in (("several", SEVERAL), ("one", ONE)):
        seen, truths = recordings(options.data, test)
        results[cameras] = measures(found_in(head, seen), truths)
        said = {k: round(v, 3) for k, v in results[cameras].items()}
        print(name, seed, cameras, said, f"{minutes:.1f}", flush=True)
    file.write_text(json.dumps(results, indent=1) + "\n")
    return results


def markdown(options: Options, results: dict[str, list[dict[str, dict[str, float]]]]) -> str:
    titles = [title for title, _ in COLUMNS.values()]
    lines = ["| head | cameras | " + " | ".join(titles) + " | training, CPU minutes |"]
    lines.append("|---" * (3 + len(titles)) + "|")
    for name, runs in results.items():
        minutes = f"{max(run['training']['cpu_minutes'] for run in runs):.1f}"
        for cameras in ("several", "one"):
            cells = [
                spread([run[cameras][key] for run in runs], digits, key in LESS_IS_BETTER)
                for key, (_, digits) in COLUMNS.items()
            ]
            lines.append(f"| {name} | {cameras} | {' | '.join(cells)} | {minutes} |")
    note = (
        f"Mean (worst) over training seeds {', '.join(map(str, options.seeds))}; {options.steps} "
        f"steps of {BATCH} samples, true labels of the 8 recordings of `studies/detector.py`; "
        f"tested on {len(SEVERAL)} recordings of three cameras and more and {len(ONE)} of one, "
        "other seeds, layouts and rigs than there. As short a training does not teach headings."
    )
    return "\n".join([*lines, "", note])


def main(options: Options) -> None:
    samples, n_kinds = true_labels(DetectorOptions(data=options.data))
    results = {
        name: [measure(options, name, seed, samples, n_kinds) for seed in options.seeds]
        for name in options.heads
    }
    table = markdown(options, results)
    print(table)
    if options.results is not None:
        write_between_markers(options.results, "heads", table)


if __name__ == "__main__":
    main(tyro.cli(Options))
