"""Where the cameras stand: a ring that looks at the action, and held-out views between them."""

from __future__ import annotations

import numpy as np

from protoscene.geometry import Camera, look_at
from protoscene.synth.settings import SynthSettings

APART = np.radians(22.0)
"""Least angle, seen from the middle, between a held-out camera and any of the recording."""


def recording_cameras(settings: SynthSettings) -> list[list[Camera]]:
    """``[camera][instant]``: evenly around the scene with some play, at 2 to 3.2 m height.

    The moving rig swings each camera by up to 25 degrees around the middle, and up and down.
    """
    rng = np.random.default_rng([settings.seed, 1001])
    n = settings.n_cameras
    start = rng.uniform(0, 2 * np.pi)
    share = np.linspace(0, 1, settings.n_instants)
    cameras = []
    for k in range(n):
        angle = start + 2 * np.pi * (k + rng.uniform(-0.12, 0.12)) / n
        distance, height = rng.uniform(3.4, 4.3), rng.uniform(2.2, 3.2)
        swing, phase = rng.uniform(0.2, 0.44), rng.uniform(0, 2 * np.pi)
        if settings.rig == "fixed":
            swing = 0.0
        wave = np.sin(2 * np.pi * 0.6 * share + phase)
        bob = 0.2 * swing * np.cos(2 * np.pi * share + phase)
        eyes = _ring(settings, angle + swing * wave, distance * (1 - bob), height * (1 + bob))
        cameras.append([_camera(settings, eye) for eye in eyes])
    return cameras


def heldout_cameras(settings: SynthSettings, recording: list[list[Camera]]) -> list[Camera]:
    """Fixed views at least APART from every recording camera at any instant, as near as may be:
    nothing can be said about a side that no camera saw."""
    rng = np.random.default_rng([settings.seed, 1002])
    seen = np.array([camera.centre for views in recording for camera in views])
    chosen: list[np.ndarray] = []
    for _ in range(settings.n_heldout):
        eyes = _ring(
            settings,
            rng.uniform(0, 2 * np.pi, 256),
            rng.uniform(3.2, 4.2, 256),
            rng.uniform(2.0, 3.4, 256),
        )
        angles = np.array([_angle(eye, np.array([*seen, *chosen])).min() for eye in eyes])
        allowed = angles >= APART
        angles = np.where(allowed, angles, np.inf) if allowed.any() else -angles
        chosen.append(eyes[int(angles.argmin())])
    return [_camera(settings, eye) for eye in chosen]


def _ring(
    settings: SynthSettings, angle: np.ndarray, distance: np.ndarray, height: np.ndarray
) -> np.ndarray:
    scale = settings.area / 4.6
    xy = distance * np.stack([np.cos(angle), np.sin(angle)])
    return scale * np.stack([*xy, np.broadcast_to(height, xy[0].shape)], axis=-1)


def _angle(eye: np.ndarray, others: np.ndarray) -> np.ndarray:
    cosine = others @ eye / (np.linalg.norm(others, axis=-1) * np.linalg.norm(eye))
    return np.arccos(np.clip(cosine, -1, 1))


def _camera(settings: SynthSettings, eye: np.ndarray) -> Camera:
    focal = settings.width / 2 / np.tan(np.radians(settings.fov_deg) / 2)
    return Camera(
        width=settings.width,
        height=settings.height,
        fx=float(focal),
        fy=float(focal),
        cx=settings.width / 2,
        cy=settings.height / 2,
        world_from_camera=look_at(eye, (0.0, 0.0, 0.1)),
    )
