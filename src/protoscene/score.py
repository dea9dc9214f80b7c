"""How good a scene is, measured against the truth; every number's unit is in its name.

``_m`` metres, ``_voxels`` voxels of the scene's grid, ``_deg`` degrees, ``_db`` decibels, an int
is a count, and any other number is a share from 0 (bad) to 1 (perfect). A measure of nothing
(the precision of no prediction) is NaN, None in ``as_dict``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from typing import SupportsFloat

import numpy as np
from jaxtyping import Int
from scipy.optimize import linear_sum_assignment

from protoscene.errors import Refused
from protoscene.formats import load
from protoscene.matching import Matches, average_precision, instants, majority, match
from protoscene.pose_errors import (
    CentreError,
    SizeError,
    YawError,
    centre_error,
    size_error,
    yaw_error,
    yaw_offsets,
)
from protoscene.prototypes import VoxelPrototypes
from protoscene.scene import Scene, SceneObject
from protoscene.score_pictures import PictureScore, layered_view, score_pictures
from protoscene.shape_errors import ShapeError, shape_error
from protoscene.truth import TIME_TOLERANCE_S, Truth, load_truth

__all__ = ["ScoreCard", "Truth", "as_dict", "load_truth", "score", "score_objects", "table"]

OPERATING_SCORE = 0.5
"""Objects below it are left out of everything but ``ap50_pooled`` and the pictures."""


@dataclass(frozen=True)
class Detection:
    """Boxes of all instants pooled, matched one to one. A moving prediction on parked truth is
    wrong for ``moving_precision``; recall asks only whether the truth was found."""

    precision: float
    recall: float
    f1: float
    moving_precision: float
    moving_recall: float
    parked_precision: float
    parked_recall: float


@dataclass(frozen=True)
class Identity:
    """Tracks at IoU ≥ .5. ``purity``: share of matched boxes whose track mostly follows the same
    true object. ``switches``: a true object is matched by another track than before;
    ``fragmentations``: it is matched, then seen but missed, then matched again."""

    idf1: float
    moving_idf1: float
    purity: float
    switches: int
    fragmentations: int


@dataclass(frozen=True)
class PrototypeScore:
    """Predicted prototype against true kind, one vote per matched object (IoU ≥ .5)."""

    v_measure: float
    homogeneity: float
    completeness: float
    purity: float


@dataclass(frozen=True)
class Counts:
    """What was compared: boxes are (object, instant) pairs, true ones where visible; predictions
    that cover unseen truth are not counted."""

    instants: int
    true_objects: int
    true_moving: int
    predicted_objects: int
    predicted_moving: int
    true_boxes: int
    predicted_boxes: int


@dataclass(frozen=True)
class ScoreCard:
    """All measures of one scene; ``shapes`` is None of bare objects, ``pictures`` where no
    held-out cameras were scored."""

    counts: Counts
    at_iou_25: Detection
    at_iou_50: Detection
    ap50_pooled: float
    centre: CentreError
    yaw: YawError
    size: SizeError
    identity: Identity
    prototypes: PrototypeScore
    shapes: ShapeError | None = None
    pictures: PictureScore | None = None


def score(
    scene: Scene, truth: Truth, pictures: bool = True, operating_score: float = OPERATING_SCORE
) -> ScoreCard:
    """Compares ``scene`` with ``truth`` at the truth's instants, and with its held-out pictures.

    Raises Refused where no instant of the truth is one of the scene's.
    """
    gaps = [min((abs(a - b) for b in scene.times), default=math.inf) for a in truth.times]
    if min(gaps) > TIME_TOLERANCE_S:
        raise Refused("scene", "times", "no instant in common with the truth")
    shown = None
    if pictures and truth.heldout is not None:
        moving = {thing.id for thing in truth.objects if thing.moving}
        alone = layered_view(replace(scene, objects=()))
        shown = score_pictures(layered_view(scene), load(truth.heldout), moving, without=alone)
    return score_objects(
        scene.objects, truth, scene.grid.voxel_size, operating_score, shown, scene.prototypes
    )


def score_objects(
    objects: Sequence[SceneObject],
    truth: Truth,
    voxel_size: float,
    operating_score: float = OPERATING_SCORE,
    pictures: PictureScore | None = None,
    prototypes: VoxelPrototypes | None = None,
) -> ScoreCard:
    """The score of bare objects; ``voxel_size`` (m) is the unit of the ``_voxels`` numbers."""
    kept = [thing for thing in objects if thing.score >= operating_score]
    sequence = instants(kept, truth.objects, truth.times)
    at_25 = match(sequence, 0.25, len(kept), len(truth.objects))
    at_50 = match(sequence, 0.50, len(kept), len(truth.objects))
    offsets = yaw_offsets(at_50, kept, truth)
    return ScoreCard(
        counts=Counts(
            instants=len(sequence),
            true_objects=len(truth.objects),
            true_moving=sum(thing.moving for thing in truth.objects),
            predicted_objects=len(kept),
            predicted_moving=sum(thing.moving for thing in kept),
            true_boxes=len(at_50.truth),
            predicted_boxes=len(at_50.predicted),
        ),
        at_iou_25=_detection(at_25, kept, truth.objects),
        at_iou_50=_detection(at_50, kept, truth.objects),
        ap50_pooled=average_precision(
            instants(objects, truth.objects, truth.times),
            np.array([thing.score for thing in objects], dtype=np.float64),
            0.50,
        ),
        centre=centre_error(at_50, voxel_size),
        yaw=yaw_error(at_50, kept, truth, offsets),
        size=size_error(at_50, kept, truth, offsets, voxel_size),
        identity=_identity(at_50, kept, truth.objects),
        prototypes=_prototype_score(at_50, kept, truth.objects),
        shapes=None if prototypes is None else shape_error(at_50, kept, prototypes),
        pictures=pictures,
    )


def as_dict(card: ScoreCard) -> dict[str, object]:
    """The card as nested plain values for JSON; NaN becomes None."""

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {name: plain(v) for name, v in value.items()}
        return None if isinstance(value, float) and math.isnan(value) else value

    return {name: plain(value) for name, value in asdict(card).items()}


UNITS = {"_m": "m", "_voxels": "voxels", "_deg": "°", "_db": "dB"}


def table(card: ScoreCard) -> list[tuple[str, str, float, str]]:
    """The card as rows (section, name, value, unit); the unit is "" for shares and counts."""
    rows = []
    for section in fields(card):
        part = getattr(card, section.name)
        if part is None:
            continue
        if isinstance(part, float):
            rows.append(("all scores", section.name, part, ""))
            continue
        for entry in fields(part):
            suffix = next((s for s in UNITS if entry.name.endswith(s)), "")
            name = entry.name.removesuffix(suffix)
            rows.append((section.name, name, getattr(part, entry.name), UNITS.get(suffix, "")))
    return rows


def _share(part: SupportsFloat, whole: SupportsFloat) -> float:
    return float(part) / float(whole) if float(whole) else math.nan


def _moving(objects: Sequence[SceneObject]) -> np.ndarray:
    return np.array([thing.moving for thing in objects], dtype=bool)


def _detection(
    matches: Matches, predicted: Sequence[SceneObject], truth: Sequence[SceneObject]
) -> Detection:
    pairs, n_predicted, n_truth = matches.pairs, len(matches.predicted), len(matches.truth)
    says, is_so = _moving(predicted)[pairs[:, 1]], _moving(truth)[pairs[:, 2]]
    n_says = int(_moving(predicted)[matches.predicted[:, 1]].sum())
    n_is_so = int(_moving(truth)[matches.truth[:, 1]].sum())
    return Detection(
        precision=_share(len(pairs), n_predicted),
        recall=_share(len(pairs), n_truth),
        f1=_share(2 * len(pairs), n_predicted + n_truth),
        moving_precision=_share((says & is_so).sum(), n_says),
        moving_recall=_share(is_so.sum(), n_is_so),
        parked_precision=_share((~says & ~is_so).sum(), n_predicted - n_says),
        parked_recall=_share((~is_so).sum(), n_truth - n_is_so),
    )


def _identity(
    matches: Matches, predicted: Sequence[SceneObject], truth: Sequence[SceneObject]
) -> Identity:
    followed = majority(matches)
    kept = sum(followed[int(i)] == j for _, i, j in matches.pairs)
    switches = fragmentations = 0
    for j in np.unique(matches.pairs[:, 2]):
        matched = {int(t): int(i) for t, i, k in matches.pairs if k == j}
        tracks = list(matched.values())
        switches += sum(a != b for a, b in pairwise(tracks))
        seen = matches.truth[matches.truth[:, 1] == j, 0]
        seen = seen[(seen >= min(matched)) & (seen <= max(matched))]
        hit = np.array([int(t) in matched for t in seen])
        fragmentations += int((~hit[:-1] & hit[1:]).sum())
    moves, moved = _moving(predicted), _moving(truth)
    return Identity(
        idf1=idf1(matches, np.ones(len(predicted), bool), np.ones(len(truth), bool)),
        moving_idf1=idf1(matches, moves, moved),
        purity=_share(kept, len(matches.pairs)),
        switches=int(switches),
        fragmentations=fragmentations,
    )


def idf1(matches: Matches, predicted: np.ndarray, truth: np.ndarray) -> float:
    """2·IDTP / (predicted boxes + true boxes), of the objects chosen by two boolean masks.

    IDTP is the largest number of instants that a one-to-one map of tracks to true objects gets
    right (Ristani et al. 2016).
    """
    counts = matches.counts[np.ix_(predicted, truth)]
    right = counts[linear_sum_assignment(counts, maximize=True)].sum()
    n_predicted = predicted[matches.predicted[:, 1]].sum()
    return _share(2 * right, n_predicted + truth[matches.truth[:, 1]].sum())


def _prototype_score(
    matches: Matches, predicted: Sequence[SceneObject], truth: Sequence[SceneObject]
) -> PrototypeScore:
    followed = majority(matches)
    if not followed:
        return PrototypeScore(math.nan, math.nan, math.nan, math.nan)
    kinds = sorted({str(thing.kind) for thing in truth})
    prototypes = sorted({predicted[i].prototype for i in followed})
    joint = np.zeros((len(prototypes), len(kinds)), dtype=np.int64)
    for i, j in followed.items():
        joint[prototypes.index(predicted[i].prototype), kinds.index(str(truth[j].kind))] += 1
    return v_measure(joint)


def v_measure(joint: Int[np.ndarray, "clusters classes"]) -> PrototypeScore:
    """Of a table of counts: homogeneity 1 − H(class|cluster)/H(class), completeness with the two
    exchanged, their harmonic mean, and purity Σ max per cluster / n. An entropy of 0 gives 1."""
    purity = _share(joint.max(axis=1).sum(), joint.sum())
    joint = joint / joint.sum()

    def entropy(p: np.ndarray) -> float:
        p = p[p > 0]
        return float(-(p * np.log(p)).sum())

    both, cluster, kind = entropy(joint), entropy(joint.sum(1)), entropy(joint.sum(0))
    homogeneity = 1 - (both - cluster) / kind if kind > 0 else 1.0
    completeness = 1 - (both - kind) / cluster if cluster > 0 else 1.0
    total = homogeneity + completeness
    harmonic = 2 * homogeneity * completeness / total if total > 0 else 0.0
    return PrototypeScore(harmonic, homogeneity, completeness, purity)
