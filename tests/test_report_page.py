"""What the report page holds: the scene as it is, the same bytes every time, little of it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.spatial import cKDTree

import scored_scenes
from protoscene.geometry import Grid
from protoscene.prototypes import VoxelPrototypes
from protoscene.recording import Frame, Recording, Sweep, SweepEntry, View
from protoscene.report import turntable, write_page
from protoscene.report.strips import object_strips
from protoscene.report.timeline import timeline_of
from protoscene.scene import Background, Scene, Track
from protoscene.score import score_objects
from protoscene.score_table import readable
from protoscene.surface import visible_faces
from protoscene.volume import Volume
from report_pages import written
from report_scenes import TIMES, toy_recording, toy_scene

__all__ = ["written"]  # a fixture of theirs


def test_the_policy_names_every_script_of_the_page_and_no_other(written):
    text = written[2].read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    allowed = set(re.findall(r"&#x27;(sha256-[^&]*)&#x27;", policy))
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digests = {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts}
    assert len(scripts) == 3 and allowed == {f"sha256-{digest}" for digest in digests}
    assert text.count("<script") == len(scripts) + 2  # and two that hold numbers
    for word in ("unsafe-eval", "strict-dynamic", "connect-src", "http", "blob:"):
        assert word not in policy
    assert "default-src &#x27;none&#x27;" in policy


def test_the_same_scene_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(turntable, "PIXELS", 16)
    for name in ("one.html", "two.html"):
        scene = toy_scene()
        write_page(scene, tmp_path / name, toy_recording(scene, height=16))
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_a_page_says_nothing_of_this_machine_and_names_no_other_place(written):
    text = written[2].read_text()
    ours = re.sub(r' id="shapes">[^<]*<', "", re.sub(r"base64,\S+", "", text))
    assert "http:" not in ours and "https:" not in ours and "//" not in ours
    assert str(Path(__file__).parent) not in text and str(Path.home()) not in text


def test_without_recording_and_card_only_their_rows_are_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(turntable, "PIXELS", 16)
    write_page(toy_scene(), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "Recorded and rendered" not in text and "Scores" not in text
    assert "Object 1" in text and "Prototype 1" in text
    layers = re.findall(r'data-layer="(\w+)"', text)
    assert layers == ["background", "objects", "boxes", "tracks"]  # nothing was measured


def test_a_scene_of_nothing_but_background_is_a_page_too(tmp_path):
    scene = replace(
        toy_scene(), objects=(), prototypes=VoxelPrototypes([], []), sizes_m=(), symmetries=()
    )
    write_page(scene, tmp_path / "page.html", toy_recording(scene, ("left",), 16))
    text = (tmp_path / "page.html").read_text()
    assert "0 objects of 0 prototypes" in text and "Nothing was found that moved." in text


def test_what_stood_still_is_told_apart_and_shares_its_prototype(tmp_path, monkeypatch):
    monkeypatch.setattr(turntable, "PIXELS", 16)
    scene = toy_scene()
    still = Track(
        np.array(TIMES), np.tile([0.9, -0.9, 0.2], (5, 1)), np.zeros(5), np.ones(5),
        np.ones(5, dtype=bool),
    )  # fmt: skip
    parked = replace(scene.objects[0], id=2, moving=False, track=still)
    pages = {}
    for name, things in (("alone", scene.objects), ("parked", (parked, *scene.objects))):
        write_page(replace(scene, objects=things), tmp_path / name)
        pages[name] = (tmp_path / name).read_text()
    assert "2 objects of 2 prototypes" in pages["alone"]
    assert "Stood still" not in pages["alone"] and "shared by" not in pages["alone"]
    text = pages["parked"]
    assert "2 objects that moved and 1 that stood still, of 2 prototypes" in text
    moved, stood = text.split("Stood still all the time")
    assert re.findall(r"Object (\d)</h3>", moved) == ["0", "1"]
    assert re.findall(r"Object (\d)</h3>", stood) == ["2"]
    assert text.count("<dd>0, shared by 2 objects</dd>") == 2 and "<dd>1</dd>" in text
    cards = re.sub(r"<span[^>]*></span>", "", text)
    assert "objects 2 (stood still), 0</p>" in cards and "objects 1</p>" in cards


def unpacked(scene: Scene, recording: Recording | None = None) -> tuple[dict, bytes]:
    shown = timeline_of(scene, recording)
    return json.loads(shown.header), zlib.decompress(base64.b64decode(shown.shapes))


def coordinates(header: dict, data: bytes, part: dict) -> np.ndarray:
    """World coordinates (n, 3) of a part's points."""
    raw = np.frombuffer(data, "<u2", 3 * part["n"], part["places"]).reshape(-1, 3)
    return np.array(part["lower"]) + part["step"] * raw + header["origin"]


