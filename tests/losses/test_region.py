"""YOLOv2's criterion against darknet's region layer, written out as loops over cells, priors and objects."""

import math

import pytest
import torch
from torch.nn import functional as F

from focalbench.boxes.yolo import place_priors
from focalbench.losses import LOSSES
from focalbench.losses.base import ClassificationLoss, Counts
from focalbench.losses.region import RegionLoss
from focalbench.structures import HeadOutputs, Targets

NUM_CLASSES = 3
CANVAS, STRIDE = (96, 64), 32
PRIORS = ((0.6, 0.8), (1.5, 1.2))


class SoftmaxCrossEntropy(ClassificationLoss):
    """The softmax form by torch's own function; background last."""

    activation = "softmax"

    def forward(self, logits, labels, *, quality=None, boxes=None):
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-1, reduction="sum")


class SigmoidCrossEntropy(ClassificationLoss):
    """The sigmoid form by torch's own function."""

    def forward(self, logits, labels, *, quality=None, boxes=None):
        hot = F.one_hot(labels.clamp(min=0), self.num_classes + 1)[..., :-1].float()
        loss = F.binary_cross_entropy_with_logits(logits, hot, reduction="none")
        return (loss * (labels >= 0)[..., None]).sum()


def scene(seed=0, num_images=2):
    """Random outputs, two objects in the first image, one in the others; logits as one leaf (N, R, 5 + K)."""
    generator = torch.Generator().manual_seed(seed)
    anchors = place_priors(PRIORS, CANVAS, STRIDE)
    raw = torch.randn(num_images, len(anchors), 5 + NUM_CLASSES, generator=generator) * 0.5
    boxes = torch.tensor([[[6.0, 8, 28, 30], [20.0, 34, 60, 70]]]).repeat(num_images, 1, 1)
    labels = torch.tensor([[2, 0]]).repeat(num_images, 1)
    labels[1:, 0] = -1
    boxes[1:, 0] = 0
    return raw.requires_grad_(), Targets(boxes, labels)


def outputs_of(raw):
    anchors = place_priors(PRIORS, CANVAS, STRIDE)
    return HeadOutputs(raw[..., 5:], raw[..., :4], anchors, CANVAS, (len(anchors),), raw[..., 4])


def iou_of(a, b):
    """IoU of two (x, y, w, h) boxes around their centres."""
    width = min(a[0] + a[2] / 2, b[0] + b[2] / 2) - max(a[0] - a[2] / 2, b[0] - b[2] / 2)
    height = min(a[1] + a[3] / 2, b[1] + b[3] / 2) - max(a[1] - a[3] / 2, b[1] - b[3] / 2)
    inter = max(width, 0) * max(height, 0)
    return inter / (a[2] * a[3] + b[2] * b[3] - inter)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def truths_of(boxes, labels):
    """darknet's truths of one image: (x, y, w, h) in shares of the canvas, and the class."""
    height, width = CANVAS
    return [
        (((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height), label)
        for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True)
        if label >= 0
    ]


