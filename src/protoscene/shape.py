"""A registered model → its box, its own frame (nose along +x) and its RGBA prototype."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from protoscene.colours import fitted
from protoscene.crops import BACKGROUND, Crops
from protoscene.geometry import Grid, centred_grid, rotation_from_yaw, wrap_angle
from protoscene.paint import paint
from protoscene.register import Fusion, Model
from protoscene.symmetry import NEAR, mirror_planes, round_parts, unseen_half

EDGE = 0.0005
"""Share of the surface left outside of the box at each side: noise."""
MIN_POINTS = 30
"""Less surface than this is no thing."""
OFTEN = 0.15
"""Surface counts from this share of the median number of votes on: a far side shows a few times."""
PIECE = 0.05
"""A piece apart from the rest counts if its surface is at least this share of the largest's."""
REST_GAP_M, REST_GAP = 0.08, 1.0
"""What was seen down to less than this (m, or this share of its height) above the ground stands on
it: the lowest centimetres look like ground, and thin legs are lost."""
MOSTLY_FREE = 0.6
"""A section of which this share is seen free is outside of the thing."""
MIRROR_FREE = 0.05
"""Share of a mirrored surface that may lie in free space (before any surface by more than
``NEAR`` voxels): noise."""
PROTOTYPE_VOXELS, MOST_VOXELS = 96, 160
"""Voxels along a prototype's longest side, unless pixels are coarser; and at most."""
PROTOTYPE_VOXEL_M = 0.0125
"""No prototype's voxels are larger (m), unless it would need more than ``MOST_VOXELS`` of them:
several pictures tell more than the pixels of one."""
INWARD = 0.1
"""How far (voxels) the middle of the surface's ramp lies within it: a ray that grazes the ramp's
foot is stopped by it, and outlines would grow."""
CONFIDENT = 3.0
"""A voxel that was seen so often is known with confidence 1 − 1/e."""


@dataclass(frozen=True, eq=False)
class Shape:
    """A thing's box and prototype in its final frame, and its poses x y z yaw in that frame.
    ``confidence`` (z, y, x) is 1 − exp(−times the voxel was seen / ``CONFIDENT``)."""

    dims: Float[np.ndarray, "3"]
    poses: Float[np.ndarray, "i 4"]
    rgba: Tensor
    voxel_size: float
    confidence: Tensor


def closest_box(
    points: Float[np.ndarray, "n 2"], edge: float = 0.01, heading: float | None = None
) -> tuple[np.ndarray, float, np.ndarray]:
    """(middle, angle, extents) of the rectangle of least area around all but ``edge`` of the
    ``points`` at each side; 1° steps, the longer side first. With a ``heading`` (rad): of the local
    minima of the area that are at most 15 % above the least, the one with sides closest to it."""
    angles = np.deg2rad(np.arange(90))
    boxes = []
    for angle in angles:
        boxes.append(_rectangle(points, edge, float(angle)))
    areas = np.array([np.prod(extents) for _, extents in boxes])
    best = int(np.argmin(areas))
    if heading is not None:
        off = np.abs((angles - heading + np.pi / 4) % (np.pi / 2) - np.pi / 4)
        near = np.minimum.reduce([np.roll(areas, k) for k in range(-5, 6)])
        best = int(
            np.argmin(np.where((areas <= near) & (areas <= 1.15 * areas.min()), off, np.inf))
        )
    middle, extents = boxes[best]
    return middle, *_longer_first(float(angles[best]), extents)


