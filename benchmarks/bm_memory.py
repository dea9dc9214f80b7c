"""How well memory is predicted: the plans of compose, discover and learn beside what was taken.

    python benchmarks/bm_memory.py --results docs/results.md

Each setting runs in a process of its own; numba's cache should be full (run discover once before).
Predicted is what the process has when it plans and the plan together (of several plans the one that
says most); taken is its most resident memory, of learn with its share of the workers', looked at
twenty times a second. Recordings are synthetic (needs the extra ``sim``), of other seeds than those
by which the plan's constants were chosen; LiDAR recordings are given.
"""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib import import_module
from multiprocessing import get_context, set_start_method
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from protoscene.cli import main as command
from protoscene.geometry import Grid
from protoscene.prototypes import VoxelPrototypes
from protoscene.scene import Scene, SceneObject, Track
from protoscene.store import save_scene
from protoscene.synth import SUITE, write_recording
from protoscene.volume import Background, Volume

sys.path.append(str(Path(__file__).resolve().parent.parent / "studies"))
from results_page import write_between_markers

MB = 1e6
DISCOVERED = (
    ("four_cameras", 8, 2, 160, 0.1),
    ("four_cameras", 6, 3, 240, 0.03),
    ("one_camera_moving", 12, 1, 320, 0.05),
    ("moving_rig", 12, 4, 160, 0.06),
    ("crowd", 12, 2, 160, 0.08),
    ("jumps", 6, 4, 240, 0.05),
    ("stop_and_go", 12, 2, 240, 0.04),
    ("small", 6, 4, 240, 0.03),
)
"""Kind of recording, instants, cameras, width of its pictures, voxel size (m)."""
COMPOSED = (
    (64, 32, ".safetensors"), (96, 64, ".npz"), (128, 32, ".safetensors"), (160, 96, ".npz"),
    (192, 64, ".safetensors"), (224, 64, ".safetensors"), (256, 96, ".npz"),
    (288, 32, ".safetensors"), (80, 128, ".npz"), (144, 128, ".safetensors"), (176, 32, ".npz"),
    (240, 128, ".safetensors"),
)  # fmt: skip
"""Resolution, side of the scene's own grid, suffix of the file."""


LEARNT = (
    ("four_cameras", 8, 2, 160, 0.1, 2),
    ("crowd", 12, 2, 160, 0.08, 3),
    ("moving_rig", 12, 4, 160, 0.06, 2),
)
"""As ``DISCOVERED``, and how many times the recording is learnt from."""


@dataclass
class Options:
    """Measures how far predicted memory is from what is taken."""

    data: Path = Path("build/memory")
    """Folder of recordings and scenes, made if missing."""
    seed: int = 31
    discovered: int = len(DISCOVERED)
    """So many of the settings of discover, and so many of those of compose."""
    composed: int = len(COMPOSED)
    learnt: int = len(LEARNT)
    steps: int = 20
    """Of training."""
    lidar: tuple[Path, ...] = ()
    """Folders of LiDAR recordings."""
    results: Path | None = None
    """A markdown file whose part between the benchmark's markers is replaced by the table."""


@dataclass(frozen=True)
class Row:
    """Predicted and taken bytes of one process."""

    what: str
    predicted: float
    taken: float

    @property
    def error(self) -> float:
        return self.predicted / self.taken - 1


def resident(field: str = "VmRSS") -> int:
    """Bytes of this process in memory; at most so far with the field VmHWM (getrusage's begins
    with what the process had that started this one)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


class Shares:
    """The most that this process and those it started had together, each page shared out among
    whom it belongs to (PSS); while the block runs, looked at twenty times a second."""

    def __enter__(self) -> Shares:
        self.most, self._over = 0, threading.Event()
        self._watch = threading.Thread(target=self._look)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            own = os.getpid()
            children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
            self.most = max(self.most, sum(share(process) for process in [str(own), *children]))


def share(process: str) -> int:
    """Bytes of a process, 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def measured(what: str, arguments: list[str]) -> Row:
    """Runs a command in this process."""
    set_start_method("fork", force=True)  # as a command's workers are started that is not measured
    predicted = 0

    def noted(parts: dict[str, int], advice: object) -> None:
        nonlocal predicted
        predicted = max(predicted, resident() + sum(parts.values()))

    for name in ("memory", "discover", "lidar.sweeps", "learn", "detect"):
        import_module(f"protoscene.{name}").require = noted  # type: ignore[attr-defined]
    with Shares() as shares:
        if command([*arguments, "--json"]) != 0:
            raise SystemExit(f"{what} failed")
    return Row(what, predicted, max(resident("VmHWM"), shares.most))


def discovered(data: Path, seed: int, kind: str, n: int, cameras: int, width: int, voxel: float,
) -> Row:  # fmt: skip
    name = f"{kind}-{seed}-{n}-{cameras}-{width}"
    folder, output = data / name, data / f"{name}-scene-{os.getpid()}"
    arguments = ["discover", str(folder / "recording"), "-o", str(output)]
    bounds = ["--bounds", "-3.2", "-3.2", "-0.1", "3.2", "3.2", "1.5"]
    what = f"discover {kind}, {n} × {cameras} of {width} × {width * 3 // 4}, {voxel:g} m"
    return measured(what, [*arguments, "--voxel-size", str(voxel), *bounds])


