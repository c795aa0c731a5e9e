"""Classification and box losses, and ``LOSSES``, the classification losses by their names in the configuration.

Shape legend: N images, R anchors per image, A = N * R, K classes, C outputs per anchor (K with a sigmoid, K + 1 with a
softmax, background last). Labels: 0..K-1 classes, K background, -1 ignored.
"""

from focalbench.losses.base import ClassificationLoss
from focalbench.losses.cross_entropy import BalancedCrossEntropy, CrossEntropy
from focalbench.losses.focal import Focal

LOSSES: dict[str, type[ClassificationLoss]] = {
    "ce": CrossEntropy,
    "balanced_ce": BalancedCrossEntropy,
    "focal": Focal,
}
