"""Space below a thing that nobody saw is its inside if surface surrounds it, else open."""

from __future__ import annotations

import torch

from protoscene.undersides import opened


def bench() -> tuple[torch.Tensor, torch.Tensor]:
    """A seat two layers thick on four legs, the space between filled as nobody saw it; and how
    surely each voxel was seen."""
    rgba, confidence = torch.full((4, 8, 12, 20), 0.5), torch.ones(8, 12, 20)
    rgba[3] = 0
    rgba[3, 2:6, 3:9, 3:17] = 1
    confidence[2:4, 3:9, 3:17] = 0
    for y in (3, 8):
        for x in (3, 16):
            confidence[2:4, y, x] = 1
    return rgba, confidence


def test_below_a_seat_it_is_open() -> None:
    rgba, confidence = bench()
    found = opened(rgba, confidence)[3]
    assert found[4:6, 3:9, 3:17].all()
    assert found[2:4, 3, 3].all() and found[2:4, 8, 16].all()
    assert found[2:4].sum() == 2 * 4
    assert rgba[3, 2:4, 3:9, 3:17].all()  # what was given stays


def test_the_inside_of_a_crate_stays_full() -> None:
    rgba, confidence = bench()
    confidence[2:4, 3:9, 3:17] = 0
    confidence[2:4, 3:9, [3, 16]] = 1
    confidence[2:4, [3, 8], 3:17] = 1
    assert torch.equal(opened(rgba, confidence), rgba)


def test_where_nobody_saw_the_border_it_stays_as_it_is() -> None:
    rgba, confidence = bench()
    confidence[2:4] = 0
    assert torch.equal(opened(rgba, confidence), rgba)


def test_what_was_seen_full_stays() -> None:
    rgba, _ = bench()
    assert torch.equal(opened(rgba, torch.ones(8, 12, 20)), rgba)
