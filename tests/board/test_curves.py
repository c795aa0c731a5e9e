"""Bands over seeds, with scipy's t interval as oracle."""

import numpy as np
import pytest
from scipy import stats

from focalbench.board.curves import difference_curves, group_trials, mean_curves, seed_curves
from focalbench.records.reader import read_trials
from focalbench.statistics.verdict import Runs, judge


def test_a_band_is_the_mean_and_the_t_interval_at_the_steps_that_all_seeds_have():
    seeds = [{"val/mAP": {10: 0.1, 20: 0.3}}, {"val/mAP": {10: 0.2, 20: 0.2, 30: 0.9}}, {"val/mAP": {10: 0.6, 20: 0.4}}]
    band = mean_curves(seeds)["val/mAP"]
    assert band.steps.tolist() == [10, 20]
    np.testing.assert_allclose(band.mean, [0.3, 0.3])
    for place, values in enumerate(([0.1, 0.2, 0.6], [0.3, 0.2, 0.4])):
        low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
        assert band.mean[place] - band.half_width[place] == pytest.approx(low)
        assert band.mean[place] + band.half_width[place] == pytest.approx(high)


def test_a_single_seed_is_a_line_without_a_band():
    band = mean_curves([{"val/mAP": {10: 0.1, 20: 0.3}}])["val/mAP"]
    assert band.mean.tolist() == [0.1, 0.3]
    assert band.half_width.tolist() == [0, 0]


def test_what_one_seed_lacks_has_no_mean():
    assert mean_curves([{"a": {1: 0.5}, "b": {1: 1.0}}, {"a": {2: 0.5}, "b": {1: 2.0}}]).keys() == {"b"}
    assert mean_curves([]) == {}


def test_undefined_values_are_left_out():
    lines = [{"step": 1, "AP/cat": None, "AP/dog": 0.5}, {"step": 1, "train/loss": 2}, {"step": 2, "AP/cat": 0.25}]
    assert seed_curves(lines) == {"AP/dog": {1: 0.5}, "train/loss": {1: 2.0}, "AP/cat": {2: 0.25}}


def test_a_long_training_keeps_its_ends_and_five_hundred_points():
    band = mean_curves([{"train/loss": {step: 1 / step for step in range(1, 20_001)}}])["train/loss"]
    assert len(band.steps) == 500
    assert (band.steps[0], band.steps[-1]) == (1, 20_000)
    np.testing.assert_allclose(band.mean, 1 / band.steps)


def test_a_difference_is_paired_by_seed():
    """What both arms of a seed share drops out, so its band is that of the pairs and not of two means."""
    arm = {0: {"m": {1: 0.50}}, 1: {"m": {1: 0.71}}, 5: {"m": {1: 0.9}}}
    baseline = {0: {"m": {1: 0.40}}, 1: {"m": {1: 0.60}}, 7: {"m": {1: 0.1}}}
    band = difference_curves({"a": arm}, baseline, {}, "m")["a"]
    assert band.mean == pytest.approx([0.105])
    low, _ = stats.t.interval(0.95, 1, loc=0.105, scale=stats.sem([0.10, 0.11]))
    assert band.mean[0] - band.half_width[0] == pytest.approx(low)
    assert difference_curves({"a": arm}, {7: baseline[7]}, {}, "m") == {}
    assert difference_curves({"a": arm}, baseline, {}, "other") == {}


def test_the_band_of_the_differences_ends_at_the_verdicts_interval():
    rng = np.random.default_rng(0)
    values = {arm: rng.normal(0.7, 0.01, 6) for arm in ("ce", "a", "b", "c")}
    curves = {
        arm: {seed: {"m": {10: 0.5, 20: value}} for seed, value in enumerate(found)} for arm, found in values.items()
    }
    runs = {arm: Runs(dict(enumerate(found.tolist()))) for arm, found in values.items()}
    judgements = judge(runs.pop("ce"), runs).arms
    few = judge(Runs({0: 0.5, 1: 0.6}), {"d": Runs({0: 0.51, 1: 0.62})}).arms["d"]  # belongs to no family
    curves["d"] = {seed: {"m": {20: value}} for seed, value in enumerate((0.71, 0.72))}
    bands = difference_curves({arm: curves[arm] for arm in "abcd"}, curves["ce"], judgements | {"d": few}, "m")
    for arm in "abc":
        low, high = judgements[arm].ci
        assert bands[arm].mean[-1] == pytest.approx(judgements[arm].difference)
        assert bands[arm].half_width[-1] == pytest.approx((high - low) / 2)
        assert bands[arm].half_width[0] == 0  # nothing scatters there
    pair = curves["d"][0]["m"][20] - values["ce"][0], curves["d"][1]["m"][20] - values["ce"][1]
    assert bands["d"].half_width[-1] == pytest.approx(stats.t.ppf(0.975, 1) * stats.sem(pair))


def test_an_arm_is_its_finished_seeds_and_before_one_has_finished_those_under_way(write_trial, tmp_path):
    write_trial("r/ce-s0", arm="ce", seed=0)
    write_trial("r/ce-s1", arm="ce", seed=1, status={"state": "running"})
    write_trial("r/focal-s0", arm="focal", seed=0, status={"state": "running"})
    write_trial("r/focal-s1", arm="focal", seed=1, status={"state": "interrupted"})
    write_trial("r/focal-s2", arm="focal", seed=2, status={"state": "failed"})
    write_trial("r/lost-s0", arm="lost", seed=0, status={"state": "failed"})
    found = group_trials(read_trials([tmp_path / "r"]))
    assert {arm: sorted(seeds) for arm, seeds in found.items()} == {"ce": [0], "focal": [0, 1]}
