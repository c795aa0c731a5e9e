"""Prior box sizes by k-means with 1 - IoU as the distance (arXiv:1612.08242, sec. 2, "Dimension Clusters")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

# The published network's priors for VOC, (width, height) in cells of a 13 x 13 grid.
VOC_PRIORS = (
    (1.3221, 1.73145),
    (3.19275, 4.00944),
    (5.05587, 8.09892),
    (9.47112, 4.84053),
    (11.2364, 10.0071),
)
_RESTARTS, _MAX_ITERATIONS = 10, 200


@dataclass(frozen=True)
class Priors:
    """Clustered box sizes.

    Attributes:
        sizes: (K, 2) float64 width and height in the unit of the input, smallest area first.
        shares: (K,) float64, the share of boxes nearest to each; sums to 1.
        average_iou: mean over the boxes of the IoU with their best prior, both centred on one point.
    """

    sizes: np.ndarray
    shares: np.ndarray
    average_iou: float


def size_iou(sizes: np.ndarray, priors: np.ndarray) -> np.ndarray:
    """Computes the IoU of boxes and priors that share their centre.

    Args:
        sizes: (M, 2) positive widths and heights.
        priors: (K, 2) in the same unit.

    Returns:
        (M, K) in (0, 1].
    """
    # Column by column: one (M, K) array at a time instead of one (M, K, 2).
    overlap = np.minimum(sizes[:, :1], priors[:, 0]) * np.minimum(sizes[:, 1:], priors[:, 1])
    return overlap / (sizes.prod(1)[:, None] + priors.prod(1) - overlap)


def average_best_iou(sizes: ArrayLike, priors: ArrayLike) -> float:
    """Computes the mean IoU of the boxes with their best prior: the figure that the clustering maximises."""
    return float(size_iou(np.asarray(sizes, np.float64), np.asarray(priors, np.float64)).max(1).mean())


def fit_priors(sizes: np.ndarray, num_priors: int, *, seed: int = 0) -> Priors:
    """Clusters box sizes: k-means with 1 - IoU, started ten times, the best average IoU kept.

    A mean of sizes does not minimise 1 - IoU exactly, so an iteration may lose a little: the best state seen counts.

    Args:
        sizes: (M, 2) widths and heights in any one unit; those not positive are left out.
        num_priors: K, at most the number of different sizes.
        seed: of the starts; equal seeds give equal priors.

    Raises:
        ValueError: if there are fewer different sizes than priors.
    """
    boxes = np.asarray(sizes, np.float64).reshape(-1, 2)
    boxes = boxes[(boxes > 0).all(1)]
    num_different = len(np.unique(boxes, axis=0))
    if num_priors < 1 or num_different < num_priors:
        raise ValueError(
            f"{num_priors} priors need at least as many different box sizes, but there are {num_different}"
        )
    rng = np.random.default_rng(seed)
    best_iou, best = -1.0, boxes[:num_priors]
    for _ in range(_RESTARTS):
        average, priors = _cluster(boxes, _choose_starts(boxes, num_priors, rng))
        if average > best_iou:
            best_iou, best = average, priors
    best = best[np.argsort(best.prod(1), kind="stable")]
    nearest = size_iou(boxes, best).argmax(1)
    return Priors(best, np.bincount(nearest, minlength=num_priors) / len(boxes), best_iou)


def _choose_starts(boxes: np.ndarray, num_priors: int, rng: np.random.Generator) -> np.ndarray:
    """k-means++: each start is drawn with the squared distance to the nearest before it."""
    chosen = [int(rng.integers(len(boxes)))]
    distance = 1 - size_iou(boxes, boxes[chosen]).max(1)
    while len(chosen) < num_priors:
        weight = distance**2
        chosen.append(int(rng.choice(len(boxes), p=weight / weight.sum())))
        distance = np.minimum(distance, 1 - size_iou(boxes, boxes[chosen[-1:]])[:, 0])
    return boxes[chosen]


def _cluster(boxes: np.ndarray, priors: np.ndarray) -> tuple[float, np.ndarray]:
    """Lloyd's iterations; returns the best average IoU seen and its priors."""
    best_iou, best = -1.0, priors
    nearest = np.full(len(boxes), -1)
    for _ in range(_MAX_ITERATIONS):
        iou = size_iou(boxes, priors)
        average = float(iou.max(1).mean())
        if average > best_iou:
            best_iou, best = average, priors
        previous, nearest = nearest, iou.argmax(1)
        if (previous == nearest).all():
            break
        counts = np.bincount(nearest, minlength=len(priors))
        sums = [np.bincount(nearest, weights=boxes[:, axis], minlength=len(priors)) for axis in (0, 1)]
        means = np.stack(sums, 1) / np.maximum(counts, 1)[:, None]
        priors = np.where(counts[:, None] > 0, means, priors)  # an empty cluster stays where it is
    return best_iou, best
