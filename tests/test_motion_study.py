"""studies/motion_models.py on one track of each style."""

from __future__ import annotations

import numpy as np


def test_the_study_runs_on_one_track_of_each_style(study):
    motion_models = study("motion_models")
    times = np.arange(12) * 0.15
    yaw = 2.5 + 0.9 * times
    poses = np.column_stack([1.5 * np.sin(yaw), -1.5 * np.cos(yaw), yaw])
    jumping = poses + [2.0, 1.0, 0.5] * (times > 0.9)[:, None]
    rng = np.random.default_rng(1)
    tracks = [motion_models.disturbed(rng, "smooth", times, poses)]
    tracks += [motion_models.disturbed(rng, "jump once", times, jumping)]
    table = motion_models.models_table(tracks)
    assert len(table) == 3 + len(motion_models.MODELS)
    assert motion_models.breaks_table(tracks)[-2].startswith("| jump once | 1 | 1 | 1 | 0 |")
    assert motion_models.draw(tracks, side=40).size == (200, 70)
