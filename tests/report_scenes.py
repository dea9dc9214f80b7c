"""A scene to report on, small and made by hand, and what cameras see of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from protoscene.geometry import Camera, Grid, look_at
from protoscene.prototypes import VoxelPrototypes
from protoscene.recording import Frame, Recording, View
from protoscene.render import render
from protoscene.scene import Background, Scene, SceneObject, Track
from protoscene.volume import Volume

TIMES = (0.0, 0.5, 1.0, 1.5, 2.0)
GRID = Grid((-1.6, -1.6, -0.1), 0.05, (32, 64, 64))


def toy_scene() -> Scene:
    """A chequered floor, a red block that drives and turns, a two-coloured post that moves across
    and is away at the last instant."""
    floor = torch.zeros(4, *GRID.shape)
    floor[3, :2] = 1
    _, y, x = np.indices(GRID.shape)
    chequer = torch.from_numpy(((x // 8 + y // 8) % 2).astype(np.float32))
    floor[:3] = torch.tensor([0.55, 0.57, 0.6])[:, None, None, None] + 0.2 * chequer
    block = torch.ones(4, 8, 10, 18)
    block[:3] = torch.tensor([0.8, 0.2, 0.15])[:, None, None, None]
    block[:3, :, :, 14:] = torch.tensor([0.95, 0.85, 0.3])[:, None, None, None]  # its nose
    block[3, 5:, :, 12:] = 0
    post = torch.ones(4, 14, 6, 6)
    post[:3, :7] = torch.tensor([0.15, 0.3, 0.75])[:, None, None, None]
    post[:3, 7:] = torch.tensor([0.2, 0.65, 0.4])[:, None, None, None]
    s = np.linspace(0, 1, 5)
    driving = Track(
        np.array(TIMES),
        np.stack([-0.9 + 1.6 * s, -0.5 + 0.6 * s**2, np.full(5, 0.2)], axis=1),
        0.9 * s,
        np.ones(5),
        np.array([True, True, False, True, True]),
    )
    crossing = Track(
        np.array(TIMES[:4]),
        np.stack([0.7 - 0.2 * s[:4], 0.9 - 1.4 * s[:4], np.full(4, 0.35)], axis=1),
        0.3 * s[:4],
        np.ones(4),
        np.ones(4, dtype=bool),
    )
    sizes = ((0.9, 0.5, 0.4), (0.3, 0.3, 0.7))
    return Scene(
        times=TIMES,
        background=Background(Volume(floor, GRID)),
        prototypes=VoxelPrototypes.from_rgba([block, post], 0.05),
        objects=(
            SceneObject(0, 0, 0.98, True, sizes[0], driving),
            SceneObject(1, 1, 0.91, True, sizes[1], crossing),
        ),
        sizes_m=sizes,
        symmetries=(None, "quarter_turn"),
        made_by={"protoscene": "0.1.0", "command": "discover", "seed": 0},
    )


def toy_recording(
    scene: Scene, names: Sequence[str] = ("left", "right"), height: int = 120
) -> Recording:
    """What cameras see of ``scene``, a little darker and with holes in the depth."""
    frames, views = [], {}
    for time in scene.times:
        volume = scene.compose(time)
        for i, name in enumerate(names):
            angle = -1.9 + 0.8 * i
            eye = 2.6 * np.array([np.cos(angle), np.sin(angle), 0.65])
            pose = look_at(eye, [0, 0, 0.1])
            camera = Camera(160, 120, 150.0, 150.0, 80.0, 60.0, pose).scaled(height / 120)
            with torch.no_grad():
                picture = render(volume, camera)
            colour = (230 * picture.colour.numpy()).clip(0, 255).astype(np.uint8)
            depth = picture.depth.numpy().copy()
            depth[::7] = 0
            views[time, name] = View(camera, name, time, colour, depth)
            frames.append(Frame(time, name, camera, Path("c.png"), Path("d.png")))
    return Recording(Path("toy"), frames, lambda frame: views[frame.time, frame.camera_name])
