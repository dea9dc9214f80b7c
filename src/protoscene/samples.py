"""Recordings and labels → training samples: one instant each, turned, mirrored, seen by less.

A sample is a pure function of the seed, the step and its place in the batch, so that any process
can draw any of them. The cameras are moved, not the voxels: free space is cast anew and is exact.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from protoscene.geometry import Grid, rotation_from_yaw, wrap_angle
from protoscene.labels import Labels
from protoscene.network_input import network_input
from protoscene.observe import ViewStack
from protoscene.recording import Recording
from protoscene.targets import targets

MOST_PICTURE_BYTES = 2**29
"""Pictures kept in memory; what is beyond is read again."""
SHIFT = 0.1
"""Of the grid's sides: the farthest that a scene is moved over the ground."""
AWAY = 0.25
"""Share of samples that are taken anywhere in what was seen, not where the things are: a detector
learns there what is none."""
DEPTH_NOISE = 0.002
"""Standard deviation of a camera's relative error of depth."""
BRIGHTNESS, TINT = 0.25, 0.05
"""Colours are multiplied by 1 ± the first, each channel again by 1 + noise of the second."""


class Sample(NamedTuple):
    """One instant (or, with a leading axis, a batch of them): evidence and what to say of it.
    See :func:`protoscene.network_input.network_input` and :class:`protoscene.targets.Targets`."""

    volume: Float[Tensor, "*b 5 z y x"]
    heat: Float[Tensor, "*b cy cx"]
    known: Float[Tensor, "*b cy cx"]
    weight: Float[Tensor, "*b cy cx"]
    box: Float[Tensor, "*b 7 cy cx"]
    kind: Int[Tensor, "*b cy cx"]


def batch(samples: Iterable[Sample]) -> Sample:
    """The samples stacked along a new first axis."""
    return Sample(*(torch.stack(parts) for parts in zip(*samples, strict=True)))


@dataclass(frozen=True)
class Motion:
    """What moves a scene about the middle of its grid: turned by ``yaw``, shifted (m), and then
    mirrored: y becomes −y."""

    yaw: float = 0.0
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    mirrored: bool = False


