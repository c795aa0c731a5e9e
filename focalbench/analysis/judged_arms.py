"""Holds each arm against the baseline: which seeds pair, what forbids it, what the statistics say, what may be said."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from focalbench.analysis.arms import Arm, incomparable_keys
from focalbench.analysis.image_resampling import ResamplingNoise
from focalbench.statistics.failures import Failures
from focalbench.statistics.paired_tests import half_width
from focalbench.statistics.power import detectable_difference
from focalbench.statistics.summary import Summary, correlation
from focalbench.statistics.verdict import MIN_SEEDS, Direction, FamilyJudgement, Judgement, Plan, Runs, Word, judge

Verdict = Literal[Word, "not comparable"]
NOT_COMPARABLE: Verdict = "not comparable"
_MIN_CORRELATED = 3  # two pairs correlate with 1 or -1, whatever they are


@dataclass(frozen=True)
class ArmResult:
    """One arm's values of the metric.

    Attributes:
        arm: the arm.
        values: seed -> value, finite ones only.
        summary: their n, mean and sd.
    """

    arm: Arm
    values: dict[int, float]
    summary: Summary


@dataclass(frozen=True)
class ArmComparison:
    """One arm against the baseline.

    Attributes:
        arm: label of the arm.
        seeds: those that both have, or, of an arm without results, its own.
        judgement: what may be said, and the figures that it follows from; None where the arms cannot be compared.
        wins: pairs in which the arm has the better value (the higher one, where neither is better).
        correlation: of the two arms' values over the pairs, which says how much of the seeds' luck pairing takes out;
            nan for fewer than three.
        detectable: smallest true difference that would be found with 80 % power at this n and spread; nan where
            nothing can be found.
        noise: test-set noise of the difference; None where the detections are not there or the metric is no AP.
        ci_new_images: as ``judgement.ci``, for another test set of this kind and size too; nan where it is not known.
        not_comparable: keys that differ though they must not, with both values.
    """

    arm: str
    seeds: tuple[int, ...]
    judgement: Judgement | None = None
    wins: int = 0
    correlation: float = math.nan
    detectable: float = math.nan
    noise: ResamplingNoise | None = None
    ci_new_images: tuple[float, float] = (math.nan, math.nan)
    not_comparable: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The word alone; ``formats.verdict_words`` says its figures too."""
        return NOT_COMPARABLE if self.judgement is None else self.judgement.word

    @property
    def failures(self) -> Failures | None:
        """The seeds in which the arm failed; None for none."""
        return None if self.judgement is None else self.judgement.failures


@dataclass(frozen=True)
class JudgedArms:
    """All arms of a family against their baseline.

    Attributes:
        base: the baseline.
        direction: whether higher or lower values are better.
        results: of the arms, by label, without the baseline.
        blocked: what forbids a comparison, by label; empty where nothing does.
        family: what may be said of the others.
    """

    base: ArmResult
    direction: Direction
    results: Mapping[str, ArmResult]
    blocked: Mapping[str, Sequence[str]]
    family: FamilyJudgement

    def shared(self, label: str) -> tuple[int, ...]:
        """Returns the seeds that an arm and the baseline both have."""
        return tuple(sorted(self.results[label].values.keys() & self.base.values.keys()))

    def comparison(self, label: str, noise: ResamplingNoise | None = None) -> ArmComparison:
        """Returns what there is to say of one arm."""
        if self.blocked[label]:
            return ArmComparison(label, self.shared(label), not_comparable=tuple(self.blocked[label]))
        judgement = self.family.arms[label]
        own = [self.results[label].values[seed] for seed in judgement.pairs]
        base = [self.base.values[seed] for seed in judgement.pairs]
        better = -1 if self.direction == "lower" else 1
        return ArmComparison(
            label,
            judgement.pairs,
            judgement,
            wins=sum(better * (a - b) > 0 for a, b in zip(own, base, strict=True)),
            correlation=correlation(own, base) if len(own) >= _MIN_CORRELATED else math.nan,
            detectable=_detectable(judgement),
            noise=noise,
            ci_new_images=_interval_for_new_images(judgement, noise),
        )


def judge_arms(
    results: Sequence[ArmResult],
    base: ArmResult,
    failed: Mapping[str, frozenset[int]],
    *,
    direction: Direction,
    margin: float | None,
    plan: Plan,
    with_exact: bool,
) -> JudgedArms:
    """Judges all arms of a family.

    Args:
        failed: seeds in which an arm failed, by label; an arm of which nothing else is known is judged too.
    """
    others = {result.arm.label: result for result in results if result is not base}
    blocked = {label: incomparable_keys(result.arm, base.arm) for label, result in others.items()}
    for label, result in others.items():
        if not result.values.keys() & base.values.keys() and not failed.get(label):
            blocked[label].append(f"seeds ({seed_list(result.values)} against {seed_list(base.values)})")
    runs = {
        label: Runs(result.values, failed.get(label, frozenset()))
        for label, result in others.items()
        if not blocked[label]
    }
    runs |= {label: Runs({}, seeds) for label, seeds in failed.items() if label not in {*others, base.arm.label}}
    family = judge(
        Runs(base.values, failed.get(base.arm.label, frozenset())),
        runs,
        plan,
        direction=direction,
        margin=margin,
        with_exact=with_exact,
    )
    return JudgedArms(base, direction, others, blocked, family)


def _detectable(judgement: Judgement) -> float:
    if judgement.n < MIN_SEEDS:
        return math.nan
    return detectable_difference(judgement.se, judgement.df, level=judgement.family_level)


def _interval_for_new_images(judgement: Judgement, noise: ResamplingNoise | None) -> tuple[float, float]:
    """The interval of the difference where the test images are drawn anew too.

    The seeds' spread holds the luck of each training on these images; what all trainings share of the images' luck
    comes on top.
    """
    if noise is None or judgement.n < 2:
        return (math.nan, math.nan)
    se = math.sqrt(judgement.se**2 + noise.shared_variance)
    half = half_width(se, judgement.df, judgement.family_level)
    return (judgement.difference - half, judgement.difference + half)


def seed_list(seeds: Mapping[int, float] | Sequence[int] | set[int]) -> str:
    """Writes seeds as a list."""
    return ", ".join(str(seed) for seed in sorted(seeds)) or "none"
