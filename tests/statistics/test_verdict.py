"""focalbench/statistics/verdict.py with one look: words and figures against scipy and against rules written by hand."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from simulate_false_alarms import judged

from focalbench.statistics.failures import mcnemar_p
from focalbench.statistics.paired_tests import paired_t_tests
from focalbench.statistics.sign_flips import joint_sign_flip_p
from focalbench.statistics.verdict import DIFFERENT, FINAL, LEVEL, MIN_SEEDS, ONE_LOOK, Direction, Plan, Runs, judge

Floats = NDArray[np.float64]


def random_sweep(number: int, *, arms: int | None = None, n: int | None = None) -> Floats:
    """Differences of arms of which some differ, by a little or by much."""
    rng = np.random.default_rng(number)
    arms, n = arms or int(rng.integers(1, 10)), n or int(rng.integers(MIN_SEEDS, 15))
    values = rng.normal(size=(arms + 1, n))
    shifts = rng.choice([0.0, 0.7, -1.5, 3.0], (arms, 1))
    return 0.01 * (values[1:] - values[0] + shifts)


def runs(differences: Floats, failed: Mapping[str, Sequence[int]] | None = None) -> tuple[Runs, dict[str, Runs]]:
    """A baseline that differs from seed to seed, and arms: no value where a difference is nan."""
    base = {seed: 0.5 + 0.01 * math.sin(seed) for seed in range(differences.shape[1])}
    arms = {}
    for number, row in enumerate(differences):
        values = {seed: base[seed] + float(value) for seed, value in enumerate(row) if not math.isnan(value)}
        arms[str(number)] = Runs(values, frozenset((failed or {}).get(str(number), ())))
    return Runs(base), arms


def holm(p: Sequence[float]) -> list[float]:
    """Holm's corrected p, by the book: the smallest times k, the next times k - 1, never falling."""
    found, running = [0.0] * len(p), 0.0
    for step, place in enumerate(sorted(range(len(p)), key=lambda place: p[place])):
        running = max(running, (len(p) - step) * p[place])
        found[place] = min(1.0, running)
    return found


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize("arms", range(1, 10))
def test_with_one_look_p_is_the_paired_tests_corrected_by_holm_and_decides(arms: int) -> None:
    claims = 0
    for number in range(12):
        differences = random_sweep(100 * arms + number, arms=arms)
        tests = paired_t_tests(differences)
        family = judged(differences)
        found = list(family.arms.values())
        assert [arm.p for arm in found] == pytest.approx(tests.p, rel=1e-9)
        assert [arm.p_corrected for arm in found] == pytest.approx(holm(tests.p.tolist()), rel=1e-6)
        for arm in found:
            assert (arm.word in DIFFERENT) == (arm.p_corrected < LEVEL) == (arm.p < arm.level)
            claims += arm.word in DIFFERENT
        assert family.num_arms == arms
        assert family.one_look
    assert 0 < claims < 12 * arms


def test_figures_are_those_of_the_paired_tests() -> None:
    differences = random_sweep(3, arms=4, n=8)
    tests, exact = paired_t_tests(differences), joint_sign_flip_p(differences)
    family = judge(*runs(differences), margin=0.01)
    for place, arm in enumerate(family.arms.values()):
        assert (arm.n, arm.look, arm.pairs) == (8, 1, tuple(range(8)))
        figures = (arm.difference, arm.sd, arm.se, arm.df, arm.p_exact)
        expected = (tests.mean, tests.sd, tests.se, tests.df, exact)
        assert figures == pytest.approx([of[place] for of in expected], rel=1e-9)
        assert arm.failures is None
    assert family.tests is not None
    assert family.tests.pool == pytest.approx(tests.pool, rel=1e-9)


def test_one_arm_has_scipys_p_and_interval() -> None:
    base, arms = runs(random_sweep(5, arms=1, n=9))
    found = judge(base, arms).arms["0"]
    expected = stats.ttest_rel(list(arms["0"].values.values()), list(base.values.values()))
    assert (found.p, found.p_corrected) == pytest.approx((expected.pvalue, expected.pvalue), rel=1e-9)
    assert found.ci == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-9)


def test_the_joint_test_is_left_out_where_it_was_not_asked_for() -> None:
    base, arms = runs(random_sweep(3, arms=2))
    with_it, without = (judge(base, arms, with_exact=exact).arms for exact in (True, False))
    assert all(math.isnan(arm.p_exact) for arm in without.values())
    assert [arm.word for arm in with_it.values()] == [arm.word for arm in without.values()]


