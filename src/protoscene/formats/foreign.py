"""Files of kinds that protoscene does not read, so that a refusal can call them by name."""

from __future__ import annotations

from pathlib import Path

from protoscene.errors import Refused

_FIRST_BYTES = {
    b"\x76\x2f\x31\x01": "an OpenEXR picture",
    b"GIF8": "a GIF picture",
    b"BM": "a BMP picture",
    b"II*\0": "a TIFF picture",
    b"MM\0*": "a TIFF picture",
    b"\x1f\x8b": "a gzip archive",
    b"glTF": "a glTF scene",
    b"ply": "a PLY mesh",
    b"solid ": "an STL mesh",
    b"# .PCD": "a PCD cloud",
    b"#ROSBAG": "a ROS 1 bag",
    b"SQLite format 3": "a ROS 2 database",
}
_SUFFIXES = {
    ".exr": "an OpenEXR picture", ".stl": "an STL mesh", ".ply": "a PLY mesh",
    ".obj": "an OBJ mesh", ".off": "an OFF mesh", ".gltf": "a glTF scene",
    ".glb": "a glTF scene", ".pcd": "a PCD cloud",
    ".las": "a LAS cloud", ".laz": "a LAS cloud", ".e57": "an E57 cloud", ".bag": "a ROS 1 bag",
    ".db3": "a ROS 2 database", ".mp4": "a video", ".mov": "a video", ".zip": "a zip archive",
}  # fmt: skip
_UNSAFE = {
    ".pt": "a pickle", ".pth": "a pickle", ".ckpt": "a pickle", ".pkl": "a pickle",
    ".pickle": "a pickle", ".joblib": "a pickle", ".dill": "a pickle", ".bin": "a pickle",
    ".yaml": "YAML", ".yml": "YAML",
}  # fmt: skip
_LONGEST = 16


def kind_of(path: Path) -> str | None:
    """What kind of file ``path`` is, by its first bytes, else by its name; None where that is not
    known."""
    with path.open("rb") as file:
        first = file.read(_LONGEST)
    by_bytes = (kind for magic, kind in _FIRST_BYTES.items() if first.startswith(magic))
    return next(by_bytes, None) or _SUFFIXES.get(path.suffix.lower())


def refuse_file(path: Path, field: str, wanted: str) -> None:
    """Raises Refused, as ``path`` is a file where ``wanted`` is a folder: with what it is, where
    that is known. Nothing in it is loaded."""
    unsafe = _UNSAFE.get(path.suffix.lower())
    if unsafe:
        raise Refused(path, field, f"{unsafe} is never loaded", path.suffix, wanted)
    kind = kind_of(path) if path.is_file() else None
    raise Refused(path, field, "is not read" if kind else "is not a folder", kind, wanted)
