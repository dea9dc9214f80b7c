"""A scene drawn thing by thing: each prototype on its own voxels, the nearest surface in front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float

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
    background = scene.background
    with torch.no_grad():
        back = render(_without(background.volume, background.detail), camera, background.outside)
    colour, depth = back.colour.double().numpy(), back.depth.double().numpy()
    nearest = np.where(depth > 0, depth, np.inf)
    for part in background.detail:
        _show(part, camera, colour, nearest)
    placed = scene.at(time)
    for which, centre, yaw, scale in zip(
        placed.which.tolist(), placed.centre.double().numpy(), placed.yaw.tolist(),
        placed.scale.tolist(), strict=True,
    ):  # fmt: skip
        own = scene.prototypes.grid(which)
        grid = Grid(tuple(scale * v for v in own.origin), scale * own.voxel_size, own.shape)
        volume = Volume(scene.prototypes.rgba(which), grid)
        _show(volume, _seen_from(camera, centre, yaw), colour, nearest)
    return colour.clip(0, 1), np.where(np.isfinite(nearest), nearest, 0.0)


def _show(
    volume: Volume, camera: Camera, colour: Float[np.ndarray, "h w 3"],
    nearest: Float[np.ndarray, "h w"],
) -> None:  # fmt: skip
    """Draws ``volume`` over ``colour``, in place, where it is nearer than ``nearest`` (z-depth)."""
    view, rows, columns = _window(camera, volume.grid)
    if view.width < 1 or view.height < 1:
        return
    with torch.no_grad():
        picture = render(volume, view)
    opacity, here = picture.opacity.double().numpy(), picture.depth.double().numpy()
    shown = (opacity > OPAQUE) & (here < nearest[rows, columns])
    nearest[rows, columns][shown] = here[shown]
    # Behind the thing is black, so its own colour is what came, made whole.
    colour[rows, columns][shown] = (picture.colour.double().numpy()[shown].T / opacity[shown]).T


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
