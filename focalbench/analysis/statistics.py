"""Is the difference between two arms real? Paired tests over seeds, and a verdict that does not overclaim.

The verdict's rule, chosen by simulation (docs/statistics.md): with at least ``MIN_SEEDS`` paired seeds, an arm is
better or worse when the two-sided paired t test, corrected over all arms by Holm, gives p < ``VERDICT_LEVEL``. The
exact sign-flip test is shown beside it and sets the least number of seeds, but does not decide: with 6 seeds its
smallest p is .031, which no correction over two arms survives. The level is .04, not .05, so that the rate of false
alarms stays under 5 % for the differences that t fits worst (flat or two-peaked).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special  # scipy.stats has all this too, and takes most of a second to import

MIN_SEEDS = 6
"""Fewest paired seeds for a claim: the smallest n whose exact sign-flip test can fall below .05."""
VERDICT_LEVEL = 0.04
"""Holm-corrected p below which a verdict says better or worse."""
ONE_POINT = 0.01
"""One point of mAP."""
CONFIDENCE = 0.95
"""Of every interval."""
WANTED_POWER = 0.8
"""Chance of finding a difference that is called detectable."""
_NUM_RESAMPLES = 10_000
_MAX_SEEDS = 10_000  # more than anybody trains
_EXACT_LIMIT = 20  # 2 ** 20 sign patterns; beyond it they are drawn at random
_RANDOM_FLIPS = 200_000

Direction = Literal["higher", "lower", "none"]
Verdict = Literal["better", "worse", "higher", "lower", "no difference shown", "not enough seeds", "one seed: no claim"]


@dataclass(frozen=True)
class Summary:
    """Mean and spread of one arm's values.

    Attributes:
        n: number of values.
        mean: their mean; nan if there are none.
        sd: sample standard deviation (n - 1); nan for fewer than two.
    """

    n: int
    mean: float
    sd: float


@dataclass(frozen=True)
class PairedDifference:
    """An arm minus its baseline over the seeds that both have.

    Attributes:
        n: paired seeds.
        difference: mean of the differences.
        sd: standard deviation of the differences; nan for one pair.
        ci: 95 % confidence interval of the mean difference by t, not corrected over arms; nan for one pair.
        ci_bootstrap: the same by a bootstrap over seeds (percentiles); too narrow for few seeds.
        p_t: two-sided paired t test; nan for one pair.
        p_exact: two-sided exact sign-flip permutation test.
        smallest_p: the smallest value that ``p_exact`` can take with n pairs.
        detectable: smallest true difference that the verdict's rule would find with 80 % power at this n and sd; nan
            below ``MIN_SEEDS``.
        seeds_for_one_point: paired seeds needed to find a true difference of 0.01 with 80 % power at this sd; None if
            the sd is unknown or more than ``10 000`` would be needed.
    """

    n: int
    difference: float
    sd: float
    ci: tuple[float, float]
    ci_bootstrap: tuple[float, float]
    p_t: float
    p_exact: float
    smallest_p: float
    detectable: float
    seeds_for_one_point: int | None


def summarise(values: ArrayLike) -> Summary:
    """n, mean and sample standard deviation."""
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean()) if len(array) else math.nan
    return Summary(len(array), mean, float(array.std(ddof=1)) if len(array) > 1 else math.nan)


def paired_difference(arm: ArrayLike, baseline: ArrayLike, *, num_comparisons: int = 1) -> PairedDifference:
    """Returns all figures of one comparison.

    Args:
        arm: (n,) values of the arm, seed by seed.
        baseline: (n,) values of the baseline for the same seeds.
        num_comparisons: arms that are compared with the baseline in all; it widens what is detectable.

    Raises:
        ValueError: lengths that differ, no pair at all, or values that are not finite.
    """
    arm_values, baseline_values = np.asarray(arm, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if arm_values.shape != baseline_values.shape or arm_values.ndim != 1 or len(arm_values) == 0:
        raise ValueError(
            f"expected two lists of one length, at least 1, got {arm_values.shape} and {baseline_values.shape}"
        )
    differences = arm_values - baseline_values
    if not np.isfinite(differences).all():
        raise ValueError("values must be finite; leave out seeds whose metric is NaN")
    summary = summarise(differences)
    level = VERDICT_LEVEL / num_comparisons
    enough = summary.n >= MIN_SEEDS
    return PairedDifference(
        n=summary.n,
        difference=summary.mean,
        sd=summary.sd,
        ci=t_interval(differences),
        ci_bootstrap=bootstrap_interval(differences),
        p_t=paired_t_p(differences),
        p_exact=sign_flip_p(differences),
        smallest_p=smallest_sign_flip_p(summary.n),
        detectable=detectable_difference(summary.sd, summary.n, level=level) if enough else math.nan,
        seeds_for_one_point=seeds_needed(summary.sd, ONE_POINT, level=level),
    )


def paired_t_p(differences: NDArray[np.float64]) -> float:
    """Returns the two-sided p of Student's paired t test; nan for one pair, 1 or 0 where all differences are equal."""
    summary = summarise(differences)
    if summary.n < 2:
        return math.nan
    if summary.sd == 0 or abs(summary.mean) > 1e8 * summary.sd:
        return 1.0 if summary.mean == 0 else 0.0
    return float(2 * special.stdtr(summary.n - 1, -abs(summary.mean) / summary.sd * math.sqrt(summary.n)))


