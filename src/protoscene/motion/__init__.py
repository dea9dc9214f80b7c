"""Tracks as differentiable functions of time: four motion models behind one interface.

``Polyline``, ``Accelerated``, ``Spline`` and ``Clothoid`` are each a :class:`Motion`: made from
observed poses by ``fit``, asked by ``at``, kept smooth by ``smoothness``, optimised as any
``nn.Module``. ``breaks`` finds where a track jumps; ``Parts.fit`` gives each part its own motion.
"""

from protoscene.motion.clothoid import Clothoid
from protoscene.motion.linear import Accelerated, Polyline, Spline
from protoscene.motion.model import Motion, Noise, Smoothness
from protoscene.motion.outliers import breaks
from protoscene.motion.parts import Parts

__all__ = [
    "Accelerated",
    "Clothoid",
    "Motion",
    "Noise",
    "Parts",
    "Polyline",
    "Smoothness",
    "Spline",
    "breaks",
]
