"""Detectors: networks from images to :class:`focalbench.structures.HeadOutputs`, and from those to boxes.

Every entry of ``MODELS``, those that the sections of the configuration name, is built as ``MODELS[name](num_classes=K,
backbone=..., activation=..., prior_prob=..., ...)`` and does what :class:`focalbench.models.detector.Detector` says.
"""

from focalbench.config.base import named_classes
from focalbench.config.model import BuiltInDetector
from focalbench.models.detector import Detector

__all__ = ["MODELS", "Detector"]

MODELS: dict[str, type[Detector]] = named_classes(BuiltInDetector, "network")
