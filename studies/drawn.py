"""Held-out pictures of what moves beside the drawings of several scenes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from protoscene.recording import Recording
from protoscene.score_pictures import RenderView

MARGIN, SIDE, TITLE = 4, 200, 14
"""Pixels around what moves, pixels along each cell's longer side, and of a column's title."""


def beside(
    views: Mapping[str, RenderView], heldout: Recording, moving: Collection[int], file: Path,
    n: int = 3,
) -> None:  # fmt: skip
    """Writes a row for each of ``n`` evenly chosen pictures: the part around the mover that has
    most of its pixels, as recorded and as each view draws it, magnified."""
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("recorded", *views)}
    for index in np.linspace(0, len(heldout.frames) - 1, n + 2).round().astype(int)[1:-1]:
        frame, view = heldout.frames[index], heldout.view(int(index))
        with Image.open(
            frame.colour_file.parent.parent / "instances" / f"{frame.colour_file.stem}.png"
        ) as picture:
            ids = np.asarray(picture)
        sizes = {number: int((ids == number + 1).sum()) for number in moving}
        rows, cols = np.nonzero(ids == max(sizes, key=lambda number: sizes[number]) + 1)
        if len(rows) == 0:
            continue
        part = tuple(
            slice(max(int(v.min()) - MARGIN, 0), int(v.max()) + MARGIN) for v in (rows, cols)
        )
        columns["recorded"].append(_cell(view.colour[part]))
        for name, draw in views.items():
            columns[name].append(_cell(draw(view.time, view.camera)[0][part]))
    file.parent.mkdir(parents=True, exist_ok=True)
    strips = [_titled(name, cells) for name, cells in columns.items()]
    Image.fromarray(np.concatenate(strips, axis=1)).save(file, optimize=True)


def _cell(part: np.ndarray) -> np.ndarray:
    """(SIDE, SIDE, 3): magnified without smoothing, on white."""
    times = max(1, SIDE // max(part.shape[:2]))
    large = part.repeat(times, axis=0).repeat(times, axis=1)[:SIDE, :SIDE]
    cell = np.full((SIDE, SIDE, 3), 255, np.uint8)
    cell[: large.shape[0], : large.shape[1]] = large
    return cell


def _titled(name: str, cells: list[np.ndarray]) -> np.ndarray:
    title = Image.new("RGB", (SIDE, TITLE), "white")
    ImageDraw.Draw(title).text((2, 1), name, "black")
    return np.concatenate([np.asarray(title), *cells])
