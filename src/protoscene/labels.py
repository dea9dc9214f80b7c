"""What a detector is to find at an instant: boxes and kinds, from any list of placed objects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from protoscene.scene import SceneObject

LEAST_SCORE = 0.5
"""An object that scores less may be there or not: its place is ignored."""
SAME_TIME_S = 1e-4


@dataclass(frozen=True, eq=False)
class Labels:
    """Boxes of one instant: ``boxes`` as in :mod:`protoscene.boxes`, ``kind`` an index into the
    dictionary or −1 where it is not known. A box of ``weight`` 0 is a place to be ignored: finding
    something there is neither right nor wrong; other weights, at most 1, say how sure it is."""

    kind: Int[np.ndarray, " n"]
    boxes: Float[np.ndarray, "n 7"]
    weight: Float[np.ndarray, " n"]


def labels_at(
    objects: Sequence[SceneObject],
    time: float,
    which: Sequence[int] | Int[np.ndarray, " k"] | None = None,
    turns: Float[np.ndarray, " k"] | None = None,
) -> Labels:
    """The boxes of ``objects`` (a scene's or a truth's) that exist at the instant ``time``.

    Weight is the object's score; 0 where it was not seen then or scores below ``LEAST_SCORE``.
    ``which`` gives the kind of each of the objects' prototypes, by default its own number, and
    ``turns`` the kind's yaw in each prototype's frame (``Merged.which`` and ``.frames[:, 3]`` of
    the scene): boxes stay where they are and as large, things of a kind may differ in size; a
    quarter turn exchanges length and width.
    """
    kinds, boxes, weights = [], [], []
    for thing in objects:
        track = thing.track
        rows = np.flatnonzero(np.abs(track.time - time) <= SAME_TIME_S)
        if len(rows) == 0:
            continue
        row, old = int(rows[0]), thing.prototype
        turn = 0.0 if turns is None else float(turns[old])
        length, width, height = np.array(thing.dims_m) * track.scale[row]
        if abs(math.sin(turn)) > math.sqrt(0.5):
            length, width = width, length
        sure = bool(track.visible[row]) and thing.score >= LEAST_SCORE
        kinds.append(old if which is None else int(which[old]))
        boxes.append([*track.centre[row], length, width, height, track.yaw[row] + turn])
        weights.append(thing.score if sure else 0.0)
    return Labels(
        np.array(kinds, dtype=np.int64),
        np.array(boxes, dtype=np.float64).reshape(-1, 7),
        np.array(weights, dtype=np.float64),
    )
