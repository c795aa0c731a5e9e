"""Which objects anchors answer for: worked out by hand, and against the matcher that a training uses."""

import dataclasses

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from focalbench.analysis.anchor_coverage import Alternative, Layout, advise, measure_coverage, try_alternatives
from focalbench.data.dataset import DetectionData, FileImages, load_data
from focalbench.data.synthetic import synthesize
from focalbench.data.voc import Record
from focalbench.models.backbones import HeadDefaults
from focalbench.models.retinanet import RetinaNet, anchor_pyramid, head_settings

# Three levels of one square anchor a cell, 16, 32 and 64 px wide, in cells of 8, 16 and 32 px.
SQUARE = Layout((64, 64), HeadDefaults(num_levels=3, anchor_scale=2.0, anchor_octaves=1), ratios=(1.0,))


def data_of(*boxes, labels=None, difficult=None, canvas=(64, 64), tmp_path="."):
    """One image of the canvas's size; ``boxes`` are continuous xyxy edges."""
    number = len(boxes)
    record = Record(
        image_id="one",
        year="2007",
        image_path=tmp_path,
        width=canvas[1],
        height=canvas[0],
        boxes=np.array([[x + 1, y + 1, x2, y2] for x, y, x2, y2 in boxes], np.float32),
        labels=np.array(labels or [0] * number, np.int64),
        difficult=np.array(difficult or [False] * number),
    )
    return DetectionData(FileImages((record,), canvas, "warp"), (record,), ("cat", "dog"), canvas, "warp", "")


def test_matched_forced_and_without_by_hand():
    # One box is exactly the 16 px anchor of the cell around (20, 20); the other fits within four anchors of 16 px.
    found = measure_coverage(data_of((12, 12, 28, 28), (40, 40, 44, 44), labels=[0, 1]), SQUARE)
    assert found.best_iou[0] == 1
    assert found.best_iou[1] == pytest.approx(16 / 256)
    assert found.counts() == {
        "objects": 2, "matched": 1, "forced": 1, "without": 0, "anchors_an_object": found.num_anchors.mean()
    }  # fmt: skip
    assert found.share_below == 0.5
    by_class = found.by_class(("cat", "dog"))
    assert (by_class["cat"]["matched"], by_class["dog"]["forced"]) == (1, 1)
    by_size = found.by_size()
    assert (by_size["16 to 32 px"]["matched"], by_size["below 16 px"]["forced"]) == (1, 1)
    assert by_size["from 128 px"] == {
        "objects": 0, "matched": 0, "forced": 0, "without": 0, "anchors_an_object": None
    }  # fmt: skip


def test_an_object_whose_best_anchor_overlaps_a_neighbour_more_is_left_without():
    # Every anchor that holds the small box whole overlaps the large one more.
    layout = dataclasses.replace(SQUARE, head=HeadDefaults(num_levels=3, anchor_scale=8.0, anchor_octaves=1))
    found = measure_coverage(data_of((4, 4, 60, 60), (30, 30, 34, 34)), layout)
    assert found.counts()["without"] == 1
    assert found.best_iou[1] == 0


def test_difficult_objects_do_not_count():
    found = measure_coverage(data_of((12, 12, 28, 28), (40, 40, 44, 44), difficult=[False, True]), SQUARE)
    assert found.counts()["objects"] == 1


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = synthesize(tmp_path_factory.mktemp("shapes"), 20, 1, seed=3)
    return load_data(root, ("2007/train",), "auto", 128, cache="none")


def test_the_best_iou_is_that_of_the_networks_own_anchors(shapes):
    layout = Layout((128, 128), head_settings("tiny"))
    found = measure_coverage(shapes, layout)
    anchors = RetinaNet(num_classes=4, backbone="tiny").anchors_for((128, 128))
    assert found.anchors_per_image == len(anchors)
    targets = shapes.targets(range(len(shapes)))
    best = torch.cat(
        [box_iou(b[v >= 0], anchors).amax(1) for b, v in zip(targets.boxes, targets.labels, strict=True)]
    ).numpy()
    kept = found.num_anchors > 0
    np.testing.assert_allclose(found.best_iou[kept], best[kept], rtol=1e-5)
    assert kept.mean() > 0.9
    assert (found.best_iou[~kept] == 0).all()


def test_objects_that_grow_with_the_canvas_are_matched_by_larger_anchors(shapes):
    layout = Layout((128, 128), head_settings("tiny"))
    doubled = Layout((256, 256), head_settings("tiny", anchor_scale=4.0))
    small, large = measure_coverage(shapes, layout), measure_coverage(shapes, doubled)
    np.testing.assert_allclose(2 * small.sides, large.sides, rtol=1e-5)


def test_alternatives_hold_the_layout_itself_and_are_sorted(shapes):
    layout = Layout((128, 128), head_settings("tiny"))
    found = try_alternatives(shapes, layout)
    assert [one.share_below for one in found] == sorted(one.share_below for one in found)
    (as_is,) = [one for one in found if not one.setting]
    assert as_is.share_below == measure_coverage(shapes, layout).share_below
    by_setting = {one.setting: one for one in found}
    assert by_setting["model.anchor_octaves=3"].anchors_per_image == as_is.anchors_per_image * 3 // 2
    assert by_setting["data.image_size=[192,192]"].anchors_per_image > 2 * as_is.anchors_per_image
    assert by_setting["model.anchor_ratios=[0.25,0.5,1,2,4]"].anchors_per_image == as_is.anchors_per_image * 5 // 3


def test_a_setting_does_what_it_says():
    changed = head_settings("tiny", anchor_scale=1.0)
    plain = anchor_pyramid(head_settings("tiny"), (1.0,)).on_canvas((64, 64))
    halved = anchor_pyramid(changed, (1.0,)).on_canvas((64, 64))
    torch.testing.assert_close((halved[:, 2:] - halved[:, :2]) * 2, plain[:, 2:] - plain[:, :2])


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ({"": 0.01, "model.anchor_scale=1": 0.0}, "nothing to fix"),
        ({"": 0.4, "model.anchor_scale=1": 0.1, "x=2": 0.3}, "model.anchor_scale=1: 10.0 %"),
        ({"": 0.4, "model.anchor_scale=1": 0.39}, "no single change helps much"),
    ],
)
def test_the_advice_names_the_best_change_that_is_worth_it(shares, words):
    assert words in advise([Alternative(setting, share, 100) for setting, share in shares.items()])
