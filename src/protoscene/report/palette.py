"""Colours that the report gives to objects, so that a box, a track and a card belong together."""

from __future__ import annotations

_OBJECT_COLOURS = (
    "#e4572e", "#1f77b4", "#2a9d3f", "#8e44ad", "#d68910", "#00838f",
    "#c2185b", "#6d4c41", "#5c6bc0", "#7cb342", "#f06292", "#455a64",
)  # fmt: skip


def object_colour(object_id: int) -> str:
    """``#rrggbb`` of an object, the same for the same id; twelve colours, then again."""
    return _OBJECT_COLOURS[object_id % len(_OBJECT_COLOURS)]


def rgb_of(colour: str) -> tuple[int, int, int]:
    """Red, green, blue in 0..255 of ``#rrggbb``."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
