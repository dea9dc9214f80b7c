"""Safeguards taken out one at a time: the quick tests must notice each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutation:
    """In ``file`` of the package, ``old`` becomes ``new``; ``tests`` are pytest's arguments."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


FILES, STORE = ("tests/test_files.py",), ("tests/test_store.py", "-k", "flipped or listed")
TRAINING = ("tests/test_training.py", "-k", "finite")
LAYOUT = ("tests/test_layout.py", "-k", "forbidden")
COMMAND_LINE = "tests/test_cli.py"
CORRUPTION, NAMES = ("tests/faults/test_corruption.py",), "tests/test_hostile_names.py"


def inputs(which: str) -> tuple[str, ...]:
    """The bad inputs whose name holds ``which``."""
    return ("tests/faults/test_bad_inputs.py", "-k", which)


MUTATIONS = [
    Mutation(
        "flush to disk", "files.py", "        os.fsync(descriptor)\n    finally:\n        os.close"
        "(descriptor)\n    if", "    finally:\n        os.close(descriptor)\n    if", FILES,
    ),
    Mutation(
        "read back what was written", "files.py", "if path.read_bytes() != data:",
        "if False:", FILES,
    ),
    Mutation("short writes", "files.py", "rest = rest[written:]", "rest = rest[:0]", FILES),
    Mutation(
        "the lock", "files.py", "fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass",
        FILES,
    ),
    Mutation("no overwriting", "files.py", "if os.path.lexists(path):", "if False:", FILES),
    Mutation("room on the disk", "files.py", "if needed > free:", "if False:", FILES),
    Mutation("locks of a fork", "files.py", "    for descriptor in _held:\n        os.close",
             "    for descriptor in ():\n        os.close", FILES),
    Mutation("hash of a volume", "sealed.py",
             "if hashlib.sha256(data).hexdigest() != listed.sha256:", "if False:", STORE),
    Mutation("hash of the JSON", "sealed.py",
             "if not is_own_hash(data, str(entry.sha256)):", "if False:", STORE),
    Mutation("hash of a composed volume", "volume_file.py",
             "if not is_own_hash(data, digits):", "if False:", CORRUPTION),
    Mutation("files that are not listed", "sealed.py",
             "if path.relative_to(folder).as_posix() not in entry.files:", "if False:", STORE),
    Mutation("finite losses", "training.py", "            if not math.isfinite(value):",
             "            if False:", TRAINING),
    Mutation("finite checkpoints", "checkpoints.py",
             "if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):",
             "if False:", TRAINING),
    Mutation("links out of the folder", "formats/paths.py", "    if not inside:", "    if False:",
             inputs("16")),
    Mutation("names with ..", "formats/paths.py", 'elif ".." in name.split("/"):', "elif False:",
             inputs("15")),
    Mutation("control characters in names", "formats/paths.py",
             "elif not all(c.isprintable() for c in name):", "elif False:", inputs("17")),
    Mutation("what is no file", "formats/paths.py", "if not stat.S_ISREG(found.st_mode):",
             "if False:", inputs("folder")),
    Mutation("keys twice", "formats/manifest.py", "if len(table) != len(pairs):", "if False:",
             inputs("06")),
    Mutation("checksums of PNG", "formats/pictures.py",
             'if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):', "if False:",
             inputs("22")),
    Mutation("bombs", "formats/pictures.py", "if header.width * header.height > MAX_PIXELS:",
             "if False:", inputs("29")),
    Mutation("no pickles", "volume_file.py", "allow_pickle=False) as arrays",
             "allow_pickle=True) as arrays", LAYOUT),
    Mutation("escapes on the terminal", "errors.py",
             'c if c.isprintable() else c.encode("unicode_escape").decode()', "c",
             (NAMES, "-k", "terminal")),
    Mutation("escapes on the page", "report/sections.py",
             "return html.escape(printable(str(value)))", "return printable(str(value))",
             (NAMES, "-k", "node")),
    Mutation("names of folders flushed", "files.py",
             "        path.mkdir(exist_ok=True)\n        _sync_folder(path.parent)",
             "        path.mkdir(exist_ok=True)", FILES),
    Mutation("what is resumed is the same run", "checkpoints.py",
             "if then.get(name) != now.get(name):", "if False:", ("tests/test_stages.py",)),
    Mutation("nobody reads stderr", "cli/terminal.py", "with suppress(BrokenPipeError):",
             "with suppress():", (COMMAND_LINE, "-k", "nobody")),
    Mutation("nohup", "cli/interrupts.py", "if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:",
             "if False:", (COMMAND_LINE, "-k", "nohup")),
    Mutation("one signal, one exit code", "cli/interrupts.py", "self.code = 128 + number",
             "self.code = 70", (COMMAND_LINE, "-k", "signal")),
]  # fmt: skip


def survivors(root: Path, folder: Path) -> list[str]:
    """What no test noticed, or what is no longer there to be taken out. ``folder`` is for a copy of
    the package and its tests."""
    copy = folder / "copy"
    for name in ("src", "tests"):
        leave_out = shutil.ignore_patterns("node_modules", ".*")
        shutil.copytree(root / name, copy / name, ignore=leave_out)
    shutil.copy(root / "pyproject.toml", copy)
    found = []
    for mutation in MUTATIONS:
        file = copy / "src" / "protoscene" / mutation.file
        good = file.read_text()
        if good.count(mutation.old) != 1:
            found.append(f"{mutation.name}: {mutation.file} has no such line")
            continue
        file.write_text(good.replace(mutation.old, mutation.new))
        problem = _unnoticed(copy, mutation)
        print(f"{mutation.name}: {problem or 'noticed'}", file=sys.stderr, flush=True)
        if problem:
            found.append(f"{mutation.name}: {problem}")
        file.write_text(good)
    return found


def _unnoticed(copy: Path, mutation: Mutation) -> str:
    """Nothing where the tests fail, as they should."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
    ]
    done = subprocess.run(
        [*command, *mutation.tests],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 1 and "FAILED" in done.stdout:
        return ""
    return f"pytest says {done.returncode}: {done.stdout[-300:]}"