def darknet_image(raw, truths, *, seen, rescore=True, area_scale=False, thresh=0.6):
    """darknet's delta, the negative gradient on the raw outputs of one image; and its number of responsible boxes."""
    rows, columns, num = CANVAS[0] // STRIDE, CANVAS[1] // STRIDE, len(PRIORS)
    delta = [[0.0] * (5 + NUM_CLASSES) for _ in raw]
    slope = lambda value: value * (1 - value)  # noqa: E731

    def box(index):
        cell, n = divmod(index, num)
        j, i = divmod(cell, columns)
        t = raw[index]
        w, h = PRIORS[n][0] * math.exp(t[2]) / columns, PRIORS[n][1] * math.exp(t[3]) / rows
        return (i + sigmoid(t[0])) / columns, (j + sigmoid(t[1])) / rows, w, h

    def pull(index, truth, scale):
        cell, n = divmod(index, num)
        j, i = divmod(cell, columns)
        t = raw[index]
        wanted = [truth[0] * columns - i, truth[1] * rows - j]
        for axis in (0, 1):
            p = sigmoid(t[axis])
            delta[index][axis] = scale * (wanted[axis] - p) * slope(p)
        delta[index][2] = scale * (math.log(truth[2] * columns / PRIORS[n][0]) - t[2])
        delta[index][3] = scale * (math.log(truth[3] * rows / PRIORS[n][1]) - t[3])

    for index in range(rows * columns * num):
        cell, n = divmod(index, num)
        j, i = divmod(cell, columns)
        p = sigmoid(raw[index][4])
        best = max((iou_of(box(index), truth) for truth, _ in truths), default=0)
        delta[index][4] = 0.0 if best > thresh else 1.0 * (0 - p) * slope(p)
        if seen < 12_800:
            prior = ((i + 0.5) / columns, (j + 0.5) / rows, PRIORS[n][0] / columns, PRIORS[n][1] / rows)
            pull(index, prior, 0.01)
    responsible = set()
    for truth, label in truths:
        i, j = int(truth[0] * columns), int(truth[1] * rows)
        shapes = [iou_of((0, 0, w / columns, h / rows), (0, 0, truth[2], truth[3])) for w, h in PRIORS]
        index = (j * columns + i) * num + shapes.index(max(shapes))
        responsible.add(index)
        pull(index, truth, 2 - truth[2] * truth[3] if area_scale else 1.0)
        p = sigmoid(raw[index][4])
        target = iou_of(box(index), truth) if rescore else 1.0
        delta[index][4] = 5.0 * (target - p) * slope(p)
        total = sum(math.exp(value) for value in raw[index][5:])
        for k in range(NUM_CLASSES):
            delta[index][5 + k] = (k == label) - math.exp(raw[index][5 + k]) / total
    return delta, len(responsible)


def criterion(loss=None, **options):
    if options.get("apply_to") == "objectness":
        loss = loss or SoftmaxCrossEntropy(1)
    return RegionLoss(loss or SoftmaxCrossEntropy(NUM_CLASSES), num_classes=NUM_CLASSES, stride=STRIDE, **options)


def total(terms):
    return terms["cls"] + terms["box"] + terms["obj"]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("options", "darknet"),
    [
        ({}, {"seen": 0}),
        ({"anneal_images": 0}, {"seen": 20_000}),
        ({"rescore": False}, {"seen": 0, "rescore": False}),
        ({"coord_area_scale": True}, {"seen": 0, "area_scale": True}),
        ({"ignore_iou": 0.2}, {"seen": 0, "thresh": 0.2}),
    ],
)
def test_the_gradient_is_darknets(options, darknet, seed):
    raw, targets = scene(seed)
    terms = criterion(**options)(outputs_of(raw), targets)
    (gradient,) = torch.autograd.grad(total(terms), raw)
    found = [
        darknet_image(image, truths_of(boxes, labels), **darknet)
        for image, boxes, labels in zip(raw.tolist(), targets.boxes.tolist(), targets.labels.tolist(), strict=True)
    ]
    num_pos = sum(number for _, number in found)
    assert terms["num_pos"] == num_pos == 3
    expected = -torch.tensor([delta for delta, _ in found]) / num_pos
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)


def perfect(targets):
    """Outputs that predict the objects of ``targets`` exactly, with sure objectness and class."""
    anchors = place_priors(PRIORS, CANVAS, STRIDE)
    raw = torch.zeros(len(targets.labels), len(anchors), 5 + NUM_CLASSES)
    raw[..., 4] = -30
    for n, (boxes, labels) in enumerate(zip(targets.boxes.tolist(), targets.labels.tolist(), strict=True)):
        for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
            if label < 0:
                continue
            x, y, w, h = (x1 + x2) / 64, (y1 + y2) / 64, (x2 - x1) / 32, (y2 - y1) / 32
            shapes = [iou_of((0, 0, *prior), (0, 0, w, h)) for prior in PRIORS]
            prior = shapes.index(max(shapes))
            row = raw[n, (int(y) * 2 + int(x)) * 2 + prior]
            row[:5] = torch.tensor(
                [math.log((v := x % 1) / (1 - v)), math.log((v := y % 1) / (1 - v)),
                 math.log(w / PRIORS[prior][0]), math.log(h / PRIORS[prior][1]), 30.0]
            )  # fmt: skip
            row[5 + label] = 30
    return raw


