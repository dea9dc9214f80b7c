"""A static room is its things, each as `solid` alone would make it on the whole grid."""

from __future__ import annotations

import numpy as np

from protoscene.synth.layout import make_layout
from protoscene.synth.things import Thing


def test_a_room_is_what_solid_makes_of_its_things(study) -> None:
    static_scenes, solids = study("static_scenes"), study("solids")
    settings = static_scenes.room_settings(3, n_things=3)
    room = static_scenes.room(settings, 64)
    layout = make_layout(settings)
    rgba, thing = np.zeros_like(room.rgba), np.zeros_like(room.thing)
    x, y, z = room.grid.origin
    below = round(static_scenes.BELOW_M / room.grid.voxel_size)
    rgba[3, :below] = 1
    rgba[:3, :below] = room.rgba[:3, :below]
    for part in layout.clutter:
        inside = solids.solid(Thing("clutter", (part,), (1, 1, 1), None), room.grid)
        rgba[:, inside[3] > 0] = inside[:, inside[3] > 0]
    for number, actor in enumerate(layout.actors, 1):
        px, py, yaw = actor.poses[0].tolist()
        grid = type(room.grid)(
            (x, y, z - actor.thing.size_m[2] / 2), room.grid.voxel_size, room.grid.shape
        )
        inside = solids.solid(actor.thing, grid, px, py, yaw)
        rgba[:, inside[3] > 0] = inside[:, inside[3] > 0]
        thing[inside[3] > 0] = number
    assert room.thing.max() == 3 and len(room.kinds) == 3
    # Voxels whose middles lie in a face may fall on either side of it.
    assert (room.rgba[3] != rgba[3]).mean() < 1e-4
    assert (room.thing != thing).mean() < 1e-4
    same = (room.rgba[3] > 0) & (rgba[3] > 0)
    assert (np.abs(room.rgba - rgba)[:, same] > 1e-6).mean() < 1e-3
    assert room.rgba[3, :below].all()
    tiles = room.rgba[:3, :below].reshape(3, -1)
    assert {tuple(c) for c in tiles.T.tolist()} == {
        tuple(np.float32(c).tolist()) for c in static_scenes.GROUND
    }
