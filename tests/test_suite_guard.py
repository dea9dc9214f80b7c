"""The guards themselves: each must be able to fail."""

from __future__ import annotations

import io
import socket
import tempfile
from pathlib import Path

import jaxtyping
import numpy as np
import pytest

import suite_guard
from protoscene.geometry import Grid, centred_grid, rotation_from_quaternion


def test_a_wrongly_shaped_argument_is_noticed() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        rotation_from_quaternion(np.zeros(3))


def test_a_wrong_type_is_noticed_and_an_int_is_a_float() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        centred_grid((1.0, 1.0, 1.0), "0.5")  # type: ignore[arg-type]
    assert Grid((0, 0, 0), 1, (1, 1, 1)).n_voxels == 1


def test_a_connection_beyond_loopback_is_noticed() -> None:
    with (
        suite_guard.collected_violations() as found,
        socket.socket() as made,
        pytest.raises(PermissionError),
    ):
        made.connect(("192.0.2.1", 9))
    assert found == ["socket.connect: ('192.0.2.1', 9)"]


def test_a_server_beyond_loopback_is_noticed() -> None:
    with (
        suite_guard.collected_violations() as found,
        socket.socket() as made,
        pytest.raises(PermissionError),
    ):
        made.bind(("0.0.0.0", 0))
    assert found == ["socket.bind: ('0.0.0.0', 0)"]


def test_a_link_outside_the_temporary_folders_is_noticed(tmp_path: Path) -> None:
    outside = Path(tempfile.gettempdir()).resolve().parent / "linked-by-a-test"
    with suite_guard.collected_violations() as found, pytest.raises(PermissionError):
        outside.symlink_to(tmp_path)
    assert len(found) == 1 and not outside.is_symlink()


def test_a_write_outside_the_temporary_folders_is_noticed(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    outside = Path(tempfile.gettempdir()).resolve().parent / "written-by-a-test"
    inside.write_text("allowed")
    with suite_guard.collected_violations() as found, pytest.raises(PermissionError):
        outside.write_text("not allowed")
    assert len(found) == 1
    assert not outside.exists()


def test_unpickling_counts_only_when_protoscene_does_it() -> None:
    import pickle

    data = pickle.dumps(Path)
    assert pickle.loads(data) is Path
    source = "import pickle\ndef read(file):\n    return pickle.load(file)\n"
    names: dict = {}
    exec(compile(source, str(suite_guard.PACKAGE / "made_up.py"), "exec"), names)
    with suite_guard.collected_violations() as found, pytest.raises(PermissionError):
        names["read"](io.BytesIO(data))
    assert found == ["pickle.find_class: pathlib.Path"]


def test_collected_violations_are_not_held_against_the_test() -> None:
    assert suite_guard.violations == []
