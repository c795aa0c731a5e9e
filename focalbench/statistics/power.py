"""Says what a comparison could find: power, the smallest difference it finds, seeds that it takes, exaggeration."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from scipy import special

from focalbench.statistics.summary import CONFIDENCE

WANTED_POWER = 0.8
"""Chance of finding a difference that is called detectable."""
_MAX_SEEDS = 10_000  # more than anybody trains
_QUANTILES = 200  # of the spread that luck makes of one true spread


def power(shift: float, df: float, *, level: float) -> float:
    """Computes the chance that a two-sided t test finds a true difference.

    Args:
        shift: the true difference in standard errors.
        df: degrees of freedom.
        level: p below which it is found.
    """
    critical = float(special.stdtrit(df, 1 - level / 2))
    if shift > 50:  # far beyond any critical value; the non-central t loses its digits there
        return 1.0
    lower, below = (float(special.nctdtr(df, abs(shift), t)) for t in (-critical, critical))
    # scipy has no digits for a tail that is as good as 0.
    return 1 - (0.0 if math.isnan(below) else below) + (0.0 if math.isnan(lower) else lower)


def detectable_difference(se: float, df: float, *, level: float) -> float:
    """Finds the smallest true difference with ``WANTED_POWER``; 0 where nothing scatters."""
    low, high = 0.0, 1.0
    while power(high, df, level=level) < WANTED_POWER:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, df, level=level) < WANTED_POWER else (low, middle)
    return high * se


@dataclass(frozen=True)
class SeedsNeeded:
    """How many paired seeds find a given difference with ``WANTED_POWER``, going by the spread of a whole sweep.

    Attributes:
        difference: the given one.
        n: seeds; None beyond 10 000.
        low, high: 95 % interval, from that of the spread; ``high`` None beyond 10 000.
        num_arms: whose spreads it goes by.
    """

    difference: float
    n: int | None
    low: int | None
    high: int | None
    num_arms: int


def seeds_needed(
    difference: float, variance: float, df: float, *, nu: float, num_arms: int, level: float, least: int
) -> SeedsNeeded:
    """Returns the seeds that find ``difference``.

    Args:
        difference: a true difference above 0.
        variance: typical variance of one paired difference, measured with ``df`` degrees of freedom from arms with
            ``nu`` of their own.
        num_arms: arms that it was measured on.
        level: p below which a difference is found.
        least: seeds below which nothing is claimed.
    """
    tail = (1 - CONFIDENCE) / 2
    # chdtri takes the upper tail.
    low, high = (variance * df / float(special.chdtri(df, share)) for share in (tail, 1 - tail))

    def number(of: float) -> int | None:
        if of == 0:
            return least

        def finds(n: int) -> bool:
            return power(difference / math.sqrt(of / n), (n - 1) * df / nu, level=level) >= WANTED_POWER

        found = bisect_left(range(_MAX_SEEDS + 1), True, lo=least, key=finds)
        return found if found <= _MAX_SEEDS else None

    return SeedsNeeded(difference, number(variance), number(low), number(high), num_arms)


def mean_when_found(difference: float, se: float, df: float, *, level: float) -> float:
    """Computes what a true ``difference`` reads on average in the comparisons that find it, with the right sign.

    Only those that luck has made large pass a test that is short of power: the winner's curse (Gelman and Carlin,
    Perspectives on Psychological Science 9, 2014, who call it the type M error).

    Args:
        difference: a true difference above 0.
        se: standard error of the mean, taken as the true one; above 0.
        df: degrees of freedom of the standard error that the test works with, which varies with luck.
        level: p below which a difference is found.
    """
    share = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    estimated = se * np.sqrt(special.chdtri(df, 1 - share) / df)
    z = (special.stdtrit(df, 1 - level / 2) * estimated - difference) / se
    chance = special.ndtr(-z)
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    return difference + se * float(density.sum() / chance.sum()) if chance.sum() > 0 else math.nan
