"""Does the optimisation work? Every figure that it must reach, measured on the synthetic suite.

    python studies/refine.py --seeds 20 21 22 --results docs/results.md

Recordings and scenes that exist are kept (an interrupted run goes on where it stopped): delete
``--out`` to measure anew. Nothing may be chosen on seeds 20 to 22; seeds 3 to 5 are for that.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from measures import ground_truth, measure
from results_page import write_between_markers

from protoscene.formats import load
from protoscene.score_pictures import layered_view, score_pictures
from protoscene.store import load_scene, save_scene
from protoscene.synth import SUITE, write_recording

VOXEL_M = 0.05
Bounds = tuple[float, float, float, float, float, float]
BOUNDS: Bounds = (-3.2, -3.2, -0.1, 3.2, 3.2, 1.5)
"""Where the suite's things move (m): 128×128×32 voxels."""
FOUR_FIXED = ("four_cameras", "crowd", "stop_and_go", "small", "jumps", "reversing_sideways")
"""The kinds with four fixed cameras; nearly round things are too few in one of them alone."""
KINDS = ("four_cameras", "moving_rig", "one_camera", "crowd", "stop_and_go")


@dataclass
class Options:
    """Measures discovery against everything that refinement must reach."""

    out: Path = Path("build/refine/found")
    """Folder of the scenes and of what was measured of them, KIND-SEED each."""
    start: Path | None = None
    """Such a folder of scenes of the unrefined start, to compare with."""
    data: Path = Path("build/suite")
    """Folder of the recordings, KIND-SEED each."""
    kinds: tuple[str, ...] = KINDS
    seeds: tuple[int, ...] = (20, 21, 22)
    tabletop: Path | None = None
    """The real recording of two sensors, if it is to be measured too."""
    recovery: Path = Path("build/refine/recovery.json")
    """What studies/recovery.py found."""
    presence: Path = Path("build/refine/presence.json")
    """What studies/presence.py found."""
    results: Path | None = None
    """A markdown file whose part between the study's markers is replaced by the tables."""


@dataclass(frozen=True)
class Row:
    """One figure that must hold; NaN was not measured, a limit of NaN is not known."""

    what: str
    value: float
    limit: float
    at_most: bool
    unit: str = ""
    digits: int = 2

    def cells(self) -> list[str]:
        sign = "≤" if self.at_most else "≥"
        known = not math.isnan(self.limit)
        target = f"{sign} {self.limit:.4g}{self.unit}" if known else "no start to compare with"
        if math.isnan(self.value):
            return [self.what, "not measured", target, "–"]
        if not known:
            return [self.what, f"{self.value:.{self.digits}f}{self.unit}", target, "–"]
        holds = self.value <= self.limit if self.at_most else self.value >= self.limit
        return [self.what, f"{self.value:.{self.digits}f}{self.unit}", target,
                "ok" if holds else "**short**"]  # fmt: skip


def discover_into(recording: Path, folder: Path, bounds: Bounds | None) -> None:
    """Finds the scene of a recording and stores it with the time and memory that it took."""
    from protoscene.discover import discover

    begin, wall = time.process_time(), time.perf_counter()
    ends: dict[str, float] = {}

    def progress(stage: str, done: int, total: int) -> None:
        ends[stage] = time.process_time()

    scene = discover(load(recording), VOXEL_M if bounds else None, bounds, progress=progress)
    end = time.process_time()
    run = {"cpu_seconds": end - begin, "cpu_registration": ends["register"] - ends["propose"],
           "seconds": time.perf_counter() - wall, "peak_mb": peak_mb()}  # fmt: skip
    save_scene(scene, folder / "scene")
    (folder / "run.json").write_text(json.dumps(run) + "\n")


def peak_mb() -> float:
    """Most memory that this process took. Linux, as getrusage counts the parent's share too."""
    status_lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in status_lines)
    return int(status["VmHWM"].split()[0]) / 1024


