"""Reliability diagram and detection calibration error."""

import numpy as np
import pytest

from focalbench.metrics.calibration import bin_reliability, reliability


def test_by_hand() -> None:
    score = np.array([0.1, 0.3, 0.9, 1.0])
    diagram = bin_reliability(score, np.array([False, True, True, True]), num_bins=2)
    assert diagram.count.tolist() == [2, 2]
    assert diagram.mean_score == pytest.approx([0.2, 0.95])
    assert diagram.precision == pytest.approx([0.5, 1.0])
    assert diagram.d_ece == pytest.approx((0.3 + 0.05) / 2)


def test_calibrated_scores_have_a_small_error_and_overconfident_ones_their_gap() -> None:
    rng = np.random.default_rng(0)
    score = rng.random(200_000)
    assert bin_reliability(score, rng.random(len(score)) < score).d_ece < 0.01
    always_sure = np.full(200_000, 0.975)
    assert bin_reliability(always_sure, rng.random(len(score)) < 0.5).d_ece == pytest.approx(0.475, abs=0.01)


def test_claims_on_difficult_objects_are_left_out() -> None:
    gt = {"image": [0, 0], "label": [0, 0], "box": [[1, 1, 10, 10], [50, 50, 60, 60]], "difficult": [True, False]}
    det = {
        "image": [0, 0],
        "label": [0, 0],
        "score": np.array([0.9, 0.75]),
        "box": np.array([[1.0, 1, 10, 10], [50, 50, 60, 60]]),
    }
    diagram = reliability(det, gt, num_classes=1)
    assert diagram.count.sum() == 1
    assert diagram.d_ece == pytest.approx(0.25)


def test_no_detections_have_no_error_to_state() -> None:
    gt = {"image": [0], "label": [0], "box": [[1, 1, 10, 10]], "difficult": [False]}
    diagram = reliability({"image": [], "label": [], "score": [], "box": []}, gt, num_classes=1)
    assert np.isnan(diagram.d_ece)
    assert np.isnan(diagram.precision).all()


def test_scores_that_are_no_probabilities_are_refused() -> None:
    gt = {"image": [0], "label": [0], "box": [[1, 1, 10, 10]], "difficult": [False]}
    det = {"image": [0], "label": [0], "score": [3.5], "box": [[1, 1, 10, 10]]}
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        reliability(det, gt, num_classes=1)
