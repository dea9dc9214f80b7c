"""What stands somewhere, never moved and looks like a kind of the dictionary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from protoscene.background import Static, StaticSurface
from protoscene.boxes import iou_bev
from protoscene.crops import Crops
from protoscene.detail import static_pictures
from protoscene.dictionary.correlate import YAWS, Correlator, imprint
from protoscene.dictionary.portrait import (
    NEAR,
    Portrait,
    look,
    placed,
    portrait_at,
    seen_through,
    unplaced,
)
from protoscene.dictionary.share import Kind
from protoscene.dictionary.unseen import Completed, completed
from protoscene.geometry import Grid, rotation_from_yaw, wrap_angle
from protoscene.observe import Progress
from protoscene.recording import Recording
from protoscene.register import Fusion, Model, onto
from protoscene.volume import Evidence

LATTICE = 14
"""Cells of the lattice along the smallest kind's longest side."""
MOST_CELLS = 1_000_000
"""Of the lattice; its cells are larger where it would need more."""
GROUND_CELLS = 2.0
"""So many voxels above where a thing stands nothing counts: the ground confirms any prototype."""
PEAKS, LEAST_PEAK = 24, 0.2
"""Places that are looked at closely per kind, and the least share of agreement on the lattice."""
ENOUGH, COLOUR = 0.3, 0.2
"""Share of the surface that must be confirmed, and the spread of colour distances."""
LEAST, SPREAD = 0.5, 0.08
"""Least agreement of what is kept, whose score is .5, and how fast the score grows from there."""
SEEN = 3
"""Occupied voxels of an instant that show that a thing was seen."""
TURNS_DEG = (0.0, -10.0, 10.0)
"""Turns from which a place is registered: few points in common slide into the next best."""
OVERLAP = 0.1
"""Footprints that share more (IoU) are one place."""
NO_SIDES = np.empty((0, 3))


@dataclass(frozen=True, eq=False)
class Found:
    """A thing of ``kind`` (its number) that stood at ``pose`` x y z yaw all the time; ``agreement``
    with its prototype, in [0, 1]; ``visible``: at which instants it was seen."""

    kind: int
    pose: Float[np.ndarray, "4"]
    agreement: float
    visible: Bool[np.ndarray, " i"]

    @property
    def score(self) -> float:
        """How sure we are, in [0, 1]."""
        return float(1 / (1 + np.exp((LEAST - self.agreement) / SPREAD)))


def find_again(
    recording: Recording,
    evidence: Sequence[Evidence],
    static: Static,
    kinds: Sequence[Kind],
    progress: Progress = lambda stage, done, total: None,
) -> list[Found]:
    """What stands still and is of one of the ``kinds``, best first.

    Every kind, completed where nobody saw it, is correlated with what stays, over x, y and yaw; the
    best places are registered and judged at their refined poses. Of places that overlap,
    of any kinds, the best stays; none may overlap with where a thing was at any instant.
    """
    known = {n: completed(k.portrait) for n, k in enumerate(kinds) if k.portrait is not None}
    if not known:
        return []
    pictures = static_pictures(recording, static)
    floors = [_floor(kinds[n]) for n in known]
    lattice = _lattice(static.surface, [own.portrait for own in known.values()], floors)
    stays = Fusion(pictures, lattice, 4 * lattice.voxel_size)
    model = stays.add(np.zeros((1, 4)), np.ones(1, dtype=bool)).model()
    never = np.zeros(len(evidence), dtype=bool)
    candidates = []
    for done, ((n, own), floor) in enumerate(zip(known.items(), floors, strict=True)):
        for pose in _places(own.portrait, model, floor):
            refined, agreement = _judged(own, pictures, pose)
            candidates.append(Found(n, refined, agreement, never))
        progress("find again", done + 1, len(known))
    kept = _apart([c for c in candidates if c.agreement >= LEAST], kinds)
    return [replace(c, visible=_seen(c, known[c.kind].portrait, evidence)) for c in kept]


def _floor(kind: Kind) -> float:
    """World z (m) on which things of the kind stand."""
    heights = np.concatenate([t.poses[:, 2] for t in kind.things])
    return float(np.median(heights) - kind.dims[2] / 2)


