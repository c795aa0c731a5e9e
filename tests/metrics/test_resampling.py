"""AP on resampled test sets against the metric on test sets that are really built."""

from typing import Any

import numpy as np
import pytest

from focalbench.metrics.resampling import draw_image_weights, resampled_average_precision
from focalbench.metrics.voc import voc_average_precision

NUM_IMAGES, NUM_CLASSES = 20, 4
Columns = dict[str, Any]


def random_case(seed: int) -> tuple[Columns, Columns]:
    """Distinct scores; some images without objects; class 3 has none, class 2 one in a single image."""
    rng = np.random.default_rng(seed)
    num_objects, num_detections = 60, 400
    corner = rng.integers(1, 80, (num_objects, 2))
    gt = {
        "image": rng.integers(0, NUM_IMAGES - 3, num_objects),
        "label": np.concatenate([[2], rng.integers(0, 2, num_objects - 1)]),
        "box": np.concatenate([corner, corner + rng.integers(5, 30, (num_objects, 2))], axis=1).astype(float),
        "difficult": np.concatenate([[False], rng.random(num_objects - 1) < 0.15]),
    }
    near = rng.integers(0, num_objects, num_detections)
    det = {
        "image": gt["image"][near],
        "label": np.where(rng.random(num_detections) < 0.8, gt["label"][near], rng.integers(0, NUM_CLASSES)),
        "score": rng.permutation(num_detections) / num_detections,
        "box": gt["box"][near] + rng.integers(-4, 5, (num_detections, 4)),
    }
    return det, gt


def built(columns: Columns, weights: np.ndarray) -> Columns:
    """The columns of a test set in which image i occurs weights[i] times, each time as an image of its own."""
    parts: dict[str, list[Any]] = {key: [] for key in columns}
    new_image = 0
    for image, count in enumerate(weights):
        rows = np.flatnonzero(columns["image"] == image)
        for _ in range(count):
            for key in columns:
                parts[key].append(columns[key][rows] if key != "image" else np.full(len(rows), new_image))
            new_image += 1
    return {key: np.concatenate(values) for key, values in parts.items()}


@pytest.mark.parametrize("interpolation", ["11point", "area"])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_metric_on_a_test_set_that_is_really_built(seed: int, interpolation: Any) -> None:
    det, gt = random_case(seed)
    weights = draw_image_weights(NUM_IMAGES, 12, seed=seed)
    ours = resampled_average_precision(det, gt, weights, num_classes=NUM_CLASSES, interpolation=interpolation)
    for row, drawn in zip(ours, weights, strict=True):
        expected = voc_average_precision(
            built(det, drawn), built(gt, drawn), num_classes=NUM_CLASSES, interpolation=interpolation
        )
        np.testing.assert_allclose(row, expected["ap"], rtol=1e-12)
    assert np.isnan(ours[:, 3]).all()
    assert 0 < np.isnan(ours[:, 2]).sum() < 12  # a class that only some samples contain


def test_every_image_once_is_the_test_set_itself() -> None:
    det, gt = random_case(9)
    once = np.ones((1, NUM_IMAGES), dtype=np.int64)
    expected = voc_average_precision(det, gt, num_classes=NUM_CLASSES)["ap"]
    np.testing.assert_allclose(resampled_average_precision(det, gt, once, num_classes=NUM_CLASSES)[0], expected)


def test_weights_draw_whole_test_sets_and_repeat() -> None:
    weights = draw_image_weights(50, 8)
    assert (weights.sum(axis=1) == 50).all()
    np.testing.assert_array_equal(weights, draw_image_weights(50, 8))
    assert not np.array_equal(weights, draw_image_weights(50, 8, seed=1))


def test_images_without_a_weight_are_refused() -> None:
    det, gt = random_case(1)
    with pytest.raises(ValueError, match=r"0\.\.4"):
        resampled_average_precision(det, gt, np.ones((2, 5), dtype=np.int64), num_classes=NUM_CLASSES)
