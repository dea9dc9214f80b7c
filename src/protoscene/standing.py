"""What stands in a recording in which nothing moves: its surface, without the ground and walls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from protoscene.backdrop import ground_height
from protoscene.background import Static, StaticSurface
from protoscene.crops import Crops, cut
from protoscene.detail import static_pictures
from protoscene.dictionary.portrait import look, zero_level
from protoscene.follow import Appearance, Trail
from protoscene.geometry import Grid, rotation_from_yaw
from protoscene.observe import Progress
from protoscene.propose import Blob
from protoscene.recording import Recording
from protoscene.register import Fusion, Model
from protoscene.shape import closest_box
from protoscene.walls import THICK, walls

PIXELS, MOST_VOXELS = 1.2, 4_000_000
"""A voxel is as large as so many pixels at the median depth, or as many as that need it to be."""
TRUNCATION = 4
"""Voxels."""
FOOT = 1.6
"""What is less than so many voxels above the floor is the floor."""
WALL_LENGTH, WALL_WIDTH = 0.4, 0.12
"""What is longer than this share of all that stands, and narrower than this share of its length, is
a wall."""
WALL_SLACK, MOSTLY = 4, 0.8
"""A piece of which more than that share lies within so many voxels of a wall is the wall's."""
NEAR = 2.5
"""A pixel is of the surface that is nearest to it within so many voxels."""
POINTS = 6000
"""Pixels of a thing that take part in its registration, at most."""
LEAST_PIXELS = 60
"""A thing has at least so many pixels in all pictures."""


@dataclass(frozen=True, eq=False)
class Standing:
    """``points`` (m) on the surface above the ``floor`` (m), with their ``colours`` and the
    ``model`` of signed distances, in world metres, that they are the zero level of. ``cell`` (n, 3)
    is the model's voxel (z y x) of each point."""

    model: Model
    floor: float
    points: Float[np.ndarray, "n 3"]
    colours: Float[np.ndarray, "n 3"]
    cell: Int[np.ndarray, "n 3"]

    @property
    def voxel(self) -> float:
        """Side of the model's voxels (m)."""
        return self.model.grid.voxel_size

    def normals(self) -> Float[np.ndarray, "n 3"]:
        """Of the surface at each point, outwards: of distances smoothed by a voxel."""
        smooth = np.gradient(ndimage.gaussian_filter(self.model.distance, 1.0))
        normal = np.stack([g[tuple(self.cell.T)] for g in reversed(smooth)], axis=1)
        return np.asarray(normal / (np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9))

    def take(self, chosen: Bool[np.ndarray, " n"]) -> Standing:
        """With these points alone."""
        return replace(
            self, points=self.points[chosen], colours=self.colours[chosen], cell=self.cell[chosen]
        )

    def volume_of(self, labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, "z y x"]:
        """Per voxel 1 + the label of a point in it, 0 where there is none or its label is −1."""
        volume = np.zeros(self.model.grid.shape, np.int32)
        volume[tuple(self.cell.T)] = labels + 1
        return volume


def floor_of(surface: StaticSurface) -> float:
    """The height (m) of what things stand on: the ground's; where there is none, as around a table,
    the height at which most columns of the grid go from occupied to free, upwards."""
    height = ground_height(surface)
    if height is not None:
        return height
    distance, grid = surface.distance, surface.grid
    low, high = distance[:-1], distance[1:]
    with np.errstate(invalid="ignore"):
        up = (low <= 0) & (high > 0)
    if not up.any():
        return float(grid.lower[2])
    most = int(up.sum(axis=(1, 2)).argmax())
    part = low[most][up[most]] / (low[most][up[most]] - high[most][up[most]])
    return float(grid.axes()[2][most] + grid.voxel_size * np.median(part))


