"""The report page: one HTML file with everything in it, which asks nothing of any other place."""

from __future__ import annotations

import base64
import hashlib
import html
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from protoscene.files import write_file
from protoscene.recording import Recording
from protoscene.report import sections
from protoscene.report.timeline import timeline_of
from protoscene.scene import Scene
from protoscene.score import ScoreCard

POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)
"""Only the scripts written here run, and nothing may be fetched."""
SCRIPTS = ("page.space.js", "page.stage.js", "page.js")


def write_page(
    scene: Scene, path: Path, recording: Recording | None = None, card: ScoreCard | None = None
) -> None:
    """Writes the report of ``scene`` to ``path``: complete, or not at all.

    The 3-D timeline, the objects, the prototypes and, where given, what ``recording`` measured, its
    pictures beside the rendered ones (a LiDAR has none) and the scores of ``card``. The page opens
    from anywhere, makes no request, and is the same, byte for byte, for the same input. Raises
    Refused where ``recording`` cannot be read, OSError where ``path`` cannot be written.
    """
    write_file(path, page(scene, recording, card).html.encode())


@dataclass(frozen=True)
class Page:
    """The page's text, and the Content-Security-Policy that it carries."""

    html: str
    policy: str


def page(scene: Scene, recording: Recording | None = None, card: ScoreCard | None = None) -> Page:
    """The page that :func:`write_page` writes."""
    scripts = [_part(name) for name in SCRIPTS]
    pictured = recording if recording and recording.frames else None
    parts = [
        sections.heading(scene),
        sections.timeline(scene, timeline_of(scene, recording)),
        sections.comparison(scene, pictured) if pictured else "",
        sections.objects(scene, pictured),
        sections.prototypes(scene),
        sections.scores(card) if card else "",
        sections.footer(scene),
    ]
    policy = POLICY.format(scripts=" ".join(map(_source, scripts)))
    text = Template(_part("page.html")).substitute(
        policy=html.escape(policy),
        style=_part("page.css"),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
        body="\n".join(part for part in parts if part),
    )
    return Page(text, policy)


def _part(name: str) -> str:
    return files("protoscene.report").joinpath(name).read_text(encoding="utf-8")


def _source(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
