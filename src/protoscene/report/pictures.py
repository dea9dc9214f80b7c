"""Pictures for the page: colour maps, sizes, and JPEG as data URIs."""

from __future__ import annotations

import base64
import io

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

JPEG_QUALITY = 82
NOTHING = np.array([226, 229, 233])
"""Grey of pixels about which nothing is known."""

_MAGNITUDE = np.array(
    [[255, 255, 255], [254, 224, 178], [248, 150, 80], [203, 51, 37], [84, 8, 30]], dtype=np.float64
)
_SIGNED = np.array(
    [[20, 66, 138], [94, 158, 212], [255, 255, 255], [232, 142, 86], [140, 28, 20]],
    dtype=np.float64,
)
LARGEST_COLOUR_DIFFERENCE = 0.5


def data_uri(rgb: UInt8[np.ndarray, "h w 3"]) -> str:
    """``data:image/jpeg`` of a picture; the same pixels give the same text."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def bytes_from_unit(rgb: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """[0, 1] → 0..255."""
    return np.rint(255 * np.clip(rgb, 0, 1)).astype(np.uint8)


def resized(rgb: UInt8[np.ndarray, "h w 3"], width: int, height: int) -> UInt8[np.ndarray, "H W 3"]:
    """The picture at another size, each pixel the mean of what it covers."""
    if rgb.shape[:2] == (height, width):
        return rgb
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BOX))


def sampled(depth: Float[np.ndarray, "h w"], width: int, height: int) -> Float[np.ndarray, "H W"]:
    """Depth at another size, taken and never averaged: between two depths there is nothing."""
    rows = (np.arange(height) * 2 + 1) * depth.shape[0] // (2 * height)
    columns = (np.arange(width) * 2 + 1) * depth.shape[1] // (2 * width)
    return depth[rows[:, None], columns[None, :]]


def difference(
    recorded: UInt8[np.ndarray, "h w 3"], rendered: UInt8[np.ndarray, "h w 3"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Mean over channels of |recorded − rendered| in colours: white 0, dark red 0.5 and more."""
    distance = np.abs(recorded.astype(np.float64) - rendered).mean(axis=-1) / 255
    return _mapped(distance / LARGEST_COLOUR_DIFFERENCE, _MAGNITUDE)


def depth_difference(
    recorded: Float[np.ndarray, "h w"], rendered: Float[np.ndarray, "h w"], largest: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Rendered − recorded z-depth in colours: blue nearer, white equal, red further.

    Saturates at ``largest`` metres; grey where either is 0: nothing returned, nothing drawn.
    """
    known = np.isfinite(recorded) & (recorded > 0) & np.isfinite(rendered) & (rendered > 0)
    signed = np.where(known, rendered, 0.0) - np.where(known, recorded, 0.0)
    picture = _mapped(0.5 + 0.5 * signed / largest, _SIGNED)
    picture[~known] = NOTHING
    return picture


def gradient(signed: bool) -> str:
    """The colour map as a CSS gradient, for its legend."""
    stops = ", ".join(
        f"#{r:02x}{g:02x}{b:02x}" for r, g, b in (_SIGNED if signed else _MAGNITUDE).astype(int)
    )
    return f"linear-gradient(to right, {stops})"


def _mapped(share: np.ndarray, colours: np.ndarray) -> np.ndarray:
    at = np.linspace(0, 1, len(colours))
    channels = [np.interp(np.clip(share, 0, 1), at, colours[:, c]) for c in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
