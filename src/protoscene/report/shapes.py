"""What the 3-D view draws, as numbers in one run of bytes that its script unpacks."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from protoscene.scene import Scene
from protoscene.surface import OCCUPIED, at_most, background_faces, visible_faces, welded
from protoscene.volume import Volume

BACKGROUND_FACES = 150_000
PROTOTYPE_FACES = 40_000
ALL_FACES = 200_000
"""Of all prototypes together, and of all objects that are there at once."""
STEPS = 65535
"""A place is three 16-bit numbers between the corners of what it belongs to."""
DARK = 0.25
COMPRESSION = 6


class Bytes:
    """Arrays one after another, each beginning at a multiple of four bytes, little-endian. Where
    ``dark``, colours are brightened."""

    def __init__(self, dark: bool) -> None:
        self.data = bytearray()
        self.dark = dark

    def add(self, values: np.ndarray) -> int:
        """Where ``values`` begin."""
        start = len(self.data)
        raw = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<")).tobytes()
        self.data += raw + b"\0" * (-len(raw) % 4)
        return start

    def text(self) -> str:
        """All of it, compressed (zlib), in base64."""
        return base64.b64encode(zlib.compress(bytes(self.data), COMPRESSION)).decode("ascii")

    def places(
        self, points: Float[np.ndarray, "n 3"], colours: UInt8[np.ndarray, "n 3"]
    ) -> dict[str, Any]:
        """Adds coloured points and says where they are: ``lower`` + ``step`` · uint16, metres."""
        lower, upper = np.zeros(3), np.ones(3)
        if len(points):
            lower, upper = points.min(axis=0), points.max(axis=0)
        step = max(float((upper - lower).max()), 1e-6) / STEPS
        numbers = np.rint((points - lower) / step).astype(np.uint16)
        if self.dark:
            colours = np.rint(255 * brightened(colours / 255)).astype(np.uint8)
        return {
            "lower": lower.tolist(), "step": step, "n": len(points),
            "places": self.add(numbers), "colours": self.add(colours),
        }  # fmt: skip

    def mesh(
        self, corners: Float[np.ndarray, "n 4 3"], colours: UInt8[np.ndarray, "n 3"]
    ) -> dict[str, Any]:
        """Adds faces that share their vertices, and says where they are."""
        vertices, rgb, quads = welded(corners, colours)
        return {
            **self.places(vertices, np.rint(rgb).astype(np.uint8)),
            "n_faces": len(quads),
            "faces": self.add(quads.astype(np.uint32)),
        }


def brightened(grey: Any) -> Any:
    """0.28 + 0.64 √grey, in [0, 1]: an array or a tensor."""
    return 0.28 + 0.64 * grey**0.5


def is_dark(scene: Scene) -> bool:
    """Whether the background is grey and mostly black, as what a LiDAR gets back is."""
    volume = scene.background.volume
    rgb = volume.colour[:, volume.occupancy >= OCCUPIED]
    return rgb.numel() > 0 and bool((rgb == rgb[:1]).all()) and float(rgb.median()) < DARK


def background_mesh(
    pack: Bytes, scene: Scene, origin: Float[np.ndarray, "3"]
) -> dict[str, Any] | None:
    """The background around ``origin``: with its detail where that is not too much to draw, else
    without, in voxels large enough."""
    corners, colours = background_faces(scene.background)
    if len(corners) > BACKGROUND_FACES:
        coarse = at_most(scene.background.volume, BACKGROUND_FACES)
        corners, colours = visible_faces(coarse, closed=False)
    return pack.mesh(corners - origin, colours) if len(corners) else None


def prototype_meshes(pack: Bytes, scene: Scene) -> list[dict[str, Any] | None]:
    """Each prototype in its own frame, those that no object uses or that are empty as None."""
    used = {thing.prototype for thing in scene.objects}
    n_faces = min(PROTOTYPE_FACES, ALL_FACES // max(1, _most_at_once(scene), len(used)))
    meshes: list[dict[str, Any] | None] = []
    for k in range(len(scene.prototypes)):
        mesh = None
        if k in used:
            volume = Volume(scene.prototypes.rgba(k), scene.prototypes.grid(k))
            corners, colours = visible_faces(at_most(volume, n_faces), closed=True)
            mesh = pack.mesh(corners, colours) if len(corners) else None
        meshes.append(mesh)
    return meshes


def _most_at_once(scene: Scene) -> int:
    first = np.array([thing.track.time[0] for thing in scene.objects])
    last = np.array([thing.track.time[-1] for thing in scene.objects])
    return max(int(((first <= time) & (time <= last)).sum()) for time in scene.times)