def test_a_perfect_prediction_costs_nothing():
    _, targets = scene()
    terms = criterion(anneal_images=0)(outputs_of(perfect(targets)), targets)
    for name in ("cls", "box", "obj"):
        assert terms[name].item() == pytest.approx(0, abs=1e-5)


def test_each_term_by_hand():
    """One object, one mistake at a time, on a perfect prediction."""
    _, targets = scene(num_images=1)
    targets = Targets(targets.boxes[:, 1:], targets.labels[:, 1:])  # class 0, centre (40, 52): row 1, column 1
    place = (1 * 2 + 1) * 2 + 1
    loss = criterion(anneal_images=0)
    right = perfect(targets)

    raw = right.clone()
    raw[0, place, 5:] = 0
    assert loss(outputs_of(raw), targets)["cls"].item() == pytest.approx(math.log(3), abs=1e-4)

    raw = right.clone()
    raw[0, place, 4] = 0  # 5/2 (.5 - 1)^2
    assert loss(outputs_of(raw), targets)["obj"].item() == pytest.approx(0.625, abs=1e-4)

    raw = right.clone()
    raw[0, 0, 4] = 0  # 1/2 .5^2
    assert loss(outputs_of(raw), targets)["obj"].item() == pytest.approx(0.125, abs=1e-4)

    raw = right.clone()
    raw[0, place, 2] += 0.2  # 1/2 .2^2
    assert loss(outputs_of(raw), targets)["box"].item() == pytest.approx(0.02, abs=1e-4)


def test_a_good_box_next_door_is_let_alone():
    """The other prior of the cell predicts the object too: no push towards "no object" above the threshold."""
    _, targets = scene(num_images=1)
    targets = Targets(targets.boxes[:, 1:], targets.labels[:, 1:])
    raw = perfect(targets)
    place = (1 * 2 + 1) * 2 + 1
    other = raw[0, place - 1]
    other[:2] = raw[0, place, :2]
    width, height = 40 / 32, 36 / 32
    other[2:4] = torch.tensor([math.log(width / PRIORS[0][0]), math.log(height / PRIORS[0][1])])
    other[4] = 3.0
    assert criterion(anneal_images=0)(outputs_of(raw), targets)["obj"].item() == pytest.approx(0, abs=1e-5)
    without = criterion(anneal_images=0, ignore_iou=1.0)(outputs_of(raw), targets)["obj"].item()
    assert without == pytest.approx(0.5 * sigmoid(3) ** 2, abs=1e-4)


def test_the_pull_to_the_priors_ends():
    raw, targets = scene()
    loss = criterion(anneal_images=4)
    first = loss(outputs_of(raw), targets)["box"].item()
    loss.eval()
    assert loss(outputs_of(raw), targets)["box"].item() == first  # not counted outside training
    assert loss.images_seen == 2
    loss.train()
    assert loss(outputs_of(raw), targets)["box"].item() == first
    assert loss.images_seen == 4
    never = criterion(anneal_images=0)(outputs_of(raw), targets)["box"].item()
    assert loss(outputs_of(raw), targets)["box"].item() == never < first


def test_images_seen_is_part_of_a_checkpoint():
    raw, targets = scene()
    first, second = criterion(), criterion()
    first(outputs_of(raw), targets)
    second.load_state_dict(first.state_dict())
    assert second.images_seen == 2


