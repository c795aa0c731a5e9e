"""focalbench/statistics/verdict.py where a sweep is looked at several times."""

import math
from collections.abc import Mapping
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from simulate_false_alarms import judged, plan_of_looks

from focalbench.statistics.failures import mcnemar_p
from focalbench.statistics.paired_tests import paired_t_tests
from focalbench.statistics.sequential import nominal_levels
from focalbench.statistics.verdict import DIFFERENT, FINAL, Judgement, Plan, Runs, judge

Floats = NDArray[np.float64]
SIZES = (6, 8, 10, 12, 16, 20)
SHARES = tuple(size / 20 for size in SIZES)
MARGIN = 0.01
LEVELS = {
    1: (0.01500, 0.01065, 0.01144, 0.01273, 0.01896, 0.02276),
    2: (0.00750, 0.00502, 0.00532, 0.00587, 0.00882, 0.01047),
    3: (0.00500, 0.00324, 0.00341, 0.00375, 0.00566, 0.00669),
    4: (0.00375, 0.00238, 0.00250, 0.00274, 0.00414, 0.00488),
}
EQUIVALENCE_LEVELS = (0.01500, 0.01138, 0.01242, 0.01398, 0.02067, 0.02513)
alike = partial(pytest.approx, abs=1e-5)


def plan(arms: int, looks: int = len(SIZES)) -> Plan:
    """The first ``looks`` of six."""
    whole = plan_of_looks(arms, SIZES)
    return Plan(whole.looks[:looks], whole.shares[:looks], arms)


def random_sweep(number: int) -> Floats:
    """Four arms: one differs much, one a little, two do not."""
    rng = np.random.default_rng(number)
    values = rng.normal(size=(5, 20))
    return 0.01 * (values[1:] - values[0] + np.array([[3.0], [1.2], [0.0], [0.0]])) / math.sqrt(2)


def told(differences: Floats, looks: int = len(SIZES)) -> dict[str, Judgement]:
    return dict(judged(differences, plan(len(differences), looks), margin=MARGIN).arms)


def words(arms: Mapping[str, Judgement]) -> list[str]:
    return [arm.word for arm in arms.values()]


def by_the_rule(differences: Floats) -> list[tuple[str, int]]:
    """Word and look of each arm, step by step as the specification says."""
    arms, found = len(differences), {}
    seen = differences.copy()  # without the seeds that an arm got after its word
    for look, size in enumerate(SIZES):
        so_far = seen[:, :size]
        tests = paired_t_tests(so_far)
        waiting = [arm for arm in range(arms) if arm not in found]
        new = {}
        for arm in sorted(waiting, key=lambda arm: tests.p[arm]):
            different = sum(word in DIFFERENT for word, _ in (found | new).values())
            if not tests.p[arm] < nominal_levels(SIZES, SHARES, 0.05 / (arms - different))[look]:
                break
            new[arm] = ("better" if tests.mean[arm] > 0 else "worse", look + 1)
        for arm in set(waiting) - new.keys():
            row = so_far[arm]
            t = (MARGIN - abs(row.mean())) / tests.se[arm]
            if stats.t.sf(t, tests.df[arm]) < nominal_levels(SIZES, SHARES, 0.10)[look] / 2:
                new[arm] = ("no practical difference", look + 1)
        for arm in new:
            seen[arm, size:] = math.nan
        found |= new
    return [found.get(arm, ("undecided", len(SIZES))) for arm in range(arms)]


def test_words_are_those_of_the_rule_step_by_step() -> None:
    seen = set()
    for number in range(40):
        differences = random_sweep(number)
        found = [(arm.word, arm.look) for arm in told(differences).values()]
        assert found == by_the_rule(differences)
        seen |= set(found)
    assert {word for word, _ in seen} >= {"better", "no practical difference", "undecided"}
    assert {look for word, look in seen if word in FINAL} == set(range(1, 7))


@pytest.mark.parametrize("looks", range(1, 7))
@pytest.mark.parametrize("arms", LEVELS)
def test_levels_are_those_of_the_table_at_each_look(arms: int, looks: int) -> None:
    noise = 0.05 * np.random.default_rng(2).normal(size=(arms, 20))
    noise -= noise.mean(axis=1, keepdims=True)
    family = judged(noise, plan(arms, looks), margin=MARGIN)
    assert (family.num_arms, family.one_look) == (arms, False)
    for arm in family.arms.values():
        assert (arm.word, arm.n, arm.look) == ("undecided", SIZES[looks - 1], looks)
        assert arm.level == alike(LEVELS[arms][looks - 1])
        assert arm.family_level == alike(LEVELS[arms][looks - 1])
        assert arm.equivalence_level == alike(EQUIVALENCE_LEVELS[looks - 1])
    by_p = sorted(family.arms.values(), key=lambda arm: arm.p)
    steps = [arm.p * 0.05 / LEVELS[arms - step][looks - 1] for step, arm in enumerate(by_p)]
    assert [arm.p_corrected for arm in by_p] == pytest.approx(np.minimum(1, np.maximum.accumulate(steps)), rel=0.006)


