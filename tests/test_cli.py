"""The command line: exit codes, one line per error, results on stdout, nothing half-written."""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

import protoscene
from cli_runs import SOURCE, run, start
from protoscene import cli
from protoscene.cli import commands, terminal
from protoscene.cli.command_line import COMMANDS
from protoscene.cli.interrupts import Interrupted
from protoscene.errors import Failed, Refused

# Help and usage


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_goes_to_stdout(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    assert out.startswith("usage: protoscene")
    if arguments == ["--help"]:
        assert all(f"• {name} " in out for name in COMMANDS)


def test_the_commands_are_those_that_work() -> None:
    known = "demo check discover parse learn detect compose render score view export edit synth"
    assert " ".join(COMMANDS) == known


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    program = """
import sys
from protoscene.cli import main
code = main(["discover", "--help"])
heavy = {"torch", "numba", "numpy", "PIL", "scipy", "rich"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else code)
"""
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    seconds = []
    for _ in range(3):
        before = cpu_seconds_of_children()
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
        seconds.append(cpu_seconds_of_children() - before)
        assert done.returncode == 0, done.stderr
    assert min(seconds) < 0.3  # of the processor, whatever else the machine does


def cpu_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"protoscene {protoscene.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "command line: COMMAND: is missing (expected demo, check, "),
        (["disvocer"], "COMMAND: unknown command; did you mean 'discover'? (got disvocer, "),
        (["discover"], "command line: discover: needs RECORDING and -o SCENE\n"),
        (["compose", "s", "-o", "v.npz"], "command line: compose: needs --time T\n"),
        (["discover", "r", "-o", "s", "--voxelsize", "1"], "did you mean '--voxel-size'?"),
        (["discover", "r", "-o"], "Missing value for argument '-o/--output'."),
        (["discover", "r", "-o", "s", "--bounds", "1"], "expected --bounds X0 Y0 Z0 X1 Y1 Z1\n"),
        (["discover", "r", "-o", "s", "--voxel-size", "a"], "expected --voxel-size M\n"),
        (["compose", "s", "--time", "x", "-o", "f"], "could not convert string to float: 'x'"),
        (["check", "r", "--format", "tumm"], "command line: check: "),
        (["check", "r", "more"], "command line: check: Unrecognized options: more"),
    ],
)
def test_bad_usage_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("protoscene: error: command line: ") and line in err
    assert err.count("\n") == 1 and len(err) <= 241
    assert not re.search("[─│╭╰]", err)


def test_bad_usage_reads_the_same_on_every_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["discover", "r", "-o", "s", "--voxelsize", "1"]
    said = set()
    for encoding in ("ascii", "utf-8"):
        monkeypatch.setenv("PYTHONIOENCODING", encoding)
        said.add(start(*arguments).communicate(timeout=20))
    assert len(said) == 1 and "did you mean '--voxel-size'?" in said.pop()[1]


# Exit codes


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (Refused("a.json", "fx", "is odd", 1, 2), 2, "a.json: fx: is odd (got 1, expected 2)"),
        (Failed("diverged"), 3, "diverged"),
        (OSError(28, "No space left on device", "out"), 3, "out: No space left on device"),
        (OSError("odd"), 3, "odd"),
        (MemoryError(), 3, "out of memory; try a larger --voxel-size or a smaller --resolution"),
        (Interrupted(signal.SIGINT), 130, "interrupted"),
        (ValueError("a\nb\x1b[0m"), 70, "internal error, please report it with the output of "
         "--debug: ValueError: a\\nb\\x1b[0m"),
        (Refused("f", "g", "x" * 400), 2, "f: g: " + "x" * 119 + "…"),
    ],
)  # fmt: skip
def test_errors_are_one_line_and_have_their_code(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    line: str,
) -> None:
    def fail(_: Any) -> None:
        raise error

    monkeypatch.setattr(commands.Check, "run", fail)
    assert run(capsys, "check", "r") == (code, "", f"protoscene: error: {line}\n")
    got, out, err = run(capsys, "check", "r", "--debug")
    assert (got, out) == (code, "")
    assert "Traceback" in err and err.endswith(f"protoscene: error: {line}\n")


