"""Makes docs/demo.png, the picture of the README, out of the demo's page (`make docs`).

    python docs/picture.py out/demo/report.html docs/demo.png

Needs chromium (its place as a third argument, where it is not the one on the PATH).
"""

from __future__ import annotations

import base64
import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Locator, Page, sync_playwright

FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
WIDTH = 1240
SHARE = 0.7
"""Of the timeline: where it stands."""
BAR = 52
"""Pixels of the player's bar."""
SETTLE_MS = 5000
"""Until the player stands still: the processor draws."""
INSTANT = 3
"""Of the instants whose pictures the page shows."""
LAYOUT = """
<style>
  body { margin: 0; padding: 14px; width: %(width)dpx; box-sizing: border-box; background: #fff;
    font: 15px system-ui, sans-serif; color: #1d232b; }
  h2 { font-size: 15px; font-weight: 600; margin: 0 0 6px; height: 20px; }
  .row { display: flex; gap: 14px; margin-bottom: 12px; }
  .pairs { display: grid; grid-template-columns: repeat(2, 214px); gap: 6px; }
  .sides { display: grid; grid-template-columns: repeat(12, 1fr); gap: 4px; }
  img { display: block; width: 100%%; border-radius: 4px; }
</style>
<div class="row">
  <div><div class="pairs"><h2>Recorded</h2><h2>Rendered</h2>%(pairs)s</div></div>
  <div style="flex: 1"><h2>Found without labels: background, objects, their tracks</h2>
    %(timeline)s</div>
</div>
<h2>Prototypes, from four sides</h2>
<div class="sides">%(prototypes)s</div>
"""


def main(report: Path, picture: Path, chromium: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        timeline, pairs, prototypes = parts(browser, report)
        content = {"timeline": timeline, "pairs": pairs, "prototypes": prototypes, "width": WIDTH}
        page = browser.new_page(viewport={"width": WIDTH, "height": 100})
        page.set_content(LAYOUT % content)
        shot = page.screenshot(full_page=True)
        browser.close()
    save_small(shot, picture)


def parts(browser: Browser, report: Path) -> tuple[str, str, str]:
    """The timeline, the pairs of pictures and the prototypes' sides, each as <img> elements."""
    page = browser.new_page(viewport={"width": 1000, "height": 800})
    page.goto(report.resolve().as_uri())
    page.add_style_tag(content="iframe { width: 762px !important; height: 546px !important }")
    compared = page.locator(".instant").nth(INSTANT).locator(".compare > img")
    pairs = [compared.nth(i) for i in range(compared.count()) if i % 4 < 2]
    sides = page.locator(".prototype img").all()
    found = timeline(page), images(pairs), images(sides)
    page.close()
    return found


def images(elements: list[Locator]) -> str:
    return "".join(f'<img src="{element.get_attribute("src")}">' for element in elements)


def timeline(page: Page) -> str:
    """The player at one time, without its bar."""
    player = page.frame_locator("iframe")
    track = player.locator(".mantine-Slider-track")
    track.wait_for(timeout=60_000)
    player.locator("button.mantine-Notification-closeButton").click()  # software drawing
    area = track.bounding_box()
    assert area is not None
    page.mouse.click(area["x"] + SHARE * area["width"], area["y"] + area["height"] / 2)
    page.wait_for_timeout(SETTLE_MS)
    with Image.open(io.BytesIO(page.locator("iframe").screenshot())) as shot:
        encoded = io.BytesIO()
        shot.crop((0, 0, shot.width, shot.height - BAR)).save(encoded, "PNG")
    return f'<img src="data:image/png;base64,{base64.b64encode(encoded.getvalue()).decode()}">'


def save_small(shot: bytes, file: Path) -> None:
    with Image.open(io.BytesIO(shot)) as picture:
        picture.convert("RGB").save(file, optimize=True)


if __name__ == "__main__":
    report, picture, *browser = sys.argv[1:]
    main(Path(report), Path(picture), *(browser or [shutil.which("chromium") or "chromium"]))
