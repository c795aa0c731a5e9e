"""Errors by cause: on cases where each cause is known, and against tidecv, the package of TIDE's authors."""

import sys
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from focalbench.metrics.tide import CAUSES, ErrorsByCause, errors_by_cause
from focalbench.metrics.voc import Interpolation, average_precision, voc_average_precision

CAT, DOG = 0, 1
OBJECT, FAR = [1, 1, 100, 100], [501, 501, 600, 600]
SHIFTED = [1, 61, 100, 160]  # IoU 40 / 160 with OBJECT
NOWHERE = [1001, 1, 1100, 100]
Rows = list[tuple[int, list[int], float]]


def truth(*rows: tuple[int, list[int]], difficult: list[bool] | None = None) -> dict[str, Any]:
    return {
        "image": np.zeros(len(rows), int),
        "label": np.array([label for label, _ in rows]),
        "box": np.array([box for _, box in rows], float),
        "difficult": np.array(difficult if difficult is not None else [False] * len(rows)),
    }


def claims(rows: Rows) -> dict[str, Any]:
    return {
        "image": np.zeros(len(rows), int),
        "label": np.array([label for label, _, _ in rows], int),
        "box": np.array([box for _, box, _ in rows], float).reshape(-1, 4),
        "score": np.array([score for _, _, score in rows], float),
    }


@pytest.mark.parametrize(
    ("cause", "rows"),
    [
        ("classification", [(DOG, OBJECT, 0.9)]),
        ("localisation", [(CAT, SHIFTED, 0.9)]),
        ("both", [(DOG, SHIFTED, 0.9)]),
        ("duplicate", [(CAT, OBJECT, 0.95), (CAT, OBJECT, 0.9)]),
        ("background", [(CAT, NOWHERE, 0.9)]),
        ("missed", []),
    ],
)
def test_each_cause_is_told_from_the_others(cause: str, rows: Rows) -> None:
    gt = truth((CAT, OBJECT), (DOG, FAR))
    errors = errors_by_cause(claims([*rows, (DOG, FAR, 0.99)]), gt, num_classes=2)
    found = {name for name in CAUSES if errors.count[name]}
    expected = {cause} | ({"missed"} if cause in ("both", "background") else set())  # nothing else found the cat
    assert found == expected


@pytest.mark.parametrize(
    ("cause", "rows"), [("classification", [(DOG, OBJECT, 0.9)]), ("localisation", [(CAT, SHIFTED, 0.9)])]
)
def test_mending_the_only_error_makes_the_detector_perfect(cause: str, rows: Rows) -> None:
    errors = errors_by_cause(claims([*rows, (DOG, FAR, 0.99)]), truth((CAT, OBJECT), (DOG, FAR)), num_classes=2)
    assert errors.map == pytest.approx(0.5)
    assert errors.map + errors.cost[cause] == pytest.approx(1.0)  # type: ignore[index]
    assert errors.count["missed"] == 0
    assert errors.cost["missed"] == pytest.approx(0.0)


def test_a_corrected_claim_on_a_taken_object_is_dropped_not_counted_twice() -> None:
    # the dog claim lies on a cat that is already found: mending only removes it
    gt = truth((CAT, OBJECT), (DOG, FAR))
    det = claims([(CAT, OBJECT, 0.9), (DOG, OBJECT, 0.99), (DOG, FAR, 0.5)])
    errors = errors_by_cause(det, gt, num_classes=2)
    assert errors.map == pytest.approx((1.0 + 0.5) / 2)
    assert errors.map + errors.cost["classification"] == pytest.approx(1.0)


def test_two_claims_corrected_onto_one_object_give_one_hit() -> None:
    gt = truth((CAT, OBJECT))
    errors = errors_by_cause(claims([(CAT, SHIFTED, 0.9), (CAT, SHIFTED, 0.8)]), gt, num_classes=1)
    assert errors.count["localisation"] == 2
    assert errors.map + errors.cost["localisation"] == pytest.approx(1.0)


def test_false_claims_above_a_hit_cost_what_their_removal_gains() -> None:
    gt = truth((CAT, OBJECT))
    errors = errors_by_cause(claims([(CAT, NOWHERE, 0.9), (CAT, OBJECT, 0.5)]), gt, num_classes=1)
    assert errors.map == pytest.approx(0.5)
    assert errors.cost["background"] == pytest.approx(0.5)
    assert errors.cost_of_false_positives == pytest.approx(0.5)
    assert errors.cost_of_false_negatives == pytest.approx(0.0)


