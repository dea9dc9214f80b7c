"""Writes LiDAR recordings of layout ``kitti`` for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def pose_line(pose: np.ndarray) -> str:
    return " ".join(f"{v:.9g}" for v in pose[:3].ravel()) + "\n"


def write_sweeps(
    folder: Path, clouds: Sequence[np.ndarray], poses: Sequence[np.ndarray], times: Sequence[float]
) -> Path:
    """``clouds`` are rows x y z intensity in the sensor's frame; returns ``folder``."""
    (folder / "velodyne").mkdir(parents=True)
    for k, cloud in enumerate(clouds):
        (folder / f"velodyne/{k:06d}.bin").write_bytes(cloud.astype("<f4").tobytes())
    (folder / "poses.txt").write_text("".join(map(pose_line, poses)))
    (folder / "times.txt").write_text("".join(f"{time:.4f}\n" for time in times))
    return folder
