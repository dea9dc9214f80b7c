"""Options that several commands share, and how they read in ``--help``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from protoscene.recording import Recording


class Command(Protocol):
    def run(self) -> None:
        """Does the command and says its result. Raises Refused or Failed."""


def shown_as(metavar: str, when_left_out: str = "", short: str | None = None) -> Any:
    """How an option reads: its value's name and, in brackets, what happens without it."""
    aliases = None if short is None else [short]
    return arg(metavar=metavar, help_behavior_hint=when_left_out, aliases=aliases)


Switch = Annotated[bool, arg(help_behavior_hint="")]
Number = Annotated[int | None, shown_as("N")]
Layout = Literal["transforms", "tum", "7scenes", "kitti", "mcap"]
Four = tuple[float, float, float, float]
RecordingFolder = Annotated[Positional[Path], arg(metavar="RECORDING", help_behavior_hint="")]
SceneFolder = Annotated[Positional[Path], arg(metavar="SCENE", help_behavior_hint="")]
OutputFolder = Annotated[Path, shown_as("DIR", "(required)", short="-o")]


@dataclass(kw_only=True)
class Common:
    json: Switch = False
    """Print the result as one JSON object."""
    debug: Switch = False
    """Show the traceback of an error."""


@dataclass(kw_only=True)
class Reading(Common):
    """Of commands that read a recording."""

    format: Annotated[Layout | None, shown_as("NAME")] = None
    """Of the recording: transforms, tum, 7scenes, kitti or mcap; recognised when left out."""
    intrinsics: Annotated[Four | None, shown_as("FX FY CX CY")] = None
    """Of the cameras of a tum or 7scenes recording, in pixels."""

    def load(self, folder: Path) -> Recording:
        from protoscene.formats import load

        return load(folder, self.format, self.intrinsics)
