"""The part of the corpus of bad inputs that is of a kind that is never read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from bad_pictures import depth_bytes
from damage import Case


def cases() -> Iterator[Case]:
    """Meshes, clouds, EXR pictures and pickles: kinds that are not read, whole or broken."""
    meshes = {
        "STL": (b"solid a\nfacet normal 0 0 1\nouter loop\nvertex 0 0 NUM\n", ".stl"),
        "PLY": (
            b"ply\nformat ascii 1.0\nelement vertex 3\nend_header\n0 0 NUM\n3 0 1 FACE\n",
            ".ply",
        ),
        "OBJ": (b"v 0 0 NUM\nv 1 0 0\nv 0 1 0\nf 1 2 FACE\n", ".obj"),
        "PCD": (b"# .PCD v0.7\nFIELDS x y z\nPOINTS 3\nDATA ascii\n0 0 NUM\n", ".pcd"),
    }
    for kind, (text, suffix) in meshes.items():
        for number, name, data in (
            (54, "cut", text[: len(text) // 2]),
            (54, "cut early", text[:9]),
            (55, "face", text.replace(b"FACE", b"99").replace(b"NUM", b"0")),
            (55, "negative", text.replace(b"FACE", b"-9").replace(b"NUM", b"0")),
            (56, "nan", text.replace(b"FACE", b"3").replace(b"NUM", b"nan")),
            (56, "inf", text.replace(b"FACE", b"3").replace(b"NUM", b"inf")),
            (57, "none", text.split(b"\n")[0] + b"\n"),
            (57, "no area", text.replace(b"FACE", b"1").replace(b"NUM", b"0")),
        ):
            for command in ("recording", "scene"):
                file = f"thing{suffix}"
                damage = offered(file, data)
                label = f"{number} {kind} {name} as a {command}"
                yield Case(label, f"file:{command}", damage, file, "", "is not read (got a")
    exr = b"\x76\x2f\x31\x01\x02\0\0\0" + b"channels\0chlist\0" + bytes(40)
    for number, name, data in (
        (34, "cut", exr[:12]), (34, "whole", exr), (34, "deep", exr[:5] + b"\x08" + exr[6:]),
        (34, "multipart", exr[:5] + b"\x10" + exr[6:]), (34, "tiled", exr[:5] + b"\x02" + exr[6:]),
        (35, "inf", exr + b"\x7c\0" * 32), (35, "-inf", exr + b"\xfc\0" * 32),
        (35, "nan", exr + b"\x7e\0" * 32), (35, "max", exr + b"\x7b\xff" * 32),
        (35, "zero", exr + bytes(64)),
    ):  # fmt: skip
        for i in (0, 3, 5):
            damage = depth_bytes(i, f"d{i}.exr", data)
            field = f"frames[{i}].depth_file_path"
            says = "neither PNG, JPEG, .npy nor .npz (got an OpenEXR"
            yield Case(f"{number} {name} {i}", "transforms", damage, f"d{i}.exr", field, says)
    pickled = b"\x80\x04\x95\x1b\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."
    for suffix, what in (
        (".pt", "a pickle"), (".pth", "a pickle"), (".pkl", "a pickle"), (".pickle", "a pickle"),
        (".ckpt", "a pickle"), (".joblib", "a pickle"), (".yaml", "YAML"), (".yml", "YAML"),
    ):  # fmt: skip
        for command in ("model", "scene", "recording"):
            damage = offered(f"thing{suffix}", pickled if what[0] == "a" else b"!!python/object: x")
            label = f"60 {suffix} as a {command}"
            says = f"{what} is never loaded"
            yield Case(label, f"file:{command}", damage, f"thing{suffix}", command, says)


def offered(name: str, data: bytes) -> Callable[[Path], object]:
    """A file beside the base, to be given in its place."""
    return lambda folder: (folder / name).write_bytes(data)
