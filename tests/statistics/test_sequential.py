"""focalbench/statistics/sequential.py: the specification's table, scipy's normal distribution, and random walks."""

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from focalbench.statistics.sequential import nominal_levels

SIZES = (6, 8, 10, 12, 16, 20)
SHARES = tuple(size / 20 for size in SIZES)
TABLE = {
    1: (0.01500, 0.01065, 0.01144, 0.01273, 0.01896, 0.02276),
    2: (0.00750, 0.00502, 0.00532, 0.00587, 0.00882, 0.01047),
    3: (0.00500, 0.00324, 0.00341, 0.00375, 0.00566, 0.00669),
    4: (0.00375, 0.00238, 0.00250, 0.00274, 0.00414, 0.00488),
    9: (0.00167, 0.00100, 0.00104, 0.00113, 0.00173, 0.00202),
}
WALKS = 400_000


@cache
def walks(sizes: tuple[int, ...]) -> NDArray[np.float64]:
    """|sum| / sqrt(size) of walks without drift, (looks, walks)."""
    rng = np.random.default_rng(11)
    steps = np.diff((0, *sizes))
    sums = np.cumsum(np.sqrt(steps)[:, None] * rng.normal(size=(len(sizes), WALKS)), axis=0)
    return np.abs(sums) / np.sqrt(sizes)[:, None]


def first_crossings(sizes: tuple[int, ...], levels: tuple[float, ...]) -> list[float]:
    """The share of walks whose first look below its level is each look."""
    going = np.ones(WALKS, bool)
    found = []
    for z, level in zip(walks(sizes), levels, strict=True):
        crossed = going & (z > stats.norm.isf(level / 2))
        found.append(float(crossed.mean()))
        going &= ~crossed
    return found


@pytest.mark.parametrize("arms", TABLE)
def test_levels_are_the_specifications_table(arms: int) -> None:
    assert nominal_levels(SIZES, SHARES, 0.05 / arms) == pytest.approx(TABLE[arms], abs=1e-5)


def test_levels_of_the_equivalence_word_are_the_specifications_row() -> None:
    row = (0.01500, 0.01138, 0.01242, 0.01398, 0.02067, 0.02513)
    assert [level / 2 for level in nominal_levels(SIZES, SHARES, 0.10)] == pytest.approx(row, abs=1e-5)


@pytest.mark.parametrize("arms", range(1, 11))
def test_all_looks_together_keep_the_level_and_each_spends_its_share(arms: int) -> None:
    level = 0.05 / arms
    found = first_crossings(SIZES, nominal_levels(SIZES, SHARES, level))
    assert sum(found) == pytest.approx(level, abs=4.5 * np.sqrt(level / WALKS))
    if arms == 1:
        assert abs(sum(found) - 0.05) < 0.002
    for share, spent in zip(np.diff((0.0, *SHARES)), found, strict=True):
        assert spent == pytest.approx(share * level, abs=4.5 * np.sqrt(share * level / WALKS))


@pytest.mark.parametrize(
    ("sizes", "shares"),
    [((5, 7, 10, 15, 19), SHARES[1:]), ((6, 7, 100), (0.1, 0.9, 1.0)), ((6, 8), (0.3, 0.4))],
)
def test_other_sizes_and_shares_are_spent_as_well(sizes: tuple[int, ...], shares: tuple[float, ...]) -> None:
    found = first_crossings(sizes, nominal_levels(sizes, shares, 0.05))
    for share, spent in zip(np.diff((0.0, *shares)), found, strict=True):
        assert spent == pytest.approx(share * 0.05, abs=4.5 * np.sqrt(share * 0.05 / WALKS))


@pytest.mark.parametrize("looks", [2, 3])
@pytest.mark.parametrize("level", [0.10, 0.05, 0.05 / 4])
def test_the_first_looks_agree_with_scipys_normal_distribution(looks: int, level: float) -> None:
    sizes = np.array(SIZES[:looks])
    levels = nominal_levels(SIZES, SHARES, level)[:looks]
    bounds = stats.norm.isf(np.array(levels) / 2)
    covariance = np.sqrt(np.minimum.outer(sizes, sizes) / np.maximum.outer(sizes, sizes))
    inside = stats.multivariate_normal(cov=covariance).cdf(bounds, lower_limit=-bounds)
    assert 1 - inside == pytest.approx(SHARES[looks - 1] * level, abs=1e-5)


def test_the_levels_up_to_a_look_do_not_depend_on_those_after() -> None:
    every = nominal_levels(SIZES, SHARES, 0.05)
    for looks in range(1, len(SIZES)):
        assert nominal_levels(SIZES[:looks], SHARES[:looks], 0.05) == pytest.approx(every[:looks], rel=1e-9)


def test_one_look_has_the_level_itself() -> None:
    assert nominal_levels((6,), (1.0,), 0.05) == (0.05,)
    assert nominal_levels((20,), (0.5,), 0.05) == (0.025,)


def test_every_look_more_costs_level() -> None:
    last = []
    for looks in range(1, len(SIZES) + 1):
        levels = nominal_levels(SIZES[-looks:], SHARES[-looks:], 0.05)
        assert max(levels) <= 0.05
        last.append(levels[-1])
    assert (np.diff(last) < 0).all()


def test_a_higher_level_has_higher_levels_at_every_look() -> None:
    found = np.array([nominal_levels(SIZES, SHARES, 0.05 / arms) for arms in range(10, 0, -1)])
    assert (np.diff(found, axis=0) > 0).all()


def test_a_look_without_a_new_share_has_none_and_costs_the_others_none() -> None:
    found = nominal_levels((6, 8, 10), (0.3, 0.3, 1.0), 0.05)
    assert found[1] == 0.0
    assert (found[0], found[2]) == pytest.approx(nominal_levels((6, 10), (0.3, 1.0), 0.05), rel=1e-6)
    assert nominal_levels((6, 8), (0.0, 1.0), 0.05) == pytest.approx((0.0, 0.05), rel=1e-6)