def test_the_correction_falls_by_one_for_each_arm_called_different() -> None:
    seen = set()
    for number in range(20):
        for look in range(4):
            found = told(random_sweep(number), look + 1)
            different = sum(word in DIFFERENT for word in words(found))
            for arm in found.values():
                if arm.word == "undecided":
                    assert arm.level == alike(LEVELS[4 - different][look])
                    assert arm.family_level == alike(LEVELS[4][look])
                    seen.add((different, look))
    assert {different for different, _ in seen} >= {0, 1, 2}
    assert {look for different, look in seen if different} == {0, 1, 2, 3}


def test_within_one_look_each_step_has_one_arm_fewer() -> None:
    differences = 0.0001 * np.random.default_rng(4).normal(size=(4, 20)) + np.array([[4], [3], [2], [0]]) * 0.1
    differences[3] += 0.05 * np.random.default_rng(5).normal(size=20)
    found = told(differences, 1)
    assert words(found) == ["better", "better", "better", "undecided"]
    assert sorted(arm.level for arm in found.values()) == alike([LEVELS[m][0] for m in (4, 3, 2, 1)])


def test_a_p_between_the_levels_is_a_word_only_where_others_had_theirs() -> None:
    noise = 0.01 * np.random.default_rng(0).normal(size=6)
    noise -= noise.mean()

    def arm_with_p(p: float) -> Floats:
        return noise + stats.t.isf(p / 2, 5) * noise.std(ddof=1) / math.sqrt(6)

    two = plan(2, 1)
    between = arm_with_p(0.010)  # above .0075, below .0150
    assert words(judged(np.array([between, noise]), two).arms) == ["undecided", "undecided"]
    assert words(judged(np.array([between, arm_with_p(0.001)]), two).arms) == ["better", "better"]
    assert words(judged(np.array([between]), plan(1, 1)).arms) == ["better"]
    assert words(judged(np.array([arm_with_p(0.0151)]), plan(1, 1)).arms) == ["undecided"]


def test_corrected_p_is_below_the_level_where_the_arm_is_different() -> None:
    for number in range(20):
        for arm in told(random_sweep(number)).values():
            assert (arm.word in DIFFERENT) == (arm.p_corrected < 0.05)


def test_the_interval_tells_the_same_story_as_the_word_at_every_look() -> None:
    claims = 0
    for number in range(40):
        for looks in (1, 2, 4, 6):
            for arm in told(random_sweep(number), looks).values():
                low, high = arm.ci
                if arm.word in DIFFERENT:
                    assert not low < 0 < high
                    claims += 1
                else:
                    assert low <= 0 <= high
    assert claims > 40


def test_a_decided_arm_keeps_word_and_figures_whatever_comes_later() -> None:
    decided = set()
    for number in range(30):
        differences = random_sweep(number)
        before = told(differences, 2)
        changed = differences.copy()
        changed[:, 8:] = 0.1 * np.random.default_rng(number).normal(size=(4, 12)) - 0.2
        for later in (told(differences), told(changed)):
            for name, arm in before.items():
                if arm.word in FINAL:
                    assert repr(later[name]) == repr(arm)
                    decided.add((arm.look, arm.word))
    assert {look for look, _ in decided} == {1, 2}
    assert {word for _, word in decided} >= {"better", "no practical difference"}


def test_look_by_look_the_words_are_those_of_all_at_once() -> None:
    for number in range(12):
        differences = random_sweep(number)
        whole = told(differences)
        for looks in range(1, 7):
            for name, arm in told(differences[:, : SIZES[looks - 1]], looks).items():
                if arm.word in FINAL:
                    assert repr(arm) == repr(whole[name])
                else:
                    assert arm.look == looks
                    assert whole[name].look > looks or looks == 6


def test_seeds_that_a_decided_arm_never_got_are_not_missed() -> None:
    for number in range(20):
        differences = random_sweep(number)
        whole = told(differences)
        trained = [differences[int(name), : arm.n] for name, arm in whole.items()]
        base = Runs(dict.fromkeys(range(20), 0.0))
        arms = {str(place): Runs(dict(enumerate(row.tolist()))) for place, row in enumerate(trained)}
        found = judge(base, arms, plan(4), margin=MARGIN, with_exact=False).arms
        assert list(map(repr, found.values())) == list(map(repr, whole.values()))


def test_seeds_outside_the_looks_do_not_count() -> None:
    differences = random_sweep(3)
    more = np.hstack([differences, 5 + np.random.default_rng(0).normal(size=(4, 7))])
    assert list(map(repr, told(more).values())) == list(map(repr, told(differences).values()))
    few = told(differences, 2)
    assert list(map(repr, few.values())) == list(map(repr, told(differences[:, :8], 2).values()))
    assert {arm.n for arm in few.values()} <= {6, 8}


def test_before_the_first_look_no_arm_has_seeds_enough() -> None:
    differences = random_sweep(0)
    family = judged(differences[:, :8], Plan((), (), 4), margin=MARGIN)
    assert set(words(family.arms)) == {"not enough seeds"}
    assert {arm.look for arm in family.arms.values()} == {0}
    assert family.tests is None
    assert not family.one_look


