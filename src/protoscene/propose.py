"""What the background cannot explain, as blobs: sets of points that hang together in space."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from protoscene.background import SURE
from protoscene.recording import View

COLOUR_BINS = 6
"""Histogram bins per colour channel."""
MIN_PIXELS = 20
"""A blob of fewer pixels is noise."""
MIN_SURE = 0.25
"""A blob of which a smaller share is surely new is an edge of something that stays."""
STEP_M, STEP = 0.02, 0.01
"""Neighbouring pixels are one piece if their depths differ by less than this (m), and this share of
the depth."""


@dataclass(frozen=True, eq=False)
class Blob:
    """Pixels of one instant that hang together: ``pixels`` (n, 3) are view, row, column;
    ``points`` (n, 3) world metres; ``colours`` (n, 3) 0..255."""

    instant: int
    pixels: Int[np.ndarray, "n 3"]
    points: Float[np.ndarray, "n 3"]
    colours: UInt8[np.ndarray, "n 3"]

    @property
    def bounds(self) -> Float[np.ndarray, "2 3"]:
        """Robust lower and upper corner (m): the 2 and 98 % quantiles."""
        return np.quantile(self.points, [0.02, 0.98], axis=0)

    def take(self, chosen: Bool[np.ndarray, " n"]) -> Blob:
        """The part of the blob that ``chosen`` marks."""
        return Blob(self.instant, self.pixels[chosen], self.points[chosen], self.colours[chosen])


def join(blobs: list[Blob]) -> Blob:
    """One blob of all the pixels of several of one instant."""
    return Blob(
        blobs[0].instant,
        np.concatenate([b.pixels for b in blobs]),
        np.concatenate([b.points for b in blobs]),
        np.concatenate([b.colours for b in blobs]),
    )


def propose(
    instant: int,
    views: list[View],
    masks: list[UInt8[np.ndarray, "h w"]],
    cell: float,
    bounds: Float[np.ndarray, "2 3"],
) -> list[Blob]:
    """Blobs of one instant: new pixels (``masks`` of ``subtract``) inside ``bounds`` (m) that are
    neighbours in a picture at nearly one depth, or whose points lie in neighbouring cells of
    ``cell`` metres. A blob without enough sure pixels is an edge of something that stays."""
    parts = []
    for v, (view, mask) in enumerate(zip(views, masks, strict=True)):
        rows, columns = np.nonzero(mask)
        points = view.camera.centre + view.camera.directions()[rows, columns] * (
            view.depth[rows, columns, None].astype(np.float64)
        )
        inside = ((points >= bounds[0]) & (points < bounds[1])).all(axis=1)
        segments = _segments(mask > 0, view.depth)[rows, columns]
        pixels = np.stack([np.full(len(rows), v), rows, columns], axis=1).astype(np.int32)
        parts.append((pixels[inside], points[inside], view.colour[rows, columns][inside],
                      segments[inside], mask[rows, columns][inside] == SURE))  # fmt: skip
    offset, segments = 0, []
    for part in parts:
        segments.append(part[3] + offset)
        offset += int(part[3].max()) + 1 if len(part[3]) else 0
    whole = Blob(
        instant,
        np.concatenate([p[0] for p in parts]),
        np.concatenate([p[1] for p in parts]),
        np.concatenate([p[2] for p in parts]),
    )
    if len(whole.points) == 0:
        return []
    labels = _components(whole.points, np.concatenate(segments), cell)
    sizes = np.bincount(labels)
    sure = np.bincount(labels, weights=np.concatenate([p[4] for p in parts]))
    good = np.nonzero((sizes >= MIN_PIXELS) & (sure >= MIN_SURE * sizes))[0]
    return [whole.take(labels == k) for k in good]


@numba.njit(cache=True)
def _root(parent, i):  # type: ignore[no-untyped-def]
    """The pixel that stands for i's set (union–find), halving the way there for the next time."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@numba.njit(cache=True)
