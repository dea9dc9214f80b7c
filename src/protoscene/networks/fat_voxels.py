"""Fat voxels: a network that says of each cell which part stands in it, where and how turned.

A cell of stride³ voxels becomes one vector by a strided convolution, a few convolutions over the
cells look around, and of each cell come scores of K parts and of none, bins of yaw with what is
left within each, and the offset of the part's middle from the cell's. It is taught by codes that
:mod:`protoscene.parts` found (:func:`code_loss`); :func:`composed_loss` is of what the parts,
weighted by the scores, compose to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from protoscene.compose import Target, compose_loss
from protoscene.geometry import Grid
from protoscene.networks.encoder import GROUP, MOST_CELLS
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes

BINS = 16
"""Of yaw."""


@dataclass(frozen=True, eq=False)
class Cells:
    """Of every cell: ``scores`` of the K parts and, last, of none; ``turn`` scores of the bins of
    yaw and, of each, the part of a bin beyond its middle; ``offset`` x y z in cells from the
    cell's middle."""

    scores: Float[Tensor, "b k z y x"]
    turn: Float[Tensor, "b 2 n z y x"]
    offset: Float[Tensor, "b 3 z y x"]


@dataclass(frozen=True, eq=False)
class Taught:
    """What stands in some cells: ``cell`` (batch, z, y, x), ``which`` part, ``yaw`` (rad),
    ``offset`` x y z in cells from the cell's middle, and ``weight``: how much each counts, in any
    unit."""

    cell: Int[Tensor, "n 4"]
    which: Int[Tensor, " n"]
    yaw: Float[Tensor, " n"]
    offset: Float[Tensor, "n 3"]
    weight: Float[Tensor, " n"]


class FatVoxels(nn.Module):
    """Volumes → :class:`Cells`, for ``n_parts`` parts and cells of ``stride``³ voxels."""

    def __init__(self, n_parts: int, stride: int = 8, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        self.n_parts, self.stride = n_parts, stride
        self.embed = nn.Conv3d(4, width, stride, stride=stride)
        self.body = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(width // GROUP, width), nn.ReLU(),
                nn.Conv3d(width, width, 3, padding=1),
            )
            for _ in range(depth)
        )  # fmt: skip
        self.head = nn.Sequential(
            nn.GroupNorm(width // GROUP, width), nn.ReLU(),
            nn.Conv3d(width, n_parts + 1 + 2 * BINS + 3, 1),
        )  # fmt: skip

    def forward(self, rgba: Float[Tensor, "b 4 z y x"]) -> Cells:
        """Sides are multiples of the stride. Raises ValueError for others, or too many cells."""
        shape = rgba.shape[2:]
        if any(n % self.stride for n in shape) or max(shape) > MOST_CELLS * self.stride:
            raise ValueError(
                f"volume of {tuple(shape)} voxels, expected multiples of {self.stride}, at most "
                f"{MOST_CELLS * self.stride}"
            )
        features = self.embed(torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1))
        for block in self.body:
            features = features + block(features)
        scores, turn, offset = self.head(features).split([self.n_parts + 1, 2 * BINS, 3], dim=1)
        return Cells(scores, turn.unflatten(1, (2, BINS)), offset)


def binned(yaw: Float[Tensor, " n"]) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """The bin of a yaw, bin 0 around 0, and the part of a bin beyond its middle, −½ to ½."""
    turns = yaw / (2 * math.pi) * BINS
    nearest = turns.round()
    return nearest.long() % BINS, turns - nearest


def code_loss(cells: Cells, taught: Taught, empty: float = 0.1) -> dict[str, Tensor]:
    """Cross entropies of part (cells that hold none count ``empty``, those that hold one 1 in the
    mean) and of the yaw's bin, and smooth L1 of what is left of the yaw and of the offset, in cells
    that hold a part: means by weight."""
    b, k = cells.scores.shape[:2]
    at = taught.cell.unbind(dim=1)
    weight = taught.weight / taught.weight.mean()
    which = taught.which.new_full((b, *cells.scores.shape[2:]), k - 1)
    which[at] = taught.which
    counts = cells.scores.new_full(which.shape, empty)
    counts[at] = weight
    turn = cells.turn.movedim((1, 2), (-2, -1))[at]
    chosen, left = binned(taught.yaw)
    said = turn[:, 1].gather(1, chosen[:, None])[:, 0]
    part = F.cross_entropy(cells.scores, which, reduction="none")
    yaw = F.cross_entropy(turn[:, 0], chosen, reduction="none")
    rest = F.smooth_l1_loss(said, left, beta=0.1, reduction="none")
    place = cells.offset.movedim(1, -1)[at]
    off = F.smooth_l1_loss(place, taught.offset, beta=0.1, reduction="none").mean(dim=1)
    return {
        "part": (counts * part).sum() / counts.sum(),
        "bin": (weight * yaw).mean(),
        "turn": (weight * rest).mean(),
        "offset": (weight * off).mean(),
    }


def said_poses(
    cells: Cells, cell: Int[Tensor, "n 4"], voxel_size: float, origin: tuple[float, float, float],
    stride: int = 8, rank: int = 0,
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"]]:  # fmt: skip
    """Centres (m) and yaws (rad) that cells say, of the bin of yaw that is likeliest, or of the
    ``rank``-th after it; the bin is chosen, the rest carries gradients."""
    at = cell.unbind(dim=1)
    turn = cells.turn.movedim((1, 2), (-2, -1))[at]
    bins = turn[:, 0].argsort(dim=1, descending=True, stable=True)[:, rank]
    yaw = (bins + turn[:, 1].gather(1, bins[:, None])[:, 0]) * (2 * math.pi / BINS)
    middle = cell[:, 1:].flip(1) + 0.5 + cells.offset.movedim(1, -1)[at]
    return middle * (stride * voxel_size) + middle.new_tensor(origin), yaw


def composed_loss(
    cells: Cells, cell: Int[Tensor, "n 4"], prototypes: VoxelPrototypes, target: Target, grid: Grid,
    most: int = 3, stride: int = 8,
) -> Tensor:  # fmt: skip
    """compose_loss of what ``cell`` (of the batch's one volume) holds by its word: the ``most``
    likely parts, with softmax(scores) as presence, at the pose it says."""
    weights = torch.softmax(cells.scores.movedim(1, -1)[cell.unbind(dim=1)], dim=1)[:, :-1]
    presence, which = weights.topk(min(most, weights.shape[1]), dim=1)
    centre, yaw = said_poses(cells, cell, grid.voxel_size, grid.origin, stride)
    placed = Placements(
        which.flatten(), centre.repeat_interleave(which.shape[1], 0),
        yaw.repeat_interleave(which.shape[1]), presence=presence.flatten(),
    )  # fmt: skip
    return compose_loss(prototypes, placed, grid, target)["loss"]


def likely(cells: Cells, least: float = 0.5) -> tuple[Int[Tensor, "n 4"], Int[Tensor, " n"]]:
    """Cells of the batch and parts that stand there with at least ``least`` in probability, the
    surest first; above 0.5 one of a cell."""
    share = torch.softmax(cells.scores, dim=1)[:, :-1].movedim(1, -1)
    found = (share >= least).nonzero()
    order = share[found.unbind(dim=1)].argsort(descending=True, stable=True)
    return found[order, :4], found[order, 4]
