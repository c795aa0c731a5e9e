"""Says how many trainings a sweep that ends by itself takes, by playing it through many times."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from focalbench.statistics.verdict import FINAL, Judgement, Plan, Runs, judge

_MOST_ARMS = 2000  # played through in all, in about a second
_NUM_PLAYED = 200


def expected_trainings(num_arms: int, sizes: tuple[int, ...], *, margin: float, sd: float) -> float:
    """Computes the mean number of trainings, those of the baseline included, where no arm differs from it.

    Args:
        num_arms: arms beside the baseline.
        sizes: numbers of seeds at which the arms are looked at.
        margin: largest difference that does not matter.
        sd: of a paired difference, alike for all arms.
    """
    rng = np.random.default_rng(0)
    plan = Plan.declared(range(sizes[-1]), sizes, num_arms)
    num_played = max(20, min(_NUM_PLAYED, _MOST_ARMS // num_arms))
    total = 0
    for _ in range(num_played):
        base, *arms = (rng.normal(size=(num_arms + 1, sizes[-1])) * sd / math.sqrt(2)).tolist()
        runs = {str(number): Runs(dict(enumerate(arm))) for number, arm in enumerate(arms)}
        found = judge(Runs(dict(enumerate(base))), runs, plan, margin=margin, with_exact=False)
        total += num_trainings(found.arms.values(), sizes)
    return total / num_played


def num_trainings(arms: Iterable[Judgement], sizes: Sequence[int]) -> int:
    """Counts the trainings of arms that were looked at with ``sizes`` seeds, and of their baseline, which goes on until
    the last of them is decided.
    """
    seeds = [sizes[arm.look - 1] if arm.word in FINAL else sizes[-1] for arm in arms]
    return sum(seeds) + max(seeds)
