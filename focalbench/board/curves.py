"""Curves of an arm over its seeds: mean and interval at every step, and the difference to the baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalbench.analysis.statistics import t_half_width
from focalbench.records.document import as_number
from focalbench.records.reader import TrialRecord
from focalbench.records.state import TrialState

_MAX_POINTS = 500  # of a curve; TensorBoard keeps a thousand
_LIVE = (TrialState.RUNNING, TrialState.INTERRUPTED)

SeedCurves = Mapping[str, Mapping[int, float]]
"""What one trial has logged: tag -> step -> value."""


@dataclass(frozen=True)
class Band:
    """A curve over the seeds.

    Attributes:
        steps: (P,) int, rising.
        mean: (P,) mean over the seeds.
        half_width: (P,) half the 95 % interval of the mean by Student's t; 0 for a single seed, which has none.
    """

    steps: NDArray[np.int64]
    mean: NDArray[np.float64]
    half_width: NDArray[np.float64]


def group_trials(trials: Iterable[TrialRecord]) -> dict[str, dict[int, TrialRecord]]:
    """Returns the trials that an arm's curve is made of, by arm and seed.

    These are the finished ones; as long as an arm has none, those under way. What failed or was given up has no part in
    it.
    """
    done: dict[str, dict[int, TrialRecord]] = {}
    live: dict[str, dict[int, TrialRecord]] = {}
    for trial in trials:
        if trial.seed is not None and (trial.counts or trial.state in _LIVE):
            (done if trial.counts else live).setdefault(trial.arm, {}).setdefault(trial.seed, trial)
    return {arm: done.get(arm) or live[arm] for arm in dict.fromkeys([*done, *live])}


def seed_curves(lines: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """Returns the lines of a metrics.jsonl as curves; undefined values are left out."""
    curves: dict[str, dict[int, float]] = {}
    for line in lines:
        for tag, value in line.items():
            if tag != "step" and (number := as_number(value)) is not None:
                curves.setdefault(tag, {})[line["step"]] = number
    return curves


def mean_curves(seeds: Sequence[SeedCurves]) -> dict[str, Band]:
    """Returns the band of each tag at the steps that all ``seeds`` have."""
    tags = dict.fromkeys(tag for seed in seeds for tag in seed)
    bands = {tag: _band([seed.get(tag, {}) for seed in seeds]) for tag in tags}
    return {tag: band for tag, band in bands.items() if len(band.steps)}


def difference_curve(arm: Mapping[int, SeedCurves], baseline: Mapping[int, SeedCurves], tag: str) -> Band | None:
    """Returns the band of arm minus baseline over the seeds that both have, paired; None where nothing is common."""
    pairs = []
    for seed in sorted(arm.keys() & baseline.keys()):
        own, other = arm[seed].get(tag, {}), baseline[seed].get(tag, {})
        pairs.append({step: value - other[step] for step, value in own.items() if step in other})
    band = _band(pairs) if pairs else None
    return band if band is not None and len(band.steps) else None


def _band(seeds: Sequence[Mapping[int, float]]) -> Band:
    steps = sorted(set.intersection(*(set(curve) for curve in seeds)))
    if len(steps) > _MAX_POINTS:
        steps = [steps[place] for place in np.linspace(0, len(steps) - 1, _MAX_POINTS).round().astype(int)]
    values = np.array([[curve[step] for step in steps] for curve in seeds], dtype=np.float64).reshape(len(seeds), -1)
    half_width = np.nan_to_num(t_half_width(values))  # of one seed there is no interval: a line without a band
    return Band(np.array(steps, np.int64), values.mean(axis=0), half_width)
