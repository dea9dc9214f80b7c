"""What moves and what is parked in a real drive, beside DBSCAN above the ground and closest fits.

    python studies/street.py --recording street_lidar --picture docs/street.png

For each labelled thing: the share of its labelled sweeps in which a found box overlaps it from
above (IoU) by .3 and .5, the share of one object among those, whether it is said to move. Labels
are human, in the sensor's frame, and only where a front camera saw: what else is found is judged
by eye in the picture. Box sizes are as found. Labels are read after everything else is done.
"""

from __future__ import annotations

import csv
import resource
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import Float, Int
from PIL import Image, ImageDraw
from results_page import write_between_markers
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from protoscene.boxes import iou_bev
from protoscene.discover import discover
from protoscene.formats import load
from protoscene.geometry import rotation_from_yaw
from protoscene.lidar.ground import Ground, find_ground
from protoscene.recording import Recording
from protoscene.scene import Scene
from protoscene.store import load_scene

REACH_M, NEIGHBOURS = 0.6, 10
"""DBSCAN's radius, and how many points within it make a core point."""
LEAST_HEIGHT_M, MOST_M = 0.4, 15.0
"""Lower or longer clusters are no boxes."""
SCALE, SHOWN = 11, 4
"""Pixels to the metre, and sweeps in the picture."""
COLOURS = ((214, 39, 40), (31, 119, 180), (44, 160, 44), (148, 103, 189), (255, 127, 14),
           (23, 190, 207), (227, 119, 194), (140, 86, 75), (188, 189, 34))  # fmt: skip


@dataclass
class Options:
    """Measures discovery on a labelled drive, and draws it from above."""

    recording: Path
    scene: Path | None = None
    """A scene of that recording; discovered anew where it is left out."""
    picture: Path | None = None
    results: Path | None = None
    """The page whose table is replaced."""


@dataclass
class Box:
    """A found box of one sweep: x y z length width height yaw in the world, whose, moving."""

    row: Float[np.ndarray, "7"]
    owner: int
    moving: bool


def boxes_of(scene: Scene) -> list[list[Box]]:
    """Every object's box at every instant of its track."""
    found: list[list[Box]] = [[] for _ in scene.times]
    for thing in scene.objects:
        for n, instant in enumerate(np.searchsorted(scene.times, thing.track.time)):
            centre, yaw = thing.track.centre[n], thing.track.yaw[n]
            row = np.array([*centre, *np.multiply(thing.dims_m, thing.track.scale[n]), yaw])
            found[instant].append(Box(row, thing.id, thing.moving))
    return found


def read_labels(file: Path, recording: Recording) -> dict[str, dict[int, np.ndarray]]:
    """Boxes in the world by name of the thing and sweep."""
    labels: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    with file.open() as opened:
        for line in csv.DictReader(opened):
            k = int(line["frame"])
            pose = recording.sweeps[k].world_from_sensor
            names = ("x", "y", "z", "length", "width", "height", "yaw")
            box = np.array([float(line[name]) for name in names])
            box[:3] = pose[:3, :3] @ box[:3] + pose[:3, 3]
            box[6] += np.arctan2(pose[1, 0], pose[0, 0])
            labels[f"{line['class']} {line['track_id']}"][k] = box
    return labels


def dbscan(points: Float[np.ndarray, "n 3"]) -> Int[np.ndarray, " n"]:
    """A cluster's number for each point, −1 for noise: core points within reach of each other, and
    what is within reach of a core point."""
    tree = cKDTree(points)
    core = np.flatnonzero(tree.query_ball_point(points, REACH_M, return_length=True) > NEIGHBOURS)
    labels = np.full(len(points), -1)
    if len(core) == 0:
        return labels
    among = cKDTree(points[core])
    a, b = among.query_pairs(REACH_M, output_type="ndarray").T
    links = coo_matrix((np.ones(len(a), dtype=bool), (a, b)), shape=(len(core),) * 2)
    of_core = connected_components(links, directed=False)[1]
    distance, nearest = among.query(points, distance_upper_bound=REACH_M)
    near = np.isfinite(distance)
    labels[near] = of_core[nearest[near]]
    return labels


def closest_fit(points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "7"]:
    """The upright box to whose nearest sides the points are closest, of 90 turns (Zhang 2017)."""
    best, row = -np.inf, np.zeros(7)
    for yaw in np.arange(90) * (np.pi / 180):
        own = points[:, :2] @ rotation_from_yaw(yaw)[:2, :2]
        lower, upper = own.min(axis=0), own.max(axis=0)
        aside = np.minimum(own - lower, upper - own).min(axis=1)
        closeness = float((1 / np.maximum(aside, 0.05)).sum())
        if closeness > best:
            (length, width), middle = (
                upper - lower,
                rotation_from_yaw(yaw)[:2, :2] @ (lower + upper),
            )
            turned = yaw
            if width > length:
                length, width, turned = width, length, yaw + np.pi / 2
            low, high = points[:, 2].min(), points[:, 2].max()
            best = closeness
            row = np.array([*middle / 2, (low + high) / 2, length, width, high - low, turned])
    return row


def baseline(recording: Recording) -> list[list[Box]]:
    """Each sweep for itself: what is above the ground, clustered, boxes around the clusters."""
    found: list[list[Box]] = []
    for k in range(len(recording)):
        points = recording.sweep(k).world_points
        points = points[find_ground(points).stands_on(points)]
        labels = dbscan(points)
        boxes = []
        for n in range(labels.max() + 1):
            own = points[labels == n]
            if len(own) < NEIGHBOURS or np.ptp(own[:, 2]) < LEAST_HEIGHT_M:
                continue
            row = closest_fit(own)
            if row[3] <= MOST_M:
                boxes.append(Box(row, 1000 * k + n, False))
        found.append(boxes)
    return found


