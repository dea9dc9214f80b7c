"""Trails of blobs → things: a prototype each, and where it stood at each instant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from protoscene.crops import Crops, cut
from protoscene.follow import Trail
from protoscene.geometry import Grid, centred_grid, wrap_angle
from protoscene.observe import Progress, depth_noise
from protoscene.pieces import Registered, collect
from protoscene.propose import Blob
from protoscene.recording import Recording
from protoscene.register import (
    CHOICE_WEIGHT,
    Fusion,
    Model,
    descend,
    misfit,
    search,
    total_misfit,
)
from protoscene.shape import finish

ROUNDS, COLOURED_ROUNDS = 4, 2
"""Times that the volume is fused anew and all poses descend on it; the last ones on its colours
too, which from afar would only hold what is wrong."""
MIN_INSTANTS = 3
"""A thing must be seen at least so often: two views of something agree too easily."""
GOOD_MISFIT, WORSE_MISFIT = 0.3, 0.12
"""Total misfit up to which an instant is fused in any case, and by how much it may be worse than
the median."""
MIN_SURFACE = 30
"""A model of fewer surface voxels has no shape that could be measured: its pixels fit nowhere."""


@dataclass(frozen=True, eq=False)
class Thing:
    """A found object: its box ``dims`` (length, width, height at scale 1, m), its prototype, and
    per own instant k (``instants[k]`` of the recording) its pose x y z yaw and misfit. ``crops``:
    the pictures around it at its own instants, and ``confidence`` (z, y, x) in [0, 1]: how surely
    each voxel of the prototype was seen, where it was made from pictures."""

    instants: list[int]
    dims: Float[np.ndarray, "3"]
    poses: Float[np.ndarray, "i 4"]
    misfits: Float[np.ndarray, " i"]
    rgba: Tensor
    voxel_size: float
    score: float
    crops: Crops | None = None
    confidence: Tensor | None = None


def start(
    recording: Recording,
    trails: list[Trail],
    blobs: list[list[Blob]],
    noise: float,
    progress: Progress = lambda stage, done, total: None,
) -> list[Thing]:
    """The things that the trails show, best score first; ``blobs[i]`` are all blobs of instant i,
    ``noise`` the sensor's as a multiple of ``depth_noise``.

    Every trail is registered; then pieces move to the things in which they lie, and what changed
    is registered again. Trails of fewer than ``MIN_INSTANTS``, or whose pixels agree on no surface,
    are no things.
    """
    left = [t for t in trails if len(t.blobs) >= MIN_INSTANTS]
    first: list[Registered] = []
    for trail, crops in zip(left, cut(recording, left, blobs, noise), strict=True):
        first.append(Registered(trail, crops, *register(trail, crops, recording)))
        progress("register", len(first), 2 * len(left))
    things = []
    for k, (old, trail) in enumerate(zip(first, collect(first), strict=True)):
        progress("register", len(left) + k, 2 * len(left))
        if len(trail.blobs) < MIN_INSTANTS:
            continue
        new = old
        if len(trail.blobs) < 0.5 * len(old.trail.blobs):
            continue  # what is left of a trail of pieces
        if trail.blobs != old.trail.blobs:
            (crops,) = cut(recording, [trail], blobs, noise)
            new = Registered(trail, crops, *register(trail, crops, recording))
        if len(new.model.surface()) >= MIN_SURFACE:
            thing = _finish(new, recording)
            things += [thing] if thing else []
    if left:
        progress("register", 2 * len(left), 2 * len(left))
    return sorted(things, key=lambda t: (-t.score, t.instants))


def _finish(registered: Registered, recording: Recording) -> Thing | None:
    trail, crops = registered.trail, registered.crops
    poses, model = registered.poses, registered.model
    instants = sorted(trail.blobs)
    surface = model.surface()
    n = len(instants)
    misfits = np.array([total_misfit(misfit(model, surface, crops, k, poses[k])) for k in range(n)])
    good = fitting(misfits)
    shape = finish(crops, model, poses, instants, good, finest=0.5 * crops.pixel_size)
    if shape is None:
        return None
    return Thing(
        instants, shape.dims, shape.poses, misfits, shape.rgba, shape.voxel_size,
        _score(shape.dims, shape.poses, misfits, crops, len(recording)), crops, shape.confidence,
    )  # fmt: skip


def _score(
    dims: np.ndarray, poses: np.ndarray, misfits: np.ndarray, crops: Crops, n_instants: int
) -> float:
    """How sure we are of a moving thing, in [0, 1]: seen often × fits its own prototype × moved by
    a quarter of its size and by more than what its pixels and their noise tell apart."""
    often = min(len(poses) / max(MIN_INSTANTS + 1, 0.4 * n_instants), 1.0)
    fits = 1 / (1 + np.exp((np.median(misfits) - 0.55) / 0.06))
    moved = float(np.linalg.norm(np.ptp(poses[:, :2], axis=0)))
    noise = crops.noise * float(depth_noise(np.array(crops.distance)))
    least = max(0.25 * float(np.hypot(dims[0], dims[1])), 3 * crops.pixel_size + 4 * noise)
    return float(often * fits * min(1.0, moved / least))


def _canonical_grid(trail: Trail, crops: Crops) -> Grid:
    """A grid that holds the thing wherever in it its best seen blob has its middle."""
    diagonal, height = np.quantile([a.size for a in trail.seen.values()], 0.9, axis=0)
    voxel = max(diagonal / 36, height / 40, 0.6 * crops.pixel_size)
    side = 1.6 * diagonal + 6 * voxel
    return centred_grid((side, side, 1.8 * height + 8 * voxel), voxel)


def register(
    trail: Trail, crops: Crops, recording: Recording
) -> tuple[Float[np.ndarray, "i 4"], Model]:
    """Poses x y z yaw of a trail's instants, and the model fused at them, in a frame of its own.

    The best seen instant founds the frame; the others join it one by one, nearest in time first,
    each searched over all yaws; then volume and poses take turns.
    """
    instants = sorted(trail.blobs)
    seen = [trail.seen[i] for i in instants]
    grid = _canonical_grid(trail, crops)
    truncation = max(4 * grid.voxel_size, 0.07 * float(trail.size[0]))
    first = int(np.argmax([a.n_pixels for a in seen]))
    poses = np.zeros((len(instants), 4))
    poses[first, :3] = seen[first].centre
    joined: Bool[np.ndarray, " i"] = np.zeros(len(instants), dtype=bool)
    joined[first] = True
    fusion = Fusion(crops, grid, truncation).add(poses, joined)
    times = np.array([recording.times[i] for i in instants])
    for k in np.argsort(np.abs(times - times[first]), kind="stable")[1:].tolist():
        near, *before = np.nonzero(joined)[0][np.argsort(np.abs(times[joined] - times[k]))]
        moved = poses[near].copy()
        moved[:3] += seen[k].centre - seen[near].centre
        guesses = [moved, poses[near]]
        if before:
            guesses.append(_on_line(times[k], times[[near, before[0]]], poses[[near, before[0]]]))
        model = fusion.model()
        middle = model.bounds().mean(axis=0)
        poses[k] = search(
            model, crops, k, guesses, middle, seen[k].centre, colour_weight=CHOICE_WEIGHT
        )
        joined[k] = True
        fusion.add(poses, np.arange(len(instants)) == k)
    model = fusion.model()
    for n in range(ROUNDS):
        coloured = n >= ROUNDS - COLOURED_ROUNDS
        for k in range(len(instants)):
            poses[k] = descend(model, crops, k, poses[k], 4, coloured=coloured)
        costs = _sweep(model, crops, times, poses)
        model = Fusion(crops, grid, truncation).add(poses, fitting(costs)).model()
    return poses, model


def fitting(misfits: Float[np.ndarray, " i"]) -> Bool[np.ndarray, " i"]:
    """The instants that may be fused: good (``GOOD_MISFIT``), or not much worse than most."""
    return misfits <= max(GOOD_MISFIT, float(np.median(misfits)) + WORSE_MISFIT)


def _sweep(
    model: Model, crops: Crops, times: np.ndarray, poses: Float[np.ndarray, "i 4"]
) -> Float[np.ndarray, " i"]:
    """Offer each instant, there and back, the poses that its neighbours lead to, and take (in
    place) the one that fits best: one instant that was found right puts the next ones right.
    Returns the misfits."""
    n, surface = len(times), model.surface()
    costs = [total_misfit(misfit(model, surface, crops, k, poses[k])) for k in range(n)]
    for order, step in ((range(1, n), -1), (range(n - 2, -1, -1), 1)):
        for k in order:
            pairs = [(k + step, k + 2 * step), (k - 1, k + 1)]
            for pair in pairs:
                if min(pair) < 0 or max(pair) >= n:
                    continue
                line = _on_line(times[k], times[list(pair)], poses[list(pair)])
                pose = descend(model, crops, k, line, 8)
                cost = total_misfit(misfit(model, surface, crops, k, pose))
                if cost < costs[k] - 1e-3:
                    poses[k], costs[k] = pose, cost
    return np.array(costs)


def _on_line(
    time: float, times: Float[np.ndarray, "2"], poses: Float[np.ndarray, "2 4"]
) -> Float[np.ndarray, "4"]:
    """The pose at ``time`` of constant velocity through two poses, yaw the short way round."""
    share = (time - times[0]) / (times[1] - times[0])
    change = poses[1] - poses[0]
    change[3] = wrap_angle(change[3])
    return poses[0] + share * change
