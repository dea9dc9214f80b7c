"""What sharing completes: a single instant, a thing alone and its kind beside the true thing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from scipy.spatial import KDTree
from solids import solid

from protoscene.dictionary import Kind
from protoscene.dictionary.portrait import inverse, placed, unplaced
from protoscene.geometry import Grid, centred_grid, rotation_from_yaw
from protoscene.register import Fusion
from protoscene.scene import Track
from protoscene.score import Truth
from protoscene.shape import solid_rgba
from protoscene.shape_errors import surface_points
from protoscene.start import Thing
from protoscene.synth.layout import Layout
from protoscene.synth.things import Thing as TrueThing
from protoscene.volume import Volume

VOXEL_M = 0.05
"""Surface counts as found within this."""
ONE_INSTANT = 4
"""Instants of a thing (evenly chosen) of which each alone is compared with its kind."""
POOR = 0.6
"""Solid IoU of single instants up to which a thing needs its kind."""
FINE_M = 0.02


def completion(
    before: Sequence[Thing], kinds: Sequence[Kind], layout: Layout, truth: Truth,
    times: Sequence[float],
) -> dict[str, float]:  # fmt: skip
    """Means over the things that share a kind, of single instants of it, of it alone (as it is in
    ``before``, by the kind's member number) and of its kind: surface F1 at ``VOXEL_M`` with the
    whole true surface, and IoU with the true solid, each placed as its thing's poses say in the
    middle, a single instant as its own does; NaN where nothing is shared. ``gained_iou`` is
    the kind's less the instants', of the things whose instants have ``POOR`` or less."""
    rows = []
    for kind in kinds:
        for member, thing in zip(kind.members, kind.things, strict=True):
            k = len(thing.instants) // 2
            true = _true_object(thing, k, truth, times)
            if len(kind.things) < 2 or true is None or thing.crops is None:
                continue
            actor, track = layout.actors[true].thing, truth.objects[true].track
            frames = _true_frames(thing, track, times)
            each = np.linspace(0, len(thing.instants) - 1, ONE_INSTANT).round().astype(int)
            one = [compared(_seen_once(thing, i), actor, frames[i]) for i in each.tolist()]
            frames_alone = _true_frames(before[member], track, times)
            alone = compared(_volume(before[member]), actor, middle_pose(frames_alone))
            shared = compared(_volume(thing), actor, middle_pose(frames))
            rows.append([np.mean(one, axis=0), alone, shared])
    found = np.array(rows) if rows else np.full((1, 3, 2), np.nan)
    names = ("instant", "thing", "kind")
    result = dict(zip(names, found[..., 0].mean(axis=0).tolist(), strict=True))
    for name, value in zip(names, found[..., 1].mean(axis=0).tolist(), strict=True):
        result[f"{name}_iou"] = value
    poor = found[found[:, 0, 1] <= POOR][..., 1]
    result["gained_iou"] = float((poor[:, 2] - poor[:, 0]).mean()) if len(poor) else np.nan
    return result


def _true_object(thing: Thing, k: int, truth: Truth, times: Sequence[float]) -> int | None:
    """The true object within a quarter of a metre of a thing at its k-th instant."""
    now = times[thing.instants[k]]
    far = [np.linalg.norm(o.track.pose(now)[0] - thing.poses[k, :3]) for o in truth.objects]
    return int(np.argmin(far)) if min(far) < 0.25 else None


def _true_frames(thing: Thing, track: Track, times: Sequence[float]) -> np.ndarray:
    """Per instant of a thing the pose x y z yaw of the true frame in its own."""
    true = (track.pose(times[i]) for i in thing.instants)
    return np.array([
        placed(inverse(own), np.array([*centre, yaw]))
        for own, (centre, yaw, _) in zip(thing.poses, true, strict=True)
    ])  # fmt: skip


def middle_pose(poses: np.ndarray) -> np.ndarray:
    """The median place and the mean direction of poses x y z yaw."""
    yaw = np.angle(np.exp(1j * poses[:, 3]).mean())
    return np.array([*np.median(poses[:, :3], axis=0), yaw])


def _volume(thing: Thing) -> Volume:
    return Volume(thing.rgba, _grid(thing))


def _grid(thing: Thing) -> Grid:
    _, nz, ny, nx = thing.rgba.shape
    size = thing.voxel_size
    return centred_grid((nx * size, ny * size, nz * size), size)


def _seen_once(thing: Thing, i: int) -> Volume:
    """What the i-th instant alone shows of a thing, made as its prototype is, and on its grid."""
    assert thing.crops is not None
    grid = _grid(thing)
    fusion = Fusion(thing.crops, grid, max(3 * thing.voxel_size, 0.03))
    model = fusion.add(thing.poses, np.arange(len(thing.poses)) == i).model()
    return Volume(torch.from_numpy(solid_rgba(model, thing.dims)), grid)


def compared(volume: Volume, thing: TrueThing, at: np.ndarray) -> tuple[float, float]:
    """(surface F1, solid IoU) of a volume with the true thing that stands at ``at`` x y z yaw in
    the volume's frame."""
    grid = centred_grid(thing.size_m, FINE_M, padding=5)
    true = solid(thing, grid)
    whole = surface_points(Volume(torch.from_numpy(true), grid))
    surface = f1(unplaced(surface_points(volume), at), whole)
    points = grid.centres() @ rotation_from_yaw(at[3]).T + at[:3]
    where = np.moveaxis(volume.grid.index_from_world(points)[..., ::-1], -1, 0)
    found = map_coordinates(volume.occupancy.double().numpy(), where, order=1) >= 0.5
    return surface, float((found & (true[3] > 0)).sum() / (found | (true[3] > 0)).sum())


def f1(found: np.ndarray, true: np.ndarray) -> float:
    """Harmonic mean of the shares of either set of points within ``VOXEL_M`` of the other."""
    if len(found) == 0:
        return 0.0
    right = (KDTree(true).query(found)[0] <= VOXEL_M).mean()
    whole = (KDTree(found).query(true)[0] <= VOXEL_M).mean()
    return float(2 * right * whole / (right + whole)) if right + whole else 0.0