def test_difficult_objects_are_neither_missed_nor_errors() -> None:
    gt = truth((CAT, OBJECT), (CAT, FAR), difficult=[True, False])
    errors = errors_by_cause(claims([(CAT, OBJECT, 0.9), (CAT, FAR, 0.8)]), gt, num_classes=1)
    assert errors.map == 1.0
    assert sum(errors.count.values()) == 0


def test_every_claim_has_one_cause_and_the_map_is_vocs() -> None:
    rng = np.random.default_rng(3)
    num_objects, num_claims = 80, 500
    corner = rng.integers(1, 60, (num_objects, 2))
    gt = {
        "image": rng.integers(0, 12, num_objects),
        "label": rng.integers(0, 3, num_objects),
        "box": np.concatenate([corner, corner + rng.integers(8, 30, (num_objects, 2))], axis=1).astype(float),
        "difficult": rng.random(num_objects) < 0.2,
    }
    near = rng.integers(0, num_objects, num_claims)
    det = {
        "image": gt["image"][near],
        "label": rng.integers(0, 3, num_claims),
        "score": rng.random(num_claims),
        "box": gt["box"][near] + rng.integers(-6, 7, (num_claims, 4)),
    }
    errors = errors_by_cause(det, gt, num_classes=3)
    assert errors.map == voc_average_precision(det, gt, num_classes=3, interpolation="area")["map"]
    assert all(count > 0 for count in errors.count.values())
    assert all(cost > -1e-12 for cost in errors.cost.values())
    assert all(errors.map + cost <= 1 + 1e-12 for cost in errors.cost.values())


def test_thresholds_must_be_in_order() -> None:
    with pytest.raises(ValueError, match="background_iou < foreground_iou"):
        errors_by_cause(claims([]), truth((CAT, OBJECT)), num_classes=1, background_iou=0.6)


def test_nothing_to_find_has_no_cost_to_state() -> None:
    errors = errors_by_cause(claims([(CAT, OBJECT, 0.9)]), truth((CAT, OBJECT), difficult=[True]), num_classes=1)
    assert np.isnan(errors.map)
    assert np.isnan(errors.cost["background"])


def test_without_an_overlap_there_is_no_object_to_mend_it_into() -> None:
    gt = {**truth((CAT, OBJECT)), "image": np.array([1])}
    errors = errors_by_cause(claims([(CAT, OBJECT, 0.9), (CAT, FAR, 0.8)]), gt, num_classes=1, background_iou=0.0)
    assert errors.count["localisation"] == 0
    assert errors.count["background"] == 2
    assert errors.cost["localisation"] == 0


def test_one_error_mends_an_object_the_surest_of_both_causes() -> None:
    gt = truth((CAT, OBJECT), (DOG, FAR))
    det = claims([(CAT, SHIFTED, 0.9), (DOG, OBJECT, 0.8), (DOG, FAR, 0.5)])
    errors = errors_by_cause(det, gt, num_classes=2)
    assert errors.map == pytest.approx((0 + 0.5) / 2)
    assert errors.cost["localisation"] == pytest.approx((1 + 0.5) / 2 - errors.map)
    assert errors.cost["classification"] == pytest.approx((0 + 1) / 2 - errors.map)  # dropped, not made a cat
    assert errors.count["missed"] == 0


def test_a_class_without_objects_left_is_0_if_claimed_and_else_leaves_the_mean() -> None:
    gt = truth((CAT, OBJECT), (DOG, FAR))
    found_dog = (DOG, FAR, 0.9)
    unclaimed = errors_by_cause(claims([found_dog]), gt, num_classes=2)
    claimed = errors_by_cause(claims([found_dog, (CAT, NOWHERE, 0.8)]), gt, num_classes=2)
    assert unclaimed.map == claimed.map == pytest.approx(0.5)
    assert unclaimed.cost["missed"] == unclaimed.cost_of_false_negatives == pytest.approx(0.5)
    assert claimed.cost["missed"] == claimed.cost_of_false_negatives == pytest.approx(0.0)


