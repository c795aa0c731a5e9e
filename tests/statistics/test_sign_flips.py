"""focalbench/statistics/sign_flips.py against scipy, against brute force, and against exact counts of sums."""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from focalbench.statistics import sign_flips
from focalbench.statistics.sign_flips import joint_sign_flip_p, smallest_sign_flip_p

Floats = NDArray[np.float64]


def sweep(arms: int, n: int, seed: int = 0) -> Floats:
    """Differences to one baseline; the first arms differ from it most."""
    rng = np.random.default_rng(100 * arms + n + seed)
    values = rng.normal(size=(arms + 1, n))
    return values[1:] - values[0] + np.linspace(2, 0, arms)[:, None]


def by_brute_force(differences: Floats) -> list[float]:
    """The step-down maximum test over all patterns, in loops."""
    values = np.nan_to_num(differences)
    counts = np.isfinite(differences).sum(axis=1)

    def statistics(signs: tuple[int, ...]) -> list[float]:
        scale = [math.sqrt(n * (row @ row)) for n, row in zip(counts, values, strict=True)]
        return [abs(float(row @ np.array(signs))) / of for row, of in zip(values, scale, strict=True)]

    observed = statistics((1,) * values.shape[1])
    flipped = [statistics(signs) for signs in itertools.product((1, -1), repeat=values.shape[1])]
    left, running, found = sorted(range(len(values)), key=lambda arm: -observed[arm]), 0.0, [0.0] * len(values)
    while left:
        at_least = sum(max(of[arm] for arm in left) >= observed[left[0]] - 1e-9 for of in flipped)
        running = max(running, at_least / len(flipped))
        found[left.pop(0)] = running
    return found


@pytest.mark.parametrize("n", [2, 3, 6, 9])
def test_one_arm_equals_scipys_permutation_test(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.4, 1, n)
    expected = stats.permutation_test(
        (differences,), lambda x, axis: np.abs(x.mean(axis=axis)), permutation_type="samples",
        n_resamples=np.inf, alternative="greater", vectorized=True,
    )  # fmt: skip
    assert joint_sign_flip_p(differences[None])[0] == pytest.approx(expected.pvalue, rel=1e-12)


@pytest.mark.parametrize(("arms", "n"), [(2, 6), (3, 5), (4, 7), (6, 6)])
def test_several_arms_equal_a_step_down_over_all_patterns(arms: int, n: int) -> None:
    for seed in range(3):
        differences = sweep(arms, n, seed)
        assert joint_sign_flip_p(differences) == pytest.approx(by_brute_force(differences), rel=1e-12)


def test_missing_pairs_count_for_nothing() -> None:
    differences = sweep(4, 7)
    differences[0, 2] = differences[1, 5] = differences[1, 6] = math.nan
    assert joint_sign_flip_p(differences) == pytest.approx(by_brute_force(differences), rel=1e-12)
    alone = joint_sign_flip_p(differences[1:2])
    assert alone == pytest.approx(joint_sign_flip_p(differences[1:2, :5]), rel=1e-12)


@pytest.mark.parametrize("arms", [2, 5, 9])
def test_the_corrected_p_is_never_below_the_arms_own(arms: int) -> None:
    for seed in range(5):
        differences = sweep(arms, 8, seed)
        found = joint_sign_flip_p(differences)
        own = np.array([joint_sign_flip_p(row[None])[0] for row in differences])
        assert (found >= own).all()
        assert (found <= np.minimum(1, arms * own.max())).all()


def test_copies_of_one_arm_cost_nothing() -> None:
    one = sweep(1, 8)
    assert joint_sign_flip_p(np.repeat(one, 5, axis=0)).tolist() == joint_sign_flip_p(one).tolist() * 5


@pytest.mark.parametrize("arms", [1, 3, 9])
def test_the_least_p_is_reached_when_all_seeds_agree(arms: int) -> None:
    for n in range(1, 10):
        differences = np.linspace(1, 1.5, arms)[:, None] * np.linspace(1, 2, n)
        assert joint_sign_flip_p(differences).tolist() == [smallest_sign_flip_p(n)] * arms
        assert joint_sign_flip_p(sweep(arms, n)).min() >= 2 / 2**n * (n > 0)


def test_six_seeds_are_the_fewest_that_can_show_a_difference() -> None:
    assert smallest_sign_flip_p(1) == smallest_sign_flip_p(0) == 1.0
    assert smallest_sign_flip_p(6) == 2 / 2**6 < 0.05 < smallest_sign_flip_p(5)


@pytest.mark.parametrize("unit", [1.0, 0.1, 0.7])
def test_ties_count_whatever_their_rounding(unit: float) -> None:
    whole = np.array([[1, 2, -3, 3, 0, 2]])
    observed = abs(int(whole.sum()))
    sums = [abs(int(whole[0] @ np.array(signs))) for signs in itertools.product((1, -1), repeat=6)]
    assert joint_sign_flip_p(whole * unit)[0] == sum(total >= observed for total in sums) / 64


def test_no_difference_gives_one() -> None:
    assert joint_sign_flip_p(np.zeros((1, 6))).tolist() == [1.0]
    assert joint_sign_flip_p(np.zeros((3, 6))).tolist() == [1.0] * 3
    assert joint_sign_flip_p(np.full((2, 6), math.nan)).tolist() == [1.0] * 2


def test_an_arm_without_difference_does_not_disturb_the_others() -> None:
    differences = sweep(3, 7)
    with_none = joint_sign_flip_p(np.vstack([differences, np.zeros((1, 7))]))
    assert with_none[:3].tolist() == joint_sign_flip_p(differences).tolist()
    assert with_none[3] == 1.0


def test_drawn_patterns_come_close_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = sweep(5, 12) * 0.5
    exact = joint_sign_flip_p(differences)
    monkeypatch.setattr(sign_flips, "_MOST_STATISTICS", 0)
    drawn = joint_sign_flip_p(differences)
    assert drawn.tolist() != exact.tolist()
    assert drawn == pytest.approx(exact, abs=0.01)
    assert (exact > 0.01).any()
    assert drawn.tolist() == joint_sign_flip_p(differences).tolist()


def test_drawn_patterns_never_give_zero() -> None:
    found = joint_sign_flip_p(np.linspace(1, 2, 40)[None])[0]
    assert 0 < found < 1e-4


def test_many_seeds_agree_with_the_exact_count_of_sums() -> None:
    whole = np.random.default_rng(2).integers(-3, 6, 40)
    sums = {0: 1}
    for value in whole.tolist():
        grown: dict[int, int] = {}
        for total, ways in sums.items():
            for after in (total - value, total + value):
                grown[after] = grown.get(after, 0) + ways
        sums = grown
    observed = abs(int(whole.sum()))
    exact = sum(ways for total, ways in sums.items() if abs(total) >= observed) / 2**40
    assert 0 < exact < 0.5
    assert joint_sign_flip_p(np.array([whole, whole], float)) == pytest.approx([exact] * 2, abs=0.005)
