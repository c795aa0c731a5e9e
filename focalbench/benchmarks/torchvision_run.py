"""One training of torchvision's RetinaNet in its tuned form, as a contestant of `bench quality`: a process of its own.

Loss, matching, subnets, anchors' places and what makes detections of the outputs are torchvision's. The tuning is what
its users know: AdamW with one cycle, bfloat16 where the processor has it, channels-last memory, clipped gradients,
images decoded and resized once, a process that augments ahead.
"""

from __future__ import annotations

import json
import sys
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.models import resnet18
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN, _resnet_fpn_extractor
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.transforms.v2 import functional as transforms

from focalbench.benchmarks.plain_data import Augmented, Example, batches
from focalbench.benchmarks.process import answer, flat_detections
from focalbench.data.images import to_canvas
from focalbench.devices import autocast, resolve_device, resolve_precision, set_determinism, use_device
from focalbench.models.backbones import BACKBONES
from focalbench.models.fpn import FeaturePyramid
from focalbench.structures import IMAGE_MEAN, IMAGE_STD

PEAK_LR, WARM_UP, WEIGHT_DECAY, CLIP_NORM = 2e-3, 0.15, 0.02, 10.0


class DecodedOnce(Dataset[Example]):
    """Augmented training images, each decoded and resized when it is first asked for and kept in memory.

    Args:
        images: ``path``, ``orientation``, ``width``, ``height``, ``boxes`` (0-based continuous xyxy, original pixels)
            and ``labels`` of each.
        canvas: (height, width) in pixels.
    """

    def __init__(self, images: Sequence[Mapping[str, Any]], canvas: tuple[int, int]) -> None:
        self._images, self._canvas = images, canvas
        self._decoded: dict[int, Image.Image] = {}
        self._change = Augmented(on_tensors=False)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Example:
        entry = self._images[index]
        if index not in self._decoded:
            self._decoded[index] = _read(entry, self._canvas)
        boxes = torch.tensor(entry["boxes"], dtype=torch.float32).reshape(-1, 4)
        boxes *= torch.tensor([self._canvas[1] / entry["width"], self._canvas[0] / entry["height"]] * 2)
        return self._change(self._decoded[index], boxes, torch.tensor(entry["labels"], dtype=torch.int64))


def _read(entry: Mapping[str, Any], canvas: tuple[int, int]) -> Image.Image:
    return Image.fromarray(to_canvas(Path(entry["path"]).read_bytes(), entry["orientation"], canvas, "warp"))


class _Pyramid(nn.Module):
    """focalbench's trunk and pyramid in the form that torchvision's detectors take."""

    def __init__(self, backbone: str, channels: int, num_levels: int) -> None:
        super().__init__()
        self.body = BACKBONES[backbone]("batch")
        self.fpn = FeaturePyramid(self.body.channels, channels, num_levels - 3)
        self.out_channels = channels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        levels = self.fpn(self.body(images))
        return OrderedDict((str(level), x) for level, x in enumerate(levels))


def resnet18_pyramid() -> BackboneWithFPN:
    """Returns torchvision's ResNet-18, from random weights, below its pyramid P3 to P7 of 256 channels."""
    return _resnet_fpn_extractor(
        resnet18(weights=None), 5, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256)
    )


def build(network: Mapping[str, Any] | None, num_classes: int, canvas: tuple[int, int], **detection: Any) -> RetinaNet:
    """Returns torchvision's RetinaNet for images that are normalised and on the canvas already.

    Args:
        network: ``backbone``, ``fpn_channels``, ``num_levels``, ``head_convs``, ``anchor_scale``, ``anchor_octaves``
            and ``anchor_ratios`` as in ``focalbench.models.retinanet.RetinaNet``: the same layers as there. None:
            torchvision's own, on ResNet-18.
        num_classes: K.
        canvas: (height, width) in pixels.
        detection: ``score_thresh``, ``nms_thresh``, ``detections_per_img`` and ``topk_candidates``.
    """
    shared: dict[str, Any] = {
        "min_size": min(canvas),
        "max_size": max(canvas),
        "image_mean": [0.0] * 3,
        "image_std": [1.0] * 3,
        "_skip_resize": True,
        **detection,
    }
    if network is None:
        return RetinaNet(resnet18_pyramid(), num_classes, **shared)
    trunk = _Pyramid(network["backbone"], network["fpn_channels"], network["num_levels"])
    octaves = [2 ** (step / network["anchor_octaves"]) for step in range(network["anchor_octaves"])]
    smallest = [network["anchor_scale"] * 8 * 2**level for level in range(network["num_levels"])]
    anchors = AnchorGenerator(
        tuple(tuple(size * factor for factor in octaves) for size in smallest),
        (tuple(network["anchor_ratios"]),) * len(smallest),
    )
    model = RetinaNet(trunk, num_classes, anchor_generator=anchors, **shared)
    for head in (model.head.classification_head, model.head.regression_head):
        head.conv = head.conv[: network["head_convs"]]
    return model


def train(request: Mapping[str, Any], *, num_loaders: int, peak_lr: float = PEAK_LR) -> RetinaNet:
    """Trains on ``request["train"]`` for ``request["steps"]`` steps, the whole schedule of the learning rate.

    Args:
        request: see ``focalbench.benchmarks.quality.request``.
        num_loaders: processes that augment beside the training, 0 for none.
        peak_lr: of the one cycle.
    """
    device, canvas, steps = resolve_device(request["device"]), tuple(request["canvas"]), request["steps"]
    use_device(device)
    precision = resolve_precision("auto", device)
    torch.manual_seed(0)
    model = build(request["network"], len(request["classes"]), canvas, **request["detection"])
    model.to(device, memory_format=torch.channels_last).train()
    # Losses are computed in float32, as under autocast on a GPU.
    model.head.register_forward_hook(lambda head, inputs, found: {key: x.float() for key, x in found.items()})
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_lr, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_lr, total_steps=steps, pct_start=WARM_UP)
    data = DecodedOnce(request["train"], canvas)
    for images, boxes, labels in islice(batches(data, request["batch_size"], num_loaders, device), steps):
        targets = [
            {"boxes": own[kept].to(device), "labels": label[kept].to(device)}
            for own, label, kept in zip(boxes, labels, labels >= 0, strict=True)
        ]
        with autocast(device, precision):
            losses = model(list(images.to(device, non_blocking=True)), targets)
        optimizer.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        schedule.step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return model


@torch.no_grad()
def detect(model: RetinaNet, request: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the detections on ``request["val"]`` as the metrics take them, boxes in VOC's pixels of the originals."""
    device, canvas = resolve_device(request["device"]), tuple(request["canvas"])
    model.eval()
    found = []
    for entry in request["val"]:
        pixels = transforms.to_dtype(transforms.to_image(_read(entry, canvas)), torch.float32, scale=True)
        image = transforms.normalize(pixels, list(IMAGE_MEAN), list(IMAGE_STD)).to(device)
        with autocast(device, resolve_precision("auto", device)):
            (boxes,) = model([image])
        scale = np.array([entry["width"] / canvas[1], entry["height"] / canvas[0]] * 2)
        found.append((boxes["labels"], boxes["scores"], boxes["boxes"].cpu().numpy() * scale))
    return flat_detections(found)


if __name__ == "__main__":
    request = json.load(sys.stdin)
    torch.set_num_threads(request["threads"])
    set_determinism(False)  # cuDNN searches its algorithms, as in a training of focalbench
    trained = train(request, num_loaders=request["num_loaders"])
    ended = time.perf_counter()
    answer(request["output"], detect(trained, request), ended)
