"""Curves of an arm over its seeds: mean and interval at every step, and the difference to the baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalbench.analysis.arms import trials_by_arm
from focalbench.records.document import as_number
from focalbench.records.reader import TrialRecord
from focalbench.records.state import TrialState
from focalbench.statistics.paired_tests import half_width, paired_t_tests
from focalbench.statistics.summary import t_half_width
from focalbench.statistics.verdict import MIN_SEEDS, Judgement

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
        half_width: (P,) half the 95 % interval of the mean; 0 for a single seed, which has none.
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
    for arm, of_arm in trials_by_arm(trials).items():
        for trial in of_arm:
            if trial.seed is not None and (trial.counts or trial.state in _LIVE):
                (done if trial.counts else live).setdefault(arm, {}).setdefault(trial.seed, trial)
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


def difference_curves(
    arms: Mapping[str, Mapping[int, SeedCurves]],
    baseline: Mapping[int, SeedCurves],
    judgements: Mapping[str, Judgement],
    tag: str,
) -> dict[str, Band]:
    """Returns, by arm, the band of arm minus baseline, paired by seed; none where nothing is common.

    At every step the seeds and the interval are those of the arm's judgement, so that the band ends where the verdict's
    interval does. An arm that has not been judged yet has the interval of its own seeds alone.
    """
    pairs = {arm: _paired(curves, baseline, tag, judgements.get(arm)) for arm, curves in arms.items()}
    bands = {arm: _band(list(curves.values())) for arm, curves in pairs.items() if curves}
    family = {arm: pairs[arm] for arm in bands if arm in judgements and judgements[arm].n >= MIN_SEEDS}
    for step in sorted({step for arm in family for step in bands[arm].steps.tolist()}):
        here = [arm for arm in family if step in bands[arm].steps]
        tests = paired_t_tests(_differences([family[arm] for arm in here], step))
        for place, arm in enumerate(here):
            half = half_width(float(tests.se[place]), float(tests.df[place]), judgements[arm].family_level)
            bands[arm].half_width[bands[arm].steps == step] = half
    return {arm: band for arm, band in bands.items() if len(band.steps)}


def _paired(
    arm: Mapping[int, SeedCurves], baseline: Mapping[int, SeedCurves], tag: str, judgement: Judgement | None
) -> dict[int, dict[int, float]]:
    """By seed and step, over the seeds that both have, or those that the arm was judged by."""
    seeds = sorted(arm.keys() & baseline.keys())
    if judgement is not None and judgement.pairs:
        seeds = [seed for seed in seeds if seed in judgement.pairs]
    found = {}
    for seed in seeds:
        own, other = arm[seed].get(tag, {}), baseline[seed].get(tag, {})
        found[seed] = {step: value - other[step] for step, value in own.items() if step in other}
    return found


def _differences(arms: Sequence[Mapping[int, Mapping[int, float]]], step: int) -> NDArray[np.float64]:
    """(arms, seeds) at one step; nan where an arm has no such seed."""
    seeds = sorted({seed for curves in arms for seed in curves})
    return np.array([[curves[seed][step] if seed in curves else np.nan for seed in seeds] for curves in arms])


def _band(seeds: Sequence[Mapping[int, float]]) -> Band:
    steps = sorted(set.intersection(*(set(curve) for curve in seeds)))
    if len(steps) > _MAX_POINTS:
        steps = [steps[place] for place in np.linspace(0, len(steps) - 1, _MAX_POINTS).round().astype(int)]
    values = np.array([[curve[step] for step in steps] for curve in seeds], dtype=np.float64).reshape(len(seeds), -1)
    half_width = np.nan_to_num(t_half_width(values))  # of one seed there is no interval: a line without a band
    return Band(np.array(steps, np.int64), values.mean(axis=0), half_width)
