"""The ladder's studies, each at a size of seconds: right choices, turns and places from nothing."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image


def table(text: str, columns: int) -> dict[str, list[str]]:
    """The cells of the table's rows by the first ``columns`` of them."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {" | ".join(row[:columns]): row[columns:] for row in rows}


def test_one_prototype_per_scene(study, tmp_path, capsys) -> None:
    k_scenes = study("k_scenes")
    options = k_scenes.Options(
        seeds=(0,), resolution=16, scenes=4, views=6, steps=50, batch=8, out=tmp_path,
        remedies=("softmax", k_scenes.DEFAULT), results=tmp_path / "results.md",
    )  # fmt: skip
    k_scenes.main(options)
    rows = table(capsys.readouterr().out, 1)
    assert rows[k_scenes.DEFAULT][:2] == ["1 of 1", "1.00"]
    assert float(rows["softmax"][1]) < 1
    assert "4 things at 16³" in (tmp_path / "results.md").read_text()
    with Image.open(tmp_path / "k_scenes-things-16.png") as picture:
        assert picture.size == (4 * 18, 2 * 18)


def test_a_coarse_round_is_refined(study, tmp_path, capsys) -> None:
    k_scenes = study("k_scenes")
    k_scenes.main(k_scenes.Options(
        seeds=(0,), resolution=24, coarse=16, scenes=4, views=1, held_out=3, steps=2, batch=2,
        out=tmp_path, remedies=(k_scenes.DEFAULT,),
    ))  # fmt: skip
    text = capsys.readouterr().out
    assert table(text, 1)[k_scenes.DEFAULT][:2] == ["1 of 1", "1.00"]
    assert "4 things at 24³, 1 seeds, 2 steps of 2 views after 80 steps of 8 at 16³" in text


def test_the_accuracy_is_that_of_the_best_pairing(study) -> None:
    accuracy = study("k_scenes").accuracy
    scenes = np.array([0, 0, 1, 1, 2, 2])
    assert accuracy(np.array([2, 2, 0, 0, 1, 1]), scenes, 3) == 1
    assert accuracy(np.zeros(6, dtype=int), scenes, 3) == pytest.approx(1 / 3)


def test_a_place_seen_again_is_recognised(study, tmp_path, capsys) -> None:
    k_scenes = study("k_scenes")
    options = k_scenes.Options(
        seeds=(0,), resolution=16, scenes=4, views=6, steps=50, batch=8, out=tmp_path,
        remedies=(k_scenes.DEFAULT,), what="places",
    )  # fmt: skip
    k_scenes.main(options)
    assert table(capsys.readouterr().out, 1)[k_scenes.DEFAULT][:2] == ["1 of 1", "1.00"]


def test_correlation_over_yaw_is_the_difference_of_turned_views(study) -> None:
    turned = study("turned")
    random = torch.Generator().manual_seed(0)
    known = torch.rand(3, 4, 5, 8, generator=random)
    occupied = known * torch.rand(known.shape, generator=random)
    colour = occupied[:, None] * torch.rand(3, 3, 4, 5, 8, generator=random)
    views = turned.Cylinders(known, occupied, colour)
    steps = torch.tensor([0, 3, 6])
    found = turned.over_yaw(views.turned(steps), views)
    plain = turned.over_yaw(views, views)
    for i in range(3):
        for j in range(3):
            # View i turned by so many azimuths is like j turned by as many more.
            expected = torch.roll(plain[i, j], int(steps[i]))
            torch.testing.assert_close(found[i, j], expected, atol=1e-3, rtol=1e-3)
    whole = turned.Cylinders(torch.ones_like(known), occupied, colour)
    itself = turned.over_yaw(whole, whole)[1, 1]
    assert int(itself.argmin()) == 0


def test_turned_scenes(study, tmp_path, capsys) -> None:
    turned = study("turned")
    turned.main(turned.Options(
        seeds=(0,), resolution=16, scenes=3, views=10, steps=60, joint_steps=3, out=tmp_path,
    ))  # fmt: skip
    rows = table(capsys.readouterr().out, 1)
    assert float(rows["correlation alone"][0]) == 1
    assert float(rows["correlation alone"][2]) < 3
    assert float(rows["network"][0]) > 0.8
    assert (tmp_path / "turned.png").is_file()


def test_places_and_turns_by_correlation(study, tmp_path, capsys) -> None:
    offsets = study("offsets")
    offsets.main(offsets.Options(seeds=(1,), resolution=48, sides=(4,), out=tmp_path))
    cells = table(capsys.readouterr().out, 1)["4"]
    median, _, flips, place = (float(c) for c in cells[:4])
    assert median < 1 and flips == 0 and place < 0.4
    assert (tmp_path / "offsets.png").is_file()


def test_a_half_costs_little(study, tmp_path, capsys) -> None:
    decoders = study("decoders")
    decoders.main(decoders.Options(
        kinds=("truck", "crate", "corner"), sides=(4,), seeds=(0,), resolution=24, steps=60,
        out=tmp_path,
    ))  # fmt: skip
    rows = table(capsys.readouterr().out, 2)
    whole, half = rows["4 | free voxels"], rows["4 | stored half"]
    assert half[0] == "2 of 3"
    assert float(half[1]) > float(whole[1]) - 0.02
    stored = [float(re.sub(",", "", row[3])) for row in (whole, half)]
    assert stored[1] < 0.75 * stored[0]
    assert float(rows["4 | latents"][1]) > 0.3


def test_smaller_prototypes_anywhere(study, tmp_path, capsys) -> None:
    introduced = study("introduced")
    introduced.main(introduced.Options(
        seeds=(0,), kinds=3, prototypes=4, scenes=4, steps=9, schedules=("search, all at once",),
        out=tmp_path,
    ))  # fmt: skip
    cells = table(capsys.readouterr().out, 1)["search, all at once"]
    v_measure, _, used, place, yaw = (float(c) for c in cells[:5])
    assert v_measure > 0.8 and 3 <= used <= 4 and place < 0.6 and yaw < 4
    assert (tmp_path / "introduced.png").is_file()
