"""VOC average precision against a plain per-class loop, and against cases worked out by hand."""

from typing import Any

import numpy as np
import pytest

from focalbench.metrics.assignment import MatchRules
from focalbench.metrics.voc import precision_recall, voc_average_precision, voc_variants

Columns = dict[str, Any]


def loop_average_precision(
    det: Columns,
    gt: Columns,
    num_classes: int,
    iou_thresh: float,
    interpolation: str,
    *,
    pixel: float = 1.0,
    equal_is_hit: bool = False,
    count_difficult: bool = False,
) -> np.ndarray:
    """The devkit's algorithm, one class, one detection at a time."""
    result = np.full(num_classes, np.nan)
    for k in range(num_classes):
        truth: dict[int, dict[str, Any]] = {}
        num_objects = 0
        for image in np.unique(gt["image"]):
            rows = np.flatnonzero((gt["image"] == image) & (gt["label"] == k))
            difficult = gt["difficult"][rows] & (not count_difficult)
            truth[int(image)] = {
                "box": gt["box"][rows].astype(float),
                "difficult": difficult,
                "taken": [False] * len(rows),
            }
            num_objects += int((~difficult).sum())
        if num_objects == 0:
            continue
        rows = np.flatnonzero(det["label"] == k)
        rows = rows[np.argsort(-det["score"][rows], kind="stable")]
        tp, fp = np.zeros(len(rows)), np.zeros(len(rows))
        for d, row in enumerate(rows):
            objects = truth.get(int(det["image"][row]))
            best, winner = -np.inf, -1
            if objects is not None and len(objects["box"]):
                b, g = det["box"][row].astype(float), objects["box"]
                width = np.maximum(np.minimum(g[:, 2], b[2]) - np.maximum(g[:, 0], b[0]) + pixel, 0.0)
                height = np.maximum(np.minimum(g[:, 3], b[3]) - np.maximum(g[:, 1], b[1]) + pixel, 0.0)
                inter = width * height
                union = (b[2] - b[0] + pixel) * (b[3] - b[1] + pixel)
                union = union + (g[:, 2] - g[:, 0] + pixel) * (g[:, 3] - g[:, 1] + pixel) - inter
                iou = inter / union
                best, winner = iou.max(), int(iou.argmax())
            if best > iou_thresh or (equal_is_hit and best == iou_thresh):
                assert objects is not None
                if objects["difficult"][winner]:
                    continue
                tp[d] = not objects["taken"][winner]
                fp[d] = objects["taken"][winner]
                objects["taken"][winner] = True
            else:
                fp[d] = 1.0
        tp, fp = np.cumsum(tp), np.cumsum(fp)
        recall = tp / float(num_objects)
        precision = tp / np.maximum(tp + fp, np.finfo(np.float64).eps)
        result[k] = loop_interpolate(recall, precision, interpolation)
    return result


def loop_interpolate(recall: np.ndarray, precision: np.ndarray, interpolation: str) -> float:
    if interpolation == "11point":
        total = 0.0
        for step in np.arange(0.0, 1.1, 0.1):
            reached = precision[recall >= step]
            total = total + (reached.max() if len(reached) else 0.0) / 11.0
        return total
    recall = np.concatenate(([0.0], recall, [1.0]))
    precision = np.concatenate(([0.0], precision, [0.0]))
    for i in range(len(precision) - 1, 0, -1):
        precision[i - 1] = max(precision[i - 1], precision[i])
    change = np.where(recall[1:] != recall[:-1])[0]
    return float(np.sum((recall[change + 1] - recall[change]) * precision[change + 1]))


