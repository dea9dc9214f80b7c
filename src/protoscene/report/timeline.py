"""The 3-D timeline: where everything is at each instant, as numbers for the script that draws it.

No word of a recording is among them: what has a name is said by the page around it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from protoscene.recording import Recording
from protoscene.report.evidence import evidence
from protoscene.report.palette import object_colour, rgb_of
from protoscene.report.shapes import Bytes, background_mesh, is_dark, prototype_meshes
from protoscene.report.wireframe import box_with_nose
from protoscene.scene import Scene, SceneObject

MAX_CAMERAS = 12


@dataclass(frozen=True)
class Timeline:
    """``header`` (JSON) says where in ``shapes`` (zlib, base64) each array begins."""

    header: str
    shapes: str
    layers: tuple[str, ...]
    """What there is to be shown or not."""


def timeline_of(scene: Scene, recording: Recording | None) -> Timeline:
    """The scene over its times; ``recording`` adds its cameras and what was measured. Coordinates
    count from the middle of the grid, so that 32 bits hold them wherever the world begins."""
    pack = Bytes(is_dark(scene))
    origin = (scene.grid.lower + scene.grid.upper) / 2
    target, eye = _first_view(scene, recording)
    header: dict[str, Any] = {
        "seconds": list(scene.times),
        "origin": origin.tolist(),
        "target": (target - origin).tolist(),
        "eye": (eye - origin).tolist(),
        "size": scene.grid.size_m.tolist(),
        "box": box_with_nose(np.ones(3)).ravel().tolist(),
        "background": background_mesh(pack, scene, origin),
        "prototypes": prototype_meshes(pack, scene),
        "objects": [_object(pack, scene, thing, origin) for thing in scene.objects],
        "cameras": _cameras(pack, scene, recording, origin),
        "evidence": evidence(pack, scene, recording, origin),
    }
    there = {
        "background": header["background"], "objects": scene.objects, "boxes": scene.objects,
        "tracks": any(thing.moving for thing in scene.objects),
        "evidence": header["evidence"], "cameras": header["cameras"],
    }  # fmt: skip
    text = json.dumps(header, separators=(",", ":"), allow_nan=False)
    return Timeline(text, pack.text(), tuple(name for name, present in there.items() if present))


def _object(
    pack: Bytes, scene: Scene, thing: SceneObject, origin: Float[np.ndarray, "3"]
) -> dict[str, Any]:
    """An object; its track is x y z yaw scale and whether it was seen, float32, at each of the
    scene's instants from ``first`` on at which it exists. Between them all goes along lines."""
    track = thing.track
    times = np.array(scene.times)
    covered = np.flatnonzero((times >= track.time[0]) & (times <= track.time[-1]))
    at = times[covered]
    nearest = np.abs(track.time[None] - at[:, None]).argmin(axis=1)
    columns = [np.interp(at, track.time, track.centre[:, axis]) for axis in range(3)]
    columns += [np.interp(at, track.time, np.unwrap(track.yaw))]
    columns += [np.interp(at, track.time, track.scale), track.visible[nearest]]
    table = np.stack(columns, axis=1)
    table[:, :3] -= origin
    return {
        "id": thing.id,
        "prototype": thing.prototype,
        "score": round(float(thing.score), 4),
        "moving": thing.moving,
        "dims": list(thing.dims_m),
        "colour": [channel / 255 for channel in rgb_of(object_colour(thing.id))],
        "first": int(covered[0]) if len(covered) else 0,
        "n": len(covered),
        "track": pack.add(table.astype(np.float32)),
    }


def _cameras(
    pack: Bytes, scene: Scene, recording: Recording | None, origin: Float[np.ndarray, "3"]
) -> list[dict[str, Any]]:
    """Where up to 12 cameras stood: (3, 4) world_from_camera, float32, at each of the scene's
    instants, NaN where there was none; and half their fields of view as tangents."""
    found: list[dict[str, Any]] = []
    if recording is None:
        return found
    for name in recording.camera_names[:MAX_CAMERAS]:
        frames = {f.time: f.camera for f in recording.frames if f.camera_name == name}
        poses = np.full((len(scene.times), 3, 4), np.nan, dtype=np.float32)
        for i, time in enumerate(scene.times):
            if time in frames:
                poses[i] = frames[time].world_from_camera[:3]
                poses[i, :, 3] = frames[time].centre - origin
        camera = next(iter(frames.values()))
        tangents = [camera.width / (2 * camera.fx), camera.height / (2 * camera.fy)]
        found.append({"tangents": tangents, "poses": pack.add(poses)})
    return found


def _first_view(
    scene: Scene, recording: Recording | None
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """At what to look first, and from where: at where the objects go (without any, at the middle
    of the grid), from above the side on which the cameras stood."""
    lower, upper, largest = scene.grid.lower, scene.grid.upper, 0.0
    if scene.objects:
        places = np.concatenate([thing.track.centre for thing in scene.objects])
        lower, upper = places.min(axis=0), places.max(axis=0)
        largest = max(max(thing.dims_m) for thing in scene.objects)
    middle = (lower + upper) / 2
    distance = 1.6 * max(float((upper - lower)[:2].max()), 3 * largest)
    side = np.array([-0.55, -0.85])
    if recording is not None and recording.frames:
        cameras = np.mean([frame.camera.centre for frame in recording.frames], axis=0)
        away = (cameras - middle)[:2]
        if np.linalg.norm(away) > 0.2 * distance:
            side = away / np.linalg.norm(away)
    return middle, middle + distance * np.array([*(0.82 * side), 0.57])
