"""What a detector is to find at an instant: boxes and kinds, from any list of placed objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from protoscene.dictionary.portrait import placed
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
    frames: Float[np.ndarray, "k 4"] | None = None,
    sizes_m: Sequence[tuple[float, float, float]] | None = None,
) -> Labels:
    """The boxes of ``objects`` (a scene's or a truth's) that exist at the instant ``time``.

    Weight is the object's score; 0 where it was not seen then or scores below ``LEAST_SCORE``.
    ``which`` gives the kind of each of the objects' prototypes, by default its own number. Where
    kinds have frames and sizes of their own, ``frames`` (x y z yaw of the kind's frame in each
    prototype's) and ``sizes_m`` (of each kind) replace the objects'.
    """
    kinds, boxes, weights = [], [], []
    for thing in objects:
        track = thing.track
        rows = np.flatnonzero(np.abs(track.time - time) <= SAME_TIME_S)
        if len(rows) == 0:
            continue
        row, old = int(rows[0]), thing.prototype
        kind = old if which is None else int(which[old])
        pose = np.array([*track.centre[row], track.yaw[row]], dtype=np.float64)
        if frames is not None:
            pose = placed(pose[None], np.asarray(frames[old], dtype=np.float64))[0]
        size = thing.dims_m if sizes_m is None or kind < 0 else sizes_m[kind]
        sure = bool(track.visible[row]) and thing.score >= LEAST_SCORE
        kinds.append(kind)
        boxes.append([*pose[:3], *np.array(size) * track.scale[row], pose[3]])
        weights.append(thing.score if sure else 0.0)
    return Labels(
        np.array(kinds, dtype=np.int64),
        np.array(boxes, dtype=np.float64).reshape(-1, 7),
        np.array(weights, dtype=np.float64),
    )
