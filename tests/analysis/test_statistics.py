"""Paired statistics against scipy, against cases worked out by hand, and by simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from simulate_false_alarms import simulate_sweeps

from focalbench.analysis.statistics import (
    MIN_SEEDS,
    VERDICT_LEVEL,
    bootstrap_interval,
    detectable_difference,
    holm,
    paired_difference,
    paired_t_p,
    power,
    seeds_needed,
    sign_flip_p,
    smallest_sign_flip_p,
    summarise,
    t_interval,
    verdict,
)


@pytest.mark.parametrize("n", [2, 3, 6, 10])
def test_t_test_and_interval_equal_scipy(n: int) -> None:
    rng = np.random.default_rng(n)
    arm, baseline = rng.normal(0.72, 0.01, n), rng.normal(0.71, 0.01, n)
    expected = stats.ttest_rel(arm, baseline)
    interval = expected.confidence_interval(0.95)
    assert paired_t_p(arm - baseline) == pytest.approx(expected.pvalue, rel=1e-12)
    assert t_interval(arm - baseline) == pytest.approx((interval.low, interval.high), rel=1e-12)


@pytest.mark.parametrize("n", [2, 3, 6, 9])
def test_sign_flip_equals_scipy(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.4, 1, n)
    expected = stats.permutation_test(
        (differences,), lambda x, axis: np.abs(x.mean(axis=axis)), permutation_type="samples",
        n_resamples=np.inf, alternative="greater", vectorized=True,
    )  # fmt: skip
    assert sign_flip_p(differences) == pytest.approx(expected.pvalue, rel=1e-12)


def test_sign_flip_counts_ties_whatever_their_rounding() -> None:
    differences = np.array([0.1, 0.2, -0.3, 0.3])
    observed = abs(sum([1, 2, -3, 3]))
    sums = [abs(a + 2 * b + 3 * c + 3 * d) for a, b, c, d in itertools.product((1, -1), repeat=4)]
    assert sign_flip_p(differences) == sum(total >= observed for total in sums) / 16


def test_smallest_p_is_reached_when_all_seeds_agree() -> None:
    for n in range(1, 12):
        assert sign_flip_p(np.linspace(1, 2, n)) == smallest_sign_flip_p(n)
    assert smallest_sign_flip_p(3) == 0.25
    assert smallest_sign_flip_p(MIN_SEEDS) < 0.05 < smallest_sign_flip_p(MIN_SEEDS - 1)


def test_beyond_twenty_pairs_random_flips_come_close_to_t() -> None:
    differences = np.random.default_rng(2).normal(0.3, 1, 40)
    assert sign_flip_p(differences) == pytest.approx(paired_t_p(differences), abs=0.01)


def test_differences_that_do_not_vary() -> None:
    assert paired_t_p(np.zeros(6)) == 1.0
    assert sign_flip_p(np.zeros(6)) == 1.0
    assert paired_t_p(np.full(6, 0.01)) == 0.0
    same = paired_difference([0.5] * 6, [0.5] * 6)
    assert verdict(same.n, same.difference, same.p_t) == "no difference shown"


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    with_unknown = holm([math.nan, 0.02, 0.03])
    assert math.isnan(with_unknown[0])
    assert with_unknown[1:] == [0.04, 0.04]


def test_bootstrap_interval_equals_scipys_and_repeats() -> None:
    differences = np.random.default_rng(4).normal(0.5, 1, 12)
    expected = stats.bootstrap(
        (differences,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval
    interval = bootstrap_interval(differences)
    assert interval == pytest.approx((expected.low, expected.high), abs=0.03)
    assert bootstrap_interval(differences) == interval


def test_power_by_simulation() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(0.9, 1, (20_000, 8))
    p = stats.ttest_1samp(draws, 0, axis=1).pvalue
    assert power(0.9, 1.0, 8, level=0.04) == pytest.approx(np.mean(p < 0.04), abs=0.015)


def test_detectable_difference_and_seeds_invert_power() -> None:
    difference = detectable_difference(0.005, 6)
    assert power(difference, 0.005, 6) == pytest.approx(0.8, abs=1e-6)
    needed = seeds_needed(0.012, 0.01)
    assert needed is not None
    assert power(0.01, 0.012, needed) >= 0.8 > power(0.01, 0.012, needed - 1)
    assert seeds_needed(1e-4, 0.01) == MIN_SEEDS
    assert seeds_needed(0.0, 0.01) == MIN_SEEDS
    assert seeds_needed(math.nan, 0.01) is None
    assert seeds_needed(10.0, 0.01) is None


def test_more_comparisons_need_more() -> None:
    arm, baseline = [0.71, 0.73, 0.72, 0.74, 0.70, 0.72], [0.70, 0.71, 0.72, 0.72, 0.69, 0.70]
    one, seven = paired_difference(arm, baseline), paired_difference(arm, baseline, num_comparisons=7)
    assert one.difference == seven.difference == pytest.approx(np.mean(np.subtract(arm, baseline)))
    assert seven.detectable > one.detectable
    assert one.sd == pytest.approx(np.std(np.subtract(arm, baseline), ddof=1))


def test_one_pair_has_no_spread() -> None:
    single = paired_difference([0.7], [0.6])
    assert single.difference == pytest.approx(0.1)
    assert all(math.isnan(value) for value in (single.sd, single.p_t, *single.ci, *single.ci_bootstrap))
    assert single.seeds_for_one_point is None
    assert summarise([]).n == 0


@pytest.mark.parametrize(
    ("n", "difference", "p", "direction", "words"),
    [
        (1, 0.3, math.nan, "higher", "one seed: no claim"),
        (3, 0.3, 0.001, "higher", "not enough seeds"),
        (5, 0.3, 0.001, "higher", "not enough seeds"),
        (6, 0.3, 0.001, "higher", "better"),
        (6, -0.3, 0.001, "higher", "worse"),
        (6, -0.3, 0.001, "lower", "better"),
        (6, 0.3, 0.001, "lower", "worse"),
        (6, 0.3, 0.001, "none", "higher"),
        (6, -0.3, 0.001, "none", "lower"),
        (6, 0.3, VERDICT_LEVEL, "higher", "no difference shown"),
        (6, 0.3, math.nan, "higher", "no difference shown"),
        (6, 0.0, 0.0, "higher", "no difference shown"),
    ],
)
def test_words(n: int, difference: float, p: float, direction: str, words: str) -> None:
    assert verdict(n, difference, p, direction) == words  # type: ignore[arg-type]


@pytest.mark.parametrize(("arm", "baseline"), [([], []), ([0.1], [0.1, 0.2]), ([0.1, math.nan], [0.1, 0.2])])
def test_unusable_values_are_refused(arm: list[float], baseline: list[float]) -> None:
    with pytest.raises(ValueError, match=r"one length|finite"):
        paired_difference(arm, baseline)


@pytest.mark.parametrize("noise", ["normal", "two peaks"])
@pytest.mark.parametrize("num_arms", [1, 3])
def test_false_alarms_are_rare(num_arms: int, noise: str) -> None:
    rates = simulate_sweeps(num_sweeps=2000, num_seeds=6, num_arms=num_arms, noise=noise)
    assert rates.any_claim["verdict"] <= 0.05
    assert rates.any_claim["verdict"] > 0.01  # the rule still speaks


def test_without_correction_false_alarms_are_not_rare() -> None:
    assert simulate_sweeps(num_sweeps=500, num_seeds=6, num_arms=7).any_claim["t"] > 0.1


def test_two_standard_deviations_are_found_in_most_sweeps() -> None:
    rates = simulate_sweeps(num_sweeps=1000, num_seeds=6, num_arms=1, effect_sd=2.0)
    assert rates.first_found["verdict"] > 0.65


def test_power_is_a_probability_that_rises_and_the_detectable_difference_has_the_power_it_says():
    for n in (2, 3, 6, 12, 40):
        for comparisons in range(1, 41):
            level = 0.04 / comparisons
            found = [power(shift, 1.0, n, level=level) for shift in np.linspace(0, 12, 60)]
            assert np.isfinite(found).all()
            assert (np.diff(found) > -1e-6).all()
            assert found[0] == pytest.approx(level, abs=1e-6)
    for comparisons in (1, 9, 15, 19, 25, 37):
        level = 0.04 / comparisons
        smallest = detectable_difference(0.01, 6, level=level)
        assert power(smallest, 0.01, 6, level=level) == pytest.approx(0.8, abs=1e-6)
