"""The command that explains a recording in which nothing moves: ``parse``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from protoscene.cli.commands import Discover
from protoscene.cli.jobs import settings_of
from protoscene.cli.terminal import progress

if TYPE_CHECKING:
    from protoscene.recording import Recording
    from protoscene.scene import Scene


@dataclass(kw_only=True)
class Parse(Discover):
    """Explains a recording in which nothing moves: ground, walls, and things made of parts.

    Parts that hang together are a thing; where things touch, one that is found elsewhere tells
    them apart."""

    def _made(self, recording: Recording) -> Scene:
        from protoscene.parse import parse

        with progress() as show:
            scene = parse(recording, self.voxel_size, self.bounds, self.seed, show)
        settings = settings_of(self.voxel_size, self.bounds)
        return replace(scene, made_by={**scene.made_by, "settings": settings})