def test_failures_shift_the_levels_to_the_pairs_at_hand() -> None:
    differences = 0.05 * np.random.default_rng(2).normal(size=(2, 20))
    base, arms = Runs(dict.fromkeys(range(20), 0.0)), {}
    for name, row, failed in zip("ab", differences.tolist(), ({1}, {7, 9}), strict=True):
        arms[name] = Runs({s: v for s, v in enumerate(row) if s not in failed}, frozenset(failed))
    one, two, three = (judge(base, arms, plan(2, looks), margin=MARGIN).arms for looks in (1, 2, 3))
    # The first look finds five pairs of a, so that its first is the second one, with all that was to be spent by then.
    assert (one["a"].word, one["a"].n) == ("not enough seeds", 5)
    assert one["b"].level == alike(LEVELS[2][0])
    assert (two["a"].n, two["b"].n, three["a"].n, three["b"].n) == (7, 7, 9, 8)
    assert two["a"].level == pytest.approx(0.4 * 0.05 / 2, rel=1e-9)
    assert two["b"].level == pytest.approx(nominal_levels((6, 7), (0.3, 0.4), 0.025)[-1], rel=1e-9)
    assert three["a"].level == pytest.approx(nominal_levels((7, 9), (0.4, 0.5), 0.025)[-1], rel=1e-9)
    assert three["b"].level == pytest.approx(nominal_levels((6, 7, 8), (0.3, 0.4, 0.5), 0.025)[-1], rel=1e-9)


def test_a_look_that_brought_no_pair_is_none() -> None:
    values = dict(enumerate((0.05 * np.random.default_rng(2).normal(size=10)).tolist()))
    without = Runs({s: v for s, v in values.items() if s not in (6, 7)}, frozenset({6, 7}))
    base = Runs(dict.fromkeys(range(10), 0.0))
    two, three = (judge(base, {"a": without}, plan(1, looks)).arms["a"] for looks in (2, 3))
    assert (two.n, three.n) == (6, 8)
    assert two.level == pytest.approx(0.4 * 0.05, rel=1e-9)
    assert three.level == pytest.approx(nominal_levels((6, 8), (0.4, 0.5), 0.05)[-1], rel=1e-9)


def test_an_arm_with_too_few_pairs_has_those_of_the_last_look() -> None:
    failed = frozenset({0, 1, 6, 7, 8})
    arm = Runs({seed: 0.001 * seed for seed in range(12) if seed not in failed}, failed)
    base = Runs(dict.fromkeys(range(12), 0.0))
    found = [judge(base, {"a": arm}, plan(1, looks)).arms["a"] for looks in (1, 2, 3, 4)]
    assert [of.n for of in found] == [4, 4, 5, 7]
    assert found[2].pairs == (2, 3, 4, 5, 9)
    assert found[2].failures is not None
    assert found[2].failures.n == 10
    assert [of.word for of in found[:3]] == ["not enough seeds"] * 3


def test_failures_are_looked_at_with_the_levels_of_their_looks() -> None:
    base = Runs(dict.fromkeys(range(20), 0.0))

    def told_of(failed: range, looks: int) -> Judgement:
        values = {seed: 0.01 * math.sin(seed) for seed in range(20) if seed not in failed}
        return judge(base, {"a": Runs(values, frozenset(failed))}, plan(1, looks)).arms["a"]

    six, nine = told_of(range(6, 12), 4), told_of(range(3, 12), 4)
    assert six.failures is not None
    assert nine.failures is not None
    assert (six.failures.p, nine.failures.p) == (mcnemar_p(6, 0), mcnemar_p(9, 0))
    assert mcnemar_p(9, 0) < LEVELS[1][3] < mcnemar_p(6, 0) < 0.05
    assert six.word != "unstable"
    assert (nine.word, nine.look, nine.n) == ("unstable", 4, 3)
    # Those of seeds that no look has come to yet are not counted.
    assert told_of(range(6, 12), 1).failures is None
    later = told_of(range(3, 12), 6)
    assert repr(later) == repr(nine)


def test_an_unstable_arm_does_not_lend_its_spread_below_six_pairs() -> None:
    differences = random_sweep(1)
    base = Runs(dict.fromkeys(range(20), 0.0))
    arms = {str(place): Runs(dict(enumerate(row.tolist()))) for place, row in enumerate(differences)}
    without = judge(base, arms, plan(5), margin=MARGIN, with_exact=False).arms
    arms["wild"] = Runs({0: 50.0, 1: -50.0}, frozenset(range(2, 20)))
    found = judge(base, arms, plan(5), margin=MARGIN, with_exact=False).arms
    assert found["wild"].word == "unstable"
    assert [repr(found[name]) for name in without] == list(map(repr, without.values()))


def test_one_name_alone_of_a_family_is_corrected_for_all_of_it() -> None:
    noise = 0.05 * np.random.default_rng(2).normal(size=(1, 20))
    found = judged(noise, Plan(plan(4).looks, SHARES, 4)).arms["0"]
    assert found.level == alike(LEVELS[4][5])