def _rectangle(
    points: Float[np.ndarray, "n 2"], edge: float, angle: float
) -> tuple[np.ndarray, np.ndarray]:
    """(middle, extents) of the rectangle turned by ``angle`` around all but ``edge`` of the points
    at each side."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    lower, upper = np.quantile(points @ turn, [edge, 1 - edge], axis=0)
    return turn @ ((lower + upper) / 2), upper - lower


def _longer_first(angle: float, extents: np.ndarray) -> tuple[float, np.ndarray]:
    if extents[1] > extents[0]:
        angle, extents = angle + np.pi / 2, extents[::-1]
    return float(wrap_angle(angle)), extents


def surface_points(model: Model) -> Float[np.ndarray, "n 3"]:
    """Own-frame points on the zero level: voxels near it, seen often enough and not in a small
    piece apart from the rest, each moved along the gradient onto it."""
    if not (model.coloured > 0).any():
        return np.empty((0, 3))
    voxel = model.grid.voxel_size
    gradient = np.stack(np.gradient(model.distance, voxel), axis=-1)[..., ::-1]
    steep = np.linalg.norm(gradient, axis=-1)
    enough = model.votes >= OFTEN * np.median(model.votes[model.votes > 0])
    near = (np.abs(model.distance) < voxel) & enough & (steep > 0.3) & (model.coloured > 0)
    labels = ndimage.label(near, np.ones((3, 3, 3)))[0]
    sizes = np.bincount(labels.ravel(), minlength=1)
    sizes[0] = 0
    near = (sizes >= PIECE * sizes.max())[labels] & near
    step = (model.distance / np.maximum(steep, 0.3) ** 2)[..., None] * gradient
    return (model.grid.centres() - step)[near]


def ground_below(crops: Crops, poses: Float[np.ndarray, "i 4"], dims: Float[np.ndarray, "3"],
                 bottom: float) -> float | None:  # fmt: skip
    """Own-frame height of what stays around the thing's foot: the median over instants of the
    median of background points within its footprint's reach, from as far below ``bottom`` as a
    thing's foot may be unseen to 2 cm above. None where none is seen."""
    reach = 0.65 * float(np.hypot(dims[0], dims[1]))
    lowest = bottom - max(0.15, REST_GAP * float(dims[2]) + 0.02)
    chosen = set(np.unique(np.linspace(0, len(poses) - 1, 16).round().astype(int)).tolist())
    heights: dict[int, list[np.ndarray]] = {}
    for c, (i, row0, column0, height, width, offset) in enumerate(crops.window):
        if i not in chosen:
            continue
        pixels = slice(offset, offset + height * width)
        at, own = crops.depth[pixels].astype(float), crops.label[pixels] == BACKGROUND
        fx, fy, cx, cy = crops.pinhole[c, :4]
        rows, columns = np.divmod(np.arange(height * width), width)
        camera = np.stack([(columns + column0 + 0.5 - cx) / fx * at,
                           (rows + row0 + 0.5 - cy) / fy * at, at], axis=1)  # fmt: skip
        world = (camera - crops.pose[c, :, 3]) @ crops.pose[c, :, :3]
        offset_xy = world[:, :2] - poses[i, :2]
        z = world[:, 2] - poses[i, 2]
        near = own & (at > 0) & (np.hypot(*offset_xy.T) < reach)
        near &= (z > lowest) & (z < bottom + 0.02)
        heights.setdefault(int(i), []).append(z[near])
    medians = [np.median(np.concatenate(h)) for h in heights.values() if sum(map(len, h)) >= 10]
    return float(np.median(medians)) if medians else None


def measure(
    model: Model, crops: Crops, poses: Float[np.ndarray, "i 4"]
) -> tuple[np.ndarray, float, np.ndarray]:
    """(middle, yaw, dims) of the box in the model's frame: the rectangle around the surface, and
    what symmetry says of its other side, seen from above, grown at sides that nobody saw; from the
    ground it stands on to its top."""
    seen = surface_points(model)
    points, middle, yaw, extents = _footprint(model, seen, own_heading(poses))
    bottom, top = np.quantile(seen[:, 2], [EDGE, 1 - EDGE])
    dims = np.array([*extents, top - bottom])
    ground = ground_below(crops, poses, dims, float(bottom))
    if ground is not None and bottom - ground < max(REST_GAP_M, REST_GAP * (top - bottom)):
        bottom = ground
    dims[2] = top - bottom
    centre = np.array([*middle, (bottom + top) / 2])
    grown = _unseen(model, points, centre, yaw, dims)
    centre += rotation_from_yaw(yaw) @ np.array([*(grown[1] - grown[0]) / 2, 0])
    dims[:2] += grown.sum(axis=0)
    return centre, yaw, dims


def _footprint(
    model: Model, seen: Float[np.ndarray, "n 3"], heading: float | None
) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
    """(points, middle, yaw, extents): the seen surface completed by symmetry, and the rectangle
    around it seen from above, along the best plane of symmetry whose rectangle is at most 15 %
    larger than the least; without a plane as ``closest_box`` finds it."""
    points = np.concatenate([seen, round_parts(model, seen)])
    boxes = []
    for plane in mirror_planes(model, seen):
        whole = np.concatenate([points, unseen_half(model, points, plane)])
        boxes.append((whole, *_rectangle(whole[:, :2], EDGE, plane.turn), plane.turn))
    if boxes:
        least = np.prod(closest_box(boxes[0][0][:, :2], EDGE)[2])
        least = min(least, *(np.prod(extents) for _, _, extents, _ in boxes))
        for whole, middle, extents, angle in boxes:
            if np.prod(extents) <= 1.15 * least:
                return whole, middle, *_longer_first(angle, extents)
    middle, yaw, extents = closest_box(points[:, :2], EDGE, heading)
    return points, middle, yaw, extents