class Samples:
    """Draws samples from ``recordings``, whose things stand in ``grids`` (one each, all of one
    shape and voxel size); ``labels[r][i]`` are of instant i of recording r. ``wholes`` are grids of
    all that was seen of each recording, where they are wider than ``grids``. Pictures are kept in
    memory up to ``most_bytes`` and read again beyond. Raises ValueError where these do not fit."""

    def __init__(
        self,
        recordings: Sequence[Recording],
        labels: Sequence[Sequence[Labels]],
        grids: Sequence[Grid],
        stride: int,
        most_bytes: int = MOST_PICTURE_BYTES,
        wholes: Sequence[Grid] = (),
    ) -> None:
        if not len(recordings) == len(labels) == len(grids):
            raise ValueError("as many recordings as lists of labels and as grids are needed")
        if any(len(r) != len(own) for r, own in zip(recordings, labels, strict=True)):
            raise ValueError("as many labels as instants are needed")
        if len({(g.shape, g.voxel_size) for g in grids}) != 1:
            raise ValueError("the grids must be of one shape and voxel size")
        self.recordings, self.labels, self.grids = recordings, labels, grids
        self.stride, self.most_bytes, self.wholes = stride, most_bytes, wholes
        self.instants = [(r, i) for r, one in enumerate(recordings) for i in range(len(one))]
        self._stacks: OrderedDict[tuple[int, int], ViewStack] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        """Number of instants."""
        return len(self.instants)

    def exactly(self, number: int) -> Sample:
        """Instant ``number`` of all, as it is."""
        r, i = self.instants[number]
        return self._sample(self._stack(r, i), self.labels[r][i], self.grids[r], Motion())

    def draw(self, seed: int, step: int, index: int) -> Sample:
        """A random instant seen by a random number of its cameras, the scene turned by any yaw,
        shifted, and mirrored half of the time; depth and colours off by a little."""
        rng = np.random.default_rng([seed, step, index])
        r, i = self.instants[rng.integers(len(self.instants))]
        stack, grid = self._stack(r, i), self.grids[r]
        if self.wholes and rng.random() < AWAY:
            grid = _elsewhere(grid, self.wholes[r], rng)
        n = len(stack.depth)
        kept = np.sort(rng.permutation(n)[: rng.integers(1, n + 1)])
        reach = np.array([*(SHIFT * grid.size_m[:2]), grid.voxel_size])
        shift = rng.uniform(-1, 1, 3) * reach
        motion = Motion(
            float(rng.uniform(-math.pi, math.pi)),
            (float(shift[0]), float(shift[1]), float(shift[2])),
            bool(rng.random() < 0.5),
        )
        scale = 1 + DEPTH_NOISE * rng.standard_normal((len(kept), 1, 1), dtype=np.float32)
        seen = ViewStack(
            stack.depth[kept] * scale, stack.colour[kept], stack.pose[kept], stack.pinhole[kept]
        )
        sample = self._sample(seen, self.labels[r][i], grid, motion)
        gain = rng.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS) * (1 + TINT * rng.standard_normal(3))
        sample.volume[:3].mul_(torch.tensor(gain).float()[:, None, None, None]).clamp_(0, 1)
        return sample

    def _sample(self, stack: ViewStack, labels: Labels, grid: Grid, motion: Motion) -> Sample:
        volume = network_input(moved_views(stack, grid, motion), grid)
        if motion.mirrored:
            volume = np.ascontiguousarray(volume[:, :, ::-1])
        wanted = targets(moved_labels(labels, grid, motion), volume, grid, self.stride)
        return Sample(torch.from_numpy(volume), *(torch.from_numpy(part) for part in wanted))

    def _stack(self, r: int, i: int) -> ViewStack:
        if (r, i) in self._stacks:
            self._stacks.move_to_end((r, i))
            return self._stacks[r, i]
        stack = ViewStack.of(self.recordings[r].views(i))
        self.recordings[r].forget()
        self._stacks[r, i] = stack
        self._bytes += stack.depth.nbytes + stack.colour.nbytes
        while self._bytes > self.most_bytes and len(self._stacks) > 1:
            _, old = self._stacks.popitem(last=False)
            self._bytes -= old.depth.nbytes + old.colour.nbytes
        return stack


def _elsewhere(grid: Grid, whole: Grid, rng: np.random.Generator) -> Grid:
    """``grid`` about a random place of the ground of ``whole``, at its own height."""
    x, y = rng.uniform(whole.lower, whole.upper)[:2] - grid.size_m[:2] / 2
    return Grid((float(x), float(y), grid.origin[2]), grid.voxel_size, grid.shape)


def moved_views(stack: ViewStack, grid: Grid, motion: Motion) -> ViewStack:
    """The views as they would be of the scene turned and shifted (the mirror is not theirs)."""
    turn = rotation_from_yaw(motion.yaw)
    middle = (grid.lower + grid.upper) / 2
    # moved = turn (world − middle) + middle + shift, so world = turnᵀ (moved − middle − shift) + …
    start = middle - turn.T @ (middle + np.array(motion.shift))
    pose = np.empty_like(stack.pose)
    pose[:, :, :3] = stack.pose[:, :, :3] @ turn.T
    pose[:, :, 3] = stack.pose[:, :, :3] @ start + stack.pose[:, :, 3]
    return replace(stack, pose=pose)


def moved_labels(labels: Labels, grid: Grid, motion: Motion) -> Labels:
    """The labels of the scene turned, shifted and mirrored."""
    middle = (grid.lower + grid.upper) / 2
    boxes = labels.boxes.copy()
    centre = (boxes[:, :3] - middle) @ rotation_from_yaw(motion.yaw).T + np.array(motion.shift)
    yaw = boxes[:, 6] + motion.yaw
    if motion.mirrored:
        centre[:, 1], yaw = -centre[:, 1], -yaw
    boxes[:, :3], boxes[:, 6] = centre + middle, wrap_angle(yaw)
    return replace(labels, boxes=boxes)
