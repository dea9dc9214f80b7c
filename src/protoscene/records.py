"""Nested dataclasses as what JSON can hold, and tensors by name; and back, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Classes = Mapping[str, type]
"""The dataclasses that may be made again, by :func:`name_of`."""


def name_of(one: type) -> str:
    return f"{one.__module__}.{one.__qualname__}"


def packed(value: Any) -> tuple[Any, dict[str, Tensor]]:
    """``value`` as nested lists and dictionaries, its arrays and tensors apart: dataclasses, lists,
    tuples, arrays, tensors, numbers, words and None. Arrays are contiguous, and copied only where
    they were not. Raises TypeError for anything else."""
    tensors: dict[str, Tensor] = {}
    names: dict[tuple[Any, ...], str] = {}

    def named(kind: str, tensor: Tensor) -> dict[str, str]:
        key = (tensor.data_ptr(), tensor.shape, tensor.dtype)  # what is there twice is kept once
        name = names.setdefault(key, str(len(names)))
        tensors[name] = tensor
        return {kind: name}

    def pack(part: Any) -> Any:
        if part is None or type(part) in (bool, int, str):
            return part
        if type(part) is float:
            return {"float": part.hex()}  # also what is not finite
        if isinstance(part, np.ndarray):
            return named("array", torch.from_numpy(np.ascontiguousarray(part).reshape(part.shape)))
        if isinstance(part, np.generic):
            return named("number", torch.from_numpy(np.array(part)))
        if isinstance(part, Tensor):
            own = part.detach().cpu().contiguous()
            is_all = own.untyped_storage().nbytes() == own.nbytes
            return named("tensor", own if is_all else own.clone())
        if type(part) in (list, tuple):
            return {type(part).__name__: [pack(one) for one in part]}
        if is_dataclass(part) and not isinstance(part, type):
            inside = {f.name: pack(getattr(part, f.name)) for f in fields(part)}
            return {"class": name_of(type(part)), "fields": inside}
        raise TypeError(f"a {type(part).__name__} cannot be kept")

    return pack(value), tensors


def unpacked(value: Any, tensors: Mapping[str, Tensor], classes: Classes) -> Any:
    """What :func:`packed` was given; its arrays are the memory of ``tensors``. Raises KeyError for
    a dataclass that is not in ``classes``."""

    def unpack(part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        if "class" in part:
            inside = {name: unpack(one) for name, one in part["fields"].items()}
            return classes[part["class"]](**inside)
        ((kind, content),) = part.items()
        if kind == "float":
            return float.fromhex(content)
        if kind in ("list", "tuple"):
            return {"list": list, "tuple": tuple}[kind](unpack(one) for one in content)
        if kind == "tensor":
            return tensors[content]
        return tensors[content].numpy() if kind == "array" else tensors[content].numpy()[()]

    return unpack(value)
