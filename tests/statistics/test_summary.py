"""focalbench/statistics/summary.py against scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from focalbench.statistics.summary import CONFIDENCE, correlation, summarise, t_half_width, t_interval


@pytest.mark.parametrize("n", [2, 3, 6, 40])
def test_mean_spread_and_interval_equal_scipys(n: int) -> None:
    values = np.random.default_rng(n).normal(0.7, 0.01, n)
    expected = stats.ttest_1samp(values, 0).confidence_interval(CONFIDENCE)
    assert t_interval(values) == pytest.approx((expected.low, expected.high), rel=1e-12)
    found = summarise(values)
    assert found.n == n
    assert found.mean == pytest.approx(stats.tmean(values), rel=1e-12)
    assert found.sd == pytest.approx(stats.tstd(values), rel=1e-12)


def test_a_list_of_numbers_is_as_good_as_an_array() -> None:
    assert summarise([1, 2, 3, 4]) == summarise(np.array([1.0, 2.0, 3.0, 4.0]))
    assert summarise([1, 2, 3, 4]).mean == 2.5


def test_of_no_value_nothing_is_known_and_of_one_no_spread() -> None:
    none, one = summarise([]), summarise([0.7])
    assert none.n == 0
    assert math.isnan(none.mean)
    assert math.isnan(none.sd)
    assert (one.n, one.mean) == (1, 0.7)
    assert math.isnan(one.sd)
    for values in ([], [0.7]):
        assert all(math.isnan(end) for end in t_interval(np.array(values)))


def test_half_widths_are_over_the_first_axis() -> None:
    values = np.random.default_rng(0).normal(size=(5, 3, 2))
    found = t_half_width(values)
    assert found.shape == (3, 2)
    for place in np.ndindex(3, 2):
        interval = stats.ttest_1samp(values[:, *place], 0).confidence_interval(CONFIDENCE)
        assert found[place] == pytest.approx((interval.high - interval.low) / 2, rel=1e-12)


def test_one_curve_has_no_band() -> None:
    found = t_half_width(np.zeros((1, 4)))
    assert found.shape == (4,)
    assert np.isnan(found).all()


@pytest.mark.parametrize("n", [2, 3, 6, 40])
def test_correlation_is_pearsons(n: int) -> None:
    a, b = np.random.default_rng(n).normal(size=(2, n))
    assert correlation(a, b) == pytest.approx(stats.pearsonr(a, b).statistic, abs=1e-12)
    assert correlation(a.tolist(), b.tolist()) == correlation(a, b) == correlation(b, a)


def test_correlation_of_ranks_is_spearmans() -> None:
    a, b = np.random.default_rng(8).normal(size=(2, 12))
    assert correlation(stats.rankdata(a), stats.rankdata(b)) == pytest.approx(stats.spearmanr(a, b).statistic)


@pytest.mark.parametrize("constant", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("n", [1, 3, 6, 10])
def test_what_does_not_vary_correlates_with_nothing(constant: float, n: int) -> None:
    varied = list(np.random.default_rng(n).normal(size=n))
    same = [constant] * n
    assert math.isnan(correlation(same, varied))
    assert math.isnan(correlation(varied, same))
    assert math.isnan(correlation(same, same))


def test_no_values_correlate_with_nothing() -> None:
    assert math.isnan(correlation([], []))


def test_lists_of_two_lengths_do_not_correlate() -> None:
    with pytest.raises(ValueError):
        correlation([1, 2, 3], [1, 2])