@pytest.mark.parametrize("apply_to", ["class", "objectness", "both"])
@pytest.mark.parametrize("padding", [0, 2])
def test_a_batch_without_objects(apply_to, padding):
    raw, _ = scene()
    targets = Targets(torch.zeros(2, padding, 4), torch.full((2, padding), -1))
    second = SoftmaxCrossEntropy(1) if apply_to == "both" else None
    terms = criterion(apply_to=apply_to, objectness=second, anneal_images=0)(outputs_of(raw), targets)
    assert terms["num_pos"] == 0
    assert terms["cls"] == 0
    assert terms["box"] == 0
    assert 0 < terms["obj"] < 100
    (gradient,) = torch.autograd.grad(total(terms), raw)
    assert gradient.isfinite().all()
    assert gradient[..., :4].abs().max() == 0
    assert gradient[..., 4].abs().min() > 0


def test_softmax_over_the_classes_has_no_background():
    """Padded with an impossible background, the K + 1 softmax is the K softmax: value and gradient."""
    raw, targets = scene()
    terms = criterion()(outputs_of(raw), targets)
    labels = criterion().class_problem(outputs_of(raw), targets).labels
    assert sorted(labels[labels >= 0].tolist()) == [0, 0, 2]
    chosen = labels >= 0
    expected = F.cross_entropy(raw[..., 5:][chosen], labels[chosen], reduction="sum") / 3
    torch.testing.assert_close(terms["cls"], expected)
    (found,), (wanted,) = torch.autograd.grad(terms["cls"], raw), torch.autograd.grad(expected, raw)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("apply_to", ["class", "objectness", "both"])
def test_every_loss_of_the_family_trains(name, apply_to):
    """A step against the gradient lowers the loss; unseen boxes' classes are not moved."""

    def build(num_classes):
        counts = Counts((5,) * num_classes, 100)
        return LOSSES[name](num_classes=num_classes, counts=counts)

    raw, targets = scene()
    loss = criterion(
        build(1 if apply_to == "objectness" else NUM_CLASSES),
        apply_to=apply_to,
        objectness=build(1) if apply_to == "both" else None,
    ).eval()
    terms = loss(outputs_of(raw), targets)
    (gradient,) = torch.autograd.grad(total(terms), raw)
    assert gradient.isfinite().all()
    after = loss(outputs_of(raw - 1e-3 * gradient), targets)
    assert total(after) < total(terms)
    idle = loss.class_problem(outputs_of(raw), targets).labels < 0
    if apply_to != "objectness":
        assert gradient[..., 5:][idle].abs().max() == 0


@pytest.mark.parametrize("build", [SoftmaxCrossEntropy, SigmoidCrossEntropy])
def test_objectness_takes_the_binary_form(build):
    """Softmax against a background logit of 0, or a sigmoid: the same binary cross entropy over all boxes."""
    raw, targets = scene()
    loss = criterion(build(1), apply_to="objectness", ignore_iou=0.3)
    terms = loss(outputs_of(raw), targets)
    problem = loss.class_problem(outputs_of(raw), targets)
    kept = problem.labels >= 0
    assert (problem.labels == 0).sum() == 3
    assert (~kept).any()
    expected = F.binary_cross_entropy_with_logits(
        raw[..., 4][kept], (problem.labels == 0).float()[kept], reduction="sum"
    )
    torch.testing.assert_close(terms["obj"], expected / 3)
    by_softmax = criterion()(outputs_of(raw), targets)["cls"]
    torch.testing.assert_close(terms["cls"], by_softmax)  # the class term stays darknet's


def test_both_is_each_of_them():
    raw, targets = scene()
    both = criterion(SigmoidCrossEntropy(3), apply_to="both", objectness=SigmoidCrossEntropy(1), weight=2.0)
    classes = criterion(SigmoidCrossEntropy(3), weight=2.0)
    objects = criterion(SigmoidCrossEntropy(1), apply_to="objectness", weight=2.0)
    terms = both(outputs_of(raw), targets)
    torch.testing.assert_close(terms["cls"], classes(outputs_of(raw), targets)["cls"])
    torch.testing.assert_close(terms["obj"], objects(outputs_of(raw), targets)["obj"])


