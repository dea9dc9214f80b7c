"""How large the page of a long, crowded scene is, and when a browser shows its first picture.

    python benchmarks/bm_report.py --results docs/results.md

A scene is made up: a street of boxes on 256 × 256 × 32 voxels, objects on circles, each with a
prototype of its own of noise. Nothing of it repeats: what is measured is larger than a real page.
The first picture is there when the canvas shows many colours; taking screenshots to see that costs
time of its own.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image
from playwright.sync_api import sync_playwright

from protoscene.geometry import Grid
from protoscene.prototypes import VoxelPrototypes
from protoscene.report import write_page
from protoscene.scene import Background, Scene, SceneObject, Track
from protoscene.volume import Volume

sys.path.append(str(Path(__file__).resolve().parent.parent / "studies"))
from results_page import write_between_markers

VOXEL_SIZE = 0.05
GRID = Grid((-6.4, -6.4, -0.1), VOXEL_SIZE, (32, 256, 256))
SIZE_M = (1.2, 0.8, 0.7)
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
MANY_COLOURS = 2000
PLAYED_S = 3.0
COUNT_DRAWN = """() => {
  const draw = Stage.prototype.draw;
  window.drawn = 0;
  Stage.prototype.draw = function (...given) { window.drawn++; return draw.apply(this, given); };
}"""


@dataclass
class Options:
    """Measures the page's size and the time to its first picture."""

    instants: int = 500
    objects: int = 50
    visits: int = 3
    browser: Path = Path("/usr/bin/chromium")
    results: Path | None = None
    """A markdown file whose part between the benchmark's markers is replaced by the table."""


def street(n_instants: int, n_objects: int) -> Scene:
    rng = np.random.default_rng(0)
    rgba = torch.from_numpy(0.3 + 0.3 * rng.random((4, *GRID.shape), dtype=np.float32))
    rgba[3] = 0
    rgba[3, :2] = 1
    for _ in range(60):
        (y, x), height = rng.integers(0, 240, 2), rng.integers(6, 28)
        rgba[3, :height, y : y + 10, x : x + 10] = 1
    shape = tuple(round(side / VOXEL_SIZE) for side in reversed(SIZE_M))
    unit = [(i + 0.5) / n * 2 - 1 for i, n in zip(np.indices(shape), shape, strict=True)]
    inside = torch.from_numpy(sum(u**2 for u in unit) < 1)
    prototypes = []
    for _ in range(n_objects):
        noise = torch.from_numpy(0.3 + 0.4 * rng.random((4, *shape), dtype=np.float32))
        noise[3] = inside
        prototypes.append(noise)
    time_s = np.round(0.1 * np.arange(n_instants), 3)
    return Scene(
        times=tuple(time_s.tolist()),
        background=Background(Volume(rgba, GRID)),
        prototypes=VoxelPrototypes.from_rgba(prototypes, VOXEL_SIZE),
        objects=tuple(
            SceneObject(i, i, 0.9, True, SIZE_M, _circle(rng, time_s, i, i / n_objects))
            for i in range(n_objects)
        ),
        sizes_m=(SIZE_M,) * n_objects,
        symmetries=(None,) * n_objects,
        made_by={"command": "discover"},
    )


def _circle(rng: np.random.Generator, time_s: np.ndarray, i: int, share: float) -> Track:
    n, radius = len(time_s), 1 + 5 * share
    angle = (0.1 + 0.5 * share) * time_s + i
    centre = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(n, 0.35)], axis=1)
    centre += rng.normal(0, 0.003, (n, 3))
    return Track(time_s, centre, angle, np.ones(n), rng.random(n) < 0.9)


def visited(browser: Path, page: Path) -> tuple[float, float, float]:
    """(wall, processor) seconds from asking for the page to its first picture, and then how often a
    second it is drawn while it plays. The processor's are those of every process of the browser,
    its start left out."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=FLAGS)
        visit = opened.new_page(viewport={"width": 1280, "height": 800})
        before, began = _seconds_of_children(), time.monotonic()
        visit.goto(page.as_uri(), wait_until="commit")
        canvas = visit.locator("#stage")
        while _colours(canvas.screenshot()) < MANY_COLOURS:
            visit.wait_for_timeout(50)
        wall, processor = time.monotonic() - began, _seconds_of_children() - before
        visit.evaluate(COUNT_DRAWN)
        canvas.press(" ")
        visit.wait_for_timeout(1000 * PLAYED_S)
        drawn = visit.evaluate("window.drawn") / PLAYED_S
        opened.close()
    return wall, processor, drawn


def _colours(screenshot: bytes) -> int:
    """Of the canvas without the switches above."""
    with Image.open(io.BytesIO(screenshot)) as picture:
        pixels = np.asarray(picture.convert("RGB"))[60:]
    return len(np.unique(pixels.reshape(-1, 3), axis=0))


def _seconds_of_children() -> float:
    """User and system time of all processes below this one, from /proc."""
    parents, ticks = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        number = int(stat.parent.name)
        parents[number], ticks[number] = int(fields[1]), int(fields[11]) + int(fields[12])
    total = 0
    for number in ticks:
        above = number
        while above in parents and above != os.getpid():
            above = parents[above]
        total += ticks[number] if above == os.getpid() and number != above else 0
    return total / os.sysconf("SC_CLK_TCK")


def main(options: Options) -> None:
    scene = street(options.instants, options.objects)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        began = time.process_time()
        write_page(scene, page)
        made = time.process_time() - began
        visits = [visited(options.browser, page) for _ in range(options.visits)]
        megabytes = page.stat().st_size / 1e6
    wall, processor, drawn = np.median(visits, axis=0)
    load = os.getloadavg()[0]
    table = (
        "| instants | objects | page, MB | made, CPU s | first picture, s | its CPU s | frames/s "
        "| load |\n"
        "|---|---|---|---|---|---|---|---|\n"
        f"| {options.instants} | {options.objects} | {megabytes:.1f} | {made:.1f} | {wall:.1f} "
        f"| {processor:.1f} | {drawn:.1f} | {load:.1f} |"
    )
    print(table)
    if options.results is not None:
        write_between_markers(options.results, "report", table)


if __name__ == "__main__":
    main(tyro.cli(Options))
