"""Recordings in memory with a known truth: upright boxes on a floor, ray-cast in plain numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from protoscene.geometry import Camera, look_at, rotation_from_yaw
from protoscene.propose import Blob
from protoscene.recording import Frame, Recording, View

FLOOR = -1
"""What ``cast`` calls the floor, and ``SKY`` what is beyond it."""
SKY = -2


@dataclass(frozen=True)
class Box:
    """``centre`` x y z and ``dims`` in metres, turned by ``yaw``; ``thing`` is whose part it is.
    Its four sides and its top are of slightly different colours, so that no turn is alike."""

    centre: tuple[float, float, float]
    dims: tuple[float, float, float]
    yaw: float = 0.0
    colour: tuple[int, int, int] = (200, 60, 40)
    thing: int = 0

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Exact signed distance (m) of world points, negative inside."""
        own = (points - np.array(self.centre)) @ rotation_from_yaw(self.yaw)
        beyond = np.abs(own) - np.array(self.dims) / 2
        outside = np.linalg.norm(np.maximum(beyond, 0), axis=-1)
        return outside + np.minimum(beyond.max(axis=-1), 0)


def camera(
    eye: Sequence[float], target: Sequence[float] = (0, 0, 0.2), width: int = 96,
    height: int = 72, focal: float = 90.0,
) -> Camera:  # fmt: skip
    return Camera(width, height, focal, focal + 1, width / 2 - 1, height / 2 + 1,
                  look_at(eye, target))  # fmt: skip


def ring(n: int, radius: float = 1.8, above: float = 1.5, turn: float = 0.4, **how) -> list[Camera]:
    """``n`` cameras around the origin."""
    angles = turn + np.arange(n) * 2 * np.pi / n
    return [camera((radius * np.cos(a), radius * np.sin(a), above), **how) for a in angles]


def cast(view: Camera, boxes: Sequence[Box], far: float = 8.0) -> tuple[np.ndarray, ...]:
    """(colour, z-depth, thing) of each pixel: a chequered floor at z = 0 and the boxes; what is
    farther than ``far`` returns nothing."""
    rays, eye = view.directions(), view.centre
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = np.where(rays[..., 2] < 0, -eye[2] / rays[..., 2], np.inf)
        point = eye + rays * depth[..., None]
        checks = (np.floor(point[..., 0] * 4) + np.floor(point[..., 1] * 4)) % 2
        colour = np.where(checks[..., None] == 1, [180, 170, 150], [90, 100, 110])
        thing = np.where(np.isfinite(depth), FLOOR, SKY)
        for box in boxes:
            turn = rotation_from_yaw(box.yaw)
            own_eye, own_rays = (eye - np.array(box.centre)) @ turn, rays @ turn
            half = np.array(box.dims) / 2
            enters = np.minimum((-half - own_eye) / own_rays, (half - own_eye) / own_rays)
            leaves = np.maximum((-half - own_eye) / own_rays, (half - own_eye) / own_rays)
            at, side = enters.max(axis=-1), enters.argmax(axis=-1)
            hit = (at <= leaves.min(axis=-1)) & (at > 0) & (at < depth)
            # Sides +x, −x, +y, −y and the top differ in shade.
            positive = np.take_along_axis(own_rays, side[..., None], -1)[..., 0] < 0
            shade = np.array([[0.55, 1.0], [0.7, 0.85], [0.5, 0.92]])[side, positive.astype(int)]
            depth = np.where(hit, at, depth)
            colour = np.where(hit[..., None], np.array(box.colour) * shade[..., None], colour)
            thing = np.where(hit, box.thing, thing)
    seen = np.isfinite(depth) & (depth < far)
    colour = np.where((thing == SKY)[..., None], [120, 160, 220], colour)
    return colour.astype(np.uint8), np.where(seen, depth, 0).astype(np.float32), thing


def views_of(
    cameras: Sequence[Camera], boxes: Sequence[Box], time: float = 0.0
) -> tuple[list[View], list[np.ndarray]]:
    """The views of one instant, and whose each pixel is."""
    views, things = [], []
    for k, one in enumerate(cameras):
        colour, depth, thing = cast(one, boxes)
        views.append(View(one, f"c{k}", time, colour, depth))
        things.append(thing)
    return views, things


def recording_of(instants: Sequence[Sequence[View]]) -> Recording:
    """A recording of views that are already there."""
    there = {(v.time, v.camera_name): v for views in instants for v in views}
    frames = [Frame(t, name, v.camera, Path(name), Path(name)) for (t, name), v in there.items()]
    return Recording(Path("boxes"), frames, lambda f: there[f.time, f.camera_name], "0" * 64)


def record(
    n_instants: int,
    cameras: Callable[[int], Sequence[Camera]] | Sequence[Camera],
    boxes: Callable[[int], Sequence[Box]],
    change: Callable[[np.ndarray], np.ndarray] = lambda depth: depth,
) -> Recording:
    """``n_instants`` a tenth of a second apart; ``change`` disturbs each depth picture."""
    instants = []
    for i in range(n_instants):
        views, _ = views_of(cameras(i) if callable(cameras) else cameras, boxes(i), 0.1 * i)
        instants.append([replace(v, depth=change(v.depth)) for v in views])
    return recording_of(instants)


def holes(share: float, seed: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """Takes that share of the pixels away, others in every picture."""
    rng = np.random.default_rng(seed)
    return lambda depth: np.where(rng.random(depth.shape) < share, 0, depth).astype(np.float32)


CART_DIMS = (0.5, 0.3, 0.36)


def cart(x: float, y: float, yaw: float, thing: int = 1) -> list[Box]:
    """A thing of two boxes that no turn and no mirror leaves alike, standing on the floor: the
    middle of its bounds is above ``x y`` and its box is ``CART_DIMS``."""
    parts = [((0.0, 0.0, 0.1), (0.5, 0.3, 0.2), (200, 60, 40)),
             ((-0.13, 0.03, 0.28), (0.18, 0.2, 0.16), (60, 160, 70))]  # fmt: skip
    turn = rotation_from_yaw(yaw)
    boxes = []
    for middle, dims, colour in parts:
        cx, cy, cz = turn @ np.array(middle) + [x, y, 0]
        boxes.append(Box((cx, cy, cz), dims, yaw, colour, thing))
    return boxes


def true_blobs(instant: int, views: Sequence[View], things: Sequence[np.ndarray]) -> list[Blob]:
    """A blob of each thing above 0 that is seen, of all its pixels."""
    blobs = []
    for number in sorted({int(k) for t in things for k in np.unique(t) if k > 0}):
        pixels, points, colours = [], [], []
        for v, (view, thing) in enumerate(zip(views, things, strict=True)):
            own = np.argwhere((thing == number) & (view.depth > 0))
            pixels.append(np.insert(own, 0, v, axis=1))
            points.append(view.camera.unproject(view.depth)[tuple(own.T)])
            colours.append(view.colour[tuple(own.T)])
        blobs.append(Blob(instant, *map(np.concatenate, (pixels, points, colours))))
    return blobs
