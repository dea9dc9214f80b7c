"""What a synthetic recording is made of, checked when it is written down."""

from __future__ import annotations

import math
from dataclasses import dataclass

from protoscene.errors import Refused
from protoscene.synth.things import KINDS

MOTIONS = ("smooth", "reverse", "sideways", "spin", "stop_and_go", "jumps")
RIGS = ("fixed", "moving")
SIZES = ("large", "small")


@dataclass(frozen=True)
class SynthSettings:
    """A recording to be made. Raises Refused naming the field whose value cannot be had.

    ``time_step`` seconds between instants; ``fov_deg`` horizontal; farther than ``reach_m`` no
    depth returns; ``noise_scale`` multiplies the axial noise of 0.0012 + 0.0019·(z − 0.4)² m;
    ``colour_noise`` is the standard deviation in steps of 1/255. ``kinds`` empty means ``n_kinds``
    drawn by the seed, ``schemes`` (a number of SCHEMES per kind) empty that it draws each kind's
    colours; ``motions`` are shared out over the movers; ``min_gap`` metres between any two things;
    ``max_gap`` metres, if given, within which every thing comes of another; ``area`` side in metres
    of the square in which things stand.
    """

    seed: int = 0
    n_instants: int = 24
    time_step: float = 0.15
    n_cameras: int = 4
    n_heldout: int = 2
    width: int = 320
    height: int = 240
    fov_deg: float = 75.0
    rig: str = "fixed"
    reach_m: float = 10.0
    noise: bool = True
    noise_scale: float = 0.5
    colour_noise: float = 2.0
    n_moving: int = 4
    n_parked: int = 3
    n_kinds: int = 3
    kinds: tuple[str, ...] = ()
    schemes: tuple[int, ...] = ()
    motions: tuple[str, ...] = ("smooth", "reverse", "sideways", "spin")
    size: str = "large"
    min_gap: float = 0.15
    max_gap: float | None = None
    area: float = 4.6

    def __post_init__(self) -> None:
        bounds = {
            "seed": (0, 2**32 - 1),
            "n_instants": (2, 9999),
            "n_cameras": (1, 16),
            "n_heldout": (0, 8),
            "width": (16, 2048),
            "height": (16, 2048),
            "n_moving": (0, 40),
            "n_parked": (0, 40),
            "n_kinds": (1, len(KINDS)),
            "time_step": (1e-3, 10.0),
            "fov_deg": (10.0, 150.0),
            "reach_m": (0.5, 39.0),
            "noise_scale": (0.0, 100.0),
            "colour_noise": (0.0, 100.0),
            "min_gap": (0.0, 10.0),
            "area": (1.0, 5.0),
        }
        for field, (low, high) in bounds.items():
            value = getattr(self, field)
            if not (math.isfinite(value) and low <= value <= high):
                raise _refused(field, "out of range", value, f"{low} to {high}")
        for field, known in (("rig", RIGS), ("size", SIZES)):
            if getattr(self, field) not in known:
                raise _refused(field, "unknown", getattr(self, field), " or ".join(known))
        choices: dict[str, tuple[str, ...]] = {"motions": MOTIONS, "kinds": KINDS}
        for field, words in choices.items():
            for value in getattr(self, field):
                if value not in words:
                    raise _refused(field, "unknown", value, ", ".join(words))
        if self.schemes and len(self.schemes) != len(self.kinds):
            raise _refused("schemes", "not one per kind", len(self.schemes), f"{len(self.kinds)}")
        if self.n_moving and not self.motions:
            raise _refused("motions", "movers need at least one", (), ", ".join(MOTIONS))
        if self.max_gap is not None and not self.min_gap < self.max_gap:
            raise _refused("max_gap", "too small", self.max_gap, f"more than {self.min_gap}")

    @property
    def times(self) -> tuple[float, ...]:
        """Seconds of each instant, rounded to microseconds so that they print exactly."""
        return tuple(round(i * self.time_step, 6) for i in range(self.n_instants))


def _refused(field: str, problem: str, got: object, expected: str) -> Refused:
    return Refused("synth", field, problem, got=got, expected=expected)