def swept(data: Path, folder: Path) -> Row:
    n = len(list((folder / "velodyne").glob("*.bin")))
    what = f"discover {folder.name}, {n} LiDAR sweeps"
    output = data / f"{folder.name}-scene-{os.getpid()}"
    return measured(what, ["discover", str(folder), "-o", str(output)])


def learnt(
    data: Path, seed: int, steps: int, kind: str, n: int, cameras: int, width: int, voxel: float,
    times: int,
) -> Row:  # fmt: skip
    name = f"{kind}-{seed}-{n}-{cameras}-{width}"
    output = data / f"{name}-model-{os.getpid()}"
    recordings = [str(data / name / "recording")] * times
    what = f"learn {times} times {kind}, {n} × {cameras} of {width} × {width * 3 // 4}, {voxel:g} m"
    arguments = ["--voxel-size", str(voxel), "--steps", str(steps), "-o", str(output)]
    return measured(what, ["learn", *recordings, *arguments])


def composed(data: Path, resolution: int, side: int, suffix: str) -> Row:
    folder, output = data / f"scene-{side}", data / f"volume-{os.getpid()}{suffix}"
    arguments = ["compose", str(folder), "--time", "0", "-o", str(output)]
    what = f"compose {resolution}³ of a scene of {side}³, {suffix}"
    return measured(what, [*arguments, "--resolution", str(resolution)])


def make(options: Options) -> None:
    """The recordings and scenes that are missing."""
    options.data.mkdir(parents=True, exist_ok=True)
    wanted = {row[:4] for row in DISCOVERED[: options.discovered]}
    wanted |= {row[:4] for row in LEARNT[: options.learnt]}
    for kind, n, cameras, width in sorted(wanted):
        folder = options.data / f"{kind}-{options.seed}-{n}-{cameras}-{width}"
        if not folder.exists():
            size = {"width": width, "height": width * 3 // 4}
            own = replace(SUITE[kind](options.seed), n_instants=n, n_cameras=cameras, n_heldout=0)
            write_recording(replace(own, **size), folder)
    for side in {side for _, side, _ in COMPOSED[: options.composed]}:
        if not (options.data / f"scene-{side}").exists():
            save_scene(a_scene(side), options.data / f"scene-{side}")


def a_scene(side: int) -> Scene:
    """Eight things of two kinds on noise."""
    rng = torch.Generator().manual_seed(side)
    grid = Grid((0.0, 0.0, 0.0), 3.2 / side, (side, side, side))
    rgba = [torch.rand(4, 24, 24, 24, generator=rng) for _ in range(2)]
    dims = (0.6, 0.6, 0.6)

    def thing(k: int) -> SceneObject:
        centre = np.array([[0.4 + 0.3 * k, 0.5 + 0.2 * k, 0.5]])
        one, there = np.ones(1), np.array([True])
        return SceneObject(k, k % 2, 1.0, True, dims, Track(0 * one, centre, one, one, there))

    return Scene(
        (0.0,), Background(Volume(torch.rand(4, side, side, side, generator=rng), grid)),
        VoxelPrototypes(rgba, [0.025, 0.025]), tuple(thing(k) for k in range(8)), (dims, dims),
        (None, None),
    )  # fmt: skip


def markdown(rows: list[Row]) -> str:
    lines = ["| setting | predicted, MB | taken, MB | error |", "|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| {row.what} | {row.predicted / MB:.0f} | {row.taken / MB:.0f} | {row.error:+.1%} |"
        )
    errors = np.abs([row.error for row in rows])
    quantiles = f"median {np.median(errors):.1%}, 95 % within {np.quantile(errors, 0.95):.1%}"
    lines += ["", f"Error of {len(rows)} settings: {quantiles}, at most {errors.max():.1%}."]
    return "\n".join(lines)


def main(options: Options) -> None:
    make(options)
    settings: list[tuple[Any, tuple[Any, ...]]]
    settings = [(composed, (options.data, *row)) for row in COMPOSED[: options.composed]]
    settings += [
        (discovered, (options.data, options.seed, *row)) for row in DISCOVERED[: options.discovered]
    ]
    settings += [(swept, (options.data, folder)) for folder in options.lidar]
    settings += [
        (learnt, (options.data, options.seed, options.steps, *row))
        for row in LEARNT[: options.learnt]
    ]
    rows: list[Row] = []
    for function, arguments in settings:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            row = pool.submit(function, *arguments).result()
        rows.append(row)
        print(row.what, f"{row.error:+.1%}", flush=True)
        if options.results is not None:
            write_between_markers(options.results, "bm_memory", markdown(rows))
    print(markdown(rows))


if __name__ == "__main__":
    # For the processes that measure; not in main, as numba minds a change while it runs.
    os.environ["NUMBA_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    main(tyro.cli(Options))
