"""A strip per object: the recorded pictures cropped around its box, from the camera that sees most
of it at each instant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from protoscene.geometry import rotation_from_yaw
from protoscene.recording import Recording, View
from protoscene.report.palette import object_colour
from protoscene.report.pictures import NOTHING, data_uri
from protoscene.report.wireframe import box_at
from protoscene.scene import Scene, SceneObject

MAX_INSTANTS = 24
MAX_CROPS = 240
CROP_PIXELS = 112
ROOM = 1.35
"""Side of a crop in units of the box's larger side on the picture."""
STRIDE = 2
"""Every second pixel and row is enough to tell which camera sees most."""


@dataclass(frozen=True, eq=False)
class Crop:
    """One instant of one object. ``picture`` is a data URI, or None where no camera faces it."""

    time: float
    picture: str | None
    seen: bool


@dataclass(frozen=True, eq=False)
class _Candidate:
    view: View
    returns: int
    lines: np.ndarray


def evenly(items: Sequence[float], n: int) -> list[float]:
    """At most ``n`` of ``items``, evenly spread, first and last included."""
    if len(items) <= n:
        return list(items)
    return [items[round(i)] for i in np.linspace(0, len(items) - 1, n)]


def object_strips(
    scene: Scene, objects: Sequence[SceneObject], recording: Recording
) -> dict[int, list[Crop]]:
    """Crops by object id, over at most 24 instants: fewer where there are many objects."""
    n = max(4, min(MAX_INSTANTS, MAX_CROPS // max(1, len(objects))))
    instants = {time: i for i, time in enumerate(recording.times)}
    strips: dict[int, list[Crop]] = {thing.id: [] for thing in objects}
    for time in evenly([t for t in scene.times if t in instants], n):
        best: dict[int, _Candidate] = {}
        for view in recording.views(instants[time]):
            points = _returns(view)
            for thing in objects:
                candidate = _candidate(thing, time, view, points, scene.grid.voxel_size)
                if candidate and (
                    thing.id not in best or best[thing.id].returns < candidate.returns
                ):
                    best[thing.id] = candidate
        for thing in objects:
            if thing.track.covers(time):
                strips[thing.id].append(_crop(thing, time, best.get(thing.id)))
    return strips


def _returns(view: View) -> np.ndarray:
    """World points (n, 3) of the view's depth, thinned out."""
    depth = view.depth[::STRIDE, ::STRIDE]
    rays = view.camera.directions()[::STRIDE, ::STRIDE]
    known = np.isfinite(depth) & (depth > 0)
    return view.camera.centre + rays[known] * depth[known][:, None]


def _candidate(
    thing: SceneObject, time: float, view: View, points: np.ndarray, margin: float
) -> _Candidate | None:
    """The view, with how many returns fall into the box; None where the box is not before it."""
    if not thing.track.covers(time):
        return None
    lines = view.camera.project(box_at(thing, time))
    middle = lines[..., :2].reshape(-1, 2).mean(axis=0)
    inside = (middle > 0).all() and (middle < [view.camera.width, view.camera.height]).all()
    if lines[..., 2].min() <= 0 or not inside:
        return None
    centre, yaw, scale = thing.track.pose(time)
    local = np.abs((points - centre) @ rotation_from_yaw(yaw))
    within = (local <= scale * np.array(thing.dims_m) / 2 + margin).all(axis=-1)
    return _Candidate(view, int(within.sum()), lines[..., :2])


def _crop(thing: SceneObject, time: float, candidate: _Candidate | None) -> Crop:
    nearest = int(np.abs(thing.track.time - time).argmin())
    seen = bool(thing.track.visible[nearest])
    if candidate is None:
        return Crop(time, None, seen)
    flat = candidate.lines.reshape(-1, 2)
    lower, upper = flat.min(axis=0), flat.max(axis=0)
    side = max(16.0, ROOM * float((upper - lower).max()))
    corner = (lower + upper) / 2 - side / 2
    picture = _cut(candidate.view.colour, corner, side)
    draw = ImageDraw.Draw(picture)
    for start, end in (candidate.lines - corner) * (CROP_PIXELS / side):
        draw.line([*start, *end], fill=object_colour(thing.id), width=1)
    return Crop(time, data_uri(np.asarray(picture)), seen)


def _cut(colour: np.ndarray, corner: np.ndarray, side: float) -> Image.Image:
    """The square at ``corner`` (u, v) of ``side`` pixels; grey beyond the picture's border."""
    low = np.floor(corner).astype(int)
    high = np.ceil(corner + side).astype(int)
    canvas = np.empty((high[1] - low[1], high[0] - low[0], 3), dtype=np.uint8)
    canvas[:] = NOTHING
    top, left = np.maximum(low[::-1], 0)
    bottom, right = np.minimum(high[::-1], colour.shape[:2])
    if bottom > top and right > left:
        rows, columns = slice(top - low[1], bottom - low[1]), slice(left - low[0], right - low[0])
        canvas[rows, columns] = colour[top:bottom, left:right]
    inner = (*(corner - low), *(corner - low + side))
    size = (CROP_PIXELS, CROP_PIXELS)
    return Image.fromarray(canvas).resize(size, Image.Resampling.BICUBIC, box=inner)
