"""Margins are the logit of p_t, whatever the activation, and every counted element is counted once."""

import numpy as np
import torch

from focalbench.experiment.margins import count_margins, element_margins
from focalbench.losses.criterion import ClassProblem
from focalbench.metrics.loss_histogram import NUM_BINS


def _problem(num_outputs: int, num_classes: int) -> ClassProblem:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(2, 50, num_outputs, generator=generator)
    labels = torch.randint(-1, num_classes + 1, (2, 50), generator=generator)
    return ClassProblem(logits, labels, None, None, torch.tensor(1.0))


def test_sigmoid_margins_are_the_logits_of_p_t() -> None:
    problem = _problem(3, 3)
    margin, negative = element_margins(problem.logits, problem.labels, "sigmoid")
    p = problem.logits.double().sigmoid()
    for image in range(2):
        for anchor in range(50):
            label = int(problem.labels[image, anchor])
            for k in range(3):
                p_t = p[image, anchor, k] if k == label else 1 - p[image, anchor, k]
                torch.testing.assert_close(margin[image, anchor, k].double(), torch.logit(p_t), rtol=1e-4, atol=1e-4)
                assert bool(negative[image, anchor, k]) == (label >= 0 and k != label)


def test_softmax_margins_are_the_logits_of_p_y() -> None:
    problem = _problem(4, 3)
    margin, negative = element_margins(problem.logits, problem.labels, "softmax")
    p = problem.logits.double().softmax(dim=-1)
    kept = problem.labels >= 0
    p_y = p[kept].gather(1, problem.labels[kept][:, None])
    torch.testing.assert_close(margin[kept].double(), torch.logit(p_y), rtol=1e-4, atol=1e-4)
    assert torch.equal(negative[..., 0], problem.labels == 3)


def test_each_element_is_counted_once_and_ignored_ones_never() -> None:
    sigmoid, softmax = _problem(3, 3), _problem(4, 3)
    found = count_margins(sigmoid, "sigmoid")
    positives = int(((sigmoid.labels >= 0) & (sigmoid.labels < 3)).sum())
    assert found.positives.sum() == positives
    assert found.negatives.sum() == 3 * int((sigmoid.labels >= 0).sum()) - positives
    found = count_margins(softmax, "softmax")
    assert found.positives.sum() == int(((softmax.labels >= 0) & (softmax.labels < 3)).sum())
    assert found.negatives.sum() == int((softmax.labels == 3).sum())


def test_extreme_and_undefined_logits_land_in_the_last_bins() -> None:
    logits = torch.tensor([[[1e4], [-1e4], [float("nan")], [float("inf")]]])
    problem = ClassProblem(logits, torch.ones(1, 4, dtype=torch.int64), None, None, torch.tensor(1.0))
    found = count_margins(problem, "sigmoid").negatives
    expected = np.zeros(NUM_BINS, np.int64)
    expected[0], expected[-1] = 3, 1
    np.testing.assert_array_equal(found, expected)
