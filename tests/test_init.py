"""``import protoscene as ps``: fast, and every name is what it says, however it was reached."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import protoscene as ps


@pytest.mark.parametrize("name", [n for n in ps.__all__ if n != "__version__"])
def test_every_name_is_a_thing_and_never_a_module(name: str) -> None:
    for _ in range(2):  # the first use imports the submodule, which may have the same name
        assert callable(getattr(ps, name)) and not isinstance(getattr(ps, name), ModuleType)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'discoverr'"):
        ps.discoverr  # noqa: B018


def test_functions_keep_their_names_when_their_modules_came_first() -> None:
    program = """
import sys
import protoscene as ps
assert "torch" not in sys.modules
import protoscene.scene, protoscene.compose, protoscene.discover, protoscene.render
import protoscene.learn, protoscene.detect
from protoscene import compose, detect, discover, learn, render
from protoscene.compose import torch_backend
for function in (compose, detect, discover, learn, render):
    assert function is getattr(ps, function.__name__) and callable(function), function
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(ps.__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)
