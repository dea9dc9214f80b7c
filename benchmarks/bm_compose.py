"""What composing costs: against torch, SimpleITK and scipy, and against memory's own speed.

    THP_MEM_ALLOC_ENABLE=1 python benchmarks/bm_compose.py --results docs/results.md

All contenders run in one process, in rounds: each round calls each once, in an order that rotates.
What is reported of two contenders is the median and range of their ratio in each round, as whatever
else the machine does slows both. Peak memory and first calls are measured in processes of their
own. With ``THP_MEM_ALLOC_ENABLE`` torch asks for huge pages; without, fresh memory costs more than
composing into it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numba
import torch
import tyro
from compose_alone import alone
from compose_contenders import CONTENDERS
from compose_losses import fused, unfused
from compose_one_crop import by_scipy, by_simpleitk, crop_of
from compose_rivals import cropped, full_grid
from compose_workloads import WORKLOADS, Workload, placed, random_poses, random_rgba
from memory_rate import Copy, bytes_to_move, last_level_cache
from rich.console import Console
from rich.markdown import Markdown

from protoscene.compose import compose
from protoscene.prototypes import VoxelPrototypes

sys.path.append(str(Path(__file__).resolve().parent.parent / "studies"))
from results_page import write_between_markers

LOSSES = (("uint8", 1), ("uint8", 2), ("memory map", 4), ("float16", 1), ("float16", 2))
"""Targets of the fused loss, and how many times longer than the workload's canvas they are."""
REPLACED = ("native", "crop by crop")
"""Whose volumes are compared with the target by torch instead."""
RIVALS = ("crop by crop", "crops in batches")
LOSS_WORKLOADS = ("W8", "W64", "W512")
FIRST = {
    "import torch": "torch",
    "import numba": "numba",
    "import protoscene.compose": "protoscene",
    "torch's own at a first custom operator": "dynamo",
    "forward": "forward",
    "forward and backward": "forward_backward",
    "the same again": "again",
}
"""Heads of the table of first calls, and what compose_alone calls them."""
PAUSE = 0.02
"""Seconds before each call: OpenMP's threads go on spinning a while after a parallel region."""
Step = Callable[[], object]
Times = dict[str, list[float]]
"""Seconds of each contender in each round."""


@dataclass
class Options:
    """Measures compose's time and memory beside others'."""

    workloads: tuple[str, ...] = tuple(WORKLOADS)
    rounds: int = 9
    results: Path | None = None
    """A markdown file whose part between the benchmark's markers is replaced by the tables."""


def interleaved(contenders: dict[str, Step], rounds: int) -> Times:
    """Each round calls each contender once, beginning with another one each time; one call of each
    before that is not counted."""
    for call in contenders.values():
        call()
    names = list(contenders)
    times: Times = {name: [] for name in names}
    for i in range(rounds):
        at = i % len(names)
        for name in names[at:] + names[:at]:
            time.sleep(PAUSE)
            started = time.perf_counter()
            contenders[name]()
            times[name].append(time.perf_counter() - started)
    return times


def ratio(times: Times, upper: str, lower: str) -> str:
    """Median and range over rounds of one contender's time divided by another's."""
    found = [a / b for a, b in zip(times[upper], times[lower], strict=True)]
    return f"{median(found):.2f} ({min(found):.2f}–{max(found):.2f})"


def milliseconds(seconds: Sequence[float]) -> str:
    return f"{1e3 * median(seconds):.1f}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def measured(workload: Workload, rounds: int, memory: Copy) -> dict[str, Times]:
    """Times of "forward", which has ``memory``'s too, and "limit"; of "forward and backward"; and
    for W8 of "whole canvas"."""
    contenders = {name: make(workload) for name, make in CONTENDERS.items()}
    forward: dict[str, Step] = {n: c.forward for n, c in contenders.items()}
    forward |= {"copy": memory.copy, "read": memory.read, "fill": memory.fill}
    times = {"forward": interleaved(forward, rounds)}
    share = bytes_to_move(workload, last_level_cache()) / memory.n_bytes
    times["forward"]["limit"] = [share * t for t in times["forward"]["copy"]]
    both: dict[str, Step] = {n: c.forward_backward for n, c in contenders.items()}
    times["forward and backward"] = interleaved(both, rounds)
    if workload.name == "W8":
        # By itself: the gigabytes that it frees keep the system busy while its successor runs.
        rgba, placements = random_rgba(workload), placed(workload, random_poses(workload))
        pair: dict[str, Step] = {
            "torch layout": forward["torch layout"],
            "whole canvas": lambda: full_grid(rgba, workload.voxel_size, placements, workload.grid),
        }
        times["whole canvas"] = interleaved(pair, rounds)
    return times


