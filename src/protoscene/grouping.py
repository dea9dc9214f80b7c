"""Which parts of what stands make up a thing: those that hang together, unless the same arrangement
of parts is found elsewhere."""

from __future__ import annotations

import itertools

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from protoscene.arrangement import ON, Piece, found_in, in_common, mostly
from protoscene.dictionary.portrait import look, unplaced
from protoscene.observe import Progress
from protoscene.seams import Seams
from protoscene.standing import Standing, components

PART = 4.0
"""Side of a part, in voxels."""
COLOUR, NORMAL = 1.5, 1.0
"""What a difference in colour and in the normal counts, in sides of a part."""
CRUMB, BESIDE = 0.1, 6.0
"""So does what has less than that share of its points, and lies within so many voxels of it."""
REACH, DENSE = 1.5, 6
"""What hangs together has so many points within so many voxels."""
LEAST_POINTS = 40
"""Less surface is no thing."""
WITHIN, SMALL = 0.8, 0.5
"""A piece of which this share lies within the box of a larger one, and which has less than that
share of its points, belongs to it."""
SMALLER, LEAST_SHARE = 0.85, 0.15
"""A pattern has at most, and at least, this share of the surface of the pile in which it is; no
less is taken out of it, or left."""
AGREED = 0.5
"""Least agreement of a pattern with the pile that it is found in."""
LARGE = 0.25
"""What has less than this share of the median piece's surface is found everywhere."""
PURE, MOST_COMMON = 0.5, 0.7
"""Least purity of what two piles have in common, and its largest share of either's surface."""
MOST_PIECES = 64
"""Times that something is taken out."""


def grouped(
    found: Standing, progress: Progress = lambda stage, done, total: None
) -> Int[np.ndarray, " n"]:
    """The thing of each point of what stands, numbered from 0; −1 for crumbs.

    The surface is covered by small parts (:func:`parts_of`). What hangs together, or goes on into
    each other without a :mod:`seam <protoscene.seams>`, is a piece.
    A piece that is found in a larger one, agreeing in surface, free space and colour, is taken out
    of it part by part, if seams part it from the rest; where none is, what two large pieces have in
    common, or one has twice, is a piece of its own; until neither is found any more.
    """
    parts, seams = parts_of(found), Seams.of(found)
    labels = whole_pieces(found, seams.joined(hanging_together(found)))
    tried: set[tuple[int, int]] = set()
    compared: set[tuple[int, int]] = set()
    known: dict[int, Piece] = {}
    for n in range(MOST_PIECES):
        left = np.unique(labels[labels >= 0]).tolist()
        known = {k: known.get(k) or Piece.of(found, labels, k) for k in left}
        pieces = list(known.values())
        progress("group", n, MOST_PIECES)
        least = LARGE * float(np.median([p.area for p in pieces])) if pieces else 0.0
        split = _best_pattern(found, labels, parts, seams, pieces, least, tried)
        if split is None:
            split = _best_common(found, labels, parts, seams, pieces, least, compared)
        if split is None:
            break
        labels = split
    progress("group", MOST_PIECES, MOST_PIECES)
    labels = _with_crumbs(found, labels)
    return np.asarray(np.unique(np.append(labels, -1), return_inverse=True)[1][:-1] - 1)


def hanging_together(found: Standing) -> Int[np.ndarray, " n"]:
    """A number for each point, the same for all that hang together by dense surface, so that a
    bridge of a few points does not count: cores have ``DENSE`` points within ``REACH`` voxels
    (DBSCAN); cores within that of each other, and what is within it of a core, are one. Else −1."""
    labels = np.full(len(found.points), -1)
    reach = REACH * found.voxel
    pairs = cKDTree(found.points).query_pairs(reach, output_type="ndarray")
    cores = 1 + np.bincount(pairs.ravel(), minlength=len(labels)) >= DENSE
    if not cores.any():
        return labels
    links = pairs[cores[pairs].all(axis=1)]
    graph = coo_matrix((np.ones(len(links), bool), links.T), shape=(len(labels),) * 2)
    piece = connected_components(graph, directed=False)[1]
    far, nearest = cKDTree(found.points[cores]).query(found.points)
    near = far <= reach
    labels[near] = np.unique(piece[cores][nearest[near]], return_inverse=True)[1]
    return labels


