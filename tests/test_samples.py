"""Training samples: the same for the same numbers, and labels that move with what they label."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from detector_samples import GRID, two_carts
from protoscene.geometry import Grid
from protoscene.labels import Labels
from protoscene.network_input import network_input
from protoscene.networks import stride_of
from protoscene.observe import ViewStack
from protoscene.samples import Motion, Sample, Samples, batch, moved_labels, moved_views
from protoscene.targets import count_inside, targets

STRIDE = 2


def some(most_bytes: int = 2**29) -> Samples:
    recording, labels = two_carts()
    return Samples([recording], [labels], [GRID], STRIDE, most_bytes)


def same(a: Sample, b: Sample) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_draw_depends_on_its_numbers_only() -> None:
    first, later = some(), some(most_bytes=1)
    drawn = [first.draw(3, step, index) for step in range(2) for index in range(2)]
    again = [later.draw(3, step, index) for step in range(2) for index in range(2)]
    assert all(same(a, b) for a, b in zip(drawn, again, strict=True))
    assert not any(same(drawn[0], other) for other in drawn[1:])
    assert not same(first.draw(4, 0, 0), drawn[0])


def test_a_batch_is_its_samples() -> None:
    samples = some()
    drawn = [samples.draw(0, 0, k) for k in range(3)]
    together = batch(drawn)
    assert together.volume.shape == (3, 5, *GRID.shape) and together.kind.shape == (3, 16, 16)
    assert all(same(Sample(*(part[k] for part in together)), drawn[k]) for k in range(3))


def test_draws_vary_what_they_should() -> None:
    samples = some()
    drawn = [samples.draw(0, 0, k) for k in range(12)]
    known = [float((s.volume[3] + s.volume[4]).mean()) for s in drawn]
    assert max(known) > 1.5 * min(known)  # of one to three cameras
    yaws = np.concatenate([s.box[6][s.heat == 1].numpy() for s in drawn])
    assert np.abs(np.exp(1j * yaws).mean()) < 0.6
    assert all(bool((s.volume[:3] >= 0).all() and (s.volume[:3] <= 1).all()) for s in drawn)


def test_a_share_of_the_draws_is_of_elsewhere() -> None:
    (recording, labels), near = two_carts(), some()
    far = Grid((40.0, 40.0, GRID.origin[2]), GRID.voxel_size, GRID.shape)
    samples = Samples([recording], [labels], [GRID], STRIDE, wholes=[far])
    drawn = [samples.draw(0, 0, k) for k in range(40)]
    elsewhere = sum(float(s.volume[3].sum()) == 0 for s in drawn)  # where nothing was seen
    assert 4 <= elsewhere <= 16
    assert all(float(near.draw(0, 0, k).volume[3].sum()) > 0 for k in range(10))
    for s in drawn:
        if float(s.volume[3].sum()) == 0:
            assert float(s.known.sum()) == 0 and float(s.weight.sum()) == 0


@pytest.mark.parametrize("motion", [Motion(), Motion(0.8, (0.2, -0.1, 0.05)), Motion(-2.0)])
def test_labels_move_with_what_they_label(motion: Motion) -> None:
    recording, labels = two_carts()
    grid = Grid(GRID.origin, 0.04, (18, 80, 80))
    seen = moved_views(ViewStack.of(recording.views(0)), grid, motion)
    boxes = moved_labels(labels[0], grid, motion).boxes
    volume = network_input(seen, grid)
    turned = boxes + np.array([0, 0, 0, 0, 0, 0, math.pi / 2])
    for own, across in zip(boxes, turned, strict=True):
        counts = count_inside(volume[3], grid.lower, 0.04, np.stack([own, across]))
        assert counts[0] > 1.3 * counts[1] > 0


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_sample_is_of_one_piece(mirrored: bool) -> None:
    """Where it says that a box is there is something, as long and as wide as the box."""
    recording, labels = two_carts()
    grid = Grid(GRID.origin, 0.04, (18, 80, 80))
    samples = Samples([recording], [labels], [grid], stride=4)
    views = ViewStack.of(recording.views(0))
    sample = samples._sample(views, labels[0], grid, Motion(0.5, mirrored=mirrored))
    rows, columns = torch.nonzero(sample.heat == 1).unbind(1)
    assert len(rows) == 2
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        x, y, z, *size, yaw = sample.box[:, row, column].double().tolist()
        x, y = (np.array([column, row]) + 0.5 + [x, y]) * 0.16 + grid.lower[:2]
        box = np.array([x, y, z + grid.lower[2], *np.exp(size), yaw])
        turned = box + np.array([0, 0, 0, 0, 0, 0, math.pi / 2])
        counts = count_inside(sample.volume[3].numpy(), grid.lower, 0.04, np.stack([box, turned]))
        assert counts[0] > 1.3 * counts[1] > 0


def test_motion_keeps_distances_and_mirroring_twice_changes_nothing() -> None:
    _, labels = two_carts()
    boxes = labels[0].boxes
    moved = moved_labels(labels[0], GRID, Motion(1.1, (0.3, 0.2, -0.1), True)).boxes
    apart = np.linalg.norm(np.diff(boxes[:, :3], axis=0))
    assert np.linalg.norm(np.diff(moved[:, :3], axis=0)) == pytest.approx(apart)
    assert math.cos(np.diff(moved[:, 6])[0]) == pytest.approx(math.cos(np.diff(boxes[:, 6])[0]))
    twice = moved_labels(moved_labels(labels[0], GRID, Motion(mirrored=True)), GRID,
                         Motion(mirrored=True))  # fmt: skip
    assert twice.boxes == pytest.approx(boxes)


def test_targets_are_at_the_centres() -> None:
    recording, labels = two_carts()
    volume = network_input(ViewStack.of(recording.views(0)), GRID)
    wanted = targets(labels[0], volume, GRID, STRIDE)
    rows, columns = np.nonzero(wanted.heat == 1)
    assert len(rows) == 2
    for row, column in zip(rows, columns, strict=True):
        kind = wanted.kind[row, column]
        box, at = labels[0].boxes[kind], wanted.box[:, row, column]
        cell = STRIDE * GRID.voxel_size
        centre = (np.array([column, row]) + 0.5 + at[:2]) * cell + GRID.lower[:2]
        assert centre == pytest.approx(box[:2], abs=1e-6)
        assert at[2] == pytest.approx(box[2] + 0.1)
        assert np.exp(at[3:6]) == pytest.approx(box[3:6])
        assert wanted.weight[row, column] == pytest.approx(labels[0].weight[kind])
        assert wanted.known[row, column] == pytest.approx(labels[0].weight[kind])
    assert wanted.weight.max() <= 1 and (wanted.weight[wanted.heat < 0.01] == 0).all()


def test_what_cannot_be_known_is_ignored() -> None:
    recording, labels = two_carts()
    volume = network_input(ViewStack.of(recording.views(0)), GRID)
    one = Labels(labels[0].kind, labels[0].boxes, np.array([1.0, 0.0]))
    sure = targets(one, volume, GRID, STRIDE)
    assert (sure.heat == 1).sum() == 1
    column, row = ((labels[0].boxes[1, :2] - GRID.lower[:2]) / 0.2).astype(int)
    assert sure.known[row, column] == 0 and sure.heat[row, column] < 1e-3
    # Nothing was seen at all: no centre is taught, nor that there is none.
    blind = targets(labels[0], np.zeros_like(volume), GRID, STRIDE)
    assert blind.heat.max() == 0 and blind.known.max() == 0 and blind.weight.max() == 0
    # A centre beyond the grid is no centre; what reaches in is ignored.
    beyond = labels[0].boxes[:1].copy()
    beyond[0, 0] = GRID.upper[0] + 0.05
    edge = targets(Labels(np.array([0]), beyond, np.ones(1)), volume, GRID, STRIDE)
    assert edge.heat.max() == 0 and edge.known[:, -1].min() == 0


def test_an_instant_as_it_is() -> None:
    samples = some()
    assert len(samples) == 2
    recording, _ = two_carts()
    volume = network_input(ViewStack.of(recording.views(1)), GRID)
    assert np.array_equal(samples.exactly(1).volume.numpy(), volume)


def test_what_does_not_fit_is_refused() -> None:
    recording, labels = two_carts()
    with pytest.raises(ValueError, match="one shape"):
        other = GRID.cropped((0, 0, 0), (4, 8, 8))
        Samples([recording] * 2, [labels] * 2, [GRID, other], STRIDE)
    with pytest.raises(ValueError, match="as many labels"):
        Samples([recording], [labels[:1]], [GRID], STRIDE)
    with pytest.raises(ValueError, match="as many recordings"):
        Samples([recording], [labels], [], STRIDE)


def test_strides_make_at_most_32_cells() -> None:
    assert [stride_of((z, 128, x)) for z, x in ((32, 128), (32, 129), (8, 5))] == [4, 5, 4]
    assert stride_of((256, 256, 256)) == 8 and stride_of((1, 1, 1)) == 1
