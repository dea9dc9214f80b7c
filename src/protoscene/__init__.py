"""protoscene: a scene is a background plus placements of prototypes.

Names are resolved on first use, so that ``import protoscene`` and ``--help`` stay fast.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Camera": "geometry",
    "Grid": "geometry",
    "look_at": "geometry",
    "Volume": "volume",
    "Evidence": "volume",
    "Recording": "recording",
    "load": "formats",
    "VoxelPrototypes": "prototypes",
    "LatentPrototypes": "decoders",
    "MirroredPrototypes": "decoders",
    "NeuralPrototypes": "neural",
    "Placements": "placements",
    "compose": "compose",
    "compose_loss": "compose",
    "compose_sparse": "compose",
    "Target": "compose",
    "render": "render",
    "Scene": "scene",
    "load_volume": "volume_file",
    "load_scene": "store",
    "save_scene": "store",
    "discover": "discover",
    "parse": "parse",
    "learn": "learn",
    "Learning": "learn",
    "detect": "detect",
    "Model": "model",
    "load_model": "model",
    "save_model": "model",
    "remove_object": "edit",
    "move_object": "edit",
    "insert_object": "edit",
    "swap_prototype": "edit",
    "Refused": "errors",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'protoscene' has no attribute {name!r}")
    return getattr(importlib.import_module(f"protoscene.{_HOME[name]}"), name)


class _Package(ModuleType):
    """Python sets every imported submodule as an attribute of its package. Where one has the name
    of its function (``compose``), ``protoscene.compose`` stays the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _HOME.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
