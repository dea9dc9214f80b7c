"""What safety costs of a discovery: the command as it is beside one without its safeguards.

    python benchmarks/bm_safety.py --results docs/results.md

Both run in one process, in turn. Without: nothing is hashed, flushed, read back or locked, no stage
is kept, no checksum of a picture is looked at, units and conventions are not checked. What can be
told apart is also timed where it is done, the scene's writing as a whole: an upper bound.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import tyro

from protoscene import files, sealed, store
from protoscene.cli import main as command_line
from protoscene.formats import pictures
from protoscene.recording import Recording
from protoscene.stages import Stages
from protoscene.synth import SUITE, write_recording

sys.path.append(str(Path(__file__).resolve().parent.parent / "studies"))
from results_page import write_between_markers

NO_HASH = "0" * 64
discovering = import_module("protoscene.discover")
"""The module, whose name the package gives to the function."""


@dataclass
class Options:
    """Measures what safety costs of a discovery."""

    data: Path = Path("build/safety")
    """Folder of the recording, made if missing (needs the extra ``sim``)."""
    suite: str = "four_cameras"
    instants: int = 24
    rounds: int = 5
    results: Path | None = None
    """A markdown file whose part between the benchmark's markers is replaced by the table."""


@dataclass
class Cost:
    """Seconds of one discovery, and of what of it is safety, by what that is: wall, processor."""

    wall: float = 0.0
    cpu: float = 0.0
    parts: dict[str, tuple[float, float]] = field(default_factory=dict)


@contextlib.contextmanager
def nothing_safe() -> Iterator[None]:
    """Inside, all of it is left out."""
    no_hash = SimpleNamespace(sha256=lambda _: SimpleNamespace(hexdigest=lambda: NO_HASH))
    with contextlib.ExitStack() as patches:
        for target, name, other in (
            (discovering, "require_conventions", lambda _: None),
            (Recording, "sha256", NO_HASH),
            (Stages, "_keep", lambda *_: None),
            (files, "_write_durably", lambda path, data: path.write_bytes(data)),
            (files, "_sync_folder", lambda _: None),
            (files.OutputLock, "__enter__", lambda lock: lock),
            (files.OutputLock, "__exit__", lambda *_: None),
            (sealed, "hashlib", no_hash),
            (pictures, "_verified_png", lambda data, *_: data),
        ):
            patches.enter_context(patch.object(target, name, other))
        yield


@contextlib.contextmanager
def timed() -> Iterator[dict[str, tuple[float, float]]]:
    """Inside, wall and processor seconds are added up by what they are spent on, each call's with
    all that it calls."""
    parts: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    depth = 0

    def clocked(what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def then(*arguments: Any, **options: Any) -> Any:
            nonlocal depth
            depth += 1
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return call(*arguments, **options)
            finally:
                depth -= 1
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                if depth == 0:  # not within another part
                    parts[what] = parts[what][0] + wall, parts[what][1] + cpu

        return then

    hashed = Recording.sha256.fget
    with contextlib.ExitStack() as patches:
        for what, target, name in (
            ("units and conventions", discovering, "require_conventions"),
            ("stages kept", Stages, "_keep"),
            ("the scene written", store, "save_scene"),
            ("locks", files.OutputLock, "__enter__"),
            ("locks", files.OutputLock, "__exit__"),
        ):
            call = clocked(what, getattr(target, name))
            patches.enter_context(patch.object(target, name, call))
        own = property(clocked("hash of the recording", hashed))
        patches.enter_context(patch.object(Recording, "sha256", own))
        yield parts


def discovery(recording: Path, folder: Path, safe: bool) -> Cost:
    """One run of the command."""
    out, cost = folder / "scene", Cost()
    with timed() if safe else nothing_safe() as parts, contextlib.redirect_stderr(io.StringIO()):
        wall, cpu = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            code = command_line(["discover", str(recording), "-o", str(out)])
        cost.wall, cost.cpu = time.perf_counter() - wall, time.process_time() - cpu
    if code:
        raise RuntimeError(f"exit code {code}")
    shutil.rmtree(out)
    cost.parts = dict(parts or {})
    return cost


def markdown(pairs: list[tuple[Cost, Cost]], what: str) -> str:
    """Medians over the rounds; the cost is that of each round's pair."""
    lines = ["| discovery | wall, s | CPU, s |", "|---|---|---|"]
    for name, k in (("with all safeguards", 0), ("without", 1)):
        wall, cpu = (median(getattr(pair[k], unit) for pair in pairs) for unit in ("wall", "cpu"))
        lines.append(f"| {name} | {wall:.2f} | {cpu:.2f} |")
    extra = [median(getattr(a, u) / getattr(b, u) - 1 for a, b in pairs) for u in ("wall", "cpu")]
    lines.append("| cost, by difference | " + " | ".join(f"{e:+.1%}" for e in extra) + " |")
    total = [0.0, 0.0]
    for part in sorted({part for safe, _ in pairs for part in safe.parts}):
        shares = [
            median(safe.parts.get(part, (0, 0))[k] / (safe.wall, safe.cpu)[k] for safe, _ in pairs)
            for k in (0, 1)
        ]
        total = [t + s for t, s in zip(total, shares, strict=True)]
        lines.append(f"| {part} | " + " | ".join(f"{s:.2%}" for s in shares) + " |")
    lines.append("| together, as timed | " + " | ".join(f"{t:.1%}" for t in total) + " |")
    return "\n".join([*lines, "", f"{what}; medians of {len(pairs)} rounds, both in turn."])


def main(options: Options) -> None:
    """Warms up with one run of each, then measures, in turn."""
    if not options.data.exists():
        settings = replace(SUITE[options.suite](3), n_instants=options.instants, n_heldout=0)
        write_recording(settings, options.data)
    pairs = []
    with tempfile.TemporaryDirectory() as place:
        for k in range(options.rounds + 1):
            pair = [
                discovery(options.data / "recording", Path(place), safe) for safe in (True, False)
            ]
            print(f"{pair[0].wall:.2f} and {pair[1].wall:.2f} s", file=sys.stderr, flush=True)
            if k:  # the first is to fill caches
                pairs.append((pair[0], pair[1]))
    text = markdown(pairs, f"`{options.suite}` of {options.instants} instants, 320×240 pixels")
    print(text)
    if options.results:
        write_between_markers(options.results, "bm_safety", text)


if __name__ == "__main__":
    main(tyro.cli(Options))
