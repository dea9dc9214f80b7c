"""Reading recordings: one file per layout, recognised from the files in the folder.

A name in a manifest is opened only through ``paths.py``; a picture only through ``pictures.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from protoscene.errors import Refused
from protoscene.formats.foreign import refuse_file
from protoscene.formats.frames import Listing, recording_of
from protoscene.formats.kitti import FOLDER, read_kitti
from protoscene.formats.problems import Problems
from protoscene.formats.seven_scenes import NAME, read_seven_scenes
from protoscene.formats.transforms import MANIFEST, read_cameras, read_transforms
from protoscene.formats.tum import read_tum
from protoscene.recording import Recording

__all__ = ["LAYOUTS", "load", "open_recording", "read_cameras"]

LAYOUTS = ("transforms", "tum", "7scenes", "kitti", "mcap")


def load(
    path: str | Path, format: str | None = None, intrinsics: Sequence[float] | None = None
) -> Recording:
    """The recording in the folder ``path``; pictures and sweeps are read when asked for.

    ``path`` may also be a manifest of the ``transforms`` layout or an MCAP log by itself.
    ``format`` is one of ``LAYOUTS``, recognised from the files when left out; ``intrinsics`` are
    fx, fy, cx, cy in pixels (pixel (0, 0) spans 0..1) for ``tum`` and ``7scenes``, where they
    override the file.

    Raises :class:`protoscene.errors.Refused`, naming file and field, for everything that can be
    seen without decoding pictures: manifest, poses, intrinsics, times, missing files, sizes.
    """
    return open_recording(path, format, intrinsics, None)


def open_recording(
    path: str | Path, format: str | None, intrinsics: Sequence[float] | None, problems: Problems
) -> Recording:
    """As :func:`load`; refusals of single frames are kept in ``problems`` where it is a list."""
    root = Path(path)
    manifest = None
    if root.suffix == ".mcap" and not root.is_dir() and format in (None, "mcap"):
        return _read_log(root, intrinsics, problems)
    if root.suffix == ".json" and root.is_file():
        root, manifest = root.parent, root
    if not root.is_dir():
        if root.exists():
            refuse_file(root, "recording", "a recording's folder")
        problem = "folder does not exist"
        raise Refused(root, "recording", problem, expected="a recording's folder")
    try:
        layout = format or ("transforms" if manifest else _recognised(root))
        if layout == "kitti":
            if intrinsics is not None:
                raise Refused(root, "--intrinsics", "a LiDAR recording has no cameras", intrinsics)
            return read_kitti(root, problems)
        if layout == "mcap":
            logs = sorted(file for file in root.iterdir() if file.suffix == ".mcap")
            if len(logs) != 1:
                problem = "a recording is one log; give its file"
                raise Refused(root, "recording", problem, f"{len(logs)} .mcap files", "1")
            return _read_log(logs[0], intrinsics, problems)
        listing = _listing(layout, root, manifest or root / MANIFEST, intrinsics, problems)
    except PermissionError as error:
        raise Refused(root, "recording", f"folder cannot be read: {error.strerror}") from error
    return recording_of(root, listing, problems)


def _listing(
    layout: str,
    root: Path,
    manifest: Path,
    intrinsics: Sequence[float] | None,
    problems: Problems,
) -> Listing:
    given = None if intrinsics is None else tuple(intrinsics)
    if given is not None and (len(given) != 4 or not all(map(math.isfinite, given))):
        raise Refused("--intrinsics", "fx,fy,cx,cy", "intrinsics", given, "four finite numbers")
    if layout == "transforms":
        if given is not None:
            problem = "the transforms layout has its own intrinsics"
            raise Refused(manifest, "--intrinsics", problem, got=given)
        return read_transforms(root, manifest, problems)
    if layout == "tum":
        return read_tum(root, given, problems)
    if layout == "7scenes":
        return read_seven_scenes(root, given, problems)
    raise Refused(root, "--format", "unknown layout", got=layout, expected=", ".join(LAYOUTS))


def _read_log(file: Path, intrinsics: Sequence[float] | None, problems: Problems) -> Recording:
    from protoscene.formats.mcap_log import read_mcap  # only who has one waits for its decoder

    if intrinsics is not None:
        raise Refused(file, "--intrinsics", "a robot's log has its own intrinsics", intrinsics)
    return read_mcap(file, problems)


def _recognised(root: Path) -> str:
    """The layout of a folder; Refused where there is none or more than one."""
    names = {file.name for file in root.iterdir()}
    found = {
        "transforms": MANIFEST in names,
        "tum": bool(names & {"rgb.txt", "groundtruth.txt"}),
        "7scenes": any(NAME.fullmatch(name) for name in names),
        "kitti": FOLDER in names,
        "mcap": any(name.endswith(".mcap") for name in names),
    }
    layouts = [layout for layout, is_there in found.items() if is_there]
    if len(layouts) > 1:
        got = ", ".join(layouts)
        raise Refused(root, "format", "more than one layout fits; give --format", got=got)
    if not layouts:
        problem = "no known layout: no transforms.json, no rgb.txt + depth.txt + groundtruth.txt, "
        raise Refused(root, "format", problem + "no frame-000000.color.png, no velodyne/, no .mcap")
    return layouts[0]
