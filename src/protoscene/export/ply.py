"""A scene at one time as a coloured mesh, binary PLY."""

from __future__ import annotations

import numpy as np

from protoscene.geometry import rotation_from_yaw
from protoscene.scene import Scene
from protoscene.surface import background_faces, visible_faces, welded
from protoscene.volume import Volume

VERTEX = [("xyz", "<f8", 3), ("rgb", "u1", 3)]
FACE = [("count", "u1"), ("corners", "<i4", 3)]


def scene_ply(scene: Scene, time: float) -> bytes:
    """Background and objects at ``time`` (s) as one binary little-endian PLY: world metres, +z up,
    sRGB colours at the vertices. The triangles are the faces of voxels."""
    corners, colours = (list(part) for part in zip(background_faces(scene.background), strict=True))
    for thing in scene.objects:
        if thing.track.covers(time):
            k, (centre, yaw, scale) = thing.prototype, thing.track.pose(time)
            volume = Volume(scene.prototypes.rgba(k), scene.prototypes.grid(k))
            own, rgb = visible_faces(volume, closed=True)
            corners.append(scale * own @ rotation_from_yaw(yaw).T + centre)
            colours.append(rgb)
    return _ply(np.concatenate(corners), np.concatenate(colours))


def _ply(corners: np.ndarray, colours: np.ndarray) -> bytes:
    """Quads (n, 4, 3) with colours (n, 3) as a PLY file."""
    places, rgb, quads = welded(corners, colours)
    vertices = np.empty(len(places), dtype=VERTEX)
    vertices["xyz"], vertices["rgb"] = places, np.rint(rgb)
    faces = np.empty(2 * len(corners), dtype=FACE)
    faces["count"] = 3
    faces["corners"] = quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
    header += [f"property double {axis}" for axis in "xyz"]
    header += [f"property uchar {name}" for name in ("red", "green", "blue")]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
    text = "\n".join([*header, "end_header\n"]).encode()
    return text + vertices.tobytes() + faces.tobytes()
