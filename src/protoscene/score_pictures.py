"""Rendered pictures against those of held-out cameras: colour (PSNR) and depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Integer
from PIL import Image

from protoscene.errors import Refused
from protoscene.geometry import Camera
from protoscene.layers import draw
from protoscene.recording import Frame, Recording
from protoscene.scene import Scene

RenderView = Callable[[float, Camera], tuple[np.ndarray, np.ndarray]]
"""(time in s, camera) → colour (h, w, 3) uint8 and z-depth (h, w) in metres, 0 = nothing."""


@dataclass(frozen=True)
class PictureScore:
    """``pictures`` held-out pictures at the resolution at which they were recorded, drawn at their
    pixels' centres.

    ``psnr_db``: 10·log10(255² / MSE) of each whole picture, averaged over pictures.
    ``psnr_objects_db``, ``psnr_movers_db``: of all object pixels, and of those of moving objects,
    pooled; NaN where the recording has no instance pictures. A thing drawn too fat costs nothing
    there, so ``psnr_drawn_db`` is that of pixels which a mover has in truth or in the drawing; NaN
    where no drawing without objects was given. ``depth_median_m``: |rendered − recorded| where
    both have a depth; ``depth_within_5cm``: share of the recorded depths that are met that closely.
    """

    pictures: int
    psnr_db: float
    psnr_objects_db: float
    psnr_movers_db: float
    psnr_drawn_db: float
    depth_median_m: float
    depth_within_5cm: float


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
    without: RenderView | None = None,
) -> PictureScore:
    """Compares ``render_view`` with up to ``at_most`` evenly chosen pictures of ``heldout``.

    Drawn and recorded pictures have the same camera and pixels: neither is made smaller, as a mean
    over pixels on one side only would be compared with points on the other. Object pixels come
    from ``instances/NAME.png`` beside the folder of the picture NAME (16-bit, object id + 1, 0 =
    background), where it exists; ``moving`` are the ids of movers. ``without`` draws the scene
    without its objects: where its depth differs, one is drawn.
    """
    n = min(at_most, len(heldout.frames))
    chosen = np.unique(np.linspace(0, len(heldout.frames) - 1, n).round().astype(int))
    psnr, gaps = [], [np.zeros(0)]
    errors = {of: [np.zeros(0)] for of in ("objects", "movers", "drawn")}
    for index in chosen:
        frame, view = heldout.frames[index], heldout.view(int(index))
        colour, depth = render_view(view.time, view.camera)
        squared = (colour.astype(np.float64) - view.colour.astype(np.float64)) ** 2
        psnr.append(_psnr(squared))
        ids = _instances(frame)
        if ids is not None:
            mover = np.isin(ids, [number + 1 for number in moving])
            errors["objects"].append(squared[ids > 0].ravel())
            errors["movers"].append(squared[mover].ravel())
            if without is not None:
                drawn = depth != without(view.time, view.camera)[1]
                errors["drawn"].append(squared[mover | drawn].ravel())
        known = view.depth > 0
        gaps.append(np.where(depth > 0, np.abs(depth - view.depth), np.inf)[known])
    gap = np.concatenate(gaps)
    met = gap[np.isfinite(gap)]
    pooled = {of: _psnr(np.concatenate(parts)) for of, parts in errors.items()}
    return PictureScore(
        pictures=len(chosen),
        psnr_db=float(np.mean(psnr)) if psnr else math.nan,
        psnr_objects_db=pooled["objects"],
        psnr_movers_db=pooled["movers"],
        psnr_drawn_db=pooled["drawn"],
        depth_median_m=float(np.median(met)) if len(met) else math.nan,
        depth_within_5cm=float((gap <= 0.05).mean()) if len(gap) else math.nan,
    )


def _psnr(squared: np.ndarray) -> float:
    """PSNR in dB of squared errors of 0..255 values; 99 dB stands for identical pictures."""
    if squared.size == 0:
        return math.nan
    mean = float(squared.mean())
    return 99.0 if mean == 0 else min(99.0, 10 * math.log10(255**2 / mean))


def _instances(frame: Frame) -> Integer[np.ndarray, "h w"] | None:
    folder = frame.colour_file.parent
    file = folder.parent / "instances" / f"{frame.colour_file.stem}.png"
    if not file.is_file():
        return None
    return _read_instances(file, (frame.camera.height, frame.camera.width))


def _read_instances(file: Path, shape: tuple[int, int]) -> np.ndarray:
    try:
        with Image.open(file, formats=["PNG"]) as picture:
            if (picture.height, picture.width) != shape:
                got = f"{picture.width}×{picture.height}"
                raise Refused(file, "size", "differs from the picture's", got)
            return np.asarray(picture)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise Refused(file, "instances", f"cannot be read: {error}") from error
