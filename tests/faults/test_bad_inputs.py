"""Every bad input is refused in one line that names file and field; nothing is written."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import bad_inputs
import bad_pictures
import box_recording as box
import damage
import protoscene
from protoscene.check import check
from protoscene.errors import Refused
from protoscene.formats import load
from protoscene.model import load_model
from protoscene.store import load_scene
from protoscene.truth import load_truth

CASES = bad_inputs.cases()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The good inputs, one folder a layout."""
    folder = tmp_path_factory.mktemp("base")
    bad_inputs.write_bases(folder)
    return folder


@pytest.fixture(autouse=True)
def nothing_hangs() -> Iterator[None]:
    signal.setitimer(signal.ITIMER_REAL, 60.0)  # the default action ends the run
    yield
    signal.setitimer(signal.ITIMER_REAL, 0.0)


def test_the_good_inputs_are_good(base: Path) -> None:
    for layout in bad_inputs.RECORDINGS:
        assert not (base / layout).exists() or not check(base / layout).problems
    load_scene(base / "scene")
    load_model(base / "model")
    load_truth(base / "truth/truth.json")


@pytest.mark.filterwarnings("always::UserWarning")  # damage may also be worth a warning
@pytest.mark.parametrize(
    "case", CASES, ids=[case.name.encode("ascii", "replace").decode() for case in CASES]
)
def test_refused(base: Path, tmp_path: Path, case: damage.Case) -> None:
    assert bad_inputs.wrong(case, base, tmp_path) == ""
    if case.layout in bad_inputs.RECORDINGS:
        folder = tmp_path / "r"
        problems = check(folder, case.layout).problems
        assert any(case.says in str(one) and case.field in one.field for one in problems), problems
        if case.on_load:
            with pytest.raises(Refused):
                load(folder, format=case.layout)
        else:
            load(folder, format=case.layout)


@pytest.mark.parametrize("case", CASES[50 :: len(CASES) // 3], ids=lambda case: case.name[:2])
def test_refused_by_the_program_itself(base: Path, tmp_path: Path, case: damage.Case) -> None:
    folder = tmp_path / "r"
    bad_inputs.prepare(case, base, folder)
    before = bad_inputs.tree(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "protoscene.cli"]
        + bad_inputs.command(case, base, folder, tmp_path / "out"),
        env={"PYTHONPATH": str(Path(protoscene.__file__).parent.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr and case.says in done.stderr
    assert bad_inputs.tree(tmp_path) == before


def test_every_class_has_variants() -> None:
    count = bad_inputs.count(lambda: CASES)
    assert len(CASES) >= 300
    assert set(range(1, bad_inputs.CLASSES + 1)) - set(count) == {bad_inputs.ACCEPTED}
    thin = {number for number, n in count.items() if n < 5}
    assert not thin, thin


@pytest.mark.parametrize("dtype", ["<f8", ">f8", ">f4", ">f2", "<f2"])
@pytest.mark.parametrize("packed", [False, True])
def test_depth_of_any_float_is_read_exactly(
    base: Path, tmp_path: Path, dtype: str, packed: bool
) -> None:
    folder = tmp_path / "r"
    shutil.copytree(base / "transforms", folder)
    pixels = np.random.default_rng(36).uniform(0.5, 4, (48, 64)).astype(dtype)
    data = bad_pictures.npz(depth=pixels) if packed else bad_pictures.npy(pixels)
    name = "d.npz" if packed else "d.npy"
    bad_pictures.depth_bytes(3, name, data)(folder)
    recording = load(folder)
    (index,) = (i for i, frame in enumerate(recording.frames) if frame.depth_file.name == name)
    assert np.array_equal(recording.view(index).depth, pixels.astype(np.float32))


@pytest.mark.parametrize("layout", box.WRITERS)
def test_a_folder_of_no_layout(base: Path, tmp_path: Path, layout: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refused, match=r"format: no known layout: no transforms.json, no rgb.txt"):
        load(tmp_path / "empty")
    with pytest.raises(Refused, match="does not exist"):
        load(tmp_path / "absent")
    with pytest.raises(Refused, match=r"unknown layout .got colmap, expected transforms, tum"):
        load(base / layout, format="colmap")
    shutil.copytree(base / layout, tmp_path / "lidar")
    (tmp_path / "lidar/velodyne").mkdir()
    with pytest.raises(Refused, match="more than one layout fits; give --format"):
        load(tmp_path / "lidar")
    (tmp_path / "empty/velodyne").mkdir()
    with pytest.raises(Refused, match="recording has 0 sweeps"):
        load(tmp_path / "empty")
    file = next(file for file in (base / layout).rglob("*.png"))
    with pytest.raises(Refused, match="is not a folder"):
        load(file)


@pytest.mark.parametrize("given", [(1.0, 2.0, 3.0), (60, 60, float("nan"), 24), (0, 60, 31, 24)])
def test_bad_intrinsics_of_the_caller(base: Path, given: tuple[float, ...]) -> None:
    for layout in ("tum", "7scenes"):
        with pytest.raises(Refused, match=r"^--intrinsics: "):
            load(base / layout, intrinsics=given)
    with pytest.raises(Refused, match="--intrinsics"):
        load(base / "transforms", intrinsics=given)


@pytest.mark.filterwarnings("ignore::UserWarning")  # damage may also be worth a warning
@pytest.mark.parametrize("layout", box.WRITERS)
def test_random_damage_is_read_or_refused(base: Path, tmp_path: Path, layout: str) -> None:
    """Byte flips, cuts and splices of any file: never another exception than a refusal."""
    rng = random.Random(0)
    folder = tmp_path / layout
    shutil.copytree(base / layout, folder)
    (folder / "d.npy").write_bytes(bad_pictures.npy(np.ones((48, 64), np.float32)))
    (folder / "d.npz").write_bytes(bad_pictures.npz(depth=np.ones((48, 64))))
    if layout == "transforms":
        damage.put("frames", 0, "depth_file_path", value="d.npy")(folder)
        damage.put("frames", 1, "depth_file_path", value="d.npz")(folder)
        file = folder / "rgb/0_002.png"
        file.write_bytes(bad_pictures.picture("RGB", kind="JPEG"))
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    refused = 0
    for _ in range(60):
        file = rng.choice(files)
        data = file.read_bytes()
        at, end = sorted(rng.randrange(len(data)) for _ in range(2))
        damaged = rng.choice(
            [
                data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :],
                data[:at],
                data[:at] + data[end:],
                data[:end] + data[at:],
                data[:at] + rng.choice([b"-1", b"1e999", b"\0", b"0" * 30, b'"']) + data[at:],
            ]
        )
        file.write_bytes(damaged)
        refused += bool(check(folder, layout).problems)
        file.write_bytes(data)
    assert refused > 20
