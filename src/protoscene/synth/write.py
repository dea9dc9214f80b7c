"""Writes a synthetic recording, its held-out views and its truth."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from protoscene.files import OutputLock, new_folder, write_file
from protoscene.geometry import OPENCV_FROM_OPENGL, Camera
from protoscene.synth.cameras import heldout_cameras, recording_cameras
from protoscene.synth.layout import Actor, Layout, make_layout
from protoscene.synth.sensor import millimetres, noisy_colour, noisy_depth
from protoscene.synth.settings import SynthSettings
from protoscene.synth.world import World

Progress = Callable[[str, int, int], None]
"""(stage, done, total), called as work goes on."""

VISIBLE_PIXELS = 30
"""Summed over the recording's cameras at one instant; fewer count as not visible."""
GRID = {"origin": [-3.2, -3.2, -0.1], "voxel_size": 0.05, "shape": [32, 128, 128]}


def write_recording(
    settings: SynthSettings, directory: str | Path, progress: Progress | None = None
) -> None:
    """Writes ``directory``/recording (noisy RGB-D, ``transforms`` layout), /heldout (other views,
    noiseless, with instances/NAME.png = object id + 1) and /truth.json.

    The folder appears complete or not at all; ``progress(stage, done, total)`` is called as the
    work goes on. Raises Refused where the folder exists or cannot be written, where MuJoCo or GL
    is missing, or where there is no room for the things.
    """
    directory = Path(directory)
    with OutputLock(directory), new_folder(directory) as folder:
        layout = make_layout(settings)
        _write_all(settings, layout, folder, progress or (lambda stage, done, total: None))


def _write_all(settings: SynthSettings, layout: Layout, folder: Path, progress: Progress) -> None:
    cameras = recording_cameras(settings)
    n_actors = len(layout.actors)
    with World(layout, settings.width, settings.height) as world:
        seen = _write_views(settings, world, cameras, folder / "recording", n_actors, progress)
        if settings.n_heldout:
            heldout = heldout_cameras(settings, cameras)
            views = [[camera] * settings.n_instants for camera in heldout]
            _write_heldout(settings, world, views, folder / "heldout", progress)
    truth = _truth(settings, layout, seen)
    _write_json(folder / "truth.json", truth)


def _drawn(
    settings: SynthSettings,
    world: World,
    cameras: list[list[Camera]],
    progress: Callable[[int, int], None],
) -> Iterator[tuple[int, int, np.ndarray, np.ndarray, np.ndarray]]:
    """(instant, camera, colour, depth, actors) of every picture, without noise."""
    for i in range(settings.n_instants):
        world.at(i)
        for c, views in enumerate(cameras):
            colour, depth, actors = world.picture(views[i])
            depth[depth > settings.reach_m] = 0.0
            yield i, c, colour, depth, actors
        progress(i + 1, settings.n_instants)


def _write_views(
    settings: SynthSettings,
    world: World,
    cameras: list[list[Camera]],
    folder: Path,
    n_actors: int,
    progress: Progress,
) -> np.ndarray:
    """Writes every camera's pictures; returns (instant, actor) counts of pixels that saw it."""
    seen = np.zeros((settings.n_instants, n_actors), int)
    frames = []
    show = partial(progress, "draw recording")
    for i, c, colour, depth, actors in _drawn(settings, world, cameras, show):
        seen[i] += np.bincount(actors[actors >= 0], minlength=n_actors)
        if settings.noise:
            rng = np.random.default_rng([settings.seed, 2000, i, c])
            depth = noisy_depth(depth, settings.noise_scale, rng)
            colour = noisy_colour(colour, settings.colour_noise, rng)
        name, time = f"{c:02d}", settings.times[i]
        frames.append(_write_frame(folder, i, name, time, cameras[c][i], colour, depth))
    _write_manifest(folder, cameras[0][0], frames)
    return seen


def _write_heldout(
    settings: SynthSettings,
    world: World,
    cameras: list[list[Camera]],
    folder: Path,
    progress: Progress,
) -> None:
    frames = []
    show = partial(progress, "draw held-out")
    for i, c, colour, depth, actors in _drawn(settings, world, cameras, show):
        name, time = f"h{c}", settings.times[i]
        frames.append(_write_frame(folder, i, name, time, cameras[c][i], colour, depth))
        _write_png(folder / "instances" / f"{name}_{i:04d}.png", (actors + 1).astype(np.uint16))
    _write_manifest(folder, cameras[0][0], frames)


def _write_frame(
    folder: Path,
    i: int,
    camera_name: str,
    time: float,
    camera: Camera,
    colour: np.ndarray,
    depth: np.ndarray,
) -> dict[str, object]:
    name = f"{camera_name}_{i:04d}.png"
    _write_png(folder / "rgb" / name, colour)
    _write_png(folder / "depth" / name, millimetres(depth))
    return {
        "file_path": f"rgb/{name}",
        "depth_file_path": f"depth/{name}",
        "time": time,
        "camera": camera_name,
        "transform_matrix": (camera.world_from_camera @ OPENCV_FROM_OPENGL).tolist(),
    }


def _write_manifest(folder: Path, camera: Camera, frames: Sequence[dict[str, object]]) -> None:
    manifest = {
        "camera_model": "PINHOLE",
        "w": camera.width,
        "h": camera.height,
        "fl_x": camera.fx,
        "fl_y": camera.fy,
        "cx": camera.cx,
        "cy": camera.cy,
        "depth_unit_scale_factor": 0.001,
        "frames": frames,
    }
    _write_json(folder / "transforms.json", manifest)


def _write_png(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "PNG", compress_level=1)
    write_file(path, encoded.getvalue())


def _write_json(path: Path, content: dict[str, object]) -> None:
    write_file(path, (json.dumps(content, indent=1) + "\n").encode())


def _truth(settings: SynthSettings, layout: Layout, seen: np.ndarray) -> dict[str, object]:
    truth: dict[str, object] = {
        "format": "protoscene-truth",
        "version": 1,
        "times": list(settings.times),
        "grid": GRID,
        "prototypes": [
            {"id": k, "kind": t.kind, "size_m": list(t.size_m), "symmetry": t.symmetry}
            for k, t in enumerate(layout.things)
        ],
        "objects": [
            _truth_object(settings, n, actor, seen[:, n]) for n, actor in enumerate(layout.actors)
        ],
    }
    if settings.n_heldout:
        truth["heldout"] = "heldout/transforms.json"
    return truth


def _truth_object(
    settings: SynthSettings, n: int, actor: Actor, pixels: np.ndarray
) -> dict[str, object]:
    height = actor.thing.size_m[2]
    return {
        "id": n,
        "prototype": actor.prototype,
        "kind": actor.thing.kind,
        "score": 1.0,
        "moving": actor.moving,
        "dims_m": list(actor.thing.size_m),
        "track": {
            "time": list(settings.times),
            "centre_m": [[float(x), float(y), height / 2] for x, y, _ in actor.poses],
            "yaw_rad": [float(yaw) for yaw in actor.poses[:, 2]],
            "scale": [1.0] * settings.n_instants,
            "visible": [bool(v) for v in pixels >= VISIBLE_PIXELS],
            "visible_pixels": [int(v) for v in pixels],
        },
    }