def _with_crumbs(found: Standing, labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """``labels`` in which crumbs beside a piece (``BESIDE``) are its."""
    whole, result = labels >= 0, labels.copy()
    if whole.any():
        far, nearest = cKDTree(found.points[whole]).query(found.points[~whole])
        theirs = labels[whole][nearest]
        result[~whole] = np.where(far <= BESIDE / 2 * found.voxel, theirs, -1)
    return result


def parts_of(found: Standing) -> Int[np.ndarray, " n"]:
    """The part of each point: small windows of surface with one colour and one normal. Each point
    goes to the nearest of means that start evenly in space and move three times, in position over
    the side of a part, ``COLOUR`` · colour and ``NORMAL`` · normal."""
    if len(found.points) == 0:
        return np.zeros(0, int)
    side = PART * found.voxel
    gradient = np.stack(np.gradient(found.model.distance), axis=-1)[tuple(found.cell.T)]
    normal = gradient / (np.linalg.norm(gradient, axis=1, keepdims=True) + 1e-9)
    colours = np.nan_to_num(found.colours, nan=0.5)
    own = np.concatenate([found.points / side, COLOUR * colours, NORMAL * normal], axis=1)
    cells = np.floor(found.points / side).astype(int)
    start = np.unique(cells, axis=0, return_inverse=True)[1].ravel()
    for _ in range(3):
        count = np.bincount(start)
        means = np.stack([np.bincount(start, column) / np.maximum(count, 1) for column in own.T], 1)
        start = np.unique(cKDTree(means[count > 0]).query(own)[1], return_inverse=True)[1].ravel()
    return np.asarray(start)


def whole_pieces(
    found: Standing, labels: Int[np.ndarray, " n"], whole: int = -1
) -> Int[np.ndarray, " n"]:
    """``labels`` with small pieces joined to the larger one in whose box they mostly lie, or beside
    which they are crumbs, as legs below a seat that nobody saw from below; what is smaller than
    anything gets −1. The one labelled ``whole`` stays."""
    labels, slack = labels.copy(), 2 * found.voxel
    sizes = np.bincount(labels[labels >= 0]) if (labels >= 0).any() else np.zeros(0, int)
    order = np.argsort(-sizes, kind="stable")
    larger: dict[int, tuple[np.ndarray, cKDTree]] = {}
    for k in order[sizes[order] > 0].tolist():
        own = found.points[labels == k]
        for other, ((lower, upper), tree) in larger.items():
            if k == whole or sizes[k] > SMALL * sizes[other]:
                continue
            inside = ((own >= lower) & (own <= upper)).all(axis=1).mean() >= WITHIN
            crumb = sizes[k] <= CRUMB * sizes[other]
            if inside or (crumb and np.median(tree.query(own)[0]) <= BESIDE * found.voxel):
                labels[labels == k] = other
                break
        else:
            if sizes[k] < LEAST_POINTS:
                labels[labels == k] = -1
                continue
            lower, upper = np.quantile(own, [0.01, 0.99], axis=0)
            lower[2] = found.floor
            larger[k] = (np.stack([lower - slack, upper + slack]), cKDTree(own))
    return labels


def _best_pattern(
    found: Standing, labels: Int[np.ndarray, " n"], parts: Int[np.ndarray, " n"], seams: Seams,
    pieces: list[Piece], least: float, tried: set[tuple[int, int]],
) -> Int[np.ndarray, " n"] | None:  # fmt: skip
    """The labels after a piece, of ``least`` m² or more, that was found in a larger one is taken
    out of it, of all such the one that explains most. Pairs of labels without a find are ``tried``
    and not looked at again."""
    best: tuple[float, np.ndarray] | None = None
    for pattern in pieces:
        piles = [
            p for p in pieces if pattern.area >= least
            and LEAST_SHARE * p.area <= pattern.area <= SMALLER * p.area
            and (pattern.label, p.label) not in tried
        ]  # fmt: skip
        for pile, (agreement, pose) in zip(piles, found_in(pattern, piles), strict=True):
            split = None
            if agreement >= AGREED:
                its = _on_pattern(found, labels, parts, pattern, pile, pose)
                split = _taken_out(found, labels, seams, pile, its)
            if split is None:
                tried.add((pattern.label, pile.label))
            elif best is None or agreement * its.sum() > best[0]:
                best = (agreement * float(its.sum()), split)
    return None if best is None else best[1]


def _best_common(
    found: Standing, labels: Int[np.ndarray, " n"], parts: Int[np.ndarray, " n"], seams: Seams,
    pieces: list[Piece], least: float, compared: set[tuple[int, int]],
) -> Int[np.ndarray, " n"] | None:  # fmt: skip
    """The labels after the largest arrangement, of ``least`` m² or more, that is a proper part of
    two pieces, or stands twice in one, is taken out of the first of them."""
    large = [p for p in pieces if MOST_COMMON * p.area >= least]
    best: tuple[float, np.ndarray] | None = None
    for first, second in itertools.product(large, repeat=2):
        pair = (first.label, second.label)
        if pair in compared:
            continue
        common, split = in_common(found, labels, parts, first, second), None
        if (
            common is not None
            and common.purity >= PURE
            and max(common.shares) <= MOST_COMMON
            and common.shares[0] * first.area >= least
        ):
            split = _taken_out(found, labels, seams, first, common.points)
        if common is None or split is None:
            compared.add(pair)
        elif best is None or common.purity * common.points.sum() > best[0]:
            best = (common.purity * float(common.points.sum()), split)
    return None if best is None else best[1]


def _on_pattern(
    found: Standing, labels: Int[np.ndarray, " n"], parts: Int[np.ndarray, " n"], pattern: Piece,
    pile: Piece, pose: Float[np.ndarray, "4"],
) -> Bool[np.ndarray, " n"]:  # fmt: skip
    """The points of those parts of the ``pile`` that lie mostly on the ``pattern`` at ``pose``."""
    own = np.flatnonzero(labels == pile.label)
    at = unplaced(found.points[own] - pile.middle, pose)
    distance, known, _ = look(pattern.alone.model, at)
    its = np.zeros(len(labels), dtype=bool)
    its[own] = mostly(parts[own], known & (np.abs(distance) <= ON * found.voxel))
    return its


def _taken_out(
    found: Standing, labels: Int[np.ndarray, " n"], seams: Seams, pile: Piece,
    its: Bool[np.ndarray, " n"],
) -> Int[np.ndarray, " n"] | None:  # fmt: skip
    """``labels`` with the points ``its`` of the ``pile`` as a piece of their own; what is left of
    that is pieces anew. None where too little of it is taken out, or left, or where the cut follows
    no seam: the half of a post is found in a higher one."""
    own = labels == pile.label
    if not LEAST_SHARE <= its.sum() / own.sum() <= 1 - LEAST_SHARE:
        return None
    if not seams.parted(its, own & ~its):
        return None
    only = components(found, own & ~its)
    taken = int(only.max()) + 1
    only[its] = taken
    whole = whole_pieces(found, only, taken)
    if len(np.unique(whole[whole >= 0])) < 2:
        return None
    return np.where(own, np.where(whole >= 0, whole + labels.max() + 1, -1), labels)
