"""Losses on one scale: the factor that gives a loss cross entropy's gradient norm on the logits.

Focal loss with alpha .25 and gamma 2 has a several times smaller gradient than cross entropy. A sweep over gamma is
then also one over the weight of the other losses beside it and, under SGD, over the step size; with this factor it
starts as neither.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from focalbench.devices import autocast
from focalbench.losses.criterion import Criterion
from focalbench.losses.softmax import REFERENCES
from focalbench.models.detector import Detector
from focalbench.ranks import sum_over_ranks
from focalbench.structures import HeadOutputs, Targets
from focalbench.training.loop import StepSettings, TrainingBatches


def matched_factor(
    model: Detector,
    criterion: Criterion,
    batches: TrainingBatches,
    *,
    num_batches: int,
    settings: StepSettings,
) -> float:
    """Returns the ratio of the gradient norms of cross entropy and of the loss under test on the logits of the first
    batches.

    Measured on the initial network, on copies: neither the model's statistics nor the loss's state change. Where the
    criterion has the loss in it twice, the factor is for both, and so is the norm.

    Args:
        num_batches: first training batches to measure on.
    """
    model, criterion = copy.deepcopy(model), copy.deepcopy(criterion)
    squares = torch.zeros(2, dtype=torch.float64)
    for step in range(num_batches):
        images, targets = batches(step)
        with torch.no_grad(), autocast(settings.device, settings.precision):
            outputs = model(images)
        squares += _squared_gradients(criterion, outputs, targets)
    expected, found = sum_over_ranks(squares).sqrt().tolist()
    return expected / found if found > 0 else 1.0


def _squared_gradients(criterion: Criterion, outputs: HeadOutputs, targets: Targets) -> Tensor:
    """Squared norms of the gradients of cross entropy and of the loss under test on the logits; (2,) float64, CPU."""
    cls_logits = outputs.cls_logits.detach().float().requires_grad_()
    objectness = None if outputs.objectness is None else outputs.objectness.detach().float().requires_grad_()
    logits = [cls_logits] if objectness is None else [cls_logits, objectness]
    problems = criterion.problems(replace(outputs, cls_logits=cls_logits, objectness=objectness), targets)
    expected = found = torch.zeros((), device=cls_logits.device)
    for name, loss in criterion.losses().items():
        reference = REFERENCES[loss.activation](loss.num_classes).to(cls_logits.device)
        expected = expected + problems[name].factor * problems[name].loss(reference)
        found = found + problems[name].factor * problems[name].loss(loss)
    return torch.stack([_squared_norm(value, logits) for value in (expected, found)])


def _squared_norm(value: Tensor, logits: Sequence[Tensor]) -> Tensor:
    """Returns the squared norm of the gradient of ``value``; logits that have no part in it count as 0."""
    gradients = torch.autograd.grad(value, logits, retain_graph=True, allow_unused=True)
    squares = [gradient.double().square().sum() for gradient in gradients if gradient is not None]
    return torch.stack(squares).sum().cpu()
