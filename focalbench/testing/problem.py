"""Small batches on which a loss is looked at, and a loss with all that it takes to be built again and again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from focalbench.losses.base import ClassificationLoss, Counts

NUM_CLASSES = 3
BACKGROUND, IGNORED = NUM_CLASSES, -1
COUNTS = Counts((10, 20, 30), 1000)
_LABELS = ((0, 1, 2, 3, -1, 3, 1), (3, 3, 3, 0, 0, -1, 2))
_NONE: Mapping[str, Any] = MappingProxyType({})
_SPREAD = 2.0  # standard deviation of the logits
_SIDE = 20.0  # pixels


@dataclass(frozen=True)
class Problem:
    """What a loss is called with: (N, R, C) logits, (N, R) labels and qualities, (N, R, 4) boxes."""

    logits: Tensor
    labels: Tensor
    quality: Tensor
    boxes: Tensor

    def with_logits(self, logits: Tensor) -> Problem:
        """Returns the same anchors with other logits."""
        return replace(self, logits=logits)

    def to(self, dtype: torch.dtype) -> Problem:
        """Returns the problem with logits of ``dtype``."""
        return self.with_logits(self.logits.to(dtype))

    def at(self, anchors: Tensor) -> Problem:
        """Returns the problem with the ``anchors`` of each image, by their indices or a (R,) mask."""
        return Problem(
            self.logits[:, anchors], self.labels[:, anchors], self.quality[:, anchors], self.boxes[:, anchors]
        )

    def image(self, index: int) -> Problem:
        """Returns one image of the problem."""
        part = slice(index, index + 1)
        return Problem(self.logits[part], self.labels[part], self.quality[part], self.boxes[part])

    def twice(self) -> Problem:
        """Returns the problem with every image two times."""
        return Problem(*(torch.cat([part, part]) for part in (self.logits, self.labels, self.quality, self.boxes)))


@dataclass(frozen=True)
class Subject:
    """A loss under test.

    Attributes:
        name: of the loss.
        place: file and line of its definition.
        kind: its class, called with ``num_classes``, ``counts`` and its keywords.
        keywords: with which it is built.
        schema: JSON Schema of its keys.
    """

    name: str
    place: str
    kind: type[ClassificationLoss]
    keywords: Mapping[str, Any]
    schema: Mapping[str, Any]

    @property
    def num_outputs(self) -> int:
        """C: outputs for each anchor."""
        return NUM_CLASSES + (self.kind.activation == "softmax")

    def build(self, changes: Mapping[str, Any] = _NONE, *, training: bool = False) -> ClassificationLoss:
        """Returns the loss as new, with some other keywords."""
        return self.kind(NUM_CLASSES, counts=COUNTS, **{**self.keywords, **changes}).train(training)

    def sample(self, dtype: torch.dtype = torch.float32) -> Problem:
        """Returns two images of seven anchors: all classes, background, ignored ones."""
        generator = torch.Generator().manual_seed(5)
        labels = torch.tensor(_LABELS)
        logits = torch.randn(*labels.shape, self.num_outputs, generator=generator, dtype=torch.float64) * _SPREAD
        corners = torch.rand(*labels.shape, 2, generator=generator) * _SIDE
        quality = torch.rand(labels.shape, generator=generator)
        return Problem(logits.to(dtype), labels, quality, torch.cat([corners, corners + 3], dim=2))

    def alike(self, logits: Tensor, label: int) -> Problem:
        """Returns anchors with these (N, R, C) logits, all of one label and with perfect boxes."""
        shape = logits.shape[:2]
        boxes = torch.tensor([0.0, 0, 9, 9]).expand(*shape, 4).clone()
        return Problem(logits, torch.full(shape, label), torch.ones(shape), boxes)

    def single(self, logit: float, label: int) -> Problem:
        """Returns one anchor of class 0 or of background, with 0 at every output but :meth:`single_column`."""
        logits = torch.zeros(1, 1, self.num_outputs)
        logits[..., self.single_column(label)] = logit
        return self.alike(logits, label)

    def single_column(self, label: int) -> int:
        """Returns 0, where a sigmoid's background has the target 0; and of a softmax's background its own output."""
        return label if label < self.num_outputs else 0

    def words(self, problem: Problem, place: tuple[int, int, int]) -> str:
        """Returns which logit and target stand at (image, anchor, output)."""
        image, anchor, output = place
        row, label = problem.logits[image, anchor], int(problem.labels[image, anchor])
        if label == IGNORED:
            return f"a logit of {float(row[output]):.4g} of an ignored anchor"
        if self.num_outputs == NUM_CLASSES:
            return f"a logit of {float(row[output]):.4g} and a target of {int(label == output)}"
        target = "the background, the last one," if label == BACKGROUND else f"class {label}"
        return f"logits of {[float(f'{value:.4g}') for value in row]}, where {target} is the target"


def value_of(loss: ClassificationLoss, problem: Problem) -> Tensor:
    """Returns what ``loss`` makes of a problem; what it draws at random it draws alike each time."""
    torch.default_generator.manual_seed(0)
    return loss(
        problem.logits,
        problem.labels,
        quality=problem.quality if loss.needs_quality else None,
        boxes=problem.boxes if loss.needs_boxes else None,
    )


def solve(loss: ClassificationLoss, problem: Problem) -> tuple[Tensor, Tensor]:
    """Returns the value of ``loss``, (), without a graph, and its gradient on the logits, (N, R, C)."""
    logits = problem.logits.detach().clone().requires_grad_()
    value = value_of(loss, problem.with_logits(logits))
    if not value.requires_grad:
        return value.detach(), torch.zeros_like(logits)
    (gradient,) = torch.autograd.grad(value, logits, allow_unused=True)
    return value.detach(), torch.zeros_like(logits) if gradient is None else gradient