def standing(recording: Recording, static: Static, floor: float) -> Standing:
    """The surface of all that stands on the ``floor`` (m): the pictures fused on voxels of about a
    pixel, around what the coarser static surface shows above the floor; walls are left out."""
    grid = _fine_grid(recording, static, floor)
    pictures = static_pictures(recording, static)
    truncation = TRUNCATION * grid.voxel_size
    fused = Fusion(pictures, grid, truncation).add(np.zeros((1, 4)), np.ones(1, dtype=bool))
    model = fused.model()
    points = zero_level(model)
    points = points[points[:, 2] > floor + FOOT * grid.voxel_size]
    cell = np.floor(grid.voxel_from_world(points)).astype(int)[:, ::-1]
    inside = ((cell >= 0) & (cell < grid.shape)).all(axis=1)
    points, cell = points[inside], cell[inside]
    found = Standing(model, floor, points, look(model, points)[2], cell)
    found = found.take(~_is_wall(found))
    return found.take(~_on_wall(found))


def _fine_grid(recording: Recording, static: Static, floor: float) -> Grid:
    """The part of the grid in which something stands, on finer voxels."""
    coarse = static.surface
    high = coarse.grid.axes()[2] > floor + coarse.grid.voxel_size
    with np.errstate(invalid="ignore"):
        index = np.argwhere((coarse.distance <= 0) & high[:, None, None])
    if len(index) == 0:
        index = np.argwhere(coarse.distance <= 0)
    first = np.maximum(index.min(axis=0) - 3, 0)
    last = np.minimum(index.max(axis=0) + 4, coarse.grid.shape)
    low = int(np.floor((floor - coarse.grid.origin[2]) / coarse.grid.voxel_size)) - 1
    first[0] = max(min(first[0], low), 0)
    grid = coarse.grid.cropped(first, last)
    most = float((np.prod(grid.size_m) / MOST_VOXELS) ** (1 / 3))
    size = max(PIXELS * _pixel_size(recording), most)
    return grid.resampled(min(size, float(grid.size_m.min()) / 2))  # a surface lies between voxels


def _pixel_size(recording: Recording) -> float:
    """What a pixel covers (m) at the median depth of a few pictures."""
    chosen = np.unique(np.linspace(0, len(recording.frames) - 1, 8).round().astype(int))
    sizes = []
    for view in (recording.view(int(i)) for i in chosen):
        if (view.depth > 0).any():
            sizes.append(float(np.median(view.depth[view.depth > 0])) / view.camera.fx)
    return float(np.median(sizes))


def components(
    found: Standing, chosen: Bool[np.ndarray, " n"] | None = None
) -> Int[np.ndarray, " n"]:
    """A number for each point, the same for all whose voxels hang together (26 neighbours); −1 for
    those that are not ``chosen``."""
    own = slice(None) if chosen is None else chosen
    labels = np.full(len(found.points), -1)
    cells = found.cell[own]
    if len(cells):
        cells = cells - cells.min(axis=0)
        volume = np.zeros(cells.max(axis=0) + 1, dtype=bool)
        volume[tuple(cells.T)] = True
        labels[own] = ndimage.label(volume, np.ones((3, 3, 3)))[0][tuple(cells.T)] - 1
    return labels


def _is_wall(found: Standing) -> Bool[np.ndarray, " n"]:
    """Which points are of something long and narrow, or of a piece that lies along one."""
    labels = components(found)
    wall = np.zeros(len(labels), dtype=bool)
    flat = found.points[:, :2]
    longest = float(np.ptp(flat, axis=0).max()) if len(labels) else 0.0
    first, last = (np.full((labels.max(initial=-1) + 1, 2), v) for v in (np.inf, -np.inf))
    np.minimum.at(first, labels, flat)
    np.maximum.at(last, labels, flat)
    long = np.linalg.norm(last - first, axis=1) >= WALL_LENGTH * longest
    for number in np.flatnonzero(long):
        middle, angle, extents = closest_box(flat[labels == number])
        if extents[0] >= WALL_LENGTH * longest and extents[1] <= WALL_WIDTH * extents[0]:
            turn = rotation_from_yaw(angle)[:2, :2]
            reach = extents / 2 + [WALL_WIDTH * extents[0], WALL_SLACK * found.voxel]
            along = (np.abs((flat - middle) @ turn) <= reach).all(axis=1)
            share = np.bincount(labels, along) / np.bincount(labels)
            wall |= (share > MOSTLY)[labels] | (labels == number)
    return wall