def test_every_object_is_where_its_track_says_at_every_instant():
    scene = toy_scene()
    sparse = replace(
        scene.objects[0],
        track=Track(*(values[::2] for values in vars(scene.objects[0].track).values())),
    )
    far = np.array([4e6, -3e6, 100.0])
    scene = moved_by(replace(scene, objects=(sparse, scene.objects[1])), far)
    header, data = unpacked(scene)
    for thing, said in zip(scene.objects, header["objects"], strict=True):
        track = np.frombuffer(data, "<f4", 6 * said["n"], said["track"]).reshape(-1, 6)
        times = scene.times[said["first"] : said["first"] + said["n"]]
        assert times == tuple(t for t in scene.times if thing.track.covers(t))
        for time, row in zip(times, track, strict=True):
            centre, yaw, scale = thing.track.pose(time)
            np.testing.assert_allclose(row[:3] + np.array(header["origin"]), centre, atol=1e-6)
            np.testing.assert_allclose(row[3:5], [yaw, scale], atol=1e-6)
    assert header["objects"][0]["n"] == 5 and header["objects"][1]["n"] == 4


def moved_by(scene: Scene, metres: np.ndarray) -> Scene:
    grid = scene.grid
    there = Grid(tuple(np.array(grid.origin) + metres), grid.voxel_size, grid.shape)
    volume = replace(scene.background.volume, grid=there)
    things = [
        replace(thing, track=replace(thing.track, centre=thing.track.centre + metres))
        for thing in scene.objects
    ]
    return replace(scene, background=Background(volume), objects=tuple(things))


def test_a_mesh_is_the_volume_it_was_made_of():
    scene = toy_scene()
    header, data = unpacked(scene)
    mesh = header["prototypes"][0]
    corners, colours = visible_faces(
        Volume(scene.prototypes.rgba(0), scene.prototypes.grid(0)), closed=True
    )
    places = coordinates({"origin": [0, 0, 0]}, data, mesh)
    faces = np.frombuffer(data, "<u4", 4 * mesh["n_faces"], mesh["faces"]).reshape(-1, 4)
    np.testing.assert_allclose(places[faces], corners, atol=1e-4)
    rgb = np.frombuffer(data, "u1", 3 * mesh["n"], mesh["colours"]).reshape(-1, 3)
    assert np.abs(rgb[faces].mean(axis=(0, 1)) - colours.mean(axis=0)).max() < 3


def test_evidence_is_what_was_measured_inside_the_grid(written):
    scene, recording, _ = written
    header, data = unpacked(scene, recording)
    assert [one["instant"] for one in header["evidence"]] == [0, 1, 2, 3, 4]
    for one in header["evidence"]:
        points = coordinates(header, data, one)
        assert 1000 < len(points) <= 20_000
        assert ((points >= scene.grid.lower - 0.01) & (points <= scene.grid.upper + 0.01)).all()
        volume = scene.compose(scene.times[one["instant"]])
        solid = volume.occupancy.numpy() > 0.5
        z, y, x = (axes[solid] for axes in np.indices(solid.shape))
        middles = scene.grid.world_from_voxel(np.stack([x, y, z], axis=1) + 0.5)
        assert np.quantile(cKDTree(middles).query(points)[0], 0.95) < 0.08


