"""The sections of the report page as HTML. Every word that is not ours is escaped."""

from __future__ import annotations

import html
from itertools import groupby

import numpy as np

from protoscene.errors import printable
from protoscene.recording import Recording
from protoscene.report.comparison import comparisons, largest_depth_difference
from protoscene.report.palette import object_colour
from protoscene.report.pictures import LARGEST_COLOUR_DIFFERENCE, gradient
from protoscene.report.shapes import is_dark
from protoscene.report.strips import Crop, object_strips
from protoscene.report.timeline import Timeline
from protoscene.report.turntable import prototype_sides
from protoscene.scene import Mirror, Scene, SceneObject
from protoscene.score import ScoreCard
from protoscene.score_table import readable

LAYERS = {
    "background": "Background", "objects": "Objects", "boxes": "Boxes", "tracks": "Tracks",
    "evidence": 'Evidence <span id="measured"></span>', "cameras": "Cameras",
}  # fmt: skip
MAX_LISTED = 500
MAX_OBJECTS = 60
MAX_PROTOTYPES = 40


def heading(scene: Scene) -> str:
    """Title and the scene in one line."""
    nz, ny, nx = scene.grid.shape
    length, width, height = scene.grid.size_m
    first, last = _seconds(scene.times[0]), _seconds(scene.times[-1])
    n, n_stood = len(scene.objects), sum(not thing.moving for thing in scene.objects)
    found = _count(n, "object")
    if scene.made_by.get("command") == "detect":  # each of one instant; who moves is not known
        found = _count(n, "detection")
    elif n_stood:
        found = f"{_count(n - n_stood, 'object')} that moved and {n_stood} that stood still,"
    words = [
        f"{found} of {_count(len(scene.prototypes), 'prototype')}",
        f"{_count(len(scene.times), 'instant')}, {first} to {last}",
        f"{nx} × {ny} × {nz} voxels of {100 * scene.grid.voxel_size:.3g} cm "
        f"({length:.3g} × {width:.3g} × {height:.3g} m)",
    ]
    return (
        "<header><h1>Scene report</h1>"
        f'<p class="summary">{html.escape(" · ".join(words))}</p></header>'
    )


def timeline(scene: Scene, shown: Timeline) -> str:
    """The 3-D view, which ``page.js`` and ``page.stage.js`` fill, and the list to choose from."""
    switches = "".join(
        f'<label><input type="checkbox" data-layer="{layer}"'
        f"{'' if layer in _UNCHECKED else ' checked'}>{LAYERS[layer]}</label>"
        for layer in shown.layers
    )
    listed = _best(scene, MAX_LISTED)
    entries = "".join(
        f'<button type="button" data-choose="{thing.id}" aria-pressed="false">{_swatch(thing.id)}'
        f"Object {thing.id}<small>prototype {thing.prototype}, score {thing.score:.2f}</small>"
        "</button>"
        for thing in listed
    )
    if len(listed) < len(scene.objects):
        entries += f'<p class="note">{len(listed)} of {len(scene.objects)}: the best scores.</p>'
    words = "Choose an object: here, or click on it." if scene.objects else "There is no object."
    return (
        '<section aria-label="3-D timeline"><div class="panel player"><div class="view">'
        '<canvas id="stage" width="1" height="1" tabindex="0" aria-label="The scene in 3-D">'
        f'</canvas><p id="complaint"></p><div class="layers">{switches}</div></div>'
        f'<div class="chooser"><div class="list">{entries}</div><p id="unchosen">{words}</p>'
        '<div id="chosen" hidden><p id="place"></p><div id="facts"></div></div></div>'
        '<div class="bar"><button type="button" id="play">Play</button><div>'
        '<input id="timeline" type="range" min="0" step="1" value="0" aria-label="Instant" '
        f'max="{len(scene.times) - 1}"><canvas id="presence" width="1" height="1"></canvas></div>'
        f'<output id="clock">{_seconds(scene.times[0])}</output></div></div>'
        f'<p class="note below">{_HELP[0]}{_HELP[1] if "evidence" in shown.layers else ""}</p>'
        f'<script type="application/json" id="scene">{shown.header}</script>'
        f'<script type="application/octet-stream" id="shapes">{shown.shapes}</script></section>'
    )


