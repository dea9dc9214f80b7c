"""Do depths and poses belong together? Units and axes, judged by what two pictures say of a place.

A point that one picture saw must lie where another one sees its surface. That is tried with depths
and poses as they are given, and as they would be after the mistakes that people make: millimetres
for metres, OpenGL axes for OpenCV axes, a pose for its inverse, a mirrored picture. Nothing is ever
changed: a recording that fits much better otherwise is refused, with what would make it fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage

from protoscene.errors import Refused
from protoscene.geometry import rigid_inverse
from protoscene.recording import Frame, Recording, View
from protoscene.sweep_conventions import require_sweep_conventions

SCALES = (1.0, 1e-3, 1e-2, 1e-1, 1 / 5, 1 / 5000, 5.0, 1e1, 1e2, 1e3, 5e3)
"""What depths may have to be multiplied with: metres, centi- and millimetres and tenths of them for
each other, and TUM's fifths of a millimetre."""
AXES = {
    (1.0, 1.0, 1.0): "",
    (1.0, -1.0, -1.0): "axes y z reversed (OpenGL/OpenCV)",
    (-1.0, 1.0, 1.0): "left and right mirrored",
    (1.0, -1.0, 1.0): "top and bottom mirrored",
}
"""Signs of a camera's own axes x y z, and in words."""
BETTER_SCALE, BETTER_CONVENTION = 5.0, 2.0
"""How many times closer depths must be for another unit, or another convention."""
AGREE = 0.05
"""Two depths agree that differ by less than this share."""
LEAST_AGREEING, MOST_AGAINST = 100, 0.4
"""Samples that must agree, and how much may be against, for what is suggested."""
FEWER_AGAINST, SURPLUS_AGAINST = 3.0, 25
"""Or how many times less must be against it, and so many samples, ..."""
LEAST_PLACES = 3
"""... at so many places of cameras: two badly calibrated ones may fit a little better mirrored."""
FLOOR = 0.003
"""No difference is taken for smaller than this: sensors and the width of a pixel are no better."""
CLOSE = 0.02
"""Depths that differ by less than this are no reason to refuse."""
MOST_PIXELS, MOST_VIEWS = 4_000_000, 16
"""Decoded at most, in all."""
PAIRS, SAMPLES = 120, 128
"""Pairs of pictures at most, and pixels of each."""
MOVED, TURNED = 0.02, np.deg2rad(1.0)
"""Pictures are no pair whose cameras are apart by less of the longest distance, and turned less."""
GAPS = (16, 4, 1)
"""Instants from each of four places in the recording to others that are looked at."""


@dataclass(frozen=True)
class Reading:
    """How depths and poses might have to be read: depths times ``scale``, poses ``inverted``
    (camera_from_world given for world_from_camera), the camera's own ``axes`` with these signs."""

    scale: float = 1.0
    inverted: bool = False
    axes: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def words(self) -> str:
        parts = [f"depths × {self.scale:g} or translations × {1 / self.scale:g}"]
        parts = parts if self.scale != 1 else []
        parts += ["poses inverted"] if self.inverted else []
        return ", ".join([*parts, AXES[self.axes]] if AXES[self.axes] else parts)


AS_GIVEN = Reading()
READINGS = tuple(
    Reading(scale, inverted, axes) for inverted, axes, scale in product((False, True), AXES, SCALES)
)


@dataclass(frozen=True)
class Fit:
    """How well the pictures agree in one reading: ``off`` is the relative difference of depths
    that half as many samples stay below as agree in the best reading (1: fewer do); ``agreeing``
    samples, and those ``against``: the second picture saw through their place. ``places`` of
    cameras were compared."""

    off: float
    agreeing: int
    against: int
    places: int

    @property
    def contradiction(self) -> float:
        """The share that is against, of what is not hidden behind something."""
        return self.against / max(self.agreeing + self.against, 1)


