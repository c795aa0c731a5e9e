"""focalbench/statistics/failures.py against scipy."""

import pytest
from scipy import stats

from focalbench.statistics.failures import count_failures, mcnemar_p, share_interval


@pytest.mark.parametrize("n", [1, 2, 6, 12, 20])
def test_the_share_that_fails_has_scipys_exact_interval(n: int) -> None:
    for count in range(n + 1):
        expected = stats.binomtest(count, n).proportion_ci(confidence_level=0.95, method="exact")
        assert share_interval(count, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_of_no_seed_any_share_is_possible() -> None:
    assert share_interval(0, 0) == (0.0, 1.0)


def test_six_of_twelve_reads_as_the_specification_says() -> None:
    low, high = share_interval(6, 12)
    assert (round(100 * low), round(100 * high)) == (21, 79)


def test_mcnemars_p_is_the_binomial_tests_for_one_half() -> None:
    for alone in range(11):
        for other in range(11):
            expected = stats.binomtest(alone, alone + other).pvalue if alone + other > 0 else 1.0
            assert mcnemar_p(alone, other) == pytest.approx(expected, rel=1e-9)


def test_only_from_six_on_can_failures_of_one_arm_alone_be_significant() -> None:
    assert mcnemar_p(6, 0) < 0.05 < mcnemar_p(5, 0)


def test_only_seeds_that_ended_in_both_are_compared() -> None:
    found = count_failures({0, 1, 2, 3, 8, 9}, set(range(10)), {2, 3, 20}, {0, 1, 2, 3, 4, 5, 20})
    assert found.seeds == (0, 1, 2, 3, 8, 9)
    assert found.n == 10
    assert found.interval == share_interval(6, 10)
    assert found.p == mcnemar_p(2, 0) == 0.5  # seeds 0 and 1: 2 and 3 failed in both, 8, 9 and 20 ended in one alone
    assert found.more_than_baseline


def test_a_baseline_that_fails_more_often_is_told_from_an_arm_that_does() -> None:
    every = set(range(8))
    arm, baseline = {0}, {1, 2, 3}
    worse, better = count_failures(baseline, every, arm, every), count_failures(arm, every, baseline, every)
    assert worse.p == better.p == mcnemar_p(3, 1)
    assert worse.more_than_baseline
    assert not better.more_than_baseline


def test_equally_many_failures_are_not_more() -> None:
    found = count_failures({0, 1}, set(range(6)), {1, 2}, set(range(6)))
    assert found.p == 1.0
    assert not found.more_than_baseline


def test_nothing_that_ended_says_nothing() -> None:
    found = count_failures(set(), set(), set(), set())
    assert (found.seeds, found.n, found.interval, found.p) == ((), 0, (0.0, 1.0), 1.0)
    assert not found.more_than_baseline
