"""Blobs of many instants → one trail of blobs per thing: by position and by appearance."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment

from protoscene.propose import Blob, colour_bins, colour_histogram, join

JUMP_COST = 4.0
"""What any distance costs at most: a thing may be picked up and put down elsewhere."""
COLOUR_COST, MOST_COLOUR_COST = 12.0, 5.0
"""Cost per share of colours not in common, and at most: a thing's other side may look different."""
SIZE_SPREAD, SIZE_COST = 0.35, 3.0
"""Standard deviation of the logarithm of a thing's size from blob to blob, and what a difference
costs at most (half of a thing may be hidden)."""
LEAST_SHARE = 0.01
"""Share of a thing's pixels that any colour may have: a side not seen before, noise."""
YOUNG_COST, GROWN_UP = 2.0, 5
"""Cost of a trail of one instant, falling to 0 at this many: a piece seen apart for once shall not
take the thing from its trail."""
ABSENCE_STEP_COST, ABSENCE_COST = 0.2, 2.0
"""Cost per instant of having been away, and at most."""
FRAGMENT_GAP, FLOATING_GAP = 0.15, 0.6
"""Pieces of a thing are apart by less than this share of their mean size; by less than the second
one if the upper piece floats, which nothing does by itself."""
FRAGMENT_STRAY, FRAGMENT_STRAY_M = 0.3, 0.1
"""Their distance varies by less than this share of their mean size and these metres."""
NEW_COST = 8.0
"""A blob that costs more than this on every trail begins a new one."""
EXCHANGE_GAIN = 2.0
"""Trails exchange blobs, looked at from what follows, if that saves at least this cost."""


@dataclass(frozen=True, eq=False)
class Appearance:
    """What a blob looks like: middle and extent of its bounds (m), colours, number of pixels."""

    centre: Float[np.ndarray, "3"]
    extent: Float[np.ndarray, "3"]
    histogram: Float[np.ndarray, " bins"]
    n_pixels: int

    @classmethod
    def of(cls, blob: Blob) -> Appearance:
        lower, upper = blob.bounds
        histogram = colour_histogram(blob.colours)
        return cls((lower + upper) / 2, upper - lower, histogram, len(blob.points))

    @property
    def size(self) -> Float[np.ndarray, "2"]:
        """Diagonal of the footprint, and height (m): what turning hardly changes."""
        return np.array([np.hypot(self.extent[0], self.extent[1]), self.extent[2]])


