"""Find again: where a prototype of something that moved stands still."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage
from scipy.spatial import cKDTree

from protoscene.geometry import rotation_from_yaw
from protoscene.lidar.fuse import into_own
from protoscene.lidar.ground import Ground
from protoscene.lidar.kinds import Kind
from protoscene.lidar.rays import Rays, seen_through
from protoscene.register import onto

CELL_M = 0.2
YAWS = 36
LEAST_FOOTPRINT_M2 = 2.0
"""What covers less ground fits posts and bushes."""
PEAKS = 400
"""Poses that are looked at closely, for each kind at most."""
LEAST_HIT = 0.12
"""Share of the prototype's outline that something stands on at such a place."""
CLOSE_M = 0.25
"""What is this near to the other is explained by it."""
AROUND_M = 0.8
"""Nothing else stands this near (m) to what is parked: a door opens that far. Walls go on."""
LEAST_THROUGH = 2
WANTED = 0.35
"""A larger share of the surface confirmed is no better: far sides are never seen."""
KEEP_SCORE = 0.45
LEAST_APART = 0.7
"""Two things are no nearer than this share of their widths."""


@dataclass(frozen=True, eq=False)
class Parked:
    """A prototype that stands still: ``pose`` x y z yaw of its box's middle, score in [0, 1]."""

    kind: int
    pose: Float[np.ndarray, "4"]
    score: float


def find_parked(
    kinds: list[Kind], still: Float[np.ndarray, "n 3"], rays: list[Rays], ground: Ground
) -> list[Parked]:
    """Where the kinds stand among ``still``, the points above the ground that do not move.

    Peaks of the outline's correlation with what stands, over 36 yaws; each refined by Gauss–Newton
    on the prototype's signed distance; then rescored: c / (c + a + 2 b) · min(1, c / 0.35), c the
    share of the prototype's surface that points confirm, a the share that was seen through, b the
    share of the points in and around its box that it does not explain. Best first, no two at one
    place. Kinds that cover less than 2 m² are not looked for.
    """
    tree = cKDTree(still)
    found = []
    for k, kind in enumerate(kinds):
        if kind.dims[0] * kind.dims[1] < LEAST_FOOTPRINT_M2:
            continue
        for pose in _peaks(kind, still, ground):
            refined = _refined(kind, pose, still, tree, ground)
            found.append(Parked(k, refined, _score(kind, refined, still, tree, rays)))
    kept: list[Parked] = []
    for one in sorted(found, key=lambda p: -p.score):
        if one.score < KEEP_SCORE:
            break
        width = kinds[one.kind].dims[1]
        near = [np.hypot(*(one.pose - p.pose)[:2]) < LEAST_APART * (width + kinds[p.kind].dims[1])
                for p in kept]  # fmt: skip
        if not any(near):
            kept.append(one)
    return kept


def _peaks(
    kind: Kind, still: Float[np.ndarray, "n 3"], ground: Ground
) -> list[Float[np.ndarray, "4"]]:
    """Poses at which most of the outline, seen from above, stands on something."""
    corner = still[:, :2].min(axis=0) - 5
    column, row = ((still[:, :2] - corner) / CELL_M).astype(int).T
    above = still[:, 2] - ground.under(still)
    low = above < kind.dims[2] + CLOSE_M
    shape = tuple((np.array([row.max(), column.max()]) + 1 + round(5 / CELL_M)).tolist())
    stands = np.zeros(shape)
    stands[row[low], column[low]] = 1
    spectrum = np.fft.rfft2(stands)
    outline = np.unique(np.round(kind.surface_points()[:, :2] / 0.1).astype(int), axis=0) * 0.1
    peaks = []
    for yaw in np.arange(YAWS) * (2 * np.pi / YAWS):
        turned = outline @ rotation_from_yaw(yaw)[:2, :2].T
        cells = np.unique(np.round(turned / CELL_M).astype(int), axis=0)
        kernel = np.zeros(shape)
        kernel[cells[:, 1] % shape[0], cells[:, 0] % shape[1]] = 1 / len(cells)
        hit = np.fft.irfft2(spectrum * np.conj(np.fft.rfft2(kernel)), s=shape)
        i, j = np.nonzero((hit == ndimage.maximum_filter(hit, size=7)) & (hit > LEAST_HIT))
        xy = corner + (np.stack([j, i], axis=1) + 0.5) * CELL_M
        peaks.append(np.column_stack([xy, np.zeros(len(xy)), np.full(len(xy), yaw), hit[i, j]]))
    rows = np.concatenate(peaks)
    poses = rows[np.argsort(-rows[:, 4], kind="stable")[:PEAKS], :4]
    poses[:, 2] = ground.under(poses) + kind.dims[2] / 2
    return list(poses)


def _refined(
    kind: Kind, pose: Float[np.ndarray, "4"], still: Float[np.ndarray, "n 3"], tree: cKDTree,
    ground: Ground,
) -> Float[np.ndarray, "4"]:  # fmt: skip
    near = still[_near(kind, pose, still, tree)]
    refined = onto(kind.model, near, pose, 8, CLOSE_M / 2)
    refined[2] = ground.under(refined[None])[0] + kind.dims[2] / 2
    return refined


def _near(
    kind: Kind, pose: Float[np.ndarray, "4"], still: Float[np.ndarray, "n 3"], tree: cKDTree
) -> Int[np.ndarray, " k"]:
    """Indices of the points in and around the box at ``pose``."""
    ball = np.array(tree.query_ball_point(pose[:3], np.linalg.norm(kind.dims) / 2 + AROUND_M), int)
    own = np.abs(into_own(still[ball], pose))
    return ball[(own < kind.dims / 2 + AROUND_M).all(axis=1)]


def _score(
    kind: Kind, pose: Float[np.ndarray, "4"], still: Float[np.ndarray, "n 3"], tree: cKDTree,
    rays: list[Rays],
) -> float:  # fmt: skip
    surface = kind.surface_points()[:: max(1, int(kind.surface.sum()) // 500)]
    placed = surface @ rotation_from_yaw(pose[3]).T + pose[:3]
    confirmed = tree.query(placed, distance_upper_bound=CLOSE_M)[0] < CLOSE_M
    c = float(confirmed.mean())
    if c < LEAST_HIT:
        return 0.0
    through, met = seen_through(placed, rays)
    a = float((~confirmed & (through >= LEAST_THROUGH) & (through > met)).mean())
    around = _near(kind, pose, still, tree)
    off = cKDTree(surface).query(into_own(still[around], pose), distance_upper_bound=CLOSE_M)[0]
    b = float((off >= CLOSE_M).mean()) if len(around) else 1.0
    return c / (c + a + 2 * b) * min(1.0, c / WANTED)
