"""Laws of refinement, on scenes that were composed: then the truth is known and explains all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from protoscene import refine as refining
from protoscene.compose import compose
from protoscene.geometry import Grid
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.refine import (
    ALTERNATING,
    BACKGROUND,
    JOINT,
    OBJECTS,
    PRESENCE,
    TRACKS,
    Phase,
    Refined,
    Refinement,
    RefineSettings,
    refine,
)
from protoscene.start import Thing
from protoscene.volume import Background, Evidence, Volume

GRID = Grid((-1.0, -1.0, 0.0), 0.1, (8, 20, 20))
N = 6


def block(
    colour: tuple[float, float, float], start: tuple[float, float], step: float, voxel: float = 0.05
) -> Thing:
    """A box of 40 × 30 × 30 cm that drives along x, one voxel of nothing around it."""
    length, width = round(0.4 / voxel), round(0.3 / voxel)
    rgba = torch.zeros(4, width + 2, width + 2, length + 2)
    rgba[:3] = torch.tensor(colour)[:, None, None, None]
    rgba[3, 1:-1, 1:-1, 1:-1] = 1
    poses = np.zeros((N, 4))
    poses[:, 0], poses[:, 1], poses[:, 2] = start[0] + step * np.arange(N), start[1], 0.25
    return Thing(list(range(N)), np.array([0.4, 0.3, 0.3]), poses, np.zeros(N), rgba, voxel, 1.0)


def ground() -> Background:
    rgba = torch.zeros(4, *GRID.shape)
    rgba[:3], rgba[3, 0] = 0.5, 1
    return Background(Volume(rgba, GRID))


def evidence_of(things: list[Thing], background: Background) -> list[Evidence]:
    """Occupied where more than half full, free where nothing is; what is between is unknown, as
    are the insides."""
    prototypes = VoxelPrototypes([t.rgba for t in things], [t.voxel_size for t in things])
    instants = []
    for i in range(N):
        poses = torch.tensor(np.array([t.poses[i] for t in things])).float()
        placed = Placements(torch.arange(len(things)), poses[:, :3], poses[:, 3])
        rgba = compose(prototypes, placed, GRID, background.volume).rgba
        occupied, free = rgba[3].numpy() > 0.5, rgba[3].numpy() == 0
        full = torch.nn.functional.pad(rgba[3], (1,) * 6) > 0.5
        inside = torch.stack([full.roll(s, d)[1:-1, 1:-1, 1:-1] for d in range(3) for s in (1, -1)])
        occupied &= ~inside.all(dim=0).numpy()
        colours = (rgba[:3].permute(1, 2, 3, 0).numpy()[occupied] * 255).round().astype(np.uint8)
        instants.append(Evidence(GRID, i / 10, np.packbits(occupied), np.packbits(free), colours))
    return instants


RED, BLUE = block((0.9, 0.1, 0.1), (-0.55, -0.4), 0.13), block((0.1, 0.1, 0.9), (0.5, 0.4), -0.12)
EVIDENCE = evidence_of([RED, BLUE], ground())


def only(variable: str, epochs: int) -> RefineSettings:
    return RefineSettings(phases=(Phase(variable, (variable,), epochs),))


def bytes_of(refined: Refined) -> list[bytes]:
    tensors = [refined.background.volume.rgba, *(t.rgba for t in refined.things)]
    arrays = [*(t.numpy() for t in tensors), *(t.poses for t in refined.things), refined.presence]
    return [np.ascontiguousarray(a).tobytes() for a in arrays]


def test_true_things_stay_as_they_are() -> None:
    refined = refine([RED, BLUE], EVIDENCE, ground())
    assert (refined.presence > 0.9).all()
    for thing, before in zip(refined.things, [RED, BLUE], strict=True):
        assert torch.equal(thing.rgba, before.rgba)
        np.testing.assert_allclose(thing.poses, before.poses, atol=1e-12)
    assert torch.equal(refined.background.volume.rgba, ground().volume.rgba)


def test_the_truth_is_a_fixed_point_up_to_noise() -> None:
    refined = refine([RED, BLUE], EVIDENCE, ground(), RefineSettings(phases=ALTERNATING))
    assert (refined.presence > 0.9).all()
    for thing, before in zip(refined.things, [RED, BLUE], strict=True):
        assert np.abs(thing.poses - before.poses)[:, :3].max() < 0.2 * GRID.voxel_size
        sure = before.rgba[3] > 0
        assert (thing.rgba - before.rgba)[:3, sure].abs().mean() < 0.03
    changed = (refined.background.volume.rgba - ground().volume.rgba)[:, 0].abs()
    assert changed.mean() < 0.05


def test_a_disturbed_colour_comes_back() -> None:
    grey = RED.rgba.clone()
    grey[:3] = 0.5
    disturbed = replace(RED, rgba=grey)
    start = refine([disturbed, BLUE], EVIDENCE, ground(), only(PRESENCE, 4))
    found = refine(start.things, EVIDENCE, ground(), only(OBJECTS, 12))

    def off(thing: Thing) -> float:
        # What the sensors see of it: its top's colour.
        return float((thing.rgba - RED.rgba)[:3, -2, 2:-2, 2:-2].abs().mean())

    assert off(found.things[0]) < 0.5 * off(disturbed)
    assert found.log[-1]["colour"] < 0.5 * found.log[0]["colour"]


def test_a_disturbed_background_comes_back() -> None:
    dark = ground()
    dark.volume.rgba[:3] = 0.1
    found = refine([RED, BLUE], EVIDENCE, dark, only(BACKGROUND, 8)).background.volume.rgba
    assert (found[:3, 0] - 0.5).abs().median() < 0.1
    assert torch.equal(dark.volume.rgba[:3], torch.full_like(found[:3], 0.1))  # not in place


def test_a_disturbed_track_comes_nearer() -> None:
    # As coarse as the grid: the ramp around a finer one falls between the grid's voxels' centres.
    coarse = block((0.9, 0.1, 0.1), (-0.55, -0.38), 0.13, voxel=GRID.voxel_size)
    poses = coarse.poses.copy()
    poses[:, 1] += 0.06
    evidence = evidence_of([coarse, BLUE], ground())
    found = refine([replace(coarse, poses=poses), BLUE], evidence, ground(), only(TRACKS, 40))
    assert np.abs(found.things[0].poses - coarse.poses)[:, 1].mean() < 0.03


def test_false_things_go() -> None:
    ghost = block((0.1, 0.9, 0.1), (-0.3, 0.0), 0.1)
    shifted = replace(BLUE, poses=BLUE.poses + np.array([0.1, 0.05, 0, 0]))
    refined = refine([ghost, RED, shifted, BLUE], EVIDENCE, ground())
    assert (refined.presence[[1, 3]] > 0.9).all()
    assert (refined.presence[[0, 2]] < 0.1).all()
    assert [t.poses[0, 0] for t in refined.things] == [RED.poses[0, 0], BLUE.poses[0, 0]]


def test_what_stands_still_does_not_speak_for_a_thing() -> None:
    parked = block((0.1, 0.9, 0.1), (-0.05, 0.0), 0.0)
    evidence = evidence_of([RED, BLUE, parked], ground())
    half = ground()
    half.volume.rgba[:, 1:4, 8:12, 7:12] = torch.tensor([0.1, 0.9, 0.1, 0.5])[:, None, None, None]
    refined = refine([RED, BLUE, parked], evidence, half)
    assert (refined.presence[:2] > 0.9).all() and refined.presence[2] < 0.1
    assert refine([RED, BLUE, parked], evidence, ground()).presence[2] > 0.9


def test_of_two_equal_things_one_stays() -> None:
    settings = only(PRESENCE, 16)  # of 6 instants: as many steps as 4 of 24
    refined = refine([RED, BLUE, replace(RED, score=0.9)], EVIDENCE, ground(), settings)
    assert (refined.presence[:2] > 0.9).all() and refined.presence[2] < 0.1
    assert len(refined.things) == 2


def test_what_nobody_saw_goes() -> None:
    nowhere = block((0.9, 0.9, 0.1), (5.0, 5.0), 0.1)
    refined = refine([RED, BLUE, nowhere], EVIDENCE, ground())
    assert len(refined.things) == 2 and refined.presence[2] < 0.1


def test_same_seed_same_bytes_and_another_order_for_another() -> None:
    settings = RefineSettings(phases=(replace(JOINT[0], epochs=4),))
    first, again = (refine([RED, BLUE], EVIDENCE, ground(), settings) for _ in range(2))
    assert bytes_of(first) == bytes_of(again) and first.log == again.log
    other = refine([RED, BLUE], EVIDENCE, ground(), replace(settings, seed=1))
    assert bytes_of(first) != bytes_of(other)


class Interrupted(Exception):
    pass


def test_resumed_it_ends_at_the_same_bytes() -> None:
    whole = refine([RED, BLUE], EVIDENCE, ground(), RefineSettings(phases=ALTERNATING))
    work = Refinement([RED, BLUE], EVIDENCE, ground(), RefineSettings(phases=ALTERNATING))
    kept: dict[str, Tensor] = {}

    def interrupt(stage: str, done: int, total: int) -> None:
        if done == 7:  # amid a phase
            kept.update(work.state())
            raise Interrupted

    with pytest.raises(Interrupted):
        work.run(interrupt)
    later = Refinement([RED, BLUE], EVIDENCE, ground(), RefineSettings(phases=ALTERNATING))
    later.resume(kept)
    later.run()
    assert bytes_of(later.result()) == bytes_of(whole)
    assert later.log == whole.log[7:]


def test_a_state_of_something_else_is_refused() -> None:
    work = Refinement([RED, BLUE], EVIDENCE, ground())
    state = work.state()
    with pytest.raises(ValueError, match=r"state's voxels is \(\d+,\), expected \(\d+,\)"):
        Refinement([RED], EVIDENCE, ground()).resume(state)
    del state["background"]
    with pytest.raises(ValueError, match="state's background is None"):
        work.resume(state)


def poisoned(monkeypatch: pytest.MonkeyPatch, from_call: int, calls: int) -> None:
    """The colour loss is NaN ``calls`` times, from its ``from_call``-th on."""
    real, count = refining.evidence_losses, iter(range(10**6))

    def loss(*arguments: object) -> dict[str, Tensor]:
        found = real(*arguments)  # type: ignore[arg-type]
        bad = from_call <= next(count) < from_call + calls
        return found | {"colour": found["colour"] * float("nan")} if bad else found

    monkeypatch.setattr(refining, "evidence_losses", loss)


def test_after_a_loss_that_is_not_finite_it_goes_back_and_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    poisoned(monkeypatch, N + 2, 1)
    refined = refine([RED, BLUE], EVIDENCE, ground(), only(BACKGROUND, 3))
    assert [r["rate"] for r in refined.log] == [1, 0.25, 0.25]
    assert [r["epoch"] for r in refined.log] == [0, 1, 2]
    assert torch.isfinite(refined.background.volume.rgba).all()


def test_after_too_many_it_stops_with_the_last_good_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = refine([RED, BLUE], EVIDENCE, ground(), only(BACKGROUND, 1))
    poisoned(monkeypatch, N + 2, 10**6)
    phases = (*only(BACKGROUND, 3).phases, *ALTERNATING)
    refined = refine([RED, BLUE], EVIDENCE, ground(), RefineSettings(phases=phases))
    assert bytes_of(refined) == bytes_of(good)
    assert refined.log[:-1] == good.log
    assert refined.log[-1] == {
        "phase": BACKGROUND, "epoch": 1, "stopped": "a loss that is not finite",
    }  # fmt: skip


def test_a_gradient_that_is_not_finite_is_no_step_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def steep(*arguments: object) -> dict[str, Tensor]:
        canvas = arguments[0]
        assert isinstance(canvas, Volume)
        return {"occupied": (canvas.occupancy * 0).sum().abs().sqrt()}

    monkeypatch.setattr(refining, "evidence_losses", steep)
    refined = refine([RED, BLUE], EVIDENCE, ground(), only(BACKGROUND, 1))
    assert "stopped" in refined.log[-1]
    assert torch.equal(refined.background.volume.rgba, ground().volume.rgba)


def test_log_and_progress() -> None:
    said: list[tuple[str, int, int]] = []
    refined = refine([RED, BLUE], EVIDENCE, ground(), RefineSettings(phases=ALTERNATING),
                     lambda *told: said.append(told))  # fmt: skip
    total = sum(p.epochs for p in ALTERNATING)
    assert said == [("refine", n, total) for n in range(1, total + 1)]
    assert [r["phase"] for r in refined.log] == [
        p.name for p in ALTERNATING for _ in range(p.epochs)
    ]
    names = {"occupied", "free", "colour", "overlap", "presence", "ghosts"}
    assert all(names <= set(r) for r in refined.log)
    assert {"jerk", "yaw_jerk"} <= set(refined.log[-1]) and "jerk" not in refined.log[0]


def test_nothing_found_is_nothing_refined() -> None:
    refined = refine([], EVIDENCE, ground())
    assert refined.things == [] and refined.log == []
    assert torch.equal(refined.background.volume.rgba, ground().volume.rgba)


def test_a_thing_that_is_away_at_some_instants() -> None:
    partly = replace(RED, instants=[1, 2, 4], poses=RED.poses[[1, 2, 4]], misfits=np.zeros(3))
    refined = refine([BLUE, partly], EVIDENCE, ground())
    assert (refined.presence > 0.9).all() and refined.things[1].instants == [1, 2, 4]
