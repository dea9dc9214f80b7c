"""What is wrong with an explanation: each function returns {name: scalar}, 0 where nothing is.

All sums over voxels are divided by the number n of occupied voxels, so that a term counts in
surface voxels that are unexplained, explained where nothing is, or explained twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from protoscene.motion import Motion, Smoothness
from protoscene.volume import Evidence, Volume


@dataclass(frozen=True, eq=False)
class Seen:
    """One instant's evidence on a box of the grid: places (z, y, x) and colours in [0, 1] of
    occupied voxels that are to be explained, and which voxels are free. The rest says nothing.
    ``n`` is the number of all occupied voxels, at least 1: what sums are divided by."""

    occupied: Int[Tensor, "3 m"]
    colour: Float[Tensor, "3 m"]
    free: Bool[Tensor, "z y x"]
    n: int


Box = tuple[tuple[int, int, int], tuple[int, int, int]]
"""First voxel and the one after the last, each z y x."""


def seen_in(
    evidence: Evidence, box: Box, explained: Bool[np.ndarray, "z y x"] | None = None
) -> Seen:
    """The part of ``evidence`` in ``box``, indices counted from the box's first voxel. Occupied
    voxels that are ``explained`` already (on the evidence's grid) are left out."""
    window = tuple(slice(a, b) for a, b in zip(*box, strict=True))
    occupied = evidence.occupied
    places = np.argwhere(occupied)
    inside = ((places >= box[0]) & (places < box[1])).all(axis=1)
    wanted = inside if explained is None else inside & ~explained[occupied]
    colour = evidence.colours[wanted].T.astype(np.float32) / 255
    return Seen(
        torch.from_numpy((places[wanted] - box[0]).T.copy()),
        torch.from_numpy(colour.copy()),
        torch.from_numpy(evidence.free[window].copy()),
        max(int(inside.sum()), 1),
    )


def evidence_losses(canvas: Volume, seen: Seen) -> dict[str, Tensor]:
    """How a composed volume of occupancy α and colour c disagrees with what was seen:

    ``occupied`` = Σ over ``seen.occupied`` of (1 − α) / n, ``free`` = Σ over free voxels of α / n,
    ``colour`` = Σ over ``seen.occupied`` of α |c − seen|² / 3n, its α without gradient: a wrong
    colour must not make a thing transparent.
    """
    z, y, x = seen.occupied
    there = canvas.rgba[:, z, y, x]
    alpha = there[-1]
    wrong = (there[:-1] - seen.colour.to(there)).square().mean(dim=0)
    return {
        "occupied": (1 - alpha).sum() / seen.n,
        "free": (canvas.occupancy * seen.free).sum() / seen.n,
        "colour": (alpha.detach() * wrong).sum() / seen.n,
    }


@dataclass(frozen=True, eq=False)
class Piece:
    """What one object occupies of a grid: (z, y, x) occupancy from voxel ``box[0]`` on."""

    box: Box
    occupancy: Float[Tensor, "z y x"]


def overlap_loss(pieces: Sequence[Piece], n: int) -> dict[str, Tensor]:
    """``overlap`` = Σ over pairs of objects and voxels of αᵢ αⱼ / n: two things cannot be in one
    place. A product and not what exceeds 1, so that of two equal things the weaker one goes."""
    total = torch.zeros(())
    for j, b in enumerate(pieces):
        for a in pieces[:j]:
            first = np.maximum(a.box[0], b.box[0])
            last = np.minimum(a.box[1], b.box[1])
            if (last > first).all():
                shared = (_part(piece, first, last) for piece in (a, b))
                total = total + (next(shared) * next(shared)).sum()
    return {"overlap": total / n}


def _part(piece: Piece, first: np.ndarray, last: np.ndarray) -> Tensor:
    window = (slice(int(f - o), int(e - o))
              for f, e, o in zip(first, last, piece.box[0], strict=True))  # fmt: skip
    return piece.occupancy[tuple(window)]


def ghost_mass(
    pieces: Sequence[Piece], free: Bool[Tensor, "z y x"], start: Sequence[int], n: int
) -> dict[str, Tensor]:
    """``ghosts`` = Σ over objects and free voxels of αᵢ / n, with ``free`` from voxel ``start`` on:
    what objects claim where sensors saw through."""
    total = torch.zeros(())
    lower, upper = np.array(start), np.array(start) + free.shape
    for piece in pieces:
        first, last = np.maximum(piece.box[0], lower), np.minimum(piece.box[1], upper)
        if (last > first).all():
            here = Piece((tuple(lower.tolist()), tuple(upper.tolist())), free.to(piece.occupancy))
            total = total + (_part(piece, first, last) * _part(here, first, last)).sum()
    return {"ghosts": total / n}


def presence_prior(
    presence: Float[Tensor, " k"], surface: Float[Tensor, " k"], n: int
) -> dict[str, Tensor]:
    """``presence`` = Σ presence · surface / n, ``surface`` in voxels: an object must explain its
    share of what it would cover."""
    return {"presence": (presence * surface).sum() / n}


def smoothness_loss(tracks: Sequence[Motion], expected: Smoothness) -> dict[str, Tensor]:
    """Σ over tracks of ``Motion.smoothness``, by the names of the fields of ``expected``."""
    total: dict[str, Tensor] = {}
    for track in tracks:
        for name, value in track.smoothness(expected).items():
            total[name] = total.get(name, torch.zeros((), dtype=value.dtype)) + value
    return total


def weighted(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Σ weight · loss over what both name. Raises ValueError where they share no name."""
    terms = [weights[name] * value for name, value in losses.items() if name in weights]
    if not terms:
        raise ValueError(f"no weight for any of {sorted(losses)}")
    return torch.stack([t.to(terms[0].dtype) for t in terms]).sum()
