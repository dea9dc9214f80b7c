"""Random damage to small good files: every reader reads them or refuses, soon and in little memory.

Seeded: the k-th try of a target is the same in every run.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import resource
import signal
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

import bad_inputs
import bad_pictures
import bad_sweeps
from protoscene.errors import Refused
from protoscene.formats import load, read_cameras
from protoscene.formats.pictures import read_colour, read_depth
from protoscene.model import load_model
from protoscene.sealed import NO_HASH, with_own_hash
from protoscene.store import load_scene
from protoscene.truth import load_truth
from protoscene.volume_file import COMMENT, load_volume, volume_bytes
from small_scene import a_scene

LONGEST_S = 5.0
"""Of processor time, for one try."""
MOST_MEMORY = 512 * 2**20
"""Of address space, beyond what the process has when it begins."""
NUMBERS = [b"0", b"-0", b"-1", b"1e999", b"1e308", b"1e-320", b"NaN", b"Infinity", b"null", b"true",
           b"2147483648", b"-9223372036854775809", b"9" * 400, b"0.1.2", b"1_0", b"0x10", b"[]",
           b"{}", b'""', b'"a"', b"\xff", b"\0", b"\xe2\x80\xae", b"'", b","]  # fmt: skip
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class Target:
    """``read()`` reads everything that depends on the files, one of which is damaged at a time."""

    name: str
    files: list[Path]
    read: Callable[[], object]
    mend: Callable[[Path], None] = lambda file: None
    """Puts a file's new hash where it is listed, so that more of the reader is reached."""


@dataclass
class Fuzzed:
    """``crashes``: what came of a try that was neither read nor refused. ``megabytes``: the most
    memory that the process had beyond what it began with."""

    name: str
    tries: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    megabytes: float = 0.0
    crashes: list[str] = field(default_factory=list)


def targets(folder: Path) -> list[Target]:
    """Every reader with its good files, in ``folder``."""
    bad_inputs.write_bases(folder)
    found = [*_recordings(folder), *_pictures(folder)]
    scene, model = folder / "scene", folder / "model"
    for name, place, read in (("scene", scene, load_scene), ("model", model, load_model)):
        listing = place / f"{name}.json"
        _without_hash(listing)
        reading, mend = partial(read, place), partial(_relist, listing)
        found.append(Target(f"{name}.json", [listing], reading))
        tensors = sorted(place.rglob("*.safetensors"))
        found.append(Target(f"{name}'s tensors", tensors, reading, mend))
    truth, cameras = folder / "truth/truth.json", folder / "cameras/cameras.json"
    found.append(Target("truth.json", [truth], partial(load_truth, truth)))
    found.append(Target("cameras.json", [cameras], partial(read_cameras, cameras)))
    for suffix, before in ((".npz", COMMENT), (".safetensors", b'"sha256":"')):
        volume = folder / f"volume{suffix}"
        volume.write_bytes(volume_bytes(a_scene().compose(0.0), suffix))
        reading, mend = partial(load_volume, volume), partial(_rehash, before)
        found.append(Target(volume.name, [volume], reading, mend))
    return found


def _recordings(folder: Path) -> Iterator[Target]:
    for layout, patterns in (
        ("transforms", ["transforms.json"]), ("tum", ["*.txt"]), ("7scenes", ["*.txt"]),
        ("kitti", ["*.txt", "velodyne/*"]), ("mcap", ["*.mcap"]),
    ):  # fmt: skip
        root = folder / layout
        if layout != "mcap" or bad_sweeps.HAS_MCAP:
            files = sorted(file for pattern in patterns for file in root.glob(pattern))
            yield Target(layout, files, partial(_read_all, root, layout))


def _read_all(root: Path, layout: str) -> None:
    recording = load(root, format=layout)
    for k in range(len(recording.sweeps)):
        recording.sweep(k)


def _pictures(folder: Path) -> Iterator[Target]:
    pixels = np.random.default_rng(0).integers(300, 4000, (48, 64)).astype(np.uint16)
    for name, data, read in (
        ("depth.png", bad_pictures.png_bytes(pixels), read_depth),
        ("depth.npy", bad_pictures.npy(pixels / 1000), read_depth),
        ("depth.npz", bad_pictures.npz(depth=pixels / 1000), read_depth),
        ("colour.png", bad_pictures.picture("RGB"), read_colour),
        ("colour.jpg", bad_pictures.picture("RGB", kind="JPEG"), read_colour),
    ):
        file = folder / name
        file.write_bytes(data)
        more = (0.001,) if read is read_depth else ()
        mend = _checksums if file.suffix == ".png" else Target.mend
        yield Target(name, [file], partial(read, file, "field", *more), mend)


def _checksums(file: Path) -> None:
    """Puts its own checksum behind every chunk of a PNG that is as long as it says."""
    data, at = bytearray(file.read_bytes()), 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        data[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    file.write_bytes(data)


def _without_hash(file: Path) -> None:
    file.write_bytes(json.dumps({**json.loads(file.read_bytes()), "sha256": None}).encode())
    document = json.loads(file.read_bytes())
    del document["sha256"]
    file.write_bytes(json.dumps(document).encode())


def _relist(listing: Path, file: Path) -> None:
    document, data = json.loads(listing.read_bytes()), file.read_bytes()
    name = file.relative_to(listing.parent).as_posix()
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    document["files"][name] = entry
    listing.write_text(json.dumps(document))


def _rehash(before: bytes, file: Path) -> None:
    data = file.read_bytes()
    digits = re.escape(before) + rb"[0-9a-f]{64}"
    file.write_bytes(with_own_hash(re.sub(digits, before + NO_HASH.encode(), data), before))


def fuzzed(
    target: Target, seed: int, most: int = 10**9, seconds: float = 1e9, kept: Path | None = None
) -> Fuzzed:
    """At most so many tries, or processor seconds. What crashes a reader is ``kept``."""
    result = Fuzzed(target.name)
    good = {file: file.read_bytes() for file in target.files}
    corpus = list(good.values())
    began, had = time.process_time(), _peak_megabytes(anew=True)
    with _little_memory(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target.read()
        while result.tries < most and time.process_time() < began + seconds:
            numbers = random.Random(f"{target.name} {seed} {result.tries}")
            file = numbers.choice(target.files)
            data = mutated(good[file], corpus, numbers)
            file.write_bytes(data)
            target.mend(file)
            problem = _tried(target, result)
            if problem:
                result.crashes.append(f"{target.name} try {result.tries} {file.name}: {problem}")
                if kept is not None:
                    kept.mkdir(exist_ok=True)
                    (kept / f"{target.name}-{result.tries}-{file.name}").write_bytes(data)
            result.tries += 1
            if len(good) > 1:
                file.write_bytes(good[file])
                target.mend(file)
        file.write_bytes(good[file])  # another target may read it as well
        target.mend(file)
    result.seconds = time.process_time() - began
    result.megabytes = max(0.0, _peak_megabytes() - had)
    return result


def _peak_megabytes(anew: bool = False) -> float:
    """The most resident memory of this process since it was last measured ``anew``."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) / 1024


def _tried(target: Target, result: Fuzzed) -> str:
    """What went wrong, or nothing."""
    at = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, LONGEST_S)
    try:
        target.read()
    except Refused as refused:
        result.refused += 1
        return "" if len(str(refused)) <= 240 and str(refused).isprintable() else "not one line"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        result.slowest = max(result.slowest, time.process_time() - at)
    return ""


def mutated(data: bytes, corpus: list[bytes], numbers: random.Random) -> bytes:
    """One to four random changes."""
    for _ in range(numbers.choice([1, 1, 1, 2, 4])):
        at, end = sorted(numbers.randrange(len(data) + 1) for _ in range(2))
        end = min(end, at + numbers.choice([1, 4, 16, 256, 10**9]))
        kind = numbers.randrange(7)
        if kind == 0 and data:
            place = numbers.randrange(len(data))
            flipped = data[place] ^ 1 << numbers.randrange(8)
            data = data[:place] + bytes([flipped]) + data[place + 1 :]
        elif kind == 1:
            data = data[:at] + numbers.randbytes(end - at if end - at < 300 else 2) + data[end:]
        elif kind == 2:
            data = data[:at]
        elif kind == 3:
            data = data[:at] + data[end:]
        elif kind == 4:
            data = data[:end] + data[at:]
        elif kind == 5:
            other = numbers.choice(corpus)
            start = numbers.randrange(len(other) + 1)
            data = data[:at] + other[start : start + numbers.choice([4, 64, 10**9])] + data[end:]
        else:
            found = list(NUMBER.finditer(data[:100_000]))
            place = numbers.choice(found).span() if found else (at, at)
            data = data[: place[0]] + numbers.choice(NUMBERS) + data[place[1] :]
    return data


@contextmanager
def _little_memory() -> Iterator[None]:
    """At most ``MOST_MEMORY`` of address space more than now, and an error for who hangs."""

    def hang(_number: int, _frame: object) -> None:
        raise TimeoutError(f"more than {LONGEST_S:g} s")

    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MOST_MEMORY
    handler = signal.signal(signal.SIGPROF, hang)
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGPROF, handler)


def in_folder(folder: Path, group: str) -> list[Target]:
    """The targets of ``recordings``, ``pictures`` or our ``own`` files, in a fresh ``folder``."""
    folder.mkdir()
    found = targets(folder)
    recordings = {target.name for target in _recordings(folder)}
    pictures = {target.name for target in found if target.name.startswith(("depth.", "colour."))}
    own = {target.name for target in found} - recordings - pictures
    names = {"recordings": recordings, "pictures": pictures, "own": own}[group]
    return [target for target in found if target.name in names]
