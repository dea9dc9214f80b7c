"""A detector of things at their centres: per cell of ground how likely one is there, and its box.

After Zhou, Wang, Krähenbühl, "Objects as Points", 2019; yaw as bins and residuals (Mousavian et al.
2017), read by a soft-argmax around the best bin, so that gradients flow through the reading too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from protoscene.boxes import iou_bev
from protoscene.geometry import Grid
from protoscene.networks.encoder import Encoder

BINS = 12
"""Of yaw: bin k is about k · 30°."""
RARE = -4.0
"""Heat before training: most cells hold no centre."""
OVERLAP = 0.3
"""Of two boxes that overlap by more (bird's-eye IoU) the less likely one is dropped."""
MOST = 200
"""Peaks of one instant that are looked at."""


class Prediction(NamedTuple):
    """What the network says of each cell. ``heat`` is the logit of a centre being there; ``place``
    x and y of the centre from the cell's in cells, z above the grid's floor (m), log of length,
    width, height (m); ``turn`` logits of the yaw's bins; ``rest`` each bin's residual in bins;
    ``kind`` logits over the dictionary."""

    heat: Float[Tensor, "b y x"]
    place: Float[Tensor, "b 6 y x"]
    turn: Float[Tensor, "b 12 y x"]
    rest: Float[Tensor, "b 12 y x"]
    kind: Float[Tensor, "b k y x"]


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found at one instant, the most likely first: ``boxes`` as in
    :mod:`protoscene.boxes`, ``score`` in [0, 1], ``kind`` the best of ``kind_logits``."""

    boxes: Float[np.ndarray, "n 7"]
    score: Float[np.ndarray, " n"]
    kind: Int[np.ndarray, " n"]
    kind_logits: Float[np.ndarray, "n k"]


class Detector(nn.Module):
    """Evidence of one instant → :class:`Prediction`. ``shape`` (nz, ny, nx) as for the encoder,
    ``n_kinds`` the dictionary's size, at least 1."""

    def __init__(self, n_kinds: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.encoder = Encoder(shape)
        width = self.encoder.width
        self.parts = (1, 6, BINS, BINS, n_kinds)
        self.shared = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.head = nn.Conv2d(2 * width, sum(self.parts), 1)
        assert self.head.bias is not None
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias.copy_(torch.tensor([RARE] + [0.0] * (sum(self.parts) - 1)))

    @property
    def stride(self) -> int:
        """Voxels along a cell's side."""
        return self.encoder.stride

    def forward(self, volume: Float[Tensor, "b 5 z y x"]) -> Prediction:
        out = self.head(F.relu(self.shared(self.encoder(volume))))
        heat, place, turn, rest, kind = out.split(self.parts, dim=1)
        return Prediction(heat[:, 0], place, turn, rest, kind)


def bin_centres(like: Tensor) -> Float[Tensor, " bins"]:
    """Yaw (rad) of the middle of each bin."""
    return torch.arange(BINS).to(like) * (2 * math.pi / BINS)


def read_yaw(turn: Float[Tensor, "n 12"], rest: Float[Tensor, "n 12"]) -> Float[Tensor, " n"]:
    """atan2 of Σ p(k) (sin, cos)(centre(k) + residual(k)) over the best bin and its neighbours;
    p is the softmax over those. Differentiable, but for which bin is the best."""
    best = turn.argmax(dim=1, keepdim=True)
    near = (best + torch.tensor([-1, 0, 1], device=turn.device)) % BINS
    share = turn.gather(1, near).softmax(dim=1)
    yaw = bin_centres(turn)[near] + rest.gather(1, near) * (2 * math.pi / BINS)
    return torch.atan2((share * yaw.sin()).sum(1), (share * yaw.cos()).sum(1))


def read_boxes(
    prediction: Prediction, cells: Int[Tensor, "n 3"], grid: Grid, stride: int
) -> Float[Tensor, "n 7"]:
    """Boxes (world, as in :mod:`protoscene.boxes`) said by ``cells`` (instant, row, column);
    differentiable in ``prediction``."""
    which, row, column = cells.unbind(1)
    place = prediction.place[which, :, row, column]
    cell = stride * grid.voxel_size
    x = grid.origin[0] + (column + 0.5 + place[:, 0]) * cell
    y = grid.origin[1] + (row + 0.5 + place[:, 1]) * cell
    yaw = read_yaw(prediction.turn[which, :, row, column], prediction.rest[which, :, row, column])
    dims = place[:, 3:].exp()
    return torch.stack([x, y, grid.origin[2] + place[:, 2], *dims.unbind(1), yaw], dim=1)


def detections(prediction: Prediction, grid: Grid, stride: int, least: float) -> list[Detections]:
    """Of each instant of a batch: cells as likely as their eight neighbours or more, with a score
    of at least ``least``; of boxes that overlap by more than ``OVERLAP`` the most likely one."""
    likely = prediction.heat.detach().sigmoid()
    around = F.max_pool2d(likely[:, None], 3, stride=1, padding=1)[:, 0]
    found = []
    for b in range(len(likely)):
        row, column = torch.nonzero((likely[b] >= around[b]) & (likely[b] >= least)).unbind(1)
        score = likely[b, row, column]
        order = torch.argsort(score, descending=True, stable=True)[:MOST]
        cells = torch.stack([torch.full_like(row, b), row, column], dim=1)[order]
        boxes = read_boxes(prediction, cells, grid, stride).detach().double().cpu().numpy()
        kept = _not_covered(boxes)
        logits = prediction.kind.detach()[b, :, row[order], column[order]].T.cpu().numpy()[kept]
        sure = score[order].double().cpu().numpy()[kept]
        found.append(Detections(boxes[kept], sure, logits.argmax(axis=1), logits))
    return found


def _not_covered(boxes: Float[np.ndarray, "n 7"]) -> list[int]:
    """Rows, the best first, that overlap none of those kept before them."""
    overlap = iou_bev(boxes, boxes)
    kept: list[int] = []
    for i in range(len(boxes)):
        if not kept or overlap[i, kept].max() <= OVERLAP:
            kept.append(i)
    return kept


@torch.inference_mode()
def detect(
    detector: Detector, volume: Float[np.ndarray, "5 z y x"], grid: Grid, least: float = 0.1
) -> Detections:
    """What stands in ``grid`` at the instant whose evidence is ``volume``."""
    like = next(detector.parameters())
    prediction = detector(torch.from_numpy(volume)[None].to(like))
    return detections(prediction, grid, detector.stride, least)[0]
