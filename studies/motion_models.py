"""Which motion model brings disturbed tracks of the synthetic suite nearest to the truth?

    python studies/motion_models.py --picture motion_models.png

True tracks are measured with noise of 3 cm and 3°, a fifth of the instants missing, one in twenty
measurements grossly wrong. Every model is fitted to the same measurements, without and with
smoothness (chosen on seeds 3 to 5); errors are taken at all instants, the missing ones too.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image, ImageDraw

from protoscene.geometry import wrap_angle
from protoscene.motion import (
    Accelerated,
    Clothoid,
    Motion,
    Parts,
    Polyline,
    Smoothness,
    Spline,
    breaks,
)
from protoscene.synth import SUITE
from protoscene.synth.layout import make_layout

VOXEL_M = 0.05
STYLES = ("smooth", "reverse", "sideways", "spin", "stop_and_go")
MODELS: dict[str, tuple[type[Motion], Smoothness]] = {
    "polyline": (Polyline, Smoothness()),
    "accelerated": (Accelerated, Smoothness()),
    "spline": (Spline, Smoothness()),
    "clothoid": (Clothoid, Smoothness()),
    "polyline + jerk": (Polyline, Smoothness(jerk=2.0, yaw_jerk=5.0)),
    "accelerated + jerk": (Accelerated, Smoothness(jerk=2.0, yaw_jerk=5.0)),
    "spline + jerk": (Spline, Smoothness(jerk=2.0, yaw_jerk=5.0)),
    "clothoid + jerk": (Clothoid, Smoothness(jerk=2.0, yaw_jerk=5.0)),
}
COLOURS = {
    "polyline + jerk": (230, 120, 20),
    "accelerated + jerk": (40, 140, 60),
    "spline + jerk": (40, 80, 220),
    "clothoid + jerk": (190, 30, 140),
}


@dataclass
class Options:
    """Measures the motion models on disturbed true tracks."""

    kinds: tuple[str, ...] = ("four_cameras", "stop_and_go", "reversing_sideways", "jumps")
    seeds: tuple[int, ...] = (20, 21, 22)
    picture: Path | None = None
    """A PNG of one track of each style, seen from above."""


@dataclass(frozen=True, eq=False)
class Case:
    """A true track (n rows) and which of its rows were measured, as what (m rows)."""

    style: str
    times: np.ndarray
    centre: np.ndarray
    yaw: np.ndarray
    seen: np.ndarray
    measured: tuple[np.ndarray, np.ndarray, np.ndarray]


def disturbed(rng: np.random.Generator, style: str, times: np.ndarray, poses: np.ndarray) -> Case:
    """3 cm a coordinate, 3°; 20 % missing; 5 % of the rest .3 to 1.5 m off and turned anyhow."""
    n = len(times)
    centre = np.column_stack([poses[:, :2], np.full(n, 0.25)])
    seen = np.sort(rng.permutation(n)[: max(2, round(0.8 * n))])
    place = centre[seen] + rng.normal(scale=0.03, size=(len(seen), 3))
    yaw = poses[seen, 2] + rng.normal(scale=math.radians(3.0), size=len(seen))
    for row in np.flatnonzero(rng.random(len(seen)) < 0.05):
        way, far = rng.uniform(-math.pi, math.pi), rng.uniform(0.3, 1.5)
        place[row, :2] += far * np.array([math.cos(way), math.sin(way)])
        yaw[row] = rng.uniform(-math.pi, math.pi)
    return Case(style, times, centre, poses[:, 2], seen, (times[seen], place, wrap_angle(yaw)))


def cases(kinds: tuple[str, ...], seeds: tuple[int, ...]) -> list[Case]:
    """Every mover of the recordings; "jump once" is a smooth one, put elsewhere half way."""
    found = []
    for kind in kinds:
        for seed in seeds:
            settings = SUITE[kind](seed)
            times = np.array(settings.times)
            for number, actor in enumerate(make_layout(settings).actors):
                if actor.moving:
                    rng = np.random.default_rng([seed, number, len(kind)])
                    found.append(disturbed(rng, actor.style, times, actor.poses))
                    if actor.style == "smooth":
                        poses = actor.poses.copy()
                        poses[rng.integers(6, 18) :] += [
                            *rng.choice([-1, 1], 2),
                            rng.uniform(-2, 2),
                        ]
                        found.append(disturbed(rng, "jump once", times, poses))
    return found


def errors(case: Case, motion: Motion | Parts) -> tuple[np.ndarray, np.ndarray]:
    """Of all instants: centre in voxels, yaw in degrees."""
    centre, yaw, _ = motion.at(case.times)
    off = np.linalg.norm(centre.detach().numpy() - case.centre, axis=1) / VOXEL_M
    return off, np.degrees(np.abs(wrap_angle(yaw.detach().numpy() - case.yaw)))


def cell(values: list[tuple[np.ndarray, np.ndarray]]) -> str:
    """``centre median/p90 voxels, yaw median/p90 degrees``."""
    if not values:
        return "–"
    centre, yaw = (np.concatenate(part) for part in zip(*values, strict=True))
    numbers = [np.quantile(part, share) for part in (centre, yaw) for share in (0.5, 0.9)]
    return "{:.2f}/{:.2f}, {:.1f}/{:.1f}".format(*numbers)


def models_table(tracks: list[Case]) -> list[str]:
    lines = ["| model | " + " | ".join(STYLES) + " | all | all, missing instants | ms a track |"]
    lines.append("|---" * (len(STYLES) + 4) + "|")
    tracks = [case for case in tracks if case.style in STYLES]
    raw = [(case, *measured_errors(case)) for case in tracks]
    by_style = [cell([(c, y) for case, c, y in raw if case.style == s]) for s in STYLES]
    everything = cell([(c, y) for _, c, y in raw])
    lines.append("| measured | " + " | ".join(by_style) + f" | {everything} | – | – |")
    Clothoid.fit(*tracks[0].measured)  # what is loaded on first use is not its time
    for name, (model, smoothness) in MODELS.items():
        start = time.perf_counter()
        motions = [model.fit(*case.measured, smoothness=smoothness) for case in tracks]
        took = 1000 * (time.perf_counter() - start) / len(tracks)
        of_style, missing = defaultdict(list), []
        for case, motion in zip(tracks, motions, strict=True):
            centre, yaw = errors(case, motion)
            of_style[case.style].append((centre, yaw))
            gone = np.setdiff1d(np.arange(len(case.times)), case.seen)
            missing.append((centre[gone], yaw[gone]))
        cells = [cell(of_style[style]) for style in STYLES]
        everything = cell([pair for pairs in of_style.values() for pair in pairs])
        cells += [everything, cell(missing), f"{took:.0f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def measured_errors(case: Case) -> tuple[np.ndarray, np.ndarray]:
    _, centre, yaw = case.measured
    off = np.linalg.norm(centre - case.centre[case.seen], axis=1) / VOXEL_M
    return off, np.degrees(np.abs(wrap_angle(yaw - case.yaw[case.seen])))


def breaks_table(tracks: list[Case]) -> list[str]:
    """True gaps are those across which the truth moves by more than .5 m a seen instant."""
    model, smoothness = MODELS["spline + jerk"]
    lines = ["| tracks | n | true breaks | found | false | spline + jerk, one motion | in parts |"]
    lines.append("|---" * 7 + "|")
    for style in (*STYLES, "jump once", "jumps"):
        n = true = found = false = 0
        whole, parts = [], []
        for case in (case for case in tracks if case.style == style):
            steps = np.linalg.norm(np.diff(case.centre, axis=0), axis=1)
            jump_times = case.times[1:][steps > 0.5]
            at = breaks(*case.measured[:2])
            # The seen instants around each break found; a true one lies between them, or none.
            seconds = case.measured[0]
            spans = [(seconds[seconds < b][-1], seconds[seconds > b][0]) for b in at]
            hit = [any(a < jump <= b for jump in jump_times) for a, b in spans]
            gaps = {int(np.searchsorted(seconds, jump)) for jump in jump_times}
            n, true = n + 1, true + len(gaps & set(range(1, len(seconds))))
            found, false = found + sum(hit), false + len(hit) - sum(hit)
            whole.append(errors_seen(case, model.fit(*case.measured, smoothness=smoothness)))
            split = Parts.fit(model, at, *case.measured, smoothness=smoothness)
            parts.append(errors_seen(case, split))
        lines.append(
            f"| {style} | {n} | {true} | {found} | {false} | {cell(whole)} | {cell(parts)} |"
        )
    return lines


def errors_seen(case: Case, motion: Motion | Parts) -> tuple[np.ndarray, np.ndarray]:
    centre, yaw = errors(case, motion)
    return centre[case.seen], yaw[case.seen]


def draw(tracks: list[Case], side: int = 420) -> Image.Image:
    """One track of each style from above: truth grey, measurements as dots, models in colour."""
    picture = Image.new("RGB", (side * len(STYLES), side + 30), "white")
    pen = ImageDraw.Draw(picture)
    for column, style in enumerate(STYLES):
        case = next((case for case in tracks if case.style == style), None)
        if case is None:
            continue
        middle = 0.5 * (case.centre.min(axis=0) + case.centre.max(axis=0))
        reach = 1.3 * max(np.abs(case.centre - middle).max(), 0.3)

        def pixel(points: np.ndarray, column=column, middle=middle, reach=reach) -> list:
            xy = (points[:, :2] - middle[:2]) / reach * [1, -1]
            return [tuple(p) for p in (xy + 1) * side / 2 + [column * side, 0]]

        pen.line(pixel(case.centre), fill=(200, 200, 200), width=9)
        for x, y in pixel(case.measured[1]):
            if column * side < x < (column + 1) * side:
                pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=(60, 60, 60))
        fine = np.linspace(case.times[0], case.times[-1], 200)
        for name, colour in COLOURS.items():
            model, smoothness = MODELS[name]
            motion = model.fit(*case.measured, smoothness=smoothness)
            pen.line(pixel(motion.at(fine)[0].detach().numpy()), fill=colour, width=2)
        pen.text((column * side + 10, 8), style, fill="black")
    for k, (name, colour) in enumerate(COLOURS.items()):
        pen.text((10 + 200 * k, side + 8), name, fill=colour)
    return picture


def main(options: Options) -> None:
    tracks = cases(options.kinds, options.seeds)
    print(f"{len(tracks)} tracks; centre median/p90 in voxels of 5 cm, yaw median/p90 in degrees\n")
    print("\n".join([*models_table(tracks), "", *breaks_table(tracks)]))
    if options.picture is not None:
        draw(tracks).save(options.picture)


if __name__ == "__main__":
    main(tyro.cli(Options))
