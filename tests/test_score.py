"""Scores of small scenes against hand-computed numbers, and the laws that every score obeys."""

import math
from dataclasses import fields, replace

import msgspec
import numpy as np
import pytest
import torch

from protoscene.errors import Refused
from protoscene.geometry import Grid
from protoscene.matching import Instant, boxes_at, instants, match
from protoscene.pose_errors import best_offset
from protoscene.prototypes import VoxelPrototypes
from protoscene.scene import Scene
from protoscene.score import as_dict, idf1, score, score_objects, table, v_measure
from protoscene.truth import Truth
from protoscene.volume import Background, Volume
from scored_scenes import TIMES, only, truth, turned_world, with_track

VOXEL = 0.05


def card(objects, against: Truth | None = None):
    return score_objects(objects, against or truth(), VOXEL)


def test_a_perfect_prediction_is_perfect():
    result = card(truth().objects)
    for part in (result.at_iou_25, result.at_iou_50):
        assert {getattr(part, f.name) for f in fields(part)} == {1.0}
    assert result.ap50_pooled == pytest.approx(1)
    assert result.centre.matched_boxes == 40
    assert result.centre.p90_m == 0 and result.size.worst_m == 0
    assert result.yaw.matched_boxes == 32  # the drum's eight have no yaw
    assert result.yaw.p90_deg == pytest.approx(0, abs=1e-9) and result.yaw.flips == 0
    identity = result.identity
    assert (identity.idf1, identity.moving_idf1, identity.purity) == (1, 1, 1)
    assert (identity.switches, identity.fragmentations) == (0, 0)
    assert result.prototypes.v_measure == pytest.approx(1) and result.prototypes.purity == 1


def test_no_prediction_scores_nothing_without_warning():
    result = card([])
    assert result.at_iou_50.recall == 0 and result.at_iou_50.f1 == 0
    assert math.isnan(result.at_iou_50.precision) and math.isnan(result.centre.median_m)
    assert result.ap50_pooled == 0 and result.identity.idf1 == 0
    plain = as_dict(result)
    assert plain["at_iou_50"]["precision"] is None
    assert msgspec.json.decode(msgspec.json.encode(plain)) == plain
    nothing = Truth(TIMES, (), ())
    assert card(truth().objects, nothing).at_iou_50.precision == 0
    assert math.isnan(card([], nothing).at_iou_50.recall)


def test_the_world_may_be_turned_and_moved_and_numbers_permuted():
    rng = np.random.default_rng(3)
    world = truth()
    predicted = [
        with_track(o, centre=o.track.centre + rng.normal(0, 0.04, (8, 3)), yaw=o.track.yaw + 0.05)
        for o in world.objects
    ]
    before = card(predicted)
    there = [turned_world(o, 2.0, (50, -20, 3)) for o in predicted]
    turned = replace(world, objects=[turned_world(o, 2.0, (50, -20, 3)) for o in world.objects])
    after = card(there, turned)
    for (*name, a, _), (*_, b, _) in zip(table(before), table(after), strict=True):
        if name[1] not in ("x_median", "y_median"):  # along the world's axes, so they turn with it
            assert a == pytest.approx(b, abs=1e-9), name
    numbers = rng.permutation(5)
    shuffled = [
        replace(predicted[k], id=int(70 + k), prototype=7 - predicted[k].prototype) for k in numbers
    ]
    for (*name, a, _), (*_, b, _) in zip(table(before), table(card(shuffled)), strict=True):
        assert a == pytest.approx(b, abs=1e-12), name


def test_dropping_an_object_lowers_recall_by_its_boxes():
    result = card(truth().objects[1:])
    assert result.at_iou_50.recall == 32 / 40 and result.at_iou_50.precision == 1
    assert result.at_iou_50.f1 == 2 * 32 / 72
    assert result.at_iou_50.moving_recall == 16 / 24 and result.at_iou_50.parked_recall == 1
    assert result.ap50_pooled == pytest.approx(0.8)
    missing_late = [only(truth().objects[0], slice(0, 5)), *truth().objects[1:]]
    assert card(missing_late).at_iou_50.recall == 37 / 40


