"""A recording in; the scene, a composed volume and a picture from a new viewpoint out.

    python examples/01_discover.py OUT

OUT is a new folder. The recording is the one that comes with protoscene.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import protoscene as ps

out = Path(sys.argv[1])
out.mkdir()

recording = ps.load(Path(ps.__file__).parent / "demo" / "recording")
scene = ps.discover(recording, voxel_size=0.05)
ps.save_scene(scene, out / "scene")
for thing in scene.objects:
    path = np.linalg.norm(np.diff(thing.track.centre, axis=0), axis=1).sum()
    length, width, height = thing.dims_m
    print(f"object {thing.id}: {length:.2f} × {width:.2f} × {height:.2f} m, moved {path:.1f} m")

# The scene between two instants, as a volume of any resolution.
volume = scene.compose(time=1.5, resolution=128)
print(f"{tuple(volume.rgba.shape)} on voxels of {100 * volume.grid.voxel_size:.1f} cm")

# A picture of it, seen from above one of the recording's cameras.
camera = recording.frames[0].camera
view = replace(camera, world_from_camera=ps.look_at(camera.centre + [0, 0, 1.5], (0, 0, 0)))
picture = ps.render(scene.compose(time=1.5), view, scene.background.outside)
Image.fromarray((255 * picture.colour.numpy()).round().astype(np.uint8)).save(out / "above.png")
