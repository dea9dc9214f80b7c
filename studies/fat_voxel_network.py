"""The network of fat voxels: taught codes of rooms turned any way; what it says, as a code."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from room_measures import STRIDE
from torch import Tensor

from protoscene.laid import YAWS, left_of
from protoscene.networks.fat_voxels import (
    FatVoxels,
    Taught,
    code_loss,
    likely,
    said_poses,
)
from protoscene.parts import Parts
from protoscene.pursuit import Finds, Templates, better, settle

WINDOW = 64
"""Voxels along a side of the pieces of rooms that it is taught."""
BATCH = 4
RATE = 2e-3
GUESSED = 0.1
"""The probability that a part must have in a cell to be tried there."""
YAWS_TRIED = 4
"""Bins of yaw, the likeliest ones, of each part that is tried."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """A room's ``columns``, (y, x, z, 4) with colours times occupancy, and its code."""

    columns: Tensor
    code: Finds

    @classmethod
    def of(cls, rgba: Tensor, code: Finds, tall: int) -> Lesson:
        """Filled up with nothing to ``tall`` voxels in height."""
        tinted = torch.cat([rgba[:3] * rgba[3:], rgba[3:]])
        tinted = F.pad(tinted, (0,) * 5 + (tall - rgba.shape[1],))
        return cls(tinted.permute(2, 3, 1, 0).contiguous(), code)


