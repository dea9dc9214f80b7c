"""compose with numba on the processor: float32 or float64, deterministic for any number of threads.

Forward goes through tiles of the canvas, each with the placements that touch it. Backward turns
the canvas's gradient into that of the sums, tile by tile in batches of bounded size, and hands it
to the prototypes slab by slab (see :class:`protoscene.compose.tiles.Slabs`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from protoscene import buffers
from protoscene.compose import gather, scatter
from protoscene.compose.gather import Pile, Placed
from protoscene.compose.scatter import Wanted
from protoscene.compose.tiles import Rows, Tiling, rows_of, slabs_of
from protoscene.geometry import Grid
from protoscene.packing import flat
from protoscene.threads import pieces_one_by_one

BATCH_BYTES = 16 * 2**20
"""Of a batch's tiles in the backward pass."""
Tile = tuple[int, int, int]

ROWS_TILE: Tile = 64, 16, 16
"""z, y, x of the tiles of a volume whose innermost axis is x."""


def tile_of(shape: tuple[int, int, int]) -> Tile:
    """z, y, x of a dense canvas's tiles: columns as long as they come, within reason."""
    return min(shape[0], 256), 16, 16


@dataclass(frozen=True, eq=False)
class Job:
    """What forward and backward share: the rows on this canvas and the tiles they touch."""

    rows: Rows
    tiling: Tiling
    placed: Placed
    table: np.ndarray
    channels: int

    @classmethod
    def of(cls, rows: tuple[Tensor, ...], grid: Grid, channels: int, tile: Tile) -> Job:
        """From voxels, table, voxel_sizes, which, centre, yaw, scale, presence."""
        voxels, table, voxel_sizes, which, *poses = (v.detach() for v in rows)
        placed_rows = rows_of(
            grid, table.numpy(), voxel_sizes.double().numpy(), which.numpy(),
            *(v.double().numpy() for v in poses),
        )  # fmt: skip
        tiling = Tiling(grid.shape, tile)
        placed = Placed(
            *tiling.members(placed_rows.boxes), placed_rows.maps, placed_rows.boxes,
            placed_rows.blocks, voxels.numpy(),
        )  # fmt: skip
        return cls(placed_rows, tiling, placed, table.numpy(), channels)

    @property
    def like(self) -> tuple[int, ...]:
        """A tuple as long as there are channels, which the kernels are compiled for."""
        return (0,) * self.channels

    @property
    def dtype(self) -> np.dtype:
        return self.placed.voxels.dtype

    def heaps(self, tiles: np.ndarray, has_room: np.ndarray | None = None) -> Iterator[Pile]:
        """Compact piles of at most BATCH_BYTES for runs of ``tiles``, each in the memory of the one
        before; those without room (a truth value for each) stand for nothing in the pile."""
        z, y, x = self.tiling.tile
        per_x = z * self.channels + 16  # else columns of a power of two share their cache lines
        size = y * x * per_x
        n = max(1, BATCH_BYTES // (size * self.dtype.itemsize))
        if has_room is None:
            has_room = np.ones(len(tiles), bool)
        before = np.cumsum(has_room) - has_room  # rooms needed by the tiles before
        sums = buffers.empty(
            (min(n, int(has_room.sum())) * size,), self.dtype
        )  # the next one's too
        for batch in range(int(before.max(initial=0)) // n + 1):
            chosen = np.flatnonzero(before // n == batch)
            offsets = (before[chosen] - batch * n) * size
            yield self._pile(sums, offsets, (x * per_x, per_x), tiles[chosen])

    def whole(self, canvas: np.ndarray) -> Pile:
        """All tiles in the midst of a native canvas (ny, nx, nz, C)."""
        nz, _, nx = self.tiling.shape
        z, y, x = (
            np.arange(n) * t for n, t in zip(self.tiling.counts, self.tiling.tile, strict=True)
        )
        offsets = (z[:, None, None] + nz * (x + nx * y[:, None])) * self.channels
        pitch = nx * nz * self.channels, nz * self.channels
        return self._pile(
            canvas.reshape(-1), offsets.reshape(-1), pitch, np.arange(self.tiling.n_tiles)
        )

    def nowhere(self, tiles: np.ndarray) -> Pile:
        """Tiles that have no room here: each is made, and put elsewhere, by itself."""
        return self._pile(np.empty(0, self.dtype), np.zeros(len(tiles), np.int64), (0, 0), tiles)

    def _pile(
        self, sums: np.ndarray, offsets: np.ndarray, pitch: tuple[int, int], tiles: np.ndarray
    ) -> Pile:
        shape, tile = np.array(self.tiling.shape), np.array(self.tiling.tile)
        return Pile(sums, offsets, np.array(pitch), tiles, shape, tile)


def forward(
    voxels: Tensor, table: Tensor, voxel_sizes: Tensor, which: Tensor, centre: Tensor, yaw: Tensor,
    scale: Tensor, presence: Tensor, background: Tensor | None, grid: Grid, channels: int,
    cap: str, keep_total: bool, contiguous: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """See :mod:`protoscene.compose.op`."""
    rows = voxels, table, voxel_sizes, which, centre, yaw, scale, presence
    job = Job.of(rows, grid, channels, ROWS_TILE if contiguous else tile_of(grid.shape))
    ground = flat(background, job.dtype)
    nz, ny, nx = grid.shape
    total = buffers.zeros((ny * nx * nz if keep_total else 0,), job.dtype)
    if contiguous:
        canvas = buffers.empty((channels, nz, ny, nx), job.dtype)
        pile, out = job.nowhere(np.arange(job.tiling.n_tiles)), flat(canvas, job.dtype)
    else:
        canvas = buffers.zeros((ny, nx, nz, channels), job.dtype)
        pile, out = job.whole(canvas), flat(None, job.dtype)
    with pieces_one_by_one():
        gather.compose_tiles(pile, job.placed, ground, total, out, cap == "smooth", job.like)
    return torch.from_numpy(canvas), torch.from_numpy(total)


def backward(
    gradient: Tensor, canvas: Tensor, total: Tensor, voxels: Tensor, table: Tensor,
    voxel_sizes: Tensor, which: Tensor, centre: Tensor, yaw: Tensor, scale: Tensor,
    presence: Tensor, background: Tensor | None, grid: Grid, channels: int, cap: str,
    contiguous: bool, needs: Sequence[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """See :mod:`protoscene.compose.op`."""
    rows = voxels, table, voxel_sizes, which, centre, yaw, scale, presence
    job = Job.of(rows, grid, channels, ROWS_TILE if contiguous else tile_of(grid.shape))
    sink = Scatter(job, needs[0], any(needs[1:5]))
    ground = background if needs[5] else None
    found = None if ground is None else torch.empty_like(ground)
    order = (0, 1, 2, 3) if contiguous else (3, 2, 0, 1)
    volumes = [flat(v.detach().permute(order), job.dtype) for v in (gradient, canvas)]
    grounds = [flat(v, job.dtype) for v in (ground, found)]
    touched = (
        np.arange(job.tiling.n_tiles) if needs[5] else np.flatnonzero(np.diff(job.placed.first))
    )
    for pile in job.heaps(touched):
        with pieces_one_by_one():
            scatter.to_sums_tiles(  # type: ignore[call-arg]
                pile, job.placed, *volumes, total.numpy(), *grounds, cap == "smooth", job.like
            )
        sink.add(pile)
    poses = sink.poses(voxel_sizes, yaw, scale)
    return sink.voxels(), *poses, voxels.new_empty(0) if found is None else found


class Scatter:
    """Sums gradients of (Σ aᵢcᵢ, A), given pile by pile, onto voxels and poses."""

    def __init__(self, job: Job, wants_voxels: bool, wants_pose: bool) -> None:
        self.job = job
        self.slabs = slabs_of(job.rows, job.table)
        self.wanted = Wanted(
            buffers.zeros((len(job.placed.voxels) if wants_voxels else 0,), job.dtype),
            np.zeros((len(job.rows.which), self.slabs.most, 9)),
            wants_pose,
        )

    def add(self, pile: Pile) -> None:
        if len(self.wanted.voxels) == 0 and not self.wanted.wants_pose:
            return
        job, slabs = self.job, self.slabs
        slots = np.full(job.tiling.n_tiles, -1)
        slots[pile.tiles] = np.arange(len(pile.tiles))
        for units in (slabs.even, slabs.odd):
            with pieces_one_by_one():
                scatter.scatter_slabs(
                    units, slabs.first, slabs.rows, pile, slots, job.placed, self.wanted, job.like
                )

    def voxels(self) -> Tensor:
        """The gradient to the flat voxels; empty if it is not wanted."""
        if len(self.wanted.voxels) > 0:
            with pieces_one_by_one():
                scatter.clear_shells(self.wanted.voxels, self.job.table, self.job.like)
        return torch.from_numpy(self.wanted.voxels)

    def poses(self, voxel_sizes: Tensor, yaw: Tensor, scale: Tensor) -> list[Tensor]:
        """Gradients to centre (n, 3), yaw (n,), scale (n, 3) and presence (n,), float64.

        Positions in the block are x = (cos·dx + sin·dy) / (scale_x · voxel) + middle, and so on.
        """
        m = torch.from_numpy(self.wanted.pose.sum(axis=1))
        presence = torch.from_numpy(self.job.rows.maps[:, 8].copy())
        scale = scale.detach().double()
        turn = yaw.detach().double()
        size = scale * voxel_sizes.double()[torch.from_numpy(self.job.rows.which), None]
        cos, sin = turn.cos(), turn.sin()
        along = m[:, :3] / size  # per metre, along the own axes
        centre = -torch.stack(
            [cos * along[:, 0] - sin * along[:, 1], sin * along[:, 0] + cos * along[:, 1],
             along[:, 2]], dim=1,
        )  # fmt: skip
        ratio = size[:, 1] / size[:, 0]
        weight = presence[:, None]
        return [
            weight * centre,
            presence * (m[:, 6] * ratio - m[:, 7] / ratio),
            weight * -m[:, 3:6] / scale,
            m[:, 8],
        ]
