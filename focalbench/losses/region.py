"""YOLOv2's training criterion: darknet's region loss (arXiv:1612.08242) with a loss of the family in it.

Terms, each a sum over cells and priors ("boxes" below) divided by one normaliser, the number of responsible boxes of
the batch, at least 1. darknet divides by the number of images instead: with VOC's 2.4 objects an image, its learning
rate of 1e-3 makes the steps of 2.4e-3 here, and its weight decay of 5e-4 that of 5e-4 / 2.4.

- ``box``: half the squared error of sigmoid(t_xy) and t_wh at responsible boxes, times ``coord_scale`` and, as an
  option, 2 - w h. For the first ``anneal_images`` images all other boxes are pulled to their priors with weight 0.01.
- ``obj``: half the squared error of sigmoid(objectness): towards the predicted box's IoU (``rescore``) or 1 at
  responsible boxes, times ``object_scale``; towards 0 elsewhere, times ``noobject_scale``, left out where a prediction
  has IoU > ``ignore_iou`` with an object.
- ``cls``: softmax cross entropy over the K classes at responsible boxes, times ``class_scale``.

These have the gradients of darknet's GPU code, with the option 2 - w h; docs/detectors.md says what else differs.
``apply_to`` puts the loss under test in the place of ``cls`` (``class``, as the YOLOv2 note of docs/references.md does:
no background there, so alpha cannot balance it against objects), of ``obj`` (``objectness``), or of both. On objectness
it is a binary problem over all boxes, background included, and brings its own balance: ``object_scale`` and
``noobject_scale`` have no part in it, and only a loss that asks for ``quality`` sees the IoU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from focalbench.boxes.matching import IGNORE
from focalbench.boxes.yolo import decode_cells, encode_cells, match_cells
from focalbench.losses.base import ClassificationLoss, Counts
from focalbench.losses.criterion import ClassProblem, Criterion, normaliser
from focalbench.losses.detection import aligned_iou, matched_boxes
from focalbench.ranks import sum_over_ranks, world_size
from focalbench.structures import HeadOutputs, Targets

ApplyTo = Literal["class", "objectness", "both"]

PRIOR_PULL = 0.01
"""darknet's weight of the early pull to the priors."""
_IMPOSSIBLE = -1e4
"""A background logit so low that its probability is 0 in float32, and finite: no loss computes inf * 0."""


@dataclass(frozen=True)
class _Assignment:
    """Which box answers for which object.

    Attributes:
        matched: (N, R) int64, index into M; BACKGROUND; IGNORE where a prediction that is not responsible overlaps an
            object enough.
        boxes: (N, R, 4) decoded predictions, xyxy pixels, without gradient.
        iou: (N, R) IoU of a responsible box's prediction with its object; 0 elsewhere.
        avg_factor: float32 scalar, responsible boxes of the batch, at least 1: see ``criterion.normaliser``.
    """

    matched: Tensor
    boxes: Tensor
    iou: Tensor
    avg_factor: Tensor

    @property
    def responsible(self) -> Tensor:
        """(N, R) bool."""
        return self.matched >= 0


