"""The command line, understood: which command, with which options."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from difflib import get_close_matches
from typing import Any

from protoscene import __version__
from protoscene.cli.commands import Check, Compose, Discover, Render, Score, View
from protoscene.cli.model_commands import Detect, Learn
from protoscene.cli.options import Command
from protoscene.cli.parse_command import Parse
from protoscene.cli.scene_commands import Edit, Export
from protoscene.cli.synthetic import Demo, Synth
from protoscene.errors import Refused

DESCRIPTION = "Background, objects, tracks and prototypes from a posed RGB-D recording."
COMMANDS: dict[str, Any] = {
    "demo": Demo,
    "check": Check,
    "discover": Discover,
    "parse": Parse,
    "learn": Learn,
    "detect": Detect,
    "compose": Compose,
    "render": Render,
    "score": Score,
    "view": View,
    "export": Export,
    "edit": Edit,
    "synth": Synth,
}


def parsed(arguments: list[str]) -> Command | int:
    """The command with its options, or the exit code where only help was wanted.

    Raises Refused for a command line that cannot be understood.
    """
    if arguments[:1] == ["--version"]:
        sys.stdout.write(f"protoscene {__version__}\n")
        return 0
    if not arguments:
        raise Refused("command line", "COMMAND", "is missing", expected=", ".join(COMMANDS))
    name = arguments[0]
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
    box = re.sub(r"\x1b\[[0-9;]*m", "", box)
    groups: list[list[str]] = [[]]
    for line in box.splitlines():
        text = line.strip(" │╭╮╰╯─") if line.startswith("╭") else line.strip(" │╰╯")
        if text and not re.fullmatch("[─-]+", text):
            groups[-1].append(text)
        if line.startswith("╭") or re.fullmatch("[─-]+", text):
            groups.append([])
    said = [" ".join(" ".join(group).split()) for group in groups if group]
    problem = said[min(1, len(said) - 1)] if said else "cannot be understood"
    # Options stand on lines of their own, what they are for is indented further.
    options = re.findall(r"^[│ ] {5}(\S.*?)[ │]*$", box.partition("For full help")[0], re.MULTILINE)
    if problem.startswith("Missing from"):
        problem = "needs " + " and ".join(option.partition(", --")[0] for option in options)
    elif "no type matching" in problem:  # which would be told in types of Python
        problem = "cannot be read, expected " + " and ".join(o for o in options if o[0] == "-")
    for advice in said[2:]:
        if "meant" in advice and (option := re.search(r"--[\w-]+", advice)):
            problem += f"; did you mean {option.group(0)!r}?"
    return Refused("command line", command, problem)
