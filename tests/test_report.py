"""The report opens in a real browser, shows the scene, and asks nothing of any other place."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, sync_playwright

from protoscene.errors import printable
from protoscene.report import page, turntable, write_page
from protoscene.scene import Scene
from protoscene.viewer import Viewer
from report_pages import written
from report_scenes import TIMES, toy_recording, toy_scene

__all__ = ["written"]  # a fixture of theirs

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
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"needs a browser at {CHROMIUM}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


class Visit:
    """A page opened from its file or address, with all that it complained of or asked for."""

    def __init__(self, browser: Browser, place: Path | str) -> None:
        self.page = browser.new_page(viewport={"width": 1280, "height": 800})
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._heard)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.address = place if isinstance(place, str) else place.as_uri()
        self.page.route(lambda url: url != self.address, lambda route: route.abort())
        self.page.goto(self.address)

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def canvas(self) -> np.ndarray:
        """The pixels of the 3-D view below its switches."""
        with Image.open(io.BytesIO(self.page.locator("#stage").screenshot())) as picture:
            return np.asarray(picture.convert("RGB")).astype(int)[TOP:]

    def drawn(self, wanted: Callable[[np.ndarray], bool]) -> np.ndarray:
        """The view's pixels once they are as wanted."""
        for _ in range(200):
            pixels = self.canvas()
            if wanted(pixels):
                return pixels
            self.page.wait_for_timeout(100)
        raise AssertionError("what was waited for was never drawn")

    def go(self, instant: int) -> None:
        self.page.locator("#timeline").fill(str(instant))

    def switch(self, layer: str, on: bool) -> None:
        self.page.locator(f"[data-layer={layer}]").set_checked(on)

    def click(self, coloured: np.ndarray) -> None:
        """Clicks on the middle of the pixels (rows, columns) that are so coloured."""
        row, column = (int(np.median(numbers)) for numbers in np.nonzero(coloured))
        self.page.locator("#stage").click(position={"x": column, "y": row + TOP})

    def chosen(self) -> str:
        """What is said of the object that is chosen."""
        place = self.page.locator("#chosen")
        return place.inner_text() if place.is_visible() else ""


TOP = 60


NOTE_DRAWN = """() => {
  const draw = Stage.prototype.draw;
  Stage.prototype.draw = function (view, shown) {
    (window.drawn ??= []).push(shown.instant);
    return draw.call(this, view, shown);
  };
}"""


def red(pixels: np.ndarray) -> np.ndarray:
    """Which pixels show the red block; boxes and tracks are of other colours."""
    r, g, b = np.moveaxis(pixels, -1, 0)
    return (r > 150) & (g < 70) & (b < 70)


def green(pixels: np.ndarray) -> np.ndarray:
    """Which pixels show the upper half of the post."""
    r, g, b = np.moveaxis(pixels, -1, 0)
    return (g > r + 60) & (g > b + 40)


def grey(pixels: np.ndarray) -> np.ndarray:
    """Which pixels show the floor."""
    return (np.ptp(pixels, axis=-1) < 25) & (pixels.max(axis=-1) < 215)


def test_the_page_opens_draws_and_plays_without_a_request_or_an_error(browser, written):
    visit = Visit(browser, written[2])
    first = visit.drawn(lambda p: red(p).sum() > 500 and green(p).sum() > 300)
    visit.go(4)  # the block has driven on, the post has left
    last = visit.drawn(lambda p: red(p).sum() > 500 and green(p).sum() == 0)
    assert (np.abs(first - last).max(axis=-1) > 40).sum() > 1000
    assert visit.page.locator("#clock").inner_text() == "2 s"
    visit.page.evaluate(NOTE_DRAWN)
    visit.page.locator("#stage").press(" ")  # from its beginning, once it has ended
    for _ in range(200):
        visit.page.wait_for_timeout(100)
        drawn = visit.page.evaluate("window.drawn ?? []")
        if len(drawn) > 2 and drawn[-1] == 4:
            break
    assert drawn[0] == 0 and drawn[-1] == 4 and drawn == sorted(drawn)
    assert any(0 < instant % 1 < 1 for instant in drawn)  # between instants too
    assert visit.page.locator("#clock").inner_text() == "2 s"
    assert visit.page.locator("#play").inner_text() == "Play"
    assert visit.errors == []
    assert visit.requests == [visit.address]
    visit.page.close()


def test_who_has_the_address_sees_the_same_page_live(browser, written):
    scene, recording, path = written
    ended = threading.Event()

    def check() -> None:
        if ended.is_set():
            raise KeyboardInterrupt

    def serve() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            serving.serve(check)

    with Viewer(page(scene, recording)) as serving:
        assert serving.page.html == path.read_text()
        thread = threading.Thread(target=serve)
        thread.start()
        visit = Visit(browser, serving.url)
        visit.drawn(lambda p: red(p).sum() > 500)
        visit.page.close()
        ended.set()
        thread.join()
    assert visit.errors == [] and visit.requests == [serving.url]


