"""Networks that read one instant's evidence."""

from protoscene.networks.centernet import Detections, Detector, Prediction, detect, detections
from protoscene.networks.detection_loss import detection_loss
from protoscene.networks.encoder import MOST_CELLS, Encoder, stride_of

__all__ = [
    "MOST_CELLS",
    "Detections",
    "Detector",
    "Encoder",
    "Prediction",
    "detect",
    "detection_loss",
    "detections",
    "stride_of",
]
