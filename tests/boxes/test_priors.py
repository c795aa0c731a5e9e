"""k-means with 1 - IoU: facts of the distance, and clusters that are there to be found."""

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from focalbench.boxes.priors import VOC_PRIORS, average_best_iou, fit_priors, size_iou


def test_size_iou_is_the_iou_of_centred_boxes():
    rng = np.random.default_rng(0)
    sizes, priors = rng.uniform(0.5, 20, (50, 2)), rng.uniform(0.5, 20, (7, 2))

    def centred(values):
        half = torch.from_numpy(values) / 2
        return torch.cat([-half, half], 1)

    np.testing.assert_allclose(size_iou(sizes, priors), box_iou(centred(sizes), centred(priors)).numpy(), rtol=1e-12)


def test_separate_clusters_are_found_smallest_first():
    rng = np.random.default_rng(1)
    centres = np.array([[2.0, 3.0], [10.0, 5.0], [40.0, 60.0]])
    sizes = np.concatenate([centre * rng.uniform(0.95, 1.05, (100, 2)) for centre in centres[[2, 0, 1]]])
    priors = fit_priors(sizes, 3)
    np.testing.assert_allclose(priors.sizes, centres, rtol=0.02)
    np.testing.assert_allclose(priors.shares, 1 / 3)
    assert priors.average_iou == pytest.approx(average_best_iou(sizes, priors.sizes))
    assert priors.average_iou > 0.93


def test_as_many_priors_as_sizes_fit_perfectly():
    sizes = np.array([[1.0, 2.0], [3.0, 1.0], [5.0, 5.0]])
    priors = fit_priors(np.repeat(sizes, 4, 0), 3)
    assert priors.average_iou == pytest.approx(1.0)


def test_more_priors_never_fit_worse_and_units_do_not_matter():
    sizes = np.random.default_rng(2).lognormal(1, 0.8, (600, 2))
    figures = [fit_priors(sizes, number).average_iou for number in (1, 2, 3, 5, 9)]
    assert figures == sorted(figures)
    scaled = fit_priors(sizes * 32, 5)
    assert scaled.average_iou == pytest.approx(fit_priors(sizes, 5).average_iou)


def test_voc_shaped_sizes_give_voc_priors_back():
    # Boxes scattered around the published priors: their average IoU is reached within 0.02, and not undercut.
    rng = np.random.default_rng(3)
    chosen = np.array(VOC_PRIORS)[rng.integers(0, 5, 3000)]
    sizes = np.minimum(chosen * rng.lognormal(0, 0.35, (3000, 2)), 13)
    found = fit_priors(sizes, 5).average_iou
    published = average_best_iou(sizes, VOC_PRIORS)
    assert -0.001 <= found - published <= 0.02


def test_equal_seeds_give_equal_priors():
    sizes = np.random.default_rng(4).uniform(1, 13, (300, 2))
    np.testing.assert_array_equal(fit_priors(sizes, 5, seed=2).sizes, fit_priors(sizes, 5, seed=2).sizes)


def test_sizes_that_are_no_sizes_are_left_out():
    priors = fit_priors(np.array([[0.0, 5.0], [-1.0, 3.0], [2.0, 4.0]]), 1)
    np.testing.assert_array_equal(priors.sizes, [[2.0, 4.0]])


@pytest.mark.parametrize("number", [0, 3])
def test_too_few_different_sizes_are_refused(number):
    with pytest.raises(ValueError, match="priors need"):
        fit_priors(np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 2.0]]), number)
