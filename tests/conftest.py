"""The whole suite runs with shapes checked and with the audit hook of suite_guard on."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # one worker per core: torch must not use all in each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import suite_guard

suite_guard.install_shape_checks()  # before the first import of protoscene
suite_guard.install_audit()


@pytest.fixture(autouse=True)
def no_forbidden_event() -> Iterator[None]:
    """Fails the test during which a forbidden event was noticed, even if its error was caught."""
    yield
    found = list(suite_guard.violations)
    suite_guard.violations.clear()
    assert not found, found


STUDIES = Path(__file__).resolve().parent.parent / "studies"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a study by name, and forgets all of them afterwards."""
    monkeypatch.syspath_prepend(STUDIES)
    before = set(sys.modules)
    yield __import__
    for name in set(sys.modules) - before:
        if (STUDIES / f"{name}.py").is_file():
            sys.modules.pop(name)
