"""A score card as a person reads it: sections, measures in words, rounded values with units."""

from __future__ import annotations

import math

from protoscene.score import ScoreCard, table

SECTIONS = {
    "counts": "Compared",
    "at_iou_25": "Boxes at IoU ≥ .25",
    "at_iou_50": "Boxes at IoU ≥ .5",
    "all scores": "Boxes of any score",
    "centre": "Error of centres",
    "yaw": "Error of yaw",
    "size": "Error of sizes",
    "identity": "Tracks",
    "prototypes": "Prototypes",
    "shapes": "Shapes",
    "pictures": "Held-out pictures",
}
MEASURES = {
    "ap50_pooled": "AP at IoU .5",
    "depth_median": "depth error, median",
    "depth_within_5cm": "depth within 5 cm",
    "f1": "F1",
    "flips": "off by more than 90°",
    "idf1": "IDF1",
    "inside": "occupancy within the true box",
    "inside_worst": "the same, of the worst object",
    "moving_idf1": "moving IDF1",
    "p90": "9 of 10 below",
    "psnr": "PSNR",
    "psnr_movers": "PSNR on moving objects",
    "psnr_drawn": "PSNR on moving objects, true or drawn",
    "psnr_objects": "PSNR on objects",
    "v_measure": "V-measure",
    "x_median": "median along x",
    "y_median": "median along y",
    "z_median": "median along z",
}


HEADLINES = (
    ("moving boxes found (IoU ≥ .5)", "at_iou_50", "moving_recall"),
    ("parked boxes found", "at_iou_50", "parked_recall"),
    ("boxes that are right", "at_iou_50", "precision"),
    ("identity kept (moving IDF1)", "identity", "moving_idf1"),
    ("error of centres, median", "centre", "median"),
    ("error of yaw, median", "yaw", "median"),
    ("error of sizes, median", "size", "median"),
    ("held-out pictures, PSNR", "pictures", "psnr"),
    ("held-out pictures, PSNR on objects", "pictures", "psnr_objects"),
)
"""What to look at first."""


def readable(card: ScoreCard) -> list[tuple[str, str, str]]:
    """Rows (section, measure, value), the value with its unit: a share has none, lengths are in
    millimetres and, where the card has them so too, in voxels; "–" is a measure of nothing."""
    return [
        (SECTIONS[section], MEASURES.get(name, name.replace("_", " ")), value)
        for (section, name), value in _values(card).items()
    ]


def headlines(card: ScoreCard) -> list[tuple[str, str]]:
    """The few rows (measure, value) that say most."""
    values = _values(card)
    return [(words, values[key]) for words, *where in HEADLINES if (key := tuple(where)) in values]


def _values(card: ScoreCard) -> dict[tuple[str, ...], str]:
    values: dict[tuple[str, ...], list[str]] = {}
    for section, name, value, unit in table(card):
        values.setdefault((section, name), []).append(_text(value, unit))
    return {key: _joined(texts) for key, texts in values.items()}


def _joined(values: list[str]) -> str:
    first, *others = values
    return first if first == "–" or not others else f"{first} ({', '.join(others)})"


def _text(value: float, unit: str) -> str:
    if isinstance(value, int):
        return str(value)
    if math.isnan(value):
        return "–"
    if unit == "m":
        return f"{1000 * value:.1f} mm"
    digits = {"voxels": 2, "°": 2, "dB": 1}.get(unit, 3)
    return f"{value:.{digits}f}{'' if unit in ('', '°') else ' '}{unit}"
