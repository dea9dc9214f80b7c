"""Cross-correlation alone: a known prototype in evidence where it stands anywhere, turned anyhow.

    python studies/offsets.py

The prototype is what four sides show of a thing. Its surface and its free space are correlated with
those of the evidence, over x and y by FFT and over 36 yaws, on voxels twice as large: surface on
surface speaks for a pose, surface in free space against it. The best few poses are moved by least
squares until the evidence's surface lies on the prototype's (signed distance); of those the one is
taken that is off least, in distance and colour. Prints the errors by number of sides seen.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from jaxtyping import Float
from PIL import Image
from results_page import write_between_markers
from scipy.ndimage import (
    binary_dilation,
    binary_erosion,
    distance_transform_edt,
    gaussian_filter,
    map_coordinates,
)
from scipy.optimize import least_squares
from solids import FACING, View, cube, from_above, seen, solid

from protoscene.geometry import Grid, rotation_from_yaw, wrap_angle
from protoscene.synth.things import build_thing

YAWS = 36
BEST = 4
"""Peaks that are refined."""
NEAR = 2.0
"""Voxels; what is farther off counts as this far."""
COLOUR = 4.0
"""Voxels that a colour of full difference is worth."""


@dataclass
class Options:
    """Registers things to a prototype and measures the poses."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    sides: tuple[int, ...] = (4, 1)
    resolution: int = 64
    side_m: float = 1.5
    out: Path = Path("out/studies")
    results: Path | None = None
    """Markdown file whose part about this study is replaced."""


@dataclass(frozen=True, eq=False)
class Prototype:
    """Signed distance (voxels) to what four sides left of a thing, its surface's colours carried
    to all voxels, and its surface and free space at each of 36 yaws on coarse voxels."""

    grid: Grid
    distance: Float[np.ndarray, "z y x"]
    colour: Float[np.ndarray, "3 z y x"]
    surfaces: list[np.ndarray]
    frees: list[np.ndarray]


