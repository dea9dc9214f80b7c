"""Layout ``mcap``: a robot's log, ROS 2 messages in one ``.mcap`` file (extra ``robot``).

Poses come from ``tf2_msgs/msg/TFMessage`` (topics ending in ``tf_static``: for good). Read are
either pictures, ``sensor_msgs/msg/Image`` of colour and of depth in the colour camera's frame with
its ``CameraInfo``, or, where there are none, one topic of ``sensor_msgs/msg/PointCloud2``.
"""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from protoscene.errors import Refused
from protoscene.formats.lens import Lens, require_plausible, undistorted
from protoscene.formats.mcap_chunks import require_small_chunks
from protoscene.formats.paths import require_regular
from protoscene.formats.problems import Problems, kept
from protoscene.formats.transform_tree import TransformTree
from protoscene.recording import Frame, Recording, Sweep, SweepEntry, View

CLOUD, IMAGE, INFO, TRANSFORMS = (
    "sensor_msgs/msg/PointCloud2", "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo",
    "tf2_msgs/msg/TFMessage",
)  # fmt: skip
MAX_GAP = 0.020
"""Seconds between a colour picture and its depth, at most."""
COLOURS = {"rgb8": [0, 1, 2], "bgr8": [2, 1, 0], "rgba8": [0, 1, 2], "bgra8": [2, 1, 0],
           "mono8": [0, 0, 0]}  # fmt: skip
"""Encodings of colour, and where red, green and blue stand in a pixel."""
DEPTHS: dict[str, tuple[np.dtype[Any], float]] = {
    "16UC1": (np.dtype("<u2"), 1e-3),
    "mono16": (np.dtype("<u2"), 1e-3),
    "32FC1": (np.dtype("<f4"), 1.0),
}
"""Encodings of depth: type and unit (m)."""
FLOATS: dict[int, np.dtype[Any]] = {7: np.dtype("<f4"), 8: np.dtype("<f8")}
INTEGERS: dict[int, np.dtype[Any]] = {2: np.dtype("u1"), 4: np.dtype("<u2")}
"""PointField's numbers of types; integers are shares of their greatest."""
FARTHEST_M = 2000.0


@dataclass(frozen=True)
class Place:
    """Where a message stands, and its header's time (s) and frame."""

    topic: str
    log_time: int
    time: float
    frame: str


@dataclass(frozen=True, eq=False)
class LoggedFrame(Frame):
    """A frame with the places of its pictures and its lens."""

    colour: Place
    depth: Place
    lens: Lens


@dataclass(frozen=True, eq=False)
class LoggedSweep(SweepEntry):
    """A sweep with its place."""

    place: Place


def read_mcap(file: Path, problems: Problems) -> Recording:
    """The recording in a log, whose pictures or clouds are read when asked for.

    Raises Refused: the extra is missing, a damaged file, a chunk that unpacks to too much, no topic
    to read, no transforms to the
    sensor's frame, no intrinsics, a lens that is not plumb_bob. Messages whose pose is not known
    are left out with one warning.
    """
    require_regular(file, "file")
    log = _Log(file)
    with _parsing(file):
        places, tree, infos = log.index()
    colour = [t for t in places[IMAGE] if log.encoding(places[IMAGE][t][0]) in COLOURS]
    depth = [t for t in places[IMAGE] if log.encoding(places[IMAGE][t][0]) in DEPTHS]
    frames: list[LoggedFrame] = []
    sweeps: list[LoggedSweep] = []
    if colour and depth:
        for topic in colour:
            with kept(problems):
                frames += _frames(log, tree, infos, topic, places[IMAGE], depth)
    elif places[CLOUD]:
        chosen = max(sorted(places[CLOUD]), key=lambda topic: len(places[CLOUD][topic]))
        if len(places[CLOUD]) > 1:
            warnings.warn(f"{file}: of {len(places[CLOUD])} topics {chosen} is read", stacklevel=3)
        posed = _posed(file, tree, places[CLOUD][chosen])
        sweeps = [LoggedSweep(place.time, pose, file, place) for place, pose in posed]
    else:
        expected = "PointCloud2, or Image of colour and of depth"
        raise Refused(file, "topics", "nothing that can be read", expected=expected)
    if not frames and not sweeps and not problems:
        raise Refused(file, "topics", "no message has a pose", expected="/tf at its time")

    def sha256() -> str:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()

    return Recording(file, list(frames), log.view, sha256, sweeps, log.sweep)


