"""The named recordings that the figures are measured on, each a function of the seed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from protoscene.synth.settings import SynthSettings

SUITE: dict[str, Callable[[int], SynthSettings]] = {
    "four_cameras": partial(SynthSettings),
    "one_camera": partial(SynthSettings, n_cameras=1),
    "moving_rig": partial(SynthSettings, rig="moving"),
    "one_camera_moving": partial(SynthSettings, n_cameras=1, rig="moving"),
    "crowd": partial(
        SynthSettings, n_moving=6, n_parked=4, min_gap=0.06, max_gap=0.25, motions=("smooth",)
    ),
    "stop_and_go": partial(SynthSettings, motions=("stop_and_go", "smooth")),
    "small": partial(SynthSettings, size="small", area=3.0, min_gap=0.1),
    "jumps": partial(SynthSettings, n_moving=3, n_parked=2, motions=("jumps",)),
    "reversing_sideways": partial(SynthSettings, motions=("reverse", "sideways")),
}

TINY = SynthSettings(
    n_instants=8, n_cameras=2, width=160, height=120, n_moving=2, n_parked=1, n_kinds=2,
    n_heldout=1, motions=("smooth", "sideways"), time_step=0.3,
)  # fmt: skip
"""For tests: made in about a second."""

DEMO = SynthSettings(
    seed=3, n_instants=16, n_cameras=3, width=240, height=180, n_moving=3, n_parked=2, n_kinds=2,
    n_heldout=1, colour_noise=0.0, time_step=0.2,
)  # fmt: skip
"""The recording that ``demo`` discovers."""
