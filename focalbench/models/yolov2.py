"""YOLOv2: Darknet-19 with a passthrough, boxes from priors, one objectness and K classes a box (arXiv:1612.08242)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from focalbench.boxes.priors import VOC_PRIORS
from focalbench.boxes.yolo import decode_cells, place_priors
from focalbench.models.darknet import ConvBlock, darknet19, reorganise, tiny_darknet
from focalbench.models.postprocess import decode_outputs
from focalbench.models.weights import load_yolov2_weights
from focalbench.structures import IMAGE_MEAN, IMAGE_STD, Detections, HeadOutputs

# Trunk, width of the head and of the passthrough.
_BACKBONES = {"darknet19": (darknet19, 1024, 64), "tiny": (tiny_darknet, 128, 32)}


class YoloV2(nn.Module):
    """A YOLOv2 for K classes; with ``darknet19``, 20 classes and 5 priors it is darknet's yolov2-voc.

    Class outputs are K with sigmoid and softmax alike: an empty cell is told by its objectness, there is no background
    class. Inside, images go back from normalised values to 0..1, the range that darknet's networks are trained on.

    Args:
        num_classes: K.
        backbone: darknet19 (stride 32) or tiny (stride 16).
        activation: softmax or sigmoid, over the K classes.
        prior_prob: objectness that every box starts with, in (0, 1); None: 0.5.
        priors: (width, height) of each prior in units of 32 px, whatever the stride.
        weights: none | a file (darknet's formats, or a torch state dict).
        pre_nms_top: candidates kept before suppression.

    Attributes:
        priors: (A, 2) float32 buffer, the priors' widths and heights in units of 32 px.
        stride: pixels per cell; canvases must be multiples of 32 in any case.

    Raises:
        ConfigError: for weights that this network cannot have.
        DataError: for a weight file that is damaged or does not fit.
    """

    priors: Tensor
    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        num_classes: int,
        backbone: str = "darknet19",
        *,
        activation: str = "softmax",
        prior_prob: float | None = None,
        priors: Sequence[tuple[float, float]] = VOC_PRIORS,
        weights: str = "none",
        pre_nms_top: int = 1000,
    ) -> None:
        super().__init__()
        self.num_classes, self.activation, self.pre_nms_top = num_classes, activation, pre_nms_top
        # In checkpoints, because priors may come from the training set.
        self.register_buffer("priors", torch.tensor(priors, dtype=torch.float32).reshape(-1, 2))
        self.register_load_state_dict_post_hook(_forget_anchors)
        build, width, passthrough = _BACKBONES[backbone]
        # Registered in the order of darknet's weight files.
        self.trunk = build()
        fine, coarse = self.trunk.channels
        momentum = self.trunk.momentum
        self.head = nn.Sequential(
            ConvBlock(coarse, width, 3, momentum=momentum), ConvBlock(width, width, 3, momentum=momentum)
        )
        self.passthrough = ConvBlock(fine, passthrough, 1, momentum=momentum)
        self.fuse = ConvBlock(4 * passthrough + width, width, 3, momentum=momentum)
        self.predict = nn.Conv2d(width, len(self.priors) * (5 + num_classes), 1)
        self._start_predictions(prior_prob)
        self.register_buffer("_mean", torch.tensor(IMAGE_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(IMAGE_STD).view(3, 1, 1), persistent=False)
        self.stride = self.trunk.stride
        self._anchors: dict[tuple[tuple[int, int], torch.device], Tensor] = {}
        load_yolov2_weights(self, backbone, weights)

    def _start_predictions(self, prior_prob: float | None) -> None:
        """Small random weights, so that the first boxes are the priors, and the objectness bias at its prior."""
        nn.init.normal_(self.predict.weight, std=0.01)
        bias = torch.zeros(len(self.priors), 5 + self.num_classes)
        if prior_prob is not None:
            bias[:, 4] = -math.log((1 - prior_prob) / prior_prob)
        with torch.no_grad():
            self.predict.bias.copy_(bias.flatten())  # type: ignore[union-attr]

    def forward(self, images: Tensor) -> HeadOutputs:
        """Head outputs for (N, 3, H, W) normalised images, H and W multiples of 32.

        ``box_deltas`` are raw t_x, t_y, t_w, t_h, to be read with :func:`focalbench.boxes.yolo.decode_cells`.
        """
        canvas = (images.shape[2], images.shape[3])
        if canvas[0] % 32 or canvas[1] % 32:
            raise ValueError(f"YOLOv2 needs a canvas of multiples of 32 px, not {canvas[0]} x {canvas[1]}")
        fine, coarse = self.trunk(images * self._std + self._mean)
        # The passthrough's channels come first, as in darknet's [route] layers=-1,-4.
        joined = torch.cat((reorganise(self.passthrough(fine)), self.head(coarse)), dim=1)
        raw = self.predict(self.fuse(joined)).permute(0, 2, 3, 1).reshape(images.shape[0], -1, 5 + self.num_classes)
        anchors = self._place(canvas, images.device)
        return HeadOutputs(raw[..., 5:], raw[..., :4], anchors, canvas, (len(anchors),), raw[..., 4])

    def _place(self, canvas: tuple[int, int], device: torch.device) -> Tensor:
        """(R, 4) priors in all cells; kept for the next batch of the same size."""
        if (canvas, device) not in self._anchors:
            self._anchors[canvas, device] = place_priors(self.priors.tolist(), canvas, self.stride).to(device)
        return self._anchors[canvas, device]

    def anchors_for(self, canvas: tuple[int, int]) -> Tensor:
        """(R, 4) priors in all cells of a canvas of (H, W) pixels, on the CPU, without running the network."""
        return self._place(canvas, torch.device("cpu"))

    def darknet_layers(self) -> list[nn.Module]:
        """The convolutions in the order of darknet's weight files."""
        trunk = [module for module in self.trunk.modules() if isinstance(module, ConvBlock)]
        return [*trunk, *self.head, self.passthrough, self.fuse, self.predict]

    def class_scores(self, outputs: HeadOutputs) -> Tensor:
        """(N, R, K) float32: objectness times class probability."""
        logits = outputs.cls_logits.float()
        classes = logits.sigmoid() if self.activation == "sigmoid" else logits.softmax(dim=-1)
        assert outputs.objectness is not None
        return classes * outputs.objectness.float().sigmoid()[..., None]

    def dense(self, outputs: HeadOutputs) -> tuple[Tensor, Tensor]:
        """Scores (N, R, K) and boxes (N, R, 4), xyxy canvas pixels, of every prior, before any is chosen or cut."""
        return self.class_scores(outputs), decode_cells(outputs.box_deltas, outputs.anchors, stride=self.stride)

    @torch.no_grad()
    def decode(
        self, outputs: HeadOutputs, *, score_thresh: float, nms_thresh: float, max_detections: int
    ) -> list[Detections]:
        """Final boxes of each image by objectness times class: see ``postprocess.decode_outputs``."""
        return decode_outputs(
            outputs,
            self.class_scores(outputs),
            partial(decode_cells, stride=self.stride),
            top_k=self.pre_nms_top,
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            max_detections=max_detections,
        )


def _forget_anchors(model: nn.Module, incompatible_keys: object) -> None:
    """After other priors were loaded, the anchors kept are wrong."""
    model._anchors.clear()  # type: ignore[operator, union-attr]
