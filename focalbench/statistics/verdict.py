"""Decides what may be said of each arm: better, worse, no practical difference, or that it is undecided.

All arms of a sweep are one family. At each look the arm with the smallest p is called different while p is below its
level, and the level of the rest rises step by step (Holm, Scand. J. Statist. 6, 1979): with one look these are Holm's
corrected t tests at .05. What is not different may still be close: two one-sided tests (Schuirmann, J. Pharmacokinet.
Biopharm. 15, 1987) say whether the true difference lies within a margin. An arm that fails significantly more often
than the baseline is called neither better nor alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from focalbench.statistics.failures import Failures, count_failures
from focalbench.statistics.paired_tests import PairedTests, half_width, paired_t_tests
from focalbench.statistics.sequential import nominal_levels
from focalbench.statistics.sign_flips import joint_sign_flip_p
from focalbench.statistics.summary import summarise

MIN_SEEDS = 6
"""Fewest paired seeds for a claim: the smallest n whose exact sign-flip test can fall below .05."""
LEVEL = 0.05
"""Chance that a family without any difference has an arm that is called different, over all looks."""
EQUIVALENCE_LEVEL = 0.05
"""Chance that an arm is called practically alike though its true difference is as large as the margin."""

Direction = Literal["higher", "lower", "none"]
Word = Literal[
    "better",
    "worse",
    "higher",
    "lower",
    "no practical difference",
    "undecided",
    "unstable",
    "not enough seeds",
    "one seed: no claim",
]
DIFFERENT: tuple[Word, ...] = ("better", "worse", "higher", "lower")
FINAL: tuple[Word, ...] = (*DIFFERENT, "no practical difference", "unstable")
"""Words after which an arm needs no more seeds."""


@dataclass(frozen=True)
class Runs:
    """What came of an arm's seeds.

    Attributes:
        values: seed -> value, of those that came to their end.
        failed: seeds that failed or diverged.
    """

    values: Mapping[int, float]
    failed: frozenset[int] = frozenset()

    def within(self, seeds: frozenset[int] | None) -> Runs:
        """Returns the same of ``seeds`` alone; of all for None."""
        if seeds is None:
            return self
        return Runs({seed: value for seed, value in self.values.items() if seed in seeds}, self.failed & seeds)


@dataclass(frozen=True)
class Plan:
    """Says when the arms of a family are looked at: once, or at numbers of seeds that were declared before.

    Attributes:
        looks: the seeds that count at each look taken so far; None for all there are.
        shares: of the level, spent by the end of each of these looks.
        num_arms: arms of the family beside the baseline; None for those with at least ``MIN_SEEDS`` pairs.
    """

    looks: tuple[frozenset[int] | None, ...] = (None,)
    shares: tuple[float, ...] = (1.0,)
    num_arms: int | None = None

    @classmethod
    def declared(cls, seeds: Sequence[int], sizes: Sequence[int], num_arms: int, *, taken: int | None = None) -> Plan:
        """Returns looks at the first ``sizes`` of ``seeds``, of which ``taken`` were taken (None: all); the level is
        spent in proportion to the seeds.
        """
        reached = sizes[:taken]
        looks = tuple(frozenset(seeds[:size]) for size in reached)
        return cls(looks, tuple(size / sizes[-1] for size in reached), num_arms)


ONE_LOOK = Plan()
"""At all seeds there are, at the whole level."""


@dataclass(frozen=True)
class Judgement:
    """What may be said of one arm, and the figures that it follows from, as of the look at which it was said.

    Attributes:
        word: the verdict.
        n: pairs.
        difference: mean of arm minus baseline.
        sd: standard deviation of the arm's own differences; nan for one pair.
        se, df: standard error of the difference and its degrees of freedom; see ``paired_tests``.
        ci: interval that covers the differences of all arms of the family together in 95 of 100 sweeps; for an arm
            below ``MIN_SEEDS`` pairs, which belongs to no family, its own by Student's t. An arm that only a later step
            calls different has one that ends at 0.
        p: two-sided, not corrected.
        level: p below which the arm is called different here; nan where it cannot be.
        p_corrected: ``p`` such that it is compared with ``LEVEL`` (with one look: Holm's).
        p_equivalence: one-sided p of the true difference being as large as the margin; nan without a margin.
        equivalence_level: that p below which the arm is called practically alike.
        family_level: the level of ``ci``, and that at which a lone difference would have to be found.
        different_from: size of the mean difference from which the arm is called different.
        alike_within: size of the mean difference up to which it is called practically alike; below 0: not at this
            spread. nan without a margin.
        p_exact: of the joint sign-flip test, corrected over the family; nan where it was not asked for.
        failures: None where no seed failed.
        look: at which the word was given, counted from 1; 0 before the first.
        pairs: the seeds.
    """

    word: Word
    n: int
    difference: float = math.nan
    sd: float = math.nan
    se: float = math.nan
    df: float = math.nan
    ci: tuple[float, float] = (math.nan, math.nan)
    p: float = math.nan
    level: float = math.nan
    p_corrected: float = math.nan
    p_equivalence: float = math.nan
    equivalence_level: float = math.nan
    family_level: float = math.nan
    different_from: float = math.nan
    alike_within: float = math.nan
    p_exact: float = math.nan
    failures: Failures | None = None
    look: int = 0
    pairs: tuple[int, ...] = ()


@dataclass(frozen=True)
class FamilyJudgement:
    """What may be said of all arms of a family.

    Attributes:
        arms: by name.
        num_arms: arms that the words are corrected for.
        one_look: whether all seeds were judged at once.
        tests: of the arms in the family at the last look, for what the whole family says about its spread; None where
            no arm has pairs enough.
    """

    arms: Mapping[str, Judgement]
    num_arms: int
    one_look: bool
    tests: PairedTests | None


def judge(
    baseline: Runs,
    arms: Mapping[str, Runs],
    plan: Plan = ONE_LOOK,
    *,
    direction: Direction = "higher",
    margin: float | None = None,
    with_exact: bool = True,
) -> FamilyJudgement:
    """Judges every arm of a family against its baseline.

    An arm that a look has called better, worse, alike or unstable keeps that word, and its figures of then: seeds that
    came later do not count for it.

    Args:
        direction: whether higher or lower values are better; ``none``: neither, words say which is higher.
        margin: largest difference that does not matter in practice, above 0; None where there is none.
        with_exact: whether to run the joint sign-flip test, which takes longer than all the rest.
    """
    family = _Family(baseline, arms, plan, direction, margin, with_exact, num_arms=plan.num_arms or 0)
    for look in range(len(plan.looks)):
        family.look(look)
    found = {name: family.found.get(name) or family.before_any_look(name) for name in arms}
    return FamilyJudgement(found, family.num_arms, plan is ONE_LOOK, family.tests)


@dataclass
class _Family:
    """The state of :func:`judge`: what each look has found so far."""

    baseline: Runs
    arms: Mapping[str, Runs]
    plan: Plan
    direction: Direction
    margin: float | None
    with_exact: bool
    found: dict[str, Judgement] = field(default_factory=dict)
    history: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    tests: PairedTests | None = None
    num_arms: int = 0

    def look(self, number: int) -> None:
        """Takes one look."""
        seeds = self.plan.looks[number]
        active = [name for name in self.arms if name not in self.found or self.found[name].word not in FINAL]
        pairs = {name: self._pairs(name, seeds) for name in self.arms}
        for name in self.found.keys() - set(active):
            pairs[name] = self.found[name].pairs
        names = [name for name in self.arms if len(pairs[name]) >= MIN_SEEDS]
        self.num_arms = len(names) if self.plan.num_arms is None else self.plan.num_arms
        failures = {name: self._failures(name, seeds) for name in active}
        if names:
            differences = self._differences(names, pairs)
            self.tests = paired_t_tests(differences)
            exact = joint_sign_flip_p(differences) if self.with_exact else np.full(len(names), math.nan)
            tested = {name: place for place, name in enumerate(names) if name in active}
            self._note_sizes(tested, self.tests.n, number)
            for name, judgement in self._judged(tested, self.tests).items():
                self.found[name] = replace(
                    judgement, p_exact=float(exact[tested[name]]), look=number + 1, pairs=pairs[name]
                )
        for name in active:
            if name not in names:
                self.found[name] = self.outsider(name, seeds)
            self.found[name] = self._with_failures(self.found[name], failures[name], number)

    def before_any_look(self, name: str) -> Judgement:
        """An arm of which nothing may be said yet, with its figures so far."""
        return replace(self.outsider(name), failures=self._failures(name, None))

    def outsider(self, name: str, seeds: frozenset[int] | None = None) -> Judgement:
        """An arm with too few pairs for any word about its difference: figures alone."""
        pairs = self._pairs(name, seeds)
        if not pairs:
            return Judgement("not enough seeds", 0)
        differences = self._differences([name], {name: pairs})
        summary = summarise(differences[0])
        known = Judgement("one seed: no claim", 1, summary.mean, pairs=pairs)
        if len(pairs) == 1:
            return known
        tests = paired_t_tests(differences)
        known = replace(known, word="not enough seeds", n=summary.n, sd=summary.sd, p=float(tests.p[0]))
        known = replace(known, se=float(tests.se[0]), df=float(tests.df[0]))
        return replace(known, ci=_interval(known, LEVEL), family_level=LEVEL)

    def _pairs(self, name: str, seeds: frozenset[int] | None) -> tuple[int, ...]:
        shared = self.arms[name].values.keys() & self.baseline.values.keys()
        return tuple(sorted(shared if seeds is None else shared & seeds))

    def _failures(self, name: str, seeds: frozenset[int] | None) -> Failures | None:
        arm, base = self.arms[name].within(seeds), self.baseline.within(seeds)
        if not arm.failed:
            return None
        return count_failures(arm.failed, arm.failed | arm.values.keys(), base.failed, base.failed | base.values.keys())

    def _differences(self, names: Sequence[str], pairs: Mapping[str, tuple[int, ...]]) -> NDArray[np.float64]:
        """(k, n) over all seeds that any of them is judged by, nan where an arm is not."""
        places = {seed: place for place, seed in enumerate(sorted({seed for name in names for seed in pairs[name]}))}
        found = np.full((len(names), len(places)), math.nan)
        for row, name in zip(found, names, strict=True):
            for seed in pairs[name]:
                row[places[seed]] = self.arms[name].values[seed] - self.baseline.values[seed]
        return found

    def _note_sizes(self, tested: Mapping[str, int], n: NDArray[np.int64], number: int) -> None:
        """How many pairs each arm has had at its looks; one that brought no new pair is none."""
        for name, place in tested.items():
            history = self.history.setdefault(name, [])
            if history and history[-1][0] >= n[place]:
                history.pop()
            history.append((int(n[place]), self.plan.shares[number]))

    def _level(self, name: str, level: float) -> float:
        """The p that the arm's last look compares with, such that all its looks together keep ``level``."""
        sizes, shares = zip(*self.history[name], strict=True)
        return nominal_levels(sizes, shares, level)[-1]

    def _judged(self, tested: Mapping[str, int], tests: PairedTests) -> dict[str, Judgement]:
        """Words and figures of the arms that this look is about."""
        figures = {name: self._figures(name, place, tests) for name, place in tested.items()}
        num_different = sum(entry.word in DIFFERENT for entry in self.found.values())
        found = self._step_down(figures, max(1, self.num_arms - num_different))
        for name, entry in found.items():
            if entry.word not in DIFFERENT and entry.p_equivalence < entry.equivalence_level:
                found[name] = replace(entry, word="no practical difference")
        return found

    def _figures(self, name: str, place: int, tests: PairedTests) -> Judgement:
        """Everything about an arm that follows from its own looks alone."""
        mean, se, df = (float(of[place]) for of in (tests.mean, tests.se, tests.df))
        known = Judgement(
            "undecided", int(tests.n[place]), mean, float(tests.sd[place]), se, df, p=float(tests.p[place])
        )
        level = self._level(name, LEVEL / self.num_arms)
        known = replace(known, ci=_interval(known, level), family_level=level)
        if self.margin is None:
            return known
        bound = self._level(name, 2 * EQUIVALENCE_LEVEL) / 2
        room = self.margin - abs(mean)
        p_alike = float(special.stdtr(df, -room / se)) if se > 0 else float(room <= 0)
        alike = self.margin + se * float(special.stdtrit(df, bound))
        return replace(known, p_equivalence=p_alike, equivalence_level=bound, alike_within=alike)

    def _step_down(self, figures: Mapping[str, Judgement], left: int) -> dict[str, Judgement]:
        """The smallest p first, each step with one arm fewer to correct for; the first that is not small enough ends
        it.
        """
        found: dict[str, Judgement] = {}
        rest, running, ended_at = dict(figures), 0.0, 0
        for arms_left in range(left, left - len(figures), -1):
            levels = {name: self._level(name, LEVEL / max(1, arms_left)) for name in rest}
            name = min(rest, key=lambda name: rest[name].p / levels[name])
            entry = rest.pop(name)
            running = max(running, min(1.0, entry.p * LEVEL / levels[name]))
            if not ended_at and not entry.p < levels[name]:
                ended_at = arms_left
            level = levels[name] if not ended_at else self._level(name, LEVEL / ended_at)
            bound = half_width(entry.se, entry.df, level)
            entry = replace(entry, level=level, p_corrected=running, different_from=bound)
            found[name] = entry if ended_at or entry.difference == 0 else self._different(entry)
        return found

    def _different(self, entry: Judgement) -> Judgement:
        above = entry.difference > 0
        low, high = entry.ci
        ci = (max(low, 0.0), high) if above else (low, min(high, 0.0))
        if self.direction == "none":
            return replace(entry, ci=ci, word="higher" if above else "lower")
        return replace(entry, ci=ci, word="better" if above == (self.direction == "higher") else "worse")

    def _with_failures(self, entry: Judgement, failures: Failures | None, number: int) -> Judgement:
        """An arm that fails more often than the baseline is not better, and not alike either."""
        if failures is None or entry.word in ("worse", "lower", "higher"):
            return replace(entry, failures=failures)
        more_often = failures.more_than_baseline and failures.p < self._failure_level(number)
        if more_often or len(failures.seeds) == failures.n:
            return replace(entry, word="unstable", failures=failures, look=number + 1)
        return replace(entry, failures=failures)

    def _failure_level(self, number: int) -> float:
        looks = self.plan.looks[: number + 1]
        sizes = tuple(len(seeds) for seeds in looks if seeds is not None)
        return nominal_levels(sizes, self.plan.shares[: number + 1], LEVEL)[-1] if sizes else LEVEL


def _interval(entry: Judgement, level: float) -> tuple[float, float]:
    half = half_width(entry.se, entry.df, level)
    return (entry.difference - half, entry.difference + half)