def random_case(
    seed: int,
    *,
    num_images: int = 25,
    num_objects: int = 150,
    num_detections: int = 900,
    num_classes: int = 6,
    score_levels: int = 12,
    dtype: type = np.float32,
) -> tuple[Columns, Columns]:
    """Ground truth in few cells, so that boxes overlap; detections near objects; coarse scores, so that many tie.

    The last class has no object, the one before only difficult ones.
    """
    rng = np.random.default_rng(seed)
    corner = rng.integers(1, 40, (num_objects, 2))
    gt = {
        "image": rng.integers(0, num_images, num_objects),
        "label": rng.integers(0, num_classes - 1, num_objects),
        "box": np.concatenate([corner, corner + rng.integers(3, 30, (num_objects, 2))], axis=1).astype(dtype),
        "difficult": rng.random(num_objects) < 0.2,
    }
    gt["difficult"] |= gt["label"] == num_classes - 2
    near = rng.integers(0, num_objects, num_detections)
    box = gt["box"][near] + rng.integers(-4, 5, (num_detections, 4))
    box[:, 2:] = np.maximum(box[:, 2:], box[:, :2])
    det = {
        "image": np.where(rng.random(num_detections) < 0.8, gt["image"][near], rng.integers(0, num_images + 3)),
        "label": np.where(
            rng.random(num_detections) < 0.8, gt["label"][near], rng.integers(0, num_classes, num_detections)
        ),
        "score": (rng.integers(0, score_levels, num_detections) / score_levels).astype(dtype),
        "box": box.astype(dtype),
    }
    return det, gt


def single(boxes: list[list[float]], scores: list[float] | None = None, difficult: list[bool] | None = None) -> Columns:
    """Boxes of one class in one image, as detections or as ground truth."""
    columns: Columns = {"image": np.zeros(len(boxes), int), "label": np.zeros(len(boxes), int), "box": np.array(boxes)}
    if scores is not None:
        columns["score"] = np.array(scores)
    else:
        columns["difficult"] = np.array(difficult if difficult is not None else [False] * len(boxes))
    return columns


@pytest.mark.parametrize("interpolation", ["11point", "area"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(12))
def test_equals_the_loop_bit_for_bit(seed: int, dtype: type, interpolation: Any) -> None:
    det, gt = random_case(seed, dtype=dtype, score_levels=12 if seed % 2 else 10**6)
    ours = voc_average_precision(det, gt, num_classes=6, interpolation=interpolation)
    expected = loop_average_precision(det, gt, 6, 0.5, interpolation)
    assert np.isnan(expected[4:]).all()
    assert ((expected[:4] > 0) & (expected[:4] < 1)).all()
    np.testing.assert_array_equal(ours["ap"], expected)
    assert ours["map"] == np.nanmean(expected)


@pytest.mark.parametrize("interpolation", ["11point", "area"])
def test_equals_the_loop_with_many_true_positives(interpolation: Any) -> None:
    # more than 128 steps: numpy's pairwise sum splits, and its grouping shows in the last bit
    det, gt = random_case(5, num_images=400, num_objects=2000, num_detections=3000, num_classes=4, score_levels=10**6)
    ours = voc_average_precision(det, gt, num_classes=4, interpolation=interpolation)
    np.testing.assert_array_equal(ours["ap"], loop_average_precision(det, gt, 4, 0.5, interpolation))


@pytest.mark.parametrize("iou_thresh", [0.25, 0.5, 0.75])
@pytest.mark.parametrize(
    "options", [{"pixel": 0.0}, {"equal_is_hit": True}, {"count_difficult": True}], ids=lambda o: next(iter(o))
)
def test_variants_equal_the_loop(options: dict[str, Any], iou_thresh: float) -> None:
    det, gt = random_case(7)
    rules = MatchRules(
        pixel_offset=options.get("pixel", 1.0),
        equal_is_hit=options.get("equal_is_hit", False),
        count_difficult=options.get("count_difficult", False),
    )
    ours = voc_average_precision(det, gt, num_classes=6, iou_thresh=iou_thresh, rules=rules)
    np.testing.assert_array_equal(ours["ap"], loop_average_precision(det, gt, 6, iou_thresh, "11point", **options))


def test_image_ids_may_be_sparse_and_negative() -> None:
    det, gt = random_case(3)
    expected = voc_average_precision(det, gt, num_classes=6)
    scattered = {**det, "image": det["image"] * 10**12 - 7}, {**gt, "image": gt["image"] * 10**12 - 7}
    np.testing.assert_array_equal(voc_average_precision(*scattered, num_classes=6)["ap"], expected["ap"])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64])
