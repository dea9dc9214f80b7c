"""A coarse volume → a small network for each cell, which answers at any position, any number of
times: colour and occupancy finer than the volume itself.

Cells of ``STRIDE``³ voxels. A few convolutions over the cells look around; each cell's own network
is made from what they say and from the raw voxels in and around it. Between the middles of cells
the parameters of their networks are blended trilinearly, and all else that a network is told is
continuous, so that there are no seams. Where a finer volume is at hand, half as large cells get
networks by the same generator, from the network of the cell that they are in and the finer raw
voxels. Volumes are premultiplied: r·a, g·a, b·a, a; a is the share of a voxel that is solid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from protoscene.fields import RGBA, ModulatedField, position_features

STRIDE = 4
"""Voxels along a cell's side."""
WINDOW = 2 * STRIDE
"""Voxels along the side of what a cell's network is made from."""
OCTAVES = 3
"""The finest of a cell's own sines has a period of one voxel."""
NEIGHBOURS = 27
SHARP, SURFACE = 8.0, 0.45
"""Logits of an interpolated share a to begin with: SHARP (a − SURFACE)."""
FAINT = 0.05
"""A premultiplied colour is divided by no less than this."""
NEARER = 2.0
"""A colour that is n voxels away counts exp(−NEARER n²) to begin with."""
PURE = 0.01
"""Colours are kept this far from 0 and 1, of which there is no logit."""
FULL = 0.5
"""Where cells that have a network weigh this much in the blend, their answers count in full."""
LEAST = 1e-6
POINTS = 1 << 15
"""So many positions are asked at once by :meth:`FieldGenerator.decode`."""


@dataclass(frozen=True, eq=False)
class Fields:
    """The networks of one volume: ``made`` (cz, cy, cx) which cells have one; its ``parameters``
    (m, cz, cy, cx) and the ``codes`` (f, cz, cy, cx) that networks are made from, 0 elsewhere."""

    volume: Float[Tensor, "4 z y x"]
    codes: Float[Tensor, "f cz cy cx"]
    parameters: Float[Tensor, "m cz cy cx"]
    made: Bool[Tensor, "cz cy cx"]
    coarse: Fields | None = None
    """What answers where no network was made."""


