"""Does training start where theory says? The first class loss against its closed form."""

from __future__ import annotations

import copy

import torch

from focalbench.losses.criterion import Criterion
from focalbench.losses.oracle import diagnose_initial_loss
from focalbench.models.detector import Detector
from focalbench.ranks import mean_over_ranks
from focalbench.training.loop import TrainingBatches


@torch.no_grad()
def initial_class_loss(
    model: Detector, criterion: Criterion, batches: TrainingBatches, *, prior_prob: float | None
) -> dict[str, float | str | None]:
    """Returns observed and expected class loss of the untrained network on the first batch, and what a gap points to.

    Measured on copies, in float32: neither the model's statistics nor the loss's state change.

    Returns:
        ``observed``; ``expected`` (None where the loss has no closed form); ``diagnosis``, None when they agree.
    """
    model, loss = copy.deepcopy(model), copy.deepcopy(criterion.classification)
    images, targets = batches(0)
    outputs = model(images)
    problem = criterion.class_problem(outputs, targets)
    observed = mean_over_ranks({"loss": problem.loss(loss)})["loss"].item()
    num_images = len(problem.labels)
    num_anchors = (problem.labels >= 0).sum().item() / num_images
    expected = None
    if outputs.objectness is None:  # the closed forms are those of RetinaNet's anchors, background among them
        expected = loss.initial_loss(num_anchors, problem.avg_factor.item() / num_images, prior_prob)
    diagnosis = None if expected is None else diagnose_initial_loss(observed, expected)
    return {"observed": observed, "expected": expected, "diagnosis": diagnosis}