def test_any_integer_type_will_do(dtype: type) -> None:
    det, gt = random_case(3)
    expected = voc_average_precision(det, gt, num_classes=6)
    for columns in (det, gt):
        columns["image"], columns["label"] = columns["image"].astype(dtype), columns["label"].astype(dtype)
    np.testing.assert_array_equal(voc_average_precision(det, gt, num_classes=6)["ap"], expected["ap"])


def test_negative_scores_and_zeros_of_either_sign_keep_their_order() -> None:
    # 0.0 and -0.0 tie, so the first of them in the input claims the object
    for scores in ([-0.0, 0.0, -1.0], [0.0, -0.0, -5.0]):
        det = single([[1, 1, 10, 10], [1, 1, 10, 9], [100, 100, 110, 110]], scores)
        det["score"] = det["score"].astype(np.float32)
        curve = precision_recall(det, single([[1, 1, 10, 10]]), num_classes=1)[0]
        assert curve.is_tp.tolist() == [True, False, False]


def test_by_hand_three_boxes() -> None:
    # hit, miss, hit with two objects: precision 1, 1/2, 2/3 at recalls 1/2, 1/2, 1
    gt = single([[1, 1, 10, 10], [51, 51, 60, 60]])
    det = single([[1, 1, 10, 10], [200, 200, 210, 210], [51, 51, 60, 60]], [0.9, 0.8, 0.7])
    assert voc_average_precision(det, gt, num_classes=1, interpolation="area")["map"] == pytest.approx(
        0.5 + 0.5 * 2 / 3
    )
    assert voc_average_precision(det, gt, num_classes=1)["map"] == pytest.approx((6 + 5 * 2 / 3) / 11)
    curve = precision_recall(det, gt, num_classes=1)[0]
    assert curve.recall.tolist() == [0.5, 0.5, 1.0]
    assert curve.precision.tolist() == [1.0, 0.5, 2 / 3]
    assert curve.score.tolist() == [0.9, 0.8, 0.7]


def test_iou_of_exactly_the_threshold_is_a_miss() -> None:
    gt, det = single([[1, 1, 10, 10]]), single([[1, 1, 10, 5]], [0.9])
    assert voc_average_precision(det, gt, num_classes=1)["map"] == 0.0
    assert voc_average_precision(det, gt, num_classes=1, rules=MatchRules(equal_is_hit=True))["map"] > 0.99


def test_pixels_are_inclusive() -> None:
    # 2 x 2 pixels against 2 x 1: IoU 1/2 without the +1 would be 0 / 1
    gt, det = single([[1, 1, 2, 2]]), single([[1, 1, 2, 1]], [0.9])
    assert voc_average_precision(det, gt, num_classes=1, iou_thresh=0.4)["map"] > 0.99
    assert voc_average_precision(det, gt, num_classes=1, iou_thresh=0.4, rules=MatchRules(pixel_offset=0))["map"] == 0


def test_difficult_objects_leave_the_count_and_their_claimants_are_neither() -> None:
    gt = single([[1, 1, 10, 10], [51, 51, 60, 60]], difficult=[True, False])
    det = single([[1, 1, 10, 10], [1, 1, 10, 10], [51, 51, 60, 60]], [0.9, 0.8, 0.7])
    assert voc_average_precision(det, gt, num_classes=1, interpolation="area")["map"] == 1.0
    counted = voc_average_precision(
        det, gt, num_classes=1, interpolation="area", rules=MatchRules(count_difficult=True)
    )
    assert counted["map"] == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_second_claim_is_false_even_when_another_object_would_do() -> None:
    # both detections overlap the first object most; the second does not fall back to its second choice
    gt = single([[1, 1, 10, 10], [1, 3, 10, 12]])
    det = single([[1, 1, 10, 10], [1, 1, 10, 11]], [0.9, 0.8])
    assert precision_recall(det, gt, num_classes=1)[0].is_tp.tolist() == [True, False]


