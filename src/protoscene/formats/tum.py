"""Layout ``tum``: TUM RGB-D. ``rgb.txt``, ``depth.txt``, ``groundtruth.txt`` and the pictures.

Depth is 16-bit PNG, 5000 to the metre. Each colour picture gets the depth picture and the pose
nearest in time, within 20 ms; what has neither is left out with one warning. Intrinsics are given
by the caller or stand in ``calibration.txt``: ``fx fy cx cy [d0 d1 d2 d3 d4]``, distortion in
OpenCV's order k1 k2 p1 p2 k3. One camera; each colour picture is an instant.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from protoscene.errors import Refused
from protoscene.formats.frames import MAX_FRAMES, Listing, PictureFrame, require_one_unit
from protoscene.formats.lens import Lens, require_plausible
from protoscene.formats.manifest import parse_floats, read_numbers
from protoscene.formats.paths import resolve_inside
from protoscene.formats.pictures import colour_header
from protoscene.formats.poses import pose_from_quaternion
from protoscene.formats.problems import Problems, kept

DEPTH_UNIT = 1 / 5000
MAX_GAP = 0.020
_ROUNDING = 1e-6  # times of day in seconds since 1970 are not finer than this

Row = tuple[float, str, list[str]]
"""Time, place ("line 7") and the other words of a line."""


def read_tum(root: Path, intrinsics: tuple[float, ...] | None, problems: Problems) -> Listing:
    """The frames of a TUM folder; raises Refused (or keeps it)."""
    rgb, depth, truth = (root / name for name in ("rgb.txt", "depth.txt", "groundtruth.txt"))
    calibration = root / "calibration.txt"
    colour_rows = _rows(rgb, 1, problems)
    depth_rows = _rows(depth, 1, problems)
    poses = []
    pose_rows = _rows(truth, 7, problems)
    for _, place, words in pose_rows:
        with kept(problems):
            poses.append(pose_from_quaternion(parse_floats(words, truth, place), truth, place))
    if len(poses) < len(pose_rows):
        return Listing([], [])
    chosen = _associated(rgb, colour_rows, depth_rows, pose_rows, problems)
    lens = None
    frames = []
    for i, j, k in chosen:
        time, place, words = colour_rows[i]
        with kept(problems):
            colour_file = resolve_inside(root, words[0], rgb, place)
            depth_place = depth_rows[j][1]
            depth_file = resolve_inside(root, depth_rows[j][2][0], depth, depth_place)
            if lens is None:
                header = colour_header(colour_file, f"rgb.txt {place}")
                lens = lens_of(header.width, header.height, intrinsics, calibration)
            frames.append(
                PictureFrame(
                    time=time,
                    camera_name="0",
                    camera=lens.camera(poses[k]),
                    colour_file=colour_file,
                    depth_file=depth_file,
                    lens=lens,
                    depth_unit=DEPTH_UNIT,
                    no_return=None,
                    colour_field=f"rgb.txt {place}",
                    depth_field=f"depth.txt {depth_place}",
                )
            )
    used = [rgb, depth, truth] + ([calibration] if intrinsics is None else [])
    return Listing(frames, used)


def lens_of(
    width: int, height: int, intrinsics: tuple[float, ...] | None, calibration: Path
) -> Lens:
    """The lens given by the caller (fx fy cx cy), else by ``calibration.txt``."""
    if intrinsics is not None:
        file, values, place = Path("--intrinsics"), list(intrinsics), "fx,fy,cx,cy"
    elif not calibration.exists():
        expected = "calibration.txt or --intrinsics fx,fy,cx,cy"
        raise Refused(calibration, "intrinsics", "no intrinsics are given", expected=expected)
    else:
        file = calibration
        lines = list(read_numbers(calibration))
        if len(lines) != 1:
            raise Refused(file, "file", "wrong number of lines", len(lines), "fx fy cx cy [d0..d4]")
        place, words = lines[0]
        values = parse_floats(words, file, place)
        if len(values) not in (4, 9):
            raise Refused(file, place, "intrinsics", f"{len(values)} numbers", "4 or 9 numbers")
    fx, fy, cx, cy = values[:4]
    k1, k2, p1, p2, k3 = values[4:] or [0.0] * 5
    lens = Lens(width, height, fx, fy, cx, cy, k1, k2, k3, p1, p2)
    require_plausible(lens, lambda key: (file, f"{place}: {key.replace('fl_', 'f')}"))
    return lens


def _rows(path: Path, n_words: int, problems: Problems) -> list[Row]:
    """Lines ``time word…``; times must increase."""
    rows: list[Row] = []
    for place, words in read_numbers(path):
        with kept(problems):
            if len(words) != n_words + 1:
                expected = f"time and {n_words} more"
                raise Refused(path, place, "wrong number of words", len(words), expected)
            time = parse_floats(words[:1], path, place)[0]
            if rows and time <= rows[-1][0]:
                problem = "time is given twice" if time == rows[-1][0] else "time goes backwards"
                raise Refused(path, place, problem, words[0], f"more than {rows[-1][0]:.6f}")
            rows.append((time, place, words[1:]))
    if not 1 <= len(rows) <= MAX_FRAMES:
        raise Refused(path, "file", f"list has {len(rows)} lines", expected=f"1..{MAX_FRAMES}")
    with kept(problems):
        require_one_unit((row[0] for row in rows), path, "time")
    return rows


def _associated(
    rgb: Path,
    colour_rows: list[Row],
    depth_rows: list[Row],
    pose_rows: list[Row],
    problems: Problems,
) -> list[tuple[int, int, int]]:
    """(colour, depth, pose) numbers: nearest in time, and no depth picture is used twice."""
    colour, depth, pose = (
        np.array([row[0] for row in rows]) for rows in (colour_rows, depth_rows, pose_rows)
    )
    to_depth, to_pose = _nearest(colour, depth), _nearest(colour, pose)
    mutual = _nearest(depth, colour)[to_depth] == np.arange(len(colour))
    depth_gap, pose_gap = np.abs(depth[to_depth] - colour), np.abs(pose[to_pose] - colour)
    gap = np.maximum(depth_gap, pose_gap)
    good = mutual & (gap <= MAX_GAP + _ROUNDING)
    if good.all():
        return list(zip(range(len(colour)), to_depth.tolist(), to_pose.tolist(), strict=True))
    worst = int(gap.argmax())
    other = "depth" if depth_gap[worst] > pose_gap[worst] else "pose"
    text = f"{(~good).sum()} of {len(good)} pictures have no depth and pose of their own in 20 ms"
    if not good.any():
        got = f"worst gap {gap[worst]:.4g} s, to a {other}"
        raise Refused(rgb, colour_rows[worst][1], text, got=got, expected="at most 0.02 s")
    if not problems:  # lines that were refused explain it already
        warnings.warn(f"{rgb}: {text} and are left out (worst {gap[worst]:.4g} s)", stacklevel=4)
    return [(int(i), int(to_depth[i]), int(to_pose[i])) for i in np.flatnonzero(good)]


def _nearest(
    times: Float[np.ndarray, " n"], others: Float[np.ndarray, " m"]
) -> Int[np.ndarray, " n"]:
    """For each time the index of the nearest of the sorted ``others``."""
    right = np.searchsorted(others, times).clip(0, len(others) - 1)
    left = (right - 1).clip(0)
    return np.where(np.abs(others[left] - times) <= np.abs(others[right] - times), left, right)
