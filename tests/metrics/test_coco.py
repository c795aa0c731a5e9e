"""COCO AP against pycocotools, the reference implementation."""

import contextlib
import io
from typing import Any

import numpy as np
import pytest

from focalbench.metrics.coco import coco_average_precision, coco_data_set, coco_results
from focalbench.metrics.flat import check_detections, check_ground_truth

Columns = dict[str, Any]


def random_case(seed: int, num_classes: int = 4) -> tuple[Columns, Columns]:
    """Objects of all COCO sizes; detections near them; the last class has no object."""
    rng = np.random.default_rng(seed)
    num_objects, num_detections = 120, 700
    corner = rng.integers(1, 200, (num_objects, 2))
    size = rng.choice([12, 50, 150], (num_objects, 1)) + rng.integers(0, 12, (num_objects, 2))
    gt = {
        "image": rng.integers(0, 30, num_objects),
        "label": rng.integers(0, num_classes - 1, num_objects),
        "box": np.concatenate([corner, corner + size], axis=1).astype(np.float32),
        "difficult": rng.random(num_objects) < 0.15,
    }
    near = rng.integers(0, num_objects, num_detections)
    noise = rng.normal(0, 0.08, (num_detections, 4)) * np.tile(size[near], 2)
    det = {
        "image": gt["image"][near],
        "label": np.where(rng.random(num_detections) < 0.85, gt["label"][near], rng.integers(0, num_classes)),
        "score": rng.random(num_detections).astype(np.float32),
        "box": (gt["box"][near] + noise).astype(np.float32),
    }
    return det, gt


def pycocotools_stats(det: Columns, gt: Columns, num_classes: int) -> np.ndarray:
    """AP, AP50, AP75, small, medium, large."""
    pytest.importorskip("pycocotools", reason="pycocotools is not installed")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    flat_det, flat_gt = check_detections(det, num_classes), check_ground_truth(gt, num_classes)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = coco_data_set(flat_gt, np.unique(np.concatenate([gt["image"], det["image"]])), num_classes)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(coco_results(flat_det)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:6]


@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools_to_six_digits(seed: int) -> None:
    det, gt = random_case(seed)
    ours = coco_average_precision(det, gt, num_classes=4)
    figures = [ours["map"], ours["map_50"], ours["map_75"], ours["map_small"], ours["map_medium"], ours["map_large"]]
    expected = pycocotools_stats(det, gt, 4)
    assert 0.05 < expected[0] < 0.95
    np.testing.assert_allclose(figures, expected, rtol=0, atol=1e-6)
    assert np.isnan(ours["ap"][3])
    assert ours["map"] == pytest.approx(np.nanmean(ours["ap"]))


def test_truth_as_detections_scores_one() -> None:
    _, gt = random_case(5)
    det = {key: gt[key] for key in ("image", "label", "box")} | {"score": np.ones(len(gt["label"]), np.float32)}
    ours = coco_average_precision(det, gt, num_classes=4)
    assert ours["map"] == pytest.approx(1.0)
    assert ours["map_75"] == pytest.approx(1.0)


def test_only_the_best_detections_of_an_image_count() -> None:
    box = np.array([[1.0, 1, 50, 50]])
    gt: Columns = {"image": [0], "label": [0], "box": box, "difficult": [False]}
    det = {
        "image": np.zeros(3, int),
        "label": np.zeros(3, int),
        "score": np.array([0.9, 0.8, 0.7], np.float32),
        "box": np.concatenate([box + 300, box + 600, box]),
    }
    assert coco_average_precision(det, gt, num_classes=1)["map"] == pytest.approx(1 / 3)
    assert coco_average_precision(det, gt, num_classes=1, max_detections=2)["map"] == 0.0


def test_empty_inputs() -> None:
    det, gt = random_case(1)
    nothing: Columns = {"image": [], "label": [], "score": [], "box": []}
    no_truth: Columns = {"image": [], "label": [], "box": [], "difficult": []}
    assert np.isnan(coco_average_precision(det, no_truth, num_classes=4)["map"])
    missed = coco_average_precision(nothing, gt, num_classes=4)
    assert missed["map"] == 0.0
    assert np.isnan(missed["ap"][3])


def test_malformed_input_is_named() -> None:
    det, gt = random_case(1)
    with pytest.raises(ValueError, match=r"holds \d, outside"):
        coco_average_precision(det, gt, num_classes=2)
