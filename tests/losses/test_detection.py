"""RetinaNet's criterion against torchvision's, and the parts that losses are compared by."""

import pytest
import torch
from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetRegressionHead

from focalbench.boxes.anchors import cell_anchors, grid_anchors
from focalbench.boxes.coding import encode_boxes
from focalbench.boxes.matching import BACKGROUND, IGNORE, match_anchors
from focalbench.losses import LOSSES
from focalbench.losses.base import ClassificationLoss
from focalbench.losses.detection import DetectionLoss, aligned_iou, anchor_labels, matched_boxes
from focalbench.structures import HeadOutputs, Targets

NUM_CLASSES = 3


def focal():
    return LOSSES["focal"](num_classes=NUM_CLASSES, gamma=2.0, alpha=0.25)


def scene(num_images=2, *, seed=0):
    """Random head outputs on 32 anchors an image, and two objects each, one image with one."""
    generator = torch.Generator().manual_seed(seed)
    anchors = grid_anchors(cell_anchors([16.0, 24.0], [1.0]), (4, 4), (16, 16))
    outputs = HeadOutputs(
        torch.randn(num_images, 32, NUM_CLASSES, generator=generator).requires_grad_(),
        (torch.randn(num_images, 32, 4, generator=generator) * 0.3).requires_grad_(),
        anchors,
        (64, 64),
        (32,),
    )
    boxes = torch.tensor([[[2.0, 3, 17, 20], [30.0, 28, 55, 50]]]).repeat(num_images, 1, 1)
    labels = torch.tensor([[0, 2]]).repeat(num_images, 1)
    labels[1:, 1] = -1
    boxes[1:, 1] = 0
    return outputs, Targets(boxes, labels)


def criterion(loss=None, **options):
    return DetectionLoss(loss or focal(), num_classes=NUM_CLASSES, **options)


def test_torchvisions_losses_on_one_image():
    """torchvision divides by an image's positives and averages over images: with one image that is the same thing."""
    outputs, targets = scene(1)
    terms = criterion(box_beta=0.0)(outputs, targets)
    matched = match_anchors(outputs.anchors, targets.boxes, targets.labels, pos_iou=0.5, neg_iou=0.4)
    head_outputs = {"cls_logits": outputs.cls_logits, "bbox_regression": outputs.box_deltas}
    truth = [{"labels": targets.labels[0], "boxes": targets.boxes[0]}]
    cls = RetinaNetClassificationHead(8, 2, NUM_CLASSES).compute_loss(truth, head_outputs, [matched[0]])
    box = RetinaNetRegressionHead(8, 2).compute_loss(truth, head_outputs, [outputs.anchors], [matched[0]])
    assert terms["num_pos"] == (matched >= 0).sum() == 2
    assert (matched == IGNORE).any()
    torch.testing.assert_close(terms["cls"], cls)
    torch.testing.assert_close(terms["box"], box)


def test_one_normaliser_for_the_whole_batch():
    """The batch's loss is the sum over its images' positives, not a mean of images."""
    outputs, targets = scene(2)
    whole = criterion()(outputs, targets)
    sums = {"cls": 0.0, "box": 0.0, "num_pos": 0}
    for image in range(2):
        part = slice(image, image + 1)
        one = HeadOutputs(outputs.cls_logits[part], outputs.box_deltas[part], outputs.anchors, (64, 64), (32,))
        terms = criterion()(one, Targets(targets.boxes[part], targets.labels[part]))
        sums = {
            name: sums[name] + (terms[name] * terms["num_pos"] if name != "num_pos" else terms[name]) for name in sums
        }
    assert whole["num_pos"] == sums["num_pos"]
    for name in ("cls", "box"):
        torch.testing.assert_close(whole[name], sums[name] / sums["num_pos"])


def test_both_forms_of_the_box_loss_agree():
    """By index on a CPU, by mask on a GPU: value and gradient."""
    outputs, targets = scene(2)
    loss = criterion()
    matched = loss.match(outputs.anchors, targets)
    by_index = loss._box_loss(outputs, targets, matched)
    (expected,) = torch.autograd.grad(by_index, outputs.box_deltas)
    pretended = matched.clone().as_subclass(_OnGpu)
    by_mask = loss._box_loss(outputs, targets, pretended).as_subclass(torch.Tensor)
    (found,) = torch.autograd.grad(by_mask, outputs.box_deltas)
    torch.testing.assert_close(by_mask, by_index)
    torch.testing.assert_close(found.as_subclass(torch.Tensor), expected)


class _OnGpu(torch.Tensor):
    """A CPU tensor that says it is on a GPU."""

    is_cuda = True


