"""The depth camera's faults: noise that grows with depth, millimetre steps, holes at edges."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8, UInt16

EDGE_M = 0.05
"""A larger jump between neighbouring pixels is an edge, where depth cameras see nothing."""
EDGE_LOSS, GROWN_LOSS, DROPOUT = 0.8, 0.3, 0.002


def axial_sigma(depth: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Standard deviation of a Kinect's depth in metres: 0.0012 + 0.0019·(z − 0.4)²."""
    return 0.0012 + 0.0019 * (depth - 0.4) ** 2


def noisy_depth(
    depth: Float[np.ndarray, "h w"], noise_scale: float, rng: np.random.Generator
) -> Float[np.ndarray, "h w"]:
    """``depth`` as a sensor gives it: metres, 0 where nothing returned."""
    noisy = depth + noise_scale * axial_sigma(depth) * rng.standard_normal(depth.shape)
    edge = _edges(depth)
    chance = np.where(edge, EDGE_LOSS, np.where(_grown(edge), GROWN_LOSS, DROPOUT))
    lost = rng.random(depth.shape) < chance
    return np.where(lost | (depth == 0), 0.0, np.maximum(noisy, 0.0))


def noisy_colour(
    colour: UInt8[np.ndarray, "h w 3"], sigma: float, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """``colour`` plus normal noise of ``sigma`` steps."""
    noisy = colour + sigma * rng.standard_normal(colour.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def millimetres(depth: Float[np.ndarray, "h w"]) -> UInt16[np.ndarray, "h w"]:
    """Rounded to the steps of a 16-bit depth picture."""
    return np.rint(np.clip(depth, 0, 65.535) * 1000).astype(np.uint16)


def _edges(depth: np.ndarray) -> np.ndarray:
    """Both sides of every jump: a step more than EDGE_M beyond twice the smaller of the steps
    before and after it, so that a floor seen at a grazing angle is no edge."""
    edge = np.zeros(depth.shape, bool)
    for mask, values in ((edge, depth), (edge.T, depth.T)):
        step = np.abs(np.diff(values, axis=0))
        around = np.pad(step, ((1, 1), (0, 0)), mode="edge")
        jump = step > EDGE_M + 2 * np.minimum(around[:-2], around[2:])
        mask[1:] |= jump
        mask[:-1] |= jump
    return edge


def _grown(mask: np.ndarray) -> np.ndarray:
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown
