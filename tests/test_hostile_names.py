"""Thirty names that would be more than a name, in every place of a scene that takes words: on the
page each is text, on the terminal none is obeyed."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from hostile_names import HOSTILE
from protoscene.cli import results, terminal
from protoscene.errors import Refused, printable
from protoscene.report import comparison, page, turntable
from protoscene.scene import Scene
from report_scenes import TIMES, toy_recording, toy_scene

TAME = tuple(f"name {i}" for i in range(len(HOSTILE)))
CHROMIUM = Path("/usr/bin/chromium")


class Skeleton(HTMLParser):
    """Every tag with the names of its attributes, in order; comments and declarations too."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.nodes: list[object] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.nodes.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def other(self, data: str) -> None:
        self.nodes.append(data)

    handle_comment = handle_decl = handle_pi = unknown_decl = other


def named(names: Sequence[str]) -> Scene:
    """A scene with every name as an object's kind, a symmetry, and on both sides of made_by."""
    scene = replace(toy_scene(), times=TIMES[:1])
    first = scene.objects[0]
    return replace(
        scene,
        objects=tuple(replace(first, id=i, kind=name) for i, name in enumerate(names)),
        prototypes=type(scene.prototypes).from_rgba(
            [scene.prototypes.rgba(1)[:, :2, :2, :2]] * len(names), 0.05
        ),
        sizes_m=((0.1, 0.1, 0.1),) * len(names),
        symmetries=tuple(names),
        made_by={name: name for name in names},
    )


@pytest.fixture(scope="module")
def pages() -> tuple[str, str]:
    """The page with hostile names and the one with tame names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turntable, "PIXELS", 4)
        patch.setattr(comparison, "MAX_CAMERAS", len(HOSTILE))
        written = []
        for names in (HOSTILE, TAME):
            recording = toy_recording(replace(toy_scene(), times=TIMES[:1]), names, 8)
            written.append(page(named(names), recording).html)
    return written[0], written[1]


def test_no_name_becomes_a_node_or_a_handler(pages: tuple[str, str]) -> None:
    hostile, tame = (Skeleton(text) for text in pages)
    assert hostile.nodes == tame.nodes
    text = "".join(hostile.words)
    for name in HOSTILE:  # camera, kind, symmetry, both sides of made_by
        assert text.count(printable(name)) >= 4
    assert not any((ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160 for c in text)


def test_a_browser_sees_the_same_and_asks_for_nothing(
    pages: tuple[str, str], tmp_path: Path
) -> None:
    if not CHROMIUM.exists():
        pytest.skip(f"needs a browser at {CHROMIUM}")
    trees, asked = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for i, text in enumerate(pages):
            path = tmp_path / f"{i}.html"
            path.write_text(text)
            visit = browser.new_page()
            visit.on("dialog", lambda dialog: asked.append(dialog.message) or dialog.dismiss())
            visit.on("request", lambda request: asked.append(request.url))
            visit.route(lambda url: url.startswith("http"), lambda route: route.abort())
            visit.goto(path.as_uri(), wait_until="domcontentloaded")
            trees.append(
                visit.evaluate(
                    "[...document.querySelectorAll('*')]"
                    ".map(node => [node.localName, ...node.getAttributeNames()].join(' '))"
                )
            )
        browser.close()
    assert trees[0] == trees[1] and len(trees[0]) > 300
    assert asked == [(tmp_path / f"{i}.html").as_uri() for i in range(2)]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_the_terminal_obeys_no_name(name: str) -> None:
    refused = Refused(name, name, name, name, name)
    heard = io.StringIO()
    with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
        terminal.complain("error", str(refused))
        terminal.complain("warning", name)
        terminal.say(name)
        terminal.say_table((name.replace("\n", " "), "x"), [(name, 1.0)])
        terminal.say_json({"page": name})
        results.say_result({"page": name}, as_json=False)
        results.say_scene(replace(toy_scene(), symmetries=(name, name)), Path("s" + name), False)
    lines = heard.getvalue().split("\n")
    assert all(line.isprintable() for line in lines)
    assert len(lines) == 12
