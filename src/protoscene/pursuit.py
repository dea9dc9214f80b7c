"""Matching pursuit: where, and how turned, parts explain most of what a volume still shows.

The search is one matrix product of pooled templates with pooled windows of the field that is left
(:mod:`protoscene.laid`); the best is then laid more exactly on the field itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from protoscene.gains import posed, templates
from protoscene.laid import TINT, YAWS, covered, explain, refined, window

LOOKED_YAWS = 32
"""Of ``YAWS`` are searched; the rest is found by refining."""
POOLED = 8
"""Voxels along a part's side while searching."""
RANK = 96
"""Dimensions to which templates are reduced for searching."""
PATIENCE = 25
"""So many places in a row at which nothing fits end a round."""
STEPS = np.array([4, 4, 4, 4, 2])
"""By which a pose that is about right is refined, before they are halved."""
POINTS = 1500
"""Of a part's solid voxels that are asked while refining, drawn once."""


@numba.njit(cache=True)
def _pooled(field, f):  # type: ignore[no-untyped-def]
    """Means of f³ voxels, (6, z, y, x); what is missing in the last ones counts as unknown."""
    depth, height, width, _ = field.shape
    out = np.zeros((6, -(-depth // f), -(-height // f), -(-width // f)), np.float32)
    for k in range(depth):
        for j in range(height):
            for i in range(width):
                if field[k, j, i, 0] + field[k, j, i, 1] > 0:
                    for c in range(6):
                        out[c, k // f, j // f, i // f] += field[k, j, i, c]
    return out / np.float32(f**3)


def _weights(rgba: Float[Tensor, "n 4 z y x"]) -> Float[Tensor, "n 6 z y x"]:
    return templates(torch.cat([TINT * rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1))


@dataclass(frozen=True, eq=False)
class Finds:
    """``which`` part, its pose, and the voxels that it explained more than nothing would."""

    which: Int[np.ndarray, " n"]
    pose: Int[np.ndarray, "n 5"]
    gain: Float[np.ndarray, " n"]

    @classmethod
    def joined(cls, several: list[Finds]) -> Finds:
        pose = [f.pose for f in several] or [np.zeros((0, 5), np.int64)]
        which = np.concatenate([np.zeros(0, np.int64), *(f.which for f in several)])
        gain = np.concatenate([np.zeros(0), *(f.gain for f in several)])
        return cls(which, np.concatenate(pose), gain)


class Templates:
    """Parts of one size, ready to be searched for. ``rgba`` (K, 4, p, p, p), p a multiple of
    ``POOLED``, colours straight."""

    def __init__(self, rgba: Float[Tensor, "K 4 p q r"]) -> None:
        self.rgba, self.side = rgba, rgba.shape[-1]
        self.factor = self.side // POOLED
        tinted = torch.cat([TINT * rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1)
        pooled = F.avg_pool3d(tinted, self.factor)
        k = len(rgba)
        yaw = torch.arange(LOOKED_YAWS).repeat(k) * (2 * math.pi / LOOKED_YAWS)
        laid = posed(pooled.repeat_interleave(LOOKED_YAWS, 0), yaw, torch.ones_like(yaw))
        self.looks = templates(laid).flatten(1)
        self.basis = None
        if len(self.looks) > 2 * RANK:
            with torch.random.fork_rng([]):
                torch.manual_seed(0)
                _, _, self.basis = torch.svd_lowrank(self.looks, RANK, niter=2)
            self.looks = self.looks @ self.basis
        weights = _weights(rgba).flatten(2).movedim(1, 2)
        self.solid: list[tuple[np.ndarray, np.ndarray, float]] = []
        random = np.random.default_rng(0)
        for own, volume in zip(weights, rgba, strict=True):
            at = np.flatnonzero(volume[3].numpy() > 0.5)
            share = max(1.0, len(at) / POINTS)
            at = random.permutation(at)[:POINTS]
            zyx = np.stack(np.unravel_index(at, volume.shape[1:]), axis=1) + 0.5 - self.side / 2
            points = np.ascontiguousarray(zyx[:, ::-1])
            self.solid.append((points, share * own[at].double().numpy(), share))

    def best(
        self, field: np.ndarray, least: float = 0.0, several: int = 1
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of each place (z, y, x in pooled voxels) with more than ``least`` voxels to explain: of
        the ``several`` parts of most gain the best look each (part · LOOKED_YAWS + yaw), and the
        gain of the first."""
        left = torch.from_numpy(_pooled(field, self.factor))
        occupied = F.max_pool3d(F.pad(left[:1], (1,) * 6), 2, stride=1)[0]
        # No part that is turned reaches farther than six pooled voxels.
        wide, high = POOLED * 3 // 4, POOLED // 2
        reach = F.pad(left[:1], (wide, wide, wide, wide, high, high))
        mass = F.avg_pool3d(reach, (2 * high, 2 * wide, 2 * wide), stride=1)[0]
        mass = mass * (8 * high * wide**2 * self.factor**3)
        place = ((occupied > 0.25) & (mass > least)).nonzero()
        # Outside of the volume nothing is known.
        left = F.pad(left, (POOLED // 2,) * 6)
        gains, looks = [], []
        offset = torch.stack(torch.meshgrid(*[torch.arange(POOLED)] * 3, indexing="ij"), -1)
        strides = torch.tensor(left.stride()[1:])
        inner = (offset.reshape(-1, 3) * strides).sum(dim=1)
        flat = left.flatten(1)
        for some in place.split(2048):
            at = (some * strides).sum(dim=1)[:, None] + inner
            seen = flat[:, at].movedim(0, 1).flatten(1)
            scores = (seen if self.basis is None else seen @ self.basis) @ self.looks.T
            yaws = scores.unflatten(1, (-1, LOOKED_YAWS)).max(dim=2)
            most = yaws.values.topk(min(several, yaws.values.shape[1]), dim=1)
            gains.append(most.values[:, 0] * self.factor**3)
            looks.append(most.indices * LOOKED_YAWS + yaws.indices.gather(1, most.indices))
        if not gains:
            return place, place[:, :1], place[:, 0].float()
        return place, torch.cat(looks), torch.cat(gains)


def pursue(
    field: Float[np.ndarray, "z y x 6"],
    parts: Templates,
    least: float,
    fit: float,
    tally: Float[np.ndarray, "K p q r 6"] | None = None,
    rounds: int = 4,
    patience: int = PATIENCE,
    several: int = 1,
) -> Finds:
    """Lays parts, the one of most gain first, each where it explains at least ``least`` voxels and
    ``fit`` of what is still unexplained under it; ``field`` is then without what they explain. At
    each place the ``several`` parts of most gain are refined, and the best is laid.

    ``tally`` gets the field in each find's own frame added, for :func:`content`.
    """
    laid = _Laid(field, parts, least, fit, tally)
    f = parts.factor
    steps = np.array([f, f, f, 2, 2])
    for _ in range(rounds):
        place, looks, gain = parts.best(field, least, several)
        order = gain.argsort(descending=True, stable=True)
        order = order[gain[order] > 0.7 * least]
        tried = np.zeros((0, 3))
        n_before, failed = len(laid.which), 0
        for i in order.tolist():
            at = place[i].numpy()
            if len(tried) and (np.abs(tried - at).max(axis=1) < POOLED / 2).any():
                continue
            tried = np.vstack([tried, at])
            starts = []
            for look in looks[i].tolist():
                k, yaw = divmod(look, LOOKED_YAWS)
                pose = np.array([*(2 * f * at[::-1]), yaw * (YAWS // LOOKED_YAWS), 0])
                starts.append((k, pose))
            failed = 0 if laid.lay(starts, steps) else failed + 1
            if failed > patience:
                break
        if len(laid.which) == n_before:
            break
    return laid.finds()


def settle(
    field: Float[np.ndarray, "z y x 6"],
    parts: Templates,
    which: Int[np.ndarray, " n"],
    pose: Int[np.ndarray, "n 5"],
    least: float,
    fit: float,
) -> Finds:
    """:func:`pursue` without a search: tries these, in this order, each refined."""
    laid = _Laid(field, parts, least, fit, None)
    for k, start in zip(which.tolist(), pose, strict=True):
        laid.lay([(k, start)], STEPS)
    return laid.finds()


def better(
    field: Float[np.ndarray, "z y x 6"],
    parts: Templates,
    which: Int[np.ndarray, " n"],
    poses: Int[np.ndarray, "n h 5"],
) -> Finds:
    """Of each of n parts the pose, of h that it may have, of most gain once refined on ``field``;
    the part of most gain first."""
    found: list[tuple[float, np.ndarray]] = []
    for k, several in zip(which.tolist(), poses, strict=True):
        points, weights, _ = parts.solid[k]
        tried = [refined(points, weights, field, start, STEPS) for start in several]
        pose, gain, _ = max(tried, key=lambda one: one[1])
        found.append((gain, pose))
    gains = np.array([gain for gain, _ in found], np.float64)
    order = np.argsort(-gains, kind="stable")
    pose = np.array([pose for _, pose in found], np.int64).reshape(-1, 5)
    return Finds(which[order], pose[order], gains[order])


class _Laid:
    """Parts that are laid one after another, and what they leave of a field."""

    def __init__(
        self, field: np.ndarray, parts: Templates, least: float, fit: float,
        tally: np.ndarray | None,
    ) -> None:  # fmt: skip
        self.field, self.parts, self.least, self.fit = field, parts, least, fit
        self.tally = tally
        self.which: list[int] = []
        self.pose: list[np.ndarray] = []
        self.gain: list[float] = []

    def lay(self, starts: list[tuple[int, np.ndarray]], steps: np.ndarray) -> bool:
        """Whether that of the parts which explains most, each refined from its start, explains
        enough to be laid."""
        gain, known, k, pose = -math.inf, 0.0, 0, starts[0][1]
        for some, start in starts:
            points, weights, share = self.parts.solid[some]
            at, explained, under = refined(points, weights, self.field, start, steps)
            if explained > gain:
                gain, known, k, pose = explained, under * share, some, at
        if gain < self.least or gain < self.fit * known:
            return False
        if self.tally is not None:
            self.tally[k] += window(self.field, pose, self.parts.side)
        explain(self.field, self.parts.rgba[k], pose)
        self.which.append(k)
        self.pose.append(pose)
        self.gain.append(gain)
        return True

    def finds(self) -> Finds:
        pose = np.array(self.pose, np.int64).reshape(-1, 5)
        return Finds(np.array(self.which, np.int64), pose, np.array(self.gain, np.float64))


def proposals(field: Float[np.ndarray, "z y x 6"], parts: Templates, stride: int) -> Finds:
    """Of each cell of ``stride``³ voxels that has anything to explain the part and pose of most
    gain, refined; those that gain nothing are left out. ``field`` is left as it is."""
    place, looks, gain = parts.best(field)
    cell = place * parts.factor // stride
    order = gain.argsort(descending=True, stable=True)
    _, first = np.unique(cell[order].numpy(), axis=0, return_index=True)
    which, poses, gains = [], [], []
    f = parts.factor
    for i in order[torch.from_numpy(np.sort(first))].tolist():
        k, yaw = divmod(int(looks[i, 0]), LOOKED_YAWS)
        start = np.array([*(2 * f * place[i].numpy()[::-1]), yaw * (YAWS // LOOKED_YAWS), 0])
        points, weights, _ = parts.solid[k]
        pose, explained, _ = refined(points, weights, field, start, np.array([f, f, f, 2, 2]))
        if explained > 0:
            which.append(k)
            poses.append(pose)
            gains.append(explained)
    pose = np.array(poses, np.int64).reshape(-1, 5)
    return Finds(np.array(which, np.int64), pose, np.array(gains, np.float64))


def claims(
    field: Float[np.ndarray, "z y x 6"],
    parts: list[Float[Tensor, "4 _ _ _"]],
    pose: Int[np.ndarray, "n 5"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each of n parts, laid, claims: (m,) what a voxel gains by it, whose claim, which voxel
    (z·y·x of the field)."""
    flat = field.reshape(-1, 6)
    values, owners, voxels = [], [], []
    for i, (part, at) in enumerate(zip(parts, pose, strict=True)):
        voxel, inner = covered(field.shape[:3], part, at).T
        own = _weights(part[None])[0].flatten(1).T.numpy()[inner]
        values.append((own * flat[voxel]).sum(axis=1))
        owners.append(np.full(len(voxel), i))
        voxels.append(voxel)
    none = np.zeros(0, np.int64)
    return (
        np.concatenate([np.zeros(0), *values]), np.concatenate([none, *owners]),
        np.concatenate([none, *voxels]),
    )  # fmt: skip


def content(tally: Float[np.ndarray, "K p q r 6"]) -> Float[Tensor, "K 4 p q r"]:
    """Parts of most gain for what was seen under them: solid where more was occupied than free, of
    the mean colour."""
    seen = torch.from_numpy(tally).float().movedim(-1, 1)
    solid = (seen[:, :1] > seen[:, 1:2]).float()
    colour = seen[:, 2:5] / (TINT * seen[:, :1]).clamp(min=1e-6)
    return torch.cat([colour.clamp(0, 1) * solid, solid], dim=1)


def most_left(field: Float[np.ndarray, "z y x 6"], side: int) -> tuple[np.ndarray, float]:
    """The pose, not turned, of the window with most occupied voxels left, moved to their middle,
    and their number."""
    f = side // POOLED
    pooled = torch.from_numpy(_pooled(field, f))[None, :1]
    mass = F.avg_pool3d(F.pad(pooled, (POOLED // 2,) * 6), POOLED, stride=1)[0, 0]
    at = np.array(np.unravel_index(int(mass.argmax()), tuple(mass.shape)))[::-1] * f
    pose = np.array([*(2 * at), 0, 0])
    for _ in range(3):
        seen = window(field, pose, side)[..., 0]
        total = seen.sum()
        if total <= 0:
            break
        places = np.argwhere(np.ones_like(seen, bool)) + 0.5 - side / 2
        pose[:3] += np.rint(2 * (places * seen.reshape(-1, 1)).sum(axis=0) / total)[::-1].astype(
            int
        )
    return pose, float(window(field, pose, side)[..., 0].sum())
