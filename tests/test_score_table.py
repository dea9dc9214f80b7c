"""What a person reads of a score: every measure once, in words, with its unit."""

from __future__ import annotations

from protoscene.score import score_objects, table
from protoscene.score_pictures import PictureScore
from protoscene.score_table import headlines, readable
from scored_scenes import truth, with_track

PICTURES = PictureScore(12, 21.26, *[float("nan")] * 3, 0.00844, 0.897)


def test_every_measure_has_a_row_in_words() -> None:
    card = score_objects(truth().objects, truth(), 0.05, pictures=PICTURES)
    rows = readable(card)
    assert len({(section, measure) for section, measure, _ in rows}) == len(rows)
    assert len(rows) == len({(section, name) for section, name, *_ in table(card)})
    assert not any("_" in text for row in rows for text in row)


def test_values_are_rounded_and_have_their_unit() -> None:
    shifted = [with_track(o, centre=o.track.centre + [0.0125, 0, 0]) for o in truth().objects]
    card = score_objects(shifted, truth(), 0.05, pictures=PICTURES)
    values = {(section, measure): value for section, measure, value in readable(card)}
    assert values["Error of centres", "median"] == "12.5 mm (0.25 voxels)"
    assert values["Error of centres", "median along y"] == "0.0 mm"
    assert values["Error of yaw", "median"] == "0.00°"
    assert values["Boxes at IoU ≥ .5", "F1"] == "1.000"
    assert values["Compared", "instants"] == "8"
    assert values["Held-out pictures", "PSNR"] == "21.3 dB"
    assert values["Held-out pictures", "PSNR on objects"] == "–"
    assert values["Held-out pictures", "PSNR on moving objects"] == "–"
    assert values["Held-out pictures", "depth error, median"] == "8.4 mm"


def test_headlines_are_rows_of_the_table() -> None:
    with_pictures = headlines(score_objects(truth().objects, truth(), 0.05, pictures=PICTURES))
    without = headlines(score_objects([], truth(), 0.05))
    assert len(with_pictures) == 9 and [row for row in with_pictures if row[1] == "21.3 dB"]
    assert len(without) == 7 and ("error of centres, median", "–") in without
