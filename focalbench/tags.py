"""Names of the numbers that a trial logs: tags in TensorBoard, keys in metrics.jsonl and result.json alike."""

from __future__ import annotations

from typing import Literal

MEAN_AP = "val/mAP"
"""Mean average precision by the configured protocol, in [0, 1]."""
BEST_MEAN_AP = "val/mAP_best"
"""The highest so far: chosen by the test set, it flatters."""
CLASS_AP = "AP/"
"""Prefix of a class's average precision: ``AP/person``."""
TRAIN_LOSS = "train/loss"
LEARNING_RATE = "train/lr"
IMAGES_PER_S = "perf/images_per_s"
"""Images trained on per second of training."""
TRAIN_SECONDS = "perf/time_s"
"""Seconds of training steps so far."""
EVALUATION = ("val/", CLASS_AP)
"""Prefixes of what an evaluation logs."""


ProtocolName = Literal["voc07", "voc12", "coco"]
PROTOCOL_MEANING = """What `val/mAP` means: `voc07`, VOC's 11 points; `voc12`, VOC's area under the curve (2010 on);
`coco`, COCO's mean over IoU .50 to .95."""


def is_average_precision(tag: str) -> bool:
    """Tells whether ``tag`` names an mAP or a class's AP, which lie in [0, 1] and are better the higher."""
    return tag.startswith((MEAN_AP, CLASS_AP))
