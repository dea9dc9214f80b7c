"""Every damaged recording is refused in one line that names file and field; nothing is written."""

from __future__ import annotations

import collections
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import bad_input
import bad_pictures
import box_recording as box
from protoscene.check import check
from protoscene.errors import Refused
from protoscene.formats import load

CASES = bad_input.cases() + bad_pictures.cases()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undamaged recordings, one folder a layout."""
    folder = tmp_path_factory.mktemp("base")
    for layout, write in box.WRITERS.items():
        taken = box.shots() if layout == "transforms" else box.shots(3, 1)
        write(folder / layout, taken)
        assert not check(folder / layout).problems
    return folder


@pytest.fixture(autouse=True)
def nothing_hangs() -> Iterator[None]:
    signal.setitimer(signal.ITIMER_REAL, 60.0)  # the default action ends the run
    yield
    signal.setitimer(signal.ITIMER_REAL, 0.0)


def tree(folder: Path) -> list[tuple[str, int, int]]:
    found = sorted(folder.rglob("*"))
    return [(str(p), p.lstat().st_size, p.lstat().st_mtime_ns) for p in found]


@pytest.mark.parametrize(
    "case", CASES, ids=[case.name.encode("ascii", "replace").decode() for case in CASES]
)
def test_refused(base: Path, tmp_path: Path, case: bad_input.Case) -> None:
    folder = tmp_path / "r"
    shutil.copytree(base / case.layout, folder)
    case.damage(folder)
    before = tree(tmp_path)
    with pytest.raises(Refused) as refusal:
        recording = load(folder, format=case.layout)
        assert not case.on_load, "noticed only when read"
        for i in range(len(recording.frames)):
            recording.view(i)
    text = str(refusal.value)
    assert refusal.value.file.endswith(case.file), text
    assert case.field in refusal.value.field, text
    assert case.says in text, text
    assert len(text) <= 240 and text.isprintable(), text
    assert text in [str(problem) for problem in check(folder, case.layout).problems]
    assert tree(tmp_path) == before


def test_every_class_of_these_layouts_has_variants() -> None:
    count = collections.Counter(case.name.split()[0] for case in CASES)
    elsewhere = {"09", "34", "35", "36", "37", "38", "39"}  # no version, EXR; what is no fault
    wanted = {f"{number:02d}" for number in range(1, 54)} - elsewhere
    assert wanted <= set(count)
    thin = {name for name in wanted if count[name] < 3}
    assert thin <= {"12", "13", "19"}, thin  # these have one or two ways to happen


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
    with pytest.raises(Refused, match="not a folder"):
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
        bad_input.put("frames", 0, "depth_file_path", value="d.npy")(folder)
        bad_input.put("frames", 1, "depth_file_path", value="d.npz")(folder)
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
