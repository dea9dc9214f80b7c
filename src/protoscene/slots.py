"""Where things may stand in single instants, and the pieces of evidence there.

Places are x y in voxels of the evidence from its corner, evidence is what :mod:`gains` takes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from protoscene import heatmap
from protoscene.compose import compose
from protoscene.gains import Looks, gains, posed, spectra, templates
from protoscene.geometry import Grid
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes


@dataclass(frozen=True, eq=False)
class Slots:
    """Pieces of instants: whose, the places of their middles, and what was seen there (windows of
    one size, zero where it belongs to another slot)."""

    instant: Int[Tensor, " n"]
    middle: Float[Tensor, "n 2"]
    seen: Float[Tensor, "n 6 z b a"]

    def __len__(self) -> int:
        return len(self.instant)

    def __getitem__(self, rows: Tensor) -> Slots:
        return Slots(self.instant[rows], self.middle[rows], self.seen[rows])


def centres(
    seen: Float[Tensor, "n 6 z y x"], voxel_size: float, size_m: float
) -> list[Float[Tensor, "_ 2"]]:
    """Of each instant, where things about ``size_m`` wide may stand: peaks of the centre-surround
    response seen from above, moved to the middle of what is nearer to them than to others."""
    grid = Grid((0, 0, 0), voxel_size, (1, *seen.shape[-2:]))
    above = (seen[:, 0].sum(dim=1) > 0).float()
    box = torch.tensor([size_m, size_m, voxel_size])
    response = heatmap.centre_surround(above[:, None], grid, box, 0.45 * size_m)
    found = []
    for one, shown in zip(response, above, strict=True):
        places = heatmap.peaks(one, grid, 0.1, 0.75 * size_m)[0][:, :2]
        points = (shown.nonzero().flip(1) + 0.5) * voxel_size
        for _ in range(5):
            apart = torch.cdist(places, points)
            own = F.one_hot(apart.argmin(dim=0), len(places)).T * (apart < size_m)
            n = own.sum(dim=1, keepdim=True)
            places = torch.where(n > 0, own.float() @ points / n.clamp(min=1), places)
        found.append(places / voxel_size)
    return found


def slots_around(
    seen: Float[Tensor, "n 6 z y x"], places: list[Float[Tensor, "_ 2"]], side: int
) -> Slots:
    """Windows of ``side`` voxels around the places of each instant; every column is its nearest
    place's. Raises ValueError where there is no place at all."""
    if not any(len(own) for own in places):
        raise ValueError("no instant shows a thing: expected a place in one of them")
    y, x = (torch.arange(n) + 0.5 for n in seen.shape[-2:])
    instants, middles, pieces = [], [], []
    for i, own in enumerate(places):
        far = (x - own[:, 0, None, None]) ** 2 + (y[:, None] - own[:, 1, None, None]) ** 2
        owner = far.argmin(dim=0) if len(own) else None
        for j, place in enumerate(own):
            mine = seen[i] * (owner == j)
            middles.append(place.round())
            instants.append(i)
            pieces.append(window(mine, middles[-1], side))
    return Slots(torch.tensor(instants), torch.stack(middles), torch.stack(pieces))


