"""Makes the pictures of the README out of report pages, in chromium (`make docs`).

    python docs/picture.py summary out/demo/report.html docs/demo.png
    python docs/picture.py viewer out/demo/report.html docs/viewer.png

``summary``: recorded and rendered pictures, the 3-D view, and the prototypes. ``viewer``: the 3-D
timeline with the object chosen that went furthest. Needs chromium (its place as a fourth argument,
where it is not the one on the PATH).
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
FINER = 2
"""Drawn so much larger and made smaller again: a processor draws no smooth edges."""
SETTLE_MS = 4000
"""Until all is drawn: by the processor."""
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


def main(what: str, report: Path, picture: Path, chromium: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        shot = {"summary": summary, "viewer": viewer}[what](browser, report)
        browser.close()
    save_small(shot, picture)


def summary(browser: Browser, report: Path) -> bytes:
    timeline, pairs, prototypes = parts(browser, report)
    content = {"timeline": timeline, "pairs": pairs, "prototypes": prototypes, "width": WIDTH}
    page = browser.new_page(viewport={"width": WIDTH, "height": 100})
    page.set_content(LAYOUT % content)
    return page.screenshot(full_page=True)


def parts(browser: Browser, report: Path) -> tuple[str, str, str]:
    """The 3-D view, the pairs of pictures and the prototypes' sides, each as <img> elements."""
    page = opened(browser, report, 1000)
    page.add_style_tag(content="#stage { width: 762px !important; height: 494px !important }")
    page.add_style_tag(content=".layers { display: none !important }")
    page.wait_for_timeout(SETTLE_MS)
    encoded = base64.b64encode(smaller(page.locator("#stage").screenshot())).decode()
    compared = page.locator(".instant").nth(INSTANT).locator(".compare > img")
    pairs = [compared.nth(i) for i in range(compared.count()) if i % 4 < 2]
    sides = page.locator(".prototype img").all()
    return f'<img src="data:image/png;base64,{encoded}">', images(pairs), images(sides)


def images(elements: list[Locator]) -> str:
    return "".join(f'<img src="{element.get_attribute("src")}">' for element in elements)


def viewer(browser: Browser, report: Path) -> bytes:
    page = opened(browser, report, WIDTH)
    paths = page.locator("[data-object] dd:nth-of-type(4)").all_inner_texts()
    metres = [float(path.split()[0]) if path.endswith(" m") else 0.0 for path in paths]
    furthest = page.locator("[data-object]").nth(metres.index(max(metres)))
    page.locator(f"[data-choose='{furthest.get_attribute('data-object')}']").click()
    page.mouse.move(0, 0)
    page.wait_for_timeout(SETTLE_MS)
    return smaller(page.locator(".player").screenshot())


def opened(browser: Browser, report: Path, width: int) -> Page:
    """The page with its timeline where it shall stand."""
    page = browser.new_page(viewport={"width": width, "height": 800}, device_scale_factor=FINER)
    page.goto(report.resolve().as_uri())
    slider = page.locator("#timeline")
    slider.fill(str(round(SHARE * int(slider.get_attribute("max") or 0))))
    return page


def smaller(shot: bytes) -> bytes:
    with Image.open(io.BytesIO(shot)) as picture:
        encoded = io.BytesIO()
        picture.convert("RGB").reduce(FINER).save(encoded, "PNG")
    return encoded.getvalue()


def save_small(shot: bytes, file: Path) -> None:
    with Image.open(io.BytesIO(shot)) as picture:
        picture.convert("RGB").save(file, optimize=True)


if __name__ == "__main__":
    what, report, picture, *browser = sys.argv[1:]
    main(what, Path(report), Path(picture), *(browser or [shutil.which("chromium") or "chromium"]))
