"""Detectors: networks from images to :class:`focalbench.structures.HeadOutputs`, and from those to boxes.

Every entry of ``MODELS`` is built as ``MODELS[name](num_classes=K, backbone=..., activation=..., prior_prob=...,
...)``, called with normalised images (N, 3, H, W) and asked for boxes with ``model.decode(outputs, score_thresh=...,
nms_thresh=..., max_detections=...)``.
A model knows no loss: with ``activation="softmax"`` RetinaNet gives K + 1 class logits, background last; YOLOv2 always
gives K, since its objectness tells the background.
"""

from collections.abc import Callable

from torch import nn

from focalbench.models.retinanet import RetinaNet
from focalbench.models.yolov2 import YoloV2

MODELS: dict[str, Callable[..., nn.Module]] = {
    "retinanet": RetinaNet,
    "yolov2": YoloV2,
}