_HELP = (
    "Drag to turn, right-drag or shift-drag to move, scroll to zoom; space plays and pauses, "
    "arrows go instant by instant. Each object has its colour: the arrow on its box is its front, "
    "the line its track (what stood still has none), and its box is pale where no sensor saw it.",
    " Evidence is what the sensors measured at the nearest instant that the page holds, thinned.",
)
_UNCHECKED = {"evidence", "cameras"}


def comparison(scene: Scene, recording: Recording) -> str:
    """Per instant and camera: recorded, rendered, difference in colour and in depth."""
    rows = comparisons(scene, recording)
    if not rows:
        return _section("Recorded and rendered", "The recording has none of the scene's instants.")
    metres = largest_depth_difference(scene)
    colour_legend = _legend(gradient(signed=False), "0", f"{LARGEST_COLOUR_DIFFERENCE:.0%}")
    depth_legend = _legend(gradient(signed=True), f"−{metres:.2g} m", f"+{metres:.2g} m")
    head = "".join(
        f'<div class="head">{words}</div>'
        for words in (
            "Recorded", "Rendered", f"Difference {colour_legend}", f"Depth {depth_legend}",
        )
    )  # fmt: skip
    instants = []
    for i, (time, views) in enumerate(rows):
        cells = "".join(
            f'<div class="camera">Camera {_text(view.camera_name)}</div>'
            + _picture(view.recorded, "recorded picture")
            + _picture(view.rendered, "rendered picture")
            + _picture(view.difference, "difference in colour")
            + _picture(view.depth_difference, "difference in depth")
            for view in views
        )
        instants.append(
            f'<div class="instant" data-time="{_seconds(time)}"{" hidden" if i else ""}>'
            f'<div class="compare">{head}{cells}</div></div>'
        )
    slider = (
        '<label class="scrub">Instant <input id="instant" type="range" min="0" step="1" value="0" '
        f'max="{len(rows) - 1}"><output id="time">{_seconds(rows[0][0])}</output></label>'
    )
    return _section(
        "Recorded and rendered",
        "What each camera recorded, and what the scene looks like from the same place. Depth is "
        "blue where the scene is nearer than what was measured, red where it is further, grey "
        "where nothing was measured.",
        f'<div class="panel">{slider}{"".join(instants)}</div>',
    )


def objects(scene: Scene, recording: Recording | None) -> str:
    """A row per object: its numbers and, with a recording, how it was seen over time."""
    if not scene.objects:
        return _section("Objects", "Nothing was found that moved.")
    shown = _best(scene, MAX_OBJECTS)
    strips = object_strips(scene, shown, recording) if recording else {}
    note = "From the camera that sees most of it at each instant; faded where no sensor saw it."
    if len(shown) < len(scene.objects):
        note += f" The {len(shown)} with the highest scores of {len(scene.objects)}."
    moved, stood = (
        "".join(
            _object(scene, thing, strips.get(thing.id, []))
            for thing in shown
            if thing.moving == moving
        )
        for moving in (True, False)
    )
    body = f'<div class="panel">{moved}</div>' if moved else ""
    if stood:
        body += (
            '<h3 class="group">Stood still all the time</h3><p class="note">Found by the prototype '
            f'of another object, which moved.</p><div class="panel">{stood}</div>'
        )
    return _section("Objects", note if recording else "", body)


def _best(scene: Scene, n: int) -> list[SceneObject]:
    """The ``n`` objects with the highest scores, in the order of their ids."""
    best = sorted(scene.objects, key=lambda thing: (-thing.score, thing.id))[:n]
    return sorted(best, key=lambda thing: thing.id)


def _object(scene: Scene, thing: SceneObject, strip: list[Crop]) -> str:
    track = thing.track
    path = float(np.linalg.norm(np.diff(track.centre, axis=0), axis=1).sum())
    users = sum(other.prototype == thing.prototype for other in scene.objects)
    shared = f", shared by {users} objects" if users > 1 else ""
    facts = {
        "Prototype": f"{thing.prototype}{shared}",
        "Score": f"{thing.score:.2f}",
        "Size": _size(np.array(thing.dims_m) * float(np.median(track.scale))),
        "Path": f"{path:.2f} m" if thing.moving else "stands still",
        "Visible": f"{int(track.visible.sum())} of {_count(len(scene.times), 'instant')}",
    }
    if thing.kind is not None:
        facts["Kind"] = thing.kind
    entries = "".join(f"<dt>{k}</dt><dd>{_text(v)}</dd>" for k, v in facts.items())
    return (
        f'<article class="object" data-object="{thing.id}"><div>'
        f"<h3>{_swatch(thing.id)}Object {thing.id}</h3>"
        f"<dl>{entries}</dl></div>"
        f'<div class="strip">{"".join(_crop(crop) for crop in strip)}</div></article>'
    )


