import math

import pytest
import torch

from focalbench.schedule import Schedule, as_schedule


def test_constant_never_moves():
    assert [Schedule("constant", (1.5,))(f) for f in (0, 0.3, 1)] == [1.5, 1.5, 1.5]


def test_step_changes_exactly_at_its_fractions():
    schedule = Schedule("step", (0, 1, 2), (0.25, 0.5))
    assert [schedule(f) for f in (0, 0.2499, 0.25, 0.4999, 0.5, 1)] == [0, 0, 1, 1, 2, 2]


def test_step_accepts_a_leading_zero():
    assert Schedule("step", (0, 1), (0, 0.5)) == Schedule("step", (0, 1), (0.5,))


def test_step_without_fractions_has_equal_stages():
    schedule = Schedule("step", (0, 1, 2, 3))
    assert [schedule(f) for f in (0.1, 0.3, 0.6, 0.9)] == [0, 1, 2, 3]


def test_linear_passes_through_its_knots_and_holds_its_ends():
    schedule = Schedule("linear", (1, 3, 2), (0.2, 0.6, 0.8))
    assert [schedule(f) for f in (0, 0.2, 0.4, 0.6, 0.8, 1)] == pytest.approx([1, 1, 2, 3, 2, 2])


def test_cosine_is_half_a_wave():
    schedule = Schedule("cosine", (0, 2))
    assert [schedule(f) for f in (0, 0.25, 0.5, 1)] == pytest.approx([0, 1 - math.cos(math.pi / 4), 1, 2])


def test_fractions_beyond_training_are_clamped():
    schedule = Schedule("linear", (0, 2))
    assert (schedule(-1), schedule(2)) == (0, 2)


@pytest.mark.parametrize(
    ("kind", "values", "at"),
    [
        ("sine", (1, 2), None),
        ("constant", (1, 2), None),
        ("constant", (1,), (0.5,)),
        ("step", (1,), None),
        ("step", (1, torch.ones(())), None),
        ("step", (1, 2, 3), (0.5,)),
        ("step", (1, 2, 3), (0.5, 0.5)),
        ("linear", (1, 2), (0.5,)),
        ("linear", (1, 2), (0.5, 0.2)),
        ("linear", (1, 2), (0.5, 1.2)),
        ("cosine", (1, 2), (math.nan, 1)),
    ],
)
def test_parts_that_do_not_fit_are_refused(kind, values, at):
    with pytest.raises(ValueError):
        Schedule(kind, values, at)


def test_mappings_become_schedules_and_numbers_do_not():
    assert as_schedule({"schedule": "step", "values": [1, 2], "at": [0.5]}) == Schedule("step", (1, 2), (0.5,))
    assert as_schedule({"schedule": "linear", "values": (1, 2), "at": None}) == Schedule("linear", (1, 2))
    assert as_schedule(2.0) is None
    with pytest.raises(ValueError, match="keys"):
        as_schedule({"schedule": "step", "value": [1]})
