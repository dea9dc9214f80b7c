"""The MuJoCo world: a layout made visible, drawn as colour, z-depth and who is where."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any
from xml.etree import ElementTree

import numpy as np

from protoscene.errors import Refused
from protoscene.geometry import OPENCV_FROM_OPENGL, Camera
from protoscene.synth.layout import Actor, Layout
from protoscene.synth.things import Part

NEAR_M, FAR_M = 0.1, 40.0


class World:
    """A layout in MuJoCo. Use as a context manager: it holds a GL context.

    Raises Refused where MuJoCo or a GL backend is missing.
    """

    def __init__(self, layout: Layout, width: int, height: int) -> None:
        self._mujoco = mujoco = _import_mujoco()
        self._layout = layout
        self._model = mujoco.MjModel.from_xml_string(_world_xml(layout, width, height))
        self._data = mujoco.MjData(self._model)
        self._gl = _gl_context(mujoco, width, height)
        self._gl.make_current()
        self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        self._scene = mujoco.MjvScene(self._model, maxgeom=1000)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._viewport = mujoco.MjrRect(0, 0, width, height)
        actor_of_body = np.full(self._model.nbody, -1)
        for n in range(len(layout.actors)):
            actor_of_body[self._model.body(f"actor{n}").id] = n
        self._actor_of_geom = actor_of_body[self._model.geom_bodyid]

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self._gl.make_current()
        self._context.free()
        self._gl.free()

    def at(self, instant: int) -> None:
        """Moves every thing to its pose at ``instant``."""
        for n, actor in enumerate(self._layout.actors):
            x, y, yaw = actor.poses[instant]
            self._data.mocap_pos[n] = (x, y, actor.thing.size_m[2] / 2)
            self._data.mocap_quat[n] = (np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))

    def picture(self, camera: Camera) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(h, w, 3) uint8 colour, (h, w) z-depth in metres (0 = nothing there), and (h, w) actor
        indices (−1 = background), all at pixel centres, without noise."""
        mujoco = self._mujoco
        self._aim(camera)
        self._gl.make_current()
        colour = np.empty((camera.height, camera.width, 3), np.uint8)
        mujoco.mjr_render(self._viewport, self._scene, self._context)
        mujoco.mjr_readPixels(colour, None, self._viewport, self._context)
        segment = [mujoco.mjtRndFlag.mjRND_SEGMENT, mujoco.mjtRndFlag.mjRND_IDCOLOR]
        for flag in segment:
            self._scene.flags[flag] = True
        code = np.empty_like(colour)
        buffer = np.empty(colour.shape[:2], np.float32)
        mujoco.mjr_render(self._viewport, self._scene, self._context)
        mujoco.mjr_readPixels(code, buffer, self._viewport, self._context)
        for flag in segment:
            self._scene.flags[flag] = False
        # Reversed z: the buffer holds (near·far / depth − near) / (far − near).
        depth = NEAR_M * FAR_M / (buffer.astype(np.float64) * (FAR_M - NEAR_M) + NEAR_M)
        depth[depth > 0.99 * FAR_M] = 0.0
        return colour[::-1].copy(), depth[::-1].copy(), self._actors_seen(code[::-1])

    def _aim(self, camera: Camera) -> None:
        mujoco = self._mujoco
        matrix = camera.world_from_camera @ OPENCV_FROM_OPENGL
        self._model.cam_pos[0] = matrix[:3, 3]
        mujoco.mju_mat2Quat(self._model.cam_quat[0], matrix[:3, :3].flatten())
        self._model.cam_fovy[0] = np.degrees(2 * np.arctan(camera.height / 2 / camera.fy))
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)
        view = mujoco.MjvCamera()
        view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        view.fixedcamid = 0
        option = mujoco.MjvOption()
        every = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(
            self._model, self._data, option, None, view, every.value, self._scene
        )

    def _actors_seen(self, code: np.ndarray) -> np.ndarray:
        ids = code.astype(np.int64) @ np.array([1, 2**8, 2**16])
        actor_of_id = np.full(self._scene.ngeom + 1, -1)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.objtype == self._mujoco.mjtObj.mjOBJ_GEOM and geom.segid >= 0:
                actor_of_id[geom.segid + 1] = self._actor_of_geom[geom.objid]
        return actor_of_id[ids]


def _import_mujoco() -> Any:
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        return importlib.import_module("mujoco")
    except ImportError as error:
        raise Refused(
            "synth", "mujoco", "not installed", expected="pip install 'protoscene[sim]'"
        ) from error


