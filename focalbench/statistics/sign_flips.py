"""Tests all arms at once by flipping signs: exact for any noise under which arm and baseline are exchangeable.

If an arm and its baseline differ by nothing but luck, each seed's difference might as well have had the other sign.
Whole seeds are flipped, for all arms together, so that whatever the arms of a seed share stays shared; the largest of
the arms' statistics is compared with the largest after each flip, step by step (Westfall and Young, Resampling-Based
Multiple Testing, 1993, algorithm 4.1).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_MOST_STATISTICS = 1 << 25
"""Patterns times arms that are worked out, in a second or so; where there are more, patterns are drawn at random."""
_NUM_DRAWN = 1 << 16
_CHUNK = 1 << 13
_TIE = 1e-9  # statistics lie in [0, 1] and differ by rounding where patterns are equivalent

Floats = NDArray[np.float64]


def joint_sign_flip_p(differences: Floats) -> Floats:
    """Computes the two-sided p of each arm's mean difference, corrected over all arms.

    An arm's statistic is |sum of its differences| / sqrt(n x sum of their squares), which rises with its t.

    Args:
        differences: (k, n) arm minus baseline, seed by seed; nan where an arm has no pair.
    """
    values = np.nan_to_num(differences, nan=0.0)
    norm = np.sqrt(np.isfinite(differences).sum(axis=1) * (values**2).sum(axis=1))
    scaled = np.divide(values, norm[:, None], out=np.zeros_like(values), where=norm[:, None] > 0)
    observed = np.abs(scaled.sum(axis=1))
    order = np.argsort(observed)  # the smallest first: step by step the largest of those up to an arm counts
    scaled, bar = scaled[order], observed[order] - _TIE
    counts = np.zeros(len(order), np.int64)
    total, n = 0, differences.shape[1]
    drawn = len(order) << (n - 1) > _MOST_STATISTICS
    for signs in _drawn_patterns(n) if drawn else _all_patterns(n):
        flipped = np.abs(scaled @ signs.T)
        np.maximum.accumulate(flipped, axis=0, out=flipped)
        counts += (flipped >= bar[:, None]).sum(axis=1)
        total += len(signs)
    # The observed pattern is one of all; among drawn ones it has to be counted too.
    p = (counts + drawn) / (total + drawn)
    found = np.empty_like(p)
    found[order] = np.maximum.accumulate(p[::-1])[::-1]
    return found


def smallest_sign_flip_p(n: int) -> float:
    """Returns the smallest two-sided p that n pairs can give, for any number of arms: 2 / 2^n."""
    return min(1.0, 2.0 ** (1 - n))


def _all_patterns(n: int) -> Iterator[Floats]:
    """Signs, (patterns, n) at a time. The last one stays: turning all of them changes no statistic."""
    for start in range(0, 1 << (n - 1), _CHUNK):
        numbers = np.arange(start, min(start + _CHUNK, 1 << (n - 1)))
        yield 1 - 2 * ((numbers[:, None] >> np.arange(n)) & 1).astype(np.float64)


def _drawn_patterns(n: int) -> Iterator[Floats]:
    """As many signs as settle a p near .05 to three digits, always the same ones."""
    rng = np.random.default_rng(0)
    for _ in range(_NUM_DRAWN // _CHUNK):
        yield rng.choice(np.array([-1.0, 1.0], np.float64), (_CHUNK, n))
