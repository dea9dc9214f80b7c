"""Writes robot logs (MCAP, ROS 2 messages) for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mcap.writer import CompressionType
from mcap_ros2.writer import Writer
from scipy.spatial.transform import Rotation

LINE = "=" * 80
TIME = f"{LINE}\nMSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec\n"
HEADER = f"{LINE}\nMSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n{TIME}"
CLOUD = f"""std_msgs/Header header
uint32 height
uint32 width
sensor_msgs/PointField[] fields
bool is_bigendian
uint32 point_step
uint32 row_step
uint8[] data
bool is_dense
{LINE}
MSG: sensor_msgs/PointField
string name
uint32 offset
uint8 datatype
uint32 count
{HEADER}"""
IMAGE = f"""std_msgs/Header header
uint32 height
uint32 width
string encoding
uint8 is_bigendian
uint32 step
uint8[] data
{HEADER}"""
INFO = f"""std_msgs/Header header
uint32 height
uint32 width
string distortion_model
float64[] d
float64[9] k
{HEADER}"""
TRANSFORMS = f"""geometry_msgs/TransformStamped[] transforms
{LINE}
MSG: geometry_msgs/TransformStamped
std_msgs/Header header
string child_frame_id
geometry_msgs/Transform transform
{LINE}
MSG: geometry_msgs/Transform
geometry_msgs/Vector3 translation
geometry_msgs/Quaternion rotation
{LINE}
MSG: geometry_msgs/Vector3
float64 x
float64 y
float64 z
{LINE}
MSG: geometry_msgs/Quaternion
float64 x
float64 y
float64 z
float64 w
{HEADER}"""
TYPES = {
    "sensor_msgs/msg/PointCloud2": CLOUD,
    "sensor_msgs/msg/Image": IMAGE,
    "sensor_msgs/msg/CameraInfo": INFO,
    "tf2_msgs/msg/TFMessage": TRANSFORMS,
}

Message = tuple[str, str, float, dict[str, Any]]
"""Type (without ``/msg/``'s package), topic, time of its arrival (s), contents."""


def write_log(
    file: Path, messages: Sequence[Message], compression: CompressionType = CompressionType.ZSTD
) -> Path:
    with file.open("wb") as opened:
        writer = Writer(opened, compression=compression)
        schemas = {name: writer.register_msgdef(name, text) for name, text in TYPES.items()}
        for kind, topic, time, message in messages:
            at = round(time * 1e9)
            writer.write_message(topic, schemas[kind], message, log_time=at, publish_time=at)
        writer.finish()
    return file


def header(time: float, frame: str) -> dict[str, Any]:
    whole = int(time)
    stamp = {"sec": whole, "nanosec": round((time - whole) * 1e9)}
    return {"stamp": stamp, "frame_id": frame}


def transform(
    parent: str, child: str, time: float, pose: np.ndarray, fixed: bool = False
) -> Message:
    x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
    contents = {
        "translation": dict(zip("xyz", map(float, pose[:3, 3]), strict=True)),
        "rotation": {"x": float(x), "y": float(y), "z": float(z), "w": float(w)},
    }
    one = {"header": header(time, parent), "child_frame_id": child, "transform": contents}
    topic = "/tf_static" if fixed else "/tf"
    return "tf2_msgs/msg/TFMessage", topic, time, {"transforms": [one]}


def cloud(topic: str, frame: str, time: float, rows: np.ndarray, **changed: Any) -> Message:
    """Rows x y z intensity as float32, 4 bytes of padding a point."""
    data = np.zeros((len(rows), 5), "<f4")
    data[:, :3], data[:, 4] = rows[:, :3], rows[:, 3]
    fields = [{"name": n, "offset": o, "datatype": 7, "count": 1}
              for n, o in (("x", 0), ("y", 4), ("z", 8), ("intensity", 16))]  # fmt: skip
    message = {
        "header": header(time, frame), "height": 1, "width": len(rows), "fields": fields,
        "is_bigendian": False, "point_step": 20, "row_step": 20 * len(rows),
        "data": data.tobytes(), "is_dense": True,
    } | changed  # fmt: skip
    return "sensor_msgs/msg/PointCloud2", topic, time, message


def image(
    topic: str, frame: str, time: float, pixels: np.ndarray, encoding: str, **changed: Any
) -> Message:
    row = pixels.reshape(pixels.shape[0], -1)
    message = {
        "header": header(time, frame), "height": pixels.shape[0], "width": pixels.shape[1],
        "encoding": encoding, "is_bigendian": 0, "step": row.shape[1] * row.itemsize,
        "data": row.tobytes(),
    } | changed  # fmt: skip
    return "sensor_msgs/msg/Image", topic, time, message


def camera_info(
    frame: str, time: float, width: int, height: int, f: float, **changed: Any
) -> Message:
    k = [f, 0.0, width / 2 - 0.5, 0.0, f, height / 2 - 0.5, 0.0, 0.0, 1.0]
    message = {
        "header": header(time, frame), "height": height, "width": width,
        "distortion_model": "plumb_bob", "d": [0.0] * 5, "k": k,
    } | changed  # fmt: skip
    return "sensor_msgs/msg/CameraInfo", "/camera/camera_info", time, message