def test_a_detector_that_claims_nothing_misses_everything() -> None:
    errors = errors_by_cause(claims([]), truth((CAT, OBJECT), (DOG, FAR)), num_classes=2)
    assert errors.map == 0
    assert errors.count["missed"] == 2
    assert errors.cost["missed"] == errors.cost_of_false_negatives == 1.0


DRAWING = ("cv2", "matplotlib", "matplotlib.lines", "matplotlib.pyplot", "pandas", "seaborn")


class Tidecv:
    """tidecv's figures on our columns. What it only draws with is left out: slow to import, and OpenCV needs libGL."""

    def __init__(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for module in DRAWING:
                patch.setitem(sys.modules, module, MagicMock())
            pytest.importorskip("tidecv", reason="tidecv is not installed")
            from tidecv import ap, data, quantify
        self.data, self.quantify, self.points = data, quantify, ap.APDataObject

    def errors(self, det: dict[str, Any], gt: dict[str, Any]) -> ErrorsByCause:
        found, asked = self.data.Data("found"), self.data.Data("asked")
        for image in np.unique(np.concatenate([det["image"], gt["image"]])).tolist():
            asked.add_image(image, str(image))
        for image, label, box, score in zip(det["image"], det["label"], det["box"], det["score"], strict=True):
            found.add_detection(int(image), int(label), float(score), xywh(box))
        for image, label, box, difficult in zip(gt["image"], gt["label"], gt["box"], gt["difficult"], strict=True):
            (asked.add_ignore_region if difficult else asked.add_ground_truth)(int(image), int(label), xywh(box))
        run = self.quantify.TIDERun(asked, found, 0.5, 0.1, "bbox", max_dets=len(det["score"]))
        names = dict(zip(self.quantify.TIDE._error_types, CAUSES, strict=True))
        special = dict(zip(("FalsePos", "FalseNeg"), run.fix_special_errors().values(), strict=True))
        return ErrorsByCause(
            run.ap / 100,
            {names[kind]: cost / 100 for kind, cost in run.fix_main_errors().items()},
            {names[kind]: count for kind, count in run.count_errors().items()},
            special["FalsePos"] / 100,
            special["FalseNeg"] / 100,
        )


@pytest.fixture(scope="module")
def tidecv() -> Tidecv:
    return Tidecv()


def xywh(box: np.ndarray) -> list[float]:
    """Inclusive corners as tidecv's corner and size."""
    x1, y1, x2, y2 = map(float, box)
    return [x1, y1, x2 - x1 + 1, y2 - y1 + 1]


def all_causes(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Six classes with objects; of the fifth none is found, the sixth is never claimed.

    Objects of one class are disjoint, so no detection overlaps two of its class by .5: there VOC and COCO match alike.
    """
    rng = np.random.default_rng(seed)
    num_cells, num_claims = 60, 240
    cell, label = np.tile(np.arange(num_cells), 2), rng.integers(0, 6, 2 * num_cells)
    label[num_cells:] = (label[:num_cells] + rng.integers(1, 6, num_cells)) % 6  # the two of a cell overlap
    corner = np.stack([1 + 60 * (cell % 4), np.ones(2 * num_cells)], axis=1) + rng.uniform(0, 12, (2 * num_cells, 2))
    box = np.concatenate([corner, corner + rng.uniform(20, 40, (2 * num_cells, 2))], axis=1)
    gt = {"image": cell // 4, "label": label, "box": box, "difficult": np.zeros(2 * num_cells, bool)}
    kept = rng.permutation(2 * num_cells)[: num_cells + 20]
    gt = {name: column[kept] for name, column in gt.items()}
    near = rng.integers(0, len(kept), num_claims)
    claimed = np.where(rng.random(num_claims) < 0.7, gt["label"][near], rng.integers(0, 6, num_claims)) % 5
    noise = rng.normal(0, rng.choice([1, 8], (num_claims, 1)), (num_claims, 4))
    noise[rng.random(num_claims) < 0.1] += 500
    noise[claimed == 4] += 500
    det = {
        "image": gt["image"][near],
        "label": claimed,
        "score": rng.random(num_claims),
        "box": gt["box"][near] + noise,
    }
    det["box"][:, 2:] = np.maximum(det["box"][:, :2] + 1, det["box"][:, 2:])
    return det, gt


def figures(errors: ErrorsByCause) -> list[float]:
    return [errors.map, *errors.cost.values(), errors.cost_of_false_positives, errors.cost_of_false_negatives]


@pytest.mark.parametrize(("seed", "interpolation"), [(0, "area"), (1, "area"), (2, "11point"), (3, "11point")])
def test_equals_tidecv_with_the_same_interpolation(
    tidecv: Tidecv, seed: int, interpolation: Interpolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get_ap(points: Any) -> float:
        rows = sorted(points.data_points.values(), key=lambda row: -row[0])
        is_tp = np.array([row[1] for row in rows], bool)
        num_tp, rank = np.cumsum(is_tp)[is_tp], np.arange(1, len(rows) + 1)[is_tp]
        asked = points.num_gt_positives
        return 100 * average_precision(num_tp / asked, num_tp / rank, interpolation) if asked else 0.0

    det, gt = all_causes(seed)
    ours = errors_by_cause(det, gt, num_classes=6, interpolation=interpolation)
    assert all(count > 0 for count in ours.count.values())
    assert min(ours.cost["classification"], ours.cost["localisation"], ours.cost_of_false_negatives) > 0.01
    monkeypatch.setattr(tidecv.points, "get_ap", get_ap)
    theirs = tidecv.errors(det, gt)
    assert ours.count == theirs.count
    np.testing.assert_allclose(figures(ours), figures(theirs), rtol=0, atol=1e-12)


def test_tidecvs_101_recalls_are_less_than_a_point_from_the_area(tidecv: Tidecv) -> None:
    det, gt = all_causes(4)
    ours, theirs = errors_by_cause(det, gt, num_classes=6), tidecv.errors(det, gt)
    assert ours.count == theirs.count
    np.testing.assert_allclose(figures(ours), figures(theirs), rtol=0, atol=0.01)
    assert ours.map != theirs.map


def test_tidecv_takes_an_overlap_of_exactly_the_threshold_for_a_hit(tidecv: Tidecv) -> None:
    gt, det = truth((CAT, OBJECT)), claims([(CAT, [1, 1, 100, 50], 0.9)])
    ours, theirs = errors_by_cause(det, gt, num_classes=1), tidecv.errors(det, gt)
    assert ours.count["localisation"] == 1
    assert sum(theirs.count.values()) == 0


def test_tidecv_gives_a_second_claim_another_object_of_its_class(tidecv: Tidecv) -> None:
    gt = truth((CAT, OBJECT), (CAT, [11, 1, 110, 100]))
    det = claims([(CAT, OBJECT, 0.9), (CAT, [1, 2, 100, 101], 0.8)])
    ours, theirs = errors_by_cause(det, gt, num_classes=1), tidecv.errors(det, gt)
    assert (ours.count["duplicate"], ours.count["missed"]) == (1, 1)
    assert sum(theirs.count.values()) == 0


def test_tidecv_counts_a_class_that_has_claims_but_no_object_as_0(tidecv: Tidecv) -> None:
    gt, det = truth((CAT, OBJECT)), claims([(CAT, OBJECT, 0.9), (DOG, NOWHERE, 0.8)])
    assert errors_by_cause(det, gt, num_classes=2).map == pytest.approx(1.0)
    assert tidecv.errors(det, gt).map == pytest.approx(0.5)


def test_tidecv_gives_ignored_claims_a_cause_and_lets_them_mend_an_object(tidecv: Tidecv) -> None:
    # The first claim is on the difficult cat; the countable one beside it is overlapped by a quarter.
    gt = truth((CAT, SHIFTED), (CAT, FAR), (CAT, OBJECT), difficult=[False, False, True])
    det = claims([(CAT, OBJECT, 0.9), (CAT, FAR, 0.8)])
    ours, theirs = errors_by_cause(det, gt, num_classes=1), tidecv.errors(det, gt)
    assert ours.count == dict.fromkeys(CAUSES, 0) | {"missed": 1}
    assert theirs.count == dict.fromkeys(CAUSES, 0) | {"localisation": 1}
    assert ours.cost["localisation"] == 0
    assert theirs.cost["localisation"] == pytest.approx(0.5, abs=0.01)  # not quite half: 101 recalls
