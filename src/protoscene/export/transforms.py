"""A recording written anew in the ``transforms`` layout, with masks of what a scene found in it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from protoscene.errors import Refused
from protoscene.files import check_disk_space, new_folder, write_file
from protoscene.geometry import OPENCV_FROM_OPENGL, Camera
from protoscene.layers import instances
from protoscene.recording import Recording, View
from protoscene.scene import Scene

MOST_ID = 65534
"""Object ids are stored as id + 1 in 16 bits."""
DEPTH_UNIT_M = 0.001
PIXEL_BYTES, FRAME_BYTES = 5, 2**11
"""On the disk, at most: three of colour and two of depth, while masks take next to nothing; of what
begins and ends the pictures, and of the manifest."""

Progress = Callable[[str, int, int], None]
"""(stage, done, total), called as work goes on."""


def write_masked(scene: Scene, recording: Recording, folder: Path, progress: Progress) -> None:
    """Writes ``folder``, complete or not at all: ``transforms.json`` and for each frame
    ``rgb/NAME.png``, ``depth/NAME.png`` (mm, 16-bit; 0 where there is none, or beyond 65.5 m),
    ``instances/NAME.png`` (16-bit: id of the object that is seen there + 1, 0 = none) and
    ``masks/NAME.png`` (white where none is, which is what a trainer of the background may use).

    Cameras are pinhole: distortion is undone. Whose a pixel is comes from the scene, drawn from the
    frame's camera at its time; outside of the scene's times nothing is there. Raises Refused for
    ids that 16 bits do not hold, for a recording without pictures, and where the disk has no room
    for colours and depths that do not compress.
    """
    recording.require_pictures()
    for thing in scene.objects:
        if not 0 <= thing.id <= MOST_ID:
            expected = f"0 to {MOST_ID}"
            raise Refused("scene", "objects", "an id that no mask can hold", thing.id, expected)
    pixels = sum(f.camera.width * f.camera.height for f in recording.frames)
    check_disk_space(folder, PIXEL_BYTES * pixels + FRAME_BYTES * len(recording.frames))
    cameras = {name: k for k, name in enumerate(recording.camera_names)}
    frames = []
    with new_folder(folder) as temporary:
        for part in ("rgb", "depth", "instances", "masks"):
            (temporary / part).mkdir()
        done = 0
        for instant in range(len(recording)):
            for view in recording.views(instant):
                progress("export", done, len(recording.frames))
                name = f"{cameras[view.camera_name]:02d}_{instant:06d}.png"
                whose = instances(scene, view.time, view.camera)
                _write_pictures(temporary, name, view, whose)
                frames.append(_frame(name, view))
                done += 1
        manifest = {
            "camera_model": "PINHOLE",
            "depth_unit_scale_factor": DEPTH_UNIT_M,
            "frames": frames,
        }
        text = json.dumps(manifest, indent=1, allow_nan=False) + "\n"
        write_file(temporary / "transforms.json", text.encode())


def _write_pictures(folder: Path, name: str, view: View, whose: np.ndarray) -> None:
    millimetres = np.rint(view.depth.astype(np.float64) / DEPTH_UNIT_M)
    millimetres[millimetres > np.iinfo(np.uint16).max] = 0
    pictures = {
        "rgb": view.colour,
        "depth": millimetres.astype(np.uint16),
        "instances": whose.astype(np.uint16),
        "masks": np.where(whose == 0, 255, 0).astype(np.uint8),
    }
    for part, pixels in pictures.items():
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "PNG", compress_level=1)
        write_file(folder / part / name, encoded.getvalue())


def _frame(name: str, view: View) -> dict[str, Any]:
    return {
        "file_path": f"rgb/{name}",
        "depth_file_path": f"depth/{name}",
        "mask_path": f"masks/{name}",
        "time": view.time,
        "camera": view.camera_name,
        **_lens(view.camera),
        "transform_matrix": (view.camera.world_from_camera @ OPENCV_FROM_OPENGL).tolist(),
    }


def _lens(camera: Camera) -> dict[str, float]:
    return {
        "w": camera.width,
        "h": camera.height,
        "fl_x": camera.fx,
        "fl_y": camera.fy,
        "cx": camera.cx,
        "cy": camera.cy,
    }