def require_conventions(recording: Recording) -> None:
    """Raises Refused where depths and poses fit clearly better in another reading: 5 times with
    another scale, 2 times with another convention. Silent where nothing can be said: one camera
    that stands still, pictures that do not overlap. LiDAR sweeps are judged by
    :mod:`protoscene.sweep_conventions`."""
    if recording.sweeps:
        require_sweep_conventions(recording)
        return
    fits = fitted(recording)
    best = better_reading(fits)
    if best is not None:
        given, other = fits[AS_GIVEN], fits[best]
        problem = f"the pictures only agree with {best.words}"
        got, expected = (
            f"{100 * f.off:.1f} % off, {f.contradiction:.0%} against" for f in (given, other)
        )
        field = "poses" if best.scale == 1 else "depth"
        raise Refused(recording.source, field, problem, got, expected)


def better_reading(fits: dict[Reading, Fit]) -> Reading | None:
    """The reading that fits best, if it fits clearly better than what is given: depths are closer,
    or, as under mirrored poses a floor stays a floor, much less is against it."""
    off = {r: max(f.off, FLOOR) for r, f in fits.items()}
    possible = [
        r
        for r, f in fits.items()
        if f.agreeing >= LEAST_AGREEING and f.contradiction <= MOST_AGAINST
    ]
    if not possible:
        return None
    least = min(off[r] for r in possible)
    best = min((r for r in possible if off[r] <= 1.5 * least), key=lambda r: fits[r].contradiction)
    given, other = fits[AS_GIVEN], fits[best]
    times = BETTER_CONVENTION if best.scale == 1 else BETTER_SCALE
    closer = given.off >= max(CLOSE, times * off[best])
    truer = (
        other.off <= CLOSE
        and other.places >= LEAST_PLACES
        and given.contradiction >= FEWER_AGAINST * other.contradiction
        and given.against >= other.against + SURPLUS_AGAINST
    )
    return best if closer or truer else None


def fitted(recording: Recording) -> dict[Reading, Fit]:
    """How well the pictures agree in every reading; empty where no two of them can be compared."""
    chosen = _chosen(recording)
    pairs = _pairs([recording.frames[i] for i in chosen])
    views = {v: recording.view(chosen[v]) for v in np.unique(pairs).tolist()}
    views = {v: view for v, view in views.items() if np.count_nonzero(view.depth) >= SAMPLES}
    pairs = pairs[np.isin(pairs, list(views)).all(axis=1)]
    if len(pairs) == 0:
        return {}
    samples = _Samples.of(views, pairs)
    places = len({view.camera.world_from_camera.tobytes() for view in views.values()})
    compared = {reading: _compared(samples, reading) for reading in READINGS}
    agreeing = {r: int(np.searchsorted(off, AGREE)) for r, (off, _) in compared.items()}
    half = max(agreeing.values()) // 2
    return {
        r: Fit(float(off[half]) if half < len(off) else 1.0, agreeing[r], against, places)
        for r, (off, against) in compared.items()
    }


