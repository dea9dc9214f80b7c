"""Where one piece of what stands is found in another, as a whole or as far as both are alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from scipy.fft import next_fast_len
from scipy.spatial import cKDTree

from protoscene.dictionary.correlate import YAWS, Correlator, Imprint, imprint
from protoscene.dictionary.find_again import shares_agreement, verdict
from protoscene.dictionary.portrait import Portrait, look, of_model, unplaced
from protoscene.geometry import Grid, rotation_from_yaw, wrap_angle
from protoscene.register import onto
from protoscene.standing import TRUNCATION, Standing, components

AROUND = 4
"""Voxels of free space around a piece that belong to its portrait."""
PEAKS, LEAST_PEAK = 10, 0.15
"""Places of a pile that are looked at closely for one pattern, and their least agreement."""
COMMON_PEAKS, LEAST_OVERLAP = 40, 0.05
"""The same for what two piles have in common: most places of large overlap are wrong."""
TURNS_DEG = (0.0, -10.0, 10.0)
ON, COLOUR = 2.0, 0.15
"""What is so many voxels from a surface, and of its colour within this (root of the mean square of
channels), is on it."""
POINTS = 1500
"""Points of a pile that take part in its registration."""
SHARED, ITSELF = 0.1, np.deg2rad(15)
"""Two places of one pile share less of their surface than that. Turned by less, and moved by less
than ``AROUND`` cells, a pile is itself."""
LEAST_COMMON = 50
"""Fewer points on another piece are no arrangement."""

Worth = Callable[..., np.ndarray]
"""Of shares of a pattern's surface, as ``shares_agreement``."""


@dataclass(frozen=True, eq=False)
class Piece:
    """A piece of what stands: its ``label``, the ``middle`` (m) of its box, and its portrait
    ``alone``: nothing is known where the surface of others is nearest."""

    label: int
    middle: Float[np.ndarray, "3"]
    alone: Portrait

    @property
    def area(self) -> float:
        return self.alone.patch * len(self.alone.points)

    @classmethod
    def of(cls, found: Standing, labels: Int[np.ndarray, " n"], label: int) -> Piece:
        """The piece of the points with ``label``."""
        points = found.points[labels == label]
        lower, upper = np.quantile(points, [0.005, 0.995], axis=0)
        lower[2] = found.floor
        middle, dims = (lower + upper) / 2, upper - lower
        whole = found.model.grid
        ends = whole.voxel_from_world(np.stack([lower, upper]))[:, ::-1]
        first = np.maximum(np.floor(ends[0]).astype(int) - AROUND, 0)
        last = np.minimum(np.ceil(ends[1]).astype(int) + AROUND + 1, whole.shape)
        window = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
        part = whole.cropped(first, last)
        x, y, z = (float(v) for v in part.lower - middle)
        model = replace(
            found.model, grid=Grid((x, y, z), part.voxel_size, part.shape),
            **{name: getattr(found.model, name)[window]
               for name in ("distance", "votes", "colour", "coloured")},
        )  # fmt: skip
        volume = found.volume_of(np.where(labels == -1, labels.max() + 1, labels))[window]
        far, index = ndimage.distance_transform_edt(volume == 0, return_indices=True)
        others = (volume[tuple(index)] != label + 1) & (far < TRUNCATION)
        alone = replace(model, votes=np.where(others, 0, model.votes),
                        coloured=np.where(others, 0, model.coloured))  # fmt: skip
        return cls(label, middle, of_model(alone, dims, points - middle))


def found_in(pattern: Piece, piles: list[Piece]) -> list[tuple[float, Float[np.ndarray, "4"]]]:
    """Per pile the best (agreement, pose x y z yaw in the pile's frame) of the pattern: registered
    from the best places of its correlation with what is there, over x, y and yaw, and judged by
    :func:`verdict`. (0, zeros) where there is no place at all."""
    results: list[tuple[float, np.ndarray]] = []
    if not piles:
        return results
    turned = _Turned(pattern.alone)
    for pile in piles:
        places = turned.places(pile.alone, LEAST_PEAK, shares_agreement)[:PEAKS]
        tried = [_registered(pattern.alone, pile.alone, place) for place in places]
        results.append(max(tried, key=lambda t: t[0]) if tried else (0.0, np.zeros(4)))
    return results


