"""What the study of parsing measures by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from protoscene.geometry import Grid
from protoscene.prototypes import VoxelPrototypes
from protoscene.scene import Scene, SceneObject, Track
from protoscene.volume import Background, Volume

NOWHERE = Grid((0, 0, 0), 1.0, (1, 1, 1))


def test_the_adjusted_rand_index_counts_pairs(study: Callable[[str], ModuleType]) -> None:
    rand = study("parse").adjusted_rand
    a = np.array([0, 0, 1, 1, 2, 2])
    assert rand(a, np.array([5, 5, 3, 3, 0, 0])) == 1
    assert rand(a, np.zeros(6, int)) == 0
    # Pairs together: 3 in a, 4 in b, 2 in both, of 15.
    b = np.array([0, 0, 1, 1, 1, 2])
    chance = 3 * 4 / 15
    assert abs(rand(a, b) - (2 - chance) / (3.5 - chance)) < 1e-12


def test_dbscan_is_that_of_its_definition(study: Callable[[str], ModuleType]) -> None:
    parse = study("parse")
    random = np.random.default_rng(0)
    points = np.concatenate([random.normal(0, 0.1, (60, 3)), random.normal(1, 0.1, (60, 3)),
                             random.uniform(-3, 3, (30, 3))])  # fmt: skip
    labels, reach = parse.dbscan(points, 0.12), 0.12
    near = np.linalg.norm(points[:, None] - points[None], axis=2) <= reach
    core = near.sum(axis=1) >= parse.LEAST
    for i, j in np.argwhere(near):
        if core[i] and core[j]:
            assert labels[i] == labels[j] > 0
    assert ((labels > 0) == near[:, core].any(axis=1)).all()
    assert len(np.unique(labels[:60][core[:60]])) == 1
    assert labels[:60][core[:60]][0] != labels[60:120][core[60:120]][0]


def test_what_a_scene_explains_is_in_its_prototypes_where_they_stand(
    study: Callable[[str], ModuleType],
) -> None:
    rgba = torch.zeros(4, 2, 2, 4)
    rgba[3, :, :, :2] = 1  # the half behind is full
    pose = np.array([1.0, 2.0, 0.1, np.pi / 2])
    scene = Scene(
        times=(0.0,), background=Background(Volume(torch.zeros(4, 1, 1, 1), NOWHERE)),
        prototypes=VoxelPrototypes([rgba], [0.1]), sizes_m=((0.4, 0.2, 0.2),),
        objects=(SceneObject(0, 0, 1.0, False, (0.4, 0.2, 0.2),
                             Track.standing((0.0,), pose, np.ones(1, bool))),),
    )  # fmt: skip
    points = np.array([[1.0, 1.9, 0.1], [1.0, 2.1, 0.1], [1.0, 2.03, 0.1], [1.0, 1.9, 0.5]])
    explained = study("parse").explained
    assert explained(scene, points, 0.0).tolist() == [1, 0, 0, 0]
    assert explained(scene, points, 0.1).tolist() == [1, 0, 1, 0]


def test_a_thing_is_found_where_an_object_is_mostly_it(study: Callable[[str], ModuleType]) -> None:
    known = np.array([1, 1, 1, 2, 2, 2, 3, 3, 0])  # the third is a post
    said = np.array([1, 1, 0, 2, 0, 0, 3, 3, 4])
    recall, precision = study("parse").found_again(known, 2, said, 4)
    assert recall == 1 / 2 and precision == 2 / 4
    assert study("parse").found_again(known, 2, np.zeros(9, int), 0) == (0.0, 1.0)


def test_a_tiny_room_from_its_recording_to_the_table(
    study: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    pytest.importorskip("mujoco")
    parse = study("parse")
    page = tmp_path / "results.md"
    page.write_text("<!-- parse: begin -->\n<!-- parse: end -->\n")
    options = parse.Options(
        seeds=(1,), layouts=("apart",), things=1, instants=2, size=64, work=tmp_path, results=page
    )
    (row,) = parse.main(options)
    assert row.things[0] == 1 and row.found[0] == 1
    assert row.parse[1] > 0.5 and page.read_text().count("| apart 1 |") == 1
    assert parse.main(options) == [row]  # the figures were kept