@dataclass(eq=False)
class Trail:
    """The blobs taken for one thing, at most one an instant, in order of instants."""

    blobs: dict[int, Blob] = field(default_factory=dict)
    seen: dict[int, Appearance] = field(default_factory=dict)
    _size: Float[np.ndarray, "2"] | None = field(default=None, init=False)

    def add(self, blob: Blob, appearance: Appearance) -> None:
        """Take ``blob`` for the thing at its instant."""
        self.blobs[blob.instant] = blob
        self.seen[blob.instant] = appearance
        self._size = None

    def remove(self, instant: int) -> Blob:
        """Take the blob of an instant out."""
        del self.seen[instant]
        self._size = None
        return self.blobs.pop(instant)

    def sort(self) -> None:
        """Bring what was added out of order into the order of instants."""
        self.blobs = dict(sorted(self.blobs.items()))
        self.seen = dict(sorted(self.seen.items()))

    @property
    def last(self) -> int:
        """The latest instant at which it was seen."""
        return max(self.seen)

    @property
    def size(self) -> Float[np.ndarray, "2"]:
        """Typical footprint diagonal and height (m): the 70 % quantile, as hiding only shrinks."""
        if self._size is None:
            self._size = np.quantile([a.size for a in self.seen.values()], 0.7, axis=0)
        return self._size

    def histogram(self) -> Float[np.ndarray, " bins"]:
        """Mean appearance so far (of up to 16 evenly chosen instants)."""
        seen = list(self.seen.values())
        step = max(1, len(seen) // 16)
        shares = np.mean([a.histogram**2 for a in seen[::step]], axis=0)
        return np.sqrt(shares)

    def predict(
        self, instant: int, times: tuple[float, ...], backwards: bool = False
    ) -> tuple[np.ndarray, float]:
        """Expected centre at ``instant`` and its standard deviation (m): constant velocity, for at
        most three steps, where the last step was shorter than one and a half footprints; standing
        still otherwise. From the instants before, or ``backwards`` from those after."""
        near = sorted(self.seen, reverse=not backwards)
        near = [i for i in near if (i > instant if backwards else i < instant)][:2]
        here = self.seen[near[0]].centre
        reach = 0.5 * self.size[0]
        if len(near) > 1:
            before = self.seen[near[1]].centre
            step = here - before
            if np.linalg.norm(step) < 1.5 * self.size[0]:
                elapsed = times[near[0]] - times[near[1]]
                ahead = (times[instant] - times[near[0]]) / elapsed
                reach = 0.2 * self.size[0] + 0.4 * float(np.linalg.norm(step)) * abs(ahead)
                here = here + step * float(np.clip(ahead, -3, 3))
        return here, reach + 0.01


def follow(blobs: list[list[Blob]], times: tuple[float, ...]) -> list[Trail]:
    """Assign each instant's blobs to trails at the least total cost (Hungarian), earliest first.

    The cost adds distance to the predicted place (capped: things may jump), difference in colour,
    in size, and absence. A blob into which several trails ran is split between them first.
    """
    trails: list[Trail] = []
    for instant, found in enumerate(blobs):
        found = _split_merged(found, trails, instant, times)
        seen = [Appearance.of(b) for b in found]
        if not found:
            continue
        cost = np.full((len(found), len(trails) + len(found)), 1e6)
        for j, trail in enumerate(trails):
            cost[:, j] = _costs(seen, trail, instant, times)
        cost[np.arange(len(found)), len(trails) + np.arange(len(found))] = NEW_COST
        rows, columns = linear_sum_assignment(cost)
        for i, j in zip(rows, columns, strict=True):
            if j >= len(trails):
                trails.append(Trail())
                j = len(trails) - 1
            trails[j].add(found[i], seen[i])
    _exchange(trails, times)
    return trails


def _exchange(trails: list[Trail], times: tuple[float, ...]) -> None:
    """Give each instant's blobs, latest first, to those of their trails that they cost least, in
    place: from what follows, and by what the whole trail looks like. At first every trail was a
    single blob, and of a thing half hidden then another looked more like it than itself."""
    for instant in reversed(range(len(times))):
        owners = [t for t in trails if instant in t.seen and t.last > instant]
        if len(owners) < 2:
            continue
        cost = np.empty((len(owners), len(owners)))
        for j, trail in enumerate(owners):
            expected, reach = trail.predict(instant, times, backwards=True)
            looks, size = trail.histogram(), trail.size
            for i, owner in enumerate(owners):
                cost[i, j] = _unlike(owner.seen[instant], expected, reach, size, looks)
        rows, columns = linear_sum_assignment(cost)
        if cost[rows, columns].sum() > np.trace(cost) - EXCHANGE_GAIN:
            continue
        taken = [(t.seen[instant], t.remove(instant)) for t in owners]
        for i, j in zip(rows, columns, strict=True):
            appearance, blob = taken[i]
            owners[j].add(blob, appearance)
            owners[j].sort()


def _unlike(
    a: Appearance, expected: np.ndarray, reach: float, size: np.ndarray, *looks: np.ndarray
) -> float:
    """What it costs that a blob lies off the ``expected`` place (m, standard deviation ``reach``),
    has another size, and other colours than the likest of ``looks``."""
    distance = float(np.linalg.norm(a.centre - expected))
    likeness = max(float(a.histogram @ h) for h in looks)
    ratio = np.log((a.size + 0.01) / (size + 0.01))
    return (
        min(0.5 * (distance / reach) ** 2, JUMP_COST)
        + min(COLOUR_COST * (1 - min(likeness, 1.0)), MOST_COLOUR_COST)
        + min(float((ratio**2).sum()) / (2 * SIZE_SPREAD**2), SIZE_COST)
    )


def _costs(
    seen: list[Appearance], trail: Trail, instant: int, times: tuple[float, ...]
) -> Float[np.ndarray, " n"]:
    """What it costs to continue ``trail`` with each of the blobs."""
    expected, reach = trail.predict(instant, times)
    size, typical, recent = trail.size, trail.histogram(), trail.seen[trail.last].histogram
    young = YOUNG_COST * max(0.0, (GROWN_UP - len(trail.seen)) / (GROWN_UP - 1))
    young *= min(1.0, instant / GROWN_UP)  # at first every trail is young
    absence = min(ABSENCE_STEP_COST * (instant - trail.last - 1), ABSENCE_COST)
    own = [_unlike(a, expected, reach, size, typical, recent) for a in seen]
    return np.array(own) + absence + young


def _split_merged(
    found: list[Blob], trails: list[Trail], instant: int, times: tuple[float, ...]
) -> list[Blob]:
    """Blobs of ``instant``, those parted into which two or more recent trails have run."""
    recent = [t for t in trails if len(t.seen) >= 2 and instant - t.last <= 3]
    expected = [t.predict(instant, times)[0] for t in recent]
    parted: list[Blob] = []
    for blob in found:
        lower, upper = blob.bounds
        inside = [k for k, e in enumerate(expected) if ((e > lower) & (e < upper)).all()]
        diagonal = float(np.hypot(*(upper - lower)[:2]))
        if len(inside) < 2 or any(diagonal < 1.25 * recent[k].size[0] for k in inside):
            parted.append(blob)
            continue
        centres = np.stack([expected[k] for k in inside])
        parted += part(blob, centres, np.stack([recent[k].histogram() for k in inside]))
    return parted


def part(
    blob: Blob, centres: Float[np.ndarray, "k 3"], histograms: Float[np.ndarray, "k bins"]
) -> list[Blob]:
    """Part a blob between things expected at ``centres`` (m) that looked like ``histograms``: by
    k-means over ground positions, then each pixel to the thing of least

        distance² / σ² − 2 log(share of its colour in the thing's),

    σ a quarter of the blob's footprint, so that colour decides where the things touch."""
    ground, middle = blob.points[:, :2], centres[:, :2].copy()
    nearest: Bool[np.ndarray, " n"]
    for _ in range(5):
        nearest = np.argmin(((ground[:, None] - middle) ** 2).sum(axis=2), axis=1)
        for k in range(len(middle)):
            if (nearest == k).any():
                own = ground[nearest == k]
                middle[k] = (own.min(axis=0) + own.max(axis=0)) / 2
    sigma = float(np.linalg.norm(np.ptp(ground, axis=0))) / 4
    shares = histograms[:, colour_bins(blob.colours)].T ** 2
    apart = ((ground[:, None] - middle) ** 2).sum(axis=2) / max(sigma, 1e-6) ** 2
    nearest = np.argmin(apart - 2 * np.log(shares + LEAST_SHARE), axis=1)
    parts = [blob.take(nearest == k) for k in range(len(middle))]
    return [p for p in parts if len(p.points) >= 5]


def merge_fragments(trails: list[Trail]) -> list[Trail]:
    """Join what are pieces of one thing: near each other, and at a constant distance while they
    move (nothing is asked of its direction: things turn). A trail that jumps is taken run by run,
    as it may have gone from a piece of one thing to a piece of another."""
    whole = sorted(((_runs(t), t) for t in trails), key=lambda p: _steadiness(*p), reverse=True)
    kept: list[Trail] = []
    for runs, _ in whole:
        alone = Trail()
        for run in runs:
            strays = [(_stray(run, k), n) for n, k in enumerate(kept)]
            stray, n = min(strays, default=(np.inf, -1))
            host = kept[n] if np.isfinite(stray) else alone
            for instant, blob in run.blobs.items():
                if instant in host.blobs:
                    blob = join([host.blobs[instant], blob])
                host.add(blob, Appearance.of(blob))
        if alone.seen:
            kept.append(alone)
    return kept


def _steadiness(runs: list[Trail], trail: Trail) -> tuple[int, int]:
    """Length of the longest run, and pixels: what founds a thing that others may be pieces of."""
    return max(len(r.seen) for r in runs), sum(a.n_pixels for a in trail.seen.values())


def _runs(trail: Trail) -> list[Trail]:
    """A trail parted where it jumps by more than one and a half of its size."""
    runs = [Trail()]
    order = sorted(trail.seen)
    for before, instant in zip([order[0], *order], order, strict=False):
        step = trail.seen[instant].centre - trail.seen[before].centre
        if np.linalg.norm(step) > 1.5 * trail.size[0] * min(max(1, instant - before), 2):
            runs.append(Trail())
        runs[-1].add(trail.blobs[instant], trail.seen[instant])
    return runs


def _stray(piece: Trail, whole: Trail) -> float:
    """How much (m) the distance between two trails varies while they move; infinite where they
    cannot be pieces of one thing."""
    common = sorted(set(piece.seen) & set(whole.seen))
    if len(common) < max(4, 0.6 * len(piece.seen)):
        return np.inf
    size = float(piece.size[0] + whole.size[0]) / 2
    one, other = ([t.seen[i] for i in common] for t in (piece, whole))
    apart = np.stack([a.centre - b.centre for a, b in zip(one, other, strict=True)])
    reach = np.stack([(a.extent + b.extent) / 2 for a, b in zip(one, other, strict=True)])
    gaps = np.maximum(np.abs(apart) - reach, 0)
    feet = np.array([[t.centre[2] - t.extent[2] / 2 for t in row] for row in (one, other)])
    floats = np.median(np.abs(feet[0] - feet[1])) > 0.3 * float(min(piece.size[1], whole.size[1]))
    near = gaps[:, :2].max(axis=1) < (FLOATING_GAP if floats else FRAGMENT_GAP) * size
    near &= gaps[:, 2] < float(piece.size[1] + whole.size[1])
    path = np.linalg.norm(np.diff([b.centre[:2] for b in other], axis=0), axis=1)
    moving = np.concatenate([[False], path > 0.1 * size])
    if near.mean() < 0.8 or moving.sum() < 2 or path.sum() < 1.5 * size:
        return np.inf
    distance = np.linalg.norm(apart[moving, :2], axis=1)
    stray = float(np.quantile(np.abs(distance - np.median(distance)), 0.8))
    return stray if stray < min(FRAGMENT_STRAY * size, FRAGMENT_STRAY_M) else np.inf
