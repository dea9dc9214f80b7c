"""A detector with anchors: per cell a box of each kind's usual size, along x and along y.

After Ren et al., "Faster R-CNN", 2015, and Lang et al., "PointPillars", 2019: every anchor says how
likely a thing of its kind is there, how the thing's box differs from its own, and the thing's yaw
by bins and residuals as CenterNet's head does. Anchors that overlap a thing are taught to say it,
those that hardly do that there is none, and those between are left alone; what is said twice is
dropped by non-maximum suppression.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from protoscene.boxes import iou_bev
from protoscene.geometry import Grid
from protoscene.networks import Detections, Encoder
from protoscene.networks.centernet import BINS, MOST, OVERLAP, RARE, read_yaw
from protoscene.networks.detection_loss import PLACE, REST, SIZE, TURN, Z_SCALE, yaw_targets
from protoscene.samples import Sample

TURNS = 2
"""Anchors of a kind in a cell: along x, along y."""
POSITIVE, NEGATIVE = 0.5, 0.35
"""Bird's-eye IoU with a thing from which an anchor is of it, and below which it is of nothing."""
REACH = 2
"""Anchors within so many cells of a thing's centre, along x and along y, may be of it."""
RIGHT, FOCUS = 0.25, 2.0
"""Of the focal loss: weight of anchors that are of a thing, exponent."""
BOX = 6
SAID = 1 + BOX + 2 * BINS
"""Numbers an anchor: logit; x, y in cells, z (m), log length, width, height; a logit and a residual
for each bin of the yaw."""


@dataclass(frozen=True, eq=False)
class Things:
    """What is to be found in one instant: ``boxes`` as in :mod:`protoscene.boxes`, from the grid's
    corner; ``weight`` as in Labels; ``row`` and ``column`` of the cells of their centres."""

    boxes: Float[np.ndarray, "n 7"]
    kind: Int[np.ndarray, " n"]
    weight: Float[np.ndarray, " n"]
    row: Int[np.ndarray, " n"]
    column: Int[np.ndarray, " n"]


def things_in(sample: Sample, cell: float) -> list[Things]:
    """Of each instant of a batch, from its targets on cells of ``cell`` metres."""
    found = []
    for b in range(len(sample.heat)):
        row, column = torch.nonzero((sample.heat[b] >= 1) & (sample.weight[b] > 0)).unbind(1)
        dx, dy, z, length, width, height, yaw = sample.box[b, :, row, column].double()
        x, y = (column + 0.5 + dx) * cell, (row + 0.5 + dy) * cell
        boxes = torch.stack([x, y, z, length.exp(), width.exp(), height.exp(), yaw], dim=1)
        found.append(
            Things(
                boxes.numpy(), sample.kind[b, row, column].numpy(),
                sample.weight[b, row, column].numpy(), row.numpy(), column.numpy(),
            )
        )  # fmt: skip
    return found


