"""A volume as a mesh: the faces between occupied voxels and empty ones, and their GLB."""

from __future__ import annotations

import json
import struct

import numpy as np
import torch
from jaxtyping import Float, UInt8

from protoscene.geometry import Grid
from protoscene.volume import Volume

OCCUPIED = 0.5
"""Occupancy from which a voxel is drawn."""

GLB_FLOAT, GLB_UINT16, GLB_UINT32 = 5126, 5123, 5125
GLB_ARRAY, GLB_ELEMENTS = 34962, 34963


def visible_faces(
    volume: Volume, closed: bool
) -> tuple[Float[np.ndarray, "n 4 3"], UInt8[np.ndarray, "n 3"]]:
    """Corners (m, counter-clockwise seen from outside) and colours of the faces that show.

    A face shows where an occupied voxel meets an empty one. Where a volume is not ``closed``, its
    outermost faces are left out, so that one can look into a room cut off by its grid.
    """
    occupied = volume.occupancy.detach().cpu().numpy() >= OCCUPIED
    rgb = volume.colour.detach().cpu().clamp(0, 1).numpy()
    padded = np.pad(occupied, 1, constant_values=not closed)
    corners, colours = [], []
    for axis in range(3):  # of x y z; the array's axes run the other way
        b, c = np.eye(3)[(axis + 1) % 3], np.eye(3)[(axis + 2) % 3]
        square = np.array([0 * b, b, b + c, c])
        for side in (0, 1):
            window = [slice(1, -1)] * 3
            window[2 - axis] = slice(2, None) if side else slice(None, -2)
            z, y, x = np.nonzero(occupied & ~padded[tuple(window)])
            ring = (square if side else square[::-1]) + side * np.eye(3)[axis]
            corners.append(np.stack([x, y, z], axis=-1)[:, None, :] + ring)
            colours.append(np.rint(255 * rgb[:, z, y, x].T).astype(np.uint8))
    return volume.grid.world_from_voxel(np.concatenate(corners)), np.concatenate(colours)


def at_most(volume: Volume, n_faces: int) -> Volume:
    """``volume``, its voxels doubled until at most ``n_faces`` faces show."""
    while volume.grid.n_voxels > 1 and len(visible_faces(volume, closed=False)[0]) > n_faces:
        volume = halved(volume)
    return volume


def halved(volume: Volume) -> Volume:
    """Voxels of twice the size: largest occupancy, colours weighted by occupancy."""
    grid = volume.grid
    padding = [n for count in reversed(grid.shape) for n in (0, count % 2)]
    rgba = torch.nn.functional.pad(volume.rgba.detach().float(), padding)
    occupancy = rgba[-1:]
    weight = torch.nn.functional.avg_pool3d(occupancy, 2)
    colour = torch.nn.functional.avg_pool3d(rgba[:-1] * occupancy, 2) / weight.clamp(min=1e-6)
    largest = torch.nn.functional.max_pool3d(occupancy, 2)
    shape = (int(weight.shape[1]), int(weight.shape[2]), int(weight.shape[3]))
    return Volume(torch.cat([colour, largest]), Grid(grid.origin, 2 * grid.voxel_size, shape))


def glb(corners: Float[np.ndarray, "n 4 3"], colours: UInt8[np.ndarray, "n 3"]) -> bytes:
    """Binary glTF of quads with one colour each; without normals, so that viewers shade flat.

    glTF vertex colours are linear, ours are sRGB; 16 bits keep the dark ones apart.
    """
    positions = corners.reshape(-1, 3).astype("<f4")
    linear = np.ones((len(colours), 4), dtype="<u2") * np.uint16(65535)
    linear[:, :3] = _LINEAR_16[colours]
    quads = 4 * np.arange(len(corners), dtype="<u4")[:, None]
    triangles = quads + np.array([0, 1, 2, 0, 2, 3], dtype="<u4")
    parts = [positions.tobytes(), np.repeat(linear, 4, axis=0).tobytes(), triangles.tobytes()]
    return _container(_header(parts, positions, triangles.size), b"".join(parts))


def _header(parts: list[bytes], positions: np.ndarray, n_indices: int) -> dict[str, object]:
    targets = [GLB_ARRAY, GLB_ARRAY, GLB_ELEMENTS]
    starts = np.cumsum([0] + [len(p) for p in parts])
    views = [
        {"buffer": 0, "byteOffset": int(start), "byteLength": len(part), "target": target}
        for start, part, target in zip(starts, parts, targets, strict=False)
    ]
    accessors: list[dict[str, object]] = [
        {
            "componentType": GLB_FLOAT,
            "count": len(positions),
            "type": "VEC3",
            "min": positions.min(axis=0).tolist(),
            "max": positions.max(axis=0).tolist(),
        },
        {"componentType": GLB_UINT16, "count": len(positions), "type": "VEC4", "normalized": True},
        {"componentType": GLB_UINT32, "count": n_indices, "type": "SCALAR"},
    ]
    for view, accessor in enumerate(accessors):
        accessor["bufferView"] = view
    primitive = {"attributes": {"POSITION": 0, "COLOR_0": 1}, "indices": 2, "material": 0}
    return {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "materials": [{"pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 1}}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": int(starts[-1])}],
    }


def _container(header: dict[str, object], data: bytes) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    data += b"\0" * (-len(data) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text
    chunks += struct.pack("<I4s", len(data), b"BIN\0") + data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _linear_from_srgb() -> np.ndarray:
    srgb = np.arange(256) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return np.rint(65535 * linear).astype("<u2")


_LINEAR_16 = _linear_from_srgb()
