"""The command line: ``protoscene COMMAND``. Results go to stdout, everything else to stderr.

Exit codes: 0 done; 2 refused; 3 failed while running; 130 and 143 interrupted; 70 a bug.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from types import FrameType
from typing import Any

from protoscene import __version__
from protoscene.cli.commands import Check, Compose, Discover, Render, Score, View
from protoscene.cli.options import Command
from protoscene.cli.synthetic import Demo, Synth
from protoscene.cli.terminal import complain
from protoscene.errors import Failed, Refused

DESCRIPTION = "Background, objects, tracks and prototypes from a posed RGB-D recording."
COMMANDS: dict[str, Any] = {
    "demo": Demo,
    "check": Check,
    "discover": Discover,
    "compose": Compose,
    "render": Render,
    "score": Score,
    "view": View,
    "synth": Synth,
}


class _Terminated(BaseException):
    """SIGTERM, raised so that everything half-done is taken back."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    with _quiet_surroundings():
        try:
            command = _parsed(given)
            if isinstance(command, int):
                return command
            command.run()
            sys.stdout.flush()
            return 0
        except BrokenPipeError:  # the reader (head, less) has seen enough
            with contextlib.suppress(OSError):  # so that the flush at exit is quiet too
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except BaseException as error:
            code, problem = _outcome(error)
            if "--debug" in given:
                traceback.print_exc()
            complain("error", problem)
            return code


def _outcome(error: BaseException) -> tuple[int, str]:
    """Exit code and message."""
    if isinstance(error, Refused):
        return 2, str(error)
    if isinstance(error, Failed):
        return 3, str(error)
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return 3, f"{place}{error.strerror or error}"
    if isinstance(error, MemoryError):
        return 3, "out of memory; try a larger --voxel-size or a smaller --resolution"
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, _Terminated):
        return 143, "terminated"
    kind = type(error).__name__
    return 70, f"internal error, please report it with the output of --debug: {kind}: {error}"


@contextlib.contextmanager
def _quiet_surroundings() -> Any:
    """SIGTERM unwinds like an exception, and warnings are one line each."""

    def terminate(_signal: int, _frame: FrameType | None) -> None:
        raise _Terminated

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        complain("warning", str(message))

    before = signal.signal(signal.SIGTERM, terminate)
    with warnings.catch_warnings():
        warnings.showwarning = show
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def _parsed(arguments: list[str]) -> Command | int:
    """The command with its options, or the exit code where only help was wanted.

    Raises Refused for a command line that cannot be understood.
    """
    if arguments[:1] == ["--version"]:
        sys.stdout.write(f"protoscene {__version__}\n")
        return 0
    name = arguments[0] if arguments else "nothing"
    if name not in (*COMMANDS, "-h", "--help"):
        close = get_close_matches(name, COMMANDS, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        known = ", ".join(COMMANDS)
        raise Refused("command line", "COMMAND", f"unknown command{hint}", name, known)

    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="protoscene",
                description=DESCRIPTION,
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if not stop.code:
            return 0
    raise _usage_refused(name, said.getvalue())


def _usage_refused(command: str, box: str) -> Refused:
    """tyro's box of advice (a title, then groups of lines between rules, drawn with whatever the
    terminal can) as one refusal: what it says first, and what it thinks was meant."""
    groups: list[list[str]] = [[]]
    for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines():
        text = line.strip(" │╭╮╰╯─") if line.startswith("╭") else line.strip(" │╰╯")
        if text and not re.fullmatch("[─-]+", text):
            groups[-1].append(text)
        if line.startswith("╭") or re.fullmatch("[─-]+", text):
            groups.append([])
    said = [" ".join(" ".join(group).split()) for group in groups if group]
    problem = said[min(1, len(said) - 1)] if said else "cannot be understood"
    for advice in said[2:]:
        if "meant" in advice and (option := re.search(r"--[\w-]+", advice)):
            problem += f"; did you mean {option.group(0)!r}?"
    return Refused("command line", command, problem)
