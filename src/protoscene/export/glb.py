"""A scene as one ``.glb``: meshes that nodes instance, and an animation that moves them."""

from __future__ import annotations

from typing import Any

import numpy as np

from protoscene.errors import Failed
from protoscene.export.gltf import Document
from protoscene.scene import Scene, SceneObject
from protoscene.surface import background_faces, visible_faces
from protoscene.volume import Volume

Y_UP = (-(0.5**0.5), 0.0, 0.0, 0.5**0.5)
"""The turn (quaternion x y z w) that makes our +z glTF's +y."""


def scene_glb(scene: Scene) -> bytes:
    """The scene as binary glTF 2.0, metres.

    Node ``world`` turns our +z up to glTF's +y up; under it, in our own axes, ``background`` and a
    node ``object ID`` for each object, at its first pose, with the mesh of its prototype (in the
    prototype's own frame) and what scene.json says of it as ``extras``. The animation ``tracks``
    moves them: its seconds count from the scene's first instant, and between instants it does what
    ``Scene.at`` does: lines, and turns the short way round. Who does not exist has scale 0.

    Meshes are the faces of voxels, with unlit colours. Raises Failed where two instants are too
    close for 32-bit seconds.
    """
    document = Document()
    background = document.mesh("background", *background_faces(scene.background))
    meshes = []
    for k in range(len(scene.prototypes)):
        volume = Volume(scene.prototypes.rgba(k), scene.prototypes.grid(k))
        meshes.append(document.mesh(f"prototype {k}", *visible_faces(volume, closed=True)))
    nodes: list[dict[str, Any]] = [
        {"name": "world", "rotation": Y_UP, "children": [1]},
        {"name": "background", **_showing(background)},
    ]
    tracks = _Animation(document)
    for thing in scene.objects:
        nodes[0]["children"].append(len(nodes))
        tracks.move(len(nodes), scene, thing)
        nodes.append({**_node(scene, thing), **_showing(meshes[thing.prototype])})
    return document.glb(nodes, tracks.as_list())


def _showing(mesh: int | None) -> dict[str, Any]:
    return {} if mesh is None else {"mesh": mesh}


def _node(scene: Scene, thing: SceneObject) -> dict[str, Any]:
    """The node of an object as it is at the scene's first instant."""
    track = thing.track
    scale = track.scale[0] if track.covers(scene.times[0]) else 0.0
    return {
        "name": f"object {thing.id}",
        "translation": track.centre[0].tolist(),
        "rotation": _quaternions(track.yaw)[0].tolist(),
        "scale": [float(scale)] * 3,
        "extras": {
            "id": thing.id,
            "prototype": thing.prototype,
            "moving": thing.moving,
            "score": float(thing.score),
            "dims_m": list(thing.dims_m),
        },
    }


class _Animation:
    """The samplers and channels of one animation."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.samplers: list[dict[str, Any]] = []
        self.channels: list[dict[str, Any]] = []

    def move(self, node: int, scene: Scene, thing: SceneObject) -> None:
        """Moves ``node`` along the object's track, and hides it before and after."""
        track = thing.track
        seconds = (track.time - scene.times[0]).astype(np.float32)
        if (np.diff(seconds) <= 0).any():
            raise Failed(f"object {thing.id}: two instants are too close for 32-bit seconds")
        times = self.document.accessor(seconds)
        self._channel(node, "translation", times, track.centre)
        self._channel(node, "rotation", times, _quaternions(track.yaw))
        # Hidden one float's step outside of the track: within it nothing changes.
        keys, sizes = [seconds], [track.scale]
        if track.time[0] > scene.times[0]:
            keys.insert(0, np.nextafter(seconds[:1], np.float32(-np.inf)))
            sizes.insert(0, np.zeros(1))
        if track.time[-1] < scene.times[-1]:
            keys.append(np.nextafter(seconds[-1:], np.float32(np.inf)))
            sizes.append(np.zeros(1))
        scale = np.concatenate(sizes)
        if (scale != scale[0]).any():
            shown = self.document.accessor(np.concatenate(keys))
            self._channel(node, "scale", shown, np.repeat(scale[:, None], 3, axis=1))

    def _channel(self, node: int, path: str, times: int, values: np.ndarray) -> None:
        output = self.document.accessor(values.astype(np.float32))
        self.samplers.append({"input": times, "output": output, "interpolation": "LINEAR"})
        target = {"node": node, "path": path}
        self.channels.append({"sampler": len(self.samplers) - 1, "target": target})

    def as_list(self) -> list[dict[str, Any]]:
        if not self.channels:
            return []
        return [{"name": "tracks", "samplers": self.samplers, "channels": self.channels}]


def _quaternions(yaw: np.ndarray) -> np.ndarray:
    """(n, 4) unit quaternions x y z w about +z; glTF goes from each to the next the short way."""
    zero = np.zeros_like(yaw)
    return np.stack([zero, zero, np.sin(yaw / 2), np.cos(yaw / 2)], axis=-1)
