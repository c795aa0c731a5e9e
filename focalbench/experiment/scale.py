"""Losses on one scale: the factor that gives a loss cross entropy's gradient norm on the logits.

Focal loss with alpha .25 and gamma 2 has a several times smaller gradient than cross entropy. Under one learning rate a
sweep over gamma is then a sweep over the step size in disguise; with this factor it is not.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from focalbench.losses.base import ClassificationLoss
from focalbench.losses.region import RegionLoss
from focalbench.ranks import sum_over_ranks
from focalbench.structures import HeadOutputs, Targets
from focalbench.training.loop import TrainingBatches


def matched_factor(
    model: nn.Module,
    criterion: nn.Module,
    reference: ClassificationLoss,
    batches: TrainingBatches,
    *,
    num_batches: int,
    device: torch.device,
    precision: torch.dtype,
) -> float:
    """Ratio of the gradient norms of ``reference`` and of the criterion's loss on the logits of the first batches.

    Measured on the initial network, on copies: neither the model's statistics nor the loss's state change. Where YOLOv2
    has the loss on classes and on objectness, the factor is for both, and so is the norm.

    Args:
        reference: cross entropy with the same activation.
        num_batches: first training batches to measure on.
    """
    model, criterion = copy.deepcopy(model), copy.deepcopy(criterion)
    squares = torch.zeros(2, dtype=torch.float64)
    for step in range(num_batches):
        images, targets = batches(step)
        with torch.no_grad(), torch.autocast(device.type, precision, enabled=precision != torch.float32):
            outputs = model(images)
        squares += _squared_gradients(criterion, reference, outputs, targets)
    expected, found = sum_over_ranks(squares).sqrt().tolist()
    return expected / found if found > 0 else 1.0


def _squared_gradients(
    criterion: nn.Module, reference: ClassificationLoss, outputs: HeadOutputs, targets: Targets
) -> Tensor:
    """Squared norms of the gradients of ``reference`` and of the loss under test on the logits; (2,) float64, CPU."""
    cls_logits = outputs.cls_logits.detach().float().requires_grad_()
    objectness = None if outputs.objectness is None else outputs.objectness.detach().float().requires_grad_()
    logits = [cls_logits] if objectness is None else [cls_logits, objectness]
    outputs = replace(outputs, cls_logits=cls_logits, objectness=objectness)
    problem = criterion.class_problem(outputs, targets)  # type: ignore[operator]
    values = [problem.loss(loss) for loss in (reference, criterion.classification)]
    if isinstance(criterion, RegionLoss) and criterion.objectness is not None:
        problem = criterion.objectness_problem(outputs, targets)
        binary = type(reference)(num_classes=1).to(problem.logits.device)
        values = [
            criterion.class_scale * value + problem.loss(loss)
            for value, loss in zip(values, (binary, criterion.objectness), strict=True)
        ]
    return torch.stack([_squared_norm(value, logits) for value in values])


def _squared_norm(value: Tensor, logits: Sequence[Tensor]) -> Tensor:
    """Of the gradient of ``value``; logits that have no part in it count as 0."""
    gradients = torch.autograd.grad(value, logits, retain_graph=True, allow_unused=True)
    squares = [gradient.double().square().sum() for gradient in gradients if gradient is not None]
    return torch.stack(squares).sum().cpu()
