"""Layout ``transforms``: ``transforms.json`` as nerfstudio and instant-ngp write it, with depth.

Differences worth knowing: ``depth_unit_scale_factor`` (default 0.001 m, as in nerfstudio) applies
to integer depth only, floating point arrays are metres; per-frame intrinsics override those at the
top; without ``time`` the frames of each camera are one time unit apart, in the order they are
listed; without ``camera`` the pictures of an instant are numbered in the order of their names.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from protoscene.errors import Refused
from protoscene.formats.frames import MAX_FRAMES, Listing, PictureFrame, require_one_unit
from protoscene.formats.lens import Lens, require_plausible
from protoscene.formats.manifest import Table, read_json
from protoscene.formats.paths import resolve_inside
from protoscene.formats.pictures import colour_header
from protoscene.formats.poses import rigid_pose, warn_repaired
from protoscene.formats.problems import Problems, kept
from protoscene.geometry import OPENCV_FROM_OPENGL, Camera

MANIFEST = "transforms.json"
_DISTORTION = {"k1", "k2", "k3", "p1", "p2"}
_OTHER_MODELS = {"k4", "k5", "k6", "is_fisheye", "equirectangular", "latlong", "orthographic"}
_OTHER_MODELS |= {f"ftheta_p{i}" for i in range(5)}
_LENS = {field.name for field in fields(Lens)} | _OTHER_MODELS
_LENS |= {"camera_model", "camera_angle_x", "camera_angle_y"}
_TOP = _LENS | {"frames", "depth_unit_scale_factor"}
_FRAME = _LENS | {"file_path", "depth_file_path", "transform_matrix", "time", "camera"}
_MEANT = {"fx": "fl_x", "fy": "fl_y"}
# fmt: off
_IGNORED = {
    "aabb", "aabb_scale", "applied_scale", "applied_transform", "auto_scale_poses_override",
    "black_transparent", "camera_index", "colmap_im_id", "depth_path", "driver_parameters",
    "enable_depth_loading", "enable_ray_loading", "exposure_time", "fisheye_crop_radius",
    "fix_premult", "from_mitsuba", "from_na", "image_id", "integer_depth_scale", "mask_color",
    "mask_path", "metadata", "n_extra_learnable_dims", "offset", "orientation_override",
    "ply_file_path", "render_aabb", "render_aabb_to_local", "rolling_shutter", "rotation",
    "scale", "sharpen", "sharpness", "sharpness_discard_threshold", "test_filenames",
    "train_filenames", "transform_matrix_end", "transform_matrix_start", "up",
    "val_filenames", "white_transparent", "x_fov", "y_fov",
}
# fmt: on


@dataclass(frozen=True, eq=False)
class _Entry:
    """One of ``frames[]``, checked; ``depth`` is None in a file that only lists cameras."""

    place: str
    name: str
    colour: Path
    depth: Path | None
    time: float | None
    camera: str | None
    lens: Lens
    world_from_camera: np.ndarray


def read_transforms(root: Path, manifest: Path, problems: Problems) -> Listing:
    """The frames of a recording whose manifest is ``manifest``; raises Refused (or keeps it)."""
    top, entries = _entries(root, manifest, problems, recorded=True)
    unit = top.number("depth_unit_scale_factor") if "depth_unit_scale_factor" in top else 1e-3
    if not 0 < unit < math.inf:
        raise top.refused("depth_unit_scale_factor", "not a unit", got=unit, expected="more than 0")
    frames: list[PictureFrame] = []
    with kept(problems):
        named = _with_times_and_cameras(manifest, entries)
        _require_distinct(manifest, named)
        require_one_unit((e.time for e in named if e.time is not None), manifest, "frames[].time")
        for entry in named:
            assert entry.time is not None and entry.camera is not None and entry.depth is not None
            frames.append(
                PictureFrame(
                    time=entry.time,
                    camera_name=entry.camera,
                    camera=entry.lens.camera(entry.world_from_camera),
                    colour_file=entry.colour,
                    depth_file=entry.depth,
                    lens=entry.lens,
                    depth_unit=unit,
                    no_return=None,
                    colour_field=f"{entry.place}.file_path",
                    depth_field=f"{entry.place}.depth_file_path",
                )
            )
    return Listing(frames, [manifest])


def read_cameras(path: str | Path) -> list[tuple[Camera, float, str]]:
    """Cameras to render from: (camera, time in seconds, file_path) of each frame of a file.

    ``path`` is a ``transforms`` file whose pictures need not exist; it is as strict as a
    recording's, and ``w`` and ``h`` are needed. The cameras are pinhole: distortion is not drawn,
    as it is undone in recordings. Raises Refused, also where two frames name the same picture.
    """
    manifest = Path(path)
    _, entries = _entries(manifest.parent, manifest, None, recorded=False)
    seen: dict[Path, str] = {}
    for entry in entries:
        other = seen.setdefault(entry.colour, entry.place)
        if other != entry.place:
            problem = f"{other} writes the same picture"
            raise Refused(manifest, f"{entry.place}.file_path", problem, got=entry.name)
    named = _with_times_and_cameras(manifest, entries)
    return [(e.lens.camera(e.world_from_camera), e.time or 0.0, e.name) for e in named]


def _entries(
    root: Path, manifest: Path, problems: Problems, recorded: bool
) -> tuple[Table, list[_Entry]]:
    """All entries of ``frames[]``; ``recorded`` ones must name depth pictures."""
    top = Table(manifest, "", read_json(manifest))
    unknown: list[str] = []
    with kept(problems):
        unknown += top.unknown_keys(_TOP, _IGNORED, _MEANT)
    rows = top.items("frames")
    if not 1 <= len(rows) <= MAX_FRAMES:
        raise top.refused(
            "frames", f"recording has {len(rows)} frames", expected=f"1..{MAX_FRAMES}"
        )
    entries, deviations = [], []
    common: Lens | None = None  # of all frames without intrinsics of their own
    for i, row in enumerate(rows):
        with kept(problems):
            frame = Table(manifest, f"frames[{i}]", row)
            unknown += frame.unknown_keys(_FRAME, _IGNORED, _MEANT)
            own = not frame.values.keys().isdisjoint(_LENS) or not {"w", "h"} <= top.values.keys()
            entry, deviation = _entry(root, top, frame, recorded, None if own else common)
            common = common if own else entry.lens
            entries.append(entry)
            deviations.append((deviation, frame.field("transform_matrix")))
    if unknown:
        names = ", ".join(repr(key) for key in sorted(set(unknown)))
        warnings.warn(f"{manifest}: unknown keys are ignored: {names}", stacklevel=4)
    warn_repaired(deviations, manifest)
    return top, entries


def _entry(
    root: Path, top: Table, frame: Table, recorded: bool, lens: Lens | None
) -> tuple[_Entry, float]:
    """One of ``frames[]`` and how far its rotation is from orthonormal."""
    name = frame.text("file_path")
    colour = resolve_inside(root, name, frame.file, frame.field("file_path"))
    depth = None
    if recorded:
        depth_name = frame.text("depth_file_path")
        depth = resolve_inside(root, depth_name, frame.file, frame.field("depth_file_path"))
    pose, deviation = rigid_pose(
        frame.required("transform_matrix"), frame.file, frame.field("transform_matrix")
    )
    entry = _Entry(
        place=frame.where,
        name=name,
        colour=colour,
        depth=depth,
        time=frame.number("time") if "time" in frame else None,
        camera=_camera_name(frame) if "camera" in frame else None,
        lens=lens or _lens(_CameraKeys(top, frame), colour if recorded else None),
        world_from_camera=pose @ OPENCV_FROM_OPENGL,
    )
    return entry, deviation


def _camera_name(frame: Table) -> str:
    value = frame.values["camera"]
    if type(value) not in (str, int):
        raise frame.refused("camera", "wrong type", got=value, expected="a name or whole number")
    name = str(value)
    if not 0 < len(name) <= 200 or not all(c.isprintable() for c in name):
        raise frame.refused("camera", "not a name", got=value, expected="1..200 printable letters")
    return name


@dataclass(frozen=True)
class _CameraKeys:
    """Intrinsics of a frame as they stand in the file: its own keys before those at the top."""

    top: Table
    frame: Table

    def holder(self, key: str) -> Table:
        return self.frame if key in self.frame else self.top

    def place(self, key: str) -> tuple[Path, str]:
        return self.holder(key).file, self.holder(key).field(key)

    def number(self, key: str) -> float | None:
        holder = self.holder(key)
        return holder.number(key) if key in holder else None

    def size(self, key: str) -> int:
        value = self.number(key)
        if value is None or value != int(value):
            problem = "picture size in whole pixels"
            raise self.holder(key).refused(key, problem, got=value, expected="a whole number")
        return int(value)

    def focal(self, key: str, angle_key: str, pixels: int) -> float | None:
        """``fl_x``, or what a field of view of ``camera_angle_x`` over ``pixels`` amounts to."""
        angle = self.number(angle_key)
        if key in self.holder(key) or angle is None:
            return self.number(key)
        if not 0 < angle < math.pi:
            raise self.holder(angle_key).refused(angle_key, "field of view", angle, "0..π radians")
        return pixels / 2 / math.tan(angle / 2)


def _lens(keys: _CameraKeys, picture: Path | None) -> Lens:
    """Checked intrinsics; a size that is not given is that of ``picture``."""
    _require_known_model(keys)
    if picture is not None and not ("w" in keys.holder("w") and "h" in keys.holder("h")):
        header = colour_header(picture, keys.frame.field("file_path"))
        w, h = header.width, header.height
    else:
        w, h = keys.size("w"), keys.size("h")
    fl_x, fl_y = keys.focal("fl_x", "camera_angle_x", w), keys.focal("fl_y", "camera_angle_y", h)
    if fl_x is None:
        expected = "fl_x or camera_angle_x"
        raise keys.top.refused("fl_x", "focal length is missing", expected=expected)
    cx, cy = keys.number("cx"), keys.number("cy")
    lens = Lens(
        w,
        h,
        fl_x,
        fl_x if fl_y is None else fl_y,
        w / 2 if cx is None else cx,
        h / 2 if cy is None else cy,
        **{key: keys.number(key) or 0.0 for key in sorted(_DISTORTION)},
    )
    require_plausible(lens, keys.place)
    return lens


def _require_known_model(keys: _CameraKeys) -> None:
    """Refuse every lens that would not be undone exactly; distortion is never dropped."""
    expected = "PINHOLE, or OPENCV with k1 k2 k3 p1 p2"
    table = keys.holder("camera_model")
    model = table.text("camera_model") if "camera_model" in table else None
    if model not in (None, "PINHOLE", "OPENCV"):
        raise table.refused("camera_model", "camera model is not read", model, expected)
    for key in sorted(_OTHER_MODELS):
        value = keys.holder(key).values.get(key, 0)
        if value not in (0, False, None):
            raise keys.holder(key).refused(key, "camera model is not read", value, expected)
    for key in sorted(_DISTORTION):
        if model == "PINHOLE" and keys.number(key):
            problem = "a PINHOLE camera has no distortion"
            raise keys.holder(key).refused(key, problem, keys.number(key), "OPENCV")


def _with_times_and_cameras(manifest: Path, entries: Sequence[_Entry]) -> list[_Entry]:
    """Entries with a time and a camera name each, made up where the file gives none at all."""
    for key in ("time", "camera"):
        without = [entry for entry in entries if getattr(entry, key) is None]
        if 0 < len(without) < len(entries):
            problem = f"{key} is given for some frames and not for others"
            raise Refused(manifest, f"{without[0].place}.{key}", problem)
    count: Counter[str | None] = Counter()
    named = []
    for entry in entries:
        if entry.time is None:
            entry = replace(entry, time=float(count[entry.camera]))
            count[entry.camera] += 1
        named.append(entry)
    if entries and entries[0].camera is None:
        rank: Counter[float | None] = Counter()
        by_name = {}
        for entry in sorted(named, key=lambda entry: entry.name):
            by_name[entry.place] = str(rank[entry.time])
            rank[entry.time] += 1
        named = [replace(entry, camera=by_name[entry.place]) for entry in named]
    return named


def _require_distinct(manifest: Path, entries: Sequence[_Entry]) -> None:
    seen: dict[tuple[float | None, str | None], str] = {}
    for entry in entries:
        other = seen.setdefault((entry.time, entry.camera), entry.place)
        if other != entry.place:
            problem = f"same time and camera as {other}"
            got = f"time {entry.time:g}, camera {entry.camera}"
            raise Refused(manifest, f"{entry.place}.time", problem, got=got)