def coarse(volume: np.ndarray) -> np.ndarray:
    """Whether any of 2³ voxels is."""
    z, y, x = volume.shape
    return volume.reshape(z // 2, 2, y // 2, 2, x // 2, 2).any(axis=(1, 3, 5))


def turned(volume: np.ndarray, yaw: float) -> np.ndarray:
    """A boolean volume turned about the middle, at voxel middles, nearest."""
    n = volume.shape[-1]
    middle = (n - 1) / 2
    at = np.arange(n) - middle
    x, y = np.meshgrid(at, at)
    columns = np.rint(np.cos(yaw) * x + np.sin(yaw) * y + middle).astype(int)
    lines = np.rint(np.cos(yaw) * y - np.sin(yaw) * x + middle).astype(int)
    inside = (columns >= 0) & (columns < n) & (lines >= 0) & (lines < n)
    return np.where(inside, volume[:, lines.clip(0, n - 1), columns.clip(0, n - 1)], False)


def make_prototype(view: View, grid: Grid) -> Prototype:
    surface = view.rgba[3] > 0
    free = view.known & ~surface
    inside = ~free
    distance = np.where(
        inside, 0.5 - distance_transform_edt(inside), distance_transform_edt(free) - 0.5
    )
    nearest = distance_transform_edt(~surface, return_distances=False, return_indices=True)
    yaws = np.arange(YAWS) * 2 * np.pi / YAWS
    coarse_surface, coarse_free = coarse(surface), binary_erosion(~coarse(inside), border_value=1)
    return Prototype(
        grid, gaussian_filter(distance, 0.7), view.rgba[:3][(slice(None), *nearest)],
        [turned(coarse_surface, yaw) for yaw in yaws], [turned(coarse_free, yaw) for yaw in yaws],
    )  # fmt: skip


def correlate(prototype: Prototype, view: View) -> list[np.ndarray]:
    """The best poses (x, y, yaw) in voxels of the evidence and rad, of different yaws."""
    surface = coarse(view.rgba[3] > 0)
    free = binary_erosion(coarse(view.known) & ~surface & ~coarse(~view.known), border_value=0)
    thick = binary_dilation(surface)
    n = surface.shape[-1]
    spectra = [np.fft.rfft2(v.astype(np.float32)) for v in (surface, thick, free)]
    peaks = []
    for i in range(YAWS):
        theirs = (binary_dilation(prototype.surfaces[i]), prototype.surfaces[i], prototype.frees[i])
        thick_p, surface_p, free_p = (np.conj(np.fft.rfft2(v.astype(np.float32))) for v in theirs)
        product = spectra[0] * (thick_p - free_p) + (spectra[1] - spectra[2]) * surface_p
        score = np.fft.irfft2(product.sum(axis=0), s=(n, n))
        y, x = np.unravel_index(score.argmax(), score.shape)
        shift = [2.0 * ((v + n // 2) % n - n // 2) for v in (x, y)]
        peaks.append((float(score[y, x]), np.array([*shift, i * 2 * np.pi / YAWS])))
    values = np.array([value for value, _ in peaks])
    highest = (values >= np.roll(values, 1)) & (values >= np.roll(values, -1))
    order = [i for i in np.argsort(-values) if highest[i]][:BEST]
    return [peaks[i][1] for i in order]


def refine(prototype: Prototype, view: View, starts: list[np.ndarray]) -> np.ndarray:
    """The pose (x, y in voxels, yaw) at which the evidence's surface lies on the prototype's."""
    zyx = np.argwhere(view.rgba[3] > 0)
    colours = view.rgba[:3][(slice(None), *zyx.T)]
    middle = (view.known.shape[-1] - 1) / 2
    points = (zyx[:, ::-1] - middle).astype(np.float64)
    thinned = slice(None, None, max(1, len(points) // 2000))

    def own(pose: np.ndarray, which: slice) -> np.ndarray:
        moved = points[which] - [pose[0], pose[1], 0]
        return (moved @ rotation_from_yaw(pose[2])).T[::-1] + middle

    def off(pose: np.ndarray) -> np.ndarray:
        found = map_coordinates(prototype.distance, own(pose, thinned), order=1, mode="nearest")
        return found + 0.5  # a voxel on the surface has its middle half a voxel inside

    def cost(pose: np.ndarray) -> float:
        at = own(pose, slice(None))
        distance = map_coordinates(prototype.distance, at, order=1, mode="nearest") + 0.5
        theirs = np.stack(
            [map_coordinates(c, at, order=0, mode="nearest") for c in prototype.colour]
        )
        colour = np.abs(theirs - colours).mean(axis=0)
        return float(np.minimum(np.abs(distance), NEAR).mean() + COLOUR * colour.mean())

    fits = [
        least_squares(off, s, x_scale=[1, 1, 0.05], loss="huber", f_scale=0.5, max_nfev=20).x
        for s in starts
    ]
    return fits[int(np.argmin([cost(pose) for pose in fits]))]


def main(options: Options) -> None:
    grid = cube(options.resolution, options.side_m)
    errors: dict[int, list[list[float]]] = {n: [] for n in options.sides}
    seconds, shown = [], []
    for seed in options.seeds:
        random = np.random.default_rng(seed)
        for kind in FACING:
            thing = build_thing(kind, int(random.integers(8)), 0.95)
            sides = np.arange(4) * np.pi / 2 + random.uniform(0, np.pi / 2)
            prototype = make_prototype(seen(solid(thing, grid), sides, random, missing=0), grid)
            for n in options.sides:
                x, y = random.uniform(-0.2, 0.2, 2)
                yaw = random.uniform(-np.pi, np.pi)
                azimuths = random.uniform(0, 2 * np.pi) + np.arange(n) * 2 * np.pi / n
                view = seen(solid(thing, grid, x, y, yaw), azimuths, random)
                begin = time.process_time()
                pose = refine(prototype, view, correlate(prototype, view))
                seconds.append(time.process_time() - begin)
                place = np.hypot(pose[0] - x / grid.voxel_size, pose[1] - y / grid.voxel_size)
                errors[n].append([abs(np.rad2deg(wrap_angle(pose[2] - yaw))), place])
                shown.append(from_above(torch.from_numpy(view.rgba)))
    columns = ("sides seen", "yaw error, °: median", "90 %", "beyond 90°",
               "place, voxels: median", "90 %", "n")  # fmt: skip
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for n, found in errors.items():
        yaw, place = np.array(found).T
        cells = (
            f"{n}", f"{np.median(yaw):.2f}", f"{np.quantile(yaw, 0.9):.2f}",
            f"{(yaw > 90).mean():.3f}", f"{np.median(place):.2f}", f"{np.quantile(place, 0.9):.2f}",
            f"{len(yaw)}",
        )  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    title = f"{len(FACING)} kinds at {options.resolution}³ in {options.side_m} m"
    text = "\n".join([f"{title}; {np.mean(seconds):.2f} CPU s a pose.", "", *rows])
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(shown[: 2 * len(FACING)], axis=1)).save(
        options.out / "offsets.png"
    )
    if options.results:
        write_between_markers(options.results, "offsets", text)


if __name__ == "__main__":
    main(tyro.cli(Options))
