"""A detector with anchors: per cell a box of each kind's usual size at each of several yaws.

After Ren et al., "Faster R-CNN", 2015, and Lang et al., "PointPillars", 2019: every anchor says how
likely a thing of its kind is there, turned about so, and how the thing's box differs from its own.
Anchors that overlap a thing are taught to say it, those that hardly do that there is none, and
those between are left alone; what is said twice is dropped by non-maximum suppression.
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
from protoscene.geometry import Grid, wrap_angle
from protoscene.networks import Detections, Encoder
from protoscene.networks.centernet import BINS, MOST, OVERLAP, RARE
from protoscene.networks.detection_loss import Z_SCALE
from protoscene.samples import Sample

STEP = 2 * math.pi / BINS
"""From one anchor's yaw to the next's."""
POSITIVE, NEGATIVE = 0.6, 0.45
"""Bird's-eye IoU with a thing from which an anchor is of it, and below which it is of nothing."""
REACH = 2
"""Anchors within so many cells of a thing's centre, along x and along y, may be of it."""
RIGHT, FOCUS = 0.25, 2.0
"""Of the focal loss: weight of anchors that are of a thing, exponent."""
SAID = 8
"""Numbers an anchor: logit; x, y in cells, z (m), log length, width, height, yaw in bins from its
own."""


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
        width, n = self.encoder.width, len(sizes) * BINS
        self.shared = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.head = nn.Conv2d(2 * width, n * SAID, 1)
        assert self.head.bias is not None
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()
            self.head.bias[::SAID] = RARE

    def forward(self, volume: Float[Tensor, "b 5 z y x"]) -> Float[Tensor, "b y x a 8"]:
        with torch.autocast("cpu", torch.bfloat16):
            out = self.head(F.relu(self.shared(self.encoder(volume))))
        return out.float().unflatten(1, (-1, SAID)).permute(0, 3, 4, 1, 2)

    def anchors(
        self, row: Int[np.ndarray, " n"], column: Int[np.ndarray, " n"], number: np.ndarray
    ) -> Float[np.ndarray, "n 7"]:
        """Boxes of the anchors ``number`` of cells, from the grid's corner."""
        length, width, height, z = self.sizes[number // BINS].T
        x, y = (column + 0.5) * self.cell, (row + 0.5) * self.cell
        return np.stack([x, y, z, length, width, height, number % BINS * STEP], axis=1)

    def matched(
        self, things: Things, cells: tuple[int, int]
    ) -> tuple[Int[np.ndarray, "y x a"], dict[str, np.ndarray]]:
        """Of each anchor 1 if it is of a thing, 0 if of nothing, −1 if neither; and of those that
        are of a thing: row, column, number, and which thing.

        An anchor is of a thing of its own kind, turned by half a bin at most, that it overlaps by
        ``POSITIVE``, or better than all others that are turned so. Other anchors of its kind that
        overlap it by ``NEGATIVE`` and are turned by less than 1.5 bins are neither.
        """
        taught = np.zeros((*cells, len(self.sizes) * BINS), dtype=np.int64)
        whose = np.full(taught.shape, -1)
        closest = np.zeros(taught.shape)
        around = np.arange(-REACH, REACH + 1)
        for n in np.flatnonzero(things.kind >= 0):
            row, column, turn = (
                v.ravel()
                for v in np.meshgrid(
                    things.row[n] + around, things.column[n] + around, np.arange(BINS),
                    indexing="ij",
                )
            )  # fmt: skip
            inside = (row >= 0) & (row < cells[0]) & (column >= 0) & (column < cells[1])
            apart = np.abs(wrap_angle(turn * STEP - things.boxes[n, 6])) / STEP
            near = inside & (apart < 1.5)
            row, column, number = row[near], column[near], things.kind[n] * BINS + turn[near]
            overlap = iou_bev(self.anchors(row, column, number), things.boxes[n : n + 1])[:, 0]
            facing = apart[near] <= 0.5
            own = facing & (overlap >= POSITIVE)
            own[np.argmax(np.where(facing, overlap, -1.0))] = True
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
        """``heat`` focal loss of the logits, over the anchors that are of things; ``place``,
        ``size`` and ``turn`` |difference| to their boxes, weighted alike CenterNet's."""
        said = self(sample.volume)
        wanted, losses, weights = [], [], []
        for b, things in enumerate(things_in(sample, self.cell)):
            taught, of = self.matched(things, (said.shape[1], said.shape[2]))
            wanted.append(torch.from_numpy(taught))
            boxes = things.boxes[of["thing"]]
            rest = residuals(boxes, self.anchors(of["row"], of["column"], of["number"]), self.cell)
            own = said[b, of["row"], of["column"], of["number"], 1:]
            losses.append((own - torch.from_numpy(rest).float()).abs())
            weights.append(torch.from_numpy(things.weight[of["thing"]]))
        off, weight = torch.cat(losses), torch.cat(weights).float()
        off = (weight[:, None] * off).sum(dim=0) / weight.sum().clamp(min=1e-6)
        return {
            "heat": focal(said[..., 0], torch.stack(wanted), sample.known),
            "place": off[0] + off[1] + Z_SCALE * off[2],
            "size": off[3:6].sum(),
            "turn": off[6],
        }

    def found(self, volume: Float[np.ndarray, "5 z y x"], least: float = 0.02) -> Detections:
        """Of each cell and kind the box at the likeliest yaw, its score that of any yaw, 1 − Π
        (1 − p): while yaws are not learnt, each of the twelve is unlikely. Of boxes that overlap by
        ``OVERLAP`` the likeliest one."""
        said = self(torch.from_numpy(volume)[None])[0]
        each = said[..., 0].unflatten(2, (-1, BINS))
        likely = 1 - F.logsigmoid(-each).sum(dim=3).exp()
        order = likely.flatten().argsort(descending=True, stable=True)[:MOST]
        order = order[likely.flatten()[order] >= least].numpy()
        row, column, kind = np.unravel_index(order, tuple(likely.shape))
        number = kind * BINS + each.argmax(dim=3).numpy()[row, column, kind]
        rest = said[row, column, number, 1:].double().numpy()
        boxes = boxes_from(rest, self.anchors(row, column, number), self.cell)
        boxes[:, :3] += self.grid.lower
        overlap = iou_bev(boxes, boxes)
        kept: list[int] = []
        for i in range(len(boxes)):
            if not kept or overlap[i, kept].max() <= OVERLAP:
                kept.append(i)
        score = likely[row, column, kind].double().numpy()[kept]
        logits = each.amax(dim=3)[row, column].numpy()[kept]
        return Detections(boxes[kept], score, kind[kept], logits)


def residuals(
    boxes: Float[np.ndarray, "n 7"], anchors: Float[np.ndarray, "n 7"], cell: float
) -> Float[np.ndarray, "n 7"]:
    """What the anchors are to say of the boxes."""
    rest = boxes - anchors
    rest[:, :2] /= cell
    rest[:, 3:6] = np.log(boxes[:, 3:6] / anchors[:, 3:6])
    rest[:, 6] = wrap_angle(rest[:, 6]) / STEP
    return rest


def boxes_from(
    rest: Float[np.ndarray, "n 7"], anchors: Float[np.ndarray, "n 7"], cell: float
) -> Float[np.ndarray, "n 7"]:
    """The inverse of :func:`residuals`."""
    boxes = anchors + rest * [cell, cell, 1, 0, 0, 0, STEP]
    boxes[:, 3:6] *= np.exp(rest[:, 3:6])
    boxes[:, 6] = wrap_angle(boxes[:, 6])
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
