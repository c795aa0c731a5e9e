"""YOLOv2's outputs, their places on the canvas, and decoding worked out by hand."""

import copy
import math

import pytest
import torch

from focalbench.boxes.priors import VOC_PRIORS
from focalbench.models import MODELS
from focalbench.models.retinanet import RetinaNet
from focalbench.models.yolov2 import YoloV2
from focalbench.structures import HeadOutputs


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return YoloV2(num_classes=3, backbone="tiny").eval()


def test_outputs_fit_each_other(tiny):
    with torch.no_grad():
        outputs = tiny(torch.randn(2, 3, 64, 96))
    num = (64 // 16) * (96 // 16) * 5
    assert outputs.cls_logits.shape == (2, num, 3)
    assert outputs.box_deltas.shape == (2, num, 4)
    assert outputs.objectness.shape == (2, num)
    assert outputs.anchors.shape == (num, 4)
    assert outputs.level_sizes == (num,)
    assert outputs.canvas == (64, 96)
    assert torch.equal(tiny.anchors_for((64, 96)), outputs.anchors)


def test_a_cell_sees_its_own_place(tiny):
    """A change in the top right corner moves that corner's outputs; without the passthrough, which shuffles places."""
    model = copy.deepcopy(tiny)
    model.fuse.conv.weight.data[:, :128] = 0
    images = torch.zeros(1, 3, 256, 320)
    changed = images.clone()
    changed[..., :16, 304:] = 3.0
    with torch.no_grad():
        moved = (model(changed).objectness - model(images).objectness).abs().view(16, 20, 5).sum(-1)
    row, column = divmod(int(moved.argmax()), 20)
    assert row <= 2
    assert column >= 17
    assert moved[8:, :].max() == 0
    assert moved[:, :10].max() == 0


def test_softmax_and_sigmoid_start_from_the_same_weights():
    """There is no background output, so all arms of a comparison are paired weight for weight."""
    models = []
    for activation in ("softmax", "sigmoid"):
        torch.manual_seed(7)
        models.append(YoloV2(num_classes=4, backbone="tiny", activation=activation).state_dict())
    assert models[0].keys() == models[1].keys()
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_the_prior_sets_the_first_objectness():
    torch.manual_seed(0)
    model = YoloV2(num_classes=2, backbone="tiny", prior_prob=0.02)
    model.predict.weight.data.zero_()
    with torch.no_grad():
        outputs = model(torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(outputs.objectness.sigmoid(), torch.full_like(outputs.objectness, 0.02))
    assert outputs.cls_logits.abs().max() == 0


def test_without_a_prior_objectness_starts_near_one_half(tiny):
    with torch.no_grad():
        assert (tiny(torch.randn(2, 3, 64, 64)).objectness.sigmoid() - 0.5).abs().max() < 0.25


def test_a_pretrained_backbone_stands_where_darknet_does(tmp_path):
    made = {"num_classes": 2, "backbone": "efficientnet_lite0", "norm": "frozen"}
    model = YoloV2(**made, weights="imagenet", trainable_stages=1).train()
    retinanet = RetinaNet(num_classes=5, backbone="efficientnet_lite0", weights="imagenet", norm="frozen")
    expected = retinanet.backbone.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.trunk.backbone.state_dict().items())
    images = torch.randn(2, 3, 64, 96)
    outputs = model(images)
    assert outputs.cls_logits.shape == (2, 2 * 3 * 5, 2)  # cells of 32 px
    fine, coarse = model.trunk(images)
    assert [tuple(x.shape) for x in (fine, coarse)] == [(2, 112, 4, 6), (2, 320, 2, 3)]
    assert (fine.requires_grad, coarse.requires_grad) == (False, True)

    torch.save({"model": retinanet.state_dict()}, tmp_path / "retinanet.pt")
    from_file = YoloV2(**made, weights=str(tmp_path / "retinanet.pt"))
    assert torch.equal(from_file.trunk.backbone.stem[1].conv.weight, expected["stem.1.conv.weight"])
    torch.save(model.state_dict(), tmp_path / "whole.pt")
    assert torch.equal(YoloV2(**made, weights=str(tmp_path / "whole.pt")).predict.weight, model.predict.weight)


def test_a_canvas_of_other_sizes_is_refused(tiny):
    with pytest.raises(ValueError, match="multiples of 32"):
        tiny(torch.zeros(1, 3, 64, 80))


@pytest.mark.parametrize("size", [(32, 32), (96, 64), (160, 160)])
def test_one_network_takes_many_canvas_sizes(tiny, size):
    with torch.no_grad():
        assert tiny(torch.zeros(1, 3, *size)).anchors.shape[0] == size[0] * size[1] // 256 * 5


def quiet_outputs(model, canvas=(64, 64)):
    """No objects anywhere: objectness of about 5e-5."""
    anchors = model.anchors_for(canvas)
    num = len(anchors)
    return HeadOutputs(
        torch.zeros(1, num, 3), torch.zeros(1, num, 4), anchors, canvas, (num,), torch.full((1, num), -10.0)
    )


def test_decode_by_hand():
    """Stride 16, prior 2 of 2 at row 1, column 2: sigmoid(0) is the cell's middle, exp(log 2) doubles the width."""
    model = YoloV2(num_classes=3, backbone="tiny", priors=((1.0, 1.0), (0.5, 1.0)))
    outputs = quiet_outputs(model)
    index = (1 * 4 + 2) * 2 + 1
    outputs.objectness[0, index] = math.log(4)  # .8
    outputs.cls_logits[0, index] = torch.tensor([0.0, math.log(2), 0.0])  # .25, .5, .25
    outputs.box_deltas[0, index, 2] = math.log(2)
    (found,) = model.decode(outputs, score_thresh=0.3, nms_thresh=0.5, max_detections=10)
    torch.testing.assert_close(found.scores, torch.tensor([0.4]))
    assert found.labels.tolist() == [1]
    centre_x, centre_y, width, height = 2 * 16 + 8, 1 * 16 + 8, 0.5 * 32 * 2, 32
    expected = [centre_x - width / 2, centre_y - height / 2, centre_x + width / 2, centre_y + height / 2]
    torch.testing.assert_close(found.boxes, torch.tensor([expected]))


def test_sigmoid_scores_by_hand():
    model = YoloV2(num_classes=3, backbone="tiny", activation="sigmoid", priors=((1.0, 1.0),))
    outputs = quiet_outputs(model)
    outputs.objectness[0, 5] = math.log(4)
    outputs.cls_logits[0, 5] = torch.tensor([-10.0, math.log(3), -10.0])
    (found,) = model.decode(outputs, score_thresh=0.3, nms_thresh=0.5, max_detections=10)
    torch.testing.assert_close(found.scores, torch.tensor([0.6]))


def test_nms_is_per_class_and_the_best_come_first():
    model = YoloV2(num_classes=2, backbone="tiny", activation="sigmoid", priors=((1.0, 1.0), (1.0, 1.1)))
    anchors = model.anchors_for((64, 64))
    num = len(anchors)
    outputs = HeadOutputs(
        torch.full((1, num, 2), -10.0), torch.zeros(1, num, 4), anchors, (64, 64), (num,), torch.full((1, num), 10.0)
    )
    outputs.cls_logits[0, 10] = torch.tensor([1.0, 2.0])
    outputs.cls_logits[0, 11] = torch.tensor([3.0, -10.0])
    (found,) = model.decode(outputs, score_thresh=0.5, nms_thresh=0.5, max_detections=10)
    assert found.labels.tolist() == [0, 1]  # class 0 of prior 10 fell to the better one of prior 11
    assert found.scores[0] > found.scores[1]
    (found,) = model.decode(outputs, score_thresh=0.5, nms_thresh=0.5, max_detections=1)
    assert found.labels.tolist() == [0]


def test_boxes_end_at_the_canvas():
    model = YoloV2(num_classes=3, backbone="tiny", priors=((4.0, 4.0),))
    outputs = quiet_outputs(model)
    outputs.objectness[0, 0] = 10.0
    (found,) = model.decode(outputs, score_thresh=0.3, nms_thresh=0.5, max_detections=3)
    assert len(found.boxes) == 3
    assert found.boxes.min() >= 0
    assert found.boxes.max() <= 64


def test_nothing_found_is_an_empty_result(tiny):
    (found,) = tiny.decode(quiet_outputs(tiny), score_thresh=0.5, nms_thresh=0.5, max_detections=10)
    assert (found.boxes.shape, found.scores.shape, found.labels.shape) == ((0, 4), (0,), (0,))


def test_the_registry_builds_it():
    model = MODELS["yolov2"](num_classes=2, backbone="tiny", activation="sigmoid", prior_prob=0.1)
    torch.testing.assert_close(model.priors, torch.tensor(VOC_PRIORS))


def test_priors_travel_with_the_weights(tiny):
    """Priors found on a training set must be there when a trial folder alone is left."""
    other = YoloV2(num_classes=3, backbone="tiny", priors=((1.0, 1.0),) * 5)
    assert not torch.equal(other.anchors_for((64, 64)), tiny.anchors_for((64, 64)))
    other.load_state_dict(tiny.state_dict())
    assert torch.equal(other.anchors_for((64, 64)), tiny.anchors_for((64, 64)))


def test_the_pixel_range_is_undone(tiny):
    """Images normalised as everywhere else reach the first convolution as 0..1, the range of darknet's weights."""
    seen = []
    handle = tiny.trunk.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    pixels = torch.rand(1, 3, 32, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        tiny((pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    handle.remove()
    torch.testing.assert_close(seen[0], pixels)
