"""Static rooms parsed into things, beside K-means and DBSCAN on the same points.

    python studies/parse.py                        # rooms 20, 21, 22; things apart and touching
    python studies/parse.py --seeds 0 1 --full     # twice as many instants of twice the pixels

A row per room: foreground ARI and IoU over the observed surface (the points on which the baselines
work too) and over the truth's solid voxels, and how many of the things were found. Posts are no
things of the truth, but who finds one is not wrong. Saves pictures of the rooms and of the things
found under build/parse.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import tyro
from jaxtyping import Bool, Float, Int
from PIL import Image
from results_page import write_between_markers
from scipy import ndimage
from scipy.cluster.vq import kmeans2
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from static_scenes import Room, room, room_settings, seen_from_above

from protoscene.background import estimate_background
from protoscene.formats import load
from protoscene.geometry import Grid, rotation_from_yaw
from protoscene.observe import choose_grid
from protoscene.parse import parse
from protoscene.scene import Scene
from protoscene.standing import floor_of, standing
from protoscene.synth.layout import make_layout
from protoscene.synth.settings import SynthSettings
from protoscene.synth.write import write_recording

LAYOUTS = {"apart": (0.15, None), "touching": (0.0, 0.02)}
"""Least gap (m) between any two things, and within which every thing comes of another."""
NEAR_M = 0.05
"""A point is of the thing whose solid is so near."""
EPS, LEAST = 2.0, 10
"""DBSCAN: reach in voxels of the fused surface, points that make a core."""
FOUND = 0.5
"""Least IoU, on points, of a thing and what was found of it."""


@dataclass
class Options:
    """Parses rooms of both layouts and compares with the truth."""

    seeds: tuple[int, ...] = (20, 21, 22)
    layouts: tuple[str, ...] = ("apart", "touching")
    things: int = 8
    instants: int = 6
    size: int = 128
    """Voxels along the side of a room's truth; twice as many where points are asked for."""
    anew: bool = False
    """Rooms of which the work folder has the figures are parsed again."""
    full: bool = False
    """Twice as many instants, of twice the pixels."""
    work: Path = Path("build/parse")
    results: Path | None = None
    """The page of results to write the table into."""


@dataclass(frozen=True)
class Row:
    """Of one room: (foreground ARI, IoU) on points of each method, of the scene on solid voxels;
    the shares of the things that were found and of the objects that are one or a post; how many
    things there are truly, objects and prototypes."""

    name: str
    parse: tuple[float, float]
    kmeans: tuple[float, float]
    dbscan: tuple[float, float]
    solid: tuple[float, float]
    found: tuple[float, float]
    things: tuple[int, int, int]
    seconds: float


def settings_of(seed: int, layout: str, options: Options) -> SynthSettings:
    """Four cameras that swing around a room of things of six kinds."""
    least, most = LAYOUTS[layout]
    more = 2 if options.full else 1
    return replace(
        room_settings(seed, options.things, min_gap=least), max_gap=most, rig="moving", n_heldout=0,
        n_instants=more * options.instants, width=320 * more, height=240 * more,
    )  # fmt: skip


def in_room(truth: Room, points: Float[np.ndarray, "n 3"]) -> Int[np.ndarray, " n"]:
    """1 + the true thing of each point; 0 for what is no thing; −1 beyond the room's cube."""
    solid = truth.rgba[3] > 0.5
    far, index = ndimage.distance_transform_edt(~solid, return_indices=True)
    cell = np.floor(truth.grid.voxel_from_world(points)).astype(int)[:, ::-1]
    inside = ((cell >= 0) & (cell < truth.grid.shape)).all(axis=1)
    at = tuple(cell.clip(0, np.array(truth.grid.shape) - 1).T)
    thing = truth.thing[tuple(axis[at] for axis in index)]
    near = far[at] * truth.grid.voxel_size <= NEAR_M
    return np.where(inside, np.where(near, thing, 0), -1)


