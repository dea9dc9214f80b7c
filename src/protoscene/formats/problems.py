"""Raise the first problem, or keep them all: the readers serve both ``load`` and ``check``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from protoscene.errors import Refused

Problems = list[Refused] | None
"""Where refusals are kept; None means that the first one is raised."""


@contextmanager
def kept(problems: Problems) -> Iterator[None]:
    """A refusal inside the ``with`` ends the block; it is raised again only if none are kept."""
    try:
        yield
    except Refused as refused:
        if problems is None:
            raise
        problems.append(refused)