def _crop(crop: Crop) -> str:
    if crop.picture is None:
        return f'<figure><div class="blank"></div>{_caption(_seconds(crop.time))}</figure>'
    kind = "" if crop.seen else ' class="unseen"'
    return (
        f"<figure{kind}>{_picture(crop.picture, 'crop around the object')}"
        f"{_caption(_seconds(crop.time))}</figure>"
    )


def prototypes(scene: Scene) -> str:
    """Each prototype from four sides, with its size and the objects that use it."""
    if not len(scene.prototypes):
        return ""
    cards, dark = [], is_dark(scene)
    for k in range(min(len(scene.prototypes), MAX_PROTOTYPES)):
        users = ", ".join(
            f"{_swatch(thing.id)}{thing.id}{'' if thing.moving else ' (stood still)'}"
            for thing in scene.objects
            if thing.prototype == k
        )
        sides = "".join(
            f"<figure>{_picture(uri, f'prototype from the {name}')}{_caption(name)}</figure>"
            for name, uri in prototype_sides(scene, k, dark)
        )
        symmetry = scene.symmetries[k] if k < len(scene.symmetries) else None
        turned = ""
        if isinstance(symmetry, Mirror):
            turned = " · its halves are mirror images"
        elif symmetry:
            turned = f" · looks the same after a {symmetry.replace('_', ' ')}"
        cards.append(
            f'<article class="panel prototype"><h3>Prototype {k}</h3>'
            f"<p>{_size(np.array(scene.sizes_m[k]))}{_text(turned)} · objects {users or 'none'}</p>"
            f'<div class="sides" data-sides="{k}">{sides}</div></article>'
        )
    note = (
        "What the objects are made of, one for all of a kind: each seen from four sides, from "
        "slightly above."
    )
    if len(cards) < len(scene.prototypes):
        note += f" The first {len(cards)} of {len(scene.prototypes)}."
    return _section("Prototypes", note, f'<div class="prototypes panels">{"".join(cards)}</div>')


def scores(card: ScoreCard) -> str:
    """The score card, a small table per section."""
    panels = []
    for section, rows in groupby(readable(card), key=lambda row: row[0]):
        lines = "".join(
            f'<tr><td>{_text(name)}</td><td class="value">{_text(value)}</td></tr>'
            for _, name, value in rows
        )
        panels.append(f'<div class="panel"><h3>{_text(section)}</h3><table>{lines}</table></div>')
    return _section("Scores", "Against the recording's truth.",
                    f'<div class="scores">{"".join(panels)}</div>')  # fmt: skip


def footer(scene: Scene) -> str:
    """How the scene was made."""
    made = [
        f"{_text(key.replace('_', ' '))} {_text(value)}" for key, value in scene.made_by.items()
    ]
    return f"<footer>{' · '.join(made)}</footer>" if made else ""


def _section(title: str, note: str, body: str = "") -> str:
    paragraph = f'<p class="note">{note}</p>' if note else ""
    return f"<section><h2>{title}</h2>{paragraph}{body}</section>"


def _picture(uri: str, description: str) -> str:
    return f'<img src="{uri}" alt="{html.escape(description)}">'


def _caption(text: str) -> str:
    return f"<figcaption>{html.escape(text)}</figcaption>"


def _legend(css_gradient: str, low: str, high: str) -> str:
    return f'<span class="legend">{low}<i style="background:{css_gradient}"></i>{high}</span>'


def _swatch(object_id: int) -> str:
    return f'<span class="swatch" style="background:{object_colour(object_id)}"></span>'


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _size(size_m: np.ndarray) -> str:
    return " × ".join(f"{v:.2f}" for v in size_m) + " m"


def _seconds(time: float) -> str:
    """To the millisecond: times may count from 1970."""
    return f"{round(time, 3):.15g} s"


def _text(value: object) -> str:
    """``value`` as text and nothing else: no markup, no control characters, not long."""
    return html.escape(printable(str(value)))
