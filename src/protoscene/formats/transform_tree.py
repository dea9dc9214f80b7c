"""A robot's frames: who stands where in whom, over time (ROS's ``/tf`` and ``/tf_static``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation, Slerp

from protoscene.errors import Refused
from protoscene.formats.poses import pose_from_quaternion

SLACK = 0.05
"""Seconds by which a pose may be asked for before the first and after the last that is known."""
DEEPEST = 64


class TransformTree:
    """Frames by name, each in its parent; the frame without a parent is the world, +z up."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._parent: dict[str, str] = {}
        self._fixed: dict[str, Float[np.ndarray, "4 4"]] = {}
        self._moving: dict[str, dict[float, Float[np.ndarray, "4 4"]]] = {}

    def add(self, parent: str, child: str, time: float | None, xyz_xyzw: list[float]) -> None:
        """``parent_from_child`` at a time (s), or for good; a quaternion x y z w. Raises Refused: a
        number that is not finite, a quaternion not of unit length, a second parent."""
        field = f"transform {child}"
        if not np.isfinite(xyz_xyzw).all():
            raise Refused(self.file, field, "a number is not finite", expected="finite numbers")
        known = self._parent.setdefault(child, parent)
        if known != parent:
            raise Refused(self.file, field, "frame has two parents", parent, known)
        pose = pose_from_quaternion(xyz_xyzw, self.file, field)
        if time is None:
            self._fixed[child] = pose
        else:
            self._moving.setdefault(child, {})[time] = pose

    def world_from(self, frame: str, time: float) -> Float[np.ndarray, "4 4"] | None:
        """The rigid pose of a frame: between two known times linear, its rotation by the shortest
        arc. None where a part of the way is not known at that time. Raises Refused for a frame that
        no transform names, or a ring of frames."""
        if frame not in self._parent and frame not in self._parent.values():
            problem = "no transform says where this frame is"
            raise Refused(self.file, f"frame {frame}", problem, expected="/tf or /tf_static")
        world_from_frame = np.eye(4)
        for _ in range(DEEPEST):
            if frame not in self._parent:
                return world_from_frame
            step = self._at(frame, time)
            if step is None:
                return None
            world_from_frame = step @ world_from_frame
            frame = self._parent[frame]
        raise Refused(self.file, f"frame {frame}", "frames hang on each other in a ring")

    def _at(self, frame: str, time: float) -> Float[np.ndarray, "4 4"] | None:
        if frame not in self._moving:
            return self._fixed[frame]
        times = np.array(sorted(self._moving[frame]))
        if not times[0] - SLACK <= time <= times[-1] + SLACK:
            return None
        time = float(np.clip(time, times[0], times[-1]))
        after = int(np.searchsorted(times, time))
        pair = times[max(after - 1, 0) : after + 1]
        a, b = (self._moving[frame][t] for t in (pair[0], pair[-1]))
        if time in (pair[0], pair[-1]):
            return a if time == pair[0] else b
        share = (time - pair[0]) / (pair[1] - pair[0])
        pose = np.eye(4)
        turn = Slerp([0.0, 1.0], Rotation.from_matrix(np.stack([a[:3, :3], b[:3, :3]])))
        pose[:3, :3] = turn(share).as_matrix()
        pose[:3, 3] = (1 - share) * a[:3, 3] + share * b[:3, 3]
        return pose