def sign_flip_p(differences: NDArray[np.float64]) -> float:
    """Returns the two-sided p of the sign-flip permutation test of the mean.

    All 2^n patterns of signs are tried, beyond n = 20 a fixed draw of them. If arm and baseline are exchangeable within
    each seed, every pattern is equally likely.
    """
    magnitude = np.abs(np.asarray(differences, dtype=np.float64))
    observed = abs(float(np.sum(differences)))
    tolerance = 1e-12 * max(float(magnitude.sum()), np.finfo(float).tiny)  # sums that differ by rounding only are ties
    if len(magnitude) > _EXACT_LIMIT:
        signs = np.random.default_rng(0).choice(np.array([-1, 1], np.int8), (_RANDOM_FLIPS, len(magnitude)))
        return float((1 + (np.abs(signs @ magnitude) >= observed - tolerance).sum()) / (_RANDOM_FLIPS + 1))
    sums = np.zeros(1)
    for value in magnitude:
        sums = np.concatenate([sums + value, sums - value])
    return float((np.abs(sums) >= observed - tolerance).mean())


def smallest_sign_flip_p(n: int) -> float:
    """Returns the smallest two-sided p that the exact test can give with n pairs: 2 / 2^n."""
    return min(1.0, 2.0 ** (1 - n))


def t_interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """95 % confidence interval of the mean by Student's t; nan for fewer than two values."""
    mean, half = float(np.mean(differences)), float(t_half_width(differences))
    return (mean - half, mean + half)


def t_half_width(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns half the width of the 95 % interval of the mean over the first axis of (n, ...) values, by Student's t;
    nan for fewer than two.
    """
    n = len(values)
    if n < 2:
        return np.full(values.shape[1:], math.nan)
    return special.stdtrit(n - 1, (1 + CONFIDENCE) / 2) * values.std(axis=0, ddof=1) / math.sqrt(n)


def bootstrap_interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """95 % percentile bootstrap of the mean over seeds, from a fixed seed; nan for fewer than two values."""
    if len(differences) < 2:
        return (math.nan, math.nan)
    rows = np.random.default_rng(0).integers(0, len(differences), (_NUM_RESAMPLES, len(differences)))
    low, high = np.quantile(np.asarray(differences)[rows].mean(axis=1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return (float(low), float(high))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected over all comparisons by Holm's step-down method; nan stays nan and is not counted.

    Source: Holm, Scand. J. Statist. 6, 1979.
    """
    adjusted = [math.nan] * len(p_values)
    known = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    running = 0.0
    for rank, (p, index) in enumerate(known):
        running = max(running, min(1.0, p * (len(known) - rank)))
        adjusted[index] = running
    return adjusted


def power(true_difference: float, sd: float, n: int, *, level: float = VERDICT_LEVEL) -> float:
    """Computes the chance that a paired t test at ``level`` finds ``true_difference`` with n pairs of this sd."""
    if n < 2:
        return 0.0
    critical = float(special.stdtrit(n - 1, 1 - level / 2))
    shift = abs(true_difference) / sd * math.sqrt(n)
    if shift > 50:  # far beyond any critical value; the non-central t loses its digits there
        return 1.0
    lower, below = (float(special.nctdtr(n - 1, shift, t)) for t in (-critical, critical))
    # scipy has no digits for a tail that is as good as 0.
    return 1 - (0.0 if math.isnan(below) else below) + (0.0 if math.isnan(lower) else lower)


def detectable_difference(sd: float, n: int, *, level: float = VERDICT_LEVEL) -> float:
    """Finds the smallest true difference with ``WANTED_POWER``; nan for fewer than two pairs, 0 where sd is 0."""
    if n < 2 or math.isnan(sd):
        return math.nan
    low, high = 0.0, 1.0
    while power(high, 1.0, n, level=level) < WANTED_POWER:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, 1.0, n, level=level) < WANTED_POWER else (low, middle)
    return high * sd


def seeds_needed(sd: float, true_difference: float, *, level: float = VERDICT_LEVEL) -> int | None:
    """Returns how many paired seeds find ``true_difference`` with ``WANTED_POWER``; None beyond ``_MAX_SEEDS``."""
    if math.isnan(sd) or true_difference == 0:
        return None
    if sd == 0:
        return MIN_SEEDS
    enough = bisect_left(
        range(_MAX_SEEDS + 1),
        True,
        lo=MIN_SEEDS,
        key=lambda n: power(true_difference, sd, n, level=level) >= WANTED_POWER,
    )
    return enough if enough <= _MAX_SEEDS else None


def verdict(n: int, difference: float, p_corrected: float, direction: Direction = "higher") -> Verdict:
    """Returns the words for one comparison.

    Args:
        n: paired seeds.
        difference: mean of arm minus baseline.
        p_corrected: Holm-corrected p of the paired t test.
        direction: whether higher or lower values are better; ``none`` makes no judgement, only says which is higher.
    """
    if n <= 1:
        return "one seed: no claim"
    if n < MIN_SEEDS:
        return "not enough seeds"
    if not p_corrected < VERDICT_LEVEL or difference == 0:
        return "no difference shown"
    if direction == "none":
        return "higher" if difference > 0 else "lower"
    return "better" if (difference > 0) == (direction == "higher") else "worse"
