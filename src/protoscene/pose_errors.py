"""How far matched boxes are off: centre, yaw and size. Units are in the names, as in ``score``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from protoscene.matching import Matches, majority
from protoscene.scene import SceneObject
from protoscene.truth import Truth


@dataclass(frozen=True)
class CentreError:
    """Distance of matched boxes' centres (IoU ≥ .5), and its absolute parts along world axes."""

    matched_boxes: int
    median_m: float
    mean_m: float
    p90_m: float
    median_voxels: float
    mean_voxels: float
    p90_voxels: float
    x_median_m: float
    y_median_m: float
    z_median_m: float


@dataclass(frozen=True)
class YawError:
    """Yaw of matched boxes (IoU ≥ .5) after one free offset per (prototype, kind), modulo the
    kind's symmetry; round kinds are left out. ``flips``: share of instants beyond 90°."""

    matched_boxes: int
    median_deg: float
    p90_deg: float
    flips: float


@dataclass(frozen=True)
class SizeError:
    """|predicted − true| length, width, height of each matched object (IoU ≥ .5) along the true
    object's axes; ``median`` and ``worst`` are over objects and axes."""

    matched_objects: int
    median_m: float
    worst_m: float
    median_voxels: float
    worst_voxels: float
    length_median_m: float
    width_median_m: float
    height_median_m: float


def _quantile(values: np.ndarray, q: float) -> float:
    return float(np.quantile(values, q)) if len(values) else math.nan


def centre_error(matches: Matches, voxel_size: float) -> CentreError:
    offset = matches.boxes[:, 0, :3] - matches.boxes[:, 1, :3]
    distance = np.linalg.norm(offset, axis=1)
    median, p90 = _quantile(distance, 0.5), _quantile(distance, 0.9)
    mean = float(distance.mean()) if len(distance) else math.nan
    x, y, z = (_quantile(np.abs(offset[:, k]), 0.5) for k in range(3))
    return CentreError(
        matched_boxes=len(distance),
        median_m=median,
        mean_m=mean,
        p90_m=p90,
        median_voxels=median / voxel_size,
        mean_voxels=mean / voxel_size,
        p90_voxels=p90 / voxel_size,
        x_median_m=x,
        y_median_m=y,
        z_median_m=z,
    )


PERIODS = {None: 2 * math.pi, "half_turn": math.pi, "quarter_turn": math.pi / 2}
"""The smallest turn that leaves a kind unchanged; "round" has no yaw at all."""


def best_offset(differences: Float[np.ndarray, " n"], period: float) -> float:
    """The offset o in ±period/2 that minimises the median of |differences − o| modulo ``period``.

    It is the middle of the shortest arc that holds n//2 + 1 of the differences.
    """
    turned = np.sort(differences % period)
    ends = np.concatenate([turned, turned + period])
    reach = len(turned) // 2
    starts = np.arange(len(turned))
    start = int((ends[starts + reach] - ends[starts]).argmin())
    return _wrapped((ends[start] + ends[start + reach]) / 2, period)


def _wrapped(angle: Any, period: float) -> Any:
    return (angle + period / 2) % period - period / 2


Offsets = dict[tuple[int, str], float]


def yaw_offsets(matches: Matches, predicted: Sequence[SceneObject], truth: Truth) -> Offsets:
    """One offset (rad) per pair of predicted prototype and true kind that has a yaw at all."""
    return {
        key: best_offset(differences, period)
        for key, (differences, period) in _yaw_differences(matches, predicted, truth).items()
    }


def _yaw_differences(
    matches: Matches, predicted: Sequence[SceneObject], truth: Truth
) -> dict[tuple[int, str], tuple[np.ndarray, float]]:
    pooled: dict[tuple[int, str], tuple[list[float], float]] = {}
    differences = matches.boxes[:, 0, 6] - matches.boxes[:, 1, 6]
    for (_, i, j), difference in zip(matches.pairs, differences, strict=True):
        thing = truth.objects[j]
        symmetry = truth.prototypes[thing.prototype].symmetry
        if symmetry != "round":
            key = (predicted[i].prototype, str(thing.kind))
            pooled.setdefault(key, ([], PERIODS[symmetry]))[0].append(difference)
    return {key: (np.array(values), period) for key, (values, period) in pooled.items()}


def yaw_errors(
    matches: Matches, predicted: Sequence[SceneObject], truth: Truth, offsets: Offsets
) -> dict[tuple[int, str], np.ndarray]:
    """|yaw error| in degrees of each matched box, by (prototype, kind), less that pair's offset."""
    return {
        key: np.abs(np.degrees(_wrapped(differences - offsets[key], period)))
        for key, (differences, period) in _yaw_differences(matches, predicted, truth).items()
    }


def yaw_error(
    matches: Matches, predicted: Sequence[SceneObject], truth: Truth, offsets: Offsets
) -> YawError:
    pooled = np.concatenate([np.zeros(0), *yaw_errors(matches, predicted, truth, offsets).values()])
    return YawError(
        matched_boxes=len(pooled),
        median_deg=_quantile(pooled, 0.5),
        p90_deg=_quantile(pooled, 0.9),
        flips=float((pooled > 90).mean()) if len(pooled) else math.nan,
    )


def size_error(
    matches: Matches,
    predicted: Sequence[SceneObject],
    truth: Truth,
    offsets: Offsets,
    voxel_size: float,
) -> SizeError:
    error = size_errors(matches, predicted, truth, offsets)
    median, worst = _quantile(error.ravel(), 0.5), _quantile(error.ravel(), 1.0)
    length, width, height = (_quantile(error[:, k], 0.5) for k in range(3))
    return SizeError(
        matched_objects=len(error),
        median_m=median,
        worst_m=worst,
        median_voxels=median / voxel_size,
        worst_voxels=worst / voxel_size,
        length_median_m=length,
        width_median_m=width,
        height_median_m=height,
    )


def size_errors(
    matches: Matches, predicted: Sequence[SceneObject], truth: Truth, offsets: Offsets
) -> Float[np.ndarray, "objects 3"]:
    """|predicted − true| length, width and height (m) of each matched object."""
    rows = []
    for i, j in majority(matches).items():
        ours = (matches.pairs[:, 1] == i) & (matches.pairs[:, 2] == j)
        found, true = np.median(matches.boxes[ours], axis=0)[:, 3:6]
        offset = offsets.get((predicted[i].prototype, str(truth.objects[j].kind)), 0.0)
        if abs(_wrapped(offset, math.pi)) > math.pi / 4:
            found = found[[1, 0, 2]]
        rows.append(np.abs(found - true))
    return np.array(rows).reshape(-1, 3)
