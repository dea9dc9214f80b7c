"""Background, objects, tracks and presence refined by gradient through ``compose``, in phases.

Variables: the background's rgba, the prototypes' voxels, a centre and a yaw per object and instant
(``Polyline``), and per object a presence in [0, 1]. Each step composes one instant around its
objects (the whole grid where the background changes) and follows the gradient of :mod:`losses`.
Which variables a phase may change is its schedule's choice: ``SETTINGS`` holds only what was
measured to win (docs/log.md); ``ALTERNATING`` and ``JOINT`` are what it was measured against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from protoscene.compose import compose
from protoscene.geometry import wrap_angle
from protoscene.losses import (
    Box,
    Piece,
    evidence_losses,
    ghost_mass,
    overlap_loss,
    presence_prior,
    seen_in,
    smoothness_loss,
    weighted,
)
from protoscene.motion import Polyline, Smoothness
from protoscene.observe import Progress
from protoscene.placements import Placements
from protoscene.prototypes import VoxelPrototypes
from protoscene.start import Thing
from protoscene.volume import Background, Evidence, Volume

LEAST_PRESENCE = 0.1
"""An object of less is dropped from the scene."""
MOST_ROLLBACKS, SMALLER = 3, 0.25
"""How often a phase goes back after a loss that is not finite, and its steps' length then."""
MARGIN = 2
"""Voxels around the objects of an instant that take part."""

BACKGROUND, OBJECTS, TRACKS, PRESENCE = "background", "voxels", "track", "presence"
RATES = {BACKGROUND: 0.03, OBJECTS: 0.03, TRACKS: 0.003, PRESENCE: 0.3}
"""Adam's step: occupancy and colour, metres and radians, log-odds."""


@dataclass(frozen=True)
class Phase:
    """``epochs`` times all instants, changing ``variables`` only. ``solid`` is the presence of a
    sure object in the first and the last epoch: what is less than solid lets others explain too."""

    name: str
    variables: tuple[str, ...]
    epochs: int
    solid: tuple[float, float] = (1.0, 1.0)


USUAL_MOTION = Smoothness(jerk=2.0, yaw_jerk=5.0)
"""What the study of motion models found to serve (m/s³, rad/s³)."""

ALTERNATING = (
    Phase("background", (BACKGROUND,), 2),
    Phase("objects", (OBJECTS,), 2),
    Phase("tracks", (TRACKS,), 2),
    Phase("presence", (PRESENCE,), 4),
    Phase("jointly", (BACKGROUND, OBJECTS, TRACKS, PRESENCE), 2),
)
JOINT = (Phase("jointly", (BACKGROUND, OBJECTS, TRACKS, PRESENCE), 12),)


@dataclass(frozen=True)
class RefineSettings:
    """The schedule, what each loss weighs, and what tracks are expected to do."""

    phases: tuple[Phase, ...] = (Phase("presence", (PRESENCE,), 4),)
    weights: Mapping[str, float] = field(
        default_factory=lambda: {
            "occupied": 1.0, "free": 1.0, "colour": 1.0, "overlap": 1.0, "presence": 0.03,
            "jerk": 1e-3, "yaw_jerk": 1e-3,
        }
    )  # fmt: skip
    smoothness: Smoothness = USUAL_MOTION
    seed: int = 0


SETTINGS = RefineSettings()


@dataclass(frozen=True, eq=False)
class Refined:
    """The objects that stayed, best first as they came, and the background; ``presence`` of every
    object that was given. ``log`` has a record per epoch: phase, epoch, rate, every loss's mean
    over instants; a phase that was given up has "stopped" instead."""

    things: list[Thing]
    background: Background
    presence: Float[np.ndarray, " k"]
    log: list[dict[str, Any]]


def refine(
    things: Sequence[Thing],
    evidence: Sequence[Evidence],
    background: Background,
    settings: RefineSettings = SETTINGS,
    progress: Progress = lambda stage, done, total: None,
) -> Refined:
    """What ``start`` found and the background, refined by the settings' phases; objects whose
    presence falls below ``LEAST_PRESENCE`` are dropped. See :class:`Refinement` for resuming."""
    work = Refinement(things, evidence, background, settings)
    work.run(progress)
    return work.result()