def _unseen(
    model: Model, points: Float[np.ndarray, "n 3"], centre: Float[np.ndarray, "3"], yaw: float,
    dims: Float[np.ndarray, "3"],
) -> Float[np.ndarray, "2 2"]:  # fmt: skip
    """How much (m) to grow the box at its lower and upper side along its own x and y.

    Nobody saw a side if most of the space right before it is unknown. Such a side goes to the
    nearest place at which the seen surface, mirrored in the box's middle, avoids free space: a
    box whose top was seen stays, the seen half of something round is completed. Where no mirror
    image does, a third of the way to the first parallel section that is mostly free.
    """
    turn, grown = rotation_from_yaw(yaw), np.zeros((2, 2))
    own_points = (points - centre) @ turn
    for axis in range(2):
        steps = np.arange(0.5, 0.6 * max(dims[:2]) / model.grid.voxel_size) * model.grid.voxel_size
        across = np.linspace(-0.4, 0.4, 9) * dims[1 - axis]
        height = np.linspace(-0.4, 0.4, 7) * dims[2]
        for side in range(2):
            sign = 2 * side - 1
            own = np.zeros((len(steps), 9, 7, 3))
            own[..., axis] = sign * (dims[axis] / 2 + steps)[:, None, None]
            own[..., 1 - axis], own[..., 2] = across[:, None], height
            free = _is_free(model, own @ turn.T + centre).mean(axis=(1, 2))
            if len(free) == 0 or free[0] >= MOSTLY_FREE:
                continue
            within = steps[free >= MOSTLY_FREE]
            grown[side, axis] = (within[0] if len(within) else steps[-1]) / 3
            for step in np.concatenate([[0.0], steps]):
                mirrored = own_points.copy()
                mirrored[:, axis] = sign * step - mirrored[:, axis]
                inside = _is_free(model, mirrored @ turn.T + centre, NEAR)
                if inside.mean() <= MIRROR_FREE:
                    grown[side, axis] = step
                    break
    return grown


def _is_free(
    model: Model, points: Float[np.ndarray, "*n 3"], margin: float = 0.0
) -> Bool[np.ndarray, "*n"]:
    """Whether own-frame points lie in voxels seen free, more than ``margin`` voxels before any
    surface; outside of the grid everything is."""
    index = np.floor(model.grid.voxel_from_world(points)).astype(int)[..., ::-1]
    inside = ((index >= 0) & (index < model.grid.shape)).all(axis=-1)
    index = tuple(np.moveaxis(index.clip(0, np.array(model.grid.shape) - 1), -1, 0))
    before = model.distance[index] > margin * model.grid.voxel_size
    return ~inside | ((model.votes[index] > 0) & before)


def own_heading(poses: Float[np.ndarray, "i 4"]) -> float | None:
    """Own-frame direction (rad, modulo 90°) in which the thing mostly went, step by step; None
    where it went no way in particular. Jumps (steps above five times the median) do not count."""
    if len(poses) < 2:
        return None
    steps = np.diff(poses[:, :2], axis=0)
    length = np.linalg.norm(steps, axis=1)
    length[length > 5 * np.median(length)] = 0
    if length.sum() < 0.3:
        return None
    direction = np.arctan2(steps[:, 1], steps[:, 0]) - (poses[1:, 3] + poses[:-1, 3]) / 2
    mean = (length * np.exp(4j * direction)).sum() / length.sum()
    return float(np.angle(mean) / 4) if abs(mean) > 0.8 else None


def _nose_forward(poses: Float[np.ndarray, "i 4"], instants: list[int]) -> bool:
    """Whether the thing mostly moved along its own +x (steps between neighbouring instants)."""
    steps = np.diff(poses[:, :2], axis=0)[np.diff(instants) == 1]
    heading = poses[:-1, 3][np.diff(instants) == 1]
    along = steps[:, 0] * np.cos(heading) + steps[:, 1] * np.sin(heading)
    return bool(along.sum() >= 0)


