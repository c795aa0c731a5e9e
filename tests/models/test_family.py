"""What every detector has to keep to, so that training, evaluation and analysis need not know which one it is."""

import pytest
import torch
from torchvision.ops import box_iou

from focalbench.models import MODELS

K = 3
CANVAS = (64, 96)


def build(name, activation="sigmoid"):
    torch.manual_seed(3)
    return MODELS[name](num_classes=K, backbone="tiny", activation=activation, prior_prob=0.01, pre_nms_top=200).eval()


@pytest.fixture(scope="module", params=sorted(MODELS))
def model(request):
    return build(request.param)


@pytest.fixture(scope="module")
def outputs(model):
    """With logits and deltas of some spread: those of an untrained head are all but constant."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        outputs = model(torch.randn(2, 3, *CANVAS, generator=generator))
    outputs.cls_logits.normal_(std=2.0, generator=generator)
    outputs.box_deltas.normal_(std=0.3, generator=generator)
    if outputs.objectness is not None:
        outputs.objectness.normal_(std=2.0, generator=generator)
    return outputs


def test_outputs_anchors_and_levels_fit_each_other(model, outputs):
    anchors = model.anchors_for(CANVAS)
    assert torch.equal(outputs.anchors, anchors)
    assert outputs.cls_logits.shape == (2, len(anchors), K)
    assert outputs.box_deltas.shape == (2, len(anchors), 4)
    assert sum(outputs.level_sizes) == len(anchors)
    assert outputs.canvas == CANVAS


@pytest.mark.parametrize("name", sorted(MODELS))
def test_softmax_has_a_background_where_no_objectness_tells_it(name):
    with torch.no_grad():
        outputs = build(name, "softmax")(torch.zeros(1, 3, *CANVAS))
    assert outputs.cls_logits.shape[-1] == K + (outputs.objectness is None)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_loss_changes_no_weight_but_those_of_the_class_outputs(name):
    sigmoid, softmax = build(name).state_dict(), build(name, "softmax").state_dict()
    assert sigmoid.keys() == softmax.keys()
    others = [key for key in sigmoid if sigmoid[key].shape == softmax[key].shape]
    assert len(others) > len(sigmoid) / 2
    assert all(torch.equal(sigmoid[key], softmax[key]) for key in others)


def test_every_anchor_has_scores_and_a_box(model, outputs):
    scores, boxes = model.dense(outputs)
    assert scores.shape == (2, len(outputs.anchors), K)
    assert boxes.shape == (2, len(outputs.anchors), 4)
    assert scores.min() >= 0
    assert scores.max() <= 1
    assert torch.isfinite(boxes).all()


def test_detections_are_boxes_of_anchors_chosen_by_the_settings(model, outputs):
    scores, boxes = model.dense(outputs)
    height, width = CANVAS
    cut = torch.stack((boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)), dim=-1).flatten(-2)
    for image, found in enumerate(model.decode(outputs, score_thresh=0.3, nms_thresh=0.5, max_detections=12)):
        assert len(found.scores) == 12
        assert found.scores.min() > 0.3
        assert torch.equal(found.scores, found.scores.sort(descending=True).values)
        for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
            same = (cut[image] - box).abs().amax(dim=-1) < 1e-3
            assert (scores[image][same, label] - score).abs().min() < 1e-6
        overlap = box_iou(found.boxes, found.boxes).fill_diagonal_(0)
        assert overlap[found.labels[:, None] == found.labels].max() <= 0.5


def test_nothing_is_found_above_an_unreachable_score(model, outputs):
    found = model.decode(outputs, score_thresh=1.0, nms_thresh=0.5, max_detections=9)
    assert [len(image.scores) for image in found] == [0, 0]
