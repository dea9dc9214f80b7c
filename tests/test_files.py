"""Files and folders are complete or absent, and one process writes one output at a time."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from protoscene import files
from protoscene.errors import Failed, Refused
from protoscene.files import (
    OutputLock,
    check_disk_space,
    discard_folder,
    make_folder,
    new_folder,
    prepare_output,
    remove_temporaries,
    write_file,
)

SOURCE = str(Path(files.__file__).parent.parent)


def run_python(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_write_file_puts_the_bytes_and_leaves_nothing_beside(tmp_path: Path) -> None:
    write_file(tmp_path / "a.bin", b"first")
    write_file(tmp_path / "a.bin", b"second")
    assert (tmp_path / "a.bin").read_bytes() == b"second"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_write_file_has_the_mode_of_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_file(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~mask


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda f, data: write(f, bytes(data[:3])))
    write_file(tmp_path / "a", b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_the_names_of_new_folders_are_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr(files, "_sync_folder", flushed.append)
    make_folder(tmp_path / "a/b")
    make_folder(tmp_path / "a/b")  # there is nothing to be done
    assert flushed == [tmp_path, tmp_path / "a"] and (tmp_path / "a/b").is_dir()


def test_a_disk_that_loses_bytes_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "write", lambda f, data: len(data))  # claims to, but does not
    with pytest.raises(Failed, match="other bytes than were written"):
        write_file(tmp_path / "a", b"0123456789")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_an_error_of_the_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space") as found:
        write_file(tmp_path / "a", b"new")
    assert found.value.filename == str(tmp_path / "a")
    with pytest.raises(OSError, match="No space") as found, new_folder(tmp_path / "b") as folder:
        write_file(folder / "c", b"new")
    assert found.value.filename == str(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_an_error_of_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as found, new_folder(tmp_path / "out"):
        (tmp_path / "gone").read_bytes()
    assert found.value.filename == str(tmp_path / "gone")


def test_a_folder_appears_only_when_its_block_ends(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as temporary:
        write_file(temporary / "a", b"a")
        assert not (tmp_path / "out").exists()
        assert temporary.parent == tmp_path
    assert (tmp_path / "out" / "a").read_bytes() == b"a"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_whose_block_raises_is_absent(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "out") as temporary:
        write_file(temporary / "a", b"a")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_appeared_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="exists already"), new_folder(tmp_path / "out"):
        (tmp_path / "out").mkdir()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_prepare_output_refuses_what_exists_or_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    refusals = {
        "file": "exists already",
        "dangling": "exists already",
        ".": "exists already",
        "missing/out": "its parent folder does not exist",
        "file/out": "its parent is not a folder",
        "n" * 201: "not a usable name",
    }
    before = sorted(tmp_path.iterdir())
    for name, problem in refusals.items():
        with pytest.raises(Refused, match=problem):
            prepare_output(tmp_path / name)
    prepare_output(tmp_path / "free")
    assert sorted(tmp_path.iterdir()) == before


def test_prepare_output_refuses_a_parent_that_is_read_only() -> None:
    # Not in tmp_path, which other users cannot reach: root may write anywhere, so it steps down.
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)  # noqa: PTH101
        try:
            if root:
                os.seteuid(65534)
            with pytest.raises(Refused, match="not writable"):
                prepare_output(Path(folder) / "out")
        finally:
            if root:
                os.seteuid(0)
            os.chmod(folder, 0o755)  # noqa: PTH101


def test_check_disk_space_names_both_numbers(tmp_path: Path) -> None:
    check_disk_space(tmp_path / "out", 1)
    with pytest.raises(Refused, match=r"got .* MiB free, expected at least 1048576.0 MiB"):
        check_disk_space(tmp_path / "out", 2**40)


def test_a_second_lock_is_refused_and_names_the_process(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with OutputLock(path), pytest.raises(Refused, match=f"written by process {os.getpid()}"):
        OutputLock(path).__enter__()
    assert list(tmp_path.iterdir()) == []
    with OutputLock(path):  # free again
        pass


def test_a_killed_writer_blocks_nobody_and_its_leavings_are_removed(tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from protoscene.files import OutputLock, new_folder, write_file
with OutputLock(Path(sys.argv[1])), new_folder(Path(sys.argv[1])) as temporary:
    write_file(temporary / "a", b"a")
    os._exit(9)
"""
    path = tmp_path / "out"
    assert run_python(program, path).returncode == 9
    left = {p.name for p in tmp_path.iterdir()}
    assert ".out.lock" in left and len(left) == 2 and not path.exists()
    other = tmp_path / ".other.1.0123abcd.tmp"  # of another output: not ours to remove
    other.mkdir()
    with OutputLock(path), new_folder(path) as temporary:
        write_file(temporary / "a", b"a")
    assert {p.name for p in tmp_path.iterdir()} == {"out", other.name}