@pytest.mark.parametrize("arms", range(1, 10))
def test_the_interval_tells_the_same_story_as_the_word(arms: int) -> None:
    later_steps = 0
    for number in range(40):
        for arm in judged(random_sweep(1000 * arms + number, arms=arms), margin=0.01).arms.values():
            low, high = arm.ci
            if arm.word in DIFFERENT:
                assert not low < 0 < high
                later_steps += 0 in (low, high)
            else:
                assert low <= 0 <= high
            assert low <= arm.difference <= high
    assert (later_steps > 0) == (arms > 1)


def test_the_interval_is_simultaneous_and_ends_at_zero_where_only_a_later_step_finds_the_arm() -> None:
    ends = 0
    for number in range(30):
        found = judged(random_sweep(number, arms=4)).arms.values()
        for arm in found:
            half = stats.t.isf(LEVEL / 4 / 2, arm.df) * arm.se
            low, high = arm.difference - half, arm.difference + half
            if arm.word in DIFFERENT and low < 0 < high:
                low, high = (0.0, high) if arm.difference > 0 else (low, 0.0)
                ends += 1
            assert arm.family_level == LEVEL / 4
            assert arm.ci == pytest.approx((low, high), rel=1e-9, abs=1e-15)
    assert ends > 0


@pytest.mark.parametrize("arms", [1, 4])
def test_an_arm_is_different_from_the_size_that_is_said_on(arms: int) -> None:
    differences = random_sweep(7, arms=arms, n=8)
    differences -= differences.mean(axis=1, keepdims=True)  # all p are 1, whatever the first arm's is
    bound = judged(differences).arms["0"].different_from
    for factor, word in ((1 - 1e-6, "undecided"), (1 + 1e-6, "better"), (-1 - 1e-6, "worse")):
        shifted = differences.copy()
        shifted[0] += factor * bound
        assert judged(shifted).arms["0"].word == word


@pytest.mark.parametrize(
    ("direction", "above", "below"),
    [("higher", "better", "worse"), ("lower", "worse", "better"), ("none", "higher", "lower")],
)
def test_words_for_each_direction(direction: Direction, above: str, below: str) -> None:
    rng = np.random.default_rng(1)
    differences = 0.001 * rng.normal(size=(3, 6)) + np.array([[0.1], [-0.1], [0.0]])
    found = judge(*runs(differences), direction=direction).arms
    assert [arm.word for arm in found.values()] == [above, below, "undecided"]
    assert {above, below} <= set(DIFFERENT) <= set(FINAL)


def test_practically_alike_is_two_one_sided_tests() -> None:
    alike = 0
    for number in range(20):
        differences = random_sweep(number, arms=1)
        found = judged(differences, margin=0.012).arms["0"]
        sides = (
            stats.ttest_1samp(differences[0], -0.012, alternative="greater").pvalue,
            stats.ttest_1samp(differences[0], 0.012, alternative="less").pvalue,
        )
        assert found.p_equivalence == pytest.approx(max(sides), rel=1e-9)
        assert found.equivalence_level == pytest.approx(0.05)
        if found.word not in DIFFERENT:
            assert (found.word == "no practical difference") == (max(sides) < 0.05)
            alike += found.word == "no practical difference"
    assert 0 < alike < 20


def test_an_arm_is_alike_up_to_the_size_that_is_said() -> None:
    differences = random_sweep(7, arms=1, n=12)
    differences -= differences.mean()
    within = judged(differences, margin=0.012).arms["0"].alike_within
    assert 0 < within < 0.012
    assert within < judged(differences, margin=0.012).arms["0"].different_from
    for factor, word in ((1 - 1e-6, "no practical difference"), (-1 + 1e-6, "no practical difference")):
        assert judged(differences + factor * within, margin=0.012).arms["0"].word == word
    assert judged(differences + (1 + 1e-6) * within, margin=0.012).arms["0"].word == "undecided"
    assert judged(differences, margin=0.001).arms["0"].alike_within < 0


def test_a_difference_that_is_shown_is_said_even_if_it_is_small() -> None:
    differences = 0.002 + 1e-5 * np.random.default_rng(0).normal(size=(1, 6))
    found = judged(differences, margin=0.01).arms["0"]
    assert found.p_equivalence < found.equivalence_level
    assert found.word == "better"


def test_without_a_margin_nothing_is_called_alike() -> None:
    found = judge(*runs(np.zeros((3, 20)))).arms.values()
    assert {arm.word for arm in found} == {"undecided"}
    for arm in found:
        assert math.isnan(arm.p_equivalence)
        assert math.isnan(arm.equivalence_level)
        assert math.isnan(arm.alike_within)


@pytest.mark.parametrize("arms", [1, 2, 3, 9])
def test_identical_arms_do_not_differ_in_practice(arms: int) -> None:
    for arm in judge(*runs(np.zeros((arms, 6))), margin=1e-6).arms.values():
        assert arm.word == "no practical difference"
        assert (arm.difference, arm.p, arm.p_corrected, arm.p_equivalence, arm.p_exact) == (0.0, 1.0, 1.0, 0.0, 1.0)
        assert arm.ci == (0.0, 0.0)