def _lattice(
    surface: StaticSurface, portraits: Sequence[Portrait], floors: Sequence[float]
) -> Grid:
    """From the lowest floor to above the highest thing, around all that stands there."""
    grid, low = surface.grid, min(floors)
    high = max(f + float(p.dims[2]) for f, p in zip(floors, portraits, strict=True))
    z = grid.axes()[2]
    layers = (z > low + grid.voxel_size) & (z < high)
    rows, columns = np.nonzero((surface.distance[layers] <= 0).any(axis=0))
    if len(rows) == 0:
        rows, columns = (np.array([0, n - 1]) for n in grid.shape[1:])
    around = 0.5 * max(float(p.dims[:2].max()) for p in portraits)
    lower = grid.lower[:2] + np.array([columns.min(), rows.min()]) * grid.voxel_size - around
    upper = grid.lower[:2] + np.array([columns.max(), rows.max()]) * grid.voxel_size + around
    lower, upper = np.maximum(lower, grid.lower[:2]), np.minimum(upper, grid.upper[:2])
    extent = np.array([*(upper - lower), high - low])
    cell = max(
        min(float(p.dims.max()) for p in portraits) / LATTICE,
        float((np.prod(extent) / MOST_CELLS) ** (1 / 3)),
    )
    counts = np.ceil(extent / cell).astype(int)
    origin = (float(lower[0]), float(lower[1]), low)
    return Grid(origin, cell, (int(counts[2]) + 2, int(counts[1]), int(counts[0])))


def _counted(own: Portrait, cell: float) -> Float[np.ndarray, "2 3"]:
    """The part of a kind's frame that counts: its box and a cell around, without the ground."""
    lower, upper = -own.dims / 2 - cell, own.dims / 2 + cell
    lower[2] = own.bottom + GROUND_CELLS * cell
    return np.stack([lower, upper])


def _places(own: Portrait, stays: Model, floor: float) -> list[Float[np.ndarray, "4"]]:
    """World poses at which the lattice agrees: local maxima over yaw, y and x."""
    lattice, cell = stays.grid, stays.grid.voxel_size
    level = round((floor - lattice.origin[2]) / cell)
    nz = min(int(np.ceil(own.dims[2] / cell)) + 2, lattice.shape[0] - level)
    layers = lattice.cropped((level, 0, 0), (level + nz, *lattice.shape[1:]))
    correlator = Correlator(imprint(stays, layers))
    side = int(np.ceil(np.hypot(own.dims[0], own.dims[1]) / cell)) + 3
    small = Grid((-side * cell / 2, -side * cell / 2, own.bottom), cell, (nz, side, side))
    agreed = np.zeros((YAWS, *lattice.shape[1:]), dtype=np.float32)
    for n in range(YAWS):
        turned = imprint(own.model, small, 2 * np.pi * n / YAWS, _counted(own, cell))
        whole = max(float(turned.surface.sum()), 1.0)
        confirmed, through, hidden = (m / whole for m in correlator.maps(correlator.turned(turned)))
        agreed[n] = shares_agreement(confirmed, through, hidden, 0.0)
    peaks = (agreed >= ndimage.maximum_filter(agreed, (3, 5, 5), mode="wrap")) & (
        agreed > LEAST_PEAK
    )
    index = np.argwhere(peaks)
    best = index[np.argsort(-agreed[peaks], kind="stable")[:PEAKS]]
    corner = (best[:, 1:] + side) % lattice.shape[1:] - side  # a thing may reach beyond the edge
    middle = lattice.world_from_voxel(
        np.column_stack([corner[:, ::-1] + side / 2, np.zeros(len(best))])
    )
    height = floor + float(own.dims[2]) / 2
    return [
        np.array([x, y, height, 2 * np.pi * n / YAWS])
        for (x, y, _), n in zip(middle, best[:, 0], strict=True)
    ]


def shares_agreement(confirmed, through, hidden, colour):  # type: ignore[no-untyped-def]
    """c / (c + 2 a + 2 b) · min(1, c / ``ENOUGH``) · exp(−(d / ``COLOUR``)²) of shares of a kind's
    surface: c ``confirmed``, a ``through`` in seen free space, b surface ``hidden`` where the kind
    is free; d the ``colour`` distance. Numbers or arrays."""
    share = confirmed / (confirmed + 2 * (through + hidden) + 1e-9)
    return share * np.minimum(1, confirmed / ENOUGH) * np.exp(-((colour / COLOUR) ** 2))