def test_a_lidar_has_evidence_and_no_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(turntable, "PIXELS", 16)
    scene = toy_scene()
    pose = np.eye(4)
    pose[:3, 3] = [0.5, 0, 0.5]
    points = np.float32([[0.2, 0.1, -0.4], [-1, 0.3, 0], [90, 0, 0]])
    recording = Recording(
        Path("log"), [], sweeps=[SweepEntry(time, pose, Path("s")) for time in TIMES[1:]],
        read_sweep=lambda one: Sweep(one.time, pose, points, np.float32([1, 0.5, 0])),
    )  # fmt: skip
    header, data = unpacked(scene, recording)
    assert [one["instant"] for one in header["evidence"]] == [1, 2, 3, 4]
    found = coordinates(header, data, header["evidence"][0])
    np.testing.assert_allclose(found, [[0.7, 0.1, 0.1], [-0.5, 0.3, 0.5]], atol=1e-4)
    write_page(scene, tmp_path / "page.html", recording)
    text = (tmp_path / "page.html").read_text()
    assert 'data-layer="evidence"' in text and 'data-layer="cameras"' not in text
    assert "Recorded and rendered" not in text and "From the camera" not in text


def test_detections_of_many_instants_are_listed_up_to_a_number(tmp_path, monkeypatch):
    monkeypatch.setattr(turntable, "PIXELS", 16)
    scene = toy_scene()
    first = scene.objects[0]
    alone = Track(*(values[:1] for values in vars(first.track).values()))
    many = tuple(replace(first, id=i, track=alone, score=i / 1000) for i in range(700))
    write_page(replace(scene, objects=many), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert text.count('data-choose="') == 500 and "500 of 700: the best scores." in text
    assert 'data-choose="699"' in text and 'data-choose="199"' not in text
    header, _ = unpacked(replace(scene, objects=many))
    assert len(header["objects"]) == 700


def test_scores_are_shown_with_their_units(tmp_path, monkeypatch):
    monkeypatch.setattr(turntable, "PIXELS", 16)
    truth = scored_scenes.truth()
    moved = [
        scored_scenes.with_track(thing, centre=thing.track.centre + [0.01, 0, 0])
        for thing in truth.objects
    ]
    card = score_objects(moved, truth, 0.05)
    write_page(toy_scene(), tmp_path / "page.html", card=card)
    text = (tmp_path / "page.html").read_text()
    rows = re.findall(r"<tr><td>([^<]*)</td><td class=\"value\">([^<]*)</td></tr>", text)
    assert rows == [(name, value) for _, name, value in readable(card)]
    assert ("median", "10.0 mm (0.20 voxels)") in rows


def test_a_large_scene_stays_a_small_page(tmp_path, monkeypatch):
    """Worst case: a volume of noise, of which every second voxel shows all its faces."""
    generator = torch.Generator().manual_seed(0)
    rgba = torch.rand(4, 32, 128, 128, generator=generator)
    grid = Grid((0.0, 0.0, 0.0), 0.05, (32, 128, 128))
    scene = replace(
        toy_scene(), background=Background(Volume(rgba, grid)), objects=(),
        prototypes=VoxelPrototypes([], []), sizes_m=(), symmetries=(),
    )  # fmt: skip
    write_page(scene, tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 6e6


def test_a_crop_comes_from_the_camera_that_sees_most(written):
    scene, recording, _ = written
    # The left camera's pictures are made bright and its depth empty: it measures nothing.

    def read(frame: Frame) -> View:
        view = recording.view(recording.frames.index(frame))
        left = frame.camera_name == "left"
        colour = np.full_like(view.colour, 200 if left else 40)
        return replace(view, colour=colour, depth=view.depth * np.float32(not left))

    blinded = Recording(recording.source, recording.frames, read)
    strips = object_strips(scene, scene.objects, blinded)
    assert [crop.time for crop in strips[1]] == list(TIMES[:4])
    assert [crop.seen for crop in strips[0]] == [True, True, False, True, True]
    for crop in strips[0] + strips[1]:
        with Image.open(io.BytesIO(base64.b64decode(crop.picture.split(",")[1]))) as picture:
            assert np.median(np.asarray(picture)) < 60