class _Turned:
    """A pattern turned to all yaws on a lattice of twice its voxels, above the ground."""

    def __init__(self, own: Portrait) -> None:
        self._own, self._cell = own, 2 * own.model.grid.voxel_size
        side = int(np.ceil(np.hypot(own.dims[0], own.dims[1]) / self._cell)) + 3
        nz = int(np.ceil(own.dims[2] / self._cell)) + 2
        start = -side * self._cell / 2
        small = Grid((start, start, own.bottom), self._cell, (nz, side, side))
        box = _box(own, self._cell)
        turns = 2 * np.pi / YAWS * np.arange(YAWS)
        self._imprints: list[Imprint] = [imprint(own.model, small, yaw, box) for yaw in turns]
        self._side = side

    def places(
        self, there: Portrait, least: float, worth: Worth, elsewhere: bool = False
    ) -> list[Float[np.ndarray, "4"]]:
        """Poses x y z yaw, in the frame of what is ``there``, at which the pattern is ``worth``
        more than ``least`` and than at all neighbours in yaw, y and x; best first. With
        ``elsewhere`` not where it stands itself, unturned in the middle."""
        cell, side = self._cell, self._side
        size = there.model.grid.size_m
        ny, nx = (next_fast_len(int(np.ceil(size[a] / cell)) + side) for a in (1, 0))
        x, y, _ = there.model.grid.origin
        nz = self._imprints[0].surface.shape[0]
        fixed = imprint(there.model, Grid((x, y, there.bottom), cell, (nz, ny, nx)))
        correlator = Correlator(fixed)
        worths = np.zeros((YAWS, ny, nx))
        for n, one in enumerate(self._imprints):
            whole = max(float(one.surface.sum()), 1.0)
            worths[n] = worth(*(m / whole for m in correlator.maps(correlator.turned(one))), 0.0)
        peaks = (worths >= ndimage.maximum_filter(worths, 3, mode="wrap")) & (worths > least)
        index = np.argwhere(peaks)[np.argsort(-worths[peaks], kind="stable")]
        corner = index[:, :0:-1].astype(float)
        beyond = corner > [nx - side, ny - side]  # it may reach beyond the edge
        corner -= np.where(beyond, [nx, ny], 0)
        middle = [x, y] + (corner + side / 2) * cell
        level = (self._own.dims[2] - there.dims[2]) / 2
        yaws = 2 * np.pi / YAWS * index[:, 0]
        itself = (np.abs(wrap_angle(yaws)) < ITSELF) & (np.hypot(*middle.T) < AROUND * cell)
        chosen = np.flatnonzero(~(itself & elsewhere))
        return [np.array([*middle[k], level, yaws[k]]) for k in chosen]


def _box(own: Portrait, cell: float) -> Float[np.ndarray, "2 3"]:
    """The part of a pattern's frame that counts: its box and a cell around, without the ground."""
    lower, upper = -own.dims / 2 - cell, own.dims / 2 + cell
    lower[2] = own.bottom + cell
    return np.stack([lower, upper])


def _registered(
    own: Portrait, there: Portrait, place: Float[np.ndarray, "4"]
) -> tuple[float, Float[np.ndarray, "4"]]:
    """(agreement, pose) of a pattern near ``place``, registered to the surface that is there."""
    box = _box(own, own.model.grid.voxel_size)
    tried = []
    for turn in np.deg2rad(TURNS_DEG):
        pose = place + [0, 0, 0, turn]
        for _ in range(2):  # another place, other points in the box
            at = unplaced(there.points, pose)
            inside = ((at >= box[0]) & (at <= box[1])).all(axis=1)
            pose = onto(own.model, there.points[inside], pose, 8, huber=0.03)
        tried.append((verdict(own, there, pose), pose))
    return max(tried, key=lambda t: t[0])


def _overlap(confirmed, through, hidden, colour):  # type: ignore[no-untyped-def]
    """Shares of a pattern's surface that is itself a pile: what is not common may be anything."""
    return confirmed**2 / (confirmed + 0.5 * (through + hidden) + 1e-6)


