"""Errors by cause, on cases where each cause is known."""

from typing import Any

import numpy as np
import pytest

from focalbench.metrics.tide import CAUSES, errors_by_cause
from focalbench.metrics.voc import voc_average_precision

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