def _chosen(recording: Recording) -> list[int]:
    """Indices into ``frames``: all views of instants at four places, and some time from there."""
    if not recording.frames:
        return []
    pixels = max(f.camera.width * f.camera.height for f in recording.frames)
    most = int(np.clip(MOST_PIXELS // pixels, 6, MOST_VIEWS))
    n = len(recording)
    places = [round(k * (n - 1) / 3) for k in range(4)]
    from_there = [p + gap if p + gap < n else max(p - gap, 0) for gap in GAPS for p in places]
    frames: list[int] = []
    for instant in dict.fromkeys([*places, *from_there]):
        own = recording.frames_at(instant)
        if frames and len(frames) + len(own) > most:
            break
        frames += own[:: -(-len(own) // most)]
    return frames


def _pairs(frames: list[Frame]) -> Int[np.ndarray, "p 2"]:
    """Views whose cameras are apart, both ways round; those of one instant, between which nothing
    moved, come first."""
    if not frames:
        return np.empty((0, 2), dtype=int)
    poses = np.stack([f.camera.world_from_camera for f in frames])
    a, b = np.nonzero(~np.eye(len(frames), dtype=bool))
    distance = np.linalg.norm(poses[a, :3, 3] - poses[b, :3, 3], axis=1)
    trace = np.einsum("pij,pij->p", poses[a, :3, :3], poses[b, :3, :3])
    turn = np.arccos(np.clip((trace - 1) / 2, -1, 1))
    apart = (distance > MOVED * distance.max(initial=1e-9)) | (turn > TURNED)
    pairs = np.random.default_rng(0).permutation(np.stack([a, b], axis=1)[apart])
    times = np.array([f.time for f in frames])[pairs]
    return pairs[np.argsort(times[:, 0] != times[:, 1], kind="stable")][:PAIRS]


@dataclass(frozen=True, eq=False)
class _Samples:
    """Pixels of the pairs' first views, and the second views in which they are looked for.

    ``points`` are in the first camera's frame; ``pinhole`` is fx fy cx cy width height of the
    second, whose depths begin at ``start`` of ``depth``; ``least`` is the least depth of the 3×3
    pixels around. ``second_from_first`` with poses as given, and inverted."""

    points: Float[np.ndarray, "p n 3"]
    pinhole: Float[np.ndarray, "p 6"]
    start: Int[np.ndarray, " p"]
    depth: Float[np.ndarray, " d"]
    least: Float[np.ndarray, " d"]
    second_from_first: tuple[Float[np.ndarray, "p 4 4"], Float[np.ndarray, "p 4 4"]]

    @classmethod
    def of(cls, views: dict[int, View], pairs: Int[np.ndarray, "p 2"]) -> _Samples:
        rng = np.random.default_rng(0)
        points, pinhole, start, depths = {}, {}, {}, [np.empty(0)]
        for v, view in views.items():
            c, pixels = view.camera, np.argwhere(view.depth > 0)
            rows, columns = pixels[rng.choice(len(pixels), SAMPLES, replace=False)].T
            z = view.depth[rows, columns].astype(np.float64)
            x, y = (columns + 0.5 - c.cx) / c.fx, (rows + 0.5 - c.cy) / c.fy
            points[v] = np.stack([x * z, y * z, z], axis=1)
            pinhole[v] = (c.fx, c.fy, c.cx, c.cy, c.width, c.height)
            start[v] = sum(d.size for d in depths)
            depths.append(np.where(view.depth > 0, view.depth, np.inf).astype(np.float64))
        a, b = pairs.T.tolist()
        poses = [np.stack([views[v].camera.world_from_camera for v in own]) for own in (a, b)]
        return cls(
            points=np.stack([points[v] for v in a]),
            pinhole=np.array([pinhole[v] for v in b]),
            start=np.array([start[v] for v in b]),
            depth=np.concatenate([d.ravel() for d in depths]),
            least=np.concatenate([ndimage.minimum_filter(d, 3).ravel() for d in depths[1:]]),
            second_from_first=(
                rigid_inverse(poses[1]) @ poses[0],
                poses[1] @ rigid_inverse(poses[0]),
            ),
        )


def _compared(samples: _Samples, reading: Reading) -> tuple[Float[np.ndarray, " k"], int]:
    """|z − seen| / max(z, seen), ascending, of the samples at depth z that lie in the second
    picture; and the number of those that lie clearly before all that is seen around there."""
    second_from_first = samples.second_from_first[int(reading.inverted)]
    signs = np.array(reading.axes)
    turn = second_from_first[:, :3, :3] * np.outer(signs, signs)
    # All depths times s, with translations t, is all depths, with translations t / s.
    shift = second_from_first[:, :3, 3] * signs / reading.scale
    x, y, z = np.moveaxis(samples.points @ np.swapaxes(turn, 1, 2) + shift[:, None], -1, 0)
    fx, fy, cx, cy, width, height = np.moveaxis(samples.pinhole, -1, 0)[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        column, row = np.floor(fx * x / z + cx), np.floor(fy * y / z + cy)
    inside = (z > 0) & (column >= 0) & (row >= 0) & (column < width) & (row < height)
    place = (samples.start[:, None] + row * width + column)[inside].astype(np.int64)
    z, seen, least = z[inside], samples.depth[place], samples.least[place]
    known = np.isfinite(seen)
    z, seen, least = z[known], seen[known], least[known]
    off = np.sort(np.abs(z - seen) / np.maximum(z, seen))
    return off, int(np.count_nonzero(z < (1 - AGREE) * least))
