"""What discovery costs as recordings grow: seconds, peak memory, and a fit of both.

    python benchmarks/bm_discover.py --results docs/results.md

One synthetic recording is made (needs the extra ``sim``) and kept. Every measurement takes evenly
chosen instants of it, so that the same drive is seen more often; what is longer than it is replayed
there and back. Each runs in a process of its own, whose peak memory is therefore that run's, after
a small run that fills numba's cache.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numba
import numpy as np
import tyro
from bm_memory import resident

from protoscene.discover import discover, memory_plan
from protoscene.formats import load
from protoscene.formats.frames import read_frame
from protoscene.observe import choose_grid
from protoscene.recording import Recording
from protoscene.synth import SUITE, write_recording

sys.path.append(str(Path(__file__).resolve().parent.parent / "studies"))
from results_page import write_between_markers

BOUNDS = (-3.2, -3.2, -0.1, 3.2, 3.2, 1.5)
VOXEL_SIZE = 0.05
"""Metres: with these bounds 128×128×32 voxels."""
MB = 1e6
T = TypeVar("T")
SETTINGS = replace(SUITE["four_cameras"](3), n_instants=192, n_heldout=0)


@dataclass
class Options:
    """Measures discovery's time and memory on recordings of growing length and number of views."""

    data: Path = Path("build/benchmark")
    """Folder of the recording, made if missing."""
    instants: tuple[int, ...] = (24, 48, 96, 192)
    """Numbers of instants, with 4 views each."""
    views: tuple[int, ...] = (1, 2)
    """Numbers of views, at the first number of instants."""
    long: int = 500
    """Instants of the run that shows the memory of a long recording."""
    threads: int = 2
    results: Path | None = None
    """A markdown file whose part between the benchmark's markers is replaced by the tables."""


@dataclass(frozen=True)
class Run:
    """One measurement: wall and processor seconds, peak and planned memory in MB."""

    instants: int
    views: int
    seconds: float
    cpu_seconds: float
    peak_mb: float
    planned_mb: float
    objects: int
    load: float
    threading: str


def taken(recording: Recording, n_instants: int, n_views: int) -> Recording:
    """``n_instants`` of a recording, evenly chosen, or there and back again where it has fewer;
    of each the first ``n_views`` cameras."""
    last = len(recording) - 1
    if n_instants <= len(recording):
        order = np.linspace(0, last, n_instants).round().astype(int)
    else:
        order = last - np.abs(np.arange(n_instants) % (2 * last) - last)
    names = recording.camera_names[:n_views]
    step = recording.times[1] - recording.times[0]
    frames = [
        replace(recording.frames[k], time=n * step)
        for n, i in enumerate(order)
        for k in recording.frames_at(int(i))
        if recording.frames[k].camera_name in names
    ]
    return Recording(recording.source, frames, read_frame)


def measure(folder: Path, n_instants: int, n_views: int) -> Run:
    """Discovers a part of the recording in ``folder``, reading it included."""
    load_average = os.getloadavg()[0]
    wall, cpu = time.perf_counter(), time.process_time()
    recording = taken(load(folder), n_instants, n_views)
    plan = memory_plan(recording, choose_grid(recording, VOXEL_SIZE, BOUNDS))
    planned = resident() + sum(plan.values())
    scene = discover(recording, voxel_size=VOXEL_SIZE, bounds=BOUNDS)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resident("VmHWM")
    return Run(
        n_instants, n_views, wall, cpu, peak / MB, planned / MB, len(scene.objects),
        load_average, f"numba on {numba.threading_layer()}, {numba.get_num_threads()} threads",
    )  # fmt: skip


def growth(runs: list[Run], quantity: str) -> float:
    """The exponent p of the least-squares fit quantity ∝ (instants × views)^p."""
    pictures = [r.instants * r.views for r in runs]
    return float(np.polyfit(np.log(pictures), np.log([getattr(r, quantity) for r in runs]), 1)[0])


def growths(runs: list[Run]) -> str:
    """The exponents, over instants at the most views, over views at the fewest instants, and over
    both."""
    most, fewest = max(r.views for r in runs), min(r.instants for r in runs)
    chosen = {
        f"instants, at {most} views": [r for r in runs if r.views == most],
        f"views, at {fewest} instants": [r for r in runs if r.instants == fewest],
        "instants × views": runs,
    }
    lines = ["| exponent over | wall | CPU | peak memory |", "|---" * 4 + "|"]
    for name, those in chosen.items():
        if len({r.instants * r.views for r in those}) > 1:
            found = [growth(those, q) for q in ("seconds", "cpu_seconds", "peak_mb")]
            lines.append(f"| {name} | " + " | ".join(f"{p:.2f}" for p in found) + " |")
    return "\n".join(lines)


def markdown(runs: list[Run]) -> str:
    """The measurements, the fits and how they were taken."""
    heads = ("instants", "views", "wall, s", "CPU, s", "peak, MB", "planned, MB", "objects", "load")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for r in runs:
        figures = (r.seconds, r.cpu_seconds), (r.peak_mb, r.planned_mb)
        cells = [f"{r.instants} | {r.views}", *(f"{f:.1f}" for f in figures[0])]
        cells += [*(f"{f:.0f}" for f in figures[1]), f"{r.objects}", f"{r.load:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    note = (
        f"320×240 pixels on 128×128×32 voxels; {runs[0].threading}; load: the machine's average "
        f"when the run began. Each run is a process of its own, reading and cached JIT included. "
        f"Instants are evenly chosen from one drive of {SETTINGS.n_instants}, longer runs replay "
        "it there and back. Exponents p are of least-squares fits of quantity ∝ n^p."
    )
    return "\n".join([*lines, "", growths(runs), "", note])


def alone(function: Callable[..., T], *arguments: object) -> T:
    """``function`` of ``arguments``, run in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def main(options: Options) -> None:
    folder = options.data / f"four_cameras-{SETTINGS.seed}-{SETTINGS.n_instants}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        alone(write_recording, SETTINGS, folder)
    folder = folder / "recording"
    alone(measure, folder, 6, 2)
    plan = [(options.instants[0], v) for v in options.views]
    plan += [(n, 4) for n in (*options.instants, options.long)]
    runs = []
    for n_instants, n_views in plan:
        runs.append(alone(measure, folder, n_instants, n_views))
        print(runs[-1], flush=True)
    text = markdown(runs)
    print(text)
    if options.results is not None:
        write_between_markers(options.results, "bm_discover", text)


if __name__ == "__main__":
    given = tyro.cli(Options)
    # Read when the processes that measure import numba and torch; the command line waits so too.
    os.environ["NUMBA_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(given.threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    main(given)