def passes(found: dict[str, dict[str, Times]], step: str) -> str:
    """The table of "forward" or "forward and backward" of all workloads."""
    heads = [step, "native, ms", *(f"{rival} / native" for rival in RIVALS)]
    heads += ["torch layout, ms", *(f"{rival} / torch layout" for rival in RIVALS)]
    if step == "forward":
        heads += ["limit, ms", "native / limit"]
    rows = []
    for name, steps in found.items():
        times, row = steps[step], [name]
        for ours in ("native", "torch layout"):
            row += [milliseconds(times[ours]), *(ratio(times, rival, ours) for rival in RIVALS)]
        if "limit" in times:
            row += [milliseconds(times["limit"]), ratio(times, "native", "limit")]
        rows.append(row)
    return table(heads, rows)


def whole_canvas(found: dict[str, dict[str, Times]]) -> str:
    lines = [
        f"`affine_grid` and `grid_sample` on the whole canvas, forward, {name}: "
        f"{milliseconds(steps['whole canvas']['whole canvas'])} ms, "
        f"{ratio(steps['whole canvas'], 'whole canvas', 'torch layout')} × torch layout."
        for name, steps in found.items()
        if "whole canvas" in steps
    ]
    return "\n".join(lines)


def one_crop(workload: Workload, rounds: int) -> str:
    """One placement into a grid of its crop's size, forward, ours in native layout."""
    rgba = random_rgba(workload)[:1]
    placement = placed(workload, random_poses(workload))[:1]
    size = workload.voxel_size
    crop = crop_of(placement, rgba[0], size, workload.grid)
    prototypes = VoxelPrototypes.from_rgba(rgba, size)
    contenders: dict[str, Step] = {
        "protoscene": lambda: compose(prototypes, placement, crop),
        "torch": lambda: cropped(rgba, size, placement, crop, in_batches=True),
        "scipy": by_scipy(rgba[0], size, placement, crop),
    }
    by_itk = by_simpleitk(rgba[0], size, placement, crop)
    if by_itk is not None:
        contenders["SimpleITK"] = by_itk
    times = interleaved(contenders, rounds)
    rows = [
        [name, milliseconds(times[name]), ratio(times, name, "protoscene")] for name in contenders
    ]
    shape = "×".join(str(n) for n in crop.shape)
    text = table([f"one crop, {shape}", "ms", "/ protoscene"], rows)
    return text if by_itk is not None else f"{text}\n\nSimpleITK is not installed."


def losses(workload: Workload, rounds: int, folder: Path) -> Times:
    """Loss and gradients: fused, named by :func:`loss_name`, and on the volumes of others."""
    contenders: dict[str, Step] = {
        loss_name(workload, kind, factor): fused(
            workload, factor * workload.canvas, kind, folder
        ).forward_backward
        for kind, factor in LOSSES
    }
    contenders |= {name: unfused(workload, name).forward_backward for name in REPLACED}
    return interleaved(contenders, rounds)


def loss_name(workload: Workload, kind: str, factor: int) -> str:
    return f"{kind} {factor * workload.canvas}³"


def loss_table(found: dict[str, Times]) -> str:
    rows, heads = [], ["loss and gradients"]
    for name, times in found.items():
        names = [loss_name(WORKLOADS[name], kind, factor) for kind, factor in LOSSES]
        pairs = [(names[1], names[0]), (names[2], names[0]), *((r, names[0]) for r in REPLACED)]
        heads[1:] = [f"{names[0]}, ms", *(f"{upper} / {lower}" for upper, lower in pairs)]
        heads += [f"{names[3]}, ms", f"{names[4]} / {names[3]}"]
        row = [name, milliseconds(times[names[0]]), *(ratio(times, *pair) for pair in pairs)]
        rows.append([*row, milliseconds(times[names[3]]), ratio(times, names[4], names[3])])
    return table(heads, rows) if rows else ""


