"""A posed recording: instants, each seen by cameras with depth or by a LiDAR, read lazily.

A format (``formats/``) lists the frames and knows how to read one; everything else sees only
:class:`Recording`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from protoscene.errors import Refused
from protoscene.geometry import Camera

CACHE_BYTES = 256 * 2**20
"""Decoded pictures kept in memory, so that the passes over a short recording decode it once."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of one camera at one time, not yet read. Files are inside the recording."""

    time: float
    camera_name: str
    camera: Camera
    colour_file: Path
    depth_file: Path


@dataclass(frozen=True, eq=False)
class View:
    """One picture, read: colour in 0..255, z-depth in metres with 0 where nothing returned."""

    camera: Camera
    camera_name: str
    time: float
    colour: UInt8[np.ndarray, "h w 3"]
    depth: Float[np.ndarray, "h w"]


@dataclass(frozen=True, eq=False)
class SweepEntry:
    """One turn of a LiDAR, not yet read; ``world_from_sensor`` is a rigid (4, 4) matrix."""

    time: float
    world_from_sensor: Float[np.ndarray, "4 4"]
    file: Path


@dataclass(frozen=True, eq=False)
class Sweep:
    """One turn of a LiDAR, read: where its rays ended (sensor frame, metres; the sensor is at the
    origin) and how much came back, in [0, 1]."""

    time: float
    world_from_sensor: Float[np.ndarray, "4 4"]
    points: Float[np.ndarray, "n 3"]
    intensity: Float[np.ndarray, " n"]

    @property
    def world_points(self) -> Float[np.ndarray, "n 3"]:
        """The ends of the rays in the world, float64."""
        rotation, translation = self.world_from_sensor[:3, :3], self.world_from_sensor[:3, 3]
        return self.points.astype(np.float64) @ rotation.T + translation


class Recording:
    """Instants × views. ``frames`` in time order; those of equal time are one instant. Of a LiDAR
    there are ``sweeps`` instead, one an instant.

    ``read(frame)`` returns the frame's view, ``read_sweep(entry)`` the sweep; they raise
    :class:`protoscene.errors.Refused`, naming the file, where they cannot. ``source`` is what the
    user gave, for messages. ``sha256`` is the hash of every file used, or a function that finds it
    when it is first asked for.
    """

    def __init__(
        self,
        source: Path,
        frames: list[Frame],
        read: Callable[[Frame], View] | None = None,
        sha256: str | Callable[[], str] = "",
        sweeps: Sequence[SweepEntry] = (),
        read_sweep: Callable[[SweepEntry], Sweep] | None = None,
    ) -> None:
        self.source = source
        self.sweeps = sorted(sweeps, key=lambda s: s.time)
        self._read_sweep = read_sweep
        self.frames = sorted(frames, key=lambda f: (f.time, f.camera_name))
        self._sha256 = sha256
        self._read = read
        self._cache: OrderedDict[int, View] = OrderedDict()
        self._cached_bytes = 0
        self.times = tuple(sorted({f.time for f in self.frames} | {s.time for s in self.sweeps}))
        self._instants: list[list[int]] = [[] for _ in self.times]
        place = {time: i for i, time in enumerate(self.times)}
        for i, frame in enumerate(self.frames):
            self._instants[place[frame.time]].append(i)

    def __len__(self) -> int:
        """Number of instants."""
        return len(self.times)

    @property
    def sha256(self) -> str:
        if not isinstance(self._sha256, str):
            self._sha256 = self._sha256()
        return self._sha256

    @property
    def camera_names(self) -> tuple[str, ...]:
        return tuple(sorted({f.camera_name for f in self.frames}))

    def view(self, index: int) -> View:
        """The view of ``frames[index]``, from the cache or from disk."""
        if index in self._cache:
            self._cache.move_to_end(index)
            return self._cache[index]
        assert self._read is not None
        view = self._read(self.frames[index])
        self._cache[index] = view
        self._cached_bytes += view.colour.nbytes + view.depth.nbytes
        while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
            _, old = self._cache.popitem(last=False)
            self._cached_bytes -= old.colour.nbytes + old.depth.nbytes
        return view

    def require_pictures(self) -> None:
        """Raises Refused where there are LiDAR sweeps instead, for what works on pictures."""
        if self.sweeps:
            problem = "holds LiDAR sweeps, and this works on pictures"
            raise Refused(self.source, "recording", problem, "kitti", "colour and depth")

    def sweep(self, index: int) -> Sweep:
        """The points of ``sweeps[index]``, from disk."""
        assert self._read_sweep is not None
        return self._read_sweep(self.sweeps[index])

    @property
    def cached_bytes(self) -> int:
        """Of the pictures that are kept decoded."""
        return self._cached_bytes

    def forget(self) -> None:
        """Empty the cache: for who reads many recordings and keeps what was read."""
        self._cache.clear()
        self._cached_bytes = 0

    def frames_at(self, instant: int) -> list[int]:
        """Indices into ``frames`` of one instant."""
        return self._instants[instant]

    def views(self, instant: int) -> Iterator[View]:
        """The views of one instant, read one at a time."""
        for index in self._instants[instant]:
            yield self.view(index)
