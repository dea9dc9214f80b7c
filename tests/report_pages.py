"""A report page written once for all tests of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from protoscene.recording import Recording
from protoscene.report import write_page
from protoscene.scene import Scene
from report_scenes import toy_recording, toy_scene


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scene, Recording, Path]:
    scene = toy_scene()
    recording = toy_recording(scene, height=72)
    path = tmp_path_factory.mktemp("report") / "page.html"
    write_page(scene, path, recording)
    return scene, recording, path
