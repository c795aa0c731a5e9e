"""Does training start where theory says? The head against its prior, the first class loss against its closed form."""

from __future__ import annotations

import copy

import torch

from focalbench.losses.base import ClassificationLoss
from focalbench.losses.criterion import ClassProblem, Criterion
from focalbench.losses.oracle import diagnose_initial_loss, diagnose_start, object_log_odds, sum_at_outputs
from focalbench.models.detector import Detector
from focalbench.ranks import mean_over_ranks, sum_over_ranks, world_size
from focalbench.training.loop import TrainingBatches


@torch.no_grad()
def initial_class_loss(
    model: Detector,
    criterion: Criterion,
    batches: TrainingBatches,
    *,
    prior_prob: float | None,
    knows_prior: bool = True,
) -> dict[str, float | str | None]:
    """Returns observed and expected class loss of the untrained network on the first batch, and what a gap points to.

    Measured on copies, in float32: neither the model's statistics nor the loss's state change.

    Args:
        prior_prob: what the head is to start at; None: all logits at 0.
        knows_prior: whether ``prior_prob`` is known; where it is not, the loss is held against the outputs alone.

    Returns:
        ``observed``; ``expected`` at the prior and ``at_outputs``, at the outputs as they are (None where the loss has
        no closed form); ``diagnosis``, None where all is well.
    """
    model, loss = copy.deepcopy(model), copy.deepcopy(criterion.classification)
    images, targets = batches(0)
    outputs = model(images)
    problem = criterion.class_problem(outputs, targets)
    observed = mean_over_ranks({"loss": problem.loss(loss)})["loss"].item()
    found: dict[str, float | str | None] = {"observed": observed, "expected": None, "at_outputs": None}
    if outputs.objectness is not None:  # the closed forms are those of RetinaNet's anchors, background among them
        return found | {"diagnosis": None}
    num_images, counted = len(problem.labels), problem.labels >= 0
    # Counted anew: the divisor is a part of what is checked.
    num_positives = sum_over_ranks((counted & (problem.labels < loss.num_classes)).sum()).item() / world_size()
    expected = loss.initial_loss(counted.sum().item() / num_images, num_positives / num_images, prior_prob)
    at_outputs = None if expected is None else _at_outputs(loss, problem, num_positives)
    diagnosis = diagnose_initial_loss(observed, expected if knows_prior else at_outputs, at_outputs)
    if diagnosis is None and knows_prior and expected is not None:
        diagnosis = _diagnose_head(loss, problem, prior_prob)
    return found | {"expected": expected, "at_outputs": at_outputs, "diagnosis": diagnosis}


def _at_outputs(loss: ClassificationLoss, problem: ClassProblem, num_positives: float) -> float | None:
    """The loss per positive anchor that the outputs must give; ``num_positives`` are those of a rank on average."""
    total = sum_at_outputs(loss, problem.logits, problem.labels)
    if total is None:
        return None
    return mean_over_ranks({"loss": problem.logits.new_tensor(total / num_positives)})["loss"].item()


def _diagnose_head(loss: ClassificationLoss, problem: ClassProblem, prior_prob: float | None) -> str | None:
    log_odds = object_log_odds(problem.logits.float(), loss.activation)
    start = mean_over_ranks({"mean": log_odds.mean(), "spread": log_odds.std(correction=0)})
    num_objects = 1 if loss.activation == "sigmoid" else loss.num_classes
    return diagnose_start(start["mean"].item(), start["spread"].item(), prior_prob, num_objects=num_objects)
