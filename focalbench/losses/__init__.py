"""Classification and box losses, and ``LOSSES``, the classification losses by their names in the configuration.

Shape legend: N images, R anchors per image, A = N * R, K classes, C outputs per anchor (K with a sigmoid, K + 1 with a
softmax, background last). Labels: 0..K-1 classes, K background, -1 ignored.
"""

from focalbench.losses.asymmetric import Asymmetric
from focalbench.losses.base import ClassificationLoss
from focalbench.losses.class_balanced import ClassBalanced
from focalbench.losses.cross_entropy import BalancedCrossEntropy, CrossEntropy
from focalbench.losses.drop_in import FocalLoss
from focalbench.losses.focal import Focal, sigmoid_focal_loss
from focalbench.losses.focal_star import FocalStar
from focalbench.losses.ghm import GHM
from focalbench.losses.ohem import OHEM
from focalbench.losses.quality import QualityFocal, Varifocal
from focalbench.losses.softmax import (
    SoftmaxBalancedCrossEntropy,
    SoftmaxCrossEntropy,
    SoftmaxFocal,
    softmax_focal_loss,
)

__all__ = ["LOSSES", "FocalLoss", "sigmoid_focal_loss", "softmax_focal_loss"]

LOSSES: dict[str, type[ClassificationLoss]] = {
    "ce": CrossEntropy,
    "balanced_ce": BalancedCrossEntropy,
    "focal": Focal,
    "softmax_ce": SoftmaxCrossEntropy,
    "softmax_balanced_ce": SoftmaxBalancedCrossEntropy,
    "softmax_focal": SoftmaxFocal,
    "focal_star": FocalStar,
    "ohem": OHEM,
    "ghm": GHM,
    "class_balanced": ClassBalanced,
    "quality_focal": QualityFocal,
    "varifocal": Varifocal,
    "asymmetric": Asymmetric,
}
