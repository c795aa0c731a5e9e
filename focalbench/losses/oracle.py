"""What the loss must be before the first step, and the names of the ways in which training goes wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence

_TOLERANCE = 0.2  # relative; beyond it the start is not what the configuration says
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


def diagnose_initial_loss(observed: float, expected: float | None) -> str | None:
    """Returns a warning with the likely cause if the first step's loss is more than 20 % off, else None.

    Args:
        observed: the classification loss of the first step, over the number of positives and before ``weight``.
        expected: what ``initial_loss`` says, or None where there is no closed form.
    """
    if expected is None or not expected > 0:
        return None
    if not math.isfinite(observed):
        return f"the first loss is {observed}; {expected:.4g} was expected: the network's output is not finite"
    ratio = observed / expected
    if abs(ratio - 1) <= _TOLERANCE:
        return None
    if ratio > 5:
        cause = (
            "the classification bias does not start at the prior (check model.prior_prob and loaded weights), or the "
            "sum is not divided by the number of positive anchors"
        )
    elif ratio > 1:
        cause = "the head's outputs vary too much around the prior, or fewer anchors are positive than was counted"
    elif ratio > 0.2:
        cause = "more anchors are positive or ignored than was counted, or the weights already fit this data"
    else:
        cause = "the loss is divided by more than the number of positive anchors (all anchors, or twice)"
    return f"the first loss is {observed:.4g}, {ratio:.3g} times the expected {expected:.4g}; likely cause: {cause}"


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