def test_truth_as_detections_scores_one_in_every_protocol() -> None:
    _, gt = random_case(11)
    gt["box"] = gt["box"] + np.arange(len(gt["box"]))[:, None] * 100.0  # no object hides another
    det = {"image": gt["image"], "label": gt["label"], "box": gt["box"], "score": np.ones(len(gt["label"]), np.float32)}
    for name, result in voc_variants(det, gt, num_classes=6).items():
        assert result["map"] == pytest.approx(1.0), name


def test_variants_start_with_the_two_protocols() -> None:
    det, gt = random_case(2)
    variants = voc_variants(det, gt, num_classes=6)
    names = list(variants)
    assert variants[names[0]]["map"] == voc_average_precision(det, gt, num_classes=6)["map"]
    assert variants[names[1]]["map"] == voc_average_precision(det, gt, num_classes=6, interpolation="area")["map"]
    assert len({result["map"] for result in variants.values()}) >= 5


def test_rounded_scores_tie_in_input_order() -> None:
    gt = single([[1, 1, 10, 10]])
    det = single([[100, 100, 110, 110], [1, 1, 10, 10]], [0.90001, 0.90002])
    assert voc_average_precision(det, gt, num_classes=1, interpolation="area")["map"] == 1.0
    rounded = voc_average_precision(det, gt, num_classes=1, interpolation="area", rules=MatchRules(score_digits=3))
    assert rounded["map"] == 0.5


def test_empty_inputs() -> None:
    nothing: Columns = {"image": [], "label": [], "score": [], "box": []}
    no_truth: Columns = {"image": [], "label": [], "box": [], "difficult": []}
    det, gt = random_case(1)
    empty = voc_average_precision(nothing, no_truth, num_classes=2)
    assert np.isnan(empty["ap"]).all()
    assert np.isnan(empty["map"])
    assert np.isnan(voc_average_precision(det, no_truth, num_classes=6)["map"])
    missed = voc_average_precision(nothing, gt, num_classes=6)
    np.testing.assert_array_equal(missed["ap"], [0, 0, 0, 0, np.nan, np.nan])
    assert missed["map"] == 0.0
    assert len(precision_recall(nothing, gt, num_classes=6)[0].recall) == 0


@pytest.mark.parametrize(
    ("which", "column", "value", "words"),
    [
        ("det", "score", [0.5], "detections: the columns differ in length"),
        ("det", "score", [0.5, np.nan], r"detections\['score'\] is not finite at row 1"),
        ("det", "label", [0, 3], r"detections\['label'\] holds 3, outside 0..2"),
        ("det", "label", [-1, 0], r"holds -1"),
        ("det", "label", [0.0, 1.0], "must hold integers"),
        ("det", "image", [[0], [0]], "1 dimension"),
        ("det", "box", [[1, 1, 5], [1, 1, 5]], r"shape \(n, 4\)"),
        ("det", "box", [[1, 1, np.inf, 5], [1, 1, 5, 5]], "not finite at row 0"),
        ("det", "score", ["a", "b"], "must hold numbers"),
        ("gt", "difficult", [2], "true or false"),
        ("gt", "label", [7], r"ground_truth\['label'\] holds 7"),
        ("gt", "box", [[1, np.nan, 3, 4]], r"ground_truth\['box'\] is not finite"),
        ("gt", "difficult", None, "ground_truth lacks 'difficult'"),
    ],
)
def test_malformed_input_is_named(which: str, column: str, value: Any, words: str) -> None:
    det = single([[1, 1, 5, 5], [1, 1, 6, 6]], [0.9, 0.8])
    gt = single([[1, 1, 5, 5]])
    columns = det if which == "det" else gt
    if value is None:
        del columns[column]
    else:
        columns[column] = value
    with pytest.raises(ValueError, match=words):
        voc_average_precision(det, gt, num_classes=3)


def test_malformed_options_are_named() -> None:
    det, gt = single([[1, 1, 5, 5]], [0.9]), single([[1, 1, 5, 5]])
    with pytest.raises(ValueError, match="11point, area"):
        voc_average_precision(det, gt, num_classes=1, interpolation="coco")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="iou_thresh"):
        voc_average_precision(det, gt, num_classes=1, iou_thresh=1.5)
    with pytest.raises(ValueError, match="num_classes"):
        voc_average_precision(det, gt, num_classes=0)
