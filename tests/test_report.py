"""The report opens in a real browser, shows the scene, and asks nothing of any other place."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import viser
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, sync_playwright

import scored_scenes
from protoscene.errors import printable
from protoscene.geometry import Grid
from protoscene.prototypes import VoxelPrototypes
from protoscene.recording import Frame, Recording, View
from protoscene.report import turntable, write_page
from protoscene.report.strips import object_strips
from protoscene.report.timeline import timeline_document
from protoscene.scene import Background, Scene, Track
from protoscene.score import score_objects
from protoscene.score_table import readable
from protoscene.volume import Volume
from report_scenes import TIMES, toy_recording, toy_scene

CHROMIUM = "/usr/bin/chromium"
CHROMIUM_FLAGS = [
    "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg onload=alert(1)>",
    "</style><script>alert(1)</script>",
    "<iframe src=javascript:alert(1)>",
    "</iframe><b>bold</b>",
    "&lt;b&gt;already escaped&lt;/b&gt;",
    "$script ${body} %s {0}",
    "<!-- comment --><b>",
    "\x1b[31mred\x1b[0m <a href=javascript:alert(1)>x</a>",
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scene, Recording, Path]:
    scene = toy_scene()
    recording = toy_recording(scene, height=72)
    path = tmp_path_factory.mktemp("report") / "page.html"
    write_page(scene, path, recording)
    return scene, recording, path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"needs a browser at {CHROMIUM}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


class Visit:
    """A page opened from its file, with everything it complained of or asked for."""

    def __init__(self, browser: Browser, path: Path) -> None:
        self.page = browser.new_page(viewport={"width": 1280, "height": 800})
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._heard)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.address = path.as_uri()
        self.page.route(lambda url: url != self.address, lambda route: route.abort())
        self.page.goto(self.address)

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def canvas(self) -> np.ndarray:
        """The player's pixels without the notice about software drawing and without the bar."""
        with Image.open(io.BytesIO(self.page.locator("iframe").screenshot())) as picture:
            return np.asarray(picture.convert("RGB")).astype(int)[160:-60]

    def still(self, wanted: Callable[[np.ndarray], bool]) -> np.ndarray:
        """The player's pixels once they are as wanted and no longer change."""
        before = self.canvas()
        for _ in range(240):
            self.page.wait_for_timeout(250)
            pixels = self.canvas()
            if wanted(pixels) and (pixels == before).all():
                return pixels
            before = pixels
        raise AssertionError("the player never drew what was waited for")

    def changed(self, before: np.ndarray) -> None:
        for _ in range(80):
            self.page.wait_for_timeout(250)
            if (np.abs(self.canvas() - before).max(axis=-1) > 40).sum() > 1000:
                return
        raise AssertionError("the player stands still")


def reddish(pixels: np.ndarray) -> int:
    """How many pixels show the red block; boxes and tracks are of other colours."""
    red, green, blue = np.moveaxis(pixels, -1, 0)
    return int(((red > 150) & (green < 70) & (blue < 70)).sum())


def greenish(pixels: np.ndarray) -> int:
    """How many pixels show the upper half of the post."""
    red, green, blue = np.moveaxis(pixels, -1, 0)
    return int(((green > red + 60) & (green > blue + 40)).sum())


def test_the_page_opens_draws_and_plays_without_a_request_or_an_error(browser, written):
    _, _, path = written
    visit = Visit(browser, path)
    slider = visit.page.frame_locator("iframe").locator(".mantine-Slider-track")
    area = slider.bounding_box(timeout=30000)

    def scrub(share: float) -> None:
        visit.page.mouse.click(area["x"] + share * area["width"], area["y"] + area["height"] / 2)

    scrub(0.02)
    first = visit.still(lambda pixels: reddish(pixels) > 500 and greenish(pixels) > 300)
    scrub(0.95)  # the block has driven on, the post has left
    last = visit.still(lambda pixels: reddish(pixels) > 500 and greenish(pixels) == 0)
    assert (np.abs(first - last).max(axis=-1) > 40).sum() > 1000
    visit.page.frame_locator("iframe").locator("button.mantine-ActionIcon-root").first.click()
    visit.changed(last)
    assert visit.errors == []
    assert visit.requests == [visit.address]
    visit.page.close()


