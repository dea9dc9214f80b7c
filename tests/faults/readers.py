"""Readers that look while others write: what they see is what was there before, or is whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import forks
from kills import Tally
from protoscene.errors import Refused
from protoscene.files import write_file
from protoscene.store import load_scene, save_scene
from protoscene.volume import Volume
from protoscene.volume_file import load_volume, volume_bytes
from small_scene import a_scene

MOST_S = 300.0


def polled_scenes(saves: int, folder: Path) -> Tally:
    """A scene is looked at again and again until it is there, one after the other. ``kills``
    counts the looks at what was not there yet."""
    scene, tally = a_scene(), Tally()
    save_scene(scene, folder / "whole")
    whole = forks.contents(folder / "whole")

    def write() -> None:
        for k in range(saves):
            save_scene(scene, folder / str(k))

    with writing(write, folder):
        for k in range(saves):
            tally.trials += 1
            place, end = folder / str(k), time.monotonic() + MOST_S
            while True:
                try:
                    load_scene(place)
                    break
                except Refused as refused:
                    tally.kills += 1
                    if refused.problem != "is missing" or time.monotonic() > end:
                        tally.failures.append(f"save {k}: {refused}")
                        break
            if forks.contents(place) != whole:
                tally.failures.append(f"save {k}: other bytes")
    return tally


def polled_volumes(saves: int, folder: Path) -> Tally:
    """A volume is written over with two contents in turn, and read meanwhile. ``kills`` counts the
    reads."""
    volume, tally = a_scene().compose(0.0), Tally(trials=saves)
    file = folder / "volume.safetensors"
    other = Volume(volume.rgba.flip(0).contiguous(), volume.grid)
    old, new = (volume_bytes(one, file.suffix) for one in (volume, other))
    write_file(file, old)

    def write() -> None:
        for k in range(saves):
            write_file(file, (new, old)[k % 2])

    with writing(write, folder) as goes_on:
        while goes_on():
            tally.kills += 1
            if file.read_bytes() not in (old, new):
                tally.failures.append(f"read {tally.kills}: other bytes")
            load_volume(file)
    return tally


@contextmanager
def writing(write: Callable[[], None], folder: Path) -> Iterator[Callable[[], bool]]:
    """Calls ``write`` in another process, and yields what tells whether it still runs."""
    child = forks.start(["--version"], folder / "said", write)
    ended: forks.Ended | None = None

    def goes_on() -> bool:
        nonlocal ended
        ended = ended or child.wait(0)
        return ended is None

    yield goes_on
    ended = ended or child.ended()
    assert ended.code == 0, ended.said