def piece(lesson: Lesson, random: np.random.Generator, batch_row: int) -> tuple[Tensor, Taught]:
    """A window of the room, around one of its parts (the oftener the more that explains), turned
    any way and moved; and what stands in its cells, weighted by √(what it explains). Of several
    parts in one cell the first is taught, which explains most."""
    code, columns = lesson.code, lesson.columns
    weight = np.sqrt(code.gain)
    yaw = float(random.uniform(0, 2 * math.pi))
    cos, sin = math.cos(yaw), math.sin(yaw)
    middle = code.pose[random.choice(len(weight), p=weight / weight.sum()), :2] / 2
    middle = middle + random.uniform(-WINDOW / 6, WINDOW / 6, 2)
    # Of each voxel of the window the nearest of the room, where there is one.
    to = np.arange(WINDOW) + 0.5 - WINDOW / 2
    x = np.floor(middle[0] + cos * to + sin * to[:, None]).astype(int)
    y = np.floor(middle[1] - sin * to + cos * to[:, None]).astype(int)
    ny, nx, depth = columns.shape[:3]
    there = torch.from_numpy((x >= 0) & (x < nx) & (y >= 0) & (y < ny))
    window = columns[y.clip(0, ny - 1), x.clip(0, nx - 1)] * there[..., None, None]
    # Where the middles of parts come to lie, in cells of the window.
    away = code.pose[:, :2] / 2 - middle
    at = np.stack([cos * away[:, 0] - sin * away[:, 1], sin * away[:, 0] + cos * away[:, 1]], 1)
    place = np.column_stack([at + WINDOW / 2, code.pose[:, 2] / 2]) / STRIDE
    turn = code.pose[:, 3] * (2 * math.pi / YAWS) + yaw
    cell = np.floor(place).astype(int)
    shape = np.array([WINDOW // STRIDE, WINDOW // STRIDE, depth // STRIDE])
    inside = ((cell >= 0) & (cell < shape)).all(axis=1)
    _, first = np.unique(cell, axis=0, return_index=True)
    rows = np.intersect1d(np.flatnonzero(inside), first)
    index = np.column_stack([np.full(len(rows), batch_row), cell[rows, ::-1]])
    return window.permute(3, 2, 0, 1), Taught(
        torch.from_numpy(index), torch.from_numpy(code.which[rows]),
        torch.from_numpy(turn[rows]).float(),
        torch.from_numpy(place[rows] - cell[rows] - 0.5).float(),
        torch.from_numpy(weight[rows]).float(),
    )  # fmt: skip


def padded_height(rgba: Tensor) -> Tensor:
    """Filled up with nothing to whole cells."""
    return F.pad(rgba, (0, 0, 0, 0, 0, -rgba.shape[1] % STRIDE))


def train(lessons: list[Lesson], parts: Parts, steps: int, seed: int) -> FatVoxels:
    """On the graphics card, if there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    net = FatVoxels(len(parts), STRIDE).to(device)
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, RATE, total_steps=steps, pct_start=0.15
    )
    for _ in range(steps):
        some = [piece(lessons[random.integers(len(lessons))], random, i) for i in range(BATCH)]
        windows = torch.stack([window for window, _ in some]).to(device)
        fields = ("cell", "which", "yaw", "offset", "weight")
        columns = [torch.cat([getattr(taught, name) for _, taught in some]) for name in fields]
        taught = Taught(*(column.to(device) for column in columns))
        if len(taught.which):
            loss = torch.stack(list(code_loss(net(windows), taught).values())).sum()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
        schedule.step()
    return net.cpu().eval()


@torch.no_grad()
def said(net: FatVoxels, rgba: Tensor) -> Finds:
    """The code that the network says by itself, the surest first; parts at scale 1."""
    which, poses = _poses(net, rgba, 0.5, 1)
    return Finds(which, poses[:, 0], np.zeros(len(which)))


@torch.no_grad()
def settled(net: FatVoxels, rgba: Tensor, parts: Parts) -> Finds:
    """Parts that the network holds for possible, refined and laid where they explain enough, what
    explains most first, size after size."""
    guessed = _poses(net, rgba, GUESSED, YAWS_TRIED)
    field, found = left_of(rgba), []
    for number, size in enumerate(parts.sizes):
        if not len(parts.rgba[number]):
            continue
        templates = Templates(parts.rgba[number])
        best = _fitted(*guessed, parts.first(number), templates, field)
        some = settle(field, templates, best.which, best.pose, size.least, size.fit)
        found.append(Finds(some.which + parts.first(number), some.pose, some.gain))
    return Finds.joined(found)


@torch.no_grad()
def competitors(net: FatVoxels, rgba: Tensor, parts: Parts) -> Finds:
    """The same, each refined as if it were alone; of those of a size whose middles end in the same
    cell the one of most gain."""
    guessed = _poses(net, rgba, GUESSED, YAWS_TRIED)
    field, found = left_of(rgba), []
    for number in range(len(parts.sizes)):
        if not len(parts.rgba[number]):
            continue
        first = parts.first(number)
        some = _fitted(*guessed, first, Templates(parts.rgba[number]), field)
        _, rows = np.unique(some.pose[:, :3] // (2 * STRIDE), axis=0, return_index=True)
        found.append(Finds(some.which[rows] + first, some.pose[rows], some.gain[rows]))
    return Finds.joined(found)


def _fitted(
    which: np.ndarray, poses: np.ndarray, first: int, templates: Templates, field: np.ndarray
) -> Finds:
    """Of the parts from number ``first`` on, for which ``templates`` are, each turned as it fits
    best of the ways that are likeliest."""
    mine = (which >= first) & (which < first + len(templates.rgba))
    return better(field, templates, which[mine] - first, poses[mine])


def _poses(net: FatVoxels, rgba: Tensor, least: float, yaws: int) -> tuple[np.ndarray, np.ndarray]:
    """Which n parts are likely, and (n, ``yaws``, 5) how they may lie, the likeliest yaw first."""
    cells = net(padded_height(rgba)[None])
    cell, which = likely(cells, least)
    poses = []
    for rank in range(yaws):
        centre, yaw = said_poses(cells, cell, 1.0, (0.0, 0.0, 0.0), rank=rank)
        turn = (yaw / (2 * math.pi) * YAWS).round().long()[:, None] % YAWS
        poses.append(torch.cat([(2 * centre).round().long(), turn, torch.zeros_like(turn)], 1))
    return which.numpy(), torch.stack(poses, dim=1).numpy()