def test_the_slider_shows_one_instant_at_a_time(browser, written):
    scene, recording, path = written
    visit = Visit(browser, path)
    shown = visit.page.locator(".instant:visible")
    for i, time in enumerate(scene.times):
        visit.page.locator("#instant").fill(str(i))
        assert shown.count() == 1
        assert shown.get_attribute("data-time") == f"{time:g} s"
        assert visit.page.locator("#time").text_content() == f"{time:g} s"
        assert shown.locator("img").count() == 4 * len(recording.camera_names)
    widths = visit.page.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert min(widths) > 0
    assert visit.errors == []
    visit.page.close()


def test_hostile_names_become_text_and_never_nodes(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(turntable, "PIXELS", 16)
    scene = replace(toy_scene(), times=TIMES[:1])
    for start in (0, 3, 6):
        names = HOSTILE[start : start + 4]
        pages = []
        for given in (names, ("one", "two", "three", "four")):
            path = tmp_path / f"{start}-{len(pages)}.html"
            write_page(named(scene, given), path, toy_recording(scene, given, 16))
            pages.append(Visit(browser, path))
        hostile, tame = pages
        for nodes in (
            "[...document.querySelectorAll('*')].map(node => node.localName)",
            "[...document.querySelectorAll('*')].flatMap(node => node.getAttributeNames())",
        ):
            assert hostile.page.evaluate(nodes) == tame.page.evaluate(nodes)
        text = hostile.page.locator("main").text_content()
        for name in names:
            assert printable(name) in text
        assert not any(ord(c) < 32 and c != "\n" for c in text)
        for visit in pages:
            assert visit.errors == []
            assert visit.requests == [visit.address]
            visit.page.close()


def named(scene: Scene, names: Sequence[str]) -> Scene:
    """The scene with ``names`` in every place that takes words."""
    kinds = zip(scene.objects, names, strict=False)
    return replace(
        scene,
        objects=tuple(replace(thing, kind=name) for thing, name in kinds),
        symmetries=names[2:4],
        made_by={"command": names[0], "recording": names[3]},
    )


def test_the_policy_names_every_script_of_the_page_and_no_other(written):
    text = written[2].read_text()
    ours = re.sub(r' srcdoc="[^"]*"', "", text)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    allowed = set(re.findall(r"&#x27;(sha256-[^&]*)&#x27;", policy))
    player = html.unescape(re.search(r' srcdoc="([^"]*)"', text)[1])
    scripts = [*re.findall(r"<script>(.*?)</script>", ours, re.DOTALL)]
    scripts += re.findall(r"<script(?: [a-z-]+=\"[^\"]*\")*>(.*?)</script>", player, re.DOTALL)
    digests = {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts}
    assert allowed == {f"sha256-{digest}" for digest in digests}
    assert "unsafe-eval" not in policy.replace("wasm-unsafe-eval", "")
    assert "connect-src" not in policy and "default-src &#x27;none&#x27;" in policy


def test_the_same_scene_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(turntable, "PIXELS", 16)
    for name in ("one.html", "two.html"):
        scene = toy_scene()
        write_page(scene, tmp_path / name, toy_recording(scene, height=16))
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_a_page_says_nothing_of_this_machine_and_names_no_other_place(written):
    text = written[2].read_text()
    ours = text.replace(re.search(r' srcdoc="([^"]*)"', text)[0], "")
    assert (
        "http:" not in ours and "https:" not in ours and "//" not in re.sub(r"base64,\S+", "", ours)
    )
    assert str(Path(__file__).parent) not in text and str(Path.home()) not in text


def test_without_recording_and_card_only_their_rows_are_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(turntable, "PIXELS", 16)
    write_page(toy_scene(), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "Recorded and rendered" not in text and "Scores" not in text
    assert "Object 1" in text and "Prototype 1" in text and "<iframe" in text


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


def test_only_what_moved_has_a_line_for_its_track(monkeypatch):
    drawn = []
    kept = viser.SceneApi.add_line_segments
    monkeypatch.setattr(
        viser.SceneApi, "add_line_segments",
        lambda stage, name, *rest, **more: drawn.append(name) or kept(stage, name, *rest, **more),
    )  # fmt: skip
    scene = toy_scene()
    first, second = scene.objects
    timeline_document(replace(scene, objects=(first, replace(second, moving=False))), None)
    assert [name for name in drawn if name.startswith("/tracks")] == ["/tracks/0"]


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
