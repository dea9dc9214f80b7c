"""truth.json: what is read back, and one-line refusals that name the field."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from protoscene.errors import Refused
from protoscene.truth import load_truth

TRUTH = {
    "format": "protoscene-truth",
    "version": 1,
    "times": [0.0, 0.1, 0.2],
    "grid": {"origin": [0, 0, 0], "voxel_size": 0.05, "shape": [4, 4, 4]},
    "prototypes": [
        {"id": 7, "kind": "car", "size_m": [0.9, 0.4, 0.3], "symmetry": None},
        {"id": 3, "kind": "drum", "size_m": [0.5, 0.5, 0.6], "symmetry": "round"},
    ],
    "objects": [
        {
            "id": 12,
            "prototype": 3,
            "kind": "drum",
            "moving": True,
            "score": 1.0,
            "dims_m": [0.5, 0.5, 0.6],
            "track": {
                "time": [0.1, 0.2],
                "centre_m": [[0, 1, 2], [0, 1.5, 2]],
                "yaw_rad": [0.0, 0.5],
                "scale": [1.0, 1.0],
                "visible": [True, False],
                "visible_pixels": [40, 2],
            },
        }
    ],
}


def written(folder: Path, content: object) -> Path:
    path = folder / "truth.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_reads_what_is_written(tmp_path):
    (tmp_path / "heldout").mkdir()
    (tmp_path / "heldout" / "transforms.json").write_text("{}")
    truth = load_truth(written(tmp_path, {**TRUTH, "heldout": "heldout/transforms.json"}))
    assert truth.times == (0.0, 0.1, 0.2)
    (drum,) = truth.objects
    assert (drum.id, drum.kind, drum.moving, drum.dims_m) == (12, "drum", True, (0.5, 0.5, 0.6))
    assert truth.prototypes[drum.prototype].symmetry == "round"
    np.testing.assert_array_equal(drum.track.centre, [[0, 1, 2], [0, 1.5, 2]])
    np.testing.assert_array_equal(drum.track.visible, [True, False])
    assert truth.heldout == tmp_path / "heldout" / "transforms.json"


def test_a_scene_whose_objects_were_given_kinds_is_a_truth(tmp_path):
    scene = copy.deepcopy(TRUTH)
    scene["format"] = "protoscene-scene"
    scene["files"], scene["made_by"], scene["background"] = {}, {}, "background.safetensors"
    for prototype in scene["prototypes"]:
        del prototype["kind"], prototype["symmetry"]
        prototype["file"] = "prototypes/0.safetensors"
    truth = load_truth(written(tmp_path, scene))
    assert [p.kind for p in truth.prototypes] == ["prototype 7", "drum"]
    assert truth.heldout is None


def changed(path: str, value: object) -> dict:
    content = copy.deepcopy(TRUTH)
    *parents, last = path.split("/")
    place = content
    for key in parents:
        place = place[int(key) if key.isdigit() else key]
    place[int(last) if last.isdigit() else last] = value
    return content


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ("{", "line 1:2"),
        ("[]", "top level"),
        (changed("format", "other"), "format"),
        (changed("version", 2), "version"),
        (changed("times", []), "times"),
        (changed("times", [0.0, 0.2, 0.1]), "times"),
        (changed("prototypes/1/id", 7), "prototypes"),
        (changed("prototypes/0/symmetry", "mirror"), "prototypes[0].symmetry"),
        (changed("prototypes/0/size_m", [1, 0, 1]), "prototypes[0].size_m"),
        (changed("objects/0/prototype", 5), "objects[0].prototype"),
        (changed("objects/0/kind", None), "objects[0].kind"),
        (changed("objects/0/colour", "red"), "objects[0]"),
        (changed("objects/0/dims_m", [1, 1]), "objects[0].dims_m"),
        (changed("objects/0/track/time", [0.1, 0.15]), "objects[0].track.time"),
        (changed("objects/0/track/yaw_rad", [0.1]), "objects[0].track.yaw_rad"),
        (changed("objects/0/track/scale", [1.0, -1.0]), "objects[0].track.scale"),
        (changed("heldout", "nowhere.json"), "heldout"),
        (changed("heldout", "../truth.json"), "heldout"),
    ],
)
def test_bad_truth_is_refused_with_its_field(tmp_path, content, field):
    path = written(tmp_path, content)
    with pytest.raises(Refused) as refusal:
        load_truth(path)
    assert refusal.value.field == field
    assert "\n" not in str(refusal.value)


def test_a_missing_or_infinite_truth_is_refused(tmp_path):
    with pytest.raises(Refused, match="file is missing"):
        load_truth(tmp_path / "truth.json")
    text = json.dumps(TRUTH).replace("0.5, 2]", "0.5, 1e999]").replace("1.5, 2]", "1e999, 2]")
    with pytest.raises(Refused):
        load_truth(written(tmp_path, text))
