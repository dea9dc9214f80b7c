"""Which blobs are pieces of a registered thing: seen apart from the rest, but where it is."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from protoscene.follow import Appearance, Trail
from protoscene.geometry import rotation_from_yaw
from protoscene.propose import join
from protoscene.register import Model

SMALL = 0.7
"""A single blob within another thing's bounds is a piece of it if it has fewer pixels than this
share of its."""
MOST = 0.8
"""Share of the common instants at which a trail must go with a thing to be a piece of it."""


def pieces_of(
    trail: Trail, whole: Trail, poses: Float[np.ndarray, "i 4"], model: Model, slack: float
) -> set[int]:
    """The instants at which ``trail``'s blob is a piece of ``whole``, which was registered at
    ``poses`` (x y z yaw, one per own instant) with ``model``. ``slack`` in metres.

    It is where it is small and its middle lies within the model's bounds or below them. It is at
    every instant, also where the whole was not seen, if its middle lies there most of the time.
    """
    order = sorted(whole.seen)
    common = [k for k, i in enumerate(order) if i in trail.seen]
    if not common:
        return set()
    middles = np.stack([trail.seen[order[k]].centre for k in common]) - poses[common, :3]
    own = np.einsum("nji,nj->ni", rotation_from_yaw(poses[common, 3]), middles)
    lower, upper = model.bounds()
    reach = 0.1 * float(np.hypot(*(upper - lower)[:2])) + slack
    often = len(common) >= max(3, 0.4 * len(trail.seen))
    if often and _within(own, lower, upper, reach).mean() >= MOST:
        return set(trail.seen)
    inside = _within(own, lower, upper, slack)
    small = [trail.seen[order[k]].n_pixels < SMALL * whole.seen[order[k]].n_pixels for k in common]
    return {order[k] for k, *yes in zip(common, inside, small, strict=True) if all(yes)}


def _within(
    own: Float[np.ndarray, "n 3"], lower: Float[np.ndarray, "3"], upper: Float[np.ndarray, "3"],
    reach: float,
) -> Bool[np.ndarray, " n"]:  # fmt: skip
    """Whether own-frame points lie within bounds grown by ``reach``, or below them."""
    beside = ((own > lower - reach) & (own < upper + reach))[:, :2].all(axis=1)
    return beside & (own[:, 2] < upper[2] + reach)


def take(trail: Trail, instants: set[int]) -> Trail:
    """The part of a trail at ``instants``."""
    kept = sorted(instants & set(trail.seen))
    return Trail({i: trail.blobs[i] for i in kept}, {i: trail.seen[i] for i in kept})


def absorb(whole: Trail, piece: Trail) -> Trail:
    """One trail of both's blobs."""
    joined = Trail(dict(whole.blobs), dict(whole.seen))
    for instant, blob in piece.blobs.items():
        if instant in joined.blobs:
            blob = join([joined.blobs[instant], blob])
        joined.add(blob, Appearance.of(blob))
    return joined