@dataclass(frozen=True, eq=False)
class Common:
    """What two piles have in common: which of all points (of the first pile), its share of the
    surface of the first and of the second, and ``purity`` = 1 / (1 + 2 h + 2 o): h the points of
    the second pile in the common part's box that lie where the first is free, o those of the first
    pile in it that are not common, both per common point."""

    points: Bool[np.ndarray, " n"]
    shares: tuple[float, float]
    purity: float

    @property
    def worth(self) -> float:
        """Share of the first pile's surface, times purity."""
        return self.purity * self.shares[0]


def in_common(
    found: Standing, labels: Int[np.ndarray, " n"], parts: Int[np.ndarray, " n"],
    first: Piece, second: Piece,
) -> Common | None:  # fmt: skip
    """The largest connected arrangement of ``parts`` of the first piece that stands, moved and
    turned, in the second too, surface on surface in the same colours; None where there is none.
    Of a piece with itself: that stands in it twice, in two places that share nothing."""
    own = np.flatnonzero(labels == first.label)
    theirs = found.points[labels == second.label] - second.middle
    some = theirs[:: max(1, len(theirs) // POINTS)]
    best: Common | None = None
    twice = first.label == second.label
    places = _Turned(first.alone).places(second.alone, LEAST_OVERLAP, _overlap, elsewhere=twice)
    for place in places[:COMMON_PEAKS]:
        pose = place
        for near in (4, 3, 2, 1):
            distance, known, _ = look(first.alone.model, unplaced(some, pose))
            close = some[known & (np.abs(distance) <= near * found.voxel)]
            if len(close) < LEAST_COMMON:
                break
            pose = onto(first.alone.model, close, pose, 6)
        worth = best.worth if best else 0.0
        common = _common_at(found, own, parts, first, second, pose, theirs, worth)
        if common and common.worth > worth:
            best = common
    return best


def _common_at(
    found: Standing, own: Int[np.ndarray, " m"], parts: Int[np.ndarray, " n"], first: Piece,
    second: Piece, pose: Float[np.ndarray, "4"], theirs: Float[np.ndarray, "k 3"], least: float,
) -> Common | None:  # fmt: skip
    """What the first piece, its frame at ``pose`` in the second's, has in common with that; None
    where it cannot be worth more than ``least``."""
    points = found.points[own] - first.middle
    moved = points @ rotation_from_yaw(pose[3]).T + pose[:3]
    distance, known, colour = look(second.alone.model, moved)
    off = np.sqrt(((colour - found.colours[own]) ** 2).mean(axis=1))
    on = known & (np.abs(distance) <= ON * found.voxel) & ~(off > COLOUR)
    chosen = np.zeros(len(found.points), dtype=bool)
    chosen[own] = mostly(parts[own], on)
    if chosen.sum() < max(LEAST_COMMON, least * len(own)):
        return None
    connected = components(found, chosen)
    whole = connected == np.bincount(connected[chosen]).argmax()
    its = whole[own]
    if its.sum() < LEAST_COMMON:
        return None
    if first.label == second.label:
        far = cKDTree(points[its]).query(moved[its])[0]
        if (far <= ON * found.voxel).mean() > SHARED:
            return None
    lower, upper = np.quantile(points[its], [0.01, 0.99], axis=0)

    def boxed(at: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
        return np.asarray(((at >= lower - found.voxel) & (at <= upper + found.voxel)).all(axis=1))

    back = unplaced(theirs, pose)
    distance, known, _ = look(first.alone.model, back[boxed(back)])
    hidden = float((known & (distance > ON * found.voxel)).sum() / its.sum())
    other = float((boxed(points) & ~its).sum() / its.sum())
    shares = (float(its.mean()), float(its.sum() / max(len(theirs), 1)))
    return Common(whole, shares, 1 / (1 + 2 * hidden + 2 * other))


def mostly(parts: Int[np.ndarray, " n"], on: Bool[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Whether more than half of the points of a point's part are ``on``."""
    _, part = np.unique(parts, return_inverse=True)
    return np.asarray((np.bincount(part, on) / np.bincount(part))[part] > 0.5)