def test_a_warning_is_one_line_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn(_: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("two\nlines", stacklevel=1)

    monkeypatch.setattr(commands.Check, "run", warn)
    assert run(capsys, "check", "r") == (0, "", "protoscene: warning: two\\nlines\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_unwinds_and_nothing_is_left(tmp_path: Path, number: int, code: int) -> None:
    program = """
import sys, time
from pathlib import Path
from protoscene import cli
from protoscene.cli.commands import Check
from protoscene.files import OutputLock, new_folder
def work(_):
    with OutputLock(Path(sys.argv[1])), new_folder(Path(sys.argv[1])):
        print("working", flush=True)
        time.sleep(30)
Check.run = work
sys.exit(cli.main(["check", "r"]))
"""
    command = [sys.executable, "-c", program, str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "working\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
    assert process.returncode == code
    assert err in ("protoscene: error: terminated\n", "protoscene: error: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_a_finaliser_swallows_ends_the_work_all_the_same() -> None:
    program = """
import os, signal, sys
from protoscene import cli
from protoscene.cli.commands import Check
from protoscene.cli.terminal import progress
class Finalised:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass
def work(_):
    sys.unraisablehook = lambda _: print("swallowed", flush=True)
    with progress() as show:
        Finalised()
        show("observe", 0, 2)
        print("went on")
Check.run = work
sys.exit(cli.main(["check", "r"]))
"""
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout) == (143, "swallowed\n")
    assert done.stderr == "protoscene: error: terminated\n"


@pytest.mark.parametrize(
    ("handler", "code", "said"),
    [("SIG_DFL", 129, ("", "protoscene: error: hung up\n")), ("SIG_IGN", 0, ("went on\n", ""))],
)
def test_a_terminal_that_hangs_up_ends_the_work_unless_under_nohup(
    handler: str, code: int, said: tuple[str, str]
) -> None:
    program = f"""
import os, signal, sys
from protoscene import cli
from protoscene.cli.commands import Check
signal.signal(signal.SIGHUP, signal.{handler})
def work(_):
    os.kill(os.getpid(), signal.SIGHUP)
    print("went on")
Check.run = work
sys.exit(cli.main(["check", "r"]))
"""
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (code, *said)


def test_work_ends_as_it_should_where_the_terminal_itself_is_gone() -> None:
    program = """
import sys, time
from protoscene import cli
from protoscene.cli.commands import Check
from protoscene.cli.terminal import progress
def work(_):
    with progress() as show:
        while True:
            show("observe", 0, 2)
            time.sleep(0.02)
Check.run = work
sys.exit(cli.main(["check", "r"]))
"""
    process, terminal = pty.fork()
    if process == 0:
        environment = {**os.environ, "PYTHONPATH": SOURCE}
        os.execve(sys.executable, [sys.executable, "-c", program], environment)
    shown = b""
    while b"observe" not in shown:
        shown += os.read(terminal, 1000)
    os.close(terminal)  # writing to it fails from now on, and SIGHUP comes
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 129


def test_that_nobody_reads_stderr_ends_no_work() -> None:
    program = """
import sys
from protoscene import cli
from protoscene.cli.commands import Check
from protoscene.cli.terminal import complain, progress
def work(_):
    with progress() as show:
        show("observe", 0, 2)
        complain("note", "is not read")
        print("went on")
Check.run = work
sys.exit(cli.main(["check", "r"]))
"""
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=writer, timeout=20
    )
    os.close(writer)
    assert (done.returncode, done.stdout) == (0, b"went on\n")


def test_a_second_signal_ends_the_process_at_once() -> None:
    program = """
import sys, time
from protoscene import cli
from protoscene.cli.commands import Check
def work(_):
    try:
        print("working", flush=True)
        time.sleep(30)
    finally:
        print("clearing up", flush=True)
        time.sleep(30)
Check.run = work
sys.exit(cli.main(["check", "r"]))
"""
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in ("working\n", "clearing up\n"):
            assert process.stdout.readline() == line
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == -signal.SIGINT


def test_torch_is_told_to_wait_without_spinning(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, expected in (("", "PASSIVE"), ("ACTIVE", "ACTIVE")):
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        if given:
            monkeypatch.setenv("OMP_WAIT_POLICY", given)
        assert cli.main(["--version"]) == 0 and os.environ["OMP_WAIT_POLICY"] == expected


def test_a_reader_that_goes_away_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = start("--version", stdout=writing)
    os.close(writing)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_under_stdout_is_said() -> None:
    with Path("/dev/full").open("w") as full:
        process = start("--version", stdout=full)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 3
    assert err == "protoscene: error: No space left on device\n"


# Progress and tables


def test_progress_is_a_bar_on_a_terminal_and_a_line_per_stage_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal.progress() as show:
        for i in range(5):
            show("observe", i, 5)
    assert capsys.readouterr() == ("", "protoscene: observe\n")
    monkeypatch.setattr(terminal, "LINE_SECONDS", 0)  # as if every step took so long
    with terminal.progress() as show:
        for i in range(3):
            show("observe", i, 5)
    lines = ["protoscene: observe", "protoscene: observe 1/5", "protoscene: observe 2/5"]
    assert capsys.readouterr().err.splitlines() == lines
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with terminal.progress() as show:
        show("observe", 0, 5)
        show("observe", 5, 5)
    out, err = capsys.readouterr()
    assert out == "" and "observe" in err and "5/5" in err


def test_a_table_lines_up_and_hides_no_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal.say_table(("name", "n"), [("a", 1.0), ("long\x1b", float("nan"))])
    assert capsys.readouterr().out == "name          n\na         1.000\nlong\\x1b      –\n"
    terminal.say_table(("name", "n"), [])
    assert capsys.readouterr().out == "name  n\n"


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say_json({"a": [1.5, float("nan")], "b": {"c": float("inf")}})
    assert json.loads(capsys.readouterr().out) == {"a": [1.5, None], "b": {"c": None}}


def test_a_terminal_without_unicode_gets_codes() -> None:
    program = "from protoscene.cli.terminal import say; say('2 × 3')"
    environment = {**os.environ, "PYTHONPATH": SOURCE, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
    assert (done.stdout, done.stderr) == (b"2 \\xd7 3\n", b"")
