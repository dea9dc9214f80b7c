"""Text that describes a recording, read strictly: JSON manifests and lists of numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from protoscene.errors import Refused
from protoscene.formats.paths import read_file

MAX_BYTES = 64 * 10**6
MAX_NESTING = 64
MAX_TEXT = 4096
"""Characters of a name or any other text."""
_MAX_DIGITS = 20


def read_text(path: Path) -> str:
    """UTF-8 text of at most 64 MB, without its byte order mark."""
    data = read_file(path, "file", MAX_BYTES)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise Refused(path, "file", "not UTF-8 text", got="UTF-16", expected="UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        got = f"byte 0x{data[error.start]:02x}"
        raise Refused(path, f"line {line}", "not UTF-8 text", got=got, expected="UTF-8") from error


def read_numbers(path: Path) -> Iterator[tuple[str, list[str]]]:
    """``("line 7", words)`` of every line that is neither empty nor a # comment."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        words = line.split("#", 1)[0].split()
        if words:
            yield f"line {number}", words


def parse_floats(words: list[str], file: Path, field: str) -> list[float]:
    """Finite decimal numbers."""
    values = []
    for word in words:
        try:
            value = float(word) if "_" not in word else math.nan
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise Refused(file, field, "not a finite number", got=word)
        values.append(value)
    return values


def read_json(path: Path) -> Any:
    """Strict JSON: no key twice, no NaN, int64 and finite numbers only, at most 64 levels deep."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore
            raise Refused(path, twice, "key is given twice in one object")
        return table

    def whole(digits: str) -> Any:
        return int(digits) if len(digits) <= _MAX_DIGITS else _Huge(digits)

    text = read_text(path)
    try:
        document = json.loads(text, object_pairs_hook=unique, parse_int=whole)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}:{error.colno}"
        raise Refused(path, where, f"not valid JSON: {error.msg}") from error
    except RecursionError as error:
        raise Refused(path, "file", f"nested deeper than {MAX_NESTING} levels") from error
    _require_plain(document, path)
    return document


class _Huge(str):
    """An integer with more digits than int64 has."""


def _require_plain(document: Any, path: Path) -> None:
    """Refuse what Python's json lets through, naming the field it stands in."""
    stack: list[tuple[Any, tuple[Any, ...], int]] = [(document, (), 1)]
    while stack:
        value, link, depth = stack.pop()
        if isinstance(value, (dict, list)):
            if depth > MAX_NESTING:
                raise Refused(path, _field(link), f"nested deeper than {MAX_NESTING} levels")
            items = value.items() if isinstance(value, dict) else enumerate(value)
            stack += [(item, (link, key), depth + 1) for key, item in items]
        elif isinstance(value, float) and not math.isfinite(value):
            raise Refused(path, _field(link), "not a finite number", got=value)
        elif isinstance(value, _Huge):
            got = f"an integer of {len(value)} digits"
            raise Refused(path, _field(link), "number is too large", got=got, expected="int64")
        elif isinstance(value, str) and len(value) > MAX_TEXT:
            problem, got = f"text is longer than {MAX_TEXT} characters", f"{len(value)} characters"
            raise Refused(path, _field(link), problem, got=got)
        elif type(value) is int and not -(2**63) <= value < 2**63:
            raise Refused(path, _field(link), "number is too large", got=value, expected="int64")


def _field(link: tuple[Any, ...]) -> str:
    """``frames[3].transform_matrix[0]`` of a chain of keys, innermost first."""
    keys: list[Any] = []
    while link:
        link, key = link
        keys.append(key)
    name = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in reversed(keys))
    return name.lstrip(".") or "file"


class Table:
    """One JSON object with the name of its place, so that every refusal says where."""

    def __init__(self, file: Path, where: str, values: Any) -> None:
        if not isinstance(values, dict):
            raise Refused(file, where or "file", "wrong type", _kind(values), "an object")
        self.file, self.where, self.values = file, where, values

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def field(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def refused(self, key: str, problem: str, got: Any = None, expected: Any = None) -> Refused:
        return Refused(self.file, self.field(key), problem, got, expected)

    def required(self, key: str) -> Any:
        if key not in self.values:
            raise self.refused(key, "key is missing")
        return self.values[key]

    def number(self, key: str) -> float:
        value = self.required(key)
        if type(value) not in (int, float):
            raise self.refused(key, "wrong type", _kind(value), "a number")
        return float(value)

    def text(self, key: str) -> str:
        value = self.required(key)
        if not isinstance(value, str):
            raise self.refused(key, "wrong type", _kind(value), "text")
        return value

    def items(self, key: str) -> list[Any]:
        value = self.required(key)
        if not isinstance(value, list):
            raise self.refused(key, "wrong type", _kind(value), "a list")
        return value

    def unknown_keys(self, read: set[str], ignored: set[str], meant: dict[str, str]) -> list[str]:
        """Keys neither read nor knowingly ignored; a likely misspelling is refused instead.

        A misspelling is ``meant`` (a name other programs use) or within two edits of a key that is
        read (fewer for very short keys, where two edits reach everything).
        """
        unknown = [key for key in self.values if key not in read and key not in ignored]
        for key in unknown:
            guess = meant.get(key.lower()) or _closest(key, read)
            if guess:
                raise self.refused(key, f'unknown key; did you mean "{guess}"?', got=key)
        return unknown


def _closest(key: str, known: set[str]) -> str | None:
    scored = [(edits(key.lower(), name.lower()), name) for name in sorted(known)]
    near = [(count, name) for count, name in scored if count <= min(2, len(name) - 1)]
    return min(near)[1] if near else None


def edits(a: str, b: str) -> int:
    """Levenshtein distance; 3 stands for "more than two"."""
    if abs(len(a) - len(b)) > 2:
        return 3
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        previous, row = row, [i]
        for j, y in enumerate(b, start=1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (x != y)))
    return min(row[-1], 3)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true/false", type(None): "null"}
    kind = names.get(type(value), "a number")
    return f"{kind} {value!r}" if type(value) in (str, bool, int, float) else kind
