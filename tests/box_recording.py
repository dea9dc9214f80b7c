"""A small recording with known truth, ray-cast in plain numpy, written in each layout."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 64, 48
FX, FY, CX, CY = 60.0, 61.0, 31.0, 24.5
OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])

BOXES = [  # lower corner, upper corner, colour; the last one moves along x
    ((-0.8, 0.2, 0.0), (-0.4, 0.7, 0.5), (200, 40, 40)),
    ((0.2, -0.4, 0.0), (0.5, 0.1, 0.3), (40, 60, 220)),
]


@dataclass
class Shot:
    """Truth of one picture: world_from_camera with OpenCV axes, z-depth in metres."""

    camera: int
    time: float
    pose: np.ndarray
    colour: np.ndarray
    depth: np.ndarray


def pixel_directions() -> np.ndarray:
    """(h, w, 3) camera directions through pixel centres, one metre of z-depth long."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    x, y = (columns + 0.5 - CX) / FX, (rows + 0.5 - CY) / FY
    return np.stack([x, y, np.ones_like(x)], axis=-1)


def cast(pose: np.ndarray, directions: np.ndarray, time: float) -> tuple[np.ndarray, np.ndarray]:
    """Colour and z-depth along camera directions: the floor z = 0 and the boxes."""
    rays, eye = directions @ pose[:3, :3].T, pose[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = np.where(rays[..., 2] < 0, -eye[2] / rays[..., 2], np.inf)
        point = eye + rays * depth[..., None]
        checks = (np.floor(point[..., 0] * 4) + np.floor(point[..., 1] * 4)) % 2
        colour = np.where(checks[..., None] == 1, [180, 170, 150], [90, 100, 110])
        for i, (lower, upper, paint) in enumerate(BOXES):
            shift = np.array([0.1 * time if i == 1 else 0.0, 0.0, 0.0])
            near, far = (lower + shift - eye) / rays, (upper + shift - eye) / rays
            enters = np.minimum(near, far).max(axis=-1)
            hit = (enters <= np.maximum(near, far).min(axis=-1)) & (enters > 0) & (enters < depth)
            depth = np.where(hit, enters, depth)
            colour = np.where(hit[..., None], paint, colour)
    seen = np.isfinite(depth) & (depth < 8)
    return np.where(seen[..., None], colour, 20).astype(np.uint8), np.where(seen, depth, 0.0)


def pose_at(camera: int, step: int) -> np.ndarray:
    """A camera that moves a little with every step and looks at the boxes."""
    angle = 0.6 + 1.3 * camera + 0.05 * step
    eye = np.array([2.0 * np.cos(angle), 2.0 * np.sin(angle), 1.4])
    forward = np.array([0.0, 0.0, 0.2]) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = eye
    return pose


def shots(n_instants: int = 3, n_cameras: int = 2) -> list[Shot]:
    """Depth in whole fifths of a millimetre with some holes, so that every layout holds it."""
    rng = np.random.default_rng(0)
    taken = []
    for step in range(n_instants):
        for camera in range(n_cameras):
            pose = pose_at(camera, step)
            colour, depth = cast(pose, pixel_directions(), 0.5 * step)
            depth = np.round(depth, 3)
            depth[rng.random(depth.shape) < 0.05] = 0.0
            taken.append(Shot(camera, 0.5 * step, pose, colour, depth))
    return taken


def write_png(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def manifest_of(taken: list[Shot]) -> dict[str, Any]:
    """``transforms.json`` of these shots."""
    frames = [
        {
            "file_path": f"rgb/{shot.camera}_{i:03d}.png",
            "depth_file_path": f"depth/{shot.camera}_{i:03d}.png",
            "time": shot.time,
            "camera": f"cam{shot.camera}",
            "transform_matrix": (shot.pose @ OPENGL).tolist(),
        }
        for i, shot in enumerate(taken)
    ]
    top = {"camera_model": "PINHOLE", "w": WIDTH, "h": HEIGHT}
    focal = {"fl_x": FX, "fl_y": FY, "cx": CX, "cy": CY, "depth_unit_scale_factor": 0.001}
    return {**top, **focal, "frames": frames}


def write_manifest(folder: Path, manifest: Any) -> None:
    (folder / "transforms.json").write_text(json.dumps(manifest))


def write_transforms(folder: Path, taken: list[Shot]) -> dict[str, Any]:
    """The layout ``transforms``; returns the manifest."""
    manifest = manifest_of(taken)
    for frame, shot in zip(manifest["frames"], taken, strict=True):
        write_png(folder / frame["file_path"], shot.colour)
        write_png(folder / frame["depth_file_path"], np.round(shot.depth * 1000).astype(np.uint16))
    write_manifest(folder, manifest)
    return manifest


def quaternion_of(rotation: np.ndarray) -> np.ndarray:
    """x y z w: the eigenvector of eigenvalue 1 of Bar-Itzhack's matrix."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    k = np.array(
        [
            [xx - yy - zz, yx + xy, zx + xz, zy - yz],
            [yx + xy, yy - xx - zz, zy + yz, xz - zx],
            [zx + xz, zy + yz, zz - xx - yy, yx - xy],
            [zy - yz, xz - zx, yx - xy, xx + yy + zz],
        ]
    )
    return np.linalg.eigh(k)[1][:, -1]


def write_tum(folder: Path, taken: list[Shot]) -> None:
    """The layout ``tum``: depth is 5 ms late, poses are 2 ms early and come twice as often."""
    lists: dict[str, list[str]] = {"rgb": [], "depth": [], "groundtruth": []}
    for i, shot in enumerate(taken):
        time = shot.time + 100
        write_png(folder / f"rgb/{i}.png", shot.colour)
        write_png(folder / f"depth/{i}.png", np.round(shot.depth * 5000).astype(np.uint16))
        lists["rgb"].append(f"{time:.6f} rgb/{i}.png")
        lists["depth"].append(f"{time + 0.005:.6f} depth/{i}.png")
        values = [*shot.pose[:3, 3], *quaternion_of(shot.pose[:3, :3])]
        line = " ".join(f"{value:.9f}" for value in values)
        lists["groundtruth"] += [f"{time - 0.002:.6f} {line}", f"{time + 0.25:.6f} {line}"]
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("# timestamp …\n" + "\n".join(lines) + "\n")
    (folder / "calibration.txt").write_text(f"# fx fy cx cy\n{FX} {FY} {CX} {CY}\n")


def write_seven_scenes(folder: Path, taken: list[Shot]) -> None:
    """The layout ``7scenes``; what returned nothing is 0 or 65535."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, shot in enumerate(taken):
        depth = np.round(shot.depth * 1000).astype(np.uint16)
        depth[::2][depth[::2] == 0] = 65535
        write_png(folder / f"frame-{i:06d}.color.png", shot.colour)
        write_png(folder / f"frame-{i:06d}.depth.png", depth)
        rows = "\n".join("\t".join(f"{v:.9e}" for v in row) for row in shot.pose)
        (folder / f"frame-{i:06d}.pose.txt").write_text(rows + "\n")
    matrix = f"{FX} 0 {CX}\n0 {FY} {CY}\n0 0 1\n"
    (folder / "camera-intrinsics.txt").write_text(matrix)


WRITERS = {"transforms": write_transforms, "tum": write_tum, "7scenes": write_seven_scenes}
