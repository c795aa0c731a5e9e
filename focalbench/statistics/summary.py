"""Summarises the values of one arm: mean, spread, and how well the mean is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special  # scipy.stats has all this too, and takes most of a second to import

CONFIDENCE = 0.95
"""Of every interval."""


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


def summarise(values: ArrayLike) -> Summary:
    """Returns n, mean and sample standard deviation."""
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean()) if len(array) else math.nan
    return Summary(len(array), mean, float(array.std(ddof=1)) if len(array) > 1 else math.nan)


def t_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Returns the 95 % confidence interval of the mean by Student's t; nan for fewer than two values."""
    mean, half = summarise(values).mean, float(t_half_width(values))
    return (mean - half, mean + half)


def t_half_width(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns half the width of the 95 % interval of the mean over the first axis of (n, ...) values, by Student's t;
    nan for fewer than two.
    """
    n = len(values)
    if n < 2:
        return np.full(values.shape[1:], math.nan)
    return special.stdtrit(n - 1, (1 + CONFIDENCE) / 2) * values.std(axis=0, ddof=1) / math.sqrt(n)


def correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Returns Pearson's correlation of two lists of one length; nan where one of them does not vary."""
    arrays = [np.asarray(values, dtype=np.float64) for values in (a, b)]
    # The mean of equal values may differ from them by rounding.
    if any(len(values) == 0 or values.min() == values.max() for values in arrays):
        return math.nan
    own, other = (values - float(values.mean()) for values in arrays)
    scale = math.sqrt(float(own @ own) * float(other @ other))
    return float(own @ other) / scale if scale > 0 else math.nan