def finish(
    crops: Crops, model: Model, poses: Float[np.ndarray, "i 4"], instants: list[int],
    good: Bool[np.ndarray, " i"], finest: float,
) -> Shape | None:  # fmt: skip
    """Measure the thing on a finer volume fused from the ``good`` instants, move its frame to the
    box's middle, length along +x and nose where it went, and make the RGBA prototype there.

    ``finest`` (m): no voxel is smaller, as pixels do not tell more. None where the pixels agree on
    no surface.
    """
    voxel = max(model.grid.voxel_size / 2, finest)
    grid = _around(model).resampled(voxel)
    fine = Fusion(crops, grid, max(4 * voxel, 0.03)).add(poses, good).model()
    if len(surface_points(fine)) < MIN_POINTS:
        return None
    middle, yaw, dims = measure(fine, crops, poses)
    poses = poses.copy()
    poses[:, :3] += np.einsum("nij,j->ni", rotation_from_yaw(poses[:, 3]), middle)
    poses[:, 3] += yaw
    if not _nose_forward(poses, instants):
        poses[:, 3] += np.pi
    poses[:, 3] = wrap_angle(poses[:, 3])
    voxel = prototype_voxel(dims, finest)
    grid = centred_grid(dims, voxel, padding=3)
    own = Fusion(crops, grid, max(3 * voxel, 0.03)).add(poses, good).model()
    rgba = solid_rgba(repainted(own, crops, poses, good), dims)
    rgba = fitted(rgba, grid, crops, poses, good)
    confidence = torch.from_numpy(1 - np.exp(-own.votes / CONFIDENT)).float()
    return Shape(dims, poses, torch.from_numpy(rgba), voxel, confidence)


def prototype_voxel(dims: Float[np.ndarray, "3"], finest: float) -> float:
    """Voxel size (m) of the prototype of a thing of ``dims`` (m): see ``PROTOTYPE_VOXELS`` and
    ``PROTOTYPE_VOXEL_M``; ``finest`` is what pixels tell."""
    length = float(dims.max())
    voxel = min(max(length / PROTOTYPE_VOXELS, finest), PROTOTYPE_VOXEL_M)
    return max(voxel, length / MOST_VOXELS)


def _around(model: Model) -> Grid:
    """The part of the model's grid that holds its surface, and three voxels around."""
    index = np.argwhere((np.abs(model.distance) < model.grid.voxel_size) & (model.votes > 0))
    if len(index) == 0:
        return model.grid
    first = np.maximum(index.min(axis=0) - 3, 0)
    last = np.minimum(index.max(axis=0) + 4, model.grid.shape)
    return model.grid.cropped(first, last)


def repainted(
    model: Model, crops: Crops, poses: Float[np.ndarray, "i 4"], good: Bool[np.ndarray, " i"]
) -> Model:
    """``model`` with the colours of its surface read anew from the sharpest of the ``good``
    instants' pictures, each voxel's at the place on the zero level nearest to it."""
    voxel = model.grid.voxel_size
    gradient = np.stack(np.gradient(model.distance, voxel), axis=-1)[..., ::-1]
    steep = np.linalg.norm(gradient, axis=-1)
    near = (model.coloured > 0) & (np.abs(model.distance) < 1.5 * voxel) & (steep > 0.3)
    normals = gradient[near] / steep[near, None]
    points = (
        model.grid.centres()[near]
        - (model.distance / np.maximum(steep, 0.3))[near][:, None] * normals
    )
    colours, seen = paint(crops, poses, good, points, normals, 2 * voxel)
    colour = model.colour.copy()
    index = tuple(axis[seen] for axis in np.nonzero(near))
    colour[index] = colours[seen]
    return replace(model, colour=colour)


def solid_rgba(model: Model, dims: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4 z y x"]:
    """(4, z, y, x): occupancy falls from 1 to 0 over a voxel around the surface, ``INWARD`` of it;
    what nobody saw right below seen surface is taken as full; beyond the box it is empty. Colours
    of the surface spread to where none was seen."""
    grid: Grid = model.grid
    occupancy = np.clip(0.5 - INWARD - model.distance / grid.voxel_size, 0, 1)
    occupancy[model.votes == 0] = 0
    occupancy[_hidden_below(occupancy > 0.5, model.votes == 0)] = 1
    occupancy[~(np.abs(grid.centres()) <= dims / 2).all(axis=-1)] = 0
    nearest = ndimage.distance_transform_edt(
        model.coloured == 0, return_distances=False, return_indices=True
    )
    colour = np.moveaxis(model.colour[tuple(nearest)], -1, 0)
    return np.concatenate([colour, occupancy[None]]).astype(np.float32)


def _hidden_below(
    full: Bool[np.ndarray, "z y x"], unseen: Bool[np.ndarray, "z y x"]
) -> Bool[np.ndarray, "z y x"]:
    """The unseen voxels above which, in their column, there is nothing but unseen ones up to a full
    one: what was seen free between a table's top and its shadow parts the two."""
    hidden = np.zeros_like(unseen)
    covered = np.zeros_like(unseen[0])
    for k in range(len(unseen) - 1, -1, -1):
        hidden[k] = unseen[k] & covered
        covered = full[k] | hidden[k]
    return hidden
