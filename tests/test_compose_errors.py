"""What compose refuses, and how it says so."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from compose_cases import (
    GRID,
    each_backend,
    each_fast_backend,
    forward,
    random,
    raw_arguments,
    scattered_case,
    two_prototypes,
)
from protoscene.compose import compose
from protoscene.geometry import Grid
from protoscene.placements import Placements
from protoscene.volume import Volume


@each_backend
def test_a_pose_that_is_none_names_its_row(backend: str) -> None:
    """Also where it became so after the placements were made, by a step of an optimizer."""
    with pytest.raises(ValueError, match=r"placements\.scale\[1\]"):
        Placements([0, 0], centre=torch.zeros(2, 3), scale=[1.0, 0.0])
    with pytest.raises(ValueError, match=r"placements\.centre\[0\]"):
        Placements([0], centre=[[math.nan, 0, 0]])
    bad = {
        "centre": math.inf,
        "yaw": math.nan,
        "scale": 0.0,
        "presence": -math.inf,
    }
    for name, value in bad.items():
        case = scattered_case(4)
        getattr(case.placements, name)[2] = value
        with pytest.raises(ValueError, match=rf"placements\.{name}\[2\]"):
            case.composed(backend)
    case = scattered_case(4).posed(which=random(4, 2))
    case.placements.which[3, 1] = math.nan
    with pytest.raises(ValueError, match=r"placements\.which\[3\]"):
        case.composed(backend)


@each_backend
def test_arguments_that_do_not_fit_each_other(backend: str) -> None:
    prototypes = two_prototypes()
    rows = Placements([0, 1], centre=torch.zeros(2, 3).double())

    def refused(match: str, *arguments: Any, **options: Any) -> None:
        with pytest.raises(ValueError, match=match):
            compose(*arguments, **{"backend": backend, **options})

    refused(
        r"which\[1\] is 2, expected 0\.\.1", prototypes, Placements([0, 2], torch.zeros(2, 3)), GRID
    )
    refused(
        r"which\[0\] is -1, expected 0\.\.1", prototypes, Placements([-1], torch.zeros(1, 3)), GRID
    )
    weights = Placements(torch.ones(1, 3), torch.zeros(1, 3))
    refused("3 weights a row for 2 prototypes", prototypes, weights, GRID)
    five = torch.zeros(5, *GRID.shape)
    refused("background has 5 channels, prototypes 4", prototypes, rows, GRID, five)
    refused("background is", prototypes, rows, GRID, torch.zeros(4, 2, 2, 2))
    elsewhere = Volume(torch.zeros(3, 2, 2, 2), Grid((0, 0, 0), 1.0, (2, 2, 2)))
    refused("background has 3 channels, prototypes 4", prototypes, rows, GRID, elsewhere)
    refused("cap", prototypes, rows, GRID, cap="round")
    refused("backend", prototypes, rows, GRID, backend="fortran")


@each_fast_backend
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("which", torch.tensor([0, 2, 0])),
        ("which", torch.tensor([0, -1, 0])),
        ("which", torch.tensor([0, 1])),
        ("centre", torch.zeros(2, 3)),
        ("yaw", torch.zeros(2)),
        ("scale", torch.ones(3)),
        ("presence", torch.ones(2)),
        ("voxels", torch.ones(100)),
        ("background", torch.ones(4, 8, 11, 11)),
        ("background", torch.ones(3, 8, 11, 12)),
        ("shape", [8, 11, 0]),
    ],
)
def test_the_operator_itself_reads_and_writes_nothing_beyond_its_tensors(
    backend: str, argument: str, value: Any
) -> None:
    names = "voxels table voxel_sizes which centre yaw scale presence background origin voxel_size"
    position = [*names.split(), "shape"].index(argument)
    arguments = raw_arguments(scattered_case(3, dtype=torch.float32), backend)
    arguments[position] = value
    with pytest.raises((ValueError, RuntimeError)):
        forward(*arguments)
