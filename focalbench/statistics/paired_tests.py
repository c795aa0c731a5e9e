"""Tests several arms against one baseline over paired seeds: t tests whose variances borrow from each other.

Six differences say little about their own spread: by luck it comes out at half or twice its size, and with it every
claim. Arms of one sweep scatter alike as a rule, so each variance is drawn towards the typical one of its sweep, as
far as the number of seeds leaves it in doubt. The typical one is the median: a mean would let one wild arm hide what
all others show.

For arm a with n_a differences of sample variance v_a, nu_a = n_a - 1:

    pool  = median over a of v_a / (median of chi-squared with nu_a degrees of freedom / nu_a)
    s2_a  = w_a v_a + (1 - w_a) pool,  w_a = nu_a / (nu_a + PRIOR_DF)

which is the moderated variance of Smyth (Stat. Appl. Genet. Mol. Biol. 3, 2004) with a fixed prior weight. Its degrees
of freedom are Satterthwaite's, with Var(v_a) proportional to 1 / nu_a and corr(v_a, v_b) = r_ab^2 for differences that
correlate with r_ab, as they do because all of them contain the same baseline.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

PRIOR_DF = 5.0
"""What the pool weighs, in degrees of freedom of an arm's own variance."""
MIN_POOLED = 3
"""Fewest arms whose variances have a typical one."""
_ROUNDING = 1e-8
"""A spread smaller than this share of the mean is rounding: the values are equal."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PairedTests:
    """What the seeds say about each arm's difference to the baseline; (k,) each.

    Attributes:
        n: pairs.
        mean: mean difference.
        sd: standard deviation of the arm's own differences (n - 1).
        se: standard error of the mean, from the drawn-in variance.
        df: degrees of freedom of ``se``.
        p: two-sided p of no difference.
        pool: the typical variance; that of the arms' mean with fewer than ``MIN_POOLED`` arms.
        pool_df: its degrees of freedom.
    """

    n: NDArray[np.int64]
    mean: Floats
    sd: Floats
    se: Floats
    df: Floats
    p: Floats
    pool: float
    pool_df: float


def paired_t_tests(differences: Floats) -> PairedTests:
    """Tests each arm's mean difference against 0.

    Args:
        differences: (k, n) arm minus baseline, seed by seed; nan where an arm has no pair. At least two pairs an arm.

    Raises:
        ValueError: for an arm with fewer.
    """
    known = np.isfinite(differences)
    n = known.sum(axis=1)
    if len(n) == 0 or n.min() < 2:
        raise ValueError("expected at least one arm, and two pairs of each")
    mean = np.where(known, differences, 0).sum(axis=1) / n
    centred = np.where(known, differences - mean[:, None], 0.0)
    variance = (centred**2).sum(axis=1) / (n - 1)
    variance[variance <= (_ROUNDING * mean) ** 2] = 0.0
    nu = (n - 1).astype(np.float64)
    shared = _shared_variance(centred, known)
    pool, pool_df = _pool(variance, nu, shared)
    if len(n) < MIN_POOLED:
        s2, df = variance, nu
    else:
        weight = nu / (nu + PRIOR_DF)
        s2 = weight * variance + (1 - weight) * pool
        own = np.divide(weight * variance, s2, out=np.ones_like(s2), where=s2 > 0)
        rest = 1 - own
        spread = own**2 + 2 * own * rest * shared.mean(axis=1) + rest**2 * shared.mean()
        df = np.clip(nu / spread, nu, nu.sum())
    se = np.sqrt(s2 / n)
    return PairedTests(n, mean, np.sqrt(variance), se, df, _two_sided(mean, se, df), pool, pool_df)


def half_width(se: float, df: float, level: float) -> float:
    """Returns half the width of the interval that leaves out ``level`` of the possible means."""
    return -float(special.stdtrit(df, level / 2)) * se


def _two_sided(mean: Floats, se: Floats, df: Floats) -> Floats:
    """p of |mean| / se; where nothing scatters, 1 for no difference and 0 for any."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * special.stdtr(df, -np.abs(mean) / se)
    return np.where(se > 0, p, np.where(mean == 0, 1.0, 0.0))


def _shared_variance(centred: Floats, known: NDArray[np.bool_]) -> Floats:
    """(k, k) squared correlations over the seeds that two arms share; 1 where nothing can be said, the careful side."""
    weights = known.astype(np.float64)
    squares = centred**2
    scale = (squares @ weights.T) * (weights @ squares.T)
    found = np.divide((centred @ centred.T) ** 2, scale, out=np.ones_like(scale), where=scale > 0)
    np.fill_diagonal(found, 1.0)
    return found.clip(0, 1)


def _pool(variance: Floats, nu: Floats, shared: Floats) -> tuple[float, float]:
    """The typical variance of a difference, and its degrees of freedom."""
    if len(variance) < MIN_POOLED:
        pool = float((nu * variance).sum() / nu.sum())
    else:
        # The median of a chi-squared variable lies below its mean.
        pool = float(np.median(variance * nu / special.chdtri(nu, 0.5)))
    return pool, float(np.clip(nu.mean() / shared.mean(), nu.min(), nu.sum()))
