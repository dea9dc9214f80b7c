"""The command that explains a recording in which nothing moves: ``parse``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from protoscene.cli.commands import Discover
from protoscene.cli.jobs import settings_of
from protoscene.cli.options import Switch
from protoscene.cli.terminal import progress
from protoscene.files import OutputLock, check_disk_space

if TYPE_CHECKING:
    from protoscene.recording import Recording
    from protoscene.scene import Scene


@dataclass(kw_only=True)
class Parse(Discover):
    """Explains a recording in which nothing moves: ground, walls, and things made of parts.

    A thing is whatever stands and hangs together by its surface, a post as well as a chair; what is
    long and narrow is a wall. Where things touch, one that stands elsewhere too tells them apart,
    along seams of their shapes or colours."""

    resume: Switch = False
    """Leave a finished scene as it is. An interrupted run leaves nothing and is done again."""

    def _discovered(self, lock: OutputLock) -> Scene:
        from protoscene.store import save_scene

        scene = self._made(self.load(self.recording))
        save_scene(scene, self.output, lock)
        return scene

    def _made(self, recording: Recording) -> Scene:
        from protoscene.discover import grid_that_fits, scene_bytes
        from protoscene.parse import parse

        recording.require_pictures()
        grid = grid_that_fits(recording, self.voxel_size, self.bounds)
        check_disk_space(self.output, scene_bytes(grid))
        with progress() as show:
            scene = parse(recording, self.voxel_size, self.bounds, self.seed, show)
        settings = settings_of(self.voxel_size, self.bounds)
        return replace(scene, made_by={**scene.made_by, "settings": settings})
