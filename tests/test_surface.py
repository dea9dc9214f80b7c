"""Faces of volumes and their mesh, and the pictures of differences that the report shows."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
import trimesh

from protoscene.export.gltf import Document
from protoscene.geometry import Grid
from protoscene.report.pictures import NOTHING, depth_difference, difference
from protoscene.surface import background_faces, halved, visible_faces, welded
from protoscene.volume import Background, Volume


def test_faces_show_exactly_where_occupied_meets_empty():
    occupancy = (torch.rand(5, 6, 7, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    rgb = torch.rand(3, 5, 6, 7, generator=torch.Generator().manual_seed(2))
    grid = Grid((1.0, 2.0, 3.0), 0.5, (5, 6, 7))
    corners, colours = visible_faces(Volume(torch.cat([rgb, occupancy[None]]), grid), True)
    # The divergence theorem: outward faces of a closed surface enclose the occupied volume.
    middle = corners.mean(axis=1)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 3] - corners[:, 0])
    enclosed = (middle * normal).sum() / 3
    assert enclosed == pytest.approx(float(occupancy.sum()) * 0.5**3)
    inside = np.floor(grid.voxel_from_world(middle - 0.5 * normal / 0.25 * 0.25)).astype(int)
    x, y, z = inside.T
    assert (occupancy.numpy()[z, y, x] == 1).all()
    assert np.abs(colours - 255 * rgb.numpy()[:, z, y, x].T).max() <= 0.5 + 1e-4
    cut, _ = visible_faces(Volume(torch.cat([rgb, occupancy[None]]), grid), False)
    on_border = (np.isclose(middle, grid.lower) | np.isclose(middle, grid.upper)).any(axis=1)
    assert len(cut) == (~on_border).sum()


def test_halving_keeps_the_place_and_the_colour_of_what_is_there():
    rgba = torch.zeros(4, 3, 4, 4)
    rgba[:, 2, 3, 1] = torch.tensor([0.2, 0.4, 0.6, 1.0])
    coarse = halved(Volume(rgba, Grid((0.0, 0.0, 0.0), 0.1, (3, 4, 4))))
    assert coarse.grid == Grid((0.0, 0.0, 0.0), 0.2, (2, 2, 2))
    assert coarse.rgba[:, 1, 1, 0].tolist() == pytest.approx([0.2, 0.4, 0.6, 1.0])
    assert float(coarse.occupancy.sum()) == 1


def test_the_mesh_is_read_by_others_with_its_places_and_colours():
    volume = Volume(
        torch.tensor([0.2, 0.5, 1.0, 1.0]).reshape(4, 1, 1, 1), Grid((1, 2, 3), 2, (1,) * 3)
    )
    document = Document()
    document.mesh("cube", *visible_faces(volume, True))
    data = io.BytesIO(document.glb([{"mesh": 0}], []))
    mesh = trimesh.load(data, "glb", force="mesh")
    assert mesh.volume == pytest.approx(8)
    assert mesh.bounds.tolist() == [[1, 2, 3], [3, 4, 5]]


def test_differences_are_white_where_equal_and_blue_where_nearer():
    same = np.full((4, 4, 3), 77, np.uint8)
    assert (difference(same, same) == 255).all()
    recorded = np.array([[1.0, 1.0, 1.0, 0.0]], np.float32)
    rendered = np.array([[1.0, 0.5, 1.5, 1.0]], np.float32)
    equal, nearer, further, unknown = depth_difference(recorded, rendered, 0.5)[0].astype(int)
    assert equal.tolist() == [255] * 3
    assert nearer[2] > nearer[0] and further[0] > further[2]
    assert unknown.tolist() == NOTHING.tolist()


def test_fine_voxels_stand_for_the_coarse_ones_in_whose_place_they_are():
    grid = Grid((0.0, 0.0, 0.0), 0.2, (2, 4, 4))
    ground = torch.ones(4, 2, 4, 4)
    ground[3, 1] = 0
    fine = torch.ones(4, 4, 4, 4)
    fine[3, 1:] = 0  # the ground lies a quarter as high here
    part = Volume(fine, Grid((0.2, 0.2, 0.0), 0.1, (4, 4, 4)))
    corners, _ = background_faces(Background(Volume(ground, grid), None, (part,)))
    heights = corners[..., 2].mean(axis=1)
    assert sorted(np.unique(heights.round(6)).tolist()) == [0.1, 0.2]
    assert ((heights < 0.15).sum(), (heights > 0.15).sum()) == (16, 12)
    low = corners[heights < 0.15][..., :2]
    assert (low.min(), low.max()) == (pytest.approx(0.2), pytest.approx(0.6))


def test_faces_welded_share_their_vertices_and_mix_their_values():
    occupancy = (torch.rand(5, 6, 7, generator=torch.Generator().manual_seed(3)) > 0.4).float()
    rgb = torch.rand(3, 5, 6, 7, generator=torch.Generator().manual_seed(4))
    volume = Volume(torch.cat([rgb, occupancy[None]]), Grid((100.0, -2.0, 3.0), 0.3, (5, 6, 7)))
    corners, colours = visible_faces(volume, True)
    places, means, quads = welded(corners, colours)
    np.testing.assert_array_equal(places[quads], corners)
    assert len(np.unique(places.round(6), axis=0)) == len(places)
    for vertex in range(0, len(places), 17):
        meeting = (quads == vertex).any(axis=1)
        np.testing.assert_allclose(means[vertex], colours[meeting].mean(axis=0))
