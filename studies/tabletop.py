"""The two things of the real tabletop recording beside their photographs, from the found scene.

    python studies/tabletop.py --recording tabletop --out docs/tabletop.png

A row per thing: at the instants at which its surface faces a camera most, the photograph's part
around it and the scene drawn from the same camera, magnified. A scene that was found already
(``--scene``) is taken as it is. Prints how far depth drawn again is from what was recorded, with
and without the finer voxels of what stays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from protoscene.discover import discover
from protoscene.formats import load
from protoscene.geometry import Camera, rotation_from_yaw
from protoscene.layers import draw
from protoscene.recording import Recording
from protoscene.scene import Scene, SceneObject
from protoscene.score_pictures import layered_view, score_pictures
from protoscene.store import load_scene

PAIRS, SIDE, FINER = 3, 240, 3
"""Photographs a row, pixels along a side of each cell, and how many times finer one is drawn."""


@dataclass
class Options:
    """Draws the found things as the cameras saw them."""

    recording: Path
    out: Path = Path("docs/tabletop.png")
    scene: Path | None = None
    """A scene of that recording; discovered anew where it is left out."""
    pictures: int = 6
    """Pictures that are drawn again to compare their depth."""


def window(camera: Camera, thing: SceneObject, time: float) -> tuple[int, int, int, int] | None:
    """left, top, right, bottom (pixels) of a square around the thing; None where it is not whole
    in the picture."""
    centre, yaw, scale = thing.track.pose(time)
    half = np.array(thing.dims_m) * scale / 2
    signs = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), -1).reshape(-1, 3)
    seen = camera.project((signs * half) @ rotation_from_yaw(yaw).T + centre)
    lower, upper = seen[:, :2].min(axis=0), seen[:, :2].max(axis=0)
    reach = 0.6 * float((upper - lower).max())
    left, top = np.floor((lower + upper) / 2 - reach).astype(int)
    side = int(np.ceil(2 * reach))
    inside = left >= 0 and top >= 0 and left + side <= camera.width and top + side <= camera.height
    if not inside or (seen[:, 2] <= 0).any():
        return None
    return int(left), int(top), int(left) + side, int(top) + side


def best_frames(recording: Recording, thing: SceneObject) -> list[int]:
    """The frames that show the thing largest, no two of them of neighbouring instants."""
    sizes = []
    for index, frame in enumerate(recording.frames):
        box = window(frame.camera, thing, frame.time) if thing.track.covers(frame.time) else None
        if box is not None:
            sizes.append((box[2] - box[0], index))
    chosen: list[int] = []
    apart = len(recording.frames) // (3 * PAIRS)
    for _, index in sorted(sizes, reverse=True):
        if all(abs(index - other) > apart for other in chosen):
            chosen.append(index)
    return sorted(chosen[:PAIRS])


def pair(recording: Recording, scene: Scene, thing: SceneObject, index: int) -> np.ndarray:
    """(SIDE, 2 SIDE, 3): the photograph's part and the scene drawn, side by side."""
    view = recording.view(index)
    box = window(view.camera, thing, view.time)
    assert box is not None
    left, top, right, bottom = box
    camera = replace(view.camera, width=right - left, height=bottom - top,
                     cx=view.camera.cx - left, cy=view.camera.cy - top)  # fmt: skip
    colour, _ = draw(scene, view.time, camera.scaled(FINER))
    cells = [view.colour[top:bottom, left:right], np.rint(255 * colour).astype(np.uint8)]
    drawn = [Image.fromarray(c).resize((SIDE, SIDE), Image.Resampling.LANCZOS) for c in cells]
    return np.concatenate([np.asarray(picture) for picture in drawn], axis=1)


def main(options: Options) -> None:
    recording = load(options.recording)
    scene = load_scene(options.scene) if options.scene else discover(recording)
    rows = []
    for thing in scene.objects:
        cells = [pair(recording, scene, thing, k) for k in best_frames(recording, thing)]
        cells += [np.full((SIDE, 2 * SIDE, 3), 255, np.uint8)] * (PAIRS - len(cells))
        rows.append(np.concatenate(cells, axis=1))
    Image.fromarray(np.concatenate(rows)).save(options.out, optimize=True)
    print(f"{options.out}: {len(rows)} things, photograph and drawing side by side")
    print("| what stays | depth error, median, mm | within 5 cm, % |\n|---|---|---|")
    coarse = replace(scene, background=replace(scene.background, detail=()))
    for name, shown in (("on the grid's voxels", coarse), ("on finer voxels", scene)):
        drawn = score_pictures(layered_view(shown), recording, at_most=options.pictures)
        print(
            f"| {name} | {1000 * drawn.depth_median_m:.2f} | {100 * drawn.depth_within_5cm:.1f} |"
        )


if __name__ == "__main__":
    main(tyro.cli(Options))
