"""A scene drawn thing by thing: each prototype on its own voxels, the nearest surface in front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int

from protoscene.geometry import Camera, Grid, rotation_from_yaw
from protoscene.render import render
from protoscene.scene import Scene
from protoscene.volume import Volume

OPAQUE = 0.5
"""A pixel whose light a thing stops by more than this shows that thing and nothing behind it."""


def draw(
    scene: Scene, time: float, camera: Camera
) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]:
    """Colour in [0, 1] and z-depth (m, 0 = nothing) of ``scene`` at ``time`` (s), opaque.

    Background and things are rendered one by one, a thing from the camera as its own frame sees
    it, so that its detail is its prototype's and not the scene grid's; per pixel the nearest
    surface whose opacity is above ``OPAQUE`` is shown, as if it stopped all light.
    """
    seen = _drawn(scene, time, camera)
    return seen.colour.clip(0, 1), np.where(np.isfinite(seen.nearest), seen.nearest, 0.0)


def instances(scene: Scene, time: float, camera: Camera) -> Int[np.ndarray, "h w"]:
    """Whose surface :func:`draw` shows in each pixel: the object's id + 1, 0 for none."""
    return _drawn(scene, time, camera).whose


@dataclass(frozen=True, eq=False)
class _Drawing:
    """Per pixel the nearest surface so far: its colour, z-depth (m, inf = none) and whose it is."""

    colour: Float[np.ndarray, "h w 3"]
    nearest: Float[np.ndarray, "h w"]
    whose: Int[np.ndarray, "h w"]

    def show(self, volume: Volume, camera: Camera, whose: int) -> None:
        """Draws ``volume`` where it is nearer than what is there."""
        view, rows, columns = _window(camera, volume.grid)
        if view.width < 1 or view.height < 1:
            return
        with torch.no_grad():
            picture = render(volume, view)
        opacity, here = picture.opacity.double().numpy(), picture.depth.double().numpy()
        shown = (opacity > OPAQUE) & (here < self.nearest[rows, columns])
        self.nearest[rows, columns][shown] = here[shown]
        self.whose[rows, columns][shown] = whose
        # Behind the thing is black, so its own colour is what came, made whole.
        pure = (picture.colour.double().numpy()[shown].T / opacity[shown]).T
        self.colour[rows, columns][shown] = pure


def _drawn(scene: Scene, time: float, camera: Camera) -> _Drawing:
    background = scene.background
    with torch.no_grad():
        back = render(_without(background.volume, background.detail), camera, background.outside)
    depth = back.depth.double().numpy()
    nearest = np.where(depth > 0, depth, np.inf)
    seen = _Drawing(back.colour.double().numpy(), nearest, np.zeros(depth.shape, dtype=np.int64))
    for part in background.detail:
        seen.show(part, camera, 0)
    for thing in scene.objects:
        if not thing.track.covers(time):
            continue
        k, (centre, yaw, scale) = thing.prototype, thing.track.pose(time)
        own = scene.prototypes.grid(k)
        x, y, z = (scale * v for v in own.origin)
        grid = Grid((x, y, z), scale * own.voxel_size, own.shape)
        volume = Volume(scene.prototypes.rgba(k), grid)
        seen.show(volume, _seen_from(camera, centre, yaw), thing.id + 1)
    return seen


def _without(volume: Volume, parts: Sequence[Volume]) -> Volume:
    """``volume``, empty where one of the ``parts`` stands for it."""
    if not parts:
        return volume
    rgba = volume.rgba.clone()
    for part in parts:
        first, last = (
            np.rint(volume.grid.voxel_from_world(corner)).astype(int).clip(min=0)
            for corner in (part.grid.lower, part.grid.upper)
        )
        (x0, y0, z0), (x1, y1, z1) = first, last
        rgba[-1, z0:z1, y0:y1, x0:x1] = 0
    return Volume(rgba, volume.grid)


def _seen_from(camera: Camera, centre: Float[np.ndarray, "3"], yaw: float) -> Camera:
    """The camera in the frame of a thing that stands at ``centre`` (m), turned by ``yaw`` (rad)."""
    own_from_world = rotation_from_yaw(yaw).T
    own_from_camera = camera.world_from_camera.copy()
    own_from_camera[:3, :3] = own_from_world @ own_from_camera[:3, :3]
    own_from_camera[:3, 3] = own_from_world @ (own_from_camera[:3, 3] - centre)
    return replace(camera, world_from_camera=own_from_camera)


def _window(camera: Camera, grid: Grid) -> tuple[Camera, slice, slice]:
    """The part of the picture that the grid's box covers, as a camera, its rows and columns; all
    of it where the box reaches behind the camera."""
    corners = np.stack(np.meshgrid(*np.stack([grid.lower, grid.upper]).T), -1).reshape(-1, 3)
    seen = camera.project(corners)
    left, top, right, bottom = 0, 0, camera.width, camera.height
    if (seen[:, 2] > 1e-3).all():
        first = np.floor(seen[:, :2].min(axis=0)).astype(int)
        last = np.ceil(seen[:, :2].max(axis=0)).astype(int)
        left, top = max(left, int(first[0])), max(top, int(first[1]))
        right, bottom = min(right, int(last[0])), min(bottom, int(last[1]))
    part = replace(
        camera, width=right - left, height=bottom - top, cx=camera.cx - left, cy=camera.cy - top
    )
    return part, slice(top, bottom), slice(left, right)
