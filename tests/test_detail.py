"""What stands, on finer voxels: what a picture gains, and what never gets in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moving_boxes import Box, camera, cast, record, ring
from protoscene import detail
from protoscene.backdrop import backdrop
from protoscene.background import Static, estimate_background
from protoscene.detail import FINER, fine_volumes
from protoscene.geometry import Grid
from protoscene.layers import draw
from protoscene.observe import observe
from protoscene.prototypes import VoxelPrototypes
from protoscene.recording import Recording
from protoscene.scene import Scene
from protoscene.store import load_scene, save_scene
from protoscene.volume import Background, Volume

GRID = Grid((-1.2, -1.2, -0.13), 0.05, (18, 48, 48))
STAYS = Box((0.3, 0.2, 0.25), (0.4, 0.16, 0.5), 0.4, (60, 60, 220))


def passing(i: int) -> list[Box]:
    """A red box stands for long right before the one that stays, and goes."""
    return [
        STAYS,
        Box((0.2 if i < 8 else -0.8, -0.1, 0.15), (0.2, 0.2, 0.3), 0.2, (250, 20, 20), 1),
    ]


@pytest.fixture(scope="module")
def seen() -> Recording:
    return record(12, ring(3, width=160, height=120, focal=150), passing)


@pytest.fixture(scope="module")
def static(seen: Recording) -> Static:
    return estimate_background(seen, GRID)


@pytest.fixture(scope="module")
def behind(seen: Recording, static: Static) -> Background:
    return backdrop(seen, observe(seen, GRID), static)


def scene(background: Background) -> Scene:
    return Scene((0.0,), background, VoxelPrototypes([], []), (), ())


def test_only_what_stands_is_finer_and_reaches_the_ground(behind: Background) -> None:
    (part,) = behind.detail
    assert part.grid.voxel_size == pytest.approx(GRID.voxel_size / FINER)
    corners = np.array(STAYS.centre)[:2] + [[-0.22, -0.15], [0.22, 0.15]]
    assert (part.grid.lower[:2] < corners[0]).all() and (part.grid.upper[:2] > corners[1]).all()
    assert part.grid.lower[2] == pytest.approx(GRID.lower[2])
    assert part.grid.upper[2] > 0.5 and (part.grid.size_m[:2] < 0.9).all()


def test_its_picture_is_sharper(behind: Background) -> None:
    """From a place where no camera stood: its outline and its faces' colours."""
    view = camera((1.2, -1.6, 1.1), (0.3, 0.2, 0.2), width=160, height=120, focal=170)
    colour, depth, thing = cast(view, [STAYS])
    around = np.abs(np.indices(thing.shape) - 60).max(axis=0) < 400
    near = around & (np.abs(view.unproject(depth)[..., :2] - STAYS.centre[:2]).max(-1) < 0.4)
    errors = []
    for background in (replace(behind, detail=()), behind):
        drawn, at = draw(scene(background), 0.0, view)
        errors.append((((drawn - colour / 255) ** 2)[near].mean(), np.abs(at - depth)[near].mean()))
    assert errors[1][0] < 0.5 * errors[0][0]
    assert errors[1][1] < 0.7 * errors[0][1] and errors[1][1] < 0.02


def test_colours_of_what_passes_never_get_in(behind: Background) -> None:
    (part,) = behind.detail
    red, _, blue = part.colour
    passed = part.occupancy[(red > blue + 0.2) & (part.occupancy > 0)]
    assert float(passed.sum()) < 1e-3 * float(part.occupancy.sum())


def test_what_nobody_saw_is_as_in_the_coarse_volume(seen: Recording, static: Static) -> None:
    """Blind pictures tell nothing: every occupancy is the coarse one's, read between voxels."""
    size = {"width": 160, "height": 120, "focal": 150}
    blind = record(2, ring(1, **size), lambda i: [], lambda depth: np.zeros_like(depth))
    rgba = torch.zeros(4, *GRID.shape)
    rgba[3, :10, 20:24, 20:24] = 1
    (part,) = fine_volumes(blind, static, Volume(rgba, GRID), 0.0)
    inner = part.grid.centres()
    full = (np.abs(inner[..., :2] - GRID.world_from_voxel(np.array([22, 22, 0]))[:2]) < 0.07).all(
        axis=-1
    )
    full &= inner[..., 2] < GRID.lower[2] + 0.47
    assert full.any() and float(part.occupancy.numpy()[full].min()) == pytest.approx(1)


def test_same_input_same_bytes(
    seen: Recording, static: Static, behind: Background, tmp_path: Path
) -> None:
    again = fine_volumes(seen, static, behind.volume, 0.0)
    assert torch.equal(again[0].rgba, behind.detail[0].rgba)
    save_scene(scene(behind), tmp_path / "scene")
    (part,) = load_scene(tmp_path / "scene").background.detail
    assert part.grid == behind.detail[0].grid
    torch.testing.assert_close(part.rgba, behind.detail[0].rgba, atol=1e-3, rtol=0)


def test_without_a_ground_everything_is_finer(
    seen: Recording, static: Static, behind: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As fine as ``MOST_VOXELS`` allows, the same however it is cut into slabs, and depth is
    nearer to the truth than from the coarse volume."""
    monkeypatch.setattr(detail, "MOST_VOXELS", 8 * GRID.n_voxels)
    (whole,) = fine_volumes(seen, static, behind.volume, None)
    assert whole.grid.voxel_size == pytest.approx(GRID.voxel_size / 2)
    np.testing.assert_allclose([whole.grid.lower, whole.grid.upper], [GRID.lower, GRID.upper])
    monkeypatch.setattr(detail, "SLAB_VOXELS", 50_000)
    (again,) = fine_volumes(seen, static, behind.volume, None)
    # To rounding, which may put a voxel's middle into the pixel beside.
    assert float(((again.occupancy - whole.occupancy).abs() > 1e-4).float().mean()) < 1e-3
    view = camera((1.2, -1.6, 1.1), (0.3, 0.2, 0.2), width=160, height=120, focal=170)
    known = cast(view, [STAYS])[1]
    off = []
    for parts in ((), (whole,)):
        depth = draw(scene(replace(behind, detail=parts)), 0.0, view)[1]
        off.append(np.median(np.abs(depth - known)[(known > 0) & (depth > 0)]))
    assert off[1] < 0.7 * off[0]


def test_too_much_of_it_stays_coarse(seen: Recording, static: Static) -> None:
    wide = Grid((-20.0, -20.0, -0.13), 0.05, (18, 800, 800))
    rgba = torch.zeros(4, *wide.shape)
    rgba[3, :10] = 1
    assert fine_volumes(seen, static, Volume(rgba, wide), 0.0) == ()
    assert fine_volumes(seen, static, Volume(rgba, wide), None) == ()
    assert fine_volumes(seen, static, Volume(torch.zeros_like(rgba), wide), None) == ()