def found_scene(recording: Path, folder: Path, bounds: Bounds | None) -> dict[str, Any]:
    """What discovery took, run in a process of its own unless its scene exists."""
    if not (folder / "run.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            pool.submit(discover_into, recording, folder, bounds).result()
    return json.loads((folder / "run.json").read_text())


def measured(kind: str, seed: int, options: Options) -> dict[str, Any]:
    """All raw values of one recording's scene, found and measured unless that was done."""
    folder, data = options.out / f"{kind}-{seed}", options.data / f"{kind}-{seed}"
    file = folder / "measured.json"
    if not file.is_file():
        if not data.exists():
            data.parent.mkdir(parents=True, exist_ok=True)
            write_recording(SUITE[kind](seed), data)
        run = found_scene(data / "recording", folder, BOUNDS)
        result = measure(load_scene(folder / "scene"), ground_truth(kind, seed, data))
        file.write_text(json.dumps({**result, "run": run}) + "\n")
        print(f"{kind}-{seed}: moving F1 {moving_f1([result]):.3f}, {run}", flush=True)
    return json.loads(file.read_text())


def tabletop(options: Options) -> dict[str, float]:
    """Depth (m) of the real recording's own pictures drawn again, against what was recorded."""
    if options.tabletop is None:
        return {}
    folder = options.out / "tabletop"
    file = folder / "measured.json"
    if not file.is_file():
        found_scene(options.tabletop, folder, None)
        view, recording = layered_view(load_scene(folder / "scene")), load(options.tabletop)
        drawn = score_pictures(view, recording, at_most=len(recording.frames))
        error = {"median_m": drawn.depth_median_m, "within_5cm": drawn.depth_within_5cm}
        file.write_text(json.dumps(error) + "\n")
    return json.loads(file.read_text())


Results = list[dict[str, Any]]


def pooled(results: Results, name: str) -> np.ndarray:
    return np.concatenate([np.ravel(r[name]) for r in results] or [np.zeros(0)])


def quantile(results: Results, name: str, q: float) -> float:
    values = pooled(results, name)
    return float(np.quantile(values, q)) if len(values) else math.nan


def moving_f1(results: Results) -> float:
    right, said, found, true = (
        sum(r["boxes"][name] for r in results) for name in ("right", "said", "found", "true")
    )
    precision, recall = right / max(said, 1), found / max(true, 1)
    return 2 * precision * recall / (precision + recall) if right else 0.0


def psnr(results: Results, of: str, where: str) -> float:
    """Mean over recordings, dB."""
    return float(np.mean([r[of][where] for r in results]))


def outside(results: Results, name: str = "outside") -> float:
    """Mean over objects of the occupancy outside of the true box, %."""
    return 100 * float(np.mean([o[name] for r in results for o in r["objects"]]))


def worst_outside(results: Results) -> float:
    return 100 * max(o["outside"] for r in results for o in r["objects"])


def covered(results: Results) -> float:
    """Share of all true surface seen (of objects that were found) within a voxel of ours, %."""
    objects = [o for r in results for o in r["objects"]]
    points = sum(o["points"] for o in objects)
    return 100 * sum(o["points"] * o["covered"] for o in objects) / points


def above_background(results: Results) -> float:
    return psnr(results, "pictures", "movers") - psnr(results, "background", "movers")


PER_KIND = (
    ("centre, voxels", lambda r: quantile(r, "centre", 0.5), 3),
    ("p90", lambda r: quantile(r, "centre", 0.9), 2),
    ("yaw, °", lambda r: quantile(r, "yaw", 0.5), 2),
    ("p90", lambda r: quantile(r, "yaw", 0.9), 2),
    ("yaw of nearly round things, °", lambda r: quantile(r, "yaw_nearly_round", 0.5), 2),
    ("p90", lambda r: quantile(r, "yaw_nearly_round", 0.9), 2),
    ("size, voxels", lambda r: quantile(r, "size", 0.5), 2),
    ("worst", lambda r: quantile(r, "size", 1.0), 2),
    ("moving F1@.5", moving_f1, 3),
    ("movers' pixels, dB", lambda r: psnr(r, "pictures", "movers"), 1),
    ("with fat, dB", lambda r: psnr(r, "pictures", "drawn"), 1),
    ("above background, dB", above_background, 1),
    ("object pixels, dB", lambda r: psnr(r, "pictures", "objects"), 1),
    ("picture, dB", lambda r: psnr(r, "pictures", "whole"), 1),
    ("outside the box, %", outside, 2),
    ("worst object", worst_outside, 2),
    ("by 1.25 cm or more", lambda r: outside(r, "far_outside"), 2),
    ("surface covered, %", covered, 1),
)


def rows(found: dict[str, Results], start: dict[str, Results], options: Options) -> list[Row]:
    """Every figure that must hold, where its recordings were measured."""
    table = []
    groups = {**found, "4 fixed": [r for k in FOUR_FIXED for r in found.get(k, [])]}
    for kind, what, name, q, limit, unit in (
        ("four_cameras", "centre, median", "centre", 0.5, 0.15, " voxels"),
        ("four_cameras", "centre, p90", "centre", 0.9, 0.4, " voxels"),
        ("four_cameras", "yaw, median", "yaw", 0.5, 0.3, "°"),
        ("4 fixed", "yaw of nearly round things, median", "yaw_nearly_round", 0.5, 1.5, "°"),
        ("four_cameras", "yaw, p90", "yaw", 0.9, 2.0, "°"),
        ("4 fixed", "yaw of nearly round things, p90", "yaw_nearly_round", 0.9, 2.0, "°"),
        ("four_cameras", "size, median", "size", 0.5, 0.2, " voxels"),
        ("four_cameras", "size, worst object", "size", 1.0, 1.0, " voxels"),
        ("moving_rig", "centre, median", "centre", 0.5, 0.25, " voxels"),
        ("one_camera", "centre, median", "centre", 0.5, 0.4, " voxels"),
        ("one_camera", "yaw, median", "yaw", 0.5, 1.0, "°"),
    ):
        table.append(Row(f"{kind}: {what}", quantile(groups.get(kind, []), name, q), limit, True,
                         unit))  # fmt: skip
    table.append(Row("moving F1@.5, most that any recording loses on the start",
                     most_lost(found, start), 0.0, True, digits=3))  # fmt: skip
    table += [*picture_rows(found, start), *recovery_rows(options)]
    for kind in ("crowd", "stop_and_go"):
        value = moving_f1(found[kind]) if kind in found else math.nan
        table.append(Row(f"{kind}: moving F1@.5", value, 0.97, False, digits=3))
    table += tabletop_rows(options)
    table.append(Row("occupancy outside of the true box, mean of the worst kind",
                     max(map(outside, found.values())), 1.0, True, " %"))  # fmt: skip
    table.append(Row("seen true surface within 1 voxel of ours, worst kind",
                     min(map(covered, found.values())), 90.0, False, " %", 1))  # fmt: skip
    runs = [r["run"] for r in found.get("four_cameras", [])]
    for what, name, limit, unit in (
        ("processor time of registration, slowest", "cpu_registration", 15, " s"),
        ("processor time of everything, slowest", "cpu_seconds", 60, " s"),
        ("peak memory, largest", "peak_mb", 3000, " MB"),
    ):
        largest = max((run[name] for run in runs), default=math.nan)
        table.append(Row(f"four_cameras: {what}", largest, limit, True, unit, 0))
    return table


def most_lost(found: dict[str, Results], start: dict[str, Results]) -> float:
    lost = [
        moving_f1([before]) - moving_f1([after])
        for kind in start
        for before, after in zip(start[kind], found[kind], strict=True)
    ]
    return max(lost, default=math.nan)


def picture_rows(found: dict[str, Results], start: dict[str, Results]) -> list[Row]:
    gains = {
        where: [
            psnr(found[k], "pictures", where) - psnr(start[k], "pictures", where) for k in start
        ]
        for where in ("movers", "drawn")
    }
    largest = max(float(pooled(r, "prototype_cm").max()) for r in found.values())
    table = [
        Row("prototypes' voxels, largest", largest, 1.25, True, " cm"),
        Row("movers' pixels above the background alone, worst kind",
            min(map(above_background, found.values())), 8.0, False, " dB", 1),
        Row("movers' pixels above the start, worst kind",
            min(gains["movers"], default=math.nan), 1.0, False, " dB", 1),
        Row("the same with pixels where a mover is drawn only",
            min(gains["drawn"], default=math.nan), 1.0, False, " dB", 1),
    ]  # fmt: skip
    for what, where, limit in (("all object pixels", "objects", 20.5), ("picture", "whole", 20.0)):
        least = min(psnr(r, "pictures", where) for r in found.values())
        table.append(Row(f"{what}, worst kind", least, limit, False, " dB", 1))
    return table


def recovery_rows(options: Options) -> list[Row]:
    table = []
    for what, file, name in (
        ("instants back after .6 m and 90°", options.recovery, "recovered"),
        ("trials in which false proposals and a duplicate vanish", options.presence, "all losses"),
    ):
        share = 100 * json.loads(file.read_text())[name] if file.is_file() else math.nan
        table.append(Row(what, share, 95.0, False, " %", 1))
    return table


def tabletop_rows(options: Options) -> list[Row]:
    error = 1000 * tabletop(options).get("median_m", math.nan)
    before = math.nan
    if options.start is not None and (options.start / "tabletop").is_dir():
        before = 1000 * tabletop(replace(options, out=options.start)).get("median_m", math.nan)
    what = "tabletop: depth drawn again, median error (at most the start's)"
    return [Row(what, error, before, True, " mm", 2)]


def markdown(header: Iterable[str], body: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in body)])