def measured(
    found: list[list[Box]], labels: dict[str, dict[int, np.ndarray]], tracked: bool
) -> dict[str, str]:
    """A table's cells: for each labelled thing the shares at .3 and .5, the median IoU, where boxes
    are ``tracked`` one object's share of the sweeps found at .3 and whether that moves; boxes in a
    sweep."""
    cells = {}
    for name, of_sweep in labels.items():
        overlaps, owners = [], []
        for k, label in of_sweep.items():
            rows = np.array([box.row for box in found[k]]).reshape(-1, 7)
            overlap = iou_bev(rows, label[None])[:, 0] if len(rows) else np.zeros(1)
            overlaps.append(overlap.max())
            if overlap.max() >= 0.3:
                box = found[k][int(overlap.argmax())]
                owners.append((box.owner, box.moving))
        hit = [np.mean(np.array(overlaps) >= limit) for limit in (0.3, 0.5)]
        (_, moving), most = Counter(owners).most_common(1)[0] if owners else ((0, False), 0)
        cell = f"{hit[0]:.2f}, {hit[1]:.2f}, {np.median(overlaps):.2f}"
        if tracked:
            kept = most / max(len(owners), 1)
            cell += f", {kept:.2f}, {'moves' if moving else 'stands'}"
        cells[f"{name} ({len(of_sweep)})"] = cell
    counts = [len(boxes) for boxes in found]
    cells["boxes a sweep"] = f"{np.mean(counts):.1f}, at most {max(counts)}"
    return cells


def draw_sweeps(
    recording: Recording,
    found: list[list[Box]],
    labels: dict[str, dict[int, np.ndarray]],
    file: Path,
) -> None:
    """A few sweeps from above, two a row: ground pale, found boxes in colour (thin: parked), labels
    black, the sensor a cross."""
    panels = []
    for k in np.linspace(0, len(recording) - 1, SHOWN).round().astype(int):
        sweep = recording.sweep(int(k))
        world = sweep.world_points
        panels.append(panel(world, find_ground(world), sweep.world_from_sensor[:2, 3], found[k],
                            [of[k] for of in labels.values() if k in of]))  # fmt: skip
    width, height = panels[0].size
    whole = Image.new("RGB", (2 * width + 6, (len(panels) + 1) // 2 * (height + 6) - 6), "grey")
    for n, one in enumerate(panels):
        whole.paste(one, (n % 2 * (width + 6), n // 2 * (height + 6)))
    file.parent.mkdir(parents=True, exist_ok=True)
    whole.save(file, optimize=True)


def panel(
    world: np.ndarray,
    ground: Ground,
    sensor: np.ndarray,
    boxes: list[Box],
    labels: list[np.ndarray],
) -> Image.Image:
    lower, upper = np.array([-18.0, -25.0]), np.array([46.0, 25.0])
    size = ((upper - lower) * SCALE).astype(int)

    def pixel(xy: np.ndarray) -> np.ndarray:
        return np.stack([xy[..., 0] - lower[0], upper[1] - xy[..., 1]], -1) * SCALE

    picture = np.full((size[1], size[0], 3), 255, np.uint8)
    above = ground.stands_on(world)
    for chosen, shade in ((~above, 222), (above, 90)):
        at = pixel(world[chosen, :2]).astype(int)
        at = at[((at >= 0) & (at < size)).all(axis=1)]
        picture[at[:, 1], at[:, 0]] = shade
    image = Image.fromarray(picture)
    pen = ImageDraw.Draw(image)
    signs = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1], [1, 1], [1.3, 0], [1, -1]]) / 2

    def outline(row: np.ndarray) -> list[tuple[float, float]]:
        turned = (signs * row[3:5]) @ rotation_from_yaw(row[6])[:2, :2].T + row[:2]
        return [(float(u), float(v)) for u, v in pixel(turned)]

    for label in labels:
        pen.line(outline(label)[:5], fill=(0, 0, 0), width=1)
    for box in boxes:
        colour = COLOURS[box.owner % len(COLOURS)]
        pen.line(outline(box.row), fill=colour, width=3 if box.moving else 1)
        pen.text(outline(box.row)[0], str(box.owner), fill=colour)
    u, v = pixel(sensor)
    pen.line([(u - 6, v), (u + 6, v)], fill=(0, 0, 0), width=2)
    pen.line([(u, v - 6), (u, v + 6)], fill=(0, 0, 0), width=2)
    return image


def main(options: Options) -> None:
    recording = load(options.recording)
    began = time.process_time()
    scene = load_scene(options.scene) if options.scene else discover(recording)
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    began = time.process_time()
    plain = baseline(recording)
    plain_seconds = time.process_time() - began
    found = boxes_of(scene)
    labels = read_labels(options.recording / "boxes.csv", recording)
    columns = {"discover": measured(found, labels, True)}
    columns["DBSCAN"] = measured(plain, labels, False)
    columns["discover"]["processor time, s"] = "" if options.scene else f"{seconds:.1f}"
    columns["DBSCAN"]["processor time, s"] = f"{plain_seconds:.1f}"
    columns["discover"]["memory at most, GiB"] = "" if options.scene else f"{peak:.2f}"
    columns["DBSCAN"]["memory at most, GiB"] = ""
    lines = [f"| labelled thing (sweeps) | {' | '.join(columns)} |", "|---|---|---|"]
    for row in columns["discover"]:
        lines.append(f"| {row} | {' | '.join(column[row] for column in columns.values())} |")
    table = "\n".join(lines)
    print(table)
    if options.picture is not None:
        draw_sweeps(recording, found, labels, options.picture)
    if options.results is not None:
        write_between_markers(options.results, "street", table)


if __name__ == "__main__":
    main(tyro.cli(Options))
