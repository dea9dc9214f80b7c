"""The network of fat voxels: taught codes of rooms turned any way; what it says, as a code."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from room_measures import STRIDE
from torch import Tensor

from protoscene.compose import Target
from protoscene.gains import posed
from protoscene.geometry import Grid
from protoscene.laid import YAWS, left_of
from protoscene.networks.fat_voxels import (
    FatVoxels,
    Taught,
    code_loss,
    composed_loss,
    likely,
    said_poses,
)
from protoscene.parts import Parts
from protoscene.pursuit import Finds, Templates, settle

WINDOW = 96
"""Voxels along a side of the pieces of rooms that it is taught."""
COMPOSED = 0.15
"""The share of the steps, the last, in which it is taught by what its parts compose to as well."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """A room's volume and its code."""

    rgba: Tensor
    code: Finds


def piece(lesson: Lesson, random: np.random.Generator, batch_row: int) -> tuple[Tensor, Taught]:
    """A window of the room, around one of its parts, turned any way and moved; and what stands in
    its cells. Of several parts in one cell the first is taught, which explains most."""
    code, rgba = lesson.code, lesson.rgba
    yaw = float(random.uniform(0, 2 * math.pi))
    middle = code.pose[random.integers(len(code.which)), :2] / 2
    middle = middle + random.uniform(-WINDOW / 4, WINDOW / 4, 2)
    depth, wide = rgba.shape[1], math.ceil(WINDOW * 0.71) * 2 + 2
    corner = np.floor(middle).astype(int) - wide // 2
    around = _cut(rgba, corner, wide)
    tinted = torch.cat([around[:3] * around[3:], around[3:]])
    turned = posed(tinted[None], torch.tensor([yaw]), torch.ones(1), None, (depth, WINDOW, WINDOW))[
        0
    ]
    solid = (turned[3:] > 0.5).float()
    window = torch.cat([turned[:3] / turned[3:].clamp(min=1e-3) * solid, solid])
    # Where the middles of parts come to lie, in voxels of the window.
    away = code.pose[:, :2] / 2 - (corner + wide / 2)
    cos, sin = math.cos(yaw), math.sin(yaw)
    there = np.stack([cos * away[:, 0] - sin * away[:, 1], sin * away[:, 0] + cos * away[:, 1]], 1)
    place = np.column_stack([there + WINDOW / 2, code.pose[:, 2] / 2]) / STRIDE
    turn = code.pose[:, 3] * (2 * math.pi / YAWS) + yaw
    cell = np.floor(place).astype(int)
    shape = np.array([WINDOW // STRIDE, WINDOW // STRIDE, depth // STRIDE])
    inside = ((cell >= 0) & (cell < shape)).all(axis=1)
    _, first = np.unique(cell, axis=0, return_index=True)
    rows = np.intersect1d(np.flatnonzero(inside), first)
    index = np.column_stack([np.full(len(rows), batch_row), cell[rows, ::-1]])
    return window, Taught(
        torch.from_numpy(index), torch.from_numpy(code.which[rows]),
        torch.from_numpy(turn[rows]).float(),
        torch.from_numpy(place[rows] - cell[rows] - 0.5).float(),
    )  # fmt: skip


def _cut(rgba: Tensor, corner: np.ndarray, wide: int) -> Tensor:
    """``wide``² columns from ``corner`` x y on, nothing where the volume has ended."""
    low, high = np.maximum(corner, 0), np.minimum(corner + wide, rgba.shape[:1:-1])
    inner = rgba[:, :, low[1] : high[1], low[0] : high[0]]
    (left, front), (right, back) = (low - corner).tolist(), (corner + wide - high).tolist()
    return F.pad(inner, (left, right, front, back))


def padded_height(rgba: Tensor) -> Tensor:
    """Filled up with nothing to whole cells."""
    return F.pad(rgba, (0, 0, 0, 0, 0, -rgba.shape[1] % STRIDE))


def train(
    lessons: list[Lesson], parts: Parts, voxel: float, steps: int, seed: int, batch: int = 2
) -> FatVoxels:
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    net = FatVoxels(len(parts), STRIDE)
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    prototypes = parts.prototypes(voxel)
    tall = max(padded_height(one.rgba).shape[1] for one in lessons)
    lessons = [Lesson(F.pad(o.rgba, (0,) * 5 + (tall - o.rgba.shape[1],)), o.code) for o in lessons]
    grid = Grid((0.0, 0.0, 0.0), voxel, (tall, WINDOW, WINDOW))
    for step in range(steps):
        some = [piece(lessons[random.integers(len(lessons))], random, i) for i in range(batch)]
        windows = torch.stack([window for window, _ in some])
        rows = [taught for _, taught in some]
        taught = Taught(
            torch.cat([t.cell for t in rows]), torch.cat([t.which for t in rows]),
            torch.cat([t.yaw for t in rows]), torch.cat([t.offset for t in rows]),
        )  # fmt: skip
        if not len(taught.which):
            continue
        cells = net(windows)
        loss = torch.stack(list(code_loss(cells, taught).values())).sum()
        if step >= (1 - COMPOSED) * steps and len(rows[0].which):
            target = Target(windows[0])
            loss = loss + 10 * composed_loss(cells, rows[0].cell, prototypes, target, grid)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return net.eval()


@torch.no_grad()
def said(net: FatVoxels, rgba: Tensor) -> Finds:
    """The code that the network says by itself, the surest first; parts at scale 1."""
    cells = net(padded_height(rgba)[None])
    cell, which = likely(cells)
    centre, yaw = said_poses(cells, cell, 1.0, (0.0, 0.0, 0.0))
    turn = (yaw / (2 * math.pi) * YAWS).round().long() % YAWS
    pose = torch.cat(
        [(2 * centre).round().long(), turn[:, None], torch.zeros_like(turn)[:, None]], 1
    )
    return Finds(which.numpy(), pose.numpy(), np.zeros(len(which)))


def settled(code: Finds, rgba: Tensor, parts: Parts) -> Finds:
    """The code's parts refined and laid where they explain enough, size after size."""
    field, found = left_of(rgba), []
    for number, size in enumerate(parts.sizes):
        first, own = parts.first(number), parts.rgba[number]
        mine = (code.which >= first) & (code.which < first + len(own))
        if mine.any():
            some = settle(
                field, Templates(own), code.which[mine] - first, code.pose[mine], size.least,
                size.fit,
            )  # fmt: skip
            found.append(Finds(some.which + first, some.pose, some.gain))
    return Finds.joined(found)
