"""Layout ``7scenes``: 7-Scenes and 3DMatch. ``frame-000000.{color.jpg|png,depth.png,pose.txt}``.

Depth is 16-bit PNG in millimetres, 0 and 65535 where nothing returned. Intrinsics are given by
the caller or stand in ``camera-intrinsics.txt``, a 3×3 matrix. The layout has no clock: a frame's
time is its number. One camera. Pictures lie in the folder itself (give one ``seq-XX`` at a time).
"""

from __future__ import annotations

import re
from pathlib import Path

from protoscene.errors import Refused
from protoscene.formats.frames import MAX_FRAMES, Listing, PictureFrame
from protoscene.formats.lens import Lens, require_plausible
from protoscene.formats.manifest import parse_floats, read_numbers
from protoscene.formats.paths import require_regular, resolve_inside
from protoscene.formats.pictures import colour_header
from protoscene.formats.poses import rigid_pose, warn_repaired
from protoscene.formats.problems import Problems, kept

DEPTH_UNIT = 1e-3
NO_RETURN = 65535
NAME = re.compile(r"frame-(\d{1,9})\.(color\.png|color\.jpg|depth\.png|pose\.txt)")


def read_seven_scenes(
    root: Path, intrinsics: tuple[float, ...] | None, problems: Problems
) -> Listing:
    """The frames of a 7-Scenes folder; raises Refused (or keeps it)."""
    found: dict[str, set[str]] = {}
    for file in root.iterdir():
        match = NAME.fullmatch(file.name)
        if match:
            found.setdefault(match[1], set()).add(match[2])
    if not 1 <= len(found) <= MAX_FRAMES:
        expected = "frame-000000.color.png and so on"
        raise Refused(root, "frames", f"recording has {len(found)} frames", expected=expected)
    matrix_file = root / "camera-intrinsics.txt"
    if intrinsics is None:
        require_regular(matrix_file, "intrinsics (or give --intrinsics)")
    lens, frames, described_by, deviations = None, [], [], []
    for number in sorted(found, key=lambda number: (int(number), number)):
        place = f"frame-{number}"
        with kept(problems):
            colour, depth, pose_file = _files(root, place, found[number])
            rows = [parse_floats(words, pose_file, line) for line, words in read_numbers(pose_file)]
            pose, deviation = rigid_pose(rows, pose_file, "pose")
            if lens is None:
                header = colour_header(colour, place)
                lens = _lens(header.width, header.height, intrinsics, matrix_file)
            frames.append(
                PictureFrame(
                    time=float(number),
                    camera_name="0",
                    camera=lens.camera(pose),
                    colour_file=colour,
                    depth_file=depth,
                    lens=lens,
                    depth_unit=DEPTH_UNIT,
                    no_return=NO_RETURN,
                    colour_field=place,
                    depth_field=place,
                )
            )
            described_by.append(pose_file)
            deviations.append((deviation, pose_file.name))
    warn_repaired(deviations, root)
    return Listing(frames, described_by + ([] if intrinsics else [matrix_file]))


def _files(root: Path, place: str, endings: set[str]) -> tuple[Path, Path, Path]:
    """Colour, depth and pose file of a frame, inside ``root``."""
    if {"color.png", "color.jpg"} <= endings:
        raise Refused(root / f"{place}.color.png", place, "there is a color.jpg as well")
    colour = "color.jpg" if "color.jpg" in endings else "color.png"
    files = []
    for ending in (colour, "depth.png", "pose.txt"):
        name = f"{place}.{ending}"
        file = resolve_inside(root, name, root / name, place)
        require_regular(file, place)
        files.append(file)
    return files[0], files[1], files[2]


def _lens(width: int, height: int, intrinsics: tuple[float, ...] | None, matrix_file: Path) -> Lens:
    """The lens given by the caller (fx fy cx cy), else by the 3×3 matrix."""
    file = Path("--intrinsics") if intrinsics else matrix_file
    fx, fy, cx, cy = intrinsics or _matrix(matrix_file)
    lens = Lens(width, height, fx, fy, cx, cy)
    require_plausible(lens, lambda key: (file, key.replace("fl_", "f")))
    return lens


def _matrix(file: Path) -> tuple[float, float, float, float]:
    """fx, fy, cx, cy of a 3×3 matrix ``fx 0 cx / 0 fy cy / 0 0 1``."""
    rows = [parse_floats(words, file, line) for line, words in read_numbers(file)]
    if [len(row) for row in rows] != [3, 3, 3]:
        got = f"{len(rows)} rows, {sum(map(len, rows))} numbers"
        raise Refused(file, "intrinsics", "not a 3×3 matrix", got=got, expected="3 rows of 3")
    (fx, skew, cx), (zero, fy, cy), last = rows
    if (skew, zero, *last) != (0, 0, 0, 0, 1):
        expected = "fx 0 cx / 0 fy cy / 0 0 1"
        raise Refused(file, "intrinsics", "not a pinhole camera's matrix", expected=expected)
    return fx, fy, cx, cy
