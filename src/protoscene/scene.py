"""Scene: a background, prototypes, and objects that place them over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from protoscene.compose import compose
from protoscene.geometry import Grid, wrap_angle
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.volume import Background, Volume


@dataclass(frozen=True, eq=False)
class Track:
    """Where an object was at the instants at which it exists (times strictly increasing)."""

    time: Float[np.ndarray, " n"]
    centre: Float[np.ndarray, "n 3"]
    yaw: Float[np.ndarray, " n"]
    scale: Float[np.ndarray, " n"]
    visible: Bool[np.ndarray, " n"]

    @classmethod
    def through(
        cls, times: tuple[float, ...], instants: Sequence[int], poses: Float[np.ndarray, "n 4"]
    ) -> Track:
        """Of poses x y z yaw at some of a scene's instants, in order: where it was not seen in
        between, it is interpolated."""
        own = np.array([times[i] for i in instants])
        between = range(instants[0], instants[-1] + 1)
        time = np.array([times[i] for i in between])
        centre = np.stack([np.interp(time, own, poses[:, a]) for a in range(3)], axis=1)
        return cls(
            time=time,
            centre=centre,
            yaw=wrap_angle(np.interp(time, own, np.unwrap(poses[:, 3]))),
            scale=np.ones(len(time)),
            visible=np.isin(list(between), instants),
        )

    @classmethod
    def standing(
        cls, times: tuple[float, ...], pose: Float[np.ndarray, "4"], visible: Bool[np.ndarray, " n"]
    ) -> Track:
        """At one pose x y z yaw at all instants."""
        n = len(times)
        return cls(
            time=np.array(times), centre=np.tile(pose[:3], (n, 1)), yaw=np.full(n, pose[3]),
            scale=np.ones(n), visible=visible,
        )  # fmt: skip

    def covers(self, time: float) -> bool:
        """Whether the object exists at ``time``: between its first and last instant."""
        return len(self.time) > 0 and bool(self.time[0] <= time <= self.time[-1])

    def pose(self, time: float) -> tuple[np.ndarray, float, float]:
        """(centre, yaw, scale) at ``time``, linear between instants, yaw the short way round."""
        after = int(np.searchsorted(self.time, time).clip(1, max(len(self.time) - 1, 1)))
        if len(self.time) == 1:
            return self.centre[0], float(self.yaw[0]), float(self.scale[0])
        before = after - 1
        share = (time - self.time[before]) / (self.time[after] - self.time[before])
        share = float(np.clip(share, 0.0, 1.0))
        centre = (1 - share) * self.centre[before] + share * self.centre[after]
        yaw = self.yaw[before] + share * wrap_angle(self.yaw[after] - self.yaw[before])
        scale = (1 - share) * self.scale[before] + share * self.scale[after]
        return centre, float(yaw), float(scale)


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One thing: which prototype, how sure, and its track. ``dims_m`` is length (prototype's own
    x), width, height at scale 1; the box is centred on the track's centre, turned by its yaw."""

    id: int
    prototype: int
    score: float
    moving: bool
    dims_m: tuple[float, float, float]
    track: Track
    kind: str | None = None


@dataclass(frozen=True)
class Mirror:
    """The vertical plane nx x + ny y = ``offset_m`` (own frame, ``normal`` of length 1) of which a
    prototype is a mirror image, and the evidence for it, at most 1."""

    normal: tuple[float, float]
    offset_m: float
    score: float


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything that a recording was explained by. Written and read by ``store``.

    ``objects[i].prototype`` indexes ``prototypes``; ``symmetries[k]`` is the vertical plane of
    which prototype k is a mirror image, a word for the turns that leave it unchanged ("half_turn",
    "quarter_turn", "round"), or None. ``confidence[k]`` (z, y, x) in [0, 1] says how surely each of
    its voxels was seen, or is None; empty where none is known.
    """

    times: tuple[float, ...]
    background: Background
    prototypes: VoxelPrototypes
    objects: tuple[SceneObject, ...]
    sizes_m: tuple[tuple[float, float, float], ...]
    symmetries: Sequence[Mirror | str | None] = ()
    confidence: Sequence[Tensor | None] = ()
    made_by: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def grid(self) -> Grid:
        return self.background.volume.grid

    def at(self, time: float) -> Placements:
        """The objects that exist at ``time`` (seconds), interpolated between instants."""
        present = [o for o in self.objects if o.track.covers(time)]
        poses = [o.track.pose(time) for o in present]
        return Placements(
            which=torch.tensor([o.prototype for o in present], dtype=torch.long),
            centre=torch.tensor(np.array([p[0] for p in poses]).reshape(-1, 3)).float(),
            yaw=torch.tensor([p[1] for p in poses]),
            scale=torch.tensor([p[2] for p in poses]),
        )

    def compose(self, time: float, resolution: int | None = None) -> Volume:
        """Background and objects at ``time`` as one (4, z, y, x) volume.

        On the scene's grid, or, with ``resolution`` N, on N³ voxels from the same origin with the
        grid's longest side.
        """
        grid = self.grid if resolution is None else self.grid.cube(resolution)
        return compose(self.prototypes, self.at(time), grid, background=self.background.volume)
