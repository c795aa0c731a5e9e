"""Says how often an arm fails, and whether it fails more often than the baseline."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from scipy import special

from focalbench.statistics.summary import CONFIDENCE


@dataclass(frozen=True)
class Failures:
    """The seeds in which an arm failed or diverged.

    Attributes:
        seeds: those.
        n: seeds that ended at all, well or not.
        interval: 95 % interval of the share that fails (Clopper and Pearson, Biometrika 26, 1934).
        p: two-sided exact p of McNemar's test (Psychometrika 12, 1947) that the arm fails as often as the baseline, on
            the seeds that ended in both.
        more_than_baseline: whether more of those seeds failed in the arm alone than in the baseline alone.
    """

    seeds: tuple[int, ...]
    n: int
    interval: tuple[float, float]
    p: float
    more_than_baseline: bool


def count_failures(failed: Set[int], ended: Set[int], baseline_failed: Set[int], baseline_ended: Set[int]) -> Failures:
    """Compares the seeds in which an arm failed with those of the baseline.

    Args:
        failed, ended: seeds in which the arm failed, and those in which it came to an end, well or not.
        baseline_failed, baseline_ended: the same of the baseline.
    """
    both = ended & baseline_ended
    alone, baseline_alone = len(both & failed - baseline_failed), len(both & baseline_failed - failed)
    return Failures(
        tuple(sorted(failed)),
        len(ended),
        share_interval(len(failed), len(ended)),
        mcnemar_p(alone, baseline_alone),
        alone > baseline_alone,
    )


def share_interval(count: int, n: int) -> tuple[float, float]:
    """Returns the exact 95 % interval of a share, of which ``count`` of ``n`` were seen; (0, 1) for n 0."""
    tail = (1 - CONFIDENCE) / 2
    low = float(special.betaincinv(count, n - count + 1, tail)) if count > 0 else 0.0
    high = float(special.betaincinv(count + 1, n - count, 1 - tail)) if count < n else 1.0
    return (low, high)


def mcnemar_p(alone: int, other_alone: int) -> float:
    """Returns the two-sided exact p of ``alone`` against ``other_alone`` discordant pairs; 1 for none."""
    n, most = alone + other_alone, max(alone, other_alone)
    return min(1.0, 2 * float(special.bdtrc(most - 1, n, 0.5))) if most > 0 else 1.0
