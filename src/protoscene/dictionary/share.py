"""Things that are alike → kinds: one prototype each, in a frame that all its members share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.fft import next_fast_len
from scipy.spatial.distance import squareform
from torch import Tensor

from protoscene.crops import Crops, joined
from protoscene.dictionary.correlate import YAWS, Correlator, imprint
from protoscene.dictionary.portrait import (
    Agreement,
    Portrait,
    agreement,
    facing,
    inverse,
    placed,
    portrait,
    unplaced,
)
from protoscene.dictionary.unseen import completed
from protoscene.geometry import Grid, rotation_from_yaw
from protoscene.observe import Progress
from protoscene.register import descend, misfit, onto, search, total_misfit
from protoscene.shape import finish
from protoscene.start import Thing, fitting

ALIKE = 0.42
"""Things of a kind are at least so similar, on average over pairs of those joined."""
ENOUGH, COLOUR = 0.35, 0.25
"""Share of the smaller surface that must be common, and the spread of colour distances."""
LATTICE = 14
"""Cells of the lattice along the smallest thing's longest side."""
MOST_CELLS = 96
CANDIDATES = 6
"""Turns of a pair that are refined."""
ROUNDS = 2
"""Times that members move onto the others, and that all instants descend on what is fused anew."""
QUARTER = 0.03
"""A pose turned by quarters must fit better by this misfit."""
SPOILT = 0.038
"""A thing whose pictures make those of its kind fit worse by this misfit is not fused with them."""
CONTRADICTED = 0.1
"""Nor is one of which, or of the others before which, this share of what was seen from both lies in
space that the other saw free."""
TURNS = 4
"""Times that the two sides of a pair are put on each other, with normals compared anew."""


@dataclass(frozen=True, eq=False)
class Kind:
    """A dictionary entry: box and prototype, and the things that are of it, their poses given in
    its frame; ``members`` are their numbers among all, that of the best tracked first.
    ``portrait`` is what find_again looks for, ``confidence`` (z, y, x) how surely each voxel was
    seen; None where there were no pictures."""

    dims: Float[np.ndarray, "3"]
    rgba: Tensor
    voxel_size: float
    members: tuple[int, ...]
    things: tuple[Thing, ...]
    portrait: Portrait | None = None
    confidence: Tensor | None = None


def share(
    things: Sequence[Thing], progress: Progress = lambda stage, done, total: None
) -> list[Kind]:
    """The kinds of things, in the order of their first things.

    Every pair is aligned by its shape and compared by shape and colour (:func:`similarity`), so
    that one shape in two colours is two kinds. Kinds are the clusters of average linkage at
    ``ALIKE``: their number is found. A kind's volume is fused from the pictures of its members, but
    for those that contradict the better tracked ones; a thing that is alone stays as it is.
    """
    portraits = [_portrait(thing) for thing in things]
    values, poses = compared(portraits, progress)
    kinds = []
    for members in clusters(values):
        members.sort(key=lambda k: float(np.median(things[k].misfits)))
        frames = frames_from(members[0], members, values, poses)
        own = [things[k] for k in members]
        kind = _fused(own, members, [frames[k] for k in members]) if len(members) > 1 else None
        if kind is not None:
            kinds.append(kind)
        else:
            kinds += [alone(k, things[k], portraits[k]) for k in members]
    return sorted(kinds, key=lambda kind: min(kind.members))


def alone(k: int, thing: Thing, portrait: Portrait | None = None) -> Kind:
    """Thing ``k`` as a kind of its own."""
    return Kind(
        thing.dims, thing.rgba, thing.voxel_size, (k,), (thing,), portrait, thing.confidence
    )


def clusters(values: Float[np.ndarray, "n n"]) -> list[list[int]]:
    """Indices of what belongs together: average linkage of similarities ``values`` down to
    ``ALIKE``."""
    if len(values) < 2:
        return [[k] for k in range(len(values))]
    apart = squareform(1 - values, checks=False)
    labels = fcluster(linkage(apart, "average"), 1 - ALIKE, "distance")
    return [np.nonzero(labels == label)[0].tolist() for label in np.unique(labels)]


def similarity(found: Agreement) -> float:
    """common / (common + 2 · in the other's free space), the less of both surfaces', · min(1,
    common share of the smaller surface / ``ENOUGH``) · exp(−(colour distance / ``COLOUR``)²)."""
    if min(found.on) <= 0:
        return 0.0
    share = min(on / (on + 2 * free) for on, free in zip(found.on, found.free, strict=True))
    enough = min(1.0, sum(found.on) / (2 * found.smaller) / ENOUGH)
    return float(share * enough * np.exp(-((found.colour / COLOUR) ** 2)))


