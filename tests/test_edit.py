"""Edits of scenes: what they change, and that they change nothing else."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import protoscene as ps
from protoscene.edit import insert_object, move_object, remove_object, swap_prototype
from protoscene.errors import Refused
from protoscene.scene import Scene, SceneObject
from protoscene.store import load_scene, save_scene
from report_scenes import TIMES, toy_scene


def same_track(one: SceneObject, other: SceneObject) -> bool:
    return all(
        np.array_equal(getattr(one.track, f.name), getattr(other.track, f.name))
        for f in fields(one.track)
    )


def unchanged(one: Scene, other: Scene, ids: tuple[int, ...]) -> bool:
    """Whether everything but the objects is the same, and these objects too."""
    mine, yours = ({thing.id: thing for thing in scene.objects} for scene in (one, other))
    rest = ("times", "background", "prototypes", "sizes_m", "symmetries")
    return all(getattr(one, name) is getattr(other, name) for name in rest) and all(
        mine[id] is yours[id] for id in ids
    )


def test_a_removed_object_is_gone_and_the_rest_stays() -> None:
    scene = toy_scene()
    edited = remove_object(scene, 0)
    assert [thing.id for thing in edited.objects] == [1] and unchanged(scene, edited, (1,))
    assert len(scene.objects) == 2  # the scene given is not touched
    assert edited.made_by == {**scene.made_by, "command": "edit", "edits": "remove 0"}


@pytest.mark.parametrize(
    ("k", "parts"), [(0, [(0, 1, 5)]), (2, [(0, 0, 2), (2, 3, 5)]), (4, [(0, 0, 4)])]
)
def test_removed_at_one_instant_it_is_there_at_all_others(
    k: int, parts: list[tuple[int, int, int]]
) -> None:
    scene = toy_scene()
    edited = remove_object(scene, 0, TIMES[k])
    assert unchanged(scene, edited, (1,))
    for i, time in enumerate(TIMES):
        assert len(edited.at(time)) == len(scene.at(time)) - (i == k)
    whole = scene.objects[0].track
    found = [thing for thing in edited.objects if thing.id != 1]
    assert [thing.id for thing in found] == [id for id, _, _ in parts]
    for thing, (_, first, end) in zip(found, parts, strict=True):
        np.testing.assert_array_equal(thing.track.centre, whole.centre[first:end])
        np.testing.assert_array_equal(thing.track.time, whole.time[first:end])
    assert edited.made_by["edits"] == f"remove 0 at {TIMES[k]:g}"


def test_removing_all_instants_one_by_one_removes_the_object() -> None:
    edited = toy_scene()
    for time in TIMES[:4]:
        (thing,) = [o for o in edited.objects if o.prototype == 1]
        edited = remove_object(edited, thing.id, time)
    assert [thing.id for thing in edited.objects] == [0]


def test_a_track_moves_as_a_rigid_whole() -> None:
    scene = toy_scene()
    before = scene.objects[0].track
    edited = move_object(scene, 0, (1.0, -0.5, 0.3), before.yaw[0] + 0.7)
    after = edited.objects[0].track
    assert unchanged(scene, edited, (1,))
    np.testing.assert_allclose(after.centre[0], [1.0, -0.5, 0.3])
    np.testing.assert_allclose(after.yaw - before.yaw, 0.7)
    # As seen from its first pose it goes where it went.
    cos, sin = math.cos(0.7), math.sin(0.7)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    steps = (before.centre - before.centre[0]) @ turn.T
    np.testing.assert_allclose(after.centre - after.centre[0], steps)
    np.testing.assert_array_equal(after.time, before.time)
    back = move_object(edited, 0, tuple(before.centre[0].tolist()), float(before.yaw[0]))
    np.testing.assert_allclose(back.objects[0].track.centre, before.centre, atol=1e-12)


def test_without_a_yaw_a_track_is_only_shifted() -> None:
    scene = toy_scene()
    edited = move_object(scene, 1, (0.0, 0.0, 0.35))
    before, after = scene.objects[1].track, edited.objects[1].track
    np.testing.assert_array_equal(after.yaw, before.yaw)
    shift = after.centre - before.centre
    np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape))


def test_moved_at_one_instant_the_others_stay() -> None:
    scene = toy_scene()
    edited = move_object(scene, 0, (1.0, 1.0, 0.2), 0.1, TIMES[2])
    before, after = scene.objects[0].track, edited.objects[0].track
    np.testing.assert_allclose(after.centre[2], [1.0, 1.0, 0.2])
    assert after.yaw[2] == pytest.approx(0.1)
    others = [0, 1, 3, 4]
    np.testing.assert_array_equal(after.centre[others], before.centre[others])
    np.testing.assert_array_equal(after.yaw[others], before.yaw[others])


def test_an_inserted_object_stands_there() -> None:
    scene = toy_scene()
    edited = insert_object(scene, 1, (0.5, 0.6, 0.35), 0.4)
    new = edited.objects[-1]
    assert unchanged(scene, edited, (0, 1)) and new.id == 2
    assert (new.prototype, new.moving, new.dims_m) == (1, False, scene.sizes_m[1])
    assert new.track.time.tolist() == list(TIMES) and not new.track.visible.any()
    for time in TIMES:
        assert edited.at(time).centre[-1].tolist() == pytest.approx([0.5, 0.6, 0.35])
    once = insert_object(scene, 1, (0.5, 0.6, 0.35), time=TIMES[3])
    assert [len(once.at(t)) - len(scene.at(t)) for t in TIMES] == [0, 0, 0, 1, 0]


def test_a_swapped_object_is_another_thing_on_the_same_ground() -> None:
    scene = toy_scene()
    edited = swap_prototype(scene, 0, 1)
    before, after = scene.objects[0], edited.objects[0]
    assert (after.prototype, after.dims_m, after.id) == (1, scene.sizes_m[1], 0)
    np.testing.assert_array_equal(after.track.centre[:, :2], before.track.centre[:, :2])
    bottoms = [o.track.centre[:, 2] - o.dims_m[2] / 2 for o in (before, after)]
    np.testing.assert_allclose(*bottoms)
    same = swap_prototype(scene, 0, 0).objects[0]
    assert same_track(same, before) and same.dims_m == before.dims_m


@pytest.mark.parametrize("k", [0, 2, 4])
def test_swapped_at_one_instant_it_is_the_other_thing_only_then(k: int) -> None:
    scene = toy_scene()
    edited = swap_prototype(scene, 0, 1, TIMES[k])
    for i, time in enumerate(TIMES):
        was, now = scene.at(time), edited.at(time)
        kinds = sorted(was.which.tolist())
        if i == k:
            kinds[0] = 1
        assert sorted(now.which.tolist()) == kinds
    assert len({thing.id for thing in edited.objects}) == len(edited.objects)
    assert 0 in {thing.id for thing in edited.objects}


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda s: remove_object(s, 7), "object: no object has this id (got 7, expected 0, 1)"),
        (lambda s: remove_object(s, 1, 2.0), "object 1: has no such instant (got 2.0, expected "),
        (lambda s: move_object(s, 0, (0, 0, 0), time=0.25), "has no such instant (got 0.25"),
        (lambda s: move_object(s, 0, (0, math.nan, 0)), "centre: holds a number that is not"),
        (lambda s: move_object(s, 0, (0, 0, 0), math.inf), "yaw: holds a number that is not"),
        (lambda s: insert_object(s, 2, (0, 0, 0)), "no prototype has this id (got 2, expected 0 "),
        (lambda s: insert_object(s, -1, (0, 0, 0)), "no prototype has this id (got -1"),
        (lambda s: insert_object(s, 0, (0, 0, 0), time=math.nan), "time: has no such instant"),
        (lambda s: swap_prototype(s, 0, 5), "prototype: no prototype has this id (got 5"),
    ],
)
def test_what_cannot_be_done_is_refused(edit, text: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Refused) as refused:
        edit(toy_scene())
    assert text in str(refused.value)


def test_edits_are_remembered_and_survive_the_disk(tmp_path: Path) -> None:
    scene = ps.remove_object(ps.insert_object(toy_scene(), 0, (1.0, 0.0, 0.2), 0.5), 1)
    save_scene(scene, tmp_path / "edited")
    again = load_scene(tmp_path / "edited")
    assert again.made_by["edits"] == "insert 0 1 0 0.2 0.5; remove 1"
    assert [(o.id, o.prototype, o.moving) for o in again.objects] == [(0, 0, True), (2, 0, False)]
    np.testing.assert_allclose(again.objects[1].track.centre, scene.objects[1].track.centre)