def _posed(
    file: Path, tree: TransformTree, places: list[Place]
) -> list[tuple[Place, Float[np.ndarray, "4 4"]]]:
    """The places whose pose is known; the others are told in one warning. Times must increase."""
    found: list[tuple[Place, Float[np.ndarray, "4 4"]]] = []
    for place in sorted(places, key=lambda p: p.time):
        pose = tree.world_from(place.frame, place.time)
        if found and found[-1][0].time == place.time:
            raise Refused(file, place.topic, "time is given twice", got=f"{place.time:.6f}")
        if pose is not None:
            found.append((place, pose))
    if len(found) < len(places):
        n = len(places) - len(found)
        text = f"{n} of {len(places)} messages of {places[0].topic} have no pose: left out"
        warnings.warn(f"{file}: {text}", stacklevel=4)
    return found


def _frames(
    log: _Log,
    tree: TransformTree,
    infos: dict[str, Any],
    topic: str,
    images: dict[str, list[Place]],
    depth_topics: list[str],
) -> list[LoggedFrame]:
    """The colour pictures of a topic with the nearest depth of the same camera frame."""
    frame = images[topic][0].frame
    if frame not in infos:
        problem = "no CameraInfo of this camera's frame"
        raise Refused(log.file, f"frame {frame}", problem, expected="sensor_msgs/msg/CameraInfo")
    with _parsing(log.file):
        lens = _lens(log.file, frame, infos[frame])
    of_camera = [p for t in depth_topics for p in images[t] if p.frame == frame]
    if not of_camera:
        problem = "no depth in this camera's frame; depth must be registered to colour"
        raise Refused(log.file, f"frame {frame}", problem)
    times = np.array([p.time for p in of_camera])
    found = []
    for place, pose in _posed(log.file, tree, images[topic]):
        nearest = int(np.abs(times - place.time).argmin())
        if abs(times[nearest] - place.time) <= MAX_GAP:
            found.append(
                LoggedFrame(
                    time=place.time, camera_name=topic, camera=lens.camera(pose),
                    colour_file=log.file, depth_file=log.file, colour=place,
                    depth=of_camera[nearest], lens=lens,
                )
            )  # fmt: skip
    if not found:
        problem = "no colour picture has depth within 20 ms and a pose"
        raise Refused(log.file, topic, problem)
    return found


def _lens(file: Path, frame: str, info: Any) -> Lens:
    """Of a CameraInfo, whose pixel centres are whole numbers and ours are halves."""
    field = f"CameraInfo {frame}"
    distortion = [float(v) for v in info.d]
    if any(distortion) and (info.distortion_model != "plumb_bob" or len(distortion) > 5):
        got = f"{info.distortion_model} of {len(distortion)} numbers"
        raise Refused(file, field, "distortion is not plumb_bob", got, "k1 k2 p1 p2 k3")
    k1, k2, p1, p2, k3 = (distortion + [0.0] * 5)[:5]
    k = [float(v) for v in info.k]
    lens = Lens(int(info.width), int(info.height), k[0], k[4], k[2] + 0.5, k[5] + 0.5,
                k1, k2, k3, p1, p2)  # fmt: skip
    require_plausible(lens, lambda key: (file, f"{field}: {key}"))
    return lens