def test_moving_and_parked_are_judged_apart():
    objects = list(truth().objects)
    objects[3] = replace(objects[3], moving=True)  # the parked box, called moving
    objects[2] = replace(objects[2], moving=False)  # the moving drum, called parked
    result = card(objects).at_iou_50
    assert (result.precision, result.recall) == (1, 1)
    assert result.moving_precision == pytest.approx(2 / 3) and result.moving_recall == 1
    assert result.parked_precision == pytest.approx(1 / 2) and result.parked_recall == 1


def test_unseen_truth_is_ignored_and_weak_predictions_are_left_out():
    world = truth()
    hidden = np.array([True] * 4 + [False] * 4)
    hidden_world = replace(
        world, objects=[with_track(world.objects[0], visible=hidden), *world.objects[1:]]
    )
    assert card(world.objects, hidden_world).at_iou_50.precision == 1
    assert card(world.objects, hidden_world).counts.true_boxes == 36
    missed = card(world.objects[1:], hidden_world)
    assert missed.at_iou_50.recall == 32 / 36
    # Standing beside the unseen box is wrong all the same: here IoU = 0.4 / 1.2.
    beside = with_track(
        world.objects[4], centre=world.objects[4].track.centre + np.array([0, 0, 0.15])
    )
    unseen = with_track(world.objects[4], visible=np.zeros(8, bool))
    against = replace(world, objects=[*world.objects[:4], unseen])
    result = card([*world.objects[:4], beside], against)
    assert result.at_iou_50.precision == 32 / 40 and result.at_iou_25.precision == 1
    weak = replace(beside, score=0.49)
    assert card([*world.objects[:4], weak], against).at_iou_50.precision == 1


def test_a_prediction_on_seen_and_unseen_truth_counts_as_right():
    world = truth()
    unseen = replace(with_track(world.objects[0], visible=np.zeros(8, bool)), id=9)
    result = card(world.objects, replace(world, objects=[unseen, *world.objects]))
    assert (result.counts.predicted_boxes, result.at_iou_50.recall) == (40, 1)
    assert result.ap50_pooled == pytest.approx(1) and result.identity.idf1 == 1


def test_more_matches_go_before_better_ones():
    box = np.array([[0.0, 0, 0, 1, 1, 1, 0]]).repeat(2, 0)
    iou = np.array([[0.9, 0.3], [0.3, 0.0]])
    now = Instant(np.arange(2), np.arange(2), box, box, np.ones(2, bool), iou)
    matches = match([now], 0.25, 2, 2)
    assert {(int(i), int(j)) for _, i, j in matches.pairs} == {(0, 1), (1, 0)}
    assert matches.counts.tolist() == [[1, 1], [1, 0]]


def test_a_box_is_as_large_as_its_scale_says():
    world = truth()
    halved = [
        replace(
            with_track(o, scale=np.full(8, 2.0)),
            dims_m=tuple(d / 2 for d in o.dims_m),
        )
        for o in world.objects
    ]
    result = card(halved)
    assert result.at_iou_50.f1 == 1 and result.size.worst_m == pytest.approx(0)
    _, boxes, _ = boxes_at(halved, TIMES[2])
    np.testing.assert_allclose(boxes, boxes_at(world.objects, TIMES[2])[1])


