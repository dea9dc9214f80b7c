"""The command line run in this process or in another, on a tiny recording or a fake scene."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import protoscene
from protoscene import cli
from protoscene.scene import Scene
from protoscene.store import save_scene
from small_scene import a_scene

SOURCE = str(Path(protoscene.__file__).parent.parent)
FRAME = {"transform_matrix": np.eye(4).tolist(), "depth_file_path": "depth.png"}


@pytest.fixture
def scene_folder(tmp_path: Path) -> Path:
    save_scene(a_scene(), tmp_path / "scene")
    return tmp_path / "scene"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    folder = tmp_path / "recording"
    folder.mkdir()
    Image.new("RGB", (8, 6), "red").save(folder / "0.png")
    Image.new("RGB", (8, 6), "blue").save(folder / "1.png")
    depth = Image.fromarray(np.full((6, 8), 1500, np.uint16))
    depth.save(folder / "depth.png")
    frames = [{**FRAME, "file_path": f"{i}.png", "time": i / 3} for i in (0, 1)]
    lens = {"w": 8, "h": 6, "fl_x": 8, "fl_y": 8, "cx": 4, "cy": 3, "depth_unit_scale_factor": 1e-3}
    (folder / "transforms.json").write_text(json.dumps({**lens, "frames": frames}))
    return folder


@pytest.fixture
def fake_discover(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The method in its place: looks at the recording, reports progress, finds ``a_scene``."""
    calls: list[dict[str, Any]] = []

    def discover(
        recording: Any, progress: Callable[[str, int, int], None], **options: Any
    ) -> Scene:
        calls.append(options)
        for i in range(3):
            progress("observe", i, 3)
        progress("follow", 0, 1)
        made_by = {"command": "discover", "seed": options["seed"]}
        return replace(a_scene(), made_by={**made_by, "recording_sha256": recording.sha256})

    module = types.ModuleType("protoscene.discover")
    module.discover = discover  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "protoscene.discover", module)
    return calls


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "protoscene.cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, env=environment, text=True, **pipes)
