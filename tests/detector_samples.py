"""Labelled recordings of two carts on a floor, for what trains and tests the detector."""

from __future__ import annotations

import numpy as np

from moving_boxes import CART_DIMS, cart, record, ring
from protoscene.geometry import Grid
from protoscene.labels import Labels
from protoscene.recording import Recording

GRID = Grid((-1.6, -1.6, -0.1), 0.1, (8, 32, 32))
PLACES = np.array([[0.55, 0.3, 0.4], [-0.7, -0.5, 2.5]])
"""x, y and yaw of each cart at the first instant."""


def place(instant: int) -> np.ndarray:
    return PLACES + instant * np.array([[0.1, 0.0, 0.2], [0.0, 0.15, -0.3]])


def two_carts(n_instants: int = 2, n_cameras: int = 3) -> tuple[Recording, list[Labels]]:
    """A recording, and the labels of each instant; the carts are of kinds 0 and 1."""
    recording = record(
        n_instants,
        ring(n_cameras, radius=2.2, above=2.0),
        lambda i: [box for k, pose in enumerate(place(i)) for box in cart(*pose, thing=k + 1)],
    )
    boxes = [
        np.array([[x, y, CART_DIMS[2] / 2, *CART_DIMS, yaw] for x, y, yaw in place(i)])
        for i in range(n_instants)
    ]
    return recording, [Labels(np.array([0, 1]), b, np.array([1.0, 0.8])) for b in boxes]