@pytest.mark.parametrize(("difference", "word"), [(0.25, "better"), (-0.25, "worse")])
@pytest.mark.parametrize("arms", [1, 2, 3])
def test_a_difference_without_any_scatter_is_shown(arms: int, difference: float, word: str) -> None:
    for arm in judged(np.full((arms, 6), difference), margin=0.01).arms.values():
        assert (arm.word, arm.p, arm.p_corrected, arm.p_equivalence) == (word, 0.0, 0.0, 1.0)
        assert arm.ci == (difference, difference)


def test_a_difference_without_scatter_is_shown_through_rounding() -> None:
    found = judge(*runs(np.full((1, 6), 0.013)), margin=0.01).arms["0"]
    assert (found.word, found.p, found.sd) == ("better", 0.0, 0.0)


@pytest.mark.parametrize("few", [0, 1, 2, 5])
def test_arms_with_too_few_pairs_do_not_change_the_others(few: int) -> None:
    differences = random_sweep(11, arms=4, n=8)
    differences[2] *= 100  # in the pool it would be seen
    differences[2, few:] = math.nan
    with_it, without = judge(*runs(differences)), judge(*runs(np.delete(differences, 2, axis=0)))
    found = with_it.arms["2"]
    assert found.word == ("one seed: no claim" if few == 1 else "not enough seeds")
    assert found.n == few
    assert with_it.num_arms == 3
    others = [repr(arm) for name, arm in with_it.arms.items() if name != "2"]
    assert others == list(map(repr, without.arms.values()))


def test_an_arm_with_too_few_pairs_has_its_own_figures() -> None:
    differences = random_sweep(11, arms=3, n=8)
    differences[1, 5:] = math.nan
    found = judge(*runs(differences), margin=0.01).arms["1"]
    expected = stats.ttest_1samp(differences[1, :5], 0)
    assert (found.n, found.pairs, found.df, found.look) == (5, (0, 1, 2, 3, 4), 4.0, 0)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert found.ci == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-6)
    assert found.family_level == LEVEL
    for nothing in (found.level, found.p_corrected, found.p_equivalence, found.different_from, found.p_exact):
        assert math.isnan(nothing)


def test_one_pair_says_its_difference_and_nothing_else() -> None:
    found = judge(Runs({4: 0.5}), {"a": Runs({4: 0.75, 5: 0.8})}, margin=0.01).arms["a"]
    assert (found.word, found.n, found.difference, found.pairs) == ("one seed: no claim", 1, 0.25, (4,))
    assert all(math.isnan(of) for of in (found.sd, found.se, found.p, *found.ci))


def test_only_seeds_of_both_are_pairs() -> None:
    base = Runs(dict.fromkeys(range(2, 12), 0.5))
    arm = Runs({seed: 0.6 + 0.001 * seed for seed in (11, 9, 0, 1, 3, 4, 5, 6)})
    found = judge(base, {"a": arm}).arms["a"]
    assert found.pairs == (3, 4, 5, 6, 9, 11)
    assert found.difference == pytest.approx(0.1 + 0.001 * np.mean([3, 4, 5, 6, 9, 11]))


def test_families_of_which_nothing_is_known() -> None:
    for arms in ({}, {"a": Runs({})}, {"a": Runs({7: 0.5})}):
        found = judge(Runs({0: 0.5}), arms, margin=0.01)
        assert found.arms.keys() == arms.keys()
        assert {arm.word for arm in found.arms.values()} <= {"not enough seeds"}
        assert (found.num_arms, found.tests) == (0, None)
    assert judge(Runs({}), {"a": Runs({0: 0.5})}).arms["a"].n == 0


def test_a_family_of_which_a_part_is_there_is_corrected_for_all_of_it() -> None:
    differences = random_sweep(2, arms=2)
    found = judged(differences, Plan(num_arms=9))
    own = paired_t_tests(differences).p
    assert found.num_arms == 9
    order = np.argsort(own)
    corrected = [arm.p_corrected for arm in found.arms.values()]
    assert corrected[order[0]] == pytest.approx(min(1, 9 * own[order[0]]), rel=1e-6)
    assert corrected[order[1]] == pytest.approx(min(1, max(9 * own[order[0]], 8 * own[order[1]])), rel=1e-6)