def test_what_is_clicked_or_listed_is_chosen_with_all_that_belongs_to_it(browser, written):
    visit = Visit(browser, written[2])
    pixels = visit.drawn(lambda p: red(p).sum() > 500 and green(p).sum() > 300)
    assert visit.chosen() == "" and visit.page.locator("#unchosen").is_visible()
    for coloured, number, score, names in (
        (red(pixels), 0, "0.98", "front left back right"),
        (green(pixels), 1, "0.91", "front left back right"),
    ):
        visit.click(coloured)
        words = visit.chosen()
        assert f"Object {number}" in words and score in words and "m/s" in words
        assert all(name in words for name in names.split())
        assert visit.page.locator("#facts .strip img").count() == 5 - number
        assert visit.page.locator("#facts .sides img").count() == 4
        pressed = visit.page.locator("[data-choose][aria-pressed=true]")
        assert pressed.count() == 1 and f"Object {number}" in pressed.inner_text()
    visit.page.locator("#stage").click(position={"x": 30, "y": 590})  # nothing is there
    assert visit.chosen() == "" and visit.page.locator("#unchosen").is_visible()
    visit.page.locator("[data-choose='1']").click()
    assert "Object 1" in visit.chosen()
    visit.go(4)
    assert "not there at this time" in visit.chosen()
    assert visit.errors == []
    visit.page.close()


def test_an_object_that_is_switched_off_is_still_chosen_by_its_box(browser, written):
    visit = Visit(browser, written[2])
    pixels = visit.drawn(lambda p: red(p).sum() > 500)
    visit.switch("objects", False)
    visit.drawn(lambda p: red(p).sum() == 0)
    visit.click(red(pixels))
    assert "Object 0" in visit.chosen()
    visit.page.close()


def test_each_layer_can_be_switched_off(browser, written):
    visit = Visit(browser, written[2])
    everything = visit.drawn(lambda p: red(p).sum() > 500 and grey(p).sum() > 20000)
    visit.switch("background", False)
    visit.drawn(lambda p: grey(p).sum() < 4000 and red(p).sum() > 500)
    visit.switch("objects", False)
    lines = visit.drawn(lambda p: red(p).sum() == 0 and green(p).sum() == 0)
    visit.switch("boxes", False)
    tracks = visit.drawn(lambda p: (p != lines).any())
    visit.switch("tracks", False)
    visit.drawn(lambda p: (np.ptp(p, axis=-1) > 60).sum() == 0 and (p != tracks).any())
    visit.switch("evidence", True)  # the recording is a little darker
    assert visit.page.locator("#measured").inner_text() == "of 0 s"
    points = visit.drawn(lambda p: grey(p).sum() > 5000)
    block = points[..., 0] > points[..., 1] + 60
    assert block.sum() > 100 and (everything[block].max(axis=-1) < 255).mean() > 0.8
    visit.page.mouse.move(400, 400)
    visit.page.mouse.wheel(0, 600)  # they stand behind where one looked from
    further = visit.drawn(lambda p: grey(p).sum() < 0.5 * grey(points).sum())
    visit.switch("cameras", True)
    visit.drawn(lambda p: (p != further).any())
    visit.page.close()


def test_one_turns_moves_and_zooms(browser, written):
    visit = Visit(browser, written[2])
    before = visit.drawn(lambda p: red(p).sum() > 500 and green(p).sum() > 300)
    mouse = visit.page.mouse
    mouse.move(400, 400)
    mouse.wheel(0, 400)
    visit.drawn(lambda p: 100 < red(p).sum() < 0.5 * red(before).sum())
    mouse.wheel(0, -400)
    visit.drawn(lambda p: red(p).sum() > 0.9 * red(before).sum())
    mouse.down(button="right")
    mouse.move(500, 400)
    mouse.up(button="right")
    moved = visit.drawn(lambda p: 100 < shift(p, before) < 250)  # nearer than its target
    mouse.move(400, 400)
    mouse.down()
    mouse.move(600, 400)
    mouse.up()
    visit.drawn(lambda p: abs(shift(p, moved)) > 20)
    assert visit.chosen() == ""  # a drag is no click
    visit.page.close()


def shift(pixels: np.ndarray, before: np.ndarray) -> float:
    """By how many columns the red block has moved to the right."""
    return float(np.median(np.nonzero(red(pixels))[1]) - np.median(np.nonzero(red(before))[1]))


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
