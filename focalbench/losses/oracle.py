"""What the loss must be before the first step, and the names of the ways in which training goes wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from focalbench.losses.base import ClassificationLoss

_TOLERANCE = 0.2  # relative; beyond it the start is not what the configuration says
_FARTHEST_START = 1.0  # of the mean log-odds from the prior's
_WIDEST_START = 3.0  # standard deviation of log-odds
_BIN, _FARTHEST, _LEAST = 0.1, 30.0, 1e-12  # width and end of the bins of log-odds; the least probability
_STUCK_WINDOW = 50  # logged steps that must agree
_COLLAPSE = 2.302  # .25 (1 - 1e-4)^2 (-ln 1e-4): all positives missed with probabilities clamped at 1e-4


def initial_sigmoid_loss(
    num_anchors: float,
    num_positives: float,
    prior_prob: float | None,
    *,
    num_classes: int,
    gamma: float = 0.0,
    alpha: float | None = None,
) -> float | None:
    """Returns L0 of the sigmoid focal loss, per positive anchor, when every probability equals the prior.

    a (1 - pi)^g (-ln pi) + (1 - a) pi^g (-ln(1 - pi)) (R K - P) / P; without alpha both weights are 1.

    Args:
        num_anchors: R, anchors that are not ignored.
        num_positives: P among them; means over images are fine.
        prior_prob: pi, in (0, 1); None: 1/2, a head that starts at zero.
        num_classes: K.
        gamma: focusing exponent.
        alpha: weight of positives, or None.

    Returns:
        Nats per positive anchor, or None where there is no positive.
    """
    if num_positives <= 0:
        return None
    prior = 0.5 if prior_prob is None else prior_prob
    on_positives, on_negatives = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    hit = on_positives * (1 - prior) ** gamma * -math.log(prior)
    miss = on_negatives * prior**gamma * -math.log1p(-prior)
    return hit + miss * (num_anchors * num_classes - num_positives) / num_positives


def initial_softmax_loss(
    num_anchors: float,
    num_positives: float,
    prior_prob: float | None,
    *,
    num_classes: int,
    gamma: float = 0.0,
    weights: tuple[float, float] = (1.0, 1.0),
) -> float | None:
    """Returns L0 of the softmax focal loss over K + 1 outputs, per positive anchor.

    The classes share the prior: each starts at pi / K, the background at 1 - pi. ``weights`` are those of a class and
    of the background, the other arguments as for :func:`initial_sigmoid_loss`; without a prior all outputs are equal.
    """
    if num_positives <= 0:
        return None
    prior = num_classes / (num_classes + 1) if prior_prob is None else prior_prob
    on_class = prior / num_classes
    hit = weights[0] * (1 - on_class) ** gamma * -math.log(on_class)
    miss = weights[1] * prior**gamma * -math.log1p(-prior)
    return hit + miss * (num_anchors - num_positives) / num_positives


def sum_at_outputs(loss: ClassificationLoss, logits: Tensor, labels: Tensor) -> float | None:
    """Returns the sum that ``loss`` must give for these outputs, from its closed form alone, or None where it has none.

    An untrained head is not at its prior, but around it: nine taps of 256 channels with weights of 0.01 give log-odds a
    standard deviation of 0.3 to 1.6, by the backbone. Negatives of cross entropy cost in proportion to the mean
    probability, which is 1.05 to 3 times the prior then, and they are nearly all of the loss where few anchors are
    positive, as with few large objects. So the closed form at the prior alone cannot tell a sound start from a loss
    that is counted twice. But it says what one positive and one negative cost at any probability, and a loss with a
    closed form is the sum of these. Outputs are taken together in bins of log-odds of 0.1.

    Args:
        logits: (N, R, C).
        labels: (N, R) int64: 0..K-1, K background, -1 ignored.
    """
    negatives_an_anchor = loss.num_classes if loss.activation == "sigmoid" else 1
    total = 0.0
    for on_positives, log_odds in zip((True, False), _log_odds(loss, logits, labels), strict=True):
        for mean, count in _binned(log_odds):
            prior = min(max(1 / (1 + math.exp(-mean)), _LEAST), 1 - _LEAST)
            hit = loss.initial_loss(1 / negatives_an_anchor, 1.0, prior)  # one element, a positive
            both = loss.initial_loss(2 / negatives_an_anchor, 1.0, prior)
            if hit is None or both is None:
                return None
            total += count * (hit if on_positives else both - hit)
    return total


def _log_odds(loss: ClassificationLoss, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Log-odds, 1-D, of the priors at which the closed form's positive or negative has the probabilities at hand."""
    rows, label = logits[labels >= 0].double(), labels[labels >= 0]
    is_positive = label < loss.num_classes
    positives = torch.arange(len(label), device=label.device)[is_positive], label[is_positive]
    if loss.activation == "sigmoid":
        is_negative = torch.ones_like(rows, dtype=torch.bool)
        is_negative[positives] = False
        return rows[positives], rows[is_negative]
    shared = loss.num_classes * rows.softmax(dim=1)[positives]  # the classes share the prior
    return torch.logit(shared, eps=_LEAST), object_log_odds(rows[~is_positive], "softmax")


