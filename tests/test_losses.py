"""Laws of the losses: what each says of an explanation that is right, and of one that is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from protoscene.geometry import Grid
from protoscene.losses import (
    Piece,
    Seen,
    evidence_losses,
    ghost_mass,
    overlap_loss,
    presence_prior,
    seen_in,
    smoothness_loss,
    weighted,
)
from protoscene.motion import Polyline, Smoothness
from protoscene.volume import Evidence, Volume

SHAPE = (3, 4, 5)
GRID = Grid((0.0, 0.0, 0.0), 0.1, SHAPE)


def evidence(occupied: np.ndarray, free: np.ndarray, colours: np.ndarray) -> Evidence:
    return Evidence(GRID, 0.0, np.packbits(occupied), np.packbits(free), colours)


def half_seen() -> tuple[Evidence, Tensor]:
    """Two occupied voxels, one free slice, the rest unknown; and a volume that agrees."""
    occupied, free = np.zeros(SHAPE, dtype=bool), np.zeros(SHAPE, dtype=bool)
    occupied[1, 2, 3] = occupied[2, 0, 0] = True
    free[0] = True
    rgba = torch.zeros((4, *SHAPE), dtype=torch.float64)
    rgba[:, 1, 2, 3] = torch.tensor([1.0, 0.0, 0.2, 1.0])
    rgba[:, 2, 0, 0] = torch.tensor([0.0, 1.0, 0.4, 1.0])
    return evidence(occupied, free, np.array([[255, 0, 51], [0, 255, 102]], np.uint8)), rgba


WHOLE = ((0, 0, 0), SHAPE)


def all_of(rgba: Tensor, seen: Seen) -> dict[str, float]:
    return {k: float(v) for k, v in evidence_losses(Volume(rgba, GRID), seen).items()}


def test_what_agrees_costs_nothing() -> None:
    known, rgba = half_seen()
    assert all_of(rgba, seen_in(known, WHOLE)) == pytest.approx(
        {"occupied": 0, "free": 0, "colour": 0}, abs=1e-7
    )


def test_unknown_says_nothing() -> None:
    known, rgba = half_seen()
    unknown = torch.from_numpy(known.unknown)
    rgba[:, unknown] = torch.rand((4, int(unknown.sum())), dtype=torch.float64)
    assert all_of(rgba, seen_in(known, WHOLE)) == pytest.approx(
        {"occupied": 0, "free": 0, "colour": 0}, abs=1e-7
    )


def test_each_kind_of_error_has_its_name_and_size() -> None:
    known, rgba = half_seen()
    seen = seen_in(known, WHOLE)
    missing, ghost, dyed = rgba.clone(), rgba.clone(), rgba.clone()
    missing[3, 1, 2, 3] = 0.25
    ghost[3, 0, 1, 1] = 0.5
    dyed[0, 1, 2, 3] = 0.4
    assert all_of(missing, seen)["occupied"] == pytest.approx(0.75 / 2)
    assert all_of(ghost, seen)["free"] == pytest.approx(0.5 / 2)
    assert all_of(dyed, seen)["colour"] == pytest.approx(0.6**2 / 3 / 2, abs=1e-7)
    assert all_of(missing, seen)["free"] == all_of(dyed, seen)["free"] == 0


def test_a_box_sees_its_own_part_only() -> None:
    known, rgba = half_seen()
    box = ((1, 1, 1), (3, 4, 5))
    seen = seen_in(known, box)
    assert seen.occupied.T.tolist() == [[0, 1, 2]] and not seen.free.any()
    part = Volume(rgba[:, 1:3, 1:4, 1:5], GRID.cropped(*box))
    assert float(sum(evidence_losses(part, seen).values())) == pytest.approx(0, abs=1e-7)


def test_what_is_explained_is_left_out_but_counted() -> None:
    known, rgba = half_seen()
    explained = np.zeros(SHAPE, dtype=bool)
    explained[1, 2, 3] = explained[2, 2, 2] = True
    seen = seen_in(known, WHOLE, explained)
    assert seen.occupied.T.tolist() == [[2, 0, 0]] and seen.n == 2
    assert all_of(torch.zeros_like(rgba), seen)["occupied"] == 0.5
    assert all_of(rgba, seen)["colour"] == pytest.approx(0, abs=1e-7)


def test_gradients() -> None:
    known, rgba = half_seen()
    seen = seen_in(known, WHOLE)
    torch.manual_seed(0)
    start = (0.2 + 0.6 * torch.rand(rgba.shape, dtype=torch.float64)).requires_grad_()

    def occupancies(values: Tensor) -> tuple[Tensor, ...]:
        found = evidence_losses(Volume(torch.cat([rgba[:3], values[3:]]), GRID), seen)
        return found["occupied"], found["free"]

    def colours(values: Tensor) -> Tensor:
        found = evidence_losses(Volume(torch.cat([values[:3], rgba[3:]]), GRID), seen)
        return found["colour"]

    def apart(values: Tensor) -> tuple[Tensor, ...]:
        pieces = [Piece(((0, 0, 0), (2, 4, 5)), values[0, :2]),
                  Piece(((1, 0, 0), (3, 4, 5)), values[1, 1:])]  # fmt: skip
        ghosts = ghost_mass(pieces, seen.free, (0, 0, 0), 7)["ghosts"]
        return overlap_loss(pieces, 7)["overlap"], ghosts

    for function in (occupancies, colours, apart):
        assert torch.autograd.gradcheck(function, start)


def test_colour_does_not_make_things_transparent() -> None:
    known, rgba = half_seen()
    rgba[0] = 0.5
    rgba.requires_grad_()
    evidence_losses(Volume(rgba, GRID), seen_in(known, WHOLE))["colour"].backward()
    assert rgba.grad is not None and (rgba.grad[3] == 0).all() and (rgba.grad[0] != 0).any()


def test_overlap_counts_shared_voxels_once_per_pair() -> None:
    one = Piece(((0, 0, 0), (2, 3, 3)), torch.full((2, 3, 3), 0.5))
    other = Piece(((1, 1, 1), (3, 4, 5)), torch.ones(2, 3, 4))
    far = Piece(((2, 3, 4), (3, 4, 5)), torch.ones(1, 1, 1))
    assert float(overlap_loss([one, other], 1)["overlap"]) == 0.5 * 4
    assert float(overlap_loss([one, far], 1)["overlap"]) == 0
    assert float(overlap_loss([other, one, far], 2)["overlap"]) == (0.5 * 4 + 1) / 2


def test_of_two_equal_things_the_weaker_one_goes() -> None:
    presence = torch.tensor([0.6, 0.5], requires_grad=True)
    pieces = [Piece(((0, 0, 0), (1, 1, 1)), w * torch.ones(1, 1, 1)) for w in presence]
    overlap_loss(pieces, 1)["overlap"].backward()
    assert presence.grad is not None and presence.grad[1] > presence.grad[0] > 0


def test_ghosts_are_occupancy_in_free_space() -> None:
    free = torch.zeros((2, 2, 2), dtype=torch.bool)
    free[0] = True
    piece = Piece(((0, 0, 0), (3, 3, 3)), torch.full((3, 3, 3), 0.25))
    assert float(ghost_mass([piece], free, (1, 1, 1), 2)["ghosts"]) == 4 * 0.25 / 2
    assert float(ghost_mass([], free, (0, 0, 0), 2)["ghosts"]) == 0


def test_presence_prior_is_surface_times_presence() -> None:
    cost = presence_prior(torch.tensor([1.0, 0.5]), torch.tensor([10.0, 30.0]), 5)
    assert float(cost["presence"]) == 5.0


def test_smoothness_adds_up_and_straight_tracks_cost_nothing() -> None:
    straight, bent = Polyline([0.0, 1.0, 2.0, 3.0]), Polyline([0.0, 1.0, 2.0, 3.0])
    for track in (straight, bent):
        track.requires_grad_(False)
    straight.centre[:, 0] = torch.arange(4.0)
    bent.centre[3, 0] = 1.0
    expected = Smoothness(jerk=2.0)
    assert float(smoothness_loss([straight], expected)["jerk"]) == pytest.approx(0, abs=1e-12)
    alone = float(smoothness_loss([bent], expected)["jerk"])
    assert alone > 0
    assert float(smoothness_loss([bent, straight, bent], expected)["jerk"]) == pytest.approx(
        2 * alone
    )


def test_weighted_takes_what_has_a_weight() -> None:
    losses = {"a": torch.tensor(2.0), "b": torch.tensor(3.0)}
    assert float(weighted(losses, {"a": 0.5, "other": 9.0})) == 1.0
    with pytest.raises(ValueError, match=r"no weight for any of \['a', 'b'\]"):
        weighted(losses, {"c": 1.0})
