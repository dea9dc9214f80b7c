"""The 3-D timeline: background, prototypes at their places, boxes and tracks, as a viser player.

viser records what it would send to a browser; its client and that recording make one HTML
document. It opens a server to do so: bound to loopback, on any free port, for that long only.
"""

from __future__ import annotations

import contextlib
import io
import math
from typing import Any

import numpy as np

from protoscene.export.gltf import mesh_glb
from protoscene.geometry import Camera
from protoscene.recording import Recording
from protoscene.report.palette import object_colour, rgb_of
from protoscene.report.wireframe import box_edges, box_with_nose
from protoscene.scene import Scene, SceneObject
from protoscene.surface import at_most, visible_faces
from protoscene.volume import Volume

BACKGROUND_FACES = 120_000
PROTOTYPE_FACES = 40_000
ALL_OBJECTS_FACES = 200_000
"""Each object carries a mesh of its own; many objects share this, or the page would grow."""
MAX_CAMERAS = 12
AMBIENT, SUN = 2.2, 1.2
"""Colours were recorded with their light; more of it than shows the shape would change them."""
FIELD_OF_VIEW = math.radians(45)


def timeline_document(scene: Scene, recording: Recording | None) -> str:
    """A complete HTML document that plays the scene over its times, in seconds since the first.

    ``recording`` adds where its cameras stood. The same scene gives the same text.
    """
    import viser  # costs half a second and is wanted only here

    # viser prints where it listens; stdout belongs to the result of a command.
    with contextlib.redirect_stdout(io.StringIO()):
        server = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
        try:
            serializer = server.get_scene_serializer()
            _add_surroundings(server.scene, scene)
            _place_viewer(server.initial_camera, scene, recording)
            actors = [_Actor(server.scene, scene, thing) for thing in scene.objects]
            cameras = _Cameras(server.scene, scene, recording)
            for i, time in enumerate(scene.times):
                for actor in actors:
                    actor.move_to(time)
                cameras.move_to(time)
                serializer.insert_sleep(_stay(scene.times, i))
            return _without_fetch(serializer.as_html())
        finally:
            server.stop()


def _stay(times: tuple[float, ...], i: int) -> float:
    """Seconds until the next instant; the last one stays as long as the middle of the others."""
    if i + 1 < len(times):
        return times[i + 1] - times[i]
    return float(np.median(np.diff(times))) if len(times) > 1 else 0.0


def _without_fetch(document: str) -> str:
    """The document, unable to ask for anything, even of itself.

    The client fetches one thing, from its own text: a sorter of Gaussian splats, which compiles
    code from strings. There are no splats here, and so no need to allow that.
    """
    start = document.index("<head>") + len("<head>")
    script = "<script>window.fetch = () => new Promise(() => {});</script>"
    return document[:start] + script + document[start:]


def _add_surroundings(stage: Any, scene: Scene) -> None:
    stage.set_up_direction("+z")
    stage.configure_default_lights(False)
    stage.configure_environment_map(None)
    stage.add_light_ambient("/light/ambient", intensity=AMBIENT)
    stage.add_light_directional("/light/sun", intensity=SUN, position=(-0.5, -0.8, 1.0))
    background = at_most(scene.background.volume, BACKGROUND_FACES)
    _add_mesh(stage, "/background", background, closed=False)
    edges = box_edges(scene.grid.size_m) + (scene.grid.lower + scene.grid.upper) / 2
    stage.add_line_segments(
        "/grid", edges, colors=(176, 182, 190), thickness=1.0, thickness_units="screen"
    )


def _focus(scene: Scene) -> tuple[np.ndarray, float]:
    """The middle of where the objects go, or of the grid, and how far off to look from (m)."""
    lower, upper, largest = scene.grid.lower, scene.grid.upper, 0.0
    if scene.objects:
        places = np.concatenate([thing.track.centre for thing in scene.objects])
        lower, upper = places.min(axis=0), places.max(axis=0)
        largest = max(max(thing.dims_m) for thing in scene.objects)
    return (lower + upper) / 2, 1.7 * max(float((upper - lower)[:2].max()), 3 * largest)