def loss_memory(workloads: Sequence[Workload], folder: Path) -> str:
    """Peak memory of loss and gradients: in all, and above inputs and target."""
    rows, heads = [], ["loss, peak MB (above inputs)"]
    for workload in workloads:
        row, encoded = [workload.name], json.dumps(asdict(workload))
        heads[1:] = [loss_name(workload, kind, factor) for kind, factor in LOSSES]
        for kind, factor in LOSSES:
            size = str(factor * workload.canvas)
            found = alone("loss", encoded, size, kind, str(folder))
            row.append(f"{found['peak']:.0f} ({found['above']:.0f})")
        rows.append(row)
    return table(heads, rows) if rows else ""


def memory_table(workloads: Sequence[Workload]) -> str:
    """Peak memory of forward and backward: in all, and above inputs and gradient."""
    names = ("native", "torch layout", *RIVALS)
    rows = []
    for workload in workloads:
        row = [workload.name]
        for name in names:
            found = alone("peak", name, json.dumps(asdict(workload)))
            above_base = found["peak"] - found["base"]
            row.append(f"{found['peak']:.0f} ({above_base:.0f}; {found['above']:.0f})")
        rows.append(row)
    heads = ["peak MB (above Python, torch and numba; above inputs)", *names]
    return table(heads, rows)


def first_calls() -> str:
    """Seconds in a fresh process: with an empty cache, and with what that left there."""
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for state in ("cold", "cached"):
            found = alone("first", NUMBA_CACHE_DIR=cache)
            seconds = [f"{found[key]:.2f}" for key in FIRST.values()]
            rows.append([state, *seconds, f"{found['compiled_on_import']:.0f}"])
    return table(["first call, s", *FIRST, "compiled on import"], rows)


def note(found: dict[str, dict[str, Times]], rounds: int, memory: Copy, load: float) -> str:
    rates = []
    for kind, share in (("copy", 1.0), ("read", 0.5), ("fill", 0.5)):
        seconds = [t for steps in found.values() for t in steps["forward"][kind]]
        rates.append(f"{kind} {share * memory.n_bytes / median(seconds) / 1e9:.1f}")
    says = "; ".join(f"{name}: {WORKLOADS[name].says}" for name in found)
    cache = last_level_cache() / 2**20
    lines = [
        f"{says}.",
        f"Ratios: median (range) over {rounds} rounds of one process.",
        "Native: from and to the layout of `VoxelPrototypes`. Torch layout: packed from "
        "(4, z, y, x) and back each time.",
        "Limit: the canvas written once and the prototypes' blocks read (once in all where they "
        f"fit into a cache of {cache:.0f} MiB, else once a placement) at a parallel copy's rate. "
        "compose does not write where no placement reaches: fresh memory is zero. "
        f"GB/s: {', '.join(rates)}.",
        "Loss: squared errors of occupancy and colour. Targets are empty beyond the workload's "
        "canvas and lie in compose's own layout, a mapped one in a file that the system holds in "
        "memory; what the fused loss replaces has a float32 target.",
        f"numba on {numba.threading_layer()}, {numba.get_num_threads()} threads; "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; "
        f"THP_MEM_ALLOC_ENABLE={os.environ.get('THP_MEM_ALLOC_ENABLE', '')}; "
        f"load {load:.1f} before, {os.getloadavg()[0]:.1f} after.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def main(options: Options) -> None:
    load = os.getloadavg()[0]
    workloads = [WORKLOADS[name] for name in options.workloads]
    memory = Copy()
    found = {}
    for workload in workloads:
        print(f"{workload.name}: {workload.says}", file=sys.stderr)
        found[workload.name] = measured(workload, options.rounds, memory)
    with tempfile.TemporaryDirectory() as folder:
        compared = [w for w in workloads if w.name in LOSS_WORKLOADS]
        loss_times = {w.name: losses(w, options.rounds, Path(folder)) for w in compared}
        loss_parts = [loss_table(loss_times), loss_memory(compared, Path(folder))]
    parts = [
        passes(found, "forward"),
        passes(found, "forward and backward"),
        whole_canvas(found),
        one_crop(WORKLOADS["W8"], options.rounds),
        memory_table(workloads),
        *loss_parts,
        first_calls(),
        note(found, options.rounds, memory, load),
    ]
    text = "\n\n".join(part for part in parts if part)
    Console().print(Markdown(text))
    if options.results is not None:
        write_between_markers(options.results, "bm_compose", text)


if __name__ == "__main__":
    main(tyro.cli(Options))
