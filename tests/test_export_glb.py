"""Exported glb files: valid, read alike by trimesh and three.js, and moving as the scene does."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from playwright.sync_api import Page, Route, sync_playwright

from protoscene.errors import Failed
from protoscene.export.glb import scene_glb
from protoscene.geometry import rotation_from_yaw
from protoscene.prototypes import VoxelPrototypes
from protoscene.scene import Scene
from protoscene.volume import Background, Volume
from report_scenes import TIMES, toy_scene
from test_report import CHROMIUM, CHROMIUM_FLAGS

WEB = Path(__file__).parent / "web"
HERE = "http://scene.test"
Y_FROM_Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def a_scene() -> Scene:
    """The toy scene with two more of the second kind: one that grows, one that comes later and
    turns across ±π; and seconds that do not begin at 0."""
    toy = toy_scene()
    _, post = toy.objects
    grows = replace(post.track, scale=np.linspace(1, 1.5, 4))
    late = replace(
        post.track, time=post.track.time[1:], centre=-post.track.centre[1:],
        yaw=np.array([3.0, -3.0, -2.5]), scale=np.ones(3), visible=post.track.visible[1:],
    )  # fmt: skip
    objects = (*toy.objects, replace(post, id=5, track=grows), replace(post, id=9, track=late))
    shifted = [
        replace(thing, track=replace(thing.track, time=thing.track.time + 7)) for thing in objects
    ]
    return replace(toy, times=tuple(t + 7 for t in TIMES), objects=tuple(shifted))


def expected_matrix(scene: Scene, id: int, time: float) -> np.ndarray:
    """glTF's world from the object's own frame; a zero upper left part where it does not exist."""
    (track,) = [thing.track for thing in scene.objects if thing.id == id]
    centre, yaw, scale = track.pose(time)
    matrix = np.eye(4)
    matrix[:3, :3] = (scale if track.covers(time) else 0) * rotation_from_yaw(yaw)
    matrix[:3, 3] = centre
    return Y_FROM_Z_UP @ matrix


def json_of(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[12:16], "little")
    return json.loads(data[20 : 20 + length])


@pytest.fixture(scope="module")
def scene() -> Scene:
    return a_scene()


@pytest.fixture(scope="module")
def exported(scene: Scene) -> bytes:
    return scene_glb(scene)


def report_of(data: bytes, folder: Path) -> dict[str, Any]:
    if shutil.which("node") is None or not (WEB / "node_modules" / "gltf-validator").is_dir():
        pytest.skip("needs node and the glTF validator, which `make test` installs where npm is")
    file = folder / "scene.glb"
    file.write_bytes(data)
    command = ["node", str(WEB / "validate.js"), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_validator_of_khronos_has_nothing_to_say(exported: bytes, tmp_path: Path) -> None:
    report = report_of(exported, tmp_path)
    assert report["issues"]["messages"] == []
    assert report["info"]["animationCount"] == 1
    assert report["info"]["drawCallCount"] == 3  # the background and two prototypes
    broken = exported.replace(b'"scene":0', b'"scene":7')
    assert report_of(broken, tmp_path)["issues"]["numErrors"] > 0


def test_a_scene_of_nothing_is_valid(scene: Scene, tmp_path: Path) -> None:
    empty = Volume(torch.zeros_like(scene.background.volume.rgba), scene.grid)
    hollow = VoxelPrototypes.from_rgba([torch.zeros(4, 2, 2, 2)] * 2, 0.1)
    for objects, prototypes in (((), scene.prototypes), (scene.objects, hollow)):
        bare = replace(scene, background=Background(empty), objects=objects, prototypes=prototypes)
        report = report_of(scene_glb(bare), tmp_path)
        errors = [m for m in report["issues"]["messages"] if m["severity"] == 0]
        assert errors == []


def test_trimesh_finds_meshes_places_and_sizes(scene: Scene, exported: bytes) -> None:
    read = trimesh.load(io.BytesIO(exported), "glb", process=False)
    assert set(read.geometry) == {"background", "prototype 0", "prototype 1"}
    for k, size in enumerate(scene.sizes_m):
        extents = read.geometry[f"prototype {k}"].extents
        np.testing.assert_allclose(extents, size, atol=1e-6)
        np.testing.assert_allclose(
            read.geometry[f"prototype {k}"].bounds.mean(axis=0), 0, atol=1e-6
        )
    for thing in scene.objects:
        matrix, mesh = read.graph.get(f"object {thing.id}")
        assert mesh == f"prototype {thing.prototype}"
        first = expected_matrix(scene, thing.id, scene.times[0])
        np.testing.assert_allclose(matrix, first, atol=1e-6)
    floor, _ = read.graph.get("background")
    corners = trimesh.transform_points(read.geometry["background"].vertices, floor)
    np.testing.assert_allclose([corners[:, 1].min(), corners[:, 1].max()], [0, 0], atol=1e-6)


def test_what_belongs_to_an_object_is_said_of_its_node(scene: Scene, exported: bytes) -> None:
    nodes = {n["name"]: n for n in json_of(exported)["nodes"]}
    for thing in scene.objects:
        extras = nodes[f"object {thing.id}"]["extras"]
        assert extras["id"] == thing.id and extras["prototype"] == thing.prototype
        assert extras["dims_m"] == list(thing.dims_m) and extras["score"] == thing.score


def test_the_same_scene_gives_the_same_bytes(scene: Scene, exported: bytes) -> None:
    assert scene_glb(a_scene()) == exported


def test_instants_that_32_bits_cannot_part_are_not_written(scene: Scene) -> None:
    thing = scene.objects[0]
    track = replace(thing.track, time=7 + np.array([0, 1, 1 + 1e-9, 2, 3]))
    with pytest.raises(Failed, match="object 0: two instants are too close"):
        scene_glb(replace(scene, objects=(replace(thing, track=track),)))


@pytest.fixture(scope="module")
def player(exported: bytes) -> Iterator[Page]:
    """The exported file, open in three.js; nothing is asked of any network."""
    if not Path(CHROMIUM).exists() or not (WEB / "node_modules" / "three").is_dir():
        pytest.skip(f"needs a browser at {CHROMIUM} and three.js, which `make test` installs")

    def serve(route: Route) -> None:
        name = route.request.url.removeprefix(f"{HERE}/")
        if name == "scene.glb":
            route.fulfill(body=exported, content_type="model/gltf-binary")
            return
        file = WEB / "node_modules" / name if name.startswith("three/") else WEB / name
        kind = "text/html" if file.suffix == ".html" else "text/javascript"
        if file.is_file():
            route.fulfill(body=file.read_bytes(), content_type=kind)
        else:
            route.abort()

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        page = browser.new_page()
        page.route("**/*", serve)
        page.goto(f"{HERE}/play.html")
        page.wait_for_function("window.at !== undefined", timeout=120_000)
        yield page
        browser.close()


def test_three_plays_every_track_as_the_scene_has_it(scene: Scene, player: Page) -> None:
    between = [(a + b) / 2 for a, b in zip(scene.times, scene.times[1:], strict=False)]
    for time in [*scene.times, *between]:
        shown = player.evaluate("window.at", time - scene.times[0])
        for thing in scene.objects:
            found = np.array(shown["matrices"][str(thing.id)]).reshape(4, 4).T
            expected = expected_matrix(scene, thing.id, time)
            if not thing.track.covers(time):
                assert np.abs(found[:3, :3]).max() == 0
                continue
            np.testing.assert_allclose(found, expected, atol=2e-6)  # 1 mm and 0.1° are asked
    assert shown["duration"] == pytest.approx(scene.times[-1] - scene.times[0])


def test_three_draws_it_in_its_own_colours(scene: Scene, player: Page) -> None:
    pictures = []
    for time in (0.0, 1.0):
        player.evaluate("window.at", time)
        pixels = np.frombuffer(base64.b64decode(player.evaluate("window.picture()")), np.uint8)
        pictures.append(pixels.reshape(120, 160, 4)[..., :3].astype(int))
    red, floor = np.array([0.8, 0.2, 0.15]) * 255, np.array([0.55, 0.57, 0.6]) * 255
    for picture in pictures:
        assert (np.abs(picture - red).max(axis=-1) <= 2).sum() > 100
        assert (np.abs(picture - floor).max(axis=-1) <= 2).sum() > 1000
    assert (np.abs(pictures[0] - pictures[1]).max(axis=-1) > 30).sum() > 200
