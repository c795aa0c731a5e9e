"""The hardest negatives become regions, told by what is annotated there."""

import numpy as np
import pytest

from focalbench.analysis.box_kinds import KINDS
from focalbench.analysis.hard_tail import Candidates, HardTail
from focalbench.metrics.loss_histogram import focal_loss_of_margin


def _candidates(*rows: tuple[float, int, list[float]]) -> Candidates:
    margin, label, boxes = zip(*rows, strict=True)
    return Candidates(np.array(margin, float), np.array(label), np.array(boxes, np.float32))


def _objects(*rows: tuple[int, bool, list[float]]) -> dict[str, np.ndarray]:
    return {
        "label": np.array([row[0] for row in rows], np.int64),
        "difficult": np.array([row[1] for row in rows], bool),
        "box": np.array([row[2] for row in rows], np.float32).reshape(-1, 4),
    }


def _tail(candidates: Candidates, objects: dict[str, np.ndarray], gamma: float = 2.0, keep: int = 10) -> HardTail:
    tail = HardTail(num_regions=keep, gamma=gamma)
    tail.add(7, candidates, candidates.boxes, objects)
    return tail


@pytest.mark.parametrize(
    ("objects", "kind"),
    [
        (_objects((1, False, [10, 10, 50, 50])), "object"),
        (_objects((1, True, [10, 10, 50, 50])), "difficult"),
        (_objects((0, True, [10, 10, 50, 50])), "difficult"),
        (_objects((0, False, [10, 10, 50, 50])), "other class"),
        (_objects((1, False, [40, 10, 80, 50])), "near"),
        (_objects((1, False, [48, 48, 90, 90])), "nothing"),
        (_objects(), "nothing"),
    ],
)
def test_a_region_is_told_by_what_is_annotated_there(objects: dict[str, np.ndarray], kind: str) -> None:
    tail = _tail(_candidates((-1.0, 1, [10, 10, 50, 50])), objects)
    assert [region.kind for region in tail.regions] == [kind]
    assert tail.totals[kind]["regions"] == 1
    assert set(tail.totals) == set(KINDS)


def test_the_object_is_the_one_that_the_kind_speaks_of() -> None:
    """Not the one with the largest overlap, when that is of another class."""
    objects = _objects((0, False, [10, 10, 50, 50]), (1, False, [10, 10, 50, 60]))
    (region,) = _tail(_candidates((-1.0, 1, [10, 10, 50, 50])), objects).regions
    assert (region.kind, region.overlapped) == ("object", 1)
    assert region.overlap == pytest.approx(41 / 51)


def test_elements_of_one_place_and_class_are_one_region() -> None:
    found = _candidates(
        (-2.0, 1, [10, 10, 50, 50]),
        (-1.0, 1, [12, 12, 52, 52]),
        (-1.0, 0, [12, 12, 52, 52]),  # another class
        (0.5, 1, [200, 10, 240, 50]),  # another place
    )
    tail = _tail(found, _objects())
    assert sorted(region.num_elements for region in tail.regions) == [1, 1, 2]
    first = tail.regions[0]
    assert (first.image, first.label, first.num_elements) == (7, 1, 2)
    assert first.score == pytest.approx(1 / (1 + np.exp(-2.0)))
    assert first.loss == pytest.approx(focal_loss_of_margin(np.array([-2.0, -1.0]), 2.0).sum())
    total = sum(kind["loss"] for kind in tail.totals.values())
    assert total == pytest.approx(focal_loss_of_margin(found.margin, 2.0).sum())


def test_only_the_costliest_are_kept_but_all_are_summed() -> None:
    tail = HardTail(num_regions=3, gamma=0.0)
    for image in range(20):
        found = _candidates((-float(image), 0, [10, 10, 50, 50]))
        tail.add(image, found, found.boxes, _objects())
    assert [region.image for region in tail.regions] == [19, 18, 17]
    assert tail.totals["nothing"]["regions"] == 20


def test_an_image_without_hard_negatives_adds_nothing() -> None:
    tail = HardTail(num_regions=3, gamma=0.0)
    none = Candidates(np.zeros(0), np.zeros(0, np.int64), np.zeros((0, 4), np.float32))
    tail.add(0, none, none.boxes, _objects((0, False, [1, 1, 9, 9])))
    assert tail.regions == []


def test_the_document_says_what_the_loss_is_without_them() -> None:
    tail = _tail(_candidates((-2.0, 1, [10, 10, 50, 50])), _objects((0, False, [10, 10, 50, 50])))
    loss = tail.regions[0].loss
    document = tail.document(negative_loss=4 * loss, class_loss=8 * loss, image_ids=["x"] * 8, classes=["a", "b"])
    assert document["shown"] == pytest.approx(
        {"regions": 1, "share_of_negative_loss": 0.25, "share_of_class_loss": 0.125}
    )
    (row,) = document["regions"]
    assert (row["class"], row["overlapped"], row["kind"], row["image"]) == ("b", "a", "other class", "x")
    empty = tail.document(negative_loss=0.0, class_loss=0.0, image_ids=["x"] * 8, classes=["a", "b"])
    assert empty["shown"]["share_of_negative_loss"] == 0.0
    unknown = tail.document(negative_loss=4 * loss, class_loss=None, image_ids=["x"] * 8, classes=["a", "b"])
    assert unknown["shown"] == {"regions": 1, "share_of_negative_loss": 0.25, "share_of_class_loss": None}
