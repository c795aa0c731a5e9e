"""scripts/simulate_false_alarms.py, and through it how often the words are wrong."""

import math

import numpy as np
import pytest
from simulate_false_alarms import (
    CASES,
    LOOKS,
    NOISES,
    Rates,
    crossing_rate,
    judged,
    looked_at_until_a_word_comes,
    plan_of_looks,
    print_table,
    rates,
    same_noise,
)

from focalbench.statistics.verdict import ONE_LOOK

PAIR = math.sqrt(2)
"""sd of the difference of two arms whose noise has sd 1."""


def above(share: float, sweeps: int) -> float:
    """``share`` and three standard errors."""
    return share + 3 * math.sqrt(share * (1 - share) / sweeps)


def noise(arms: int, seeds: int, sweeps: int, kind: str = "normal") -> np.ndarray:
    return same_noise(np.random.default_rng(10 * arms + seeds), kind, sweeps, arms, seeds)


def test_two_standard_deviations_are_found_among_nine_arms() -> None:
    found = rates(noise(9, 6, 300), truth=2.0)
    assert found.first >= 0.78
    assert found.first <= found.alarms


def test_half_the_size_is_found_less_often() -> None:
    assert 0.1 < rates(noise(9, 6, 200), truth=1.0).first < 0.35


def test_false_alarms_of_one_look_are_rare_but_the_rule_still_speaks() -> None:
    found = rates(noise(4, 6, 1000))
    assert 0.01 < found.alarms <= above(0.05, 1000)
    assert found.covered >= 1 - above(0.05, 1000)


@pytest.mark.parametrize("arms", [1, 4])
def test_arms_that_do_not_differ_are_called_alike_and_hardly_ever_different(arms: int) -> None:
    differences = PAIR * noise(arms, 20, 200)  # points: arm and baseline scatter by 1 each
    found = rates(differences, plan_of_looks(arms), margin=1.0)
    assert found.alarms <= above(0.05, 200)
    assert found.alike > 0.5
    assert found.covered >= 1 - above(0.05, 200)
    assert (arms + 1) * 6 < found.trainings < (arms + 1) * 20


def test_who_looks_until_a_word_comes_is_wrong_more_often_than_promised() -> None:
    differences = noise(1, 20, 250)
    peeking = looked_at_until_a_word_comes(differences, LOOKS)
    assert peeking > above(0.05, 250)
    assert looked_at_until_a_word_comes(differences, LOOKS[-1:]) <= above(0.05, 250)
    assert rates(differences, plan_of_looks(1)).alarms <= above(0.05, 250)


def test_rates_by_hand() -> None:
    still = np.zeros((2, 3, 6))
    assert rates(still.copy(), margin=0.1) == Rates(0.0, 0.0, 1.0, 1.0, 24.0)
    assert rates(still.copy(), truth=1.0, margin=0.1) == Rates(1.0, 1.0, pytest.approx(2 / 3), 1.0, 24.0)
    longer = np.zeros((2, 3, 20))
    assert rates(longer, plan_of_looks(3), margin=0.1).trainings == 24.0  # all are alike at the first look
    assert rates(longer, ONE_LOOK, margin=0.1).trainings == 80.0


def test_a_decided_baseline_goes_on_as_long_as_one_arm_does() -> None:
    sweep = np.zeros((1, 2, 20))
    sweep[0, 1] = np.resize([1.0, -1.0], 20)
    assert rates(sweep, plan_of_looks(2), margin=0.1).trainings == 6 + 20 + 20


@pytest.mark.parametrize("kind", NOISES)
def test_noise_is_paired_and_of_one_size(kind: str) -> None:
    differences = noise(2, 10, 3000, kind)
    assert differences.shape == (3000, 2, 10)
    assert differences.mean() == pytest.approx(0, abs=0.05)
    assert differences.std() == pytest.approx(1, abs=0.1)
    a, b = differences.transpose(1, 0, 2).reshape(2, -1)
    assert np.corrcoef(a, b)[0, 1] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("case", CASES)
def test_in_the_difficult_cases_no_arm_differs_either(case: str) -> None:
    differences = CASES[case](np.random.default_rng(0), 4000, 3, 10)
    assert differences.shape == (4000, 3, 10)
    scale = differences.std(axis=(0, 2))
    assert differences.mean(axis=(0, 2)) / scale == pytest.approx([0] * 3, abs=0.03)


def test_one_diverging_seed_in_ten_breaks_the_level() -> None:
    differences = CASES["arms lose 8 sd in 1 seed of 10, baseline quiet"](np.random.default_rng(1), 400, 1, 10)
    assert rates(differences).alarms > above(0.05, 400)


def test_walks_cross_in_one_of_twenty() -> None:
    assert crossing_rate(100_000) == pytest.approx(0.05, abs=0.002)
    assert crossing_rate(1000) == crossing_rate(1000)


def test_a_sweep_is_judged_by_the_code_that_judges_real_ones() -> None:
    found = judged(np.array([[1.0, 1.1, 0.9, 1.0, 1.1, 0.9], [0.0] * 6]), margin=0.5).arms
    assert [arm.word for arm in found.values()] == ["better", "no practical difference"]
    assert math.isnan(found["0"].p_exact)


def test_tables_are_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Title", iter([{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]))
    assert capsys.readouterr().out == "\n### Title\n\n| a | b |\n|---|---|\n| 1 | x |\n| 2 | y |\n"
