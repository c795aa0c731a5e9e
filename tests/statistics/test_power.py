"""focalbench/statistics/power.py against simulation, and its functions against each other."""

import math

import numpy as np
import pytest
from scipy import stats

from focalbench.statistics.power import (
    WANTED_POWER,
    detectable_difference,
    mean_when_found,
    power,
    seeds_needed,
)

SIMULATED = 40_000


def simulated(shift: float, df: float, level: float) -> tuple[float, float]:
    """The share of t tests that find ``shift`` standard errors, and what the mean reads in those with its sign."""
    rng = np.random.default_rng(round(1000 * shift + df))
    mean = rng.normal(shift, 1, SIMULATED)
    t = mean / np.sqrt(rng.chisquare(df, SIMULATED) / df)
    found = np.abs(t) > stats.t.isf(level / 2, df)
    return float(found.mean()), float(mean[found & (t > 0)].mean())


@pytest.mark.parametrize(
    ("shift", "df", "level"), [(2.5, 5, 0.05), (4.0, 5, 0.05 / 9), (3.0, 17.3, 0.0125), (1, 9, 0.2)]
)
def test_power_is_the_share_of_simulated_tests(shift: float, df: float, level: float) -> None:
    assert power(shift, df, level=level) == pytest.approx(simulated(shift, df, level)[0], abs=0.012)
    assert power(-shift, df, level=level) == pytest.approx(power(shift, df, level=level), rel=1e-9)


def test_power_of_a_paired_t_test_by_simulation() -> None:
    p = stats.ttest_1samp(np.random.default_rng(0).normal(0.9, 1, (20_000, 8)), 0, axis=1).pvalue
    assert power(0.9 * math.sqrt(8), 7, level=0.04) == pytest.approx(np.mean(p < 0.04), abs=0.015)


def test_power_is_a_probability_that_rises_from_the_level_to_one() -> None:
    for df in (5, 11, 45.5):
        for arms in (1, 4, 9, 40):
            found = [power(shift, df, level=0.05 / arms) for shift in np.linspace(0, 60, 90)]
            assert found[0] == pytest.approx(0.05 / arms, abs=1e-6)
            assert (np.diff(found) > -1e-6).all()
            assert found[-1] == 1.0


@pytest.mark.parametrize("arms", [1, 9, 15, 19, 25, 37])
@pytest.mark.parametrize("df", [5.0, 17.3])
def test_the_detectable_difference_has_the_power_it_says(arms: int, df: float) -> None:
    level = 0.05 / arms
    found = detectable_difference(0.004, df, level=level)
    assert power(found / 0.004, df, level=level) == pytest.approx(WANTED_POWER, abs=1e-6)


def test_half_of_the_detectable_difference_is_found_far_less_often() -> None:
    half = detectable_difference(1, 5, level=0.05) / 2
    assert 0.2 < power(half, 5, level=0.05) < 0.4


def test_what_does_not_scatter_is_found_at_any_size() -> None:
    assert detectable_difference(0.0, 5, level=0.05) == 0.0


@pytest.mark.parametrize(("df", "nu", "level"), [(5, 5, 0.05), (23.4, 5, 0.05 / 9), (18, 11, 0.0125)])
def test_the_seeds_needed_are_the_fewest_with_that_power(df: float, nu: float, level: float) -> None:
    variance = 0.012**2
    found = seeds_needed(0.01, variance, df, nu=nu, num_arms=3, level=level, least=2)

    def of(n: int) -> float:
        return power(0.01 / math.sqrt(variance / n), (n - 1) * df / nu, level=level)

    assert found.n is not None
    assert of(found.n) >= WANTED_POWER > of(found.n - 1)
    assert (found.difference, found.num_arms) == (0.01, 3)


def test_their_interval_is_that_of_the_spread() -> None:
    variance, df = 0.012**2, 20.0
    found = seeds_needed(0.01, variance, df, nu=5, num_arms=4, level=0.05, least=2)
    low, high = (variance * df / stats.chi2.isf(tail, df) for tail in (0.025, 0.975))
    ends = [seeds_needed(0.01, of, df, nu=5, num_arms=4, level=0.05, least=2).n for of in (low, high)]
    assert [found.low, found.high] == ends
    assert found.low is not None
    assert found.n is not None
    assert found.high is not None
    assert found.low < found.n < found.high


def test_the_interval_contains_the_number_and_narrows_with_the_arms() -> None:
    widths = []
    for df in (5.0, 20.0, 60.0):
        found = seeds_needed(0.01, 0.01**2, df, nu=5, num_arms=9, level=0.05, least=6)
        assert found.low is not None
        assert found.n is not None
        assert found.high is not None
        assert 6 <= found.low <= found.n <= found.high
        widths.append(found.high / found.low)
    assert widths == sorted(widths, reverse=True)


def test_never_fewer_seeds_than_a_claim_takes() -> None:
    for variance in (0.0, 1e-12):
        found = seeds_needed(0.01, variance, 5, nu=5, num_arms=1, level=0.05, least=6)
        assert (found.low, found.n, found.high) == (6, 6, 6)


def test_beyond_ten_thousand_there_is_no_number() -> None:
    nothing = seeds_needed(0.01, 1e4, 5, nu=5, num_arms=1, level=0.05, least=6)
    assert (nothing.low, nothing.n, nothing.high) == (None, None, None)
    # 0.8 power takes about 7.85 variances / difference^2.
    nearly = seeds_needed(0.01, 1e-4 * 9_000 / 7.85, 5, nu=5, num_arms=1, level=0.05, least=6)
    assert nearly.low is not None
    assert nearly.n == pytest.approx(9_000, rel=0.01)
    assert nearly.high is None


def test_a_claim_that_just_made_it_is_exaggerated_as_the_specification_says() -> None:
    se = 0.015 / math.sqrt(6)
    found = mean_when_found(0.01, se, 5, level=0.05)
    assert 0.0155 < found < 0.0185
    assert found == pytest.approx(se * simulated(0.01 / se, 5, 0.05)[1], rel=0.02)


@pytest.mark.parametrize(("shift", "df", "level"), [(1.0, 5, 0.05), (2.5, 17.3, 0.05 / 9), (4.0, 11, 0.05)])
def test_the_mean_when_found_is_that_of_simulated_tests(shift: float, df: float, level: float) -> None:
    assert mean_when_found(shift, 1.0, df, level=level) == pytest.approx(simulated(shift, df, level)[1], rel=0.03)


def test_what_is_always_found_is_not_exaggerated() -> None:
    assert mean_when_found(0.5, 0.01, 5, level=0.05) == pytest.approx(0.5, rel=1e-6)
