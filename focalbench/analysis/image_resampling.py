"""Measures how much of a difference is owed to which images happen to be in the test set: a paired bootstrap over
images.

It answers another question than the seeds do. The seeds say whether another training would find the difference again;
this says how far the difference would move on another test set of the same kind and size. Both arms are scored on the
same resampled images, and averaged over their paired seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from focalbench.analysis.arms import Arm
from focalbench.metrics.protocols import PROTOCOLS
from focalbench.metrics.resampling import draw_image_weights, resampled_average_precision
from focalbench.metrics.voc import Interpolation
from focalbench.records.detections import StoredDetections, UnusableDetectionsError, read_detections
from focalbench.tags import CLASS_AP, MEAN_AP, is_average_precision

NUM_RESAMPLES = 400


@dataclass(frozen=True)
class ResamplingNoise:
    """Says how far a difference spreads over resampled test sets.

    Attributes:
        sd: standard deviation of the difference.
        ci: 2.5 % and 97.5 % quantiles of the difference.
        shared_variance: of the difference over test sets, in what the seeds have in common: the rest differs from
            seed to seed and is in their spread already.
        num_images: images of the test set.
        num_resamples: how often it was resampled.
    """

    sd: float
    ci: tuple[float, float]
    shared_variance: float
    num_images: int
    num_resamples: int


def measure_test_set_noise(
    baseline: Arm, arms: Mapping[str, tuple[Arm, Sequence[int]]], metric: str, warnings: list[str]
) -> dict[str, ResamplingNoise]:
    """Measures the test-set noise of each arm's difference to the baseline.

    Args:
        baseline: the arm compared with.
        arms: label -> the arm and the seeds that it shares with the baseline.
        metric: ``val/mAP`` or ``AP/<class>``; for others nothing is measured.
        warnings: takes a line when detections are missing or do not fit.

    Returns:
        label -> noise, for the arms for which it could be measured.
    """
    protocol = PROTOCOLS.get(str(baseline.facts.get("protocol")))
    interpolation = None if protocol is None else protocol.interpolation
    if interpolation is None or not is_average_precision(metric) or not arms:
        return {}
    scores: dict[Path, NDArray[np.float64]] = {}
    noise: dict[str, ResamplingNoise] = {}
    try:
        truth = read_detections(next(iter(baseline.trials.values())).folder)
    except UnusableDetectionsError as fault:
        warnings.append(f"test-set noise was not measured: {fault}")
        return {}
    weights = draw_image_weights(len(truth.image_ids), NUM_RESAMPLES)
    for label, (arm, seeds) in arms.items():
        try:
            differences = [
                _resampled(arm.trials[seed].folder, truth, weights, metric, interpolation, scores)
                - _resampled(baseline.trials[seed].folder, truth, weights, metric, interpolation, scores)
                for seed in seeds
            ]
            noise[label] = _summary(np.array(differences), weights.shape[1])
        except UnusableDetectionsError as fault:
            warnings.append(f"{label}: test-set noise was not measured: {fault}")
    return noise


def _summary(by_seed: NDArray[np.float64], num_images: int) -> ResamplingNoise:
    """From (n, B) differences by seed and resampled test set."""
    by_seed = by_seed[:, np.isfinite(by_seed).all(axis=0)]
    n, num_resamples = by_seed.shape
    if num_resamples < 2:
        raise UnusableDetectionsError("the metric is undefined on the resampled test sets")
    mean = by_seed.mean(axis=0)
    low, high = np.quantile(mean, [0.025, 0.975])
    variance = float(mean.var(ddof=1))
    # Var(mean) = shared + own / n and mean of Var(seed) = shared + own.
    own = (float(by_seed.var(axis=1, ddof=1).mean()) - variance) * n / (n - 1) if n > 1 else 0.0
    shared = max(0.0, variance - max(0.0, own) / n)
    return ResamplingNoise(math.sqrt(variance), (float(low), float(high)), shared, num_images, num_resamples)


def _resampled(
    folder: Path,
    truth: StoredDetections,
    weights: NDArray[np.int64],
    metric: str,
    interpolation: Interpolation,
    scores: dict[Path, NDArray[np.float64]],
) -> NDArray[np.float64]:
    """(B,) the metric of one trial on each resampled test set; computed once for each folder."""
    if folder in scores:
        return scores[folder]
    stored = read_detections(folder)
    if not stored.has_same_objects(truth):
        raise UnusableDetectionsError(f"{folder}: its stored detections belong to another test set")
    classes = stored.classes.tolist()
    try:
        ap = resampled_average_precision(
            stored.detections, stored.truth, weights, num_classes=len(classes), interpolation=interpolation
        )
    except ValueError as fault:
        raise UnusableDetectionsError(f"{folder}: its detections: {fault}") from fault
    if metric == MEAN_AP:
        num_defined = (~np.isnan(ap)).sum(axis=1)
        total = np.nansum(ap, axis=1)
        scores[folder] = np.divide(total, num_defined, out=np.full(len(ap), np.nan), where=num_defined > 0)
        return scores[folder]
    name = metric.removeprefix(CLASS_AP)
    if name not in classes:
        raise UnusableDetectionsError(f"{folder}: its detections have no class '{name}'")
    scores[folder] = ap[:, classes.index(name)]
    return scores[folder]
