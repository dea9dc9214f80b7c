"""The demo: what is embedded, and what a user sees of ``protoscene demo``, run once."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import protoscene
from protoscene.check import check
from protoscene.edit import remove_object
from protoscene.score_pictures import layered_view
from protoscene.store import load_scene
from protoscene.synth import DEMO
from protoscene.synth.cameras import recording_cameras
from protoscene.synth.layout import make_layout
from protoscene.synth.world import World

PACKAGE = Path(protoscene.__file__).parent
EMBEDDED = PACKAGE / "demo"


@dataclasses.dataclass
class Run:
    folder: Path
    out: str
    err: str


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The command in a process of its own, in which MuJoCo and every address are out of reach."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    program = """
import socket, sys
sys.modules["mujoco"] = None
def no_network(*_):
    raise AssertionError("network")
socket.create_connection = socket.getaddrinfo = no_network
from protoscene.cli import main
sys.exit(main(["demo", "-o", sys.argv[1]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return Run(folder, done.stdout, done.stderr)


def test_what_is_embedded_is_small_and_good() -> None:
    files = [path for path in EMBEDDED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 3e6
    assert {path.suffix for path in files} == {".png", ".json"}
    checked = check(EMBEDDED / "recording")
    assert checked.problems == [] and checked.summary is not None
    assert checked.summary.pictures == DEMO.n_instants * DEMO.n_cameras
    truth = json.loads((EMBEDDED / "truth.json").read_text())
    assert {thing["kind"] for thing in truth["objects"]} == set(DEMO.kinds)


def test_the_demo_writes_a_scene_and_a_page(demo: Run) -> None:
    names = sorted(path.name for path in demo.folder.iterdir())
    assert names == ["heldout", "recording", "report.html", "scene", "truth.json"]
    assert (demo.folder / "report.html").stat().st_size > 100_000
    assert [path.name for path in demo.folder.parent.iterdir()] == ["out"]


def test_a_killed_run_is_done_again_to_the_same_bytes(demo: Run, tmp_path: Path) -> None:
    program = "import sys; from protoscene.cli import main; sys.exit(main(sys.argv[1:]))"
    recording, out = EMBEDDED / "recording", tmp_path / "out"
    command = [sys.executable, "-c", program, "discover", str(recording), "-o", str(out)]
    command += ["--voxel-size", "0.05", "--resume"]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
        assert process.stderr
        while process.stderr.readline() != "protoscene: background\n":
            assert process.poll() is None
        process.kill()
    assert not out.exists()
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    names = sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file())
    scene = demo.folder / "scene"
    assert names == sorted(p.relative_to(scene) for p in scene.rglob("*") if p.is_file())
    for name in names:
        assert (out / name).read_bytes() == (scene / name).read_bytes(), name


def test_the_picture_of_the_readme_is_there_and_small() -> None:
    root = PACKAGE.parent.parent
    picture = root / "docs" / "demo.png"
    assert f"]({picture.relative_to(root)})" in (root / "README.md").read_text()[:400]
    assert 50_000 < picture.stat().st_size <= 500_000


def test_the_demo_finds_what_moves(demo: Run) -> None:
    from protoscene.score import load_truth, score_objects
    from protoscene.store import load_scene

    scene, truth = load_scene(demo.folder / "scene"), load_truth(demo.folder / "truth.json")
    card = score_objects(scene.objects, truth, scene.grid.voxel_size)
    assert card.at_iou_50.moving_recall >= 0.97 and card.at_iou_50.precision >= 0.97
    assert card.identity.purity >= 0.97


def test_the_demo_says_what_it_did_and_where_the_page_is(demo: Run) -> None:
    lines = demo.out.splitlines()
    assert lines[0].startswith(f"{demo.folder / 'scene'}: 16 instants, ")
    assert lines[-1].endswith(f": {demo.folder / 'report.html'}")
    assert len(lines) <= 20 and "moving boxes found (IoU ≥ .5)" in demo.out
    assert demo.err.startswith("protoscene: observe\n") and "warning" not in demo.err


@pytest.mark.parametrize("moves", [True, False])
def test_behind_a_removed_thing_is_what_the_truth_has_there(demo: Run, moves: bool) -> None:
    pytest.importorskip("mujoco")
    scene, layout, instant = (
        load_scene(demo.folder / "scene"),
        make_layout(DEMO),
        DEMO.n_instants // 2,
    )
    time = scene.times[instant]
    thing = next(one for one in scene.objects if one.moving == moves)
    far = [np.linalg.norm(a.poses[instant, :2] - thing.track.pose(time)[0][:2])
           for a in layout.actors]  # fmt: skip
    gone = int(np.argmin(far))
    bare = dataclasses.replace(layout, actors=layout.actors[:gone] + layout.actors[gone + 1 :])
    view = layered_view(remove_object(scene, thing.id))
    for views in recording_cameras(DEMO):
        with World(layout, DEMO.width, DEMO.height) as world:
            world.at(instant)
            stood = world.picture(views[instant])[2] == gone
        with World(bare, DEMO.width, DEMO.height) as world:
            world.at(instant)
            true, _, actors = world.picture(views[instant])
        squared = (view(time, views[instant])[0].astype(float) - true) ** 2
        assert psnr(squared) >= 25
        assert psnr(squared[stood & (actors < 0)]) >= 25


def psnr(squared: np.ndarray) -> float:
    return 10 * float(np.log10(255**2 / squared.mean()))
