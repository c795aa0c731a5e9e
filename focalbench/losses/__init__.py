"""Classification and box losses, and criteria, which put them together for a detector.

``LOSSES`` holds the classification losses by their names in the configuration, ``CRITERIA`` the criteria by the names
of their detectors, as the sections of the configuration name them.

Shape legend: N images, R anchors per image, A = N * R, K classes, C outputs per anchor (K with a sigmoid, K + 1 with a
softmax, background last). Labels: 0..K-1 classes, K background, -1 ignored.
"""

from focalbench.config.base import named_classes
from focalbench.config.loss import BuiltInLoss
from focalbench.config.model import BuiltInDetector
from focalbench.losses.base import ClassificationLoss, Counts, Schedulable
from focalbench.losses.criterion import ClassProblem, Criterion
from focalbench.losses.detection import DetectionLoss
from focalbench.losses.drop_in import FocalLoss
from focalbench.losses.elementwise import Terms, fused_sum
from focalbench.losses.focal import sigmoid_focal_loss
from focalbench.losses.softmax import softmax_focal_loss

__all__ = [
    "CRITERIA",
    "LOSSES",
    "ClassProblem",
    "ClassificationLoss",
    "Counts",
    "Criterion",
    "DetectionLoss",
    "FocalLoss",
    "Schedulable",
    "Terms",
    "fused_sum",
    "sigmoid_focal_loss",
    "softmax_focal_loss",
]

LOSSES: dict[str, type[ClassificationLoss]] = named_classes(BuiltInLoss, "loss")
CRITERIA: dict[str, type[Criterion]] = named_classes(BuiltInDetector, "criterion")
