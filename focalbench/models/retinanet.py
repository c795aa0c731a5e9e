"""RetinaNet: a feature pyramid, nine or so anchors a cell, a class subnet and a box subnet (arXiv:1708.02002, sec. 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from focalbench.boxes.anchors import cell_anchors, grid_anchors
from focalbench.boxes.coding import decode_boxes
from focalbench.models.backbones import BACKBONES
from focalbench.models.fpn import FeaturePyramid
from focalbench.models.heads import Subnet, class_subnet
from focalbench.models.postprocess import class_scores, select_detections, top_candidates
from focalbench.structures import Detections, HeadOutputs


class RetinaNet(nn.Module):
    """A RetinaNet for K classes.

    Args:
        num_classes: K.
        backbone: name in ``focalbench.models.backbones.BACKBONES``.
        activation: sigmoid (K outputs) or softmax (K + 1 outputs, background last).
        prior_prob: start value of an object's probability, None for none.
        fpn_channels: width of the pyramid and of the subnets.
        num_levels: pyramid levels from P3 up, at least 3.
        head_convs: hidden convolutions of each subnet.
        anchor_scale: side of a level's smallest square anchor in strides.
        num_octave_scales: anchor sizes a level, evenly spaced within an octave.
        anchor_ratios: height / width of the anchors.
        norm: batch | frozen | sync, the backbone's normalisation (torchvision backbones).
        pre_nms_top: candidates kept per level before suppression.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet50",
        *,
        activation: str = "sigmoid",
        prior_prob: float | None = 0.01,
        fpn_channels: int = 256,
        num_levels: int = 5,
        head_convs: int = 4,
        anchor_scale: float = 4.0,
        num_octave_scales: int = 3,
        anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        norm: str = "batch",
        pre_nms_top: int = 1000,
    ) -> None:
        super().__init__()
        self.num_classes, self.activation, self.pre_nms_top = num_classes, activation, pre_nms_top
        self.backbone = BACKBONES[backbone](norm)
        self.fpn = FeaturePyramid(self.backbone.channels, fpn_channels, num_levels - 3)
        self.strides = tuple(8 * 2**level for level in range(num_levels))
        octaves = [2 ** (step / num_octave_scales) for step in range(num_octave_scales)]
        self._cells = [cell_anchors([anchor_scale * s * o for o in octaves], anchor_ratios) for s in self.strides]
        self._anchors: dict[tuple[tuple[tuple[int, int], ...], torch.device], tuple[Tensor, tuple[int, ...]]] = {}
        num_anchors = num_octave_scales * len(anchor_ratios)
        self.box_subnet = Subnet(fpn_channels, head_convs, num_anchors, 4)
        # Last, so that whatever the loss asks of its outputs, all other weights of one seed are the same.
        self.class_subnet = class_subnet(fpn_channels, head_convs, num_anchors, num_classes, activation, prior_prob)

    def forward(self, images: Tensor) -> HeadOutputs:
        """Head outputs for (N, 3, H, W) normalised images."""
        levels = self.fpn(self.backbone(images))
        anchors, sizes = self._place_anchors(tuple((x.shape[2], x.shape[3]) for x in levels), images.device)
        canvas = (images.shape[2], images.shape[3])
        return HeadOutputs(self.class_subnet(levels), self.box_subnet(levels), anchors, canvas, sizes)

    def _place_anchors(
        self, feature_sizes: tuple[tuple[int, int], ...], device: torch.device
    ) -> tuple[Tensor, tuple[int, ...]]:
        """(R, 4) anchors of all levels and how many each has; kept for the next batch of the same size."""
        key = (feature_sizes, device)
        if key not in self._anchors:
            grids = [
                grid_anchors(cell, size, (stride, stride))
                for cell, size, stride in zip(self._cells, feature_sizes, self.strides, strict=True)
            ]
            self._anchors[key] = torch.cat(grids).to(device), tuple(len(grid) for grid in grids)
        return self._anchors[key]

    def anchors_for(self, canvas: tuple[int, int]) -> Tensor:
        """(R, 4) anchors on a canvas of (H, W) pixels, on the CPU, without running the network."""
        sizes = tuple((-(-canvas[0] // s), -(-canvas[1] // s)) for s in self.strides)
        return self._place_anchors(sizes, torch.device("cpu"))[0]

    @torch.no_grad()
    def decode(
        self, outputs: HeadOutputs, *, score_thresh: float, nms_thresh: float, max_detections: int
    ) -> list[Detections]:
        """Final boxes of each image: top candidates of each level, threshold, NMS within each class."""
        scores = class_scores(outputs.cls_logits, self.activation)
        scores, indices = top_candidates(scores, outputs.level_sizes, self.pre_nms_top)
        anchor = indices // self.num_classes
        deltas = outputs.box_deltas.gather(1, anchor[..., None].expand(-1, -1, 4))
        return select_detections(
            scores,
            indices,
            decode_boxes(deltas, outputs.anchors[anchor]),
            num_classes=self.num_classes,
            canvas=outputs.canvas,
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            max_detections=max_detections,
        )
