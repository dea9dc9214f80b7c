"""Rendered pictures against those of held-out cameras: colour (PSNR) and depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Integer, Shaped
from PIL import Image

from protoscene.errors import Refused
from protoscene.geometry import Camera
from protoscene.layers import draw
from protoscene.recording import Frame, Recording, View
from protoscene.render import render
from protoscene.scene import Scene

RenderView = Callable[[float, Camera], tuple[np.ndarray, np.ndarray]]
"""(time in s, camera) → colour (h, w, 3) uint8 and z-depth (h, w) in metres, 0 = nothing."""


@dataclass(frozen=True)
class PictureScore:
    """``pictures`` held-out pictures at ``resolution`` of their pixels a side.

    ``psnr_db``: 10·log10(255² / MSE) of each whole picture, averaged over pictures.
    ``psnr_objects_db``, ``psnr_movers_db``: of all object pixels, and of those of moving objects,
    pooled; NaN where the recording has no instance pictures. ``depth_median_m``: |rendered −
    recorded| where both have a depth; ``depth_within_5cm``: share of the recorded depths that are
    met that closely.
    """

    pictures: int
    resolution: float
    psnr_db: float
    psnr_objects_db: float
    psnr_movers_db: float
    depth_median_m: float
    depth_within_5cm: float


def scene_view(scene: Scene) -> RenderView:
    """Draws ``scene`` at its own resolution; views of one time share one composed volume."""
    compose = lru_cache(maxsize=1)(scene.compose)

    def render_view(time: float, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            picture = render(compose(time), camera, scene.background.outside)
        colour = (picture.colour.clamp(0, 1) * 255).round().to(torch.uint8)
        return colour.numpy(), picture.depth.double().numpy()

    return render_view


def layered_view(scene: Scene) -> RenderView:
    """Draws ``scene`` opaque, each thing at its prototype's own resolution."""

    def render_view(time: float, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
        colour, depth = draw(scene, time, camera)
        return np.rint(255 * colour).astype(np.uint8), depth

    return render_view


def score_pictures(
    render_view: RenderView,
    heldout: Recording,
    moving: Collection[int] = (),
    at_most: int = 12,
    shrink: int = 2,
) -> PictureScore:
    """Compares ``render_view`` with up to ``at_most`` evenly chosen pictures of ``heldout``.

    Pictures are compared at 1/``shrink`` of their resolution: colour averaged over blocks, depth
    their lower median. Object pixels come from ``instances/NAME.png`` beside the folder of the
    picture NAME (16-bit, object id + 1, 0 = background), where it exists; ``moving`` are the ids
    of movers.
    """
    n = min(at_most, len(heldout.frames))
    chosen = np.unique(np.linspace(0, len(heldout.frames) - 1, n).round().astype(int))
    psnr, depth_errors = [], [np.zeros(0)]
    object_errors, mover_errors = [np.zeros(0)], [np.zeros(0)]
    shown = [number + 1 for number in moving]
    for index in chosen:
        frame = heldout.frames[index]
        view = _shrunk(heldout.view(int(index)), shrink)
        colour, depth = render_view(view.time, view.camera)
        squared = (colour.astype(np.float64) - view.colour.astype(np.float64)) ** 2
        psnr.append(_psnr(squared))
        instances = _instances(frame, shrink)
        if instances is not None:
            object_errors.append(squared[instances > 0].ravel())
            mover_errors.append(squared[np.isin(instances, shown)].ravel())
        known = view.depth > 0
        gap = np.where(depth > 0, np.abs(depth - view.depth), np.inf)
        depth_errors.append(gap[known])
    gaps = np.concatenate(depth_errors)
    drawn = gaps[np.isfinite(gaps)]
    return PictureScore(
        pictures=len(chosen),
        resolution=1 / shrink,
        psnr_db=float(np.mean(psnr)) if psnr else math.nan,
        psnr_objects_db=_psnr(np.concatenate(object_errors)),
        psnr_movers_db=_psnr(np.concatenate(mover_errors)),
        depth_median_m=float(np.median(drawn)) if len(drawn) else math.nan,
        depth_within_5cm=float((gaps <= 0.05).mean()) if len(gaps) else math.nan,
    )


def _psnr(squared: np.ndarray) -> float:
    """PSNR in dB of squared errors of 0..255 values; 99 dB stands for identical pictures."""
    if squared.size == 0:
        return math.nan
    mean = float(squared.mean())
    return 99.0 if mean == 0 else min(99.0, 10 * math.log10(255**2 / mean))


def _blocks(
    picture: Shaped[np.ndarray, "h w *c"], shrink: int
) -> Shaped[np.ndarray, "small_h small_w block *c"]:
    h, w = (n // shrink for n in picture.shape[:2])
    cut = picture[: h * shrink, : w * shrink]
    cells = cut.reshape(h, shrink, w, shrink, *picture.shape[2:]).swapaxes(1, 2)
    return cells.reshape(h, w, shrink * shrink, *picture.shape[2:])


def _shrunk(view: View, shrink: int) -> View:
    """The view with blocks of ``shrink``² pixels made one; what does not fill a block is cut."""
    colour = _blocks(view.colour.astype(np.float64), shrink).mean(axis=2)
    # The mean of two depths across an edge is the depth of nothing, so one of them is taken.
    depth = _blocks(np.where(view.depth > 0, view.depth, np.inf).astype(np.float64), shrink)
    depth = np.sort(depth, axis=2)[:, :, (shrink * shrink - 1) // 2]
    height, width = depth.shape
    camera = replace(view.camera.scaled(1 / shrink), width=width, height=height)
    return View(
        camera=camera,
        camera_name=view.camera_name,
        time=view.time,
        colour=colour.round().astype(np.uint8),
        depth=np.where(np.isfinite(depth), depth, 0.0),
    )


def _instances(frame: Frame, shrink: int) -> Integer[np.ndarray, "h w"] | None:
    folder = frame.colour_file.parent
    file = folder.parent / "instances" / f"{frame.colour_file.stem}.png"
    if not file.is_file():
        return None
    ids = _read_instances(file, (frame.camera.height, frame.camera.width))
    # A block is an object's where its middle is: no average of ids means anything.
    middle = shrink // 2
    return _blocks(ids, shrink)[:, :, middle * shrink + middle]


def _read_instances(file: Path, shape: tuple[int, int]) -> np.ndarray:
    try:
        with Image.open(file, formats=["PNG"]) as picture:
            if (picture.height, picture.width) != shape:
                got = f"{picture.width}×{picture.height}"
                raise Refused(file, "size", "differs from the picture's", got)
            return np.asarray(picture)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise Refused(file, "instances", f"cannot be read: {error}") from error
