"""Bands over seeds, with scipy's t interval as oracle."""

import numpy as np
import pytest
from scipy import stats

from focalbench.board.curves import difference_curve, group_trials, mean_curves, seed_curves
from focalbench.records.reader import read_trials


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
    band = difference_curve(arm, baseline, "m")
    assert band.mean == pytest.approx([0.105])
    low, _ = stats.t.interval(0.95, 1, loc=0.105, scale=stats.sem([0.10, 0.11]))
    assert band.mean[0] - band.half_width[0] == pytest.approx(low)
    assert difference_curve(arm, {7: baseline[7]}, "m") is None
    assert difference_curve(arm, baseline, "other") is None


def test_an_arm_is_its_finished_seeds_and_before_one_has_finished_those_under_way(write_trial, tmp_path):
    write_trial("r/ce-s0", arm="ce", seed=0)
    write_trial("r/ce-s1", arm="ce", seed=1, status={"state": "running"})
    write_trial("r/focal-s0", arm="focal", seed=0, status={"state": "running"})
    write_trial("r/focal-s1", arm="focal", seed=1, status={"state": "interrupted"})
    write_trial("r/focal-s2", arm="focal", seed=2, status={"state": "failed"})
    write_trial("r/lost-s0", arm="lost", seed=0, status={"state": "failed"})
    found = group_trials(read_trials([tmp_path / "r"]))
    assert {arm: sorted(seeds) for arm, seeds in found.items()} == {"ce": [0], "focal": [0, 1]}
