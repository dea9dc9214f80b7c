"""Results as a person or, with ``--json``, a program reads them."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protoscene.cli.terminal import say, say_json, say_table

if TYPE_CHECKING:
    from protoscene.check import Summary
    from protoscene.scene import Scene, SceneObject
    from protoscene.score import ScoreCard


def say_result(result: dict[str, Any], as_json: bool) -> None:
    """One ``name: value`` a line."""
    if as_json:
        say_json(result)
    else:
        for name, value in result.items():
            say(f"{name}: {value}")


def say_scene(scene: Scene, folder: Path, as_json: bool) -> None:
    """What was found: the grid, and a row for each object."""
    if as_json:
        say_json(_as_dict(scene, folder))
        return
    nz, ny, nx = scene.grid.shape
    voxels = f"{nx} × {ny} × {nz} voxels of {scene.grid.voxel_size:g} m"
    found = f"{_count(scene.objects, 'object')} of {_count(scene.prototypes, 'prototype')}"
    if not scene.objects:
        parsed = scene.made_by.get("command") == "parse"
        found = "nothing that stands" if parsed else "nothing that moved"
    say(f"{folder}: {_count(scene.times, 'instant')}, {voxels}, {found}")
    if not scene.objects:
        return
    rows = []
    for thing in scene.objects:
        does = "moves" if thing.moving else "stands"
        size = " × ".join(f"{side:.2f}" for side in thing.dims_m)
        n = len(thing.track.time)
        rows.append((thing.id, thing.prototype, does, size, n, float(thing.score)))
    say_table(("object", "prototype", "", "size (m)", "instants", "score"), rows)


def say_detections(scene: Scene, folder: Path, as_json: bool) -> None:
    """What was found at single instants: a row for each prototype, with ``--json`` each box."""
    if as_json:
        say_json({"scene": str(folder), "instants": len(scene.times),
                  "detections": [_detection(thing) for thing in scene.objects]})  # fmt: skip
        return
    found = f"{_count(scene.times, 'instant')}, {_count(scene.objects, 'detection')}"
    say(f"{folder}: {found}")
    rows = []
    for k, size in enumerate(scene.sizes_m):
        scores = [thing.score for thing in scene.objects if thing.prototype == k]
        sides = " × ".join(f"{side:.2f}" for side in size)
        rows.append((k, sides, len(scores), sum(score >= 0.5 for score in scores)))
    say_table(("prototype", "size (m)", "detections", "score ≥ .5"), rows)


def _detection(thing: SceneObject) -> dict[str, Any]:
    return {
        "time": float(thing.track.time[0]),
        "prototype": thing.prototype,
        "score": thing.score,
        "centre_m": thing.track.centre[0].tolist(),
        "yaw_rad": float(thing.track.yaw[0]),
        "dims_m": thing.dims_m,
    }


def _count(things: Sized, noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def say_card(card: ScoreCard, as_json: bool) -> None:
    """The score, a row for each measure; the name of a section stands on its first row."""
    if as_json:
        say_json(card_as_dict(card))
        return
    from protoscene.score_table import readable

    rows, section = [], ""
    for name, measure, value in readable(card):
        rows.append(("" if name == section else name, measure, value))
        section = name
    say_table(("score", "measure", "value"), rows)


def say_headlines(card: ScoreCard) -> None:
    """The few measures to look at first, one a line."""
    from protoscene.score_table import headlines

    say_table(("score against the truth", ""), headlines(card))


def card_as_dict(card: ScoreCard) -> dict[str, Any]:
    from protoscene.score import as_dict

    return as_dict(card)


def say_summary(summary: Summary) -> None:
    """What a recording holds, one fact a line."""
    facts = {
        "instants": f"{summary.instants}, {summary.first_time:g} to {summary.last_time:g} s",
    }
    if summary.points:
        facts["sweeps"] = f"{summary.instants} of {summary.points / summary.instants:.0f} points"
    else:
        facts["pictures"] = f"{summary.pictures} of {', '.join(summary.sizes)} pixels"
        facts["cameras"] = ", ".join(summary.cameras)
        facts["without depth"] = f"{summary.without_depth:.1%} of all pixels"
    if summary.empty_depth_pictures:
        facts["empty depth"] = f"{summary.empty_depth_pictures} pictures"
    if summary.depth_percentiles:
        low, middle, high = summary.depth_percentiles
        facts["depth"] = f"{low:.2f} to {high:.2f} m (1 % to 99 %), median {middle:.2f} m"
    say_table(("recording", ""), list(facts.items()))


def _as_dict(scene: Scene, folder: Path) -> dict[str, Any]:
    objects = [
        {
            "id": thing.id,
            "prototype": thing.prototype,
            "moving": thing.moving,
            "score": thing.score,
            "dims_m": thing.dims_m,
            "instants": len(thing.track.time),
        }
        for thing in scene.objects
    ]
    return {
        "scene": str(folder),
        "instants": len(scene.times),
        "grid": asdict(scene.grid),
        "prototypes": len(scene.prototypes),
        "objects": objects,
    }