def with_posts(
    settings: SynthSettings, points: Float[np.ndarray, "n 3"], known: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """``known`` with each post as one more thing, beyond the cube too; 0 is nothing, or a wall."""
    labels = known.clip(0)
    for post in make_layout(settings).clutter:
        near = (np.abs(points - post.centre) <= np.array(post.half) + NEAR_M).all(axis=1)
        if post.half[0] == post.half[1]:  # walls are long
            labels[near & (labels == 0)] = labels.max() + 1
    return labels


def found_again(
    known: Int[np.ndarray, " n"], things: int, found: Int[np.ndarray, " n"], objects: int
) -> tuple[float, float]:
    """The share of the first ``things`` of which an object has IoU ``FOUND`` or more, and that of
    the objects that have it with anything."""
    counts = np.zeros((max(known.max(initial=0), things) + 1, objects + 1))
    np.add.at(counts, (known, found), 1)
    either = counts.sum(axis=0) + counts.sum(axis=1)[:, None] - counts
    good = (counts >= FOUND * np.maximum(either, 1))[1:, 1:]
    recall = good[:things].any(axis=1).mean() if things else 1.0
    return float(recall), float(good.any(axis=0).mean() if objects else 1.0)


def explained(
    scene: Scene, points: Float[np.ndarray, "n 3"], reach: float
) -> Int[np.ndarray, " n"]:
    """1 + the object whose prototype is full within ``reach`` (m) of each point, the nearest; 0
    where there is none."""
    best, which = np.full(len(points), reach + 1e-9), np.zeros(len(points), int)
    for number, thing in enumerate(scene.objects):
        centre, yaw, _ = thing.track.pose(scene.times[0])
        volume = scene.prototypes.rgba(thing.prototype)[3].detach().numpy() > 0.5
        voxel = scene.prototypes.voxel_size[thing.prototype]
        volume = np.pad(volume, int(np.ceil(reach / voxel)) + 1)
        nz, ny, nx = volume.shape
        corner = -0.5 * voxel * np.array([nx, ny, nz])
        grid = Grid(tuple(corner.tolist()), voxel, (nz, ny, nx))
        own = (points - centre) @ rotation_from_yaw(yaw)
        cell = np.floor(grid.voxel_from_world(own)).astype(int)[:, ::-1]
        inside = np.flatnonzero(((cell >= 0) & (cell < volume.shape)).all(axis=1))
        far = voxel * ndimage.distance_transform_edt(~volume)[tuple(cell[inside].T)]
        closer = far < best[inside]
        best[inside[closer]], which[inside[closer]] = far[closer], 1 + number
    return which


def adjusted_rand(a: Int[np.ndarray, " n"], b: Int[np.ndarray, " n"]) -> float:
    """(pairs together in both − what chance gives) / (their mean in each − what chance gives)."""
    counts = np.zeros((a.max(initial=0) + 1, b.max(initial=0) + 1))
    np.add.at(counts, (a, b), 1)
    both, one, other, all_of = (
        float((n * (n - 1) / 2).sum())
        for n in (counts, counts.sum(axis=1), counts.sum(axis=0), counts.sum())
    )
    chance = one * other / max(all_of, 1)
    return (both - chance) / max((one + other) / 2 - chance, 1e-9)


def foreground(truth: Int[np.ndarray, " n"], found: Int[np.ndarray, " n"]) -> tuple[float, float]:
    """(adjusted Rand index over what is truly a thing, IoU of what is a thing); 0 is none."""
    things, said = truth > 0, found > 0
    iou = float((things & said).sum() / max((things | said).sum(), 1))
    return adjusted_rand(truth[things], found[things]), iou


def dbscan(points: Float[np.ndarray, "n 3"], reach: float) -> Int[np.ndarray, " n"]:
    """1 + the cluster of each point, 0 for noise: cores have ``LEAST`` points within ``reach``
    (m), cores within reach of each other are one cluster, and so is what a core reaches."""
    tree = cKDTree(points)
    pairs = tree.query_pairs(reach, output_type="ndarray")
    degree = 1 + np.bincount(pairs.ravel(), minlength=len(points))
    core = degree >= LEAST
    linked = pairs[core[pairs].all(axis=1)]
    ones = np.ones(len(linked), bool)
    graph = coo_matrix((ones, linked.T), shape=(len(points),) * 2)
    labels = connected_components(graph, directed=False)[1] + 1
    cores = np.flatnonzero(core)
    far, nearest = cKDTree(points[cores]).query(points)
    return np.where(far <= reach, labels[cores[nearest]], 0)


def one_room(seed: int, layout: str, options: Options) -> Row:
    settings = settings_of(seed, layout, options)
    folder = options.work / f"{layout}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    write_recording(settings, folder)
    recording, truth = load(folder / "recording"), room(settings, options.size)
    start = time.process_time()
    scene = parse(recording)
    seconds = time.process_time() - start
    static = estimate_background(recording, choose_grid(recording))
    surface = standing(recording, static, floor_of(static.surface))
    known = in_room(room(settings, 2 * options.size), surface.points)
    k, said = len(truth.kinds), explained(scene, surface.points, 2 * surface.voxel)
    everything = with_posts(settings, surface.points, known)
    found = found_again(everything, k, said, len(scene.objects))
    points, said, known = surface.points[known >= 0], said[known >= 0], known[known >= 0]
    centres = kmeans2(points, k, minit="++", seed=seed)[1] + 1
    clusters = dbscan(points, EPS * surface.voxel)
    above = truth.grid.axes()[2] > 0
    places = truth.grid.centres()[above].reshape(-1, 3)
    solid = foreground(truth.thing[above].ravel(), explained(scene, places, 0.0))
    picture(truth, scene, folder.with_suffix(".png"))
    return Row(
        f"{layout} {seed}", foreground(known, said), foreground(known, centres),
        foreground(known, clusters), solid, found,
        (k, len(scene.objects), len(scene.prototypes)), seconds,
    )  # fmt: skip


def picture(truth: Room, scene: Scene, path: Path) -> None:
    """The room from above: as it is, its things, and the scene's objects, each in a colour."""
    above = truth.grid.axes()[2] > 0
    found = np.zeros(truth.thing.shape, int)
    places = truth.grid.centres()[above]
    found[above] = explained(scene, places.reshape(-1, 3), 0.0).reshape(places.shape[:3])
    tiles = [seen_from_above(truth.rgba), _coloured(truth.thing), _coloured(found)]
    image = Image.fromarray(np.concatenate(tiles, axis=1))
    image.resize((3 * image.width, 3 * image.height), Image.Resampling.NEAREST).save(path)


def _coloured(labels: Int[np.ndarray, "z y x"]) -> np.ndarray:
    palette = np.random.default_rng(3).uniform(0.15, 0.95, (256, 3))
    rgb = np.moveaxis(palette[labels % 256], -1, 0)
    full: Bool[np.ndarray, "z y x"] = labels > 0
    return seen_from_above(np.concatenate([rgb, full[None]]).astype(np.float32))


def table(rows: Sequence[Row]) -> str:
    head = ("room", "parse", "K-means", "DBSCAN", "parse, solid voxels", "recall · precision",
            "things, objects", "prototypes", "CPU s")  # fmt: skip
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for row in rows:
        true, found, prototypes = row.things
        cells = [row.name, *(f"{a:.2f} · {b:.2f}" for a, b in _pairs(row))]
        cells += [f"{true}, {found}", str(prototypes), f"{row.seconds:.0f}"]
        lines.append(" | ".join(cells))
    if len(rows) > 1:
        pairs = np.array([_pairs(row) for row in rows])
        for name, of_all in (("mean", pairs.mean(axis=0)), ("worst", pairs.min(axis=0))):
            lines.append(" | ".join([name, *(f"{a:.2f} · {b:.2f}" for a, b in of_all), "", "", ""]))
    return "\n".join(f"| {line} |" for line in lines)


def _pairs(row: Row) -> list[tuple[float, float]]:
    return [row.parse, row.kmeans, row.dbscan, row.solid, row.found]


def main(options: Options) -> list[Row]:
    options.work.mkdir(parents=True, exist_ok=True)
    rows = []
    how = f"{options.things}-{options.instants}-{options.size}{'-full' if options.full else ''}"
    for layout in options.layouts:
        for seed in options.seeds:
            kept = options.work / f"{layout}-{seed}-{how}.json"
            if kept.exists() and not options.anew:
                row = msgspec.json.decode(kept.read_bytes(), type=Row)
            else:
                row = one_room(seed, layout, options)
                kept.write_bytes(msgspec.json.encode(row))
            rows.append(row)
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    text = (
        "### Static rooms parsed into things\n\nForeground ARI · foreground IoU; points are the "
        "observed surface above the ground, inside the room's cube. Recall: things of which an "
        f"object has IoU {FOUND:g} on points; precision: objects that have it with a thing or a "
        "post.\n\n" + table(rows)
    )
    print(text)
    if options.results:
        write_between_markers(options.results, "parse", text)
    return rows


if __name__ == "__main__":
    main(tyro.cli(Options))
