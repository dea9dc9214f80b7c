"""The commands that write, on small inputs, each with what it writes when nothing disturbs it."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import failpoints
import forks
from cart_recordings import PATHS, write_recording
from moving_boxes import ring

INSTANTS, VOXEL, STEPS = 4, "0.1", 3
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
    bytes_written: int
    seconds: float


def write_recordings(folder: Path) -> list[Path]:
    """Two recordings of the cart, small enough for a discovery in half a second."""
    cameras = ring(1, width=64, height=48, focal=60)
    paths = [path[:INSTANTS] for path in PATHS]
    return [write_recording(folder / f"r{k}", path, cameras) for k, path in enumerate(paths)]


class Jobs:
    """The jobs by name, prepared when they are asked for in ``folder``, where what they read is as
    well: run undisturbed in this process, so that it is warm, and in a child. Raises RuntimeError
    where the two differ."""

    def __init__(self, folder: Path) -> None:
        self.recordings = r0, r1 = write_recordings(folder)
        scene = folder / "scene"
        voxel, resume = ("--voxel-size", VOXEL), ("--resume",)
        self.folder = folder
        self._commands: dict[str, tuple[Callable[[Path], list[object]], tuple[str, ...], str]] = {
            "discover": (lambda out: ["discover", r0, "-o", out, *voxel], resume, ""),
            "learn": (
                lambda out: ["learn", r0, r1, "-o", out, *voxel, "--steps", STEPS], resume, ""
            ),
            "parse": (lambda out: ["parse", r0, "-o", out, *voxel], (), ""),
            "export": (lambda out: ["export", scene, "--to", "glb", "-o", out], (), ".glb"),
            "edit": (lambda out: ["edit", scene, "--remove", 0, "-o", out], (), ""),
        }  # fmt: skip
        self._ready: dict[str, Job] = {}
        _run_here(self._commands["discover"][0](scene))

    def __getitem__(self, name: str) -> Job:
        if name not in self._ready:
            self._ready[name] = _prepared(name, *self._commands[name], self.folder)
        return self._ready[name]


def _prepared(
    name: str,
    command: Callable[[Path], list[object]],
    again: tuple[str, ...],
    suffix: str,
    folder: Path,
) -> Job:
    here, there = folder / f"here{suffix}", folder / f"there{suffix}"
    _run_here(command(here))
    reading, writing = os.pipe()
    ended = forks.run(command(there), folder / "said", lambda: failpoints.count_into(writing))
    os.close(writing)
    with open(reading) as counted:  # noqa: PTH123
        sizes = [int(line) for line in counted]
    if ended.code or in_one_name(here) != in_one_name(there):
        raise RuntimeError(f"{name}: exit code {ended.code}, or two runs differ: {ended.said}")
    written = in_one_name(there)
    for left in (here, there):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    return Job(name, command, again, suffix, written, len(sizes), sum(sizes), ended.seconds)


def _run_here(command: list[object]) -> None:
    unheard = io.StringIO()
    with contextlib.redirect_stdout(unheard), contextlib.redirect_stderr(unheard):
        code = forks.main([*map(str, command)])
    if code:
        raise RuntimeError(f"{command[0]}: exit code {code}")


def in_one_name(out: Path) -> dict[str, bytes]:
    """The files of an output; one that is itself a file is called ``file``."""
    return {"file": out.read_bytes()} if out.is_file() else forks.contents(out)