def test_an_arm_that_failed_in_half_of_its_seeds_is_unstable_though_the_rest_gained() -> None:
    differences = 0.009 + 0.002 * np.random.default_rng(0).normal(size=(1, 12))
    differences[0, ::2] = math.nan
    assert judge(*runs(differences)).arms["0"].word == "better"
    found = judge(*runs(differences, {"0": range(0, 12, 2)}), margin=0.01).arms["0"]
    assert found.word == "unstable"
    assert found.n == 6
    assert found.failures is not None
    assert (found.failures.seeds, found.failures.n) == ((0, 2, 4, 6, 8, 10), 12)
    assert [round(100 * end) for end in found.failures.interval] == [21, 79]
    assert found.failures.p == mcnemar_p(6, 0) < LEVEL


@pytest.mark.parametrize(("seeds", "word"), [(6, "not enough seeds"), (8, "better")])
def test_an_arm_that_failed_once_is_not_unstable(seeds: int, word: str) -> None:
    differences = 0.01 + 0.001 * np.random.default_rng(0).normal(size=(1, seeds))
    differences[0, 3] = math.nan
    found = judge(*runs(differences, {"0": [3]})).arms["0"]
    assert found.word == word
    assert found.failures is not None
    assert found.failures.seeds == (3,)


def test_an_arm_that_fails_as_often_as_the_baseline_is_not_unstable() -> None:
    base, arms = runs(0.01 + 0.001 * np.random.default_rng(0).normal(size=(1, 14)))
    broken = frozenset(range(7))
    both = [Runs({s: v for s, v in of.values.items() if s not in broken}, broken) for of in (base, arms["0"])]
    assert judge(both[0], {"0": both[1]}).arms["0"].word == "better"
    healthy_base = judge(base, {"0": both[1]}).arms["0"]
    assert healthy_base.word == "unstable"


def test_an_arm_that_fails_less_often_than_the_baseline_is_not_unstable() -> None:
    base, arms = runs(0.01 + 0.001 * np.random.default_rng(0).normal(size=(1, 20)))
    base = Runs({s: v for s, v in base.values.items() if s >= 10}, frozenset(range(10)))
    arm = Runs({s: v for s, v in arms["0"].values.items() if s != 15}, frozenset({15}))
    found = judge(base, {"0": arm}).arms["0"]
    assert found.failures is not None
    assert found.failures.p == mcnemar_p(1, 10) < LEVEL
    assert found.word == "better"


def test_an_arm_that_is_worse_and_fails_more_often_is_worse() -> None:
    differences = -0.01 + 0.001 * np.random.default_rng(0).normal(size=(1, 14))
    differences[0, :7] = math.nan
    found = judge(*runs(differences, {"0": range(7)})).arms["0"]
    assert found.word == "worse"
    assert found.failures is not None


def test_an_arm_that_fails_more_often_is_not_alike_either() -> None:
    differences = 1e-5 * np.random.default_rng(0).normal(size=(1, 14))
    differences[0, :7] = math.nan
    assert judge(*runs(differences), margin=0.01).arms["0"].word == "no practical difference"
    assert judge(*runs(differences, {"0": range(7)}), margin=0.01).arms["0"].word == "unstable"


@pytest.mark.parametrize("failed", [[0], [0, 3], range(6)])
def test_an_arm_of_which_no_seed_is_left_is_unstable(failed: Sequence[int]) -> None:
    found = judge(Runs(dict.fromkeys(range(6), 0.5)), {"a": Runs({}, frozenset(failed))}).arms["a"]
    assert found.word == "unstable"
    assert found.n == 0
    assert found.failures is not None
    assert found.failures.seeds == tuple(failed)


def test_no_arm_with_significantly_more_failures_is_better() -> None:
    unstable = better = 0
    for number in range(120):
        rng = np.random.default_rng(number)
        differences = random_sweep(number, arms=2, n=16) + 0.015
        differences[rng.random((2, 16)) < rng.choice([0.0, 0.2, 0.45], (2, 1))] = math.nan
        failed = {str(arm): np.flatnonzero(np.isnan(row)).tolist() for arm, row in enumerate(differences)}
        for name, arm in judge(*runs(differences, failed), with_exact=False, margin=0.01).arms.items():
            count = len(failed[name])  # none of the baseline
            if count and stats.binomtest(count, count).pvalue < LEVEL:
                assert arm.word in ("unstable", "worse")
            else:
                assert arm.word != "unstable"
            assert (arm.failures is None) == (count == 0)
            unstable += arm.word == "unstable"
            better += arm.word == "better"
    assert unstable > 10
    assert better > 10


def test_the_standing_plan_is_one_look_at_the_whole_level() -> None:
    differences = random_sweep(1, arms=2)
    seeds = frozenset(range(differences.shape[1]))
    declared = judged(differences, Plan((seeds,), (1.0,), 2))
    assert (ONE_LOOK.looks, ONE_LOOK.shares, ONE_LOOK.num_arms) == ((None,), (1.0,), None)
    assert not declared.one_look
    assert list(map(repr, declared.arms.values())) == list(map(repr, judged(differences).arms.values()))
