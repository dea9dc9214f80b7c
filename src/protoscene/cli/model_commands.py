"""The commands that make a model and use it: ``learn`` and ``detect``."""

from __future__ import annotations

import math
import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from protoscene.cli.options import Number, Reading, RecordingFolder, Switch, shown_as
from protoscene.cli.results import say_detections, say_result
from protoscene.cli.terminal import complain, progress
from protoscene.cli.unfinished import remove_work, work_for, work_of
from protoscene.errors import Refused
from protoscene.files import OutputLock

if TYPE_CHECKING:
    from protoscene.learn import Learning
    from protoscene.model import Model
    from protoscene.recording import Recording


@dataclass(kw_only=True)
class Learn(Reading):
    """Learns one dictionary over recordings and a detector of single instants, without labels.

    Every recording is discovered first. What an interrupted run has done is kept in MODEL.work."""

    recordings: Annotated[
        Positional[tuple[Path, ...]], arg(metavar="RECORDING...", help_behavior_hint="")
    ]
    """Folders of the recordings."""
    output: Annotated[Path, shown_as("MODEL", "(required)", short="-o")]
    """Folder of the model to be written; must not exist."""
    voxel_size: Annotated[float | None, shown_as("M", "(default: from the data)")] = None
    """Side of a voxel in metres, when discovering."""
    seed: int = 0
    """Of whatever is drawn at random."""
    steps: Annotated[Number, shown_as("N", "(default: 2400)")] = None
    """Of training."""
    minutes: Annotated[float | None, shown_as("M")] = None
    """As many steps as fit into so many minutes; discovery comes on top."""
    ray: Annotated[str | None, shown_as("ADDRESS|local")] = None
    """Discover on a ray cluster, or in a process on each core of this machine (needs the extra:
    pip install 'protoscene[farm]')."""
    resume: Switch = False
    """Go on where an interrupted run was; leave a finished model as it is."""

    def run(self) -> None:
        self._check()
        if os.environ.get("RANK", "0") != "0":  # torchrun's others help the first, which writes
            self._learnt([self.load(folder) for folder in self.recordings])
            return
        if self.resume and self.output.exists():
            recordings = [self.load(folder) for folder in self.recordings]
            model = self._finished(recordings)
            remove_work(self.output)  # if it was killed between the last two steps
            complain("note", f"{self.output} is complete already")
        else:
            model = self._saved()
        result = {"model": str(self.output), "recordings": len(self.recordings),
                  "prototypes": len(model.prototypes), "steps": model.made_by["steps"]}  # fmt: skip
        say_result(result, self.json)

    def _check(self) -> None:
        if not self.recordings:
            raise Refused("command line", "learn", "needs RECORDING...")
        if self.steps is not None and self.minutes is not None:
            raise Refused("command line", "--minutes", "cannot be given with --steps")
        for name in ("steps", "minutes", "voxel_size"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                option = f"--{name.replace('_', '-')}"
                raise Refused("command line", option, "is out of range", value, "more than 0")

    def _saved(self) -> Model:
        with (
            OutputLock(self.output) as lock,
            work_for(self.output, self.resume, "scenes/[0-9]*"),
        ):
            from protoscene.model import save_model

            model = self._learnt([self.load(folder) for folder in self.recordings])
            save_model(model, self.output, lock)
        return model

    def _learnt(self, recordings: list[Recording]) -> Model:
        from protoscene.learn import learn

        cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        first = os.environ.get("RANK", "0") == "0"
        with progress() if first else nullcontext(_unseen) as show:
            model, _ = learn(
                recordings, work_of(self.output), self._settings(), self.ray, cores // 2, show
            )
        return model

    def _settings(self) -> Learning:
        from protoscene.learn import Learning

        given = {} if self.steps is None else {"steps": self.steps}
        return Learning(self.voxel_size, self.seed, minutes=self.minutes, **given)

    def _finished(self, recordings: list[Recording]) -> Model:
        """The model that is there, if it is what this run would write."""
        from protoscene import __version__
        from protoscene.distil import hash_of
        from protoscene.model import load_model

        model = load_model(self.output)
        wanted = {"protoscene": __version__, "seed": self.seed,
                  "settings": self._settings().words,
                  "recordings_sha256": hash_of(recordings)}  # fmt: skip
        for field, value in wanted.items():
            if (made := model.made_by.get(field)) != value:
                problem = "exists already, made from another"
                raise Refused(self.output, "output", f"{problem} {field}", made, value)
        return model


def _unseen(_stage: str, _done: int, _total: int) -> None:
    pass


@dataclass(kw_only=True)
class Detect(Reading):
    """Finds a model's things at each instant of a recording by itself, moving or not."""

    model: Annotated[Positional[Path], arg(metavar="MODEL", help_behavior_hint="")]
    """Folder of the model."""
    recording: RecordingFolder
    """Folder of the recording."""
    output: Annotated[Path, shown_as("SCENE", "(required)", short="-o")]
    """Folder of the scene to be written; must not exist."""
    time: Annotated[float | None, shown_as("T", "(default: all)")] = None
    """Only the instant nearest to so many seconds."""

    def run(self) -> None:
        with OutputLock(self.output) as lock:
            from protoscene.detect import detect
            from protoscene.model import load_model
            from protoscene.store import save_scene

            model = load_model(self.model)
            recording = self.load(self.recording)
            with progress() as show:
                scene = detect(model, recording, self.time, show)
            save_scene(scene, self.output, lock)
        say_detections(scene, self.output, self.json)