class RegionLoss(Criterion):
    """Class, objectness and coordinate loss of boxes predicted from priors in cells.

    Args:
        classification, num_classes, weight: see ``Criterion``; the loss under test is over K classes, or over 1 with
            ``apply_to="objectness"``.
        stride: pixels per cell of the network.
        apply_to: which terms the loss under test replaces.
        objectness: the loss under test over 1 class, for ``apply_to="both"`` alone.
        object_scale, noobject_scale: factors of darknet's objectness term.
        coord_scale, class_scale: factors of the coordinate and of the class term.
        ignore_iou: IoU from which a box that is not responsible is let alone.
        rescore: whether the objectness target is the IoU, a constant in the gradient, or 1.
        coord_area_scale: whether small boxes count more, by 2 - w h in canvas units (darknet's code does, the paper
            does not say).
        anneal_images: how many images the early pull lasts; 0 for none.

    Attributes:
        images_seen: int64 scalar, images trained on so far; goes into checkpoints.
    """

    objectness: ClassificationLoss | None
    images_seen: Tensor
    _own_prior: Tensor

    def __init__(
        self,
        classification: ClassificationLoss,
        *,
        num_classes: int,
        stride: int = 32,
        apply_to: ApplyTo = "class",
        objectness: ClassificationLoss | None = None,
        weight: float = 1.0,
        object_scale: float = 5.0,
        noobject_scale: float = 1.0,
        coord_scale: float = 1.0,
        class_scale: float = 1.0,
        ignore_iou: float = 0.6,
        rescore: bool = True,
        coord_area_scale: bool = False,
        anneal_images: int = 12_800,
    ) -> None:
        super().__init__(classification, num_classes=num_classes, weight=weight)
        if (objectness is not None) != (apply_to == "both"):
            raise ValueError(f"a second loss is for apply_to both, which needs it; apply_to is {apply_to}")
        self.objectness = objectness
        self.stride, self.apply_to = stride, apply_to
        self.object_scale, self.noobject_scale = object_scale, noobject_scale
        self.coord_scale, self.class_scale = coord_scale, class_scale
        self.ignore_iou, self.rescore, self.coord_area_scale = ignore_iou, rescore, coord_area_scale
        self.anneal_images = anneal_images
        self.register_buffer("images_seen", torch.tensor(0))
        self.register_buffer("_own_prior", torch.tensor([0.5, 0.5, 0.0, 0.0]), persistent=False)

    @classmethod
    def around(
        cls,
        make_loss: Callable[[int], ClassificationLoss],
        *,
        num_classes: int,
        apply_to: ApplyTo = "class",
        **options: Any,
    ) -> Self:
        """See ``Criterion``; with ``apply_to="both"`` the loss under test is in it over K classes and over one."""
        return cls(
            make_loss(1 if apply_to == "objectness" else num_classes),
            objectness=make_loss(1) if apply_to == "both" else None,
            num_classes=num_classes,
            apply_to=apply_to,
            **options,
        )

    def forward(self, outputs: HeadOutputs, targets: Targets) -> dict[str, Tensor]:
        """See ``Criterion``; there is a term ``obj``, and ``num_pos`` counts the responsible boxes.

        In training mode the images count towards ``anneal_images``.
        """
        assigned = self._assign(outputs, targets)
        sums = {
            "cls": self.class_scale * self._class_loss(outputs, targets, assigned),
            "box": self._box_loss(outputs, targets, assigned),
            "obj": self._objectness_loss(outputs, assigned),
        }
        if self.training:
            self.images_seen += len(targets.boxes) * world_size()
        terms = {name: value / assigned.avg_factor for name, value in sums.items()}
        return {**terms, "num_pos": sum_over_ranks(assigned.responsible.sum())}

    def class_problem(self, outputs: HeadOutputs, targets: Targets) -> ClassProblem:
        """See ``Criterion``: which class, or, applied to objectness alone, object or not."""
        assigned = self._assign(outputs, targets)
        if self.apply_to == "objectness":
            return _objectness_problem(self.classification, outputs, assigned)
        return self._class_problem(outputs, targets, assigned)

    def problems(self, outputs: HeadOutputs, targets: Targets) -> dict[str, ClassProblem]:
        """See ``Criterion``."""
        if self.objectness is None:
            return super().problems(outputs, targets)
        assigned = self._assign(outputs, targets)
        return {
            "classification": replace(self._class_problem(outputs, targets, assigned), factor=self.class_scale),
            "objectness": _objectness_problem(self.objectness, outputs, assigned),
        }

    def count(self, anchors: Tensor, targets: Targets) -> dict[str, Counts]:
        """See ``Criterion``; the batch is on one canvas.

        Classes: responsible boxes of each class and no background; the K - 1 other classes of each box are negatives
        that a sigmoid loss adds itself. Objectness: responsible boxes and all others; which of those will be ignored,
        the training decides.
        """
        matched = self._responsible(anchors, targets)
        labels = _class_labels(matched, targets)
        positives = torch.bincount(labels[labels >= 0], minlength=self.num_classes).tolist()
        classes = Counts(tuple(positives), negatives=0)
        objects = Counts((int((matched >= 0).sum()),), int((matched < 0).sum()))
        if self.apply_to == "class":
            return {"classification": classes}
        if self.apply_to == "objectness":
            return {"classification": objects}
        return {"classification": classes, "objectness": objects}

    def _responsible(self, anchors: Tensor, targets: Targets) -> Tensor:
        """(N, R) int64 object of each box; the canvas follows from the centre of the last cell."""
        low, high = anchors[-1, :2], anchors[-1, 2:]
        width, height = ((low + high + self.stride) / 2).round().int().tolist()
        return match_cells(anchors, (height, width), targets.boxes, targets.labels, stride=self.stride)

    @torch.no_grad()
    def _assign(self, outputs: HeadOutputs, targets: Targets) -> _Assignment:
        anchors, objects = outputs.anchors, targets.boxes
        matched = match_cells(anchors, outputs.canvas, objects, targets.labels, stride=self.stride)
        responsible = matched >= 0
        boxes = decode_cells(outputs.box_deltas, anchors, stride=self.stride)
        iou = aligned_iou(boxes, matched_boxes(matched, targets)) * responsible
        if objects.shape[1]:
            valid = (targets.labels >= 0)[:, None]
            best = (aligned_iou(boxes[:, :, None], objects[:, None]) * valid).amax(dim=2)
            matched = torch.where(~responsible & (best > self.ignore_iou), IGNORE, matched)
        return _Assignment(matched, boxes, iou, normaliser(responsible.sum()))

    def _class_loss(self, outputs: HeadOutputs, targets: Targets, assigned: _Assignment) -> Tensor:
        """Sum over responsible boxes; the loss under test, or softmax cross entropy."""
        if self.apply_to != "objectness":
            problem = self._class_problem(outputs, targets, assigned)
            return self.weight * _summed(self.classification, problem)
        labels = _class_labels(assigned.matched, targets)
        logits = outputs.cls_logits.float().flatten(0, 1)
        return F.cross_entropy(logits, labels.flatten(), ignore_index=-1, reduction="sum")

    def _class_problem(self, outputs: HeadOutputs, targets: Targets, assigned: _Assignment) -> ClassProblem:
        """Labels 0..K-1 at responsible boxes, -1 elsewhere: there is no background class."""
        labels = _class_labels(assigned.matched, targets)
        logits = outputs.cls_logits.float()
        if self.classification.activation == "softmax":
            logits = _with_background(logits, _IMPOSSIBLE)
        return _problem(self.classification, logits, labels, assigned)

    def _objectness_loss(self, outputs: HeadOutputs, assigned: _Assignment) -> Tensor:
        """Sum over boxes that are not ignored; the loss under test, or darknet's squared error."""
        assert outputs.objectness is not None
        if self.apply_to != "class":
            loss = self.classification if self.objectness is None else self.objectness
            problem = _objectness_problem(loss, outputs, assigned)
            return self.weight * _summed(loss, problem)
        responsible = assigned.responsible
        target = assigned.iou if self.rescore else responsible.float()
        scale = torch.where(responsible, self.object_scale, self.noobject_scale)
        scale = scale.masked_fill(assigned.matched == IGNORE, 0.0)
        return 0.5 * (scale * (outputs.objectness.float().sigmoid() - target).square()).sum()

    def _box_loss(self, outputs: HeadOutputs, targets: Targets, assigned: _Assignment) -> Tensor:
        """Half the squared error: to the object at responsible boxes, to the prior elsewhere while that lasts."""
        responsible, objects = assigned.responsible[..., None], matched_boxes(assigned.matched, targets)
        deltas = outputs.box_deltas.float()
        found = torch.cat((deltas[..., :2].sigmoid(), deltas[..., 2:]), dim=-1)
        wanted = torch.where(responsible, encode_cells(objects, outputs.anchors, stride=self.stride), self._own_prior)
        pull = PRIOR_PULL * (self.images_seen < self.anneal_images)
        scale = torch.where(responsible, self.coord_scale, pull)
        if self.coord_area_scale:
            area = (objects[..., 2:] - objects[..., :2]).prod(dim=-1) / (outputs.canvas[0] * outputs.canvas[1])
            scale = torch.where(responsible, scale * (2 - area)[..., None], scale)
        return 0.5 * (scale * (found - wanted).square()).sum()


