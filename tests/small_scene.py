"""A scene of a few voxels with everything in it that a scene may have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from protoscene.geometry import Grid
from protoscene.prototypes import VoxelPrototypes
from protoscene.scene import Scene, SceneObject, Track
from protoscene.volume import Background, Outside, Volume


def a_scene(seed: int = 0) -> Scene:
    make = torch.Generator().manual_seed(seed)
    grid = Grid((-0.4, 0.1, -0.05), 0.1, (3, 4, 5))
    around = Grid((-2.0, -2.0, -1.0), 1.0, (2, 4, 4))
    outside = Outside(
        Volume(torch.rand(4, 2, 4, 4, generator=make), around), torch.rand(3, generator=make)
    )
    rgba = [torch.rand(4, 2, 3, 4, generator=make), torch.rand(4, 5, 2, 2, generator=make)]
    numbers = np.random.default_rng(seed)
    track = Track(
        time=np.array([0.0, 1 / 3]),
        centre=numbers.normal(size=(2, 3)),
        yaw=numbers.normal(size=2),
        scale=np.array([1.0, 1.1]),
        visible=np.array([True, False]),
    )
    still = replace(track, time=track.time[:1], centre=-track.centre[:1], yaw=np.array([-0.0]),
                    scale=track.scale[:1], visible=track.visible[:1])  # fmt: skip
    return Scene(
        times=(0.0, 1 / 3),
        background=Background(Volume(torch.rand(4, 3, 4, 5, generator=make), grid), outside),
        prototypes=VoxelPrototypes(rgba, [0.1, 0.05]),
        objects=(
            SceneObject(0, 1, 0.97, True, (0.1, 0.1, 0.25), track),
            SceneObject(7, 0, 0.6, False, (0.4, 0.3, 0.2), still, kind="carton"),
        ),
        sizes_m=((0.4, 0.3, 0.2), (0.1, 0.1, 0.25)),
        symmetries=(None, "half_turn"),
        confidence=(torch.rand(2, 3, 4, generator=make), None),
        made_by={"command": "discover", "seed": 0, "recording_sha256": "0" * 64},
    )