def _segments(mask, depth):  # type: ignore[no-untyped-def]
    """Connected pixels (4-neighbours, by ``STEP_M`` and ``STEP``) share a number."""
    height, width = mask.shape
    parent = np.arange(height * width)
    for row in range(height):
        for column in range(width):
            if not mask[row, column]:
                continue
            here = depth[row, column]
            limit = STEP_M + STEP * here
            if column > 0 and mask[row, column - 1] and abs(depth[row, column - 1] - here) < limit:
                a, b = _root(parent, row * width + column), _root(parent, row * width + column - 1)
                parent[max(a, b)] = min(a, b)
            if row > 0 and mask[row - 1, column] and abs(depth[row - 1, column] - here) < limit:
                a, b = (
                    _root(parent, row * width + column),
                    _root(parent, (row - 1) * width + column),
                )
                parent[max(a, b)] = min(a, b)
    out = np.zeros((height, width), dtype=np.int64)
    for row in range(height):
        for column in range(width):
            out[row, column] = _root(parent, row * width + column)
    return out


def _components(
    points: Float[np.ndarray, "n 3"], segments: Int[np.ndarray, " n"], cell: float
) -> Int[np.ndarray, " n"]:
    """Connected components of cells (26-neighbours) and picture segments: a label per point."""
    keys = np.floor(points / cell).astype(np.int64)
    keys -= keys.min(axis=0) - 1
    extent = keys.max(axis=0) + 2
    flat = (keys[:, 2] * extent[1] + keys[:, 1]) * extent[0] + keys[:, 0]
    cells, cell_of = np.unique(flat, return_inverse=True)
    names, segment_of = np.unique(segments, return_inverse=True)
    rows, columns = [cell_of], [len(cells) + segment_of]
    for step in range(1, 14):  # the half of the 26 neighbours that comes later in order
        dz, dy, dx = (step + 13) // 9 - 1, (step + 13) // 3 % 3 - 1, (step + 13) % 3 - 1
        beside = cells + (dz * extent[1] + dy) * extent[0] + dx
        place = np.searchsorted(cells, beside).clip(0, len(cells) - 1)
        hit = cells[place] == beside
        rows.append(np.nonzero(hit)[0])
        columns.append(place[hit])
    row, column = np.concatenate(rows), np.concatenate(columns)
    total = len(cells) + len(names)
    links = coo_matrix((np.ones(len(row), dtype=bool), (row, column)), shape=(total, total))
    labels = connected_components(links, directed=False)[1][cell_of]
    return np.unique(labels, return_inverse=True)[1]


def colour_bins(colours: UInt8[np.ndarray, "n 3"]) -> Int[np.ndarray, " n"]:
    """The bin of :func:`colour_histogram` that is nearest to each colour."""
    r, g, b = np.rint(colours / 255.0 * (COLOUR_BINS - 1)).astype(np.int64).T
    return (r * COLOUR_BINS + g) * COLOUR_BINS + b


def colour_histogram(colours: UInt8[np.ndarray, "n 3"]) -> Float[np.ndarray, " bins"]:
    """Square roots of a soft RGB histogram's shares: two of them multiply and sum to the
    Bhattacharyya coefficient, 1 for equal colours, 0 for none in common."""
    place = colours.astype(np.float64) / 255 * (COLOUR_BINS - 1)
    low = np.minimum(np.floor(place).astype(int), COLOUR_BINS - 2)
    share = place - low
    histogram = np.zeros((COLOUR_BINS,) * 3)
    for corner in range(8):
        bits = np.array([corner >> 2 & 1, corner >> 1 & 1, corner & 1])
        weight = np.where(bits == 1, share, 1 - share).prod(axis=1)
        r, g, b = (low + bits).T
        np.add.at(histogram, (r, g, b), weight)
    return np.sqrt(histogram.ravel() / max(len(colours), 1))