def _on_wall(found: Standing) -> Bool[np.ndarray, " n"]:
    """Which points lie on a large upright plane, or are of a piece of the rest that lies along it,
    as a picture on the wall."""
    on, near = np.zeros((2, len(found.points)), dtype=bool)
    for wall in walls(found.points, found.normals(), found.voxel):
        on |= wall.holds(found.points, THICK * found.voxel)
        near |= wall.holds(found.points, WALL_SLACK * found.voxel)
    rest = components(found, ~on)[~on]
    share = np.bincount(rest, near[~on]) / np.bincount(rest)
    on[~on] = (share > MOSTLY)[rest]
    return on


def pictures_of(
    recording: Recording,
    static: Static,
    found: Standing,
    labels: Int[np.ndarray, " n"],
    instants: Sequence[int],
    progress: Progress = lambda stage, done, total: None,
) -> dict[int, Crops]:
    """Per label the pictures around its points, all ``instants`` as if one: nothing moves. A pixel
    belongs to the point that is nearest to it; labels of too few pixels are left out."""
    blobs: list[list[Blob]] = [[] for _ in range(len(recording))]
    trails: dict[int, Trail] = {}
    nearest = _Nearest(found, labels)
    for done, i in enumerate(instants):
        for label, blob in nearest.blobs(i, recording).items():
            blobs[i].append(blob)
            if label >= 0:
                trails.setdefault(label, Trail()).add(blob, Appearance.of(blob))
        progress("cut out", done + 1, len(instants))
    kept = {
        k: t for k, t in sorted(trails.items())
        if sum(len(b.points) for b in t.blobs.values()) >= LEAST_PIXELS
    }  # fmt: skip
    crops = cut(recording, list(kept.values()), blobs, static.noise)
    return {k: _as_one(c) for k, c in zip(kept, crops, strict=True)}


class _Nearest:
    """Which label the surface nearest to a place has."""

    def __init__(self, found: Standing, labels: Int[np.ndarray, " n"]) -> None:
        volume = found.volume_of(labels)
        far, index = ndimage.distance_transform_edt(volume == 0, return_indices=True)
        self._found = found
        self._label = np.where(far <= NEAR, volume[tuple(index)] - 1, -1)

    def blobs(self, instant: int, recording: Recording) -> dict[int, Blob]:
        """Blobs of one instant by label; −1 for what stands and has none, as walls."""
        grid, parts = self._found.model.grid, []
        above = self._found.floor + FOOT * grid.voxel_size / 2
        for v, view in enumerate(recording.views(instant)):
            points = view.camera.unproject(view.depth)
            rows, columns = np.nonzero((view.depth > 0) & (points[..., 2] > above))
            own = points[rows, columns]
            cell = np.floor(grid.voxel_from_world(own)).astype(int)[:, ::-1]
            inside = ((cell >= 0) & (cell < grid.shape)).all(axis=1)
            label = np.full(len(own), -1)
            label[inside] = self._label[tuple(cell[inside].T)]
            pixels = np.stack([np.full(len(rows), v), rows, columns], axis=1).astype(np.int32)
            parts.append((label, pixels, own, view.colour[rows, columns]))
        label, pixels, own, colours = (np.concatenate(x) for x in zip(*parts, strict=True))
        whole = Blob(instant, pixels, own, colours)
        return {int(k): whole.take(label == k) for k in np.unique(label)}


def _as_one(crops: Crops) -> Crops:
    """The crops of all instants as those of one."""
    window = crops.window.copy()
    window[:, 0] = 0
    some = np.unique(np.linspace(0, len(crops.points) - 1, POINTS).round().astype(int))
    return Crops(
        window, crops.pose, crops.pinhole, crops.depth, crops.label, crops.colour,
        np.array([0, len(some)]), crops.points[some], crops.point_colour[some], crops.noise,
    )  # fmt: skip