def compared(
    portraits: Sequence[Portrait | None], progress: Progress = lambda stage, done, total: None
) -> tuple[Float[np.ndarray, "n n"], dict[tuple[int, int], Float[np.ndarray, "4"]]]:
    """(similarities, poses[i, j] of j's frame in i's) of all pairs; 0 and no pose where one was
    not portrayed."""
    n = len(portraits)
    values, poses = np.eye(n), {}
    known = [(k, p) for k, p in enumerate(portraits) if p is not None and len(p.points)]
    cell = _cell([p for _, p in known])
    for done, (i, a) in enumerate(known[:-1]):
        others = known[done + 1 :]
        guesses = _guesses(a, [b for _, b in others], cell)
        for (j, b), starts in zip(others, guesses, strict=True):
            value, pose = max((_aligned(a, b, start) for start in starts), key=lambda r: r[0])
            values[i, j] = values[j, i] = value
            poses[i, j], poses[j, i] = pose, inverse(pose)
        progress("share", done + 1, len(known) - 1)
    return values, poses


def _portrait(thing: Thing) -> Portrait | None:
    if thing.crops is None:
        return None
    return portrait(thing.crops, thing.poses, fitting(thing.misfits), thing.dims)


def _cell(portraits: Sequence[Portrait]) -> float:
    """Voxel size (m) of the lattice on which all are compared."""
    longest = [float(p.dims.max()) for p in portraits]
    return max(min(longest) / LATTICE, 2 * max(longest) / MOST_CELLS) if longest else 1.0


