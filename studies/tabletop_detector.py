"""One instant of the real tabletop: a detector learnt from its other instants, and one from synth.

    python studies/tabletop_detector.py --recording tabletop --synth-model MODEL \\
        --results docs/results.md

The recording (the ``transforms`` layout) is cut in two: a model is learnt from some of its instants
as ``protoscene learn`` does, and what it detects at each of the others by itself is compared with
what ``discover`` finds in all of them together. ``--synth-model`` is a model of other things, made
by ``protoscene learn`` from synth recordings. What exists in ``--out`` is kept.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from detector import as_objects
from fleet import later
from results_page import write_between_markers
from scipy.optimize import linear_sum_assignment

from protoscene.detect import detect
from protoscene.discover import discover
from protoscene.formats import load
from protoscene.geometry import Grid, wrap_angle
from protoscene.learn import Learning, learn
from protoscene.matching import boxes_at
from protoscene.model import Model, load_model, save_model
from protoscene.network_input import network_input
from protoscene.networks import detect as detect_in_volume
from protoscene.observe import ViewStack
from protoscene.recording import Recording
from protoscene.scene import Scene, SceneObject
from protoscene.store import load_scene, save_scene

NEAR_M = 0.1
"""A detection farther than this from a thing's centre is not of that thing."""
SURE, UNSURE = 0.5, 0.1
"""Least score of what counts as detected, and of all that is listed."""
ENLARGED = 4.0
"""So many times larger, things of 15 to 25 cm are as large as what synth recordings hold."""
GROUND_AT_M = 0.1
"""Height of the ground above the bottom of what a detector of synth recordings reads."""


@dataclass
class Options:
    """Learns from a part of the tabletop's instants and detects in the rest."""

    recording: Path
    out: Path = Path("build/tabletop_detector")
    held_out: tuple[float, ...] = (2.0, 5.0, 8.0)
    """Times (s) of the instants that are not learnt from."""
    steps: int = 2400
    seed: int = 0
    synth_model: Path | None = None
    results: Path | None = None
    """A markdown file whose part between the study's markers is replaced by the table."""


def cut(recording: Path, times: Sequence[float], folder: Path) -> Recording:
    """The instants at ``times`` alone, as a recording of its own in ``folder``."""
    if not folder.exists():
        manifest = json.loads((recording / "transforms.json").read_text())
        manifest["frames"] = [f for f in manifest["frames"] if f["time"] in times]
        for frame in manifest["frames"]:
            for name in (frame["file_path"], frame["depth_file_path"]):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(recording / name, folder / name)
        (folder / "transforms.json").write_text(json.dumps(manifest))
    return load(folder)


@dataclass(frozen=True)
class Found:
    """What is detected of a thing at an instant (``score`` 0: nothing): ``off_m`` from centre to
    centre, ``turned`` the yaw's difference (rad), ``larger_m`` the largest of the differences of
    length, width and height."""

    time: float
    thing: int
    score: float = 0.0
    off_m: float = np.nan
    turned: float = np.nan
    larger_m: float = np.nan
    kind: int = -1


def compare(
    detected: Sequence[SceneObject],
    things: Sequence[SceneObject],
    times: Sequence[float],
    least: float = SURE,
) -> tuple[list[Found], list[SceneObject]]:
    """Each thing at each of ``times``, and what is detected there of none of them."""
    rows: list[Found] = []
    more: list[SceneObject] = []
    sure = [o for o in detected if o.score >= least]
    for t in times:
        index, boxes, _ = boxes_at(sure, t)
        which, wanted, _ = boxes_at(things, t)
        off = np.linalg.norm(boxes[:, None, :3] - wanted[:, :3], axis=2)
        pairs = [(i, j) for i, j in zip(*linear_sum_assignment(off), strict=True)
                 if off[i, j] <= NEAR_M]  # fmt: skip
        of = {j: i for i, j in pairs}
        for j, thing in enumerate(which):
            if j not in of:
                rows.append(Found(t, int(thing)))
                continue
            i = of[j]
            turned = float(wrap_angle(boxes[i, 6] - wanted[j, 6]))
            larger = float(np.abs(boxes[i, 3:6] - wanted[j, 3:6]).max())
            box = sure[index[i]]
            rows.append(Found(t, int(thing), box.score, float(off[i, j]), turned, larger,
                              box.prototype))  # fmt: skip
        more += [sure[k] for i, k in enumerate(index) if i not in of.values()]
    return rows, more


def with_common_nose(rows: Sequence[Found], learnt: Sequence[float]) -> list[Found]:
    """``turned`` counted from each thing's mean over the instants that were learnt from: a
    prototype chooses itself which of its sides is the nose."""
    result = []
    for thing in sorted({row.thing for row in rows}):
        own = [row for row in rows if row.thing == thing]
        turns = [r.turned for r in own if r.time in learnt and r.score > 0]
        nose = float(np.angle(np.exp(1j * np.array(turns)).sum())) if turns else 0.0
        result += [replace(row, turned=float(wrap_angle(row.turned - nose))) for row in own]
    return result


