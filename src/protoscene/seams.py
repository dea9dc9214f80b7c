"""Where one thing ends and another begins on a surface: at seams, where it is concave or its colour
changes. What goes on without one is of one thing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from protoscene.standing import Standing

REACH = 3.0
"""Points within so many voxels are beside each other."""
CONCAVE, COLOUR = 0.4, 0.1
"""There is a seam between two points if their normals lean towards each other by this (the
difference of the normals along the way from one to the other), or if their colours differ by this
(root of the mean square of channels)."""
SEAM, CONTACT = 0.25, 40
"""Two parts of a surface are parted if there is a seam between this share of the pairs of points
that lie beside each other; they go on into each other if there are that many pairs and it is less.
"""
AT_ONCE = 1 << 20
"""Pairs that are judged at once: there are about 30 for each point."""


@dataclass(frozen=True, eq=False)
class Seams:
    """All ``pairs`` of points beside each other, and between which of them there is a ``seam``."""

    pairs: Int[np.ndarray, "m 2"]
    seam: Bool[np.ndarray, " m"]

    @classmethod
    def of(cls, found: Standing) -> Seams:
        """The seams of what stands."""
        pairs = cKDTree(found.points).query_pairs(REACH * found.voxel, output_type="ndarray")
        normal = found.normals()
        seam = np.empty(len(pairs), dtype=bool)
        for k in range(0, len(pairs), AT_ONCE):
            first, second = pairs[k : k + AT_ONCE].T
            way = found.points[second] - found.points[first]
            way /= np.linalg.norm(way, axis=1, keepdims=True) + 1e-9
            concave = ((normal[first] - normal[second]) * way).sum(axis=1) > CONCAVE
            off = np.sqrt(((found.colours[first] - found.colours[second]) ** 2).mean(axis=1))
            seam[k : k + AT_ONCE] = concave | (off > COLOUR)
        return cls(pairs, seam)

    def parted(self, one: Bool[np.ndarray, " n"], other: Bool[np.ndarray, " n"]) -> bool:
        """Whether two sets of points meet at a seam, or nowhere."""
        first, second = self.pairs.T
        between = self.seam[(one[first] & other[second]) | (other[first] & one[second])]
        return len(between) == 0 or float(between.mean()) >= SEAM

    def joined(self, labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """``labels`` numbered anew, those that go on into each other as one; −1 stays."""
        if labels.max(initial=-1) < 0:
            return labels
        first, second = np.sort(labels[self.pairs], axis=1).T
        met, n = (first >= 0) & (first < second), int(labels.max()) + 1
        meetings, which = np.unique(first[met] * n + second[met], return_inverse=True)
        pairs, seams = np.bincount(which), np.bincount(which, self.seam[met])
        links = np.divmod(meetings[(pairs >= CONTACT) & (seams < SEAM * pairs)], n)
        graph = coo_matrix((np.ones(len(links[0]), bool), links), shape=(n, n))
        number = connected_components(graph, directed=False)[1]
        return np.where(labels >= 0, number[labels], -1)