def _class_labels(matched: Tensor, targets: Targets) -> Tensor:
    """(N, R) int64: class of a responsible box's object, -1 elsewhere."""
    if targets.labels.shape[1] == 0:
        return torch.full_like(matched, -1)
    return torch.where(matched >= 0, targets.labels.gather(1, matched.clamp(min=0)), -1)


def _objectness_problem(loss: ClassificationLoss, outputs: HeadOutputs, assigned: _Assignment) -> ClassProblem:
    """Objectness as one class: label 0 at responsible boxes, 1 (background) elsewhere, -1 where ignored.

    A softmax over (x, 0) is the sigmoid of x, so the softmax losses take their binary form with a background logit of
    0.
    """
    assert outputs.objectness is not None
    logits = outputs.objectness.float()[..., None]
    if loss.activation == "softmax":
        logits = _with_background(logits, 0.0)
    labels = torch.where(assigned.responsible, 0, torch.where(assigned.matched == IGNORE, -1, 1))
    return _problem(loss, logits, labels, assigned)


def _problem(loss: ClassificationLoss, logits: Tensor, labels: Tensor, assigned: _Assignment) -> ClassProblem:
    return ClassProblem(
        logits,
        labels,
        assigned.iou if loss.needs_quality else None,
        assigned.boxes if loss.needs_boxes else None,
        assigned.avg_factor,
    )


def _summed(loss: ClassificationLoss, problem: ClassProblem) -> Tensor:
    """``loss`` on ``problem``, not yet normalised."""
    return loss(problem.logits, problem.labels, quality=problem.quality, boxes=problem.boxes)


def _with_background(logits: Tensor, value: float) -> Tensor:
    """``logits`` (N, R, K) with a constant last column."""
    return F.pad(logits, (0, 1), value=value)
