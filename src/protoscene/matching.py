"""Which predicted box is which true box: per instant, pooled over instants, and over tracks.

Truth that no sensor saw at an instant is ignored there: a prediction that covers it is neither
right nor wrong. All other predictions count, also those that say they were not seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

from protoscene.boxes import iou_3d
from protoscene.scene import SceneObject
from protoscene.truth import TIME_TOLERANCE_S


@dataclass(frozen=True, eq=False)
class Instant:
    """Predicted and true boxes at one time; ``predicted`` and ``truth`` index the object lists."""

    predicted: Int[np.ndarray, " n"]
    truth: Int[np.ndarray, " m"]
    predicted_boxes: Float[np.ndarray, "n 7"]
    truth_boxes: Float[np.ndarray, "m 7"]
    visible: Bool[np.ndarray, " m"]
    iou: Float[np.ndarray, "n m"]


def boxes_at(
    objects: Sequence[SceneObject], time: float
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n 7"], Bool[np.ndarray, " n"]]:
    """(index, box, visible) of the objects whose tracks have ``time`` among their instants."""
    index, boxes, visible = [], [], []
    for i, thing in enumerate(objects):
        track = thing.track
        near = np.flatnonzero(np.abs(track.time - time) <= TIME_TOLERANCE_S)
        if len(near):
            row = near[0]
            dims = np.array(thing.dims_m) * track.scale[row]
            index.append(i)
            boxes.append([*track.centre[row], *dims, track.yaw[row]])
            visible.append(track.visible[row])
    return (
        np.array(index, dtype=np.int64),
        np.array(boxes, dtype=np.float64).reshape(-1, 7),
        np.array(visible, dtype=bool),
    )


def instants(
    predicted: Sequence[SceneObject], truth: Sequence[SceneObject], times: Iterable[float]
) -> list[Instant]:
    """Both lists' boxes and all their 3-D IoUs at each of ``times``."""
    result = []
    for time in times:
        predicted_index, predicted_boxes, _ = boxes_at(predicted, time)
        truth_index, truth_boxes, visible = boxes_at(truth, time)
        iou = iou_3d(predicted_boxes, truth_boxes)
        result.append(
            Instant(predicted_index, truth_index, predicted_boxes, truth_boxes, visible, iou)
        )
    return result


@dataclass(frozen=True, eq=False)
class Matches:
    """All instants pooled. A row of ``predicted`` and ``truth`` is (instant, object); ignored
    ones are left out. A row of ``pairs`` is (instant, predicted object, true object), of
    ``boxes`` the pair's (predicted, true) boxes."""

    predicted: Int[np.ndarray, "n 2"]
    truth: Int[np.ndarray, "m 2"]
    pairs: Int[np.ndarray, "k 3"]
    boxes: Float[np.ndarray, "k 2 7"]
    counts: Int[np.ndarray, "objects truths"]
    """Instants at which each predicted object reaches the threshold with each true one."""


def match(sequence: Sequence[Instant], threshold: float, n_predicted: int, n_truth: int) -> Matches:
    """One-to-one matches of IoU ≥ ``threshold``: as many as possible, then the largest IoU sum."""
    predicted, truth, pairs, boxes = [], [], [], []
    counts = np.zeros((n_predicted, n_truth), dtype=np.int64)
    for t, now in enumerate(sequence):
        close = np.asarray(now.iou >= threshold)
        seen = np.flatnonzero(now.visible)
        # A match is worth more than all IoUs together, so the number of matches comes first.
        worth = np.where(close, now.iou + min(now.iou.shape) + 1, 0.0)[:, seen]
        rows, columns = linear_sum_assignment(worth, maximize=True)
        kept = worth[rows, columns] > 0
        rows, columns = rows[kept], seen[columns[kept]]
        counted = np.asarray(~close[:, ~now.visible].any(axis=1))
        counted[rows] = True
        predicted += [(t, i) for i in now.predicted[counted]]
        truth += [(t, j) for j in now.truth[seen]]
        for i, j in zip(rows, columns, strict=True):
            pairs.append((t, now.predicted[i], now.truth[j]))
            boxes.append((now.predicted_boxes[i], now.truth_boxes[j]))
        counts[np.ix_(now.predicted, now.truth)] += close & counted[:, None] & now.visible
    return Matches(
        np.array(predicted, dtype=np.int64).reshape(-1, 2),
        np.array(truth, dtype=np.int64).reshape(-1, 2),
        np.array(pairs, dtype=np.int64).reshape(-1, 3),
        np.array(boxes, dtype=np.float64).reshape(-1, 2, 7),
        counts,
    )


def majority(matches: Matches) -> dict[int, int]:
    """Each matched predicted object's most frequent true object (the first listed, on a tie)."""
    pairs = matches.pairs
    n_truth = matches.counts.shape[1]
    return {
        int(i): int(np.bincount(pairs[pairs[:, 1] == i, 2], minlength=n_truth).argmax())
        for i in np.unique(pairs[:, 1])
    }


def average_precision(
    sequence: Sequence[Instant], scores: Float[np.ndarray, " objects"], threshold: float
) -> float:
    """Area under the precision-recall curve of all instants pooled, ranked by object score.

    At each instant the predictions, best score first, take the best unclaimed visible truth of
    IoU ≥ ``threshold``; precision is made non-increasing in recall and equal scores are one point
    of the curve. NaN without visible truth.
    """
    n_truth = sum(int(now.visible.sum()) for now in sequence)
    if n_truth == 0:
        return float("nan")
    ranked: list[tuple[float, bool]] = []
    for now in sequence:
        free = now.visible.copy()
        best = now.iou.max(axis=1, initial=0.0)
        for i in np.lexsort((-best, -scores[now.predicted])):
            iou = np.where(free, now.iou[i], 0.0)
            right = bool(len(iou)) and bool(iou.max() >= threshold)
            if right:
                free[iou.argmax()] = False
            elif (now.iou[i][~now.visible] >= threshold).any():
                continue
            ranked.append((float(scores[now.predicted[i]]), right))
    if not ranked:
        return 0.0
    score, right_flags = np.array([r[0] for r in ranked]), np.array([r[1] for r in ranked])
    order = np.argsort(-score, kind="stable")
    last_of_score = np.append(np.diff(score[order]) != 0, True)
    true_positives = np.cumsum(right_flags[order])[last_of_score]
    precision = true_positives / (np.flatnonzero(last_of_score) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    recall_steps = np.diff(true_positives, prepend=0) / n_truth
    return float((precision * recall_steps).sum())
