"""A prototype by itself, from four sides."""

from __future__ import annotations

import math

import numpy as np
import torch

from protoscene.geometry import Camera, look_at
from protoscene.render import render
from protoscene.report.pictures import bytes_from_unit, data_uri
from protoscene.report.shapes import brightened
from protoscene.scene import Scene
from protoscene.volume import Volume

SIDES = (("front", 0.0), ("left", 90.0), ("back", 180.0), ("right", 270.0))
"""Name and yaw (degrees) of where the camera stands; the nose points along +x, yaw 0."""

PIXELS = 160
ABOVE = math.radians(25)
FIELD_OF_VIEW = math.radians(28)
SUN = (0.36, 0.48, 0.8)
"""Unit vector towards the light, prototype's frame."""
PAPER = (0.955, 0.96, 0.966)


def prototype_sides(scene: Scene, k: int, dark: bool) -> list[tuple[str, str]]:
    """(side, data URI) of prototype ``k``, brightened where the scene is ``dark``."""
    rgba = scene.prototypes.rgba(k).detach().float()
    if dark:
        rgba = torch.cat([brightened(rgba[:-1]), rgba[-1:]])
    volume = _shaded(Volume(rgba, scene.prototypes.grid(k)))
    radius = float(np.linalg.norm(scene.sizes_m[k])) / 2
    return [(name, _side(volume, math.radians(yaw), radius)) for name, yaw in SIDES]


def _side(volume: Volume, yaw: float, radius: float) -> str:
    distance = radius / math.sin(FIELD_OF_VIEW / 2)
    towards = [math.cos(yaw) * math.cos(ABOVE), math.sin(yaw) * math.cos(ABOVE), math.sin(ABOVE)]
    focal = PIXELS / 2 / math.tan(FIELD_OF_VIEW / 2)
    middle = PIXELS / 2
    pose = look_at(distance * np.array(towards), np.zeros(3))
    camera = Camera(PIXELS, PIXELS, focal, focal, middle, middle, pose)
    with torch.no_grad():
        picture = render(volume, camera)
    opacity = picture.opacity.numpy()[..., None]
    return data_uri(bytes_from_unit(picture.colour.numpy() + (1 - opacity) * np.array(PAPER)))


def _shaded(volume: Volume) -> Volume:
    """The volume lit from above the front left, so that a thing of one colour shows its shape."""
    hollow = torch.nn.functional.pad(volume.occupancy, (1,) * 6)
    gradients = torch.gradient(hollow)[::-1]  # x y z
    outwards = -torch.stack(gradients)[:, 1:-1, 1:-1, 1:-1]
    outwards = outwards / outwards.norm(dim=0).clamp(min=1e-6)
    facing = torch.einsum("c,czyx->zyx", torch.tensor(SUN), outwards)
    return Volume(
        torch.cat([volume.colour * (0.78 + 0.22 * facing), volume.rgba[-1:]]), volume.grid
    )
