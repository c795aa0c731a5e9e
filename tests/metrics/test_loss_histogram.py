"""One histogram of margins answers for every gamma as the elements themselves would."""

import numpy as np
import pytest

from focalbench.metrics.loss_histogram import (
    BIN_WIDTH,
    LIMIT,
    NUM_BINS,
    MarginHistogram,
    bin_margins,
    cumulative_loss,
    focal_loss_of_margin,
    gradient_norm_counts,
    probability_counts,
    total_loss,
)


@pytest.fixture(scope="module")
def margins() -> np.ndarray:
    """Easy negatives of a trained network, with a hard tail."""
    return np.random.default_rng(0).normal(3.0, 2.5, 200_000)


@pytest.fixture(scope="module")
def counts(margins: np.ndarray) -> np.ndarray:
    return np.histogram(margins, NUM_BINS, (-LIMIT, LIMIT))[0]


def test_the_loss_of_a_margin_is_the_focal_loss() -> None:
    p_t = np.array([0.01, 0.3, 0.5, 0.9, 0.968])
    margin = np.log(p_t / (1 - p_t))
    for gamma in (0.0, 0.5, 1.0, 2.0, 5.0):
        np.testing.assert_allclose(focal_loss_of_margin(margin, gamma), -((1 - p_t) ** gamma) * np.log(p_t), rtol=1e-12)
    assert focal_loss_of_margin(np.array([np.log(9.0)]), 2.0) * 100 == pytest.approx(-np.log(0.9))


def test_the_loss_is_finite_at_the_ends() -> None:
    ends = np.array([-1e4, 1e4])
    for gamma in (0.0, 0.5, 2.0):
        np.testing.assert_allclose(focal_loss_of_margin(ends, gamma), [1e4, 0.0])


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_sums_and_shares_are_those_of_the_elements(margins: np.ndarray, counts: np.ndarray, gamma: float) -> None:
    loss = np.sort(focal_loss_of_margin(margins, gamma))
    assert total_loss(counts, gamma) == pytest.approx(loss.sum(), rel=1e-5)
    curve = cumulative_loss(counts, gamma)
    direct = np.concatenate([[0.0], np.cumsum(loss)]) / loss.sum()
    fractions = np.linspace(0, 1, len(direct))
    for fraction in (0.001, 0.01, 0.2, 0.5):
        assert curve.of_hardest(fraction) == pytest.approx(1 - np.interp(1 - fraction, fractions, direct), abs=2e-4)
    assert (np.diff(curve.fraction) > 0).all()
    assert (np.diff(curve.share) >= 0).all()
    assert curve.fraction[0] == curve.share[0] == 0
    assert curve.fraction[-1] == curve.share[-1] == 1


def test_a_larger_gamma_leaves_more_to_the_hardest(counts: np.ndarray) -> None:
    shares = [cumulative_loss(counts, gamma).of_hardest(0.01) for gamma in (0.0, 0.5, 1.0, 2.0, 5.0)]
    assert shares == sorted(shares)
    assert shares[-1] > 2 * shares[0]


def test_equal_elements_share_equally() -> None:
    counts = np.zeros(NUM_BINS, np.int64)
    counts[5000] = 1000
    assert cumulative_loss(counts, 2.0).of_hardest(0.2) == pytest.approx(0.2)


def test_an_empty_group_has_no_line() -> None:
    curve = cumulative_loss(np.zeros(NUM_BINS, np.int64), 2.0)
    assert len(curve.fraction) == len(curve.share) == 0
    assert np.isnan(curve.of_hardest(0.2))


def test_gradient_norms_are_those_of_the_elements(margins: np.ndarray, counts: np.ndarray) -> None:
    norm = 1 / (1 + np.exp(margins))
    expected = np.histogram(norm, 30, (0, 1))[0]
    found = gradient_norm_counts(counts)
    assert found.sum() == len(margins)
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=30)  # bins of both kinds meet within BIN_WIDTH
    np.testing.assert_array_equal(probability_counts(counts, 30), found[::-1])


def test_histograms_add_up_and_bins_cover_the_range() -> None:
    one = MarginHistogram(np.ones(NUM_BINS, np.int64), np.zeros(NUM_BINS, np.int64))
    both = MarginHistogram.empty() + one + one
    assert both.positives.sum() == 2 * NUM_BINS
    assert both.negatives.sum() == 0
    centres = bin_margins()
    assert centres[0] == pytest.approx(-LIMIT + BIN_WIDTH / 2)
    assert centres[-1] == pytest.approx(LIMIT - BIN_WIDTH / 2)
