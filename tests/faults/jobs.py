"""The long commands on small recordings, each with what it writes when nothing disturbs it."""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import failpoints
import forks
from cart_recordings import PATHS, write_recording
from moving_boxes import ring

INSTANTS, VOXEL, STEPS = 6, "0.08", 3
"""So few steps that each is a checkpoint, and so many that the first of them is let go."""


@dataclass(frozen=True)
class Job:
    """``command(out)`` writes ``out``; run again after a kill with ``again`` added. ``written`` is
    what an undisturbed run leaves, after ``calls`` calls that write and ``seconds``."""

    name: str
    command: Callable[[Path], list[object]]
    again: tuple[str, ...]
    suffix: str
    written: dict[str, bytes]
    calls: int
    seconds: float


def write_recordings(folder: Path) -> list[Path]:
    """Two recordings of the cart, small enough for a discovery in about a second."""
    cameras = ring(2, width=96, height=72, focal=90)
    paths = [path[:INSTANTS] for path in PATHS]
    return [write_recording(folder / f"r{k}", path, cameras) for k, path in enumerate(paths)]


def prepare(folder: Path, names: Sequence[str]) -> list[Job]:
    """The jobs called ``names``, run undisturbed: in this process, so that it is warm, and in
    children. Raises RuntimeError where two runs differ."""
    recordings = write_recordings(folder)
    voxel = ("--voxel-size", VOXEL)
    commands: dict[str, tuple[Callable[[Path], list[object]], tuple[str, ...], str]] = {
        "discover": (lambda out: ["discover", recordings[0], "-o", out, *voxel], ("--resume",), ""),
        "learn": (lambda out: ["learn", *recordings, "-o", out, *voxel, "--steps", STEPS],
                  ("--resume",), ""),
        "export": (lambda out: ["export", folder / "scene", "--to", "glb", "-o", out], (), ".glb"),
    }  # fmt: skip
    if forks.main([*map(str, commands["discover"][0](folder / "scene"))]):
        raise RuntimeError("discover failed undisturbed")
    jobs = []
    for name in names:
        command, again, suffix = commands[name]
        if name != "discover" and forks.main([*map(str, command(folder / f"warm{suffix}"))]):
            raise RuntimeError(f"{name} failed undisturbed")
        runs = [_undisturbed(command, folder / f"whole{k}{suffix}", folder) for k in range(2)]
        if runs[0][0] != runs[1][0]:
            raise RuntimeError(f"two undisturbed runs of {name} differ")
        seconds = statistics.mean(run[2] for run in runs)
        jobs.append(Job(name, command, again, suffix, runs[0][0], runs[0][1], seconds))
        for left in [*folder.glob("warm*"), *folder.glob("whole*")]:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    return jobs


def _undisturbed(
    command: Callable[[Path], list[object]], out: Path, folder: Path
) -> tuple[dict[str, bytes], int, float]:
    """What is written (under the same name for all), in how many calls and seconds."""
    reading, writing = os.pipe()
    ended = forks.run(command(out), folder / "said", lambda: failpoints.count_into(writing))
    os.close(writing)
    calls = 0
    with open(reading, "rb") as counted:  # noqa: PTH123
        calls = len(counted.read())
    if ended.code:
        raise RuntimeError(f"{out.name}: exit code {ended.code}: {ended.said}")
    return in_one_name(out), calls, ended.seconds


def in_one_name(out: Path) -> dict[str, bytes]:
    """The files of an output; one that is itself a file is called ``file``."""
    return {"file": out.read_bytes()} if out.is_file() else forks.contents(out)