def test_average_precision_by_hand():
    world = truth()
    ghost = with_track(world.objects[0], centre=world.objects[0].track.centre + 10)
    ranked = [
        replace(world.objects[0], score=0.9),
        replace(ghost, score=0.8),
        replace(world.objects[1], score=0.3),
    ]
    # Recall 1/5 at precision 1, then 2/5 at precision 2/3; below the operating point counts too.
    assert card(ranked).ap50_pooled == pytest.approx(1 / 5 + 1 / 5 * 2 / 3)
    tied = [replace(o, score=0.9) for o in ranked]
    assert card(tied).ap50_pooled == pytest.approx(2 / 5 * 2 / 3)
    assert card(tied[::-1]).ap50_pooled == card(tied).ap50_pooled
    # A wrong first place costs no more than the best precision at that recall or beyond.
    late = [replace(o, score=s) for o, s in zip(ranked, (0.8, 0.9, 0.7), strict=True)]
    assert card(late).ap50_pooled == pytest.approx(2 / 5 * 2 / 3)
    # Of two on one thing the better scored one is right, the other wrong.
    twice = [replace(world.objects[0], score=s) for s in (0.3, 0.9)]
    assert card(twice).ap50_pooled == pytest.approx(1 / 5)
    unseen = with_track(world.objects[1], visible=np.zeros(8, bool))
    against = replace(world, objects=[world.objects[0], unseen])
    assert card([ranked[2], twice[0]], against).ap50_pooled == pytest.approx(1)


def test_centre_errors_by_hand():
    world = truth()
    shift = np.array([0.03, -0.04, 0.0])
    moved = [with_track(o, centre=o.track.centre + shift) for o in world.objects]
    centre = card(moved).centre
    assert (centre.median_m, centre.mean_m) == pytest.approx((0.05, 0.05))
    assert (centre.median_voxels, centre.p90_voxels) == pytest.approx((1, 1))
    axes = (centre.x_median_m, centre.y_median_m, centre.z_median_m)
    assert axes == pytest.approx((0.03, 0.04, 0), abs=1e-12)


def test_a_constant_yaw_offset_of_each_prototype_is_free():
    world = truth()
    offsets = (math.pi, 0.15, 1.0)
    turned = [with_track(o, yaw=o.track.yaw + offsets[o.prototype]) for o in world.objects]
    assert card(turned).yaw.p90_deg == pytest.approx(0, abs=1e-9)
    # One car of three (8 of its 24 boxes, of 32 with yaw) looks the other way.
    turned[0] = with_track(turned[0], yaw=turned[0].track.yaw + math.pi)
    yaw = card(turned).yaw
    assert yaw.flips == 8 / 32 and yaw.median_deg == pytest.approx(0, abs=1e-9)
    # The box is the same after half a turn, so its flips are none.
    half = list(world.objects)
    flip = np.where(np.arange(8) % 2, math.pi, 0.0)
    half[3] = with_track(half[3], yaw=half[3].track.yaw + flip)
    assert card(half).yaw.p90_deg == pytest.approx(0, abs=1e-9)


def test_prototypes_turned_by_a_quarter_have_length_and_width_exchanged():
    quarter = []
    for o in truth().objects:
        length, width, height = o.dims_m
        o = with_track(o, yaw=o.track.yaw - math.pi / 2)
        quarter.append(replace(o, dims_m=(width, length + 0.02, height)))
    result = card(quarter)
    assert result.yaw.p90_deg == pytest.approx(0, abs=1e-9)
    size = result.size
    assert size.matched_objects == 5
    assert (size.length_median_m, size.width_median_m) == pytest.approx((0.02, 0), abs=1e-12)
    assert (size.worst_m, size.worst_voxels) == pytest.approx((0.02, 0.4))
    assert size.median_m == pytest.approx(0, abs=1e-12)