class FieldGenerator(nn.Module):
    """Volume → :class:`Fields` → answers. ``features`` of a cell, ``width`` of its network."""

    def __init__(self, features: int = 64, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Conv3d(RGBA, features, STRIDE, stride=STRIDE)
        self.around = nn.ModuleList(_residual(features) for _ in range(2))
        self.look = nn.Linear(RGBA * WINDOW**3, features)
        self.mix = nn.Linear(features, features)
        self.child = nn.Linear(features, 8 * features)
        self.field = ModulatedField(
            RGBA * NEIGHBOURS + 6 * OCTAVES, width, channels=RGBA + NEIGHBOURS
        )
        nn.init.zeros_(self.field.out.weight)
        nn.init.zeros_(self.field.out.bias)
        self.head = nn.Linear(features, self.field.n_parameters)

    def context(self, volumes: Float[Tensor, "b 4 z y x"]) -> Float[Tensor, "b f cz cy cx"]:
        """What the cells know of their surroundings. Raises ValueError where the volumes are not of
        whole cells."""
        if any(n % STRIDE for n in volumes.shape[2:]):
            shape = tuple(volumes.shape[2:])
            raise ValueError(f"volume must be of whole cells of {STRIDE}³ voxels, got {shape}")
        context: Tensor = self.embed(volumes)
        for block in self.around:
            context = context + block(context)
        return context

    def forward(
        self,
        volume: Float[Tensor, "4 z y x"],
        wanted: Bool[Tensor, "cz cy cx"] | None = None,
        context: Float[Tensor, "f cz cy cx"] | None = None,
    ) -> Fields:
        """Codes of all :func:`mixed_cells`, and networks of those of them that are ``wanted``, all
        where not given. ``context`` of the volume where it was made with others'."""
        if context is None:
            context = self.context(volume[None])[0]
        mixed = mixed_cells(volume)
        return self._made(volume, mixed, context[:, mixed].T, None, wanted)

    def refined(
        self, coarse: Fields, volume: Float[Tensor, "4 z y x"], wanted: Bool[Tensor, "cz cy cx"]
    ) -> Fields:
        """Networks of the ``wanted`` cells, half as large, of a ``volume`` twice as fine; made of
        the codes of the cells they are in and of the raw voxels."""
        at = wanted.nonzero()
        z, y, x = (at // 2).T
        parents = coarse.codes[:, z, y, x].T
        octant = (at % 2) @ at.new_tensor([4, 2, 1])
        children = self.child(parents).unflatten(1, (8, -1))
        context = children[torch.arange(len(at), device=at.device), octant]
        return self._made(volume, wanted, context, coarse, wanted)

    def _made(
        self,
        volume: Tensor,
        coded: Tensor,
        context: Float[Tensor, "n f"],
        coarse: Fields | None,
        wanted: Tensor | None,
    ) -> Fields:
        code = F.relu(context + self.look(_windows(volume, coded.nonzero())))
        code = code + F.relu(self.mix(code))
        made = coded if wanted is None else coded & wanted
        parameters = _placed(self.head(code[made[coded]]), made)
        return Fields(volume, _placed(code, coded), parameters, made, coarse)

    def answer(self, fields: Fields, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 4"]:
        """Logits of r, g, b (straight) and occupancy at ``points`` x y z, −1..1 over the volume's
        box (``Grid.sampler_from_world``). Trilinear interpolation of the volume is the start; the
        network adds to it, and chooses among the interpolated colours up to a voxel away. At the
        rim of where there are networks they fade into what answers beyond: interpolation alone, or
        the networks of the coarser cells."""
        voxel = 2 / points.new_tensor(fields.volume.shape[:0:-1])
        near = points[:, None] + _offsets(points) * voxel
        seen = _interpolated(fields.volume, near.flatten(0, 1)).unflatten(0, (-1, NEIGHBOURS))
        cell = (points + 1) / (voxel * STRIDE)
        inputs = torch.cat([seen.flatten(1), position_features(cell, OCTAVES, period=1.0)], dim=1)
        share = _interpolated(fields.made[None].to(points.dtype), points)
        own = _interpolated(fields.parameters, points) / share.clamp(min=LEAST)
        added = self.field(inputs, own)
        weight = (share / FULL).clamp(max=1)
        if fields.coarse is None:
            return _logits(seen, weight * added)
        rim = (weight[:, 0] < 1).nonzero()[:, 0]
        less = self.answer(fields.coarse, points[rim])
        said = _logits(seen, added)
        return said.index_copy(0, rim, less + weight[rim] * (said[rim] - less))

    @torch.no_grad()
    def decode(self, fields: Fields, times: int) -> Float[Tensor, "4 Z Y X"]:
        """Straight rgba in [0, 1] at voxels ``times`` finer than the coarsest volume's. Where all
        voxels around are empty, or all are solid, there is nothing to ask."""
        coarsest = fields
        while coarsest.coarse is not None:
            coarsest = coarsest.coarse
        volume = coarsest.volume
        share = volume[3:].clamp(min=FAINT)
        plain = torch.cat([volume[:3] / share, volume[3:].round()])
        for axis in (1, 2, 3):
            plain = plain.repeat_interleave(times, dim=axis)
        asked = near_surface(volume[3])
        for axis in (0, 1, 2):
            asked = asked.repeat_interleave(times, dim=axis)
        where = asked.nonzero()
        middles = (2 * where.flip(1) + 1).to(volume) / where.new_tensor(asked.shape[::-1]) - 1
        for at, points in zip(where.split(POINTS), middles.split(POINTS), strict=True):
            z, y, x = at.T
            plain[:, z, y, x] = self.answer(fields, points).sigmoid().T
        return plain


def near_surface(share: Float[Tensor, "z y x"]) -> Bool[Tensor, "z y x"]:
    """Voxels that differ from one of their 26 neighbours."""
    least, most = (F.max_pool3d(s * share[None], 3, 1, 1)[0] for s in (-1, 1))
    return most > -least


def mixed_cells(volume: Float[Tensor, "4 z y x"]) -> Bool[Tensor, "cz cy cx"]:
    """Cells whose window is neither all empty nor all solid."""
    pad = (WINDOW - STRIDE) // 2
    least, most = (F.max_pool3d(s * volume[3:], WINDOW, STRIDE, pad)[0] for s in (-1, 1))
    return most > -least


def _windows(volume: Tensor, cells: Int[Tensor, "n 3"]) -> Float[Tensor, "n i"]:
    """The raw voxels in and around cells; the outermost ones are repeated."""
    padded = F.pad(volume[None], [(WINDOW - STRIDE) // 2] * 6, mode="replicate")[0]
    for axis in (1, 2, 3):
        padded = padded.unfold(axis, WINDOW, STRIDE)
    z, y, x = cells.T
    return padded[:, z, y, x].movedim(0, 1).flatten(1)


def _interpolated(volume: Float[Tensor, "c z y x"], points: Tensor) -> Float[Tensor, "n c"]:
    found = F.grid_sample(
        volume[None], points[None, None, None], padding_mode="border", align_corners=False
    )
    return found[0, :, 0, 0].T


def _logits(seen: Float[Tensor, "n 27 4"], added: Float[Tensor, "n 31"]) -> Float[Tensor, "n 4"]:
    """Of the interpolated premultiplied colours and shares in and around points. The colour is a
    mean of theirs, weighted with exp(w − NEARER · their distance²); ``added`` are logits and w."""
    distance2 = _offsets(seen).square().sum(dim=1)
    exponents = added[:, RGBA:] - NEARER * distance2
    empty = seen[..., 3] == 0  # adds nothing however much it counts, but would dwarf the others
    weights = exponents.masked_fill(empty, torch.finfo(exponents.dtype).min).softmax(dim=1)
    mixed = (weights[..., None] * seen).sum(dim=1)
    colour = mixed[:, :3] / mixed[:, 3:].clamp(min=LEAST)
    share = SHARP * (seen[:, NEIGHBOURS // 2, 3:] - SURFACE)
    return torch.cat([torch.logit(colour, PURE), share], dim=1) + added[:, :RGBA]


def _placed(rows: Float[Tensor, "n c"], cells: Bool[Tensor, "z y x"]) -> Float[Tensor, "c z y x"]:
    """A row for each of the cells, in their order; 0 elsewhere."""
    volume = rows.new_zeros(*cells.shape, rows.shape[1])
    return volume.index_put(cells.nonzero(as_tuple=True), rows).movedim(-1, 0)


def _offsets(like: Tensor) -> Float[Tensor, "27 3"]:
    steps = torch.arange(-1, 2, dtype=like.dtype, device=like.device)
    return torch.cartesian_prod(steps, steps, steps)


def _residual(features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(), nn.Conv3d(features, features, 3, padding=1), nn.GroupNorm(8, features),
        nn.ReLU(), nn.Conv3d(features, features, 3, padding=1),
    )  # fmt: skip
