"""A dictionary of parts: small volumes, larger than a cell, that overlap and build any volume.

A volume's code is a list of (part, pose); :func:`encode` finds it by matching pursuit, large parts
first, :func:`decode` is :func:`protoscene.compose.compose`, and :func:`learn` is hard EM: codes for
the volumes, then each part becomes what was seen under it. New parts are what no part explains,
and so are those that replace parts which are hardly used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from protoscene.compose import compose
from protoscene.geometry import Grid
from protoscene.laid import SCALE_STEP, SCALES, YAWS, explain, left_of, window
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.pursuit import Finds, Templates, content, most_left, pursue
from protoscene.volume import Volume


@dataclass(frozen=True)
class Size:
    """Parts of ``side``³ voxels: at most ``count`` of them. Each is laid where it explains at least
    ``least`` voxels, and the share ``fit`` of what is under it; ``strict`` while learning, so that
    unlike things do not become one part."""

    side: int
    count: int
    least: float
    fit: float
    strict: float


SEVERAL = 3
"""So many parts are tried at a place in encoding."""
WORTH = 4
"""So many times what a find must explain must be left where a new part is made."""
SIZES = (Size(32, 80, 600, 0.7, 0.85), Size(16, 176, 24, 0.4, 0.65))


@dataclass(frozen=True, eq=False)
class Parts:
    """``rgba``: for each of ``sizes`` a tensor (K, 4, p, p, p), occupancy 0 or 1. All of them are
    numbered one after another."""

    sizes: tuple[Size, ...]
    rgba: tuple[Tensor, ...]

    def __len__(self) -> int:
        return sum(len(some) for some in self.rgba)

    def prototypes(self, voxel_size: float) -> VoxelPrototypes:
        """As volumes to compose, for voxels of ``voxel_size`` metres."""
        return VoxelPrototypes.from_rgba([one for some in self.rgba for one in some], voxel_size)

    def first(self, size: int) -> int:
        """The number of the first part of the size numbered ``size``."""
        return sum(len(some) for some in self.rgba[:size])


def placements(code: Finds, grid: Grid) -> Placements:
    """Where the parts of a code lie in the world (metres)."""
    centre = np.array(grid.origin) + code.pose[:, :3] * (grid.voxel_size / 2)
    yaw = code.pose[:, 3] * (2 * math.pi / YAWS)
    return Placements(
        code.which, centre.astype(np.float32), yaw.astype(np.float32),
        (SCALE_STEP ** code.pose[:, 4]).astype(np.float32),
    )  # fmt: skip


def decode(code: Finds, parts: Parts, grid: Grid) -> Volume:
    """The volume that the code means, on ``grid``, whose voxels are those of the parts."""
    return compose(parts.prototypes(grid.voxel_size), placements(code, grid), grid)


def encode(
    rgba: Float[Tensor, "4 z y x"], parts: Parts, rest: list[np.ndarray] | None = None
) -> Finds:
    """The code of a volume, occupancy 0 or 1: parts of the first size, then of the next what these
    left. ``rest`` gets the field of what is not explained appended."""
    field, found = left_of(rgba), []
    for number, size in enumerate(parts.sizes):
        if len(parts.rgba[number]):
            templates = Templates(parts.rgba[number])
            some = pursue(field, templates, size.least, size.fit, several=SEVERAL)
            found.append(Finds(some.which + parts.first(number), some.pose, some.gain))
    if rest is not None:
        rest.append(field)
    return Finds.joined(found)


def code_bits(code: Finds, parts: Parts, shape: tuple[int, int, int], stride: int = 8) -> float:
    """Bits of a code: per find its cell (as a set), which part, yaw, scale and offset within the
    cell in half voxels."""
    cells = math.prod(-(-n // stride) for n in shape)
    n = len(code.which)
    each = math.log2(max(len(parts), 2) * YAWS * (SCALES[1] - SCALES[0] + 1) * (2 * stride) ** 3)
    which_cells = (math.lgamma(cells + n) - math.lgamma(n + 1) - math.lgamma(cells)) / math.log(2)
    return n * each + which_cells


def learn(
    volumes: Sequence[Float[Tensor, "4 _ _ _"]], sizes: Sequence[Size] = SIZES, passes: int = 3
) -> Parts:
    """A dictionary of the volumes, by ``passes`` of hard EM. In all but the last pass what is not
    explained makes new parts; after each, parts that nothing uses are dropped, and up to the last
    two passes those that are used once."""
    rgba = [torch.zeros(0, 4, *[size.side] * 3) for size in sizes]
    for number in range(passes):
        tallies = [np.zeros((len(own), *own.shape[2:], 6)) for own in rgba]
        used = [np.zeros(len(own)) for own in rgba]
        for volume in volumes:
            field = left_of(volume)
            for s, size in enumerate(sizes):
                if len(rgba[s]):
                    found = pursue(field, Templates(rgba[s]), size.least, size.strict, tallies[s])
                    used[s] += np.bincount(found.which, minlength=len(rgba[s]))
                if number < passes - 1:
                    new, tally, count = grow(field, size, size.count - len(rgba[s]))
                    rgba[s] = torch.cat([rgba[s], new])
                    tallies[s] = np.concatenate([tallies[s], tally])
                    used[s] = np.concatenate([used[s], count])
        keep = [u >= (2 if number < passes - 2 else 1) for u in used]
        rgba = [content(t[k]) for t, k in zip(tallies, keep, strict=True)]
    return Parts(tuple(sizes), tuple(rgba))


def grow(
    field: Float[np.ndarray, "z y x 6"], size: Size, most: int
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """At most ``most`` new parts of what ``field`` has left, each laid wherever it explains
    something: their content, what was seen under them, how often they are used."""
    made: list[Tensor] = []
    tallies: list[np.ndarray] = []
    used: list[int] = []
    tried = field.copy()
    while len(made) < most:
        pose, mass = most_left(tried, size.side)
        if mass < WORTH * size.least:
            break
        part = content(window(field, pose, size.side)[None])
        tally = np.zeros((1, *part.shape[2:], 6))
        least = WORTH / 2 * size.least
        found = pursue(field, Templates(part), least, size.strict, tally, rounds=1, patience=6)
        if len(found.which):
            made.append(part)
            tallies.append(tally)
            used.append(len(found.which))
        for at in found.pose:
            explain(tried, part[0], at)
        # What is left here is not asked again before the next pass.
        explain(tried, torch.ones(4, *[size.side] * 3), pose)
    empty = torch.zeros(0, 4, *[size.side] * 3)
    none = np.zeros((0, *[size.side] * 3, 6))
    return torch.cat([empty, *made]), np.concatenate([none, *tallies]), np.array(used, float)
