"""Poses as they stand in files → rigid world_from_camera matrices."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Float

from protoscene.errors import Refused
from protoscene.geometry import nearest_rotation, rotation_from_quaternion

SILENT = 1e-5
"""Deviation from orthonormal of a rotation printed with 6 decimals: repaired without a word."""
REPAIRED = 5e-3
"""Deviation of one printed with 3 decimals: repaired with a warning. More is refused."""


def rigid_pose(rows: object, file: Path, field: str) -> tuple[Float[np.ndarray, "4 4"], float]:
    """The rigid matrix nearest to ``rows`` (3×4 or 4×4 numbers) and its deviation max |RᵀR − I|.

    Raises Refused: another shape, a number that is not finite, a last row other than 0 0 0 1, a
    scale, a mirror image, a rotation further than 5e-3 from orthonormal.
    """
    matrix = _as_matrix(rows, file, field)
    if not np.isfinite(matrix).all():
        raise Refused(
            file, field, "pose has a number that is not finite", expected="finite numbers"
        )
    if np.abs(matrix[3] - [0, 0, 0, 1]).max() > 1e-6:
        got = " ".join(f"{v:g}" for v in matrix[3])
        raise Refused(file, field, "last row of a pose", got=got, expected="0 0 0 1")
    if np.abs(matrix[:3, 3]).max() > 1e7:
        raise Refused(file, field, "pose is further than 10000 km from the origin")
    rotation = matrix[:3, :3]
    if np.abs(rotation).max() > 1e6:
        raise Refused(file, field, "not a rotation", got=f"an element of {rotation.max():.3g}")
    gram = rotation.T @ rotation
    deviation = float(np.abs(gram - np.eye(3)).max())
    scale = math.sqrt(np.trace(gram) / 3)
    if deviation > REPAIRED:
        if scale > 1e-6 and np.abs(gram / scale**2 - np.eye(3)).max() <= REPAIRED:
            problem = f"looks like a similarity, scale {scale:.4g}; poses must be rigid"
            raise Refused(file, field, problem, got=f"scale {scale:.4g}", expected="scale 1")
        problem = "rotation is not orthonormal"
        got = f"max |RᵀR − I| = {deviation:.2g}"
        raise Refused(file, field, problem, got=got, expected=f"at most {REPAIRED:g}")
    if np.linalg.det(rotation) < 0:
        raise Refused(
            file, field, "rotation is a mirror image", got="determinant −1", expected="+1"
        )
    matrix[:3, :3] = nearest_rotation(rotation)
    matrix[3] = [0, 0, 0, 1]
    return matrix, deviation


def _as_matrix(rows: object, file: Path, field: str) -> Float[np.ndarray, "4 4"]:
    expected = "4×4 or 3×4 numbers"
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise Refused(file, field, "not a matrix", expected=expected)
    shape = (len(rows), {len(row) for row in rows})
    if shape not in ((4, {4}), (3, {4})):
        got = f"{len(rows)} rows of {'/'.join(str(len(row)) for row in rows[:4])}"
        raise Refused(file, field, "wrong shape of a pose", got=got, expected=expected)
    for row in rows:
        for value in row:
            if type(value) not in (int, float):
                raise Refused(file, field, "pose has what is not a number", got=value)
    matrix = np.eye(4)
    matrix[: len(rows)] = rows
    return matrix


def pose_from_quaternion(values: list[float], file: Path, field: str) -> Float[np.ndarray, "4 4"]:
    """Rigid matrix of ``tx ty tz qx qy qz qw``; the quaternion's norm must be 1 within 1e-3."""
    norm = math.hypot(*values[3:])
    if not abs(norm - 1) <= 1e-3:
        problem = "quaternion qx qy qz qw is not of unit length"
        raise Refused(file, field, problem, got=f"length {norm:.4g}", expected="1 ± 0.001")
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_from_quaternion(np.array(values[3:]))
    matrix[:3, 3] = values[:3]
    return matrix


def warn_repaired(deviations: list[tuple[float, str]], file: Path) -> None:
    """One warning for all the poses (deviation, place) that were visibly off orthonormal."""
    off = [item for item in deviations if item[0] > SILENT]
    if off:
        worst, place = max(off)
        text = f"{len(off)} rotations are off orthonormal (worst {worst:.2g}, {place}): repaired"
        warnings.warn(f"{file}: {text}", stacklevel=2)