def test_weight_scales_the_loss_under_test_only():
    raw, targets = scene()
    once, twice = criterion()(outputs_of(raw), targets), criterion(weight=2.0)(outputs_of(raw), targets)
    torch.testing.assert_close(twice["cls"], 2 * once["cls"])
    assert twice["obj"] == once["obj"]
    once = criterion(apply_to="objectness")(outputs_of(raw), targets)
    twice = criterion(apply_to="objectness", weight=2.0, object_scale=9.0)(outputs_of(raw), targets)
    torch.testing.assert_close(twice["obj"], 2 * once["obj"])
    assert twice["cls"] == once["cls"]


def test_factors_of_the_other_terms():
    raw, targets = scene()
    plain = criterion(anneal_images=0)(outputs_of(raw), targets)
    scaled = criterion(anneal_images=0, coord_scale=3.0, class_scale=0.5)(outputs_of(raw), targets)
    torch.testing.assert_close(scaled["box"], 3 * plain["box"])
    torch.testing.assert_close(scaled["cls"], 0.5 * plain["cls"])


class Recorder(ClassificationLoss):
    """A loss that keeps what it is asked."""

    needs_quality = True
    needs_boxes = True

    def forward(self, logits, labels, *, quality=None, boxes=None):
        self.asked = labels, quality, boxes
        return logits.sum() * 0


@pytest.mark.parametrize("apply_to", ["class", "objectness"])
def test_a_loss_that_asks_sees_boxes_and_their_quality(apply_to):
    _, targets = scene()
    loss = Recorder(1 if apply_to == "objectness" else NUM_CLASSES)
    criterion(loss, apply_to=apply_to)(outputs_of(perfect(targets)), targets)
    labels, quality, boxes = loss.asked
    responsible = labels == 0 if apply_to == "objectness" else labels >= 0
    torch.testing.assert_close(quality[responsible], torch.ones(3), atol=1e-4, rtol=0)
    assert quality[~responsible].abs().max() == 0
    assert boxes.shape == (2, 12, 4)


def test_counts_for_alpha():
    _, targets = scene()
    anchors = place_priors(PRIORS, CANVAS, STRIDE)
    classes = criterion().count(anchors, targets)["classification"]
    assert classes.positives_per_class == (2, 0, 1)
    assert classes.negatives == 0
    for counts in (
        criterion(apply_to="objectness").count(anchors, targets)["classification"],
        criterion(apply_to="both", objectness=SoftmaxCrossEntropy(1)).count(anchors, targets)["objectness"],
    ):
        assert counts.positives_per_class == (3,)
        assert counts.negatives == 2 * 12 - 3


def test_progress_reaches_both_losses():
    schedule = {"schedule": "linear", "values": [0, 4], "at": [0, 1]}
    losses = [LOSSES["focal"](num_classes=k, gamma=schedule, alpha=None) for k in (NUM_CLASSES, 1)]
    criterion(losses[0], apply_to="both", objectness=losses[1]).set_progress(0.25)
    assert [loss.scheduled()["gamma"] for loss in losses] == [1.0, 1.0]


@pytest.mark.parametrize(("apply_to", "second"), [("both", None), ("class", SoftmaxCrossEntropy(1))])
def test_a_second_loss_is_for_both_alone(apply_to, second):
    with pytest.raises(ValueError, match="second loss"):
        criterion(apply_to=apply_to, objectness=second)


def test_half_precision_outputs_are_summed_in_float32():
    raw, targets = scene()
    terms = criterion()(outputs_of(raw.detach().bfloat16()), targets)
    exact = criterion()(outputs_of(raw.detach().bfloat16().float()), targets)
    for name in ("cls", "box", "obj"):
        assert terms[name].dtype == torch.float32
        torch.testing.assert_close(terms[name], exact[name])