def _place_viewer(viewer: Any, scene: Scene, recording: Recording | None) -> None:
    """Looks at where the objects go, from above the side on which the cameras stood."""
    middle, distance = _focus(scene)
    side = np.array([-0.55, -0.85])
    if recording is not None:
        cameras = np.mean([frame.camera.centre for frame in recording.frames], axis=0)
        away = (cameras - middle)[:2]
        if np.linalg.norm(away) > 0.2 * distance:
            side = away / np.linalg.norm(away)
    viewer.fov = FIELD_OF_VIEW
    viewer.look_at = middle
    viewer.position = middle + distance * np.array([*(0.82 * side), 0.57])


def _add_mesh(stage: Any, name: str, volume: Volume, closed: bool) -> Any:
    corners, colours = visible_faces(volume, closed)
    if not len(corners):
        return None
    return stage.add_glb(name, mesh_glb(corners, colours), cast_shadow=False, receive_shadow=False)


class _Actor:
    """One object on the stage: its prototype and box in a frame that moves, its track."""

    def __init__(self, stage: Any, scene: Scene, thing: SceneObject) -> None:
        name = f"/objects/{thing.id}"
        colour = rgb_of(object_colour(thing.id))
        k = thing.prototype
        self.track = thing.track
        self.frame = stage.add_frame(name, show_axes=False, visible=False)
        volume = Volume(scene.prototypes.rgba(k), scene.prototypes.grid(k))
        n_faces = min(PROTOTYPE_FACES, ALL_OBJECTS_FACES // len(scene.objects))
        mesh = _add_mesh(stage, f"{name}/prototype", at_most(volume, n_faces), True)
        box = stage.add_line_segments(
            f"{name}/box", box_with_nose(np.array(thing.dims_m)), colors=colour,
            thickness=2.0, thickness_units="screen",
        )  # fmt: skip
        self.scaled = [part for part in (mesh, box) if part is not None]
        self.scale = 1.0
        path = thing.track.centre
        if thing.moving and len(path) > 1:
            stage.add_line_segments(
                f"/tracks/{thing.id}", np.stack([path[:-1], path[1:]], axis=1), colors=colour,
                thickness=2.5, thickness_units="screen",
            )  # fmt: skip

    def move_to(self, time: float) -> None:
        exists = self.track.covers(time)
        self.frame.visible = exists
        if not exists:
            return
        centre, yaw, scale = self.track.pose(time)
        self.frame.position = centre
        self.frame.wxyz = np.array([math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)])
        if scale != self.scale:
            self.scale = scale
            for part in self.scaled:
                part.scale = scale


class _Cameras:
    """The recording's cameras as small wire pyramids, where they stood at each instant."""

    def __init__(self, stage: Any, scene: Scene, recording: Recording | None) -> None:
        self.poses: list[dict[float, Camera]] = []
        self.frusta: list[Any] = []
        if recording is None:
            return
        size = 0.025 * _focus(scene)[1]
        for i, name in enumerate(recording.camera_names[:MAX_CAMERAS]):
            frames = [f for f in recording.frames if f.camera_name == name]
            camera = frames[0].camera
            self.poses.append({f.time: f.camera for f in frames})
            self.frusta.append(
                stage.add_camera_frustum(
                    f"/cameras/{i}",
                    fov=2 * math.atan(camera.height / (2 * camera.fy)),
                    aspect=camera.width / camera.height,
                    scale=size,
                    color=(96, 104, 114),
                    thickness=1.5,
                    thickness_units="screen",
                    visible=False,
                )
            )

    def move_to(self, time: float) -> None:
        for poses, frustum in zip(self.poses, self.frusta, strict=True):
            frustum.visible = time in poses
            if time in poses:
                frustum.position = poses[time].centre
                frustum.wxyz = _wxyz(poses[time].world_from_camera[:3, :3])


def _wxyz(rotation: np.ndarray) -> np.ndarray:
    """The unit quaternion of a rotation, w first: the top eigenvector of its 4×4 form."""
    q = np.empty((4, 4))
    r = rotation
    q[0] = [r.trace(), r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]]
    q[1:, 0] = q[0, 1:]
    q[1:, 1:] = r + r.T - r.trace() * np.eye(3)
    vector = np.linalg.eigh(q)[1][:, -1]
    return vector if vector[0] >= 0 else -vector
