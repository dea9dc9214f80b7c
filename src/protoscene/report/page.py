"""The report page: one HTML file with everything in it, which asks nothing of any other place."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable
from dataclasses import dataclass
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from string import Template

from protoscene.files import write_file
from protoscene.recording import Recording
from protoscene.report import sections
from protoscene.report.timeline import timeline_document
from protoscene.scene import Scene
from protoscene.score import ScoreCard

POLICY = (
    "default-src 'none'; script-src 'strict-dynamic' 'wasm-unsafe-eval' {scripts}; "
    "style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
    "worker-src data: blob:; base-uri 'none'; form-action 'none'"
)
"""Only the scripts written here run, and nothing may be fetched. The player in the frame inherits
this policy: it starts its own code from a string (strict-dynamic), unpacks with WebAssembly, and
reads pictures from data: and blob: addresses of its own making."""


def write_page(
    scene: Scene, path: Path, recording: Recording | None = None, card: ScoreCard | None = None
) -> None:
    """Writes the report of ``scene`` to ``path``: complete, or not at all.

    The 3-D timeline, the objects, the prototypes and, where given, the recorded pictures beside
    the rendered ones and the scores of ``card``. The page opens from anywhere, makes no request,
    and is the same, byte for byte, for the same input. Raises Refused where a picture of
    ``recording`` cannot be read, OSError where ``path`` cannot be written.
    """
    write_file(path, page(scene, recording, card).html.encode())


@dataclass(frozen=True)
class Page:
    """The page's text, and the Content-Security-Policy that it carries."""

    html: str
    policy: str


def page(scene: Scene, recording: Recording | None = None, card: ScoreCard | None = None) -> Page:
    """The page that :func:`write_page` writes."""
    player = timeline_document(scene, recording)
    script = _part("page.js")
    parts = [
        sections.heading(scene),
        sections.timeline(player),
        sections.comparison(scene, recording) if recording else "",
        sections.objects(scene, recording),
        sections.prototypes(scene),
        sections.scores(card) if card else "",
        sections.footer(scene),
    ]
    hashes = " ".join(_source(text) for text in [script, *_scripts(player)])
    policy = POLICY.format(scripts=hashes)
    text = Template(_part("page.html")).substitute(
        policy=html.escape(policy),
        style=_part("page.css"),
        script=script,
        body="\n".join(part for part in parts if part),
    )
    return Page(text, policy)


def _part(name: str) -> str:
    return files("protoscene.report").joinpath(name).read_text(encoding="utf-8")


def _source(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _scripts(document: str) -> Iterable[str]:
    """The text of every inline script of an HTML document."""
    finder = _ScriptFinder()
    finder.feed(document)
    finder.close()
    return finder.found


class _ScriptFinder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.found: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "script":
            self._inside = True
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found[-1] += data
