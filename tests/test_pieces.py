"""A thing of which a part is seen apart is one thing; what only passes by is another."""

from __future__ import annotations

import numpy as np
import pytest

from moving_boxes import CART_DIMS, Box
from moving_cart import NOISE, Ride, pose_errors, ride, smooth
from protoscene.follow import Appearance, Trail
from protoscene.geometry import centred_grid
from protoscene.pieces import absorb, pieces_of, take
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


def test_a_part_is_a_piece_at_every_instant(taken, body_and_cab, model) -> None:
    body, cab = body_and_cab
    assert pieces_of(cab, body, taken.poses, model, 0.04) == set(range(12))
    late = take(body, set(range(4, 12)))  # the whole itself was not seen at first
    assert pieces_of(cab, late, taken.poses[4:], model, 0.04) == set(range(12))


def test_what_passes_by_is_no_piece(taken: Ride, model: Model) -> None:
    other = trail_of([b[1] for b in taken.blobs])
    assert pieces_of(other, taken.trail, taken.poses, model, 0.04) == set()
    assert pieces_of(take(other, set()), taken.trail, taken.poses, model, 0.04) == set()


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


def test_taking_and_absorbing_are_inverse(body_and_cab: tuple[Trail, Trail]) -> None:
    body, cab = body_and_cab
    whole = absorb(body, take(cab, {2, 3}))
    assert sorted(body.seen) == sorted(whole.seen) == list(range(12))
    assert [len(whole.blobs[i].points) - len(body.blobs[i].points) for i in range(12)] == [
        len(cab.blobs[i].points) if i in (2, 3) else 0 for i in range(12)
    ]
    parted = absorb(take(body, {0, 1}), take(body, set(range(2, 12))))
    assert all(parted.blobs[i] is body.blobs[i] for i in range(12))
