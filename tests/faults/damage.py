"""A case of the corpus of bad inputs, and the ways to damage a file."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

N = 6  # frames of the base recording of layout transforms: 3 instants × 2 cameras
FRAMES = (0, N // 2, N - 1)


@dataclass(frozen=True)
class Case:
    """``damage(folder)`` on a copy of the base of ``layout``; the rest is expected. The name begins
    with the number of its class."""

    name: str
    layout: str
    damage: Callable[[Path], None]
    file: str
    field: str
    says: str
    on_load: bool = True  # else noticed when the picture is read


def edit(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Damage that changes the parsed manifest."""

    def damage(folder: Path) -> None:
        file = folder / "transforms.json"
        manifest = json.loads(file.read_text())
        change(manifest)
        file.write_text(json.dumps(manifest))

    return damage


def put_in(name: str, *keys: Any, value: Any) -> Callable[[Path], None]:
    """Damage that sets one value of a JSON file, as a person would: without its own hash."""

    def damage(folder: Path) -> None:
        document = json.loads((folder / name).read_text())
        document.pop("sha256", None)
        place: Any = document
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = copy.deepcopy(value)
        (folder / name).write_text(json.dumps(document))

    return damage


def put(*keys: Any, value: Any) -> Callable[[Path], None]:
    """Damage that sets one value of the manifest."""
    return put_in("transforms.json", *keys, value=value)


def drop(*keys: Any) -> Callable[[Path], None]:
    def change(manifest: dict[str, Any]) -> None:
        place: Any = manifest
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]

    return edit(change)


def replace_text(file: str, old: str, new: str, count: int = 1) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        text = (folder / file).read_text()
        assert old in text, (file, old)
        (folder / file).write_text(text.replace(old, new, count))

    return damage


def replace_bytes(file: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes(change((folder / file).read_bytes())) and None


def instead(file: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Damage that removes a file and makes something else in its place."""

    def damage(folder: Path) -> None:
        (folder / file).unlink()
        make(folder / file)

    return damage


def line_of(file: str, number: int, change: Callable[[str], str]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        lines = (folder / file).read_text().split("\n")
        lines[number] = change(lines[number])
        (folder / file).write_text("\n".join(lines))

    return damage


def rgb(i: int) -> str:
    return f"rgb/{i % 2}_{i:03d}.png"


def depth(i: int) -> str:
    return f"depth/{i % 2}_{i:03d}.png"
