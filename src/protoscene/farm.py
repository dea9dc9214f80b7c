"""Discovery of many recordings: finished ones are kept, the rest is done here or farmed out."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from protoscene import __version__
from protoscene.discover import discover
from protoscene.errors import Failed, Refused
from protoscene.files import discard_folder, make_folder, remove_temporaries
from protoscene.observe import Progress
from protoscene.ranks import Ranks
from protoscene.recording import Recording
from protoscene.scene import Scene
from protoscene.store import load_scene, save_scene

WAIT_S = 0.5
"""Between looks at what the farm has done."""


def discover_all(
    recordings: Sequence[Recording],
    folder: Path,
    group: Ranks,
    voxel_size: float | None = None,
    seed: int = 0,
    ray: str | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> list[Scene]:
    """The scene of each recording, kept as ``folder``/N: those that are there already are not
    discovered again. The processes of ``group`` share the work. ``ray`` is the address of a ray
    cluster that sees the same files, or ``"local"`` for a process on each core of this machine.

    Raises Refused where a kept scene is of another recording, seed, voxel size or version, and for
    a recording without pictures: what learns from the scenes reads them.
    """
    for recording in recordings:
        recording.require_pictures()
    places = [folder / str(k) for k in range(len(recordings))]
    if group.is_first:
        make_folder(folder)
        remove_temporaries(folder)
    group.of_first(0.0)
    for recording, place in zip(recordings, places, strict=True):
        if place.exists():
            _kept(recording, place, voxel_size, seed)
    missing = [k for k, place in enumerate(places) if not place.exists()][group.rank :: group.size]
    if ray is None:
        for k in missing:
            _discover_one(recordings[k], places[k], voxel_size, seed, progress)
    elif missing:
        tasks = [(recordings[k], places[k].absolute(), voxel_size, seed) for k in missing]
        _farm_out(tasks, ray, progress)
    group.of_first(0.0)  # all are there
    return [
        _kept(recording, place, voxel_size, seed)
        for recording, place in zip(recordings, places, strict=True)
    ]


def _discover_one(
    recording: Recording, place: Path, voxel_size: float | None, seed: int, progress: Progress
) -> None:
    work = place.with_name(f"{place.name}.work")
    scene = discover(recording, voxel_size, seed=seed, progress=progress, work=work)
    settings = _settings(voxel_size)
    save_scene(replace(scene, made_by={**scene.made_by, "settings": settings}), place)
    recording.forget()  # or the pictures of all recordings would stay in memory
    if work.exists():
        discard_folder(work)


def _settings(voxel_size: float | None) -> str:
    return "" if voxel_size is None else f"voxel_size {voxel_size}"


def _kept(recording: Recording, place: Path, voxel_size: float | None, seed: int) -> Scene:
    scene = load_scene(place)
    wanted = {
        "protoscene": __version__, "seed": seed, "recording_sha256": recording.sha256,
        "settings": _settings(voxel_size),
    }  # fmt: skip
    for field, value in wanted.items():
        if (made := scene.made_by.get(field)) != value:
            problem = "the interrupted run had another"
            raise Refused(place, field, problem, got=value, expected=made)
    return scene


def _farm_out(tasks: Sequence[tuple[Any, ...]], address: str, progress: Progress) -> None:
    """Each task in a process of the ray cluster at ``address``; the first error ends it all."""
    with _cluster(address) as ray:
        discover_there = ray.remote(num_cpus=1)(_outcome)
        waiting = [discover_there.remote(*task) for task in tasks]
        while waiting:
            progress("discover", len(tasks) - len(waiting), len(tasks))
            done, waiting = ray.wait(waiting, timeout=WAIT_S)
            for kind, values in ray.get(done):
                if kind == "refused":
                    raise Refused(*values)
                if kind == "failed":
                    raise Failed(*values)


def _outcome(
    recording: Recording, place: Path, voxel_size: float | None, seed: int
) -> tuple[str, tuple[Any, ...]]:
    """Errors as values: an exception would come back as ray's own, with its traceback as text."""
    try:
        _discover_one(recording, place, voxel_size, seed, lambda stage, done, total: None)
    except Refused as error:
        return "refused", (error.file, error.field, error.problem, error.got, error.expected)
    except (Failed, OSError, MemoryError) as error:
        return "failed", (f"{recording.source}: {error}",)
    return "done", ()


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """A connection to a ray cluster, or one of our own on this machine for ``"local"``. Signals
    stay with whom they were, where ray would take them."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # tells nobody that it runs
    try:
        import ray
    except ImportError:
        advice = "is not installed; pip install 'protoscene[farm]'"
        raise Refused("command line", "--ray", f"ray {advice}") from None
    if address == "local":  # a secret for this cluster alone, which is stored nowhere
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    own: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(
            address,
            logging_level=logging.ERROR,
            log_to_driver=False,
            **(own if address == "local" else {}),
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise Refused("command line", "--ray", f"no cluster: {error}", got=address) from None
    try:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
        yield ray
    finally:
        ray.shutdown()
