"""Boxes and tracks as KITTI tracking labels: text, a line for each object and instant."""

from __future__ import annotations

import math

import numpy as np

from protoscene.geometry import wrap_angle
from protoscene.scene import Scene

UNKNOWN_2D = "-10.000000 -1.000000 -1.000000 -1.000000 -1.000000"
"""The viewing angle and the box in a picture: labels of a scene belong to no camera."""


def scene_kitti(scene: Scene) -> bytes:
    """KITTI tracking labels with scores, 18 columns, in the order of frames and then of ids:

        frame id type truncated occluded alpha left top right bottom h w l x y z rotation_y score

    ``frame`` counts the scene's instants; metres and radians. KITTI's axes (x right, y down, z
    forward) here are fixed in the world: x = −our y, y = −our z, z = our x, as of a camera at the
    world's origin that looks along our +x. ``x y z`` is the middle of the box's bottom face, ``h w
    l`` its size, and ``rotation_y`` = −yaw − π/2, in [−π, π), is 0 where its length lies along x.
    ``type`` is Misc, ``occluded`` 0 where a sensor saw it and 2 where none did; what belongs to a
    picture is -1 (alpha: -10).
    """
    times, lines = np.array(scene.times), []
    for thing in scene.objects:
        track = thing.track
        for i, time in enumerate(track.time.tolist()):
            length, width, height = (float(track.scale[i]) * side for side in thing.dims_m)
            x, y, z = track.centre[i].tolist()
            turn = float(wrap_angle(-track.yaw[i] - math.pi / 2))
            numbers = [height, width, length, -y, height / 2 - z, x, turn, float(thing.score)]
            seen = 0 if track.visible[i] else 2
            frame = int(np.argmin(np.abs(times - time)))
            text = " ".join(f"{number:.6f}" for number in numbers)
            lines.append((frame, thing.id, f"Misc -1 {seen} {UNKNOWN_2D} {text}"))
    return "".join(f"{frame} {id} {rest}\n" for frame, id, rest in sorted(lines)).encode()