def enlarged(model: Model, recording: Recording, middle: np.ndarray) -> list[SceneObject]:
    """What ``model`` detects in one grid of its own around ``middle`` (m, on the table), as if
    everything were ``ENLARGED`` times larger and the table were the ground."""
    size = np.array(model.shape[::-1]) * model.voxel_size
    x, y, z = middle * ENLARGED - [size[0] / 2, size[1] / 2, GROUND_AT_M]
    grid = Grid((float(x), float(y), float(z)), model.voxel_size, model.shape)
    objects: list[SceneObject] = []
    for i, t in enumerate(recording.times):
        stack = ViewStack.of(recording.views(i))
        pose = stack.pose.copy()
        pose[:, :, 3] *= ENLARGED
        volume = network_input(replace(stack, depth=stack.depth * ENLARGED, pose=pose), grid)
        found = detect_in_volume(model.detector, volume, grid)
        boxes = found.boxes / [*[ENLARGED] * 6, 1.0]
        objects += later(as_objects(replace(found, boxes=boxes), t), 0.0, len(objects))
    return objects


def discovered(recording: Recording, folder: Path) -> Scene:
    if not folder.exists():
        save_scene(discover(recording), folder)
    return load_scene(folder)


def learnt_model(options: Options, recording: Recording) -> tuple[Model, float]:
    """The model and the processor minutes that it took, discovery and all."""
    name = f"model-{options.seed}-{options.steps}"
    folder, file = options.out / name, options.out / f"{name}.json"
    if not folder.exists():
        start = time.process_time()
        settings = Learning(seed=options.seed, steps=options.steps)
        model, _ = learn([recording], options.out / f"work-{name}", settings)
        file.write_text(json.dumps({"cpu_minutes": (time.process_time() - start) / 60}))
        save_model(model, folder)
    return load_model(folder), float(json.loads(file.read_text())["cpu_minutes"])


def markdown(rows: Sequence[Found], more: Sequence[SceneObject], names: Sequence[str]) -> str:
    lines = [
        "| instant, s | thing | score | centre off, cm | yaw off, ° | size off, cm | prototype |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in sorted(rows, key=lambda r: (r.time, r.thing)):
        said = (
            f"{r.score:.2f} | {100 * r.off_m:.1f} | {abs(np.degrees(r.turned)):.0f} | "
            f"{100 * r.larger_m:.1f} | {r.kind}"
            if r.score
            else "not found | | | | "
        )
        lines.append(f"| {r.time:g} | {names[r.thing]} | {said} |")
    places = "; ".join(
        f"at {o.track.time[0]:g} s ({', '.join(f'{v:.2f}' for v in o.track.centre[0])}), "
        f"{o.score:.2f}"
        for o in more
    )
    lines += ["", f"Detected besides: {places or 'nothing'}."]
    return "\n".join(lines)


def summary(rows: Sequence[Found], more: Sequence[SceneObject]) -> str:
    found = [r for r in rows if r.score]
    if not found:
        return f"0 of {len(rows)} found, {len(more)} detected where nothing is"
    off = 100 * np.array([r.off_m for r in found])
    return (
        f"{len(found)} of {len(rows)} found, centres off by {np.median(off):.1f} cm in the median "
        f"and {off.max():.1f} at most, {len(more)} detected where nothing is"
    )


def main(options: Options) -> None:
    whole = load(options.recording)
    held_out = options.held_out
    learnt = [t for t in whole.times if t not in held_out]
    options.out.mkdir(parents=True, exist_ok=True)
    all_found = discovered(whole, options.out / "all")
    things = [o for o in all_found.objects if o.score >= SURE]
    names = [f"{i} ({100 * o.dims_m[2]:.0f} cm high)" for i, o in enumerate(things)]
    own = cut(options.recording, learnt, options.out / "learnt")
    rest = cut(options.recording, held_out, options.out / "held_out")
    model, minutes = learnt_model(options, own)
    detected = [o for part in (own, rest) for o in detect(model, part).objects]
    rows, more = compare(detected, things, whole.times)
    rows = with_common_nose(rows, learnt)
    unseen = (
        [r for r in rows if r.time in held_out],
        [o for o in more if o.track.time[0] in held_out],
    )
    seen = [r for r in rows if r.time in learnt], [o for o in more if o.track.time[0] in learnt]
    text = [
        f"Learnt from {len(learnt)} instants of two cameras "
        f"({options.steps} steps, {minutes:.1f} CPU minutes with the discovery; "
        f"voxels of {100 * model.voxel_size:g} cm), compared with `discover` on all "
        f"{len(whole)}; the prototype's own heading is that of the instants learnt from.",
        "",
        markdown(*unseen, names),
        "",
        f"At the instants that were learnt from: {summary(*seen)}.",
    ]
    if options.synth_model is not None:
        text += ["", of_other_things(load_model(options.synth_model), whole, things)]
    print("\n".join(text))
    if options.results is not None:
        write_between_markers(options.results, "tabletop_detector", "\n".join(text))


def of_other_things(model: Model, whole: Recording, things: Sequence[SceneObject]) -> str:
    """What a model of other things finds at all instants, as it is and with the table enlarged."""
    centres = np.concatenate([o.track.centre for o in things])
    floor = float(np.median([o.track.centre[:, 2] - o.dims_m[2] / 2 for o in things]))
    middle = np.array([*centres[:, :2].mean(axis=0), floor])
    plain, larger = detect(model, whole).objects, enlarged(model, whole, middle)
    said = {
        (name, least): summary(*compare(found, things, whole.times, least))
        for name, found in (("plain", plain), ("larger", larger))
        for least in (SURE, UNSURE)
    }
    return (
        f"A model of synth's cars, robots, crates and chairs (.4 to 1 m) at all {len(whole)} "
        f"instants: {said['plain', SURE]}; at scores of {UNSURE:g} and more "
        f"{said['plain', UNSURE]}. With everything {ENLARGED:g} times as large and the table as "
        f"the ground: {said['larger', SURE]}; at scores of {UNSURE:g} and more "
        f"{said['larger', UNSURE]}."
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
