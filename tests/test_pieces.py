"""A thing of which a part is seen apart is one thing; what only passes by is another."""

from __future__ import annotations

import numpy as np
import pytest

from moving_boxes import CART_DIMS, Box
from moving_cart import NOISE, Ride, pose_errors, ride, smooth
from protoscene.follow import Appearance, Trail
from protoscene.geometry import centred_grid
from protoscene.pieces import Registered, collect, offsets
from protoscene.propose import Blob
from protoscene.register import Fusion, Model
from protoscene.start import start


def trail_of(blobs: list[Blob]) -> Trail:
    trail = Trail()
    for blob in blobs:
        trail.add(blob, Appearance.of(blob))
    return trail


@pytest.fixture(scope="module")
def taken() -> Ride:
    """The cart, and another box that comes by at the last instants."""

    def passes(i: int) -> list[Box]:
        return [Box((-0.9 + 0.11 * i, -0.62, 0.1), (0.2, 0.2, 0.2), 0.2, (40, 40, 210), 2)]

    return ride(smooth(), besides=passes)


@pytest.fixture(scope="module")
def body_and_cab(taken: Ride) -> tuple[Trail, Trail]:
    blobs = [taken.trail.blobs[i] for i in range(12)]
    low = [b.points[:, 2] < 0.205 for b in blobs]
    return (
        trail_of([b.take(k) for b, k in zip(blobs, low, strict=True)]),
        trail_of([b.take(~k) for b, k in zip(blobs, low, strict=True)]),
    )


@pytest.fixture(scope="module")
def model(taken: Ride) -> Model:
    fusion = Fusion(taken.crops, centred_grid((0.8, 0.6, 0.6), 0.02), 0.08)
    return fusion.add(taken.poses, np.ones(12, bool)).model()


def part_of(trail: Trail, instants: range) -> Trail:
    return trail_of([trail.blobs[i] for i in instants if i in trail.blobs])


def registered(trail: Trail, taken: Ride, model: Model) -> Registered:
    return Registered(trail, taken.crops, taken.poses[sorted(trail.seen)], model)


def test_a_part_moves_to_the_whole_at_every_instant(taken, body_and_cab, model) -> None:
    body, cab = body_and_cab
    late = part_of(body, range(4, 12))  # the whole itself was not seen at first
    for whole in (body, late):
        one, other = collect([registered(whole, taken, model), registered(cab, taken, model)])
        assert sorted(one.seen) == list(range(12)) and not other.seen
        for i in range(12):
            pixels = len(cab.blobs[i].points)
            pixels += len(whole.blobs[i].points) if i in whole.blobs else 0
            assert len(one.blobs[i].points) == pixels
    assert sorted(late.seen) == list(range(4, 12))  # what was given stays as it is


def test_what_passes_by_is_no_piece(taken: Ride, model: Model) -> None:
    other = trail_of([b[1] for b in taken.blobs])
    one, two = collect([registered(taken.trail, taken, model), registered(other, taken, model)])
    assert one.blobs == taken.trail.blobs and two.blobs == other.blobs


def test_offsets_are_0_in_the_middle_and_1_at_the_bounds(taken: Ride, model: Model) -> None:
    whole = registered(taken.trail, taken, model)
    values = offsets(taken.trail, whole, 0.0)
    assert sorted(values) == list(range(12)) and max(values.values()) < 0.5
    assert offsets(Trail(), whole, 0.0) == {}


def test_a_thing_in_two_trails_is_one(taken: Ride, body_and_cab: tuple[Trail, Trail]) -> None:
    (thing,) = start(taken.recording, list(body_and_cab), taken.blobs, NOISE)
    np.testing.assert_allclose(thing.dims, CART_DIMS, atol=0.025)
    metres, degrees = pose_errors(thing.poses, taken.poses)
    assert metres.max() < 0.005 and degrees.max() < 0.5


def test_two_things_stay_two(taken: Ride) -> None:
    other = trail_of([b[1] for b in taken.blobs])
    things = start(taken.recording, [taken.trail, other], taken.blobs, NOISE)
    assert len(things) == 2
    heights = sorted(float(t.dims[2]) for t in things)
    np.testing.assert_allclose(heights, [0.2, CART_DIMS[2]], atol=0.015)
