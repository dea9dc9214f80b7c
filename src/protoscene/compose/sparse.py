"""compose_sparse: only the tiles of the canvas that hold something."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from protoscene.compose.inputs import check, check_choices, common_type, hard_rows, resampled
from protoscene.compose.tiles import Tiling, rows_of
from protoscene.errors import Refused
from protoscene.files import write_file
from protoscene.geometry import Grid
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.volume import Volume

SIDE = 16


@dataclass(frozen=True, eq=False)
class SparseVolume:
    """A (C, z, y, x) volume on ``grid`` whose voxels outside of its tiles are all zero.

    Tile i holds ``values[i]`` (C, 16, 16, 16) and starts at voxel 16 · ``index[i]`` (z, y, x); what
    a tile at the far edge has beyond the grid is zero.
    """

    grid: Grid
    index: Int[Tensor, "n 3"]
    values: Float[Tensor, "n c 16 16 16"]

    def dense(self) -> Volume:
        """The whole volume."""
        whole = [-(-n // SIDE) * SIDE for n in self.grid.shape]
        rgba = self.values.new_zeros((self.values.shape[1], *whole))
        for (z, y, x), tile in zip((self.index * SIDE).tolist(), self.values, strict=True):
            rgba[:, z : z + SIDE, y : y + SIDE, x : x + SIDE] = tile
        nz, ny, nx = self.grid.shape
        return Volume(rgba[:, :nz, :ny, :nx], self.grid)

    def points(self, least: float = 0.5) -> tuple[Float[Tensor, "m 3"], Float[Tensor, "m c"]]:
        """World positions (metres, float64) and channels of the voxels whose occupancy is at least
        ``least`` (and above 0)."""
        tile, z, y, x = ((self.values[:, -1] >= least) & (self.values[:, -1] > 0)).nonzero().T
        voxel = (self.index[tile] * SIDE + torch.stack([z, y, x], dim=1)).flip(1)
        middles = [torch.as_tensor(axis) for axis in self.grid.axes()]
        columns = [axis.to(voxel.device)[voxel[:, i]] for i, axis in enumerate(middles)]
        return torch.stack(columns, dim=1), self.values[tile, :, z, y, x]

    def save(self, path: Path) -> None:
        """One safetensors file: index, values, origin, voxel_size and shape."""
        g = self.grid
        tensors = {
            "index": self.index.to(torch.int32).contiguous(),
            "values": self.values.contiguous(),
            "origin": torch.tensor(g.origin, dtype=torch.float64),
            "voxel_size": torch.tensor(g.voxel_size, dtype=torch.float64),
            "shape": torch.tensor(g.shape, dtype=torch.int32),
        }
        write_file(path, save(tensors))

    @classmethod
    def load(cls, path: Path) -> SparseVolume:
        """What :meth:`save` wrote. Raises Refused where the file is something else."""
        try:
            t = load_file(path)
            nz, ny, nx = t["shape"].tolist()
            x, y, z = t["origin"].tolist()
            grid = Grid((x, y, z), float(t["voxel_size"]), (nz, ny, nx))
            index, values = t["index"], t["values"]
        except (
            SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OSError
        ) as error:  # fmt: skip
            problem = "is no sparse volume"
            raise Refused(path, "content", problem, error, "what save wrote") from error
        limits = torch.tensor(Tiling(grid.shape, (SIDE,) * 3).counts)
        is_values = values.dim() == 5 and values.is_floating_point() and values.shape[1] > 0
        if not is_values or values.shape[2:] != (SIDE,) * 3 or index.shape != (len(values), 3):
            got = f"{tuple(index.shape)} and {tuple(values.shape)}"
            raise Refused(
                path, "values", "not tiles of floats", got, "(n, 3) and (n, C, 16, 16, 16)"
            )
        if index.is_floating_point() or bool(((index < 0) | (index >= limits)).any()):
            raise Refused(path, "index", "is no tile of the grid", None, f"below {limits.tolist()}")
        if len(index.unique(dim=0)) < len(index):
            raise Refused(path, "index", "has a tile twice")
        return cls(grid, index.long(), values)


def compose_sparse(
    prototypes: VoxelPrototypes,
    placements: Placements,
    grid: Grid,
    background: Volume | Tensor | None = None,
    *,
    cap: str = "hard",
    backend: str | None = None,
) -> SparseVolume:
    """What ``compose`` gives, as the tiles of 16³ voxels in which occupancy is anywhere above 0.

    Made layer by layer of tiles: memory is one layer's and the result's. Not differentiable; for
    gradients at such sizes see ``compose_loss``. Raises ValueError as compose does.
    """
    from protoscene.compose import compose

    check(prototypes, placements, grid, background)
    check_choices(cap, backend)  # where nothing is, nobody else would
    ground = resampled(background, grid) if isinstance(background, Volume) else background
    touched = _touched(prototypes, placements, grid)
    if ground is not None:
        touched[:] = True
    nz, ny, nx = grid.shape
    index, values = [], []
    for layer in np.flatnonzero(touched.any(axis=(1, 2))):
        z0, z1 = int(layer) * SIDE, min((int(layer) + 1) * SIDE, nz)
        part = grid.cropped((z0, 0, 0), (z1, ny, nx))
        here = None if ground is None else ground[:, z0:z1]
        with torch.no_grad():
            rgba = compose(prototypes, placements, part, here, cap=cap, backend=backend).rgba
        for ty, tx in np.argwhere(touched[layer]).tolist():
            y, x = ty * SIDE, tx * SIDE
            tile = rgba[:, :, y : y + SIDE, x : x + SIDE]
            if bool((tile[-1] > 0).any()):
                whole = rgba.new_zeros((rgba.shape[0], SIDE, SIDE, SIDE))
                whole[:, : tile.shape[1], : tile.shape[2], : tile.shape[3]] = tile
                index.append((int(layer), ty, tx))
                values.append(whole)
    like, _, dtype = common_type(prototypes.voxels, ground)
    empty = like.new_empty((0, prototypes.channels, SIDE, SIDE, SIDE), dtype=dtype)
    return SparseVolume(
        grid,
        torch.tensor(index, dtype=torch.long, device=like.device).reshape(-1, 3),
        torch.stack(values) if values else empty,
    )


def _touched(prototypes: VoxelPrototypes, placements: Placements, grid: Grid) -> np.ndarray:
    """(tiles along z, y, x): whether any placement's support reaches the tile's box."""
    which, *poses = (v.detach().cpu() for v in hard_rows(placements))
    rows = rows_of(
        grid, prototypes.table.numpy(), np.array(prototypes.voxel_size), which.numpy(),
        *(v.double().numpy() for v in poses),
    )  # fmt: skip
    tiling = Tiling(grid.shape, (SIDE, SIDE, SIDE))
    first, _ = tiling.members(rows.boxes)
    touched: np.ndarray = (np.diff(first) > 0).reshape(tiling.counts)
    return touched