def _guesses(a: Portrait, others: list[Portrait], cell: float) -> list[list[np.ndarray]]:
    """Per other: poses of its frame in a's that are worth refining. The frames put on each other
    in four ways, and the best shift of each turn that is better than its neighbours."""
    longest = max(float(p.model.grid.size_m[:2].max()) for p in [a, *others])
    side, height = next_fast_len(int(1.5 * longest / cell) + 1), int(a.model.grid.size_m[2] / cell)

    def lattice(p: Portrait) -> Grid:
        reach = side * cell / 2
        return Grid((-reach, -reach, p.bottom), cell, (max(height, 1), side, side))

    fixed = [Correlator(imprint(b.model, lattice(b))) for b in others]
    scores = np.zeros((len(others), YAWS))
    shifts = np.zeros((len(others), YAWS, 2))
    for n in range(YAWS):
        turned = fixed[0].turned(imprint(a.model, lattice(a), 2 * np.pi * n / YAWS))
        for k, correlator in enumerate(fixed):
            confirmed, through, hidden = correlator.maps(turned)
            worth = confirmed**2 / (confirmed + through + hidden + 1e-6)
            best = np.array(np.unravel_index(worth.argmax(), worth.shape))
            scores[k, n] = worth.max()
            shifts[k, n] = ((best + side // 2) % side - side // 2)[::-1] * cell
    return [_starts(a, b, scores[k], shifts[k]) for k, b in enumerate(others)]


def _starts(a: Portrait, b: Portrait, scores: np.ndarray, shifts: np.ndarray) -> list[np.ndarray]:
    """Poses of b's frame in a's, from the shifts (b's frame, m) of a's that each turn favours."""
    level = b.bottom - a.bottom
    peaks = [
        n for n in np.argsort(-scores) if scores[n] >= max(scores[n - 1], scores[(n + 1) % YAWS])
    ]
    poses = [np.array([*shifts[n], level, 2 * np.pi * n / YAWS]) for n in peaks[:CANDIDATES]]
    # What looks alike from both ends is told apart by its colours only.
    poses += [np.array([*shifts[n], level, 2 * np.pi * n / YAWS + np.pi]) for n in peaks[:2]]
    poses += [np.array([0, 0, level, turn * np.pi / 2]) for turn in range(4)]
    return [inverse(pose) for pose in poses]


def _aligned(
    a: Portrait, b: Portrait, pose: Float[np.ndarray, "4"]
) -> tuple[float, Float[np.ndarray, "4"]]:
    """(similarity, pose of b's frame in a's), refined from ``pose`` by each on the other's."""
    for _ in range(2):
        pose = onto(b.model, a.points, pose, 6, huber=0.03)
        pose = inverse(onto(a.model, b.points, inverse(pose), 6, huber=0.03))
    return similarity(agreement(a, b, pose)), pose


def frames_from(
    root: int, members: list[int], values: np.ndarray,
    poses: dict[tuple[int, int], np.ndarray],
) -> dict[int, np.ndarray]:  # fmt: skip
    """The pose of the root's frame in each member's, along the pairs that are most alike."""
    frames = {root: np.zeros(4)}
    while len(frames) < len(members):
        pairs = [(i, j) for i in frames for j in members if j not in frames]
        i, j = max(pairs, key=lambda pair: values[pair])
        frames[j] = placed(poses[j, i], frames[i])
    return frames


def _fused(things: list[Thing], members: list[int], frames: list[np.ndarray]) -> Kind | None:
    """One kind of things whose shared frame stands at ``frames`` in each one's own, at the first's
    itself; None where their pictures agree on no surface.

    The poses of the first, which is tracked best, stay. The others follow onto it one by one, each
    as a whole. Whoever contradicts those before or makes them fit worse is not fused.
    """
    crops = [t.crops for t in things if t.crops is not None]  # what is alike was portrayed
    pictures, dims = joined(crops), things[0].dims
    poses = np.concatenate([placed(t.poses, f) for t, f in zip(things, frames, strict=True)])
    misfits = np.concatenate([t.misfits for t in things])
    of_thing = np.repeat(np.arange(len(things)), [len(t.instants) for t in things])
    good = np.concatenate([fitting(t.misfits) for t in things])
    for k in range(1, len(things)):
        before, its = of_thing < k, of_thing == k
        chosen = good & (before | its)
        for _ in range(ROUNDS):
            _moved_onto_the_others(pictures, poses, chosen, its, dims)
        if (
            _contradicted(pictures, poses, chosen, its, dims) > CONTRADICTED
            or _spoilt(pictures, poses, chosen, its, dims) > SPOILT
        ):
            return _without(k, things, members, frames)
    shared = portrait(pictures, poses, good, dims)
    for _ in range(ROUNDS):
        _readjust(shared, pictures, poses, misfits, of_thing > 0)
        good = np.concatenate([fitting(misfits[of_thing == k]) for k in range(len(things))])
        shared = portrait(pictures, poses, good, dims)
    # Numbers of instants that never follow each other from one thing to the next.
    instants = [i + 10**6 * k for k, thing in enumerate(things) for i in thing.instants]
    shape = finish(pictures, shared.model, poses, instants, good, 0.5 * pictures.pixel_size)
    if shape is None:
        return None
    changed = tuple(
        replace(thing, dims=shape.dims, poses=shape.poses[of_thing == k],
                misfits=misfits[of_thing == k], rgba=shape.rgba, voxel_size=shape.voxel_size,
                confidence=shape.confidence)
        for k, thing in enumerate(things)
    )  # fmt: skip
    return Kind(shape.dims, shape.rgba, shape.voxel_size, tuple(members), changed,
                portrait(pictures, shape.poses, good, shape.dims), shape.confidence)  # fmt: skip


def _without(
    k: int, things: list[Thing], members: list[int], frames: list[np.ndarray]
) -> Kind | None:
    """The kind that all but thing k make, with k among its members: found anew on it, or where it
    stood, its bottom at the same height; then both went nose forward, as far as we know."""
    rest = things[:k] + things[k + 1 :]
    if len(rest) == 1:
        kind: Kind | None = alone(members[0], things[0], _portrait(things[0]))
    else:
        kind = _fused(rest, members[:k] + members[k + 1 :], frames[:k] + frames[k + 1 :])
    if kind is None:
        return None
    raised = np.array([0, 0, (kind.dims[2] - things[k].dims[2]) / 2, 0])
    left_out = replace(things[k], dims=kind.dims, poses=things[k].poses + raised, rgba=kind.rgba,
                       voxel_size=kind.voxel_size, confidence=kind.confidence)  # fmt: skip
    left_out = found_anew(left_out, kind)
    return replace(kind, members=(*kind.members, members[k]), things=(*kind.things, left_out))


def found_anew(thing: Thing, kind: Kind) -> Thing:
    """``thing`` with all its instants searched on the kind, completed by its mirror image, if that
    fits its pictures as well, within ``SPOILT``, as what was fused of them alone: which fits its
    own errors too. Else as it is."""
    if thing.crops is None or kind.portrait is None:
        return thing
    model, pictures = completed(kind.portrait).portrait.model, thing.crops
    surface = model.surface()
    poses, misfits = thing.poses.copy(), thing.misfits.copy()
    for k in range(len(poses)):
        seen = pictures.own_points(k)
        if len(seen) == 0:
            continue
        poses[k] = search(model, pictures, k, [poses[k]], surface.mean(axis=0), seen.mean(axis=0))
        misfits[k] = total_misfit(misfit(model, surface, pictures, k, poses[k]))
    explained = np.median(misfits) <= np.median(thing.misfits) + SPOILT
    return replace(thing, poses=poses, misfits=misfits) if explained else thing


def _moved_onto_the_others(
    pictures: Crops, poses: Float[np.ndarray, "i 4"], good: Bool[np.ndarray, " i"],
    own: Bool[np.ndarray, " i"], dims: Float[np.ndarray, "3"],
) -> None:  # fmt: skip
    """Moves (in place) the poses of one thing's instants, ``own``, all alike, so that its surface
    lies on that of the others."""
    others = portrait(pictures, poses, good & ~own, dims)
    its = portrait(pictures, poses, good & own, dims)
    poses[own] = placed(poses[own], facing_each_other(others, its))


def facing_each_other(a: Portrait, b: Portrait) -> Float[np.ndarray, "4"]:
    """The pose x y z yaw of a's frame in b's, from that they are the same, at which both surfaces
    lie on each other where they were seen from the same side. Without that a chair seen from
    behind is drawn by its thickness onto one seen from the front."""
    pose = np.zeros(4)
    for _ in range(TURNS):
        pose = _onto_facing(a, b, pose)
        pose = inverse(_onto_facing(b, a, inverse(pose)))
    return pose


def _onto_facing(a: Portrait, b: Portrait, pose: Float[np.ndarray, "4"]) -> Float[np.ndarray, "4"]:
    """``pose`` of a's frame in b's, moved by two steps so that a's surface lies on those points of
    b's that face the same way."""
    outward = b.outward @ rotation_from_yaw(pose[3])
    same = facing(a.model, unplaced(b.points, pose), outward)
    return onto(a.model, b.points[same], pose, 2)


def _contradicted(
    pictures: Crops, poses: Float[np.ndarray, "i 4"], good: Bool[np.ndarray, " i"],
    own: Bool[np.ndarray, " i"], dims: Float[np.ndarray, "3"],
) -> float:  # fmt: skip
    """The share of one thing's surface, ``own``, or of the others' if it is more, that lies in
    space which the other saw free, of what lies there or on the other's surface."""
    found = agreement(
        portrait(pictures, poses, good & ~own, dims),
        portrait(pictures, poses, good & own, dims), np.zeros(4),
    )  # fmt: skip
    return max(free / max(on + free, 1e-9) for on, free in zip(found.on, found.free, strict=True))


def _spoilt(
    pictures: Crops, poses: Float[np.ndarray, "i 4"], good: Bool[np.ndarray, " i"],
    own: Bool[np.ndarray, " i"], dims: Float[np.ndarray, "3"],
) -> float:  # fmt: skip
    """By how much the misfit (median) of the others' ``good`` instants grows when those of one
    thing, ``own``, are fused too."""
    medians = []
    for chosen in (good & ~own, good):
        model = portrait(pictures, poses, chosen, dims).model
        surface = model.surface()
        medians.append(np.median([
            total_misfit(misfit(model, surface, pictures, i, poses[i]))
            for i in np.nonzero(good & ~own)[0].tolist()
        ]))  # fmt: skip
    return float(medians[1] - medians[0])


def _readjust(
    shared: Portrait, pictures: Crops, poses: Float[np.ndarray, "i 4"],
    misfits: Float[np.ndarray, " i"], chosen: Bool[np.ndarray, " i"],
) -> None:  # fmt: skip
    """Puts (in place) the ``chosen`` instants where they fit the kind's model best: as they were,
    or turned by quarters, descended; and says how well."""
    surface = shared.model.surface()
    for i in np.nonzero(chosen)[0].tolist():
        tried = []
        for quarter in range(4):
            start = poses[i] + [0, 0, 0, quarter * np.pi / 2]
            pose = descend(shared.model, pictures, i, start, 6)
            cost = total_misfit(misfit(shared.model, surface, pictures, i, pose))
            tried.append((cost + (QUARTER if quarter else 0.0), quarter, pose))
        misfits[i], _, poses[i] = min(tried, key=lambda t: t[:2])
