"""focalbench/statistics/paired_tests.py against scipy, and against the specification's formulas in plain loops."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from focalbench.statistics.paired_tests import PairedTests, half_width, paired_t_tests

Floats = NDArray[np.float64]


def correlated(arms: int, n: int, seed: int = 0) -> Floats:
    """Differences as they come: all arms to one baseline, each with a mean and a spread of its own."""
    rng = np.random.default_rng(1000 * arms + n + seed)
    values = rng.normal(size=(arms + 1, n))
    return (values[1:] - values[0]) * rng.uniform(0.5, 2, (arms, 1)) + rng.normal(size=(arms, 1))


def with_gaps(differences: Floats) -> Floats:
    """The same without a few pairs, other ones in each arm."""
    found = differences.copy()
    for arm, row in enumerate(found):
        row[np.random.default_rng(arm).choice(len(row), arm % 3, replace=False)] = math.nan
    return found


def by_formula(differences: Floats) -> tuple[float, list[float], list[float], list[float]]:
    """pool, se, df and p of the specification for three arms or more and no missing pair, word by word."""
    arms, n = len(differences), len(differences[0])
    nu = n - 1
    means = [sum(row) / n for row in differences]
    variances = [sum((x - mean) ** 2 for x in row) / nu for row, mean in zip(differences, means, strict=True)]
    pool = sorted(variances)[arms // 2] if arms % 2 else sum(sorted(variances)[arms // 2 - 1 : arms // 2 + 1]) / 2
    pool /= stats.chi2.ppf(0.5, nu) / nu
    w = nu / (nu + 5)
    squares = [[stats.pearsonr(a, b).statistic ** 2 for b in differences] for a in differences]
    over_all = sum(sum(row) for row in squares) / arms**2
    se, df, p = [], [], []
    for arm in range(arms):
        s2 = w * variances[arm] + (1 - w) * pool
        own = w * variances[arm] / s2
        rest = 1 - own
        free = nu / (own**2 + 2 * own * rest * sum(squares[arm]) / arms + rest**2 * over_all)
        se.append(math.sqrt(s2 / n))
        df.append(min(max(free, nu), arms * nu))
        p.append(2 * stats.t.sf(abs(means[arm]) / se[-1], df[-1]))
    return pool, se, df, p


@pytest.mark.parametrize("arms", [1, 2])
@pytest.mark.parametrize("n", [2, 3, 6, 20])
def test_one_or_two_arms_are_scipys_paired_t_tests(arms: int, n: int) -> None:
    baseline, *others = np.random.default_rng(n).normal(0.7, 0.01, (arms + 1, n))
    found = paired_t_tests(np.array(others) - baseline)
    for place, arm in enumerate(others):
        expected = stats.ttest_rel(arm, baseline)
        interval = expected.confidence_interval(0.95)
        half = half_width(found.se[place], found.df[place], 0.05)
        assert found.p[place] == pytest.approx(expected.pvalue, rel=1e-9)
        assert found.df[place] == expected.df
        assert (found.mean[place] - half, found.mean[place] + half) == pytest.approx(tuple(interval), rel=1e-9)
        assert found.sd[place] == pytest.approx(np.std(arm - baseline, ddof=1), rel=1e-12)


@pytest.mark.parametrize("arms", [3, 4, 9])
@pytest.mark.parametrize("n", [2, 6, 20])
def test_three_arms_or_more_follow_the_specification(arms: int, n: int) -> None:
    differences = correlated(arms, n)
    found = paired_t_tests(differences)
    pool, se, df, p = by_formula(differences)
    assert found.pool == pytest.approx(pool, rel=1e-9)
    assert found.se == pytest.approx(se, rel=1e-9)
    assert found.df == pytest.approx(df, rel=1e-9)
    assert found.p == pytest.approx(p, rel=1e-9)


def test_the_order_of_arms_and_seeds_does_not_matter() -> None:
    differences = correlated(5, 7)
    found = paired_t_tests(differences)
    turned = paired_t_tests(differences[::-1, ::-1])
    assert turned.p[::-1] == pytest.approx(found.p, rel=1e-9)
    assert turned.df[::-1] == pytest.approx(found.df, rel=1e-9)


@pytest.mark.parametrize("factor", [1e-6, -3.0, 1e5])
def test_another_unit_changes_no_p(factor: float) -> None:
    differences = correlated(4, 6)
    found, scaled = paired_t_tests(differences), paired_t_tests(factor * differences)
    assert scaled.p == pytest.approx(found.p, rel=1e-9)
    assert scaled.df == pytest.approx(found.df, rel=1e-9)
    assert scaled.se == pytest.approx(abs(factor) * found.se, rel=1e-9)


@pytest.mark.parametrize("arms", [1, 2, 4, 9])
def test_an_arm_with_missing_pairs_goes_by_its_own(arms: int) -> None:
    differences = with_gaps(correlated(arms, 9))
    found = paired_t_tests(differences)
    variances, nu = np.empty(arms), np.empty(arms)
    for arm, row in enumerate(differences):
        own = row[~np.isnan(row)]
        assert found.n[arm] == len(own) == 9 - arm % 3
        assert found.mean[arm] == pytest.approx(own.mean(), rel=1e-12)
        assert found.sd[arm] == pytest.approx(own.std(ddof=1), rel=1e-12)
        variances[arm], nu[arm] = own.var(ddof=1), len(own) - 1
    if arms < 3:
        assert found.p == pytest.approx(stats.ttest_1samp(differences, 0, axis=1, nan_policy="omit").pvalue, rel=1e-9)
        return
    pool = np.median(variances / (stats.chi2.ppf(0.5, nu) / nu))
    weight = nu / (nu + 5)
    assert found.pool == pytest.approx(pool, rel=1e-9)
    assert found.se == pytest.approx(np.sqrt((weight * variances + (1 - weight) * pool) / (nu + 1)), rel=1e-9)
    assert (found.df >= nu).all()
    assert (found.df <= nu.sum()).all()


def test_seeds_that_no_arm_has_do_not_count() -> None:
    differences = with_gaps(correlated(4, 9))
    empty = np.full((4, 2), math.nan)
    found, padded = paired_t_tests(differences), paired_t_tests(np.hstack([empty, differences]))
    assert padded.p == pytest.approx(found.p, rel=1e-12)
    assert padded.df == pytest.approx(found.df, rel=1e-12)


@pytest.mark.parametrize("arms", [3, 4, 5, 9])
def test_one_wild_arm_does_not_change_what_the_others_borrow(arms: int) -> None:
    calm = correlated(arms, 6)
    widest = int(np.argmax(calm.var(axis=1)))
    wild = calm.copy()
    wild[widest] *= 1000
    others = np.arange(arms) != widest
    before, after = paired_t_tests(calm), paired_t_tests(wild)
    if arms % 2:
        assert after.pool == pytest.approx(before.pool, rel=1e-12)
        assert after.se[others] == pytest.approx(before.se[others], rel=1e-12)
    # Whichever arm it is, the pool stays among the others' variances.
    for arm in range(arms):
        wild = calm.copy()
        wild[arm] *= 1000
        rest = np.delete(calm, arm, axis=0).var(axis=1, ddof=1) / (stats.chi2.ppf(0.5, 5) / 5)
        if arms > 3 or arms % 2:
            assert rest.min() <= paired_t_tests(wild).pool * (1 + 1e-12) <= rest.max() * (1 + 1e-9)


@pytest.mark.parametrize("arms", [1, 2, 3, 6])
def test_copies_of_one_arm_know_no_more_than_that_arm(arms: int) -> None:
    one = correlated(1, 6)
    found = paired_t_tests(np.repeat(one, arms, axis=0))
    assert found.df == pytest.approx([5.0] * arms, rel=1e-9)
    assert found.pool_df == pytest.approx(5.0, rel=1e-9)


def test_arms_that_share_nothing_have_almost_all_degrees_of_freedom_together() -> None:
    n = 8  # the rows of a Hadamard matrix are of one spread and do not correlate
    rows = np.array([[(-1) ** bin(row & column).count("1") for column in range(n)] for row in range(1, 8)], float)
    found = paired_t_tests(rows)
    assert found.pool_df == pytest.approx(7 * 7)
    assert found.df == pytest.approx(by_formula(rows)[2], rel=1e-9)
    assert (found.df > 2 * 7).all()


@pytest.mark.parametrize("arms", [1, 2, 4])
def test_the_pool_has_between_an_arms_degrees_of_freedom_and_those_of_all(arms: int) -> None:
    found = paired_t_tests(correlated(arms, 6))
    assert 5 <= found.pool_df <= 5 * arms
    if arms < 3:
        assert found.pool == pytest.approx(np.mean(found.sd**2), rel=1e-12)


def all_finite(found: PairedTests) -> bool:
    return all(np.isfinite(of).all() for of in (found.mean, found.sd, found.se, found.df, found.p, found.pool))


@pytest.mark.parametrize("arms", [1, 2, 3, 5])
def test_nothing_that_scatters_gives_p_one_for_no_difference_and_zero_for_any(arms: int) -> None:
    none, some = paired_t_tests(np.zeros((arms, 6))), paired_t_tests(np.full((arms, 6), -0.01))
    assert none.p.tolist() == [1.0] * arms
    assert some.p.tolist() == [0.0] * arms
    assert some.se.tolist() == [0.0] * arms
    assert all_finite(none)
    assert all_finite(some)


def test_equal_differences_do_not_scatter_by_their_rounding() -> None:
    baseline = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    differences = np.array([0.113, 0.213, 0.313, 0.413, 0.513, 0.613]) - baseline
    assert len(set(differences)) > 1
    found = paired_t_tests(differences[None])
    assert (found.sd[0], found.p[0]) == (0.0, 0.0)


def test_one_arm_that_does_not_scatter_borrows_from_the_others() -> None:
    differences = correlated(4, 6)
    differences[2] = 0.0
    found = paired_t_tests(differences)
    assert found.sd[2] == 0.0
    assert found.se[2] == pytest.approx(math.sqrt(0.5 * found.pool / 6), rel=1e-12)
    assert found.p[2] == 1.0
    assert all_finite(found)


def test_fewer_than_two_pairs_are_refused() -> None:
    one = correlated(3, 6)
    one[1, 1:] = math.nan
    for differences in (one, np.zeros((2, 1)), np.zeros((0, 6)), np.full((1, 6), math.nan), np.zeros((2, 0))):
        with pytest.raises(ValueError, match="two pairs"):
            paired_t_tests(differences)


def test_half_the_width_is_the_t_quantile() -> None:
    assert half_width(0.3, 17.3, 0.0125) == pytest.approx(0.3 * stats.t.isf(0.0125 / 2, 17.3), rel=1e-12)
    assert half_width(0.0, 5, 0.05) == 0.0
