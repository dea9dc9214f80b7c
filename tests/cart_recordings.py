"""Recordings of the cart on two paths, written to disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from moving_boxes import Box, cart, ring, views_of
from moving_cart import smooth
from protoscene.geometry import Camera

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
STAYS = Box((-0.2, 0.75, 0.25), (0.4, 0.3, 0.5), 0.4, (60, 60, 220), thing=2)
PATHS = [smooth(8), smooth(8) * [1, -1, -1]]
VOXEL = 0.05


def write_recording(folder: Path, path: np.ndarray, cameras: list[Camera] | None = None) -> Path:
    """The cart at each row x y yaw of ``path``, in the ``transforms`` layout."""
    folder.mkdir(parents=True)
    frames = []
    for i, (x, y, yaw) in enumerate(path):
        views, _ = views_of(cameras or views_from(), [*cart(x, y, yaw), STAYS], 0.1 * i)
        for view in views:
            name = f"{view.camera_name}-{i}"
            Image.fromarray(view.colour).save(folder / f"{name}.png")
            depth = np.round(view.depth * 1000).astype(np.uint16)
            Image.fromarray(depth).save(folder / f"{name}-depth.png")
            c = view.camera
            frames.append({
                "file_path": f"{name}.png", "depth_file_path": f"{name}-depth.png", "time": 0.1 * i,
                "camera": view.camera_name, "w": c.width, "h": c.height, "fl_x": c.fx,
                "fl_y": c.fy, "cx": c.cx, "cy": c.cy,
                "transform_matrix": (c.world_from_camera @ OPENGL).tolist(),
            })  # fmt: skip
    manifest = {"depth_unit_scale_factor": 1e-3, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(manifest))
    return folder


def views_from() -> list[Camera]:
    return ring(2, width=144, height=108, focal=135)


def write_both(folder: Path) -> list[Path]:
    return [write_recording(folder / f"r{k}", path) for k, path in enumerate(PATHS)]