def object_log_odds(logits: Tensor, activation: str) -> Tensor:
    """Returns the log-odds of what the prior is the probability of: each class with sigmoids, any class with a softmax.

    Args:
        logits: (..., C); with a softmax the background is last.
    """
    return logits if activation == "sigmoid" else logits[..., :-1].logsumexp(dim=-1) - logits[..., -1]


def _binned(values: Tensor) -> list[tuple[float, float]]:
    """Mean and number of the values in each bin that has any; (M,) float64 in."""
    if not len(values):
        return []
    values = values.nan_to_num().clamp(-_FARTHEST, _FARTHEST)
    bins = ((values + _FARTHEST) / _BIN).long()
    counts, sums = torch.bincount(bins), torch.bincount(bins, weights=values)
    filled = counts > 0
    return list(zip((sums[filled] / counts[filled]).tolist(), counts[filled].tolist(), strict=True))


def diagnose_start(mean: float, spread: float, prior_prob: float | None, *, num_objects: int = 1) -> str | None:
    """Returns a warning where an untrained head is not around its prior, else None.

    The mean of its log-odds is that of few random weights where there are few classes, up to 0.5 from the prior's; a
    head that starts at 1/2 under a prior of 0.01 is 4.6 away.

    Args:
        mean, spread: mean and standard deviation of :func:`object_log_odds`.
        prior_prob: pi, or None: all logits start at 0.
        num_objects: K with a softmax, whose classes share the prior; 1 with sigmoids.
    """
    wanted = math.log(num_objects) if prior_prob is None else math.log(prior_prob / (1 - prior_prob))
    if abs(mean - wanted) > max(_FARTHEST_START, 2 * spread):
        starts, should = (1 / (1 + math.exp(-x)) for x in (mean, wanted))
        return (
            f"the head starts at a probability of {starts:.2g}, not at its prior of {should:.2g}; likely cause: the "
            "classification bias is not set (check model.prior_prob and loaded weights)"
        )
    if spread > _WIDEST_START:
        return (
            f"the head's outputs have a standard deviation of {spread:.3g} in log-odds before the first step; likely "
            "cause: the features are too large (check model.norm and loaded weights)"
        )
    return None


def diagnose_initial_loss(observed: float, expected: float | None, at_outputs: float | None = None) -> str | None:
    """Returns a warning with the likely cause if the first step's loss is more than 20 % off, else None.

    Off is what agrees with neither expectation. That the head starts at the prior is another question: see
    :func:`diagnose_start`.

    Args:
        observed: the classification loss of the first step, over the number of positives and before ``weight``.
        expected: what ``initial_loss`` says, or None where there is no closed form.
        at_outputs: :func:`sum_at_outputs` over the number of positives, where it is known.
    """
    if expected is None or not expected > 0:
        return None
    if not math.isfinite(observed):
        return f"the first loss is {observed}; {expected:.4g} was expected: the network's output is not finite"
    references = [value for value in (at_outputs, expected) if value is not None and value > 0]
    if any(abs(observed / value - 1) <= _TOLERANCE for value in references):
        return None
    wanted = references[0]
    ratio = observed / wanted
    if ratio > 5:
        cause = "the sum is not divided by the number of positive anchors"
    elif ratio > 1:
        cause = "parts of the loss are counted twice, or it is divided by fewer anchors than are positive"
    elif ratio > 0.2:
        cause = "parts of the loss are left out, or it is divided by more anchors than are positive"
    else:
        cause = "the loss is divided by more than the number of positive anchors (all anchors, or twice)"
    return f"the first loss is {observed:.4g}, {ratio:.3g} times the expected {wanted:.4g}; likely cause: {cause}"


def diagnose_stuck(history: Sequence[float]) -> str | None:
    """Returns what a loss that no longer moves is a sign of, or None.

    Args:
        history: classification losses per positive, in order of the logged steps, before ``weight``; the last 50 must
            agree to within 0.1 %.

    Returns:
        Background collapse for the values that stand for it (2.302 at gamma 2 and alpha .25; -ln 1e-4 = 9.21 without
        alpha), a stuck loss for any other value.
    """
    if len(history) < _STUCK_WINDOW:
        return None
    recent = history[-_STUCK_WINDOW:]
    low, high = min(recent), max(recent)
    if not (math.isfinite(low) and math.isfinite(high)) or high <= 0 or high - low > 1e-3 * high:
        return None
    for level, setting in ((_COLLAPSE, "gamma 2 and alpha 0.25"), (9.21, "no alpha")):
        if abs(recent[-1] - level) <= 0.01 * level:
            return (
                f"the loss stays at {recent[-1]:.4g}, its value when every anchor is called background ({setting}): "
                "background collapse; lower optim.lr, lengthen the warm-up, or set model.prior_prob to 0.01"
            )
    return (
        f"the loss has not moved from {recent[-1]:.4g} over {_STUCK_WINDOW} logged steps: the gradient does not reach "
        "the classification head, or optim.lr is 0"
    )
