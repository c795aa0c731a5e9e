"""What the loss must be before the first step, and the names of the ways in which training goes wrong."""

from __future__ import annotations

import math

_TOLERANCE = 0.2  # relative; beyond it the start is not what the configuration says
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
    """L0 of the sigmoid focal loss, per positive anchor, when every probability equals the prior.

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
