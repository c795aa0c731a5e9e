"""focalbench/statistics/expected.py."""

import numpy as np
import pytest
from simulate_false_alarms import plan_of_looks, rates, same_noise

from focalbench.statistics.expected import expected_trainings

LOOKS = (6, 8, 10, 12, 16, 20)


@pytest.mark.parametrize(("sd", "margin", "trainings"), [(0.010, 0.01, 62), (0.015, 0.02, 43)])
def test_four_arms_alike_take_what_the_specification_says(sd: float, margin: float, trainings: int) -> None:
    assert expected_trainings(4, LOOKS, margin=margin, sd=sd) == pytest.approx(trainings, rel=0.05)


def test_other_draws_say_the_same() -> None:
    values = same_noise(np.random.default_rng(5), "normal", 200, 2, 20)
    found = rates(values, plan_of_looks(2), margin=1.25).trainings
    assert expected_trainings(2, LOOKS, margin=1.25, sd=1.0) == pytest.approx(found, rel=0.06)


def test_it_repeats() -> None:
    first, again = (expected_trainings(1, (6, 8), margin=0.01, sd=0.01) for _ in range(2))
    assert first == again


def test_one_look_takes_all_seeds() -> None:
    assert expected_trainings(3, (8,), margin=0.01, sd=0.01) == 4 * 8


def test_no_scatter_ends_at_the_first_look() -> None:
    assert expected_trainings(3, (6, 12, 20), margin=0.01, sd=1e-5) == 4 * 6


def test_scatter_far_beyond_the_margin_goes_on_to_the_end() -> None:
    found = expected_trainings(1, LOOKS, margin=0.01, sd=10.0)
    assert 0.9 * 2 * 20 < found <= 2 * 20  # some end early, by a false alarm


def test_more_scatter_takes_more_trainings() -> None:
    found = [expected_trainings(1, (6, 10, 20), margin=0.01, sd=sd) for sd in (0.004, 0.01, 0.02)]
    assert found == sorted(found)
    assert found[0] < found[-1]
