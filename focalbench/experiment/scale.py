"""Losses on one scale: the factor that gives a loss cross entropy's gradient norm on the logits.

Focal loss with alpha .25 and gamma 2 has a several times smaller gradient than cross entropy. Under one learning rate a
sweep over gamma is then a sweep over the step size in disguise; with this factor it is not.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from focalbench.losses.base import ClassificationLoss
from focalbench.losses.detection import ClassProblem
from focalbench.ranks import sum_over_ranks
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

    Measured on the initial network, on copies: neither the model's statistics nor the loss's state change.

    Args:
        reference: cross entropy with the same activation.
        num_batches: first training batches to measure on.
    """
    model, own = copy.deepcopy(model), copy.deepcopy(criterion.classification)
    assert isinstance(own, ClassificationLoss)
    squares = torch.zeros(2, dtype=torch.float64)
    for step in range(num_batches):
        images, targets = batches(step)
        with torch.no_grad(), torch.autocast(device.type, precision, enabled=precision != torch.float32):
            outputs = model(images)
        problem = criterion.class_problem(outputs, targets)  # type: ignore[operator]
        squares += torch.stack([_squared_gradient(problem, loss) for loss in (reference, own)])
    expected, found = sum_over_ranks(squares).sqrt().tolist()
    return expected / found if found > 0 else 1.0


def _squared_gradient(problem: ClassProblem, loss: ClassificationLoss) -> Tensor:
    """Squared norm of the gradient on the logits; float64 scalar."""
    logits = problem.logits.detach().float().requires_grad_()
    value = loss(logits, problem.labels, quality=problem.quality, boxes=problem.boxes) / problem.avg_factor
    (gradient,) = torch.autograd.grad(value, logits)
    return gradient.double().square().sum().cpu()
