"""Everything that is measured of one found scene, as raw values that can be pooled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from protoscene.errors import Refused
from protoscene.formats import load
from protoscene.matching import Matches, instants, majority, match
from protoscene.pose_errors import size_errors, yaw_errors, yaw_offsets
from protoscene.scene import Scene, SceneObject
from protoscene.score import OPERATING_SCORE
from protoscene.score_pictures import layered_view, score_pictures
from protoscene.shape_errors import covered_shares, outside_shares
from protoscene.synth import SUITE
from protoscene.synth.layout import make_layout
from protoscene.synth.surface import seen_surface
from protoscene.synth.things import NEARLY_ROUND
from protoscene.truth import Truth, load_truth


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """truth.json, and per true object the points of its surface that any camera saw (own frame)."""

    truth: Truth
    surface: list[np.ndarray]


def ground_truth(kind: str, seed: int, folder: Path) -> GroundTruth:
    """The truth of the suite's recording in ``folder``; its surfaces are kept in surface.npz beside
    it. Raises Refused where the recording was made by another version of the suite."""
    truth = load_truth(folder / "truth.json")
    kept = folder.parent / "surface" / f"{folder.name}.npz"
    settings = SUITE[kind](seed)
    for thing, actor in zip(truth.objects, make_layout(settings).actors, strict=True):
        if not np.allclose(thing.track.centre[:, :2], actor.poses[:, :2], atol=1e-6):
            raise Refused(folder, "truth.json", "of another version of the suite", "", "made anew")
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(kept, *seen_surface(settings))
    with np.load(kept, allow_pickle=False) as stored:
        surface = [stored[f"arr_{n}"] for n in range(len(truth.objects))]
    return GroundTruth(truth, surface)


def measure(scene: Scene, known: GroundTruth, pictures: int = 12) -> dict[str, object]:
    """Raw values of ``scene``; lengths in voxels of its grid, angles in degrees, PSNR (of up to so
    many ``pictures``) in dB."""
    truth, voxel = known.truth, scene.grid.voxel_size
    kept = [thing for thing in scene.objects if thing.score >= OPERATING_SCORE]
    sequence = instants(kept, truth.objects, truth.times)
    matches = match(sequence, 0.5, len(kept), len(truth.objects))
    offsets = yaw_offsets(matches, kept, truth)
    yaw: dict[bool, list[float]] = {True: [], False: []}
    for (_, kind), errors in yaw_errors(matches, kept, truth, offsets).items():
        yaw[kind in NEARLY_ROUND] += errors.tolist()
    offset = matches.boxes[:, 0, :3] - matches.boxes[:, 1, :3]
    return {
        "centre": (np.linalg.norm(offset, axis=1) / voxel).tolist(),
        "yaw": yaw[False],
        "yaw_nearly_round": yaw[True],
        "size": (size_errors(matches, kept, truth, offsets) / voxel).tolist(),
        "boxes": _moving_boxes(matches, kept, truth),
        "objects": _shapes(matches, kept, scene, known),
        "prototype_cm": [100 * v for v in scene.prototypes.voxel_size],
        **_pictures(scene, truth, pictures),
    }


def _moving_boxes(matches: Matches, kept: list[SceneObject], truth: Truth) -> dict[str, int]:
    """Counts that moving precision (right / said) and recall (found / true) are made of."""
    says = np.array([thing.moving for thing in kept], dtype=bool)
    moves = np.array([thing.moving for thing in truth.objects], dtype=bool)
    paired_says, paired_moves = says[matches.pairs[:, 1]], moves[matches.pairs[:, 2]]
    return {
        "right": int((paired_says & paired_moves).sum()),
        "said": int(says[matches.predicted[:, 1]].sum()),
        "found": int(paired_moves.sum()),
        "true": int(moves[matches.truth[:, 1]].sum()),
    }


def _shapes(
    matches: Matches, kept: list[SceneObject], scene: Scene, known: GroundTruth
) -> list[dict[str, str | float | None]]:
    """Of each matched object: its true kind, the share of its occupancy outside of the true box
    (``outside``; ``far_outside``: beyond a quarter of a voxel), the share of the seen true surface
    within one voxel of its own (``covered``), means over instants, and how many points that is."""
    rows: list[dict[str, str | float | None]] = []
    voxel, prototypes = scene.grid.voxel_size, scene.prototypes
    for i, j in majority(matches).items():
        thing = kept[i]
        covered = covered_shares(matches, i, thing, prototypes, known.surface, voxel)
        far = outside_shares(matches, i, thing, prototypes, voxel / 4)
        rows.append({
            "kind": known.truth.objects[j].kind,
            "outside": float(outside_shares(matches, i, thing, prototypes).mean()),
            "far_outside": float(far.mean()),
            "covered": float(np.nanmean(covered)),
            "points": len(known.surface[j]),
        })  # fmt: skip
    return rows


def _pictures(scene: Scene, truth: Truth, at_most: int) -> dict[str, dict[str, float]]:
    """PSNR at the held-out cameras, of the scene and of its background alone."""
    assert truth.heldout is not None
    heldout = load(truth.heldout)
    moving = {thing.id for thing in truth.objects if thing.moving}
    alone = layered_view(replace(scene, objects=()))
    found = {}
    for name, view, without in (
        ("pictures", layered_view(scene), alone),
        ("background", alone, None),
    ):
        score = score_pictures(view, heldout, moving, at_most, without)
        found[name] = {
            "movers": score.psnr_movers_db,
            "drawn": score.psnr_drawn_db,
            "objects": score.psnr_objects_db,
            "whole": score.psnr_db,
        }
    return found
