"""One crop of one placement: by scipy, by SimpleITK (where it is installed) and by compose.

Both rivals interpolate the volume's channels as they are: they neither multiply colour by occupancy
nor divide by their sum, which compose does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from compose_rivals import boxes, local_from_world
from scipy.ndimage import affine_transform
from torch import Tensor

from protoscene.geometry import Grid, centred_grid
from protoscene.placements import Placements

try:
    import SimpleITK as sitk
except ImportError:  # an optional rival
    sitk = None  # type: ignore[assignment]


def crop_of(placement: Placements, rgba: Tensor, voxel_size: float, grid: Grid) -> Grid:
    """The part of ``grid`` that one placement covers."""
    extent = np.array(rgba.shape[:0:-1]) * voxel_size
    starts, sizes = boxes(placement, extent[None] + voxel_size, grid)
    return grid.cropped(starts[0, ::-1], (starts + sizes)[0, ::-1])


def by_scipy(
    rgba: Tensor, voxel_size: float, placement: Placements, crop: Grid
) -> Callable[[], np.ndarray]:
    """``affine_transform`` of every channel into the crop."""
    inverse = local_from_world(placement)[0].numpy()
    source = _own_grid(rgba, voxel_size)
    centre = placement.centre[0].double().numpy()
    corner = crop.world_from_voxel(np.full((1, 3), 0.5))[0] - centre
    offset = source.index_from_world((inverse @ corner)[None])[0]
    matrix = (inverse * crop.voxel_size / voxel_size)[::-1, ::-1]
    volume, out = rgba.numpy(), np.empty((rgba.shape[0], *crop.shape), dtype=np.float32)

    def run() -> np.ndarray:
        for channel, result in zip(volume, out, strict=True):
            affine_transform(
                channel, matrix, offset[::-1], crop.shape, result, order=1, mode="grid-constant"
            )
        return out

    return run


def by_simpleitk(
    rgba: Tensor, voxel_size: float, placement: Placements, crop: Grid
) -> Callable[[], Any] | None:
    """``Resample`` of the volume as an image of vectors into the crop; None without SimpleITK."""
    if sitk is None:
        return None
    image = sitk.GetImageFromArray(rgba.permute(1, 2, 3, 0).contiguous().numpy(), isVector=True)
    source = _own_grid(rgba, voxel_size)
    image.SetSpacing([voxel_size] * 3)
    image.SetOrigin(source.world_from_voxel(np.full((1, 3), 0.5))[0].tolist())
    inverse = local_from_world(placement)[0].numpy()
    centre = placement.centre[0].double().numpy()
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(inverse.ravel().tolist())
    transform.SetTranslation((-inverse @ centre).tolist())
    resample = sitk.ResampleImageFilter()
    resample.SetInterpolator(sitk.sitkLinear)
    resample.SetTransform(transform)
    resample.SetSize(list(crop.shape[::-1]))
    resample.SetOutputSpacing([crop.voxel_size] * 3)
    resample.SetOutputOrigin(crop.world_from_voxel(np.full((1, 3), 0.5))[0].tolist())
    return lambda: resample.Execute(image)


def _own_grid(rgba: Tensor, voxel_size: float) -> Grid:
    nz, ny, nx = rgba.shape[1:]
    return centred_grid((nx * voxel_size, ny * voxel_size, nz * voxel_size), voxel_size)