def test_best_offset_minimises_the_median_error():
    rng = np.random.default_rng(5)
    for period in (2 * math.pi, math.pi, math.pi / 2):
        for n in (1, 2, 7, 31):
            values = rng.uniform(-9, 9, n)

            def cost(offset, values=values, period=period, n=n):
                gap = np.abs((values - offset + period / 2) % period - period / 2)
                return np.sort(gap)[n // 2]

            best = min(cost(offset) for offset in np.linspace(0, period, 2000))
            assert cost(best_offset(values, period)) <= best + 1e-12


def test_exchanged_identity_halves_idf1():
    world = truth()
    a, b = world.objects[:2]
    both = replace(world, objects=(a, b))

    def exchanged(first, second):
        centre = np.concatenate([first.track.centre[:4], second.track.centre[4:]])
        yaw = np.concatenate([first.track.yaw[:4], second.track.yaw[4:]])
        return with_track(first, centre=centre, yaw=yaw)

    result = card([exchanged(a, b), exchanged(b, a)], both)
    assert result.at_iou_50.f1 == 1
    assert result.identity.idf1 == 0.5 and result.identity.purity == 0.5
    assert result.identity.switches == 2 and result.identity.fragmentations == 0
    pieces = [only(a, slice(0, 3)), replace(only(a, slice(4, 8)), id=9), b]
    result = card(pieces, both).identity
    assert result.idf1 == pytest.approx(2 * 12 / (15 + 16)) and result.purity == 1
    assert (result.switches, result.fragmentations) == (1, 1)


def test_idf1_agrees_with_trackeval():
    from trackeval.metrics import Identity

    rng = np.random.default_rng(8)
    for _ in range(5):
        world = truth()
        predicted = []
        for o in [*world.objects, *world.objects]:
            centre = o.track.centre + rng.normal(0, 0.07, (8, 3))
            predicted.append(only(with_track(o, centre=centre), slice(rng.integers(6), 8)))
        sequence = instants(predicted, world.objects, world.times)
        matches = match(sequence, 0.5, len(predicted), 5)
        data = {
            "num_timesteps": len(sequence),
            "num_gt_ids": 5,
            "num_tracker_ids": len(predicted),
            "num_gt_dets": sum(len(now.truth) for now in sequence),
            "num_tracker_dets": sum(len(now.predicted) for now in sequence),
            "gt_ids": [now.truth for now in sequence],
            "tracker_ids": [now.predicted for now in sequence],
            "similarity_scores": [now.iou.T for now in sequence],
        }
        expected = Identity({"THRESHOLD": 0.5, "PRINT_CONFIG": False}).eval_sequence(data)["IDF1"]
        everything = (np.ones(len(predicted), bool), np.ones(5, bool))
        assert 0.1 < expected < 0.95
        assert idf1(matches, *everything) == pytest.approx(expected, abs=1e-12)


def test_v_measure_by_hand():
    perfect = v_measure(np.array([[3, 0], [0, 2]]))
    assert (perfect.v_measure, perfect.purity) == (1, 1)
    split = v_measure(np.array([[2, 0], [1, 0], [0, 3]]))  # kind 0 in two clusters
    within = math.log(3) - 2 / 3 * math.log(2)
    clusters = -(1 / 3) * math.log(1 / 3) - (1 / 6) * math.log(1 / 6) - 0.5 * math.log(0.5)
    assert split.homogeneity == pytest.approx(1) and split.purity == 1
    assert split.completeness == pytest.approx(1 - 0.5 * within / clusters)
    merged = v_measure(np.array([[2, 2]]))
    assert (merged.homogeneity, merged.completeness, merged.purity) == (0, 1, 0.5)
    assert merged.v_measure == 0
    assert v_measure(np.array([[4]])).v_measure == 1


def test_every_row_of_the_table_has_its_unit():
    rows = table(card(truth().objects))
    units = {(section, name): unit for section, name, _, unit in rows}
    assert units["centre", "median"] in ("m", "voxels")
    assert {unit for *_, unit in rows} == {"", "m", "voxels", "°"}
    assert [type(value) in (int, float) for *_, value, _ in rows] == [True] * len(rows)


def test_a_scene_of_other_times_is_refused():
    grid = Grid((0, 0, 0), VOXEL, (1, 1, 1))
    background = Background(Volume(torch.zeros(4, 1, 1, 1), grid))
    prototypes = VoxelPrototypes.from_rgba([torch.zeros(4, 1, 1, 1)] * 3, VOXEL)
    sizes = tuple(p.size_m for p in truth().prototypes)
    scene = Scene(TIMES, background, prototypes, truth().objects, sizes)
    scored = as_dict(score(scene, truth()))
    empty = {"matched_objects": 0, "inside": None, "inside_worst": None}
    assert scored == {**as_dict(card(truth().objects)), "shapes": empty}
    with pytest.raises(Refused, match="no instant in common"):
        score(replace(scene, times=(9.0, 9.1)), truth())