def per_kind(found: dict[str, Results]) -> str:
    """All figures, a row per kind, or per recording."""
    body = []
    for kind, results in found.items():
        values = [(figure(results), digits) for _, figure, digits in PER_KIND]
        body.append([kind, *("–" if math.isnan(v) else f"{v:.{d}f}" for v, d in values)])
    return markdown(["recording", *(name for name, *_ in PER_KIND)], body)


def main(options: Options) -> None:
    found = {k: [measured(k, seed, options) for seed in options.seeds] for k in options.kinds}
    start: dict[str, Results] = {}
    if options.start is not None:
        before = replace(options, out=options.start)
        start = {k: [measured(k, seed, before) for seed in options.seeds] for k in options.kinds}
    seeds = ", ".join(map(str, options.seeds))
    note = (
        f"Seeds {seeds}. Boxes matched at IoU ≥ .5 and objects of a kind are pooled, PSNR is the "
        "mean over its recordings (up to 12 held-out pictures each, as recorded, drawn opaque from "
        "each prototype's own voxels; with fat: over pixels that a mover has in truth or in the "
        "drawing). Nearly round: turned by 15° its surface departs from itself by "
        "less than a fifth of how far its points go (of the suite's kinds the "
        "drum); what is round has no yaw. Occupancy and surface are placed as found, so errors of "
        "pose count."
    )
    must = markdown(["must hold", "figure", "target", ""],
                    [row.cells() for row in rows(found, start, options)])  # fmt: skip
    text = "\n\n".join([must, per_kind(found), note])
    print(text)
    if len(options.seeds) > 1:
        single = {f"{k}-{s}": [r] for k in found
                  for s, r in zip(options.seeds, found[k], strict=True)}  # fmt: skip
        print("\n" + per_kind(single))
    if options.results is not None:
        write_between_markers(options.results, "refine", text)


if __name__ == "__main__":
    main(tyro.cli(Options))