def _judged(
    own: Completed, pictures: Crops, pose: Float[np.ndarray, "4"]
) -> tuple[Float[np.ndarray, "4"], float]:
    """(pose, agreement) of a kind near ``pose``, registered to what stays there: of every turn of
    ``TURNS_DEG``, with and without the sides that nobody saw, what agrees best."""
    voxel = own.portrait.model.grid.voxel_size
    box = _counted(own.portrait, voxel)
    here = portrait_at(pictures, pose, own.portrait.dims, voxel)
    tried = []
    for turn, model in product(np.deg2rad(TURNS_DEG), (own.portrait.model, own.full)):
        step = np.array([0, 0, 0, turn])
        for _ in range(2):  # another place, other points in the box
            points = here.points[_within(unplaced(here.points, step), box)]
            step = onto(model, points, step, 8, huber=0.03)
        tried.append((verdict(own.portrait, here, step, own.sides), step))
    agreement, step = max(tried, key=lambda t: t[0])
    pose = placed(pose, step)
    return np.array([*pose[:3], wrap_angle(pose[3])]), agreement


def _within(points: Float[np.ndarray, "n 3"], box: Float[np.ndarray, "2 3"]) -> np.ndarray:
    return np.asarray(((points >= box[0]) & (points <= box[1])).all(axis=1))


def verdict(
    own: Portrait, here: Portrait, pose: Float[np.ndarray, "4"],
    sides: Float[np.ndarray, "n 3"] = NO_SIDES,
) -> float:  # fmt: skip
    """The agreement of a kind at ``pose`` with what is ``here`` (in whose frame the pose is).
    Surface on ``sides`` that it may have confirms it; that none is there says nothing."""
    voxel = own.model.grid.voxel_size
    box, near = _counted(own, voxel), NEAR * voxel
    theirs, below = unplaced(here.points, pose), unplaced(here.inside, pose)
    boxed = _within(theirs, box)
    mine = _within(own.points, box)
    turn = rotation_from_yaw(pose[3]).T
    points, inside = own.points[mine] @ turn + pose[:3], own.inside[mine] @ turn + pose[:3]
    distance, known, colour = look(here.model, points)
    matched = known & (np.abs(distance) <= near)
    through = seen_through(here.model, inside, near) & ~matched
    off = np.sqrt(((colour - own.colours[mine])[matched] ** 2).mean(axis=1))
    off = off[~np.isnan(off)]
    before, seen, _ = look(own.model, theirs[boxed])
    # Right before a surface that its views grazed a kind is "free" with no distance: asked below.
    free = seen_through(own.model, below[boxed], near) & ~(seen & (np.abs(before) <= near))
    maybe = sides[_within(sides, box)] @ turn + pose[:3]
    distance, known, _ = look(here.model, maybe)
    confirmed = matched.sum() + (known & (np.abs(distance) <= near)).sum()
    whole = max(int(mine.sum()), 1)
    hidden = free.sum() * here.patch / own.patch
    return float(shares_agreement(
        confirmed / whole, through.sum() / whole, hidden / whole,
        off.mean() if len(off) else 1.0,
    ))  # fmt: skip


def _seen(one: Found, own: Portrait, evidence: Sequence[Evidence]) -> Bool[np.ndarray, " i"]:
    """At which instants there was occupied evidence where the thing's surface is (``SEEN`` voxels
    or more, the ground's left out)."""
    grid = evidence[0].grid
    points = own.points[_within(own.points, _counted(own, grid.voxel_size / 2))]
    world = points @ rotation_from_yaw(one.pose[3]).T + one.pose[:3]
    index = np.unique(np.floor(grid.voxel_from_world(world)).astype(int)[:, ::-1], axis=0)
    index = index[((index >= 0) & (index < grid.shape)).all(axis=1)]
    return np.array([e.occupied[tuple(index.T)].sum() >= SEEN for e in evidence])


def _apart(candidates: list[Found], kinds: Sequence[Kind]) -> list[Found]:
    """The best of what overlaps, without what stands where a thing was at any instant."""

    def boxes(poses: np.ndarray, dims: np.ndarray) -> np.ndarray:
        return np.column_stack([poses[:, :3], np.tile(dims, (len(poses), 1)), poses[:, 3]])

    taken = [boxes(t.poses, k.dims) for k in kinds for t in k.things]
    kept = []
    for one in sorted(candidates, key=lambda c: (-c.agreement, c.kind)):
        box = boxes(one.pose[None], kinds[one.kind].dims)
        if iou_bev(box, np.concatenate(taken)).max() <= OVERLAP:
            kept.append(one)
            taken.append(box)
    return kept