class Refinement:
    """A refinement under way: ``run`` it, ``state`` and ``resume`` it between epochs.

    No step is taken on a loss or gradient that is not finite: variables go back to the start of
    the epoch, with steps a quarter as long, at most three times in a phase; then the refinement
    stops with the last good state.
    """

    def __init__(
        self,
        things: Sequence[Thing],
        evidence: Sequence[Evidence],
        background: Background,
        settings: RefineSettings = SETTINGS,
    ) -> None:
        self.things, self.evidence = list(things), list(evidence)
        self.settings, self.background = settings, background
        self.grid = background.volume.grid
        prototypes = VoxelPrototypes([t.rgba for t in things], [t.voxel_size for t in things])
        self._table, self._sizes = prototypes.table, prototypes.voxel_size
        self._extents = [prototypes.grid(k).size_m for k in range(len(things))]
        self._surface = torch.tensor([_surface(t, self.grid.voxel_size) for t in things])
        self._tracks = [_polyline(t, [e.time for e in evidence]) for t in things]
        self.variables: dict[str, Tensor] = {
            BACKGROUND: background.volume.rgba.clone(),
            OBJECTS: prototypes.voxels.clone(),
            # Log-odds: nothing known, but that of two equal things the first is to stay.
            PRESENCE: -0.05 * torch.arange(len(things)),
        }
        for k, track in enumerate(self._tracks):
            self.variables[f"{TRACKS}.{k}.centre"] = track.centre
            self.variables[f"{TRACKS}.{k}.yaw"] = track.yaw
        self._explained: Bool[np.ndarray, "z y x"] | None = None
        self._moments: dict[str, Tensor] = {}
        self._done = {"phase": 0, "epoch": 0, "steps": 0, "rollbacks": 0, "stopped": 0}
        self.log: list[dict[str, Any]] = []

    @property
    def presence(self) -> Float[np.ndarray, " k"]:
        """Of every object that was given, in [0, 1]."""
        return self.variables[PRESENCE].detach().sigmoid().numpy()

    def run(self, progress: Progress = lambda stage, done, total: None) -> None:
        """Every epoch that is left."""
        total = sum(phase.epochs for phase in self.settings.phases)
        while not self._finished():
            self._epoch(self.settings.phases[self._done["phase"]])
            before = self.settings.phases[: self._done["phase"]]
            progress("refine", sum(p.epochs for p in before) + self._done["epoch"], total)

    def state(self) -> dict[str, Tensor]:
        """Everything that ``resume`` needs, as tensors of their own."""
        counts = {f"done.{name}": torch.tensor(n) for name, n in self._done.items()}
        tensors = {**self.variables, **self._moments}
        return {**{name: t.detach().clone() for name, t in tensors.items()}, **counts}

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a ``state`` of a refinement of the same things, evidence and settings.

        Raises ValueError naming the variable that is missing or of another shape."""
        for name, value in self.variables.items():
            if name not in state or state[name].shape != value.shape:
                got = tuple(state[name].shape) if name in state else None
                raise ValueError(f"state's {name} is {got}, expected {tuple(value.shape)}")
        with torch.no_grad():
            for name, value in self.variables.items():
                value.copy_(state[name])
        self._moments = {name: t.clone() for name, t in state.items() if name.startswith("moment.")}
        self._done = {name: int(state[f"done.{name}"]) for name in self._done}

    def result(self) -> Refined:
        """What was reached so far."""
        rgba = self.variables[BACKGROUND].detach()
        prototypes = self._prototypes()
        things = []
        for k, thing in enumerate(self.things):
            if self.presence[k] >= LEAST_PRESENCE:
                track = self._tracks[k]
                poses = torch.cat([track.centre, track.yaw[:, None]], dim=1).detach().numpy()
                poses[:, 3] = wrap_angle(poses[:, 3])
                own = prototypes.rgba(k).detach().clone(memory_format=torch.contiguous_format)
                things.append(replace(thing, poses=poses, rgba=own))
        changed = replace(self.background, volume=Volume(rgba, self.grid))
        return Refined(things, changed, self.presence, self.log)

    def _finished(self) -> bool:
        nothing = not self.things or not self.evidence
        return nothing or bool(self._done["stopped"]) or self._done["phase"] >= len(
            self.settings.phases
        )  # fmt: skip

    def _epoch(self, phase: Phase) -> None:
        self._explained = None  # another phase may have changed the background
        before = self.state()
        names = [n for n in self.variables if n.split(".")[0] in phase.variables]
        share = self._done["epoch"] / max(phase.epochs - 1, 1)
        solid = phase.solid[0] + share * (phase.solid[1] - phase.solid[0])
        records = []
        for i in self._order():
            for name in names:
                self.variables[name].requires_grad_(True)
            losses = self.losses(i, phase.variables, solid)
            if losses is None:
                continue
            if not self._step(names, losses):
                self._go_back(before, phase)
                return
            records.append({name: float(value.detach()) for name, value in losses.items()})
        means = {n: float(np.mean([r[n] for r in records])) for n in (records or [{}])[0]}
        self.log.append({"phase": phase.name, "epoch": self._done["epoch"],
                         "rate": SMALLER ** self._done["rollbacks"], **means})  # fmt: skip
        self._done["epoch"] += 1
        if self._done["epoch"] >= phase.epochs:
            self._moments = {}
            self._done.update(phase=self._done["phase"] + 1, epoch=0, steps=0, rollbacks=0)

    def _go_back(self, before: Mapping[str, Tensor], phase: Phase) -> None:
        rollbacks = self._done["rollbacks"] + 1
        self.resume(before)
        self._done["rollbacks"] = rollbacks
        if rollbacks > MOST_ROLLBACKS:
            self._done["stopped"] = 1
            self.log.append({"phase": phase.name, "epoch": self._done["epoch"],
                             "stopped": "a loss that is not finite"})  # fmt: skip

    def _order(self) -> list[int]:
        """All instants, in an order of this epoch's own."""
        number = 1000 * self._done["phase"] + self._done["epoch"]
        generator = torch.Generator().manual_seed(1_000_003 * self.settings.seed + number)
        return torch.randperm(len(self.evidence), generator=generator).tolist()

    def _step(self, names: list[str], losses: Mapping[str, Tensor]) -> bool:
        """One step of Adam on ``names``; False, and nothing changed, where it is not finite."""
        total = weighted(losses, self.settings.weights)
        wanted = [self.variables[n] for n in names]
        grads = torch.autograd.grad(total, wanted, allow_unused=True)
        for variable in wanted:
            variable.requires_grad_(False)
        if not all(bool(torch.isfinite(t).all()) for t in (total, *grads) if t is not None):
            return False
        self._done["steps"] += 1
        for name, grad in zip(names, grads, strict=True):
            if grad is not None:
                self._adam(
                    name, grad, RATES[name.split(".")[0]] * SMALLER ** self._done["rollbacks"]
                )
        return True

    def _adam(self, name: str, grad: Tensor, rate: float) -> None:
        first = self._moments.setdefault(f"moment.1.{name}", torch.zeros_like(grad))
        second = self._moments.setdefault(f"moment.2.{name}", torch.zeros_like(grad))
        first.lerp_(grad, 0.1)
        second.lerp_(grad.square(), 0.01)
        t = self._done["steps"]
        step = first / (1 - 0.9**t) / ((second / (1 - 0.99**t)).sqrt() + 1e-12)
        variable = self.variables[name]
        variable.sub_(rate * step)
        if name in (BACKGROUND, OBJECTS):
            variable.clamp_(0, 1)

    def _prototypes(self) -> VoxelPrototypes:
        return VoxelPrototypes.from_voxels(self.variables[OBJECTS], self._table, self._sizes, 4)

    def losses(
        self, i: int, variables: Sequence[str], solid: float = 1.0
    ) -> dict[str, Tensor] | None:
        """What ``variables`` have to do with of instant i's losses: on the whole grid for the
        background, around the instant's objects otherwise; None where there is nothing in it.
        ``solid`` multiplies every presence."""
        whole = BACKGROUND in variables
        rows = [(k, t.instants.index(i)) for k, t in enumerate(self.things) if i in t.instants]
        boxes = {k: box for k, row in rows if (box := self._box(k, row))}
        if not boxes and not whole:
            return None
        box = _around(list(boxes.values())) if not whole else ((0, 0, 0), self.grid.shape)
        placed = self._placements(rows, solid)
        window = (slice(None), *(slice(a, b) for a, b in zip(*box, strict=True)))
        prototypes = self._prototypes()
        canvas = compose(
            prototypes, placed, self.grid.cropped(*box), self.variables[BACKGROUND][window]
        )
        if not whole and self._explained is None:
            self._explained = self._stays()
        seen = seen_in(self.evidence[i], box, None if whole else self._explained)
        pieces = [
            Piece(own, compose(prototypes, placed[n : n + 1], self.grid.cropped(*own)).occupancy)
            for n, (k, _) in enumerate(rows)
            if (own := boxes.get(k))
        ]
        chosen = [k for k, _ in rows]
        return {
            **evidence_losses(canvas, seen),
            **overlap_loss(pieces, seen.n),
            **presence_prior(placed.presence, self._surface[chosen], seen.n),
            **ghost_mass(pieces, seen.free, box[0], seen.n),
            **(
                smoothness_loss(self._tracks, self.settings.smoothness)
                if TRACKS in variables
                else {}
            ),
        }

    def _stays(self) -> Bool[np.ndarray, "z y x"]:
        """Voxels that the background explains, also where its surface passes beside their centre:
        what stands still anyway must not speak for an object."""
        occupancy = self.variables[BACKGROUND].detach()[-1:]
        return (F.max_pool3d(occupancy, 3, stride=1, padding=1)[0] >= 0.5).numpy()

    def _placements(self, rows: list[tuple[int, int]], solid: float) -> Placements:
        tracks = [(self._tracks[k], row) for k, row in rows]
        chosen = [k for k, _ in rows]
        return Placements(
            which=torch.tensor(chosen, dtype=torch.long),
            centre=torch.stack([t.centre[row] for t, row in tracks]).float() if rows else [],
            yaw=torch.stack([t.yaw[row] for t, row in tracks]).float() if rows else [],
            presence=solid * self.variables[PRESENCE][chosen].sigmoid(),
        )

    def _box(self, k: int, row: int) -> Box | None:
        """The voxels that an object may touch; None where that is outside of the grid."""
        track = self._tracks[k]
        centre, yaw = track.centre[row].detach().numpy(), float(track.yaw[row].detach())
        half, cos, sin = self._extents[k] / 2, abs(np.cos(yaw)), abs(np.sin(yaw))
        reach = np.array([cos * half[0] + sin * half[1], sin * half[0] + cos * half[1], half[2]])
        ends = self.grid.voxel_from_world(np.stack([centre - reach, centre + reach]))[:, ::-1]
        first = np.maximum(np.floor(ends[0]).astype(int) - MARGIN, 0)
        last = np.minimum(np.ceil(ends[1]).astype(int) + MARGIN, self.grid.shape)
        return (_triple(first), _triple(last)) if (last > first).all() else None


def _around(boxes: list[Box]) -> Box:
    firsts, lasts = np.array([b[0] for b in boxes]), np.array([b[1] for b in boxes])
    return _triple(firsts.min(axis=0)), _triple(lasts.max(axis=0))


def _triple(values: np.ndarray) -> tuple[int, int, int]:
    z, y, x = (int(v) for v in values)
    return z, y, x


def _surface(thing: Thing, voxel: float) -> float:
    """A box's surface, in voxels."""
    length, width, height = thing.dims / voxel
    return float(2 * (length * width + (length + width) * height))


def _polyline(thing: Thing, times: list[float]) -> Polyline:
    track = Polyline([times[i] for i in thing.instants])
    track.requires_grad_(False)
    track.centre.copy_(torch.from_numpy(thing.poses[:, :3]))
    track.yaw.copy_(torch.from_numpy(np.unwrap(thing.poses[:, 3])))
    return track
