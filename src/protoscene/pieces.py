"""Which blobs are pieces of a registered thing: seen apart from the rest, but where it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from protoscene.crops import Crops
from protoscene.follow import Appearance, Trail
from protoscene.geometry import rotation_from_yaw
from protoscene.propose import join
from protoscene.register import Model

SMALL = 0.7
"""A single blob within another thing's bounds is a piece of it if it has fewer pixels than this
share of its."""
OFTEN = 0.4
"""Share of a trail's instants (and at least 3) at which a thing must have been seen too, for the
whole trail to be a piece of it."""
MOST = 0.8
"""Share of the common instants at which a trail must lie in a thing to be a piece of it."""


@dataclass(frozen=True, eq=False)
class Registered:
    """A trail, its crops, its poses x y z yaw (one per own instant) and the model fused at them."""

    trail: Trail
    crops: Crops
    poses: Float[np.ndarray, "i 4"]
    model: Model

    @property
    def n_pixels(self) -> int:
        return sum(a.n_pixels for a in self.trail.seen.values())


def offsets(piece: Trail, whole: Registered, slack: float) -> dict[int, float]:
    """How far the blobs of ``piece`` lie from the middle of ``whole``, per common instant: 0 in the
    middle, 1 at the model's bounds grown by ``slack`` metres. What is below counts as inside."""
    order = sorted(whole.trail.seen)
    common = [k for k, i in enumerate(order) if i in piece.seen]
    if not common:
        return {}
    poses = whole.poses[common]
    middles = np.stack([piece.seen[order[k]].centre for k in common]) - poses[:, :3]
    own = np.einsum("nji,nj->ni", rotation_from_yaw(poses[:, 3]), middles)
    lower, upper = whole.model.bounds()
    share = (own - (lower + upper) / 2) / ((upper - lower) / 2 + slack)
    share[:, 2] = np.maximum(share[:, 2], 0)
    return {order[k]: float(s) for k, s in zip(common, np.abs(share).max(axis=1), strict=True)}


def collect(things: Sequence[Registered]) -> list[Trail]:
    """The trails of ``things``, one each in the same order, after each blob that is a piece of a
    larger thing has moved to the one in whose middle it lies most.

    A whole trail moves, also where the larger thing was not seen, if it lies within it most of the
    time; else single blobs do that are small beside it.
    """
    trails = [Trail(dict(t.trail.blobs), dict(t.trail.seen)) for t in things]
    for j in sorted(range(len(things)), key=lambda k: things[k].n_pixels):
        larger = [i for i in range(len(things)) if things[i].n_pixels > things[j].n_pixels]
        for instant, i in _homes(things[j].trail, {i: things[i] for i in larger}).items():
            blob = trails[j].remove(instant)
            if instant in trails[i].blobs:
                blob = join([trails[i].blobs[instant], blob])
            trails[i].add(blob, Appearance.of(blob))
    return trails


def _homes(piece: Trail, larger: dict[int, Registered]) -> dict[int, int]:
    """Instant → which of the larger things the piece's blob belongs to, where it does. Bounds are
    grown by two voxels; for a whole trail also by a tenth of the thing's footprint."""
    single: dict[int, tuple[float, int]] = {}
    entire: list[tuple[float, int]] = []
    for i, whole in larger.items():
        slack = 2 * whole.model.grid.voxel_size
        far = offsets(piece, whole, slack + 0.1 * float(whole.trail.size[0]))
        often = len(far) >= max(3, OFTEN * len(piece.seen))
        if often and np.mean([v <= 1 for v in far.values()]) >= MOST:
            entire.append((float(np.median(list(far.values()))), i))
        for instant, value in offsets(piece, whole, slack).items():
            small = SMALL * whole.trail.seen[instant].n_pixels > piece.seen[instant].n_pixels
            if small and value <= 1:
                single[instant] = min(single.get(instant, (2.0, -1)), (value, i))
    if entire:
        return dict.fromkeys(piece.seen, min(entire)[1])
    return {instant: i for instant, (_, i) in single.items()}
