"""Layout ``kitti``: LiDAR sweeps. ``velodyne/NUMBER.bin``, ``poses.txt``, ``times.txt``.

A sweep is float32 ``x y z intensity`` a point, little-endian, in the sensor's frame (x forward,
y left, z up), metres, intensity in [0, 1]. ``poses.txt`` has 12 numbers a line, the upper rows of
world_from_sensor. With ``calib.txt`` (its line ``Tr:``, camera_from_sensor) they are poses of the
camera, as in KITTI odometry; the world is then the sensor's frame of the camera's world.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Float

from protoscene.errors import Refused
from protoscene.formats.frames import MAX_FRAMES, require_one_unit, sha256_of
from protoscene.formats.manifest import parse_floats, read_numbers
from protoscene.formats.paths import read_file, require_regular, resolve_inside
from protoscene.formats.poses import rigid_pose, warn_repaired
from protoscene.formats.problems import Problems, kept
from protoscene.geometry import rigid_inverse
from protoscene.recording import Recording, Sweep, SweepEntry

FOLDER = "velodyne"
POINT_BYTES = 16
MOST_POINTS = 50 * 10**6
FARTHEST_M = 2000.0
"""No scanner reaches further: such numbers are in another unit, byte order or layout."""
_NAME = re.compile(r"\d{1,10}\.bin")


def read_kitti(root: Path, problems: Problems) -> Recording:
    """The recording of a folder of sweeps, which are read when asked for.

    Raises Refused (or keeps it): no sweeps, missing or superfluous poses or times, a file that is
    not rows of four float32, a pose that is not rigid, times that do not increase.
    """
    files = _sweep_files(root)
    poses_file, times_file, calibration = (root / f"{n}.txt" for n in ("poses", "times", "calib"))
    poses: list[Float[np.ndarray, "4 4"]] = []
    times: list[float] = []
    with kept(problems):
        poses = _poses(poses_file, len(files))
    with kept(problems):
        times = _times(times_file, len(files))
    if calibration.exists():
        with kept(problems):
            camera_from_sensor = _calibration(calibration)
            sensor_from_camera = rigid_inverse(camera_from_sensor)
            poses = [sensor_from_camera @ pose @ camera_from_sensor for pose in poses]
    described_by = [poses_file, times_file] + ([calibration] if calibration.exists() else [])
    sweeps = []
    for k, file in enumerate(files):
        with kept(problems):
            _require_rows(resolve_inside(root, f"{FOLDER}/{file.name}", file, "file"))
            if len(poses) == len(times) == len(files):
                sweeps.append(SweepEntry(times[k], poses[k], file))
    everything = [*described_by, *files]
    return Recording(
        root, [], sha256=lambda: sha256_of(root, everything), sweeps=sweeps, read_sweep=read_sweep
    )


def read_sweep(entry: SweepEntry) -> Sweep:
    """The points of one sweep; those at the sensor itself did not return and are left out.

    Raises Refused: not rows of four float32, no return at all, a number that is not finite, a
    point farther than 2 km, an intensity outside of [0, 1].
    """
    file = entry.file
    _require_rows(file)
    data = np.frombuffer(read_file(file, "file", MOST_POINTS * POINT_BYTES), dtype="<f4")
    rows = data.reshape(-1, 4).astype(np.float32)
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        k = int(bad.argmax())
        got = f"{bad.sum()} of {len(rows)}"
        raise Refused(file, f"point {k}", "a number is not finite", got, "finite numbers")
    points, intensity = rows[:, :3], rows[:, 3]
    far = np.abs(points).max(axis=1)
    if far.max() > FARTHEST_M:
        got, expected = f"{far.max():.4g}", f"metres, at most {FARTHEST_M:g}"
        problem = "a coordinate is out of a scanner's reach"
        raise Refused(file, f"point {int(far.argmax())}", problem, got, expected)
    if intensity.min() < 0 or intensity.max() > 1:
        worst = int(np.abs(intensity - 0.5).argmax())
        got = f"{intensity[worst]:.4g}"
        raise Refused(file, f"point {worst}", "intensity is out of range", got, "0 to 1")
    returned = far > 0
    if not returned.any():
        raise Refused(file, "points", "sweep is empty: nothing returned", got="0 points")
    return Sweep(entry.time, entry.world_from_sensor, points[returned], intensity[returned])


def _sweep_files(root: Path) -> list[Path]:
    """The sweeps in the order of their numbers."""
    folder = root / FOLDER
    if not folder.is_dir():
        problem = "not a folder" if folder.exists() else "folder is missing"
        raise Refused(folder, "sweeps", problem, expected="velodyne/000000.bin and so on")
    names = [file.name for file in folder.iterdir() if file.suffix == ".bin"]
    other = sorted(name for name in names if not _NAME.fullmatch(name))
    if other:
        problem = "name of a sweep is not a number"
        raise Refused(folder / other[0], "sweeps", problem, other[0], "000000.bin and so on")
    if not 1 <= len(names) <= MAX_FRAMES:
        others = sorted({file.suffix for file in folder.iterdir()})
        expected = "velodyne/000000.bin and so on"
        got = f"only {', '.join(others)}" if others and not names else None
        raise Refused(folder, "sweeps", f"recording has {len(names)} sweeps", got, expected)
    names.sort(key=lambda name: (int(name[:-4]), name))
    numbers = [int(name[:-4]) for name in names]
    for before, after, name in zip(numbers, numbers[1:], names[1:], strict=False):
        if before == after:
            raise Refused(folder / name, "sweeps", "two sweeps have one number", got=after)
    _warn_gaps(folder, numbers)
    return [folder / name for name in names]


def _warn_gaps(folder: Path, numbers: list[int]) -> None:
    """One warning where numbers are missing from what is otherwise an even sequence."""
    steps = np.diff(numbers)
    if len(steps) and steps.max() > steps.min():
        k = int(steps.argmax())
        text = f"{(steps > steps.min()).sum()} gaps in the sweeps' numbers"
        warnings.warn(f"{folder}: {text} (the first after {numbers[k]:06d}.bin)", stacklevel=2)


def _require_rows(file: Path) -> None:
    """Refuse what cannot be rows of four float32, by its size."""
    size = require_regular(file, "file")
    if size % POINT_BYTES:
        expected = "a multiple of 16: float32 x y z intensity"
        raise Refused(
            file, "points", "file is no whole number of points", f"{size} bytes", expected
        )
    if size > MOST_POINTS * POINT_BYTES:
        got, expected = f"{size // POINT_BYTES} points", f"at most {MOST_POINTS}"
        raise Refused(file, "points", "sweep is too large", got, expected)


def _poses(file: Path, n_sweeps: int) -> list[Float[np.ndarray, "4 4"]]:
    rows = list(read_numbers(file))
    _require_one_each(file, "poses", len(rows), n_sweeps)
    poses, deviations = [], []
    for place, words in rows:
        pose, deviation = _rows_of_twelve(words, file, place)
        poses.append(pose)
        deviations.append((deviation, place))
    warn_repaired(deviations, file)
    return poses


def _times(file: Path, n_sweeps: int) -> list[float]:
    times: list[float] = []
    rows = list(read_numbers(file))
    _require_one_each(file, "times", len(rows), n_sweeps)
    for place, words in rows:
        if len(words) != 1:
            raise Refused(file, place, "wrong number of words", len(words), "one time in seconds")
        time = parse_floats(words, file, place)[0]
        if times and time <= times[-1]:
            problem = "time is given twice" if time == times[-1] else "time goes backwards"
            raise Refused(file, place, problem, words[0], f"more than {times[-1]:.6f}")
        times.append(time)
    require_one_unit(times, file, "time")
    return times


def _calibration(file: Path) -> Float[np.ndarray, "4 4"]:
    """camera_from_sensor: the 12 numbers after ``Tr:``."""
    found = [(place, words[1:]) for place, words in read_numbers(file) if words[0] == "Tr:"]
    if len(found) != 1:
        problem = "needs one line Tr: (camera from sensor)"
        raise Refused(file, "Tr", problem, f"{len(found)} lines", "Tr: and 12 numbers")
    return _rows_of_twelve(found[0][1], file, "Tr")[0]


def _rows_of_twelve(
    words: list[str], file: Path, place: str
) -> tuple[Float[np.ndarray, "4 4"], float]:
    values = parse_floats(words, file, place)
    if len(values) != 12:
        expected = "12 numbers: 3 rows of 4"
        raise Refused(file, place, "wrong number of numbers in a pose", len(values), expected)
    return rigid_pose([values[0:4], values[4:8], values[8:12]], file, place)


def _require_one_each(file: Path, what: str, got: int, n_sweeps: int) -> None:
    if got != n_sweeps:
        problem = f"{'fewer' if got < n_sweeps else 'more'} {what} than sweeps"
        raise Refused(file, what, problem, got, f"{n_sweeps}, one a sweep")