def _gl_context(mujoco: Any, width: int, height: int) -> Any:
    """An off-screen GL context: EGL, or OSMesa where EGL finds no device."""
    if sys.platform != "linux" or os.environ.get("MUJOCO_GL") not in ("egl", "osmesa"):
        return mujoco.GLContext(width, height)
    problem: Exception | None = None
    for backend in dict.fromkeys((os.environ["MUJOCO_GL"], "egl", "osmesa")):
        # MuJoCo's own loader of GL functions and PyOpenGL each read their variable.
        os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = backend
        try:
            return importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
        except Exception as error:  # every backend fails in its own way
            problem = error
            _forget_pyopengl(f"mujoco.{backend}")
    raise Refused(
        "synth", "MUJOCO_GL", f"no off-screen OpenGL: {problem}", expected="libEGL or libOSMesa"
    )


def _forget_pyopengl(backend: str) -> None:
    """PyOpenGL binds to one platform when imported; the next backend needs another."""
    for name in [n for n in sys.modules if n.split(".")[0] == "OpenGL" or n.startswith(backend)]:
        del sys.modules[name]


def _world_xml(layout: Layout, width: int, height: int) -> str:
    root = ElementTree.Element("mujoco")

    def add(parent: ElementTree.Element, tag: str, **attributes: str) -> ElementTree.Element:
        return ElementTree.SubElement(parent, tag, attributes)

    add(root, "option").append(ElementTree.Element("flag", contact="disable"))
    add(root, "statistic", extent="1", center="0 0 0")
    visual = add(root, "visual")
    add(visual, "global", offwidth=str(width), offheight=str(height))
    # One sample a pixel: several would mix depths and move them off the pixel's centre.
    add(visual, "quality", offsamples="0", numslices="64", numstacks="32")
    add(visual, "map", znear=str(NEAR_M), zfar=str(FAR_M))
    add(visual, "headlight", ambient="0.55 0.55 0.55", diffuse="0.25 0.25 0.25", specular="0 0 0")
    asset = add(root, "asset")
    sky = {"rgb1": "0.60 0.72 0.84", "rgb2": "0.80 0.86 0.92", "width": "64", "height": "384"}
    add(asset, "texture", type="skybox", builtin="gradient", **sky)
    checker = {"rgb1": "0.58 0.55 0.50", "rgb2": "0.68 0.65 0.60", "width": "256", "height": "256"}
    add(asset, "texture", name="ground", type="2d", builtin="checker", **checker)
    add(asset, "material", name="ground", texture="ground", texuniform="true", texrepeat="1 1",
        specular="0", reflectance="0")  # fmt: skip
    add(asset, "material", name="matte", specular="0", shininess="0", reflectance="0")
    body = add(root, "worldbody")
    add(body, "light", directional="true", castshadow="false", pos="0 0 5", dir="0.4 0.3 -1",
        ambient="0 0 0", diffuse="0.3 0.3 0.3", specular="0 0 0")  # fmt: skip
    add(body, "camera", name="eye", pos="0 0 3")
    add(body, "geom", type="plane", size="9 9 0.1", material="ground")
    for part in layout.clutter:
        _add_part(asset, body, part)
    for n, actor in enumerate(layout.actors):
        _add_actor(asset, body, f"actor{n}", actor)
    return ElementTree.tostring(root, encoding="unicode")


def _add_actor(
    asset: ElementTree.Element, world: ElementTree.Element, name: str, actor: Actor
) -> None:
    body = ElementTree.SubElement(world, "body", {"name": name, "mocap": "true"})
    for part in actor.thing.parts:
        _add_part(asset, body, part)


def _add_part(asset: ElementTree.Element, body: ElementTree.Element, part: Part) -> None:
    geom = {
        "material": "matte",
        "rgba": _numbers((*part.colour, 1.0)),
        "pos": _numbers(part.centre),
    }
    if part.shape == "mesh":
        name = f"mesh{len(asset)}"
        vertices, faces = np.asarray(part.vertices), np.asarray(part.faces)
        ElementTree.SubElement(
            asset,
            "mesh",
            {"name": name, "vertex": _numbers(vertices), "face": " ".join(map(str, faces.flat))},
        )
        geom |= {"type": "mesh", "mesh": name}
    elif part.shape == "cylinder":
        across = part.half[(part.axis + 1) % 3]
        turn = {0: "0 90 0", 1: "90 0 0", 2: "0 0 0"}[part.axis]
        geom |= {
            "type": "cylinder",
            "size": _numbers((across, part.half[part.axis])),
            "euler": turn,
        }
    else:
        geom |= {
            "type": {"box": "box", "ball": "ellipsoid"}[part.shape],
            "size": _numbers(part.half),
        }
    ElementTree.SubElement(body, "geom", geom)


def _numbers(values: Any) -> str:
    return " ".join(repr(float(v)) for v in np.asarray(values).flat)
