"""How numbers are written for people."""

import math

import pytest

from focalbench.analysis import formats
from focalbench.analysis.comparison import Comparison
from focalbench.analysis.judged_arms import ArmComparison
from focalbench.statistics.power import SeedsNeeded
from focalbench.statistics.verdict import Judgement


@pytest.mark.parametrize("metric", ["val/mAP", "val/mAP_best", "AP/cat"])
def test_average_precisions_are_written_in_points(metric: str) -> None:
    assert formats.value(0.7871, metric) == "78.71"
    assert formats.value(1.0, metric) == "100.00"
    assert formats.difference(0.0123, metric) == "+1.23"
    assert formats.interval((-0.0031, 0.0192), metric) == "-0.31 to +1.92"
    assert formats.heading(metric) == f"{metric} in points"
    assert (formats.unit(metric), formats.scale(metric)) == (" points", 100)


@pytest.mark.parametrize("metric", ["wall_s", "images_per_s", "train/loss"])
def test_other_numbers_stay_what_they_are(metric: str) -> None:
    assert formats.value(0.7871, metric) == "0.7871"
    assert formats.difference(0.0123, metric) == "+0.0123"
    assert formats.interval((-0.0031, 0.0192), metric) == "-0.0031 to +0.0192"
    assert formats.heading(metric) == metric
    assert (formats.unit(metric), formats.scale(metric)) == ("", 1)


def test_large_values_keep_five_digits() -> None:
    assert formats.value(123.456, "wall_s") == "123.46"
    assert formats.value(12345.6, "wall_s") == "12346"
    assert formats.value(1234567.0, "wall_s") == "1.2346e+06"
    assert formats.difference(-123.456, "wall_s") == "-123.46"
    assert formats.value(12.5, "val/mAP") == "1250.00"  # whatever a file says, nothing is cut


@pytest.mark.parametrize("metric", ["val/mAP", "wall_s"])
def test_what_is_unknown_is_a_dash_and_nothing_is_minus_zero(metric: str) -> None:
    assert formats.value(math.nan, metric) == formats.difference(math.nan, metric) == "-"
    assert formats.interval((math.nan, math.nan), metric) == ""
    for nothing in (-0.0, -1e-9):
        assert float(formats.value(nothing, metric)) == 0
        assert not formats.value(nothing, metric).startswith("-")
        assert formats.difference(nothing, metric).startswith("+0.00")


def test_correlations_and_p_values() -> None:
    assert [formats.signed(x) for x in (0.5, -1.0, math.nan)] == ["+0.5000", "-1.0000", "-"]
    assert [formats.p_value(p) for p in (0.0317, 0.00001, math.nan)] == [".0317", "<.0001", "-"]


def test_an_end_that_is_zero_itself_is_told_from_one_beside_it() -> None:
    assert formats.interval((-0.0435, 0.0), "val/mAP") == "-4.35 to 0"
    assert formats.interval((-0.0435, 0.00001), "val/mAP") == "-4.35 to +0.00"


def test_a_margin_in_words() -> None:
    assert [formats.points_words(size) for size in (0.01, 0.005, 0.02)] == ["1 point", "0.5 points", "2 points"]


def test_how_many_seeds_find_the_margin() -> None:
    words = formats.seeds_words(SeedsNeeded(difference=0.01, n=29, low=15, high=83, num_arms=3))
    assert words == (
        "seeds needed to find a true difference of 1 point in 8 of 10 sweeps: about 29, 95 % 15 to 83, "
        "by the spread of 3 arms"
    )
    assert "about 29, 95 % 15 to more than 10 000, by the spread of one arm" in formats.seeds_words(
        SeedsNeeded(difference=0.01, n=29, low=15, high=None, num_arms=1)
    )
    assert formats.seeds_words(SeedsNeeded(0.01, None, 9, None, 1)).endswith("in 8 of 10 sweeps: more than 10 000")


@pytest.mark.parametrize(
    ("alike_within", "words"),
    [
        (0.0012, "a: +0.81; called different at 1.31 or more, alike within 0.12"),
        (
            -0.0001,
            "a: +0.81; called different at 1.31 or more, not yet alike at any difference: the seeds scatter too much",
        ),
        (math.nan, "a: +0.81; called different at 1.31 or more"),
    ],
)
def test_how_far_an_arm_is_from_a_word(alike_within: float, words: str) -> None:
    found = Judgement("undecided", 8, 0.0081, different_from=0.0131, alike_within=alike_within)
    comparison = Comparison("val/mAP", "higher", "ce", (), (), (), margin=0.01)
    assert formats.distance_words(ArmComparison("a", (), found), comparison) == words


def test_an_arm_without_pairs_is_at_no_distance() -> None:
    comparison = Comparison("val/mAP", "higher", "ce", (), (), ())
    nothing = ArmComparison("a", (), Judgement("not enough seeds", 0))
    assert formats.distance_words(nothing, comparison) == "a: not enough seeds"
