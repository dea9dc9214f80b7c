"""render: what a camera sees of known boxes, and that its gradients are the finite differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from protoscene.compose import compose
from protoscene.geometry import Camera, Grid, look_at
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.render import Picture, render
from protoscene.volume import Outside, Volume

VOXEL = 0.05
GRID = Grid((-1.0, -1.0, -1.0), VOXEL, (40, 40, 40))
COLOUR = torch.tensor([0.2, 0.6, 0.9])
EYES = [(3.0, 0.01, 0.02), (0.01, -2.5, 0.1), (2.0, 2.0, 2.5), (-1.5, 1.0, -2.0), (0.02, 0.01, 2.5)]


def box_volume(grid: Grid = GRID, half: float = 0.4, alpha: float = 1.0) -> Volume:
    """A box of COLOUR in the middle; the colour elsewhere is set, and must not show."""
    inside = (np.abs(grid.centres()) < half).all(axis=-1)
    rgba = torch.zeros(4, *grid.shape)
    rgba[:3] = 1 - COLOUR[:, None, None, None]
    rgba[:3, torch.tensor(inside)] = COLOUR[:, None]
    rgba[3] = torch.tensor(inside) * alpha
    return Volume(rgba, grid)


def camera_at(eye: tuple[float, float, float], width: int = 60, height: int = 44) -> Camera:
    middle = width / 2, height / 2
    return Camera(width, height, 1.1 * width, 1.1 * width, *middle, look_at(eye, (0.0, 0.0, 0.0)))


def box_depth(camera: Camera, half: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """z-depths (h, w) at which the rays enter and leave a box around the origin, and the cosine
    between the ray and the normal of the face through which it enters."""
    rays = camera.directions()
    ends = [(side * half - camera.centre) / rays for side in (-1.0, 1.0)]
    near = np.minimum(*ends)
    along = np.take_along_axis(rays, near.argmax(axis=-1)[..., None], axis=-1)[..., 0]
    cosine = np.abs(along) / np.linalg.norm(rays, axis=-1)
    return near.max(axis=-1), np.maximum(*ends).min(axis=-1), cosine


@pytest.mark.parametrize("eye", EYES)
def test_a_box_is_where_it_is(eye: tuple[float, float, float]) -> None:
    camera = camera_at(eye)
    picture = render(box_volume(), camera)
    enter, leave, cosine = box_depth(camera, 0.4)
    through, past = leave - enter > 6 * VOXEL, leave < enter - 6 * VOXEL
    assert through.sum() > 100 and past.sum() > 100
    error = np.abs(picture.depth.numpy() - enter)
    assert np.median(error[through]) < 0.25 * VOXEL
    assert error[through & (cosine > 0.3)].max() < 0.5 * VOXEL
    assert picture.opacity.numpy()[through].min() > 0.99
    seen = picture.colour[torch.tensor(through)]
    torch.testing.assert_close(seen, COLOUR.expand_as(seen), rtol=0, atol=0.01)
    for nothing in (picture.opacity, picture.depth, picture.colour.sum(dim=-1)):
        assert nothing.numpy()[past].max() == 0


def test_head_on_depth_lies_at_the_half_occupied_crossing() -> None:
    """Also where the face lies anywhere between two voxels, where the ramp is longer."""
    cube = VoxelPrototypes.from_rgba([torch.ones(4, 16, 16, 16)], VOXEL)
    camera = camera_at((3.0, 0.0, 0.0), 5, 5)
    for shift, voxels in ((0.0, 0.1), (0.012, 0.25), (0.031, 0.25)):
        volume = compose(cube, Placements(which=[0], centre=[[shift, 0.0, 0.0]]), GRID)
        depth = render(volume, camera).depth[2, 2]
        assert abs(float(depth) - (2.6 - shift)) < voxels * VOXEL


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.6])
def test_a_voxel_lets_the_fourth_power_of_its_clearness_through(alpha: float) -> None:
    """A slab that fills the grid: (1 − α)⁴ per voxel, mean depth from its geometric series."""
    grid = Grid((0.0, 0.0, 0.0), 0.1, (5, 5, 6))
    volume = Volume(torch.full((4, 5, 5, 6), alpha), grid)
    camera = Camera(1, 1, 1.0, 1.0, 0.5, 0.5, look_at((-1.0, 0.25, 0.25), (0.0, 0.25, 0.25)))
    picture = render(volume, camera)
    assert picture.opacity.item() == pytest.approx(1 - (1 - alpha) ** (4 * 6), abs=1e-3)
    clear = (1 - alpha) ** 2
    weights = clear ** np.arange(12) * (1 - clear)
    middle = 1.0 + 0.05 * (np.arange(12) + 0.5)
    expected = (weights * middle).sum() / weights.sum()
    assert picture.depth.item() == pytest.approx(expected, abs=2e-3)


def test_thin_air_has_no_depth_and_lets_the_sky_through() -> None:
    sky = torch.tensor([0.5, 0.7, 1.0])
    nothing = Outside(
        Volume(torch.zeros(4, 2, 2, 2), Grid((-4.0, -4.0, -4.0), 4.0, (2, 2, 2))), sky
    )
    picture = render(box_volume(alpha=0.002), camera_at(EYES[0]), nothing)
    share = picture.opacity[..., None]
    assert 0 < share.max() < 0.5 and picture.depth.max() == 0
    torch.testing.assert_close(picture.colour, share * COLOUR + (1 - share) * sky)


def wall_outside(x: float, colour: Tensor) -> Outside:
    """Air around the grid, and a wall of ``colour`` beyond ``x``; inside the grid it is full."""
    grid = Grid((-6.0, -6.0, -6.0), 0.5, (24, 24, 24))
    centres = grid.centres()
    full = (centres[..., 0] < x) | (np.abs(centres) < 0.6).all(axis=-1)
    rgba = colour[:, None, None, None].expand(3, 24, 24, 24)
    return Outside(Volume(torch.cat([rgba, torch.tensor(full)[None].float()]), grid), torch.ones(3))


def test_outside_counts_only_outside() -> None:
    """Behind the box stands a wall; what the coarse volume holds inside of the grid is not seen."""
    brown = torch.tensor([0.5, 0.3, 0.1])
    outside = wall_outside(-3.0, brown)
    camera = camera_at((2.9, 0.3, 0.2))
    alone, picture = render(box_volume(), camera), render(box_volume(), camera, outside)
    enter, leave, _ = box_depth(camera, 0.4)
    through = torch.tensor(leave - enter > 6 * VOXEL)
    torch.testing.assert_close(picture.colour[through], alone.colour[through], atol=0.01, rtol=0)
    past = torch.tensor(leave < enter - 6 * VOXEL)
    brown = brown.expand_as(picture.colour[past])
    torch.testing.assert_close(picture.colour[past], brown, atol=0.01, rtol=0)
    points = camera.unproject(picture.depth.numpy())[past.numpy()]
    assert np.abs(points[:, 0] + 3.0).max() < 0.5 * 0.5  # half of the coarse volume's voxels


def test_outside_in_front_of_the_grid_hides_it() -> None:
    outside = wall_outside(-2.0, torch.tensor([0.5, 0.3, 0.1]))
    picture = render(box_volume(), camera_at((-5.0, 0.1, 0.2)), outside)  # from within the wall
    assert (picture.colour - torch.tensor([0.5, 0.3, 0.1])).abs().max() < 0.01
    assert picture.depth.max() < 1.0


def test_a_camera_inside_looks_ahead_only() -> None:
    """The box behind the camera is not seen, the one before it is, from within the grid."""
    camera = camera_at((0.7, 0.0, 0.0), 9, 9)
    assert render(box_volume(), camera).depth[4, 4].item() == pytest.approx(0.3, abs=0.5 * VOXEL)
    turned = replace(camera, world_from_camera=look_at((0.7, 0.0, 0.0), (2.0, 0.0, 0.0)))
    assert render(box_volume(), turned).opacity.max() == 0


def test_a_finer_volume_and_a_finer_picture_show_the_same() -> None:
    camera = camera_at((2.0, 2.0, 2.5), 96, 72)
    picture = render(box_volume(), camera)
    finer = render(box_volume(GRID.resampled(VOXEL / 2)), camera)
    half = render(box_volume(), camera.scaled(0.5))
    seen = ((finer.opacity > 0.99) & (picture.opacity > 0.99)).numpy()
    assert np.abs((finer.depth - picture.depth).numpy())[seen].mean() < 0.2 * VOXEL
    assert (finer.colour - picture.colour).abs().mean() < 0.02

    def pooled(values: Tensor) -> Tensor:
        return values.reshape(36, 2, 48, 2, -1).mean(dim=(1, 3))

    assert (pooled(picture.colour) - half.colour).abs().mean() < 0.01


def test_skipping_empty_space_changes_nothing() -> None:
    """With a gradient wanted every sample is taken; without, empty ones are not."""
    generator = torch.Generator().manual_seed(1)
    rgba = torch.rand(4, 21, 30, 27, generator=generator)
    rgba[3] *= torch.rand(21, 30, 27, generator=generator) > 0.995  # single voxels, far apart
    grid = Grid((-0.7, -0.75, -0.5), VOXEL, (21, 30, 27))
    for eye in EYES:
        skipped = render(Volume(rgba, grid), camera_at(eye))
        every = render(Volume(rgba.clone().requires_grad_(), grid), camera_at(eye))
        assert skipped.opacity.max() > 0.5
        for name in ("colour", "opacity"):
            difference = (getattr(skipped, name) - getattr(every, name)).abs().max()
            assert difference <= 1.1e-3, name  # a ray ends when it has a thousandth left


def test_chunks_and_types() -> None:
    """More rays than one chunk, other numbers of channels, half precision in."""
    camera = camera_at(EYES[2], 160, 120)
    volume = box_volume()
    picture = render(volume, camera)
    assert picture.colour.shape == (120, 160, 3) and picture.depth.shape == (120, 160)
    half = render(Volume(volume.rgba.half(), GRID), camera)
    assert half.colour.dtype == torch.float32
    torch.testing.assert_close(half.opacity, picture.opacity, atol=1e-3, rtol=0)
    features = torch.cat([volume.rgba[:3], volume.rgba[:3], volume.rgba[3:]])
    many = render(Volume(features, GRID), camera)
    torch.testing.assert_close(many.colour, torch.cat([picture.colour] * 2, dim=-1))


SMALL = Grid((-0.3, -0.3, -0.3), 0.1, (6, 6, 6))
BEYOND = Grid((-1.2, -1.2, -1.2), 0.4, (6, 6, 6))


def small_loss(picture: Picture) -> Tensor:
    """Weighs every entry of a picture by another number."""
    total = picture.colour.new_zeros(())
    for seed, values in enumerate((picture.colour, picture.opacity, picture.depth)):
        generator = torch.Generator().manual_seed(seed)
        total = total + (values * torch.rand(values.shape, generator=generator).double()).sum()
    return total


def random64(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gradients_of_volumes_and_sky() -> None:
    camera = camera_at((0.7, 0.9, 0.6), 6, 5)

    def loss(rgba: Tensor, outer: Tensor, sky: Tensor) -> Tensor:
        return small_loss(render(Volume(rgba, SMALL), camera, Outside(Volume(outer, BEYOND), sky)))

    rgba = random64(4, 6, 6, 6, seed=1)
    rgba[3] *= 0.3
    outer = random64(4, 6, 6, 6, seed=2)
    outer[3] *= 0.5
    inputs = [v.requires_grad_() for v in (rgba, outer, random64(3, seed=3))]
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-6, atol=1e-5, fast_mode=True)


def test_gradient_reaches_empty_and_full_voxels() -> None:
    """No NaN where occupancy is 0 or 1, and an empty voxel before the sky can learn to appear."""
    rgba = box_volume().rgba.requires_grad_()
    render(Volume(rgba, GRID), camera_at(EYES[2])).colour.sum().backward()
    assert rgba.grad is not None and torch.isfinite(rgba.grad).all()
    assert rgba.grad[3][(rgba.detach()[3] == 0)].abs().max() > 0


def test_gradients_of_poses_through_compose() -> None:
    camera = camera_at((0.7, 0.9, 0.6), 6, 5)
    prototypes = VoxelPrototypes.from_rgba([random64(4, 4, 4, 5, seed=4) * 0.7], 0.07)
    background = random64(4, 6, 6, 6, seed=5) * 0.2

    def loss(centre: Tensor, yaw: Tensor, scale: Tensor, presence: Tensor) -> Tensor:
        rows = Placements([0, 0], centre, yaw, scale, presence)
        return small_loss(render(compose(prototypes, rows, SMALL, background), camera))

    inputs = [
        (random64(2, 3, seed=6) - 0.5) * 0.2,
        random64(2, seed=7),
        0.8 + 0.4 * random64(2, seed=8),
        0.2 + 0.5 * random64(2, seed=9),
    ]
    for value in inputs:
        value.requires_grad_()
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-7, atol=1e-5)


def test_same_bytes_again() -> None:
    first, second = (render(box_volume(), camera_at(EYES[2])) for _ in range(2))
    assert torch.equal(first.colour, second.colour) and torch.equal(first.depth, second.depth)