def test_factors():
    outputs, targets = scene()
    plain, scaled = criterion()(outputs, targets), criterion(weight=3.0, box_weight=0.5)(outputs, targets)
    torch.testing.assert_close(scaled["cls"], 3 * plain["cls"])
    torch.testing.assert_close(scaled["box"], 0.5 * plain["box"])


@pytest.mark.parametrize("padding", [0, 2])
def test_a_batch_without_objects_is_finite(padding):
    outputs, _ = scene()
    targets = Targets(torch.zeros(2, padding, 4), torch.full((2, padding), -1))
    terms = criterion()(outputs, targets)
    assert terms["num_pos"] == 0
    assert terms["box"] == 0
    assert 0 < terms["cls"] < 1e3
    (terms["cls"] + terms["box"]).backward()
    assert outputs.cls_logits.grad.isfinite().all()
    assert outputs.box_deltas.grad.abs().max() == 0


def test_labels_of_anchors():
    targets = Targets(torch.zeros(1, 2, 4), torch.tensor([[2, 1]]))
    matched = torch.tensor([[0, BACKGROUND, 1, IGNORE]])
    assert anchor_labels(matched, targets, NUM_CLASSES).tolist() == [[2, 3, 1, -1]]
    empty = Targets(torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.int64))
    assert anchor_labels(torch.full((1, 4), BACKGROUND), empty, NUM_CLASSES).tolist() == [[3] * 4]
    assert matched_boxes(torch.full((1, 4), BACKGROUND), empty).shape == (1, 4, 4)


class _Recorder(ClassificationLoss):
    """A loss that keeps what it is asked."""

    needs_quality = True
    needs_boxes = True

    def forward(self, logits, labels, *, quality=None, boxes=None):
        self.asked = labels, quality, boxes
        return logits.float().sum() * 0


def test_a_loss_that_asks_sees_boxes_and_their_quality():
    outputs, targets = scene()
    with torch.no_grad():  # anchor 0 predicts its object exactly
        outputs.box_deltas[0, 0] = encode_boxes(targets.boxes[0, :1], outputs.anchors[:1])[0]
    loss = _Recorder(NUM_CLASSES)
    criterion(loss)(outputs, targets)
    labels, quality, boxes = loss.asked
    assert labels[0, 0] == 0
    assert quality[0, 0].item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(boxes[0, 0], targets.boxes[0, 0], atol=1e-4, rtol=1e-5)
    background = (labels == NUM_CLASSES) | (labels == -1)
    assert quality[background].abs().max() == 0
    assert ((quality >= 0) & (quality <= 1)).all()
    assert not quality.requires_grad
    assert not boxes.requires_grad


def test_the_class_problem_is_what_forward_computes():
    outputs, targets = scene()
    loss = criterion(weight=2.0)
    problem = loss.class_problem(outputs, targets)
    torch.testing.assert_close(2.0 * problem.loss(loss.classification), loss(outputs, targets)["cls"])


def test_counting_matches_the_labels():
    outputs, targets = scene()
    counts = criterion().count(outputs.anchors, targets)["classification"]
    labels = criterion().class_problem(outputs, targets).labels
    assert counts.positives_per_class == tuple(int((labels == k).sum()) for k in range(NUM_CLASSES))
    assert counts.negatives == int((labels == NUM_CLASSES).sum())
    assert counts.positives > 0


def test_progress_reaches_the_loss():
    loss = LOSSES["focal"](
        num_classes=NUM_CLASSES, gamma={"schedule": "linear", "values": [0, 4], "at": [0, 1]}, alpha=0.25
    )
    wrapped = criterion(loss)
    wrapped.set_progress(0.5)
    assert loss.scheduled()["gamma"] == pytest.approx(2.0)
    assert any(key.startswith("classification.") for key in wrapped.state_dict())


def test_aligned_iou_by_hand():
    a = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 10], [0.0, 0, 10, 10], [5.0, 5, 5, 5]])
    b = torch.tensor([[0.0, 0, 10, 10], [5.0, 0, 15, 10], [20.0, 0, 30, 10], [5.0, 5, 5, 5]])
    torch.testing.assert_close(aligned_iou(a, b), torch.tensor([1.0, 1 / 3, 0.0, 0.0]))


def test_a_step_looks_at_the_boxes_of_positives_unless_the_loss_looks_at_more():
    outputs, targets = scene(2)
    matched = criterion().match(outputs.anchors, targets)
    assert torch.equal(criterion().boxes_at(matched), matched >= 0)
    assert criterion(LOSSES["ohem"](NUM_CLASSES)).boxes_at(matched) is None