def window(
    volume: Float[Tensor, "c z y x"], middle: Float[Tensor, "2"], side: int
) -> Float[Tensor, "c z b a"]:
    """``side`` (even) columns a side around a corner of voxels, zero beyond the volume, also where
    the corner lies far beyond it."""
    padded = F.pad(volume, (side,) * 4)
    first = (middle + side // 2).long()
    x, y = (
        min(max(int(v), 0), n + side)
        for v, n in zip(first, (volume.shape[3], volume.shape[2]), strict=True)
    )
    return padded[:, :, y : y + side, x : x + side]


@dataclass(frozen=True, eq=False)
class Finds:
    """Things found: in which instants, which prototypes, at which places (x y, of the prototypes'
    middles), turned and scaled how, and how well they explain what is seen there (0 to 1)."""

    instant: Int[Tensor, " n"]
    which: Int[Tensor, " n"]
    place: Float[Tensor, "n 2"]
    yaw: Float[Tensor, " n"]
    scale: Float[Tensor, " n"]
    score: Float[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.instant)

    def __getitem__(self, rows: Tensor) -> Finds:
        return Finds(*(getattr(self, f.name)[rows] for f in fields(self)))

    def resized(self, factor: float) -> Finds:
        """On voxels of 1 / ``factor`` the size."""
        return replace(self, place=self.place * factor)


def find(
    seen: Float[Tensor, "n 6 z y x"],
    prototypes: Float[Tensor, "K 4 z q p"],
    looks: Looks,
    least: float,
) -> Finds:
    """In each instant the pose of most gain, then that of most gain in what is left, while gains
    are at least ``least``. What is explained is no evidence any more, and nobody else's room.
    Raises ValueError for ``least`` ≤ 0."""
    if not least > 0:
        raise ValueError(f"least is {least}, expected a gain above 0")
    k, t, side = len(prototypes), len(looks.yaw), prototypes.shape[-1]
    laid = posed(prototypes.repeat_interleave(t, 0), looks.yaw.repeat(k), looks.scale.repeat(k))
    margin = 2 * (side // 2)
    size = (seen.shape[-2] + margin, seen.shape[-1] + margin)
    patterns = spectra(templates(laid), size)
    rows: list[tuple[float, ...]] = []
    for i, one in enumerate(seen):
        left = F.pad(one, (side // 2,) * 4)
        known = left[0] + left[1]
        while True:
            maps = gains(left[None], patterns, side)[0]
            gain = float(maps.max())
            if gain < least:
                break
            look, y, x = (int(v) for v in np.unravel_index(int(maps.argmax()), tuple(maps.shape)))
            here = (slice(None), slice(y, y + side), slice(x, x + side))
            alpha = laid[look, 3]
            score = gain / float((alpha * known[here]).sum().clamp(min=1))
            rows.append((i, look // t, x, y, look % t, score))
            part = left[(slice(None), *here)]
            part *= 1 - alpha
            part[1] += alpha
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    instant, which, x, y, look, score = table.T
    looked = look.long()
    return Finds(
        instant.long(), which.long(), torch.stack([x, y], 1), looks.yaw[looked],
        looks.scale[looked], score,
    )  # fmt: skip


def composed(
    prototypes: Float[Tensor, "K 4 z q p"], finds: Finds, shape: tuple[int, int, int]
) -> Float[Tensor, "z y x"]:
    """Occupancy of all of them together."""
    own = torch.cat([prototypes[:, :3] / prototypes[:, 3:].clamp(min=1e-3), prototypes[:, 3:]], 1)
    height = finds.scale * prototypes.shape[2] / 2
    placements = Placements(
        finds.which, torch.cat([finds.place, height[:, None]], 1), finds.yaw, finds.scale
    )
    dictionary = VoxelPrototypes.from_rgba(list(own), 1.0)
    return compose(dictionary, placements, Grid((0, 0, 0), 1.0, shape)).occupancy


def slots_of(
    seen: Float[Tensor, "n 6 z y x"],
    finds: Finds,
    prototypes: Float[Tensor, "K 4 z q p"],
    side: int,
) -> Slots:
    """Windows around finds, each without what the others of its instant explain."""
    pieces = []
    shape = (seen.shape[2], seen.shape[3], seen.shape[4])
    for j, i in enumerate(finds.instant.tolist()):
        others = finds.instant == i
        others[j] = False
        taken = composed(prototypes, finds[others], shape)
        left = seen[i] * (1 - taken)
        left[1] += taken
        pieces.append(window(left, finds.place[j].round(), side))
    return Slots(finds.instant, finds.place.round(), torch.stack(pieces))
