"""Binary glTF 2.0: one buffer, its accessors and meshes, and the container that holds them."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from protoscene.surface import welded

FLOAT, UINT16, UINT32 = 5126, 5123, 5125
VERTICES, INDICES = 34962, 34963
KINDS = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}
UNLIT = "KHR_materials_unlit"


class Document:
    """A glTF document while it is made; :meth:`glb` gives its bytes."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []
        self.meshes: list[dict[str, Any]] = []

    def accessor(self, values: np.ndarray, target: int | None = None) -> int:
        """The number of a new accessor of ``values``, (n,) or (n, 3 or 4): float32, uint32, or
        uint16 that stands for 0 to 1. ``target`` is what vertices and indices are marked with."""
        raw = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<")).tobytes()
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(raw)}
        self.views.append(view if target is None else {**view, "target": target})
        self.data += raw + b"\0" * (-len(raw) % 4)
        columns = values.reshape(len(values), -1)
        accessor: dict[str, Any] = {
            "bufferView": len(self.views) - 1,
            "componentType": {"f4": FLOAT, "u2": UINT16, "u4": UINT32}[values.dtype.str[1:]],
            "count": len(values),
            "type": KINDS[columns.shape[1]],
        }
        if accessor["componentType"] == FLOAT:
            accessor |= {"min": columns.min(axis=0).tolist(), "max": columns.max(axis=0).tolist()}
        if accessor["componentType"] == UINT16:
            accessor["normalized"] = True
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def mesh(
        self, name: str, corners: Float[np.ndarray, "n 4 3"], colours: UInt8[np.ndarray, "n 3"]
    ) -> int | None:
        """The number of a new mesh of quads with these colours; None where there are none.

        Where quads meet their colours are mixed. Without normals, so that viewers shade flat. glTF
        vertex colours are linear, ours are sRGB; 16 bits keep the dark ones apart.
        """
        if len(corners) == 0:
            return None
        vertices, linear, quads = welded(corners, _LINEAR_16[colours])
        opaque = np.full((len(vertices), 4), 65535, dtype=np.uint16)
        opaque[:, :3] = np.rint(linear)
        attributes = {
            "POSITION": self.accessor(vertices.astype(np.float32), VERTICES),
            "COLOR_0": self.accessor(opaque, VERTICES),
        }
        triangles = quads[:, [0, 1, 2, 0, 2, 3]].astype(np.uint32)
        indices = self.accessor(triangles.ravel(), INDICES)
        primitive = {"attributes": attributes, "indices": indices, "material": 0}
        self.meshes.append({"name": name, "primitives": [primitive]})
        return len(self.meshes) - 1

    def glb(self, nodes: list[dict[str, Any]], animations: list[dict[str, Any]]) -> bytes:
        """The document as a ``.glb`` file's bytes; node 0 is the scene's root. Colours are unlit:
        they hold the light in which they were recorded."""
        material = {
            "pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 1},
            "extensions": {UNLIT: {}},
        }
        lists = {
            "extensionsUsed": [UNLIT] if self.meshes else [],
            "animations": animations,
            "meshes": self.meshes,
            "materials": [material] if self.meshes else [],
            "accessors": self.accessors,
            "bufferViews": self.views,
            "buffers": [{"byteLength": len(self.data)}] if self.data else [],
        }
        header = {
            "asset": {"version": "2.0", "generator": "protoscene"},
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": nodes,
            **{name: items for name, items in lists.items() if items},
        }
        return _container(header, bytes(self.data))


def _container(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text
    if data:
        chunks += struct.pack("<I4s", len(data), b"BIN\0") + data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _linear_from_srgb() -> np.ndarray:
    srgb = np.arange(256) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return np.rint(65535 * linear).astype(np.uint16)


_LINEAR_16 = _linear_from_srgb()