def test_of_simultaneous_writers_exactly_one_wins(tmp_path: Path) -> None:
    program = """
import sys, time
from pathlib import Path
from protoscene.errors import Refused
from protoscene.files import OutputLock, new_folder, write_file
path, start = Path(sys.argv[1]), float(sys.argv[2])
time.sleep(max(0, start - time.time()))
try:
    with OutputLock(path), new_folder(path) as temporary:
        write_file(temporary / "a", b"a")
        time.sleep(0.02)
except Refused as error:
    sys.exit("is being written by" not in str(error) and "exists already" not in str(error) or 2)
"""
    for trial in range(3):
        command = [
            sys.executable,
            "-c",
            program,
            str(tmp_path / f"{trial}"),
            str(time.time() + 0.7),
        ]
        environment = {**os.environ, "PYTHONPATH": SOURCE}
        started = [subprocess.Popen(command, env=environment) for _ in range(5)]
        assert sorted(process.wait() for process in started) == [0, 2, 2, 2, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1", "2"]


def test_a_lock_file_that_its_holder_just_removed_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, flock, calls = tmp_path / ".out.lock", fcntl.flock, []

    def late(descriptor: int, operation: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:  # between our open and our flock the holder finishes
            lock.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with OutputLock(tmp_path / "out"):
        assert len(calls) == 2 and lock.read_text() == f"{os.getpid()}\n"


def test_a_folder_is_discarded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_file(tmp_path / name / "file", b"1")
    discard_folder(tmp_path / "one")
    assert [p.name for p in tmp_path.iterdir()] == ["two"]

    def killed(_: Path) -> None:
        raise InterruptedError

    monkeypatch.setattr(files, "_remove", killed)
    with pytest.raises(InterruptedError):
        discard_folder(tmp_path / "two")
    monkeypatch.undo()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".two.") and left.name.endswith(".tmp")
    remove_temporaries(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_temporaries_and_locks_are_removed(tmp_path: Path) -> None:
    kept = {"a", ".hidden", ".a.tmp", ".a.12.tmp", "a.12.0123abcd.tmp", ".lock"}
    for name in (*kept, ".a.12.0123abcd.tmp", ".b.lock"):
        write_file(tmp_path / name, b"")
    remove_temporaries(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == kept


def test_a_forked_child_does_not_hold_its_parents_lock(tmp_path: Path) -> None:
    ready, done = os.pipe(), os.pipe()
    with OutputLock(tmp_path / "out"):
        child = os.fork()
        if child == 0:
            os.write(ready[1], b".")
            os.read(done[0], 1)
            os._exit(0)
        os.read(ready[0], 1)
        # What remains when the parent is killed: nobody removes the file or lets go of the lock.
        holders = [fd.readlink() for fd in Path(f"/proc/{child}/fd").iterdir() if fd.is_symlink()]
    os.write(done[1], b".")
    os.waitpid(child, 0)
    for descriptor in (*ready, *done):
        os.close(descriptor)
    assert not [name for name in map(str, holders) if name.endswith(".lock")]