class AnchorHead(nn.Module):
    """Evidence on ``grid`` → SAID numbers of each anchor. ``sizes``: usual length, width, height
    and height of the centre above the grid's floor (m), of each kind."""

    def __init__(self, sizes: Float[np.ndarray, "k 4"], grid: Grid) -> None:
        super().__init__()
        self.grid, self.sizes = grid, sizes
        self.encoder = Encoder(grid.shape)
        self.cell = self.encoder.stride * grid.voxel_size
        width, n = self.encoder.width, len(sizes) * TURNS
        self.shared = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.head = nn.Conv2d(2 * width, n * SAID, 1)
        assert self.head.bias is not None
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()
            self.head.bias[::SAID] = RARE

    def forward(self, volume: Float[Tensor, "b 5 z y x"]) -> Float[Tensor, "b y x a said"]:
        with torch.autocast("cpu", torch.bfloat16):
            out = self.head(F.relu(self.shared(self.encoder(volume))))
        return out.float().unflatten(1, (-1, SAID)).permute(0, 3, 4, 1, 2)

    def anchors(
        self, row: Int[np.ndarray, " n"], column: Int[np.ndarray, " n"], number: np.ndarray
    ) -> Float[np.ndarray, "n 7"]:
        """Boxes of the anchors ``number`` of cells, from the grid's corner."""
        length, width, height, z = self.sizes[number // TURNS].T
        x, y = (column + 0.5) * self.cell, (row + 0.5) * self.cell
        yaw = number % TURNS * (math.pi / TURNS)
        return np.stack([x, y, z, length, width, height, yaw], axis=1)

    def matched(
        self, things: Things, cells: tuple[int, int]
    ) -> tuple[Int[np.ndarray, "y x a"], dict[str, np.ndarray]]:
        """Of each anchor 1 if it is of a thing, 0 if of nothing, −1 if neither; and of those that
        are of a thing: row, column, number, and which thing.

        An anchor is of a thing of its own kind that it overlaps by ``POSITIVE``, or better than all
        others; of several such things of the one that it overlaps most. Those of its kind that
        overlap it by ``NEGATIVE`` are neither.
        """
        taught = np.zeros((*cells, len(self.sizes) * TURNS), dtype=np.int64)
        whose = np.full(taught.shape, -1)
        closest = np.zeros(taught.shape)
        around = np.arange(-REACH, REACH + 1)
        for n in np.flatnonzero(things.kind >= 0):
            row, column, turn = (
                v.ravel()
                for v in np.meshgrid(
                    things.row[n] + around, things.column[n] + around, np.arange(TURNS),
                    indexing="ij",
                )
            )  # fmt: skip
            inside = (row >= 0) & (row < cells[0]) & (column >= 0) & (column < cells[1])
            row, column, number = row[inside], column[inside], things.kind[n] * TURNS + turn[inside]
            overlap = iou_bev(self.anchors(row, column, number), things.boxes[n : n + 1])[:, 0]
            own = (overlap >= POSITIVE) | (overlap == overlap.max())
            at = row, column, number
            better = own & (overlap > closest[at])
            between = ~own & (overlap >= NEGATIVE) & (taught[at] == 0)
            taught[tuple(a[between] for a in at)] = -1
            best = tuple(a[better] for a in at)
            taught[best], whose[best], closest[best] = 1, n, overlap[better]
        row, column, number = np.nonzero(taught == 1)
        of = {"row": row, "column": column, "number": number, "thing": whose[row, column, number]}
        return taught, of

    def terms(self, sample: Sample) -> dict[str, Tensor]:
        """``heat`` focal loss of the logits, over the anchors that are of things; ``place`` and
        ``size`` |difference| to their boxes, ``turn`` and ``rest`` of the yaw, as CenterNet's."""
        said = self(sample.volume)
        wanted, own, rests, yaws, weights = [], [], [], [], []
        for b, things in enumerate(things_in(sample, self.cell)):
            taught, of = self.matched(things, (said.shape[1], said.shape[2]))
            wanted.append(torch.from_numpy(taught))
            boxes = things.boxes[of["thing"]]
            anchors = self.anchors(of["row"], of["column"], of["number"])
            rests.append(torch.from_numpy(residuals(boxes, anchors, self.cell)).float())
            yaws.append(torch.from_numpy(boxes[:, 6]).float())
            own.append(said[b, of["row"], of["column"], of["number"], 1:])
            weights.append(torch.from_numpy(things.weight[of["thing"]]).float())
        box, turn, rest = torch.cat(own).split((BOX, BINS, BINS), dim=1)
        weight = torch.cat(weights)
        share, apart = yaw_targets(torch.cat(yaws))
        off = (box - torch.cat(rests)).abs()

        def mean(values: Tensor) -> Tensor:
            return (weight * values).sum() / weight.sum().clamp(min=1e-6)

        return {
            "heat": focal(said[..., 0], torch.stack(wanted), sample.known),
            "place": PLACE * mean(off[:, 0] + off[:, 1] + Z_SCALE * off[:, 2]),
            "size": SIZE * mean(off[:, 3:].sum(dim=1)),
            "turn": TURN * mean(-(share * turn.log_softmax(dim=1)).sum(dim=1)),
            "rest": REST * mean((share * (rest - apart).abs()).sum(dim=1)),
        }

    def found(self, volume: Float[np.ndarray, "5 z y x"], least: float = 0.1) -> Detections:
        """What the likeliest anchors say, at least ``least``; of boxes that overlap by ``OVERLAP``
        the likeliest one."""
        said = self(torch.from_numpy(volume)[None])[0]
        likely = said[..., 0].sigmoid()
        order = likely.flatten().argsort(descending=True, stable=True)[:MOST]
        order = order[likely.flatten()[order] >= least].numpy()
        row, column, number = np.unravel_index(order, tuple(likely.shape))
        box, turn, rest = said[row, column, number, 1:].split((BOX, BINS, BINS), dim=1)
        boxes = boxes_from(box.double().numpy(), self.anchors(row, column, number), self.cell)
        boxes[:, 6] = read_yaw(turn, rest).double().numpy()
        boxes[:, :3] += self.grid.lower
        overlap = iou_bev(boxes, boxes)
        kept: list[int] = []
        for i in range(len(boxes)):
            if not kept or overlap[i, kept].max() <= OVERLAP:
                kept.append(i)
        score = likely[row, column, number].double().numpy()[kept]
        kind = (number // TURNS)[kept]
        logits = said[..., 0].unflatten(2, (-1, TURNS)).amax(dim=3)[row, column].numpy()[kept]
        return Detections(boxes[kept], score, kind, logits)


def residuals(
    boxes: Float[np.ndarray, "n 7"], anchors: Float[np.ndarray, "n 7"], cell: float
) -> Float[np.ndarray, "n 6"]:
    """What the anchors are to say of the boxes, but for the yaw."""
    rest = (boxes - anchors)[:, :BOX]
    rest[:, :2] /= cell
    rest[:, 3:] = np.log(boxes[:, 3:6] / anchors[:, 3:6])
    return rest


def boxes_from(
    rest: Float[np.ndarray, "n 6"], anchors: Float[np.ndarray, "n 7"], cell: float
) -> Float[np.ndarray, "n 7"]:
    """The inverse of :func:`residuals`; the yaw stays the anchors'."""
    boxes = anchors.copy()
    boxes[:, :3] += rest[:, :3] * [cell, cell, 1]
    boxes[:, 3:6] *= np.exp(rest[:, 3:])
    return boxes


def focal(
    logit: Float[Tensor, "b y x a"], taught: Int[Tensor, "b y x a"], known: Float[Tensor, "b y x"]
) -> Float[Tensor, ""]:
    """Σ −w (1 − q)² log q over anchors that are of something or of nothing, per anchor of a thing;
    q is the probability of what is right, w ``RIGHT`` or 1 − ``RIGHT``. Anchors of nothing count
    where cells are known."""
    right = taught == 1
    of_right = F.logsigmoid(torch.where(right, logit, -logit))
    weight = torch.where(right, RIGHT, (1 - RIGHT) * (taught == 0) * known[..., None])
    loss = -(weight * (1 - of_right.exp()) ** FOCUS * of_right).sum()
    return loss / right.sum().clamp(min=1)
