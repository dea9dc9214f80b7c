"""The named recordings that the figures are measured on, each a function of the seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from protoscene.synth.settings import SynthSettings

_SUITE: dict[str, dict[str, Any]] = {
    "four_cameras": {},
    "one_camera": {"n_cameras": 1},
    "moving_rig": {"rig": "moving"},
    "one_camera_moving": {"n_cameras": 1, "rig": "moving"},
    "crowd": {
        "n_moving": 6, "n_parked": 4, "min_gap": 0.06, "max_gap": 0.25,
        "motions": ("smooth", "reverse", "smooth"),
    },
    "stop_and_go": {"motions": ("stop_and_go", "smooth")},
    "small": {"size": "small", "area": 3.0, "min_gap": 0.1},
    "jumps": {"n_moving": 3, "n_parked": 2, "motions": ("jumps",)},
    "reversing_sideways": {"motions": ("reverse", "sideways")},
}  # fmt: skip


def _named(number: int, changes: dict[str, Any], seed: int) -> SynthSettings:
    # Another thousand per name, so that the same seed does not repeat the same kinds and places.
    return SynthSettings(seed=1000 * number + seed, **changes)


SUITE: dict[str, Callable[[int], SynthSettings]] = {
    name: partial(_named, number, changes) for number, (name, changes) in enumerate(_SUITE.items())
}
"""24 instants of 320×240 pixels, with 4 cameras where the name does not say otherwise."""

TINY = SynthSettings(
    n_instants=8, n_cameras=2, width=160, height=120, n_moving=2, n_parked=1, n_kinds=2,
    n_heldout=1, motions=("smooth", "sideways"), time_step=0.3,
)  # fmt: skip
"""For tests: made in about a second."""

DEMO = SynthSettings(
    n_instants=16, n_cameras=3, width=224, height=168, n_moving=3, n_parked=2,
    kinds=("car", "robot", "crate"), motions=("smooth", "spin", "reverse"), area=4.0, n_heldout=1,
    noise_scale=0.25, colour_noise=0.0, reach_m=7.0, time_step=0.2,
)  # fmt: skip
"""The recording that ``demo`` discovers."""

NAMED: dict[str, Callable[[int], SynthSettings]] = {
    **SUITE,
    "tiny": lambda seed: replace(TINY, seed=seed),
    "demo": lambda seed: replace(DEMO, seed=seed),
}
"""Every recording that has a name."""