class _Log:
    """The messages of a file; each is read by its topic and time."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @contextmanager
    def _reader(self) -> Iterator[Any]:
        try:
            from mcap.reader import make_reader
            from mcap_ros2.decoder import DecoderFactory
        except ImportError:
            expected = "pip install 'protoscene[robot]'"
            raise Refused(self.file, "file", "MCAP needs an extra", expected=expected) from None
        with _parsing(self.file), _unheard(), self.file.open("rb") as opened:
            yield make_reader(opened, validate_crcs=True, decoder_factories=[DecoderFactory()])

    def index(self) -> tuple[dict[str, dict[str, list[Place]]], TransformTree, dict[str, Any]]:
        """Places by type and topic, the tree of frames, and CameraInfo by frame."""
        places: dict[str, dict[str, list[Place]]] = {CLOUD: defaultdict(list)}
        places[IMAGE] = defaultdict(list)
        tree, infos = TransformTree(self.file), {}
        with self._reader() as reader:
            require_small_chunks(self.file)
            for schema, channel, message in reader.iter_messages():
                if schema is not None and schema.name in places:
                    time, frame = _header(self.file, channel.topic, message.data)
                    place = Place(channel.topic, message.log_time, time, frame)
                    places[schema.name][channel.topic].append(place)
        with self._reader() as reader:
            for schema, channel, _, decoded in reader.iter_decoded_messages():
                if schema.name == TRANSFORMS:
                    _add(tree, decoded, fixed=channel.topic.endswith("tf_static"))
                elif schema.name == INFO:
                    infos[decoded.header.frame_id.lstrip("/")] = decoded
        return places, tree, infos

    def message(self, place: Place) -> Any:
        """The decoded message at a place."""
        with self._reader() as reader:
            found = reader.iter_decoded_messages(
                topics=[place.topic], starting_at=place.log_time, ending_at=place.log_time
            )
            for _, _, _, decoded in found:
                return decoded
        raise Refused(self.file, place.topic, "message is gone", got=f"time {place.time:.3f}")

    def encoding(self, place: Place) -> str:
        return str(self.message(place).encoding)

    def view(self, frame: Frame) -> View:
        """The pinhole view of a frame; raises Refused where a picture is not as it should be."""
        assert isinstance(frame, LoggedFrame)
        with _parsing(self.file):
            colour = self._pixels(frame.colour, frame.lens)
            depth = self._pixels(frame.depth, frame.lens)
        colour, depth = undistorted(frame.lens, colour, depth)
        return View(frame.camera, frame.camera_name, frame.time, colour, depth)

    def _pixels(self, place: Place, lens: Lens) -> UInt8[np.ndarray, "h w 3"] | Any:
        """Colour as (h, w, 3) bytes, depth as (h, w) metres with 0 where nothing returned."""
        image = self.message(place)
        if (image.width, image.height) != (lens.w, lens.h):
            got, expected = f"{image.width}×{image.height}", f"{lens.w}×{lens.h}"
            problem = "picture size is not that of the intrinsics"
            raise Refused(self.file, place.topic, problem, got, expected)
        kind, unit = DEPTHS.get(image.encoding, (INTEGERS[2], 0.0))
        size = 1 if image.encoding in (*DEPTHS, "mono8") else len(image.encoding) - 1
        if (image.encoding not in COLOURS and not unit) or (image.is_bigendian and unit):
            raise Refused(self.file, place.topic, "encoding is not read", got=image.encoding)
        row_bytes = image.width * size * kind.itemsize
        data = np.frombuffer(bytes(image.data), dtype="u1")
        if image.step < row_bytes or data.size != image.step * image.height:
            got, expected = f"{data.size} bytes", f"{image.height} rows of {row_bytes} or more"
            raise Refused(self.file, place.topic, "picture is cut", got, expected)
        rows = np.ascontiguousarray(data.reshape(image.height, image.step)[:, :row_bytes])
        pixels = rows.view(kind).reshape(image.height, image.width, size)
        if not unit:
            return np.ascontiguousarray(pixels[..., COLOURS[image.encoding]])
        depth = pixels[..., 0].astype(np.float32) * np.float32(unit)
        return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))

    def sweep(self, entry: SweepEntry) -> Sweep:
        """The points of a cloud; those with a number that is not finite did not return. Raises
        Refused where the cloud is cut, empty or of types that are not read."""
        assert isinstance(entry, LoggedSweep)
        with _parsing(self.file):
            points, grey = _points(self.file, entry.place.topic, self.message(entry.place))
        return Sweep(entry.time, entry.world_from_sensor, points, grey)


def _points(
    file: Path, topic: str, cloud: Any
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, " n"]]:
    """Points (m) and intensities in [0, 1] of a PointCloud2."""
    data = np.frombuffer(bytes(cloud.data), dtype="u1")
    n, width = cloud.width * cloud.height, cloud.point_step
    if cloud.is_bigendian or width == 0 or data.size != n * width:
        got, expected = f"{data.size} bytes", f"{n} points of {width}, little-endian"
        raise Refused(file, topic, "cloud is cut or has padded rows", got, expected)
    table = data.reshape(n, width)
    columns = {field.name: field for field in cloud.fields}

    def column(name: str) -> np.ndarray:
        kind = {**FLOATS, **INTEGERS}.get(columns[name].datatype)
        if kind is None or columns[name].offset + kind.itemsize > width:
            raise Refused(file, f"{topic} {name}", "type of field is not read")
        start = columns[name].offset
        values = np.ascontiguousarray(table[:, start : start + kind.itemsize]).view(kind)[:, 0]
        scale = np.iinfo(kind).max if kind.kind == "u" else 1
        return values.astype(np.float32) / np.float32(scale)

    if not {"x", "y", "z"} <= set(columns):
        raise Refused(file, topic, "cloud has no x, y, z", ", ".join(columns))
    points = np.stack([column(name) for name in "xyz"], axis=1)
    grey = column("intensity") if "intensity" in columns else np.full(n, 0.5, np.float32)
    good = np.isfinite(points).all(axis=1) & (points != 0).any(axis=1)
    if not good.any():
        raise Refused(file, topic, "sweep is empty: nothing returned", got="0 points")
    points, grey = points[good], np.nan_to_num(grey[good])
    if np.abs(points).max() > FARTHEST_M:
        problem, got = "a coordinate is out of a scanner's reach", f"{np.abs(points).max():.4g}"
        raise Refused(file, topic, problem, got, f"metres, at most {FARTHEST_M:g}")
    if grey.max() > 1:  # drivers that count to 255
        grey = grey / 255
    return points, grey.clip(0, 1)


def _header(file: Path, topic: str, data: bytes) -> tuple[float, str]:
    """Time (s) and frame of a message that begins with a std_msgs/Header, little-endian CDR."""
    if len(data) < 16 or data[1] != 1:
        raise Refused(file, topic, "message is cut or not little-endian CDR", f"{len(data)} bytes")
    seconds, nanoseconds, length = struct.unpack_from("<iII", data, 4)
    name = data[16 : 16 + length].split(b"\0")[0]
    return seconds + nanoseconds * 1e-9, name.decode(errors="replace").lstrip("/")


def _add(tree: TransformTree, message: Any, fixed: bool) -> None:
    for one in message.transforms:
        stamp, move, turn = one.header.stamp, one.transform.translation, one.transform.rotation
        time = None if fixed else stamp.sec + stamp.nanosec * 1e-9
        parent, child = one.header.frame_id.lstrip("/"), one.child_frame_id.lstrip("/")
        tree.add(parent, child, time, [move.x, move.y, move.z, turn.x, turn.y, turn.z, turn.w])


@contextmanager
def _parsing(file: Path) -> Iterator[None]:
    """What the parser raises on a damaged file becomes a refusal."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:  # the parsers name no common ancestor, and seek where nothing is
        got = f"{type(error).__name__}: {error}"
        raise Refused(file, "file", "is damaged or no MCAP of ROS 2", got) from error


@contextmanager
def _unheard() -> Iterator[None]:
    """The parser of message definitions prints what it cannot read, control characters and all."""
    nobody = io.StringIO()
    with redirect_stdout(nobody), redirect_stderr(nobody):
        yield
