"""RetinaNet against torchvision's with the same weights, and its own invariants."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection.retinanet import retinanet_resnet50_fpn

from focalbench.models.retinanet import RetinaNet


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return RetinaNet(num_classes=3, backbone="tiny").eval()


def test_outputs_fit_each_other(tiny):
    with torch.no_grad():
        outputs = tiny(torch.randn(2, 3, 96, 128))
    sizes = tuple(-(-96 // s) * -(-128 // s) * 6 for s in (8, 16, 32, 64))
    assert outputs.level_sizes == sizes
    assert outputs.cls_logits.shape == (2, sum(sizes), 3)
    assert outputs.box_deltas.shape == (2, sum(sizes), 4)
    assert outputs.objectness is None
    assert outputs.canvas == (96, 128)
    assert torch.equal(outputs.anchors, tiny.anchors_for((96, 128)))


def test_softmax_has_one_output_more():
    model = RetinaNet(num_classes=3, backbone="tiny", activation="softmax")
    assert model(torch.randn(2, 3, 64, 64)).cls_logits.shape[-1] == 4


def test_all_weights_but_the_class_outputs_are_paired():
    states = []
    for activation in ("sigmoid", "softmax"):
        torch.manual_seed(5)
        states.append(RetinaNet(num_classes=3, backbone="tiny", activation=activation).state_dict())
    shared = [name for name in states[0] if not name.startswith("class_subnet.predict")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in shared)


def test_the_papers_anchors_are_those_of_torchvision():
    """Nine a cell on P3 to P7. torchvision centres them on the corners of cells and rounds them: half a pixel apart."""
    model = RetinaNet(num_classes=1, backbone="resnet18")
    strides, sizes = (8, 16, 32, 64, 128), ((4, 6), (2, 3), (1, 2), (1, 1), (1, 1))
    scales = tuple(tuple(4 * s * 2 ** (k / 3) for k in range(3)) for s in strides)
    generator = AnchorGenerator(scales, ((0.5, 1.0, 2.0),) * 5)
    images = ImageList(torch.zeros(1, 3, 32, 48), [(32, 48)])
    (reference,) = generator(images, [torch.zeros(1, 1, *size) for size in sizes])
    found = model.anchors_for((32, 48))
    assert found.shape == reference.shape == (9 * sum(h * w for h, w in sizes), 4)
    found, reference = found.split([9 * h * w for h, w in sizes]), reference.split([9 * h * w for h, w in sizes])
    for stride, (height, width), ours, theirs in zip(strides, sizes, found, reference, strict=True):
        # torchvision's order within a cell: ratios vary slowest; its stride is the image's size over the grid's.
        ours, theirs = ours.view(-1, 3, 3, 4), theirs.view(-1, 3, 3, 4).transpose(1, 2)
        step = torch.tensor([48 // width, 32 // height] * 2)
        cells = torch.cartesian_prod(torch.arange(height), torch.arange(width)).flip(1).repeat(1, 2)[:, None, None]
        ours_at_origin = ours - stride * (cells + 0.5)
        theirs_at_origin = theirs - step * cells
        assert (ours_at_origin - theirs_at_origin).abs().max() <= 0.5 + 1e-3


def test_decode_equals_torchvisions_postprocessing(tiny):
    """The same logits, deltas and anchors through torchvision's own postprocess_detections."""
    reference = retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, score_thresh=0.3, nms_thresh=0.5, topk_candidates=40, detections_per_img=30
    )
    assert isinstance(reference, TorchvisionRetinaNet)
    model = RetinaNet(num_classes=3, backbone="tiny", pre_nms_top=40)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        outputs = model(torch.zeros(2, 3, 64, 64))
    outputs.cls_logits.normal_(generator=generator)
    outputs.box_deltas.normal_(std=0.3, generator=generator)
    levels = list(outputs.level_sizes)
    found = model.decode(outputs, score_thresh=0.3, nms_thresh=0.5, max_detections=30)
    expected = reference.postprocess_detections(
        {
            "cls_logits": list(outputs.cls_logits.split(levels, dim=1)),
            "bbox_regression": list(outputs.box_deltas.split(levels, dim=1)),
        },
        [list(outputs.anchors.split(levels))] * 2,
        [(64, 64)] * 2,
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours.scores) == 30
        torch.testing.assert_close(ours.scores, theirs["scores"])
        assert torch.equal(ours.labels, theirs["labels"])
        torch.testing.assert_close(ours.boxes, theirs["boxes"], atol=1e-3, rtol=1e-5)


def test_the_network_equals_torchvisions_with_the_same_weights():
    """ResNet-50 and heads of four convolutions: tensor by tensor, then output by output."""
    torch.manual_seed(0)
    reference = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2).eval()
    model = RetinaNet(num_classes=2, backbone="resnet50", norm="batch").eval()
    ours = model.state_dict()
    for name, value in reference.state_dict().items():
        if (target := our_name(name)) is not None:
            assert ours[target].shape == value.shape
            ours[target] = value
    model.load_state_dict(ours)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        features = list(reference.backbone.body(images).values())
        for a, b in zip(model.backbone(images), features, strict=True):
            torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
        levels = model.fpn([x / x.std() for x in features])
        expected = reference.head(levels)
        torch.testing.assert_close(model.class_subnet(levels), expected["cls_logits"], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(model.box_subnet(levels), expected["bbox_regression"], atol=1e-4, rtol=1e-4)


def our_name(name):
    """The name here of a tensor of torchvision's RetinaNet; None for the pyramid, which has its own test."""
    prefixes = {"conv1.": "stem.0.", "bn1.": "stem.1."} | {f"layer{n}.": f"stages.{n - 1}." for n in (1, 2, 3, 4)}
    if name.startswith("backbone.body."):
        rest = name.removeprefix("backbone.body.")
        old = next(prefix for prefix in prefixes if rest.startswith(prefix))
        return "backbone." + prefixes[old] + rest.removeprefix(old)
    for head, subnet, last in (
        ("classification", "class_subnet", "cls_logits"),
        ("regression", "box_subnet", "bbox_reg"),
    ):
        start = f"head.{head}_head."
        if name.startswith(start + "conv."):
            index, _, kind = name.removeprefix(start + "conv.").split(".")
            return f"{subnet}.tower.{2 * int(index)}.{kind}"
        if name.startswith(start + last):
            return f"{subnet}.predict." + name.rsplit(".", 1)[1]
    return None


def kernels(module):
    """Numbers in convolution kernels: torchvision's batch norms are parameters, frozen ones here are not."""
    return sum(p.numel() for p in module.parameters() if p.dim() == 4)


def test_r50_has_the_parameters_of_torchvisions():
    with torch.device("meta"):
        ours = RetinaNet(num_classes=20, backbone="resnet50", norm="frozen")
        theirs = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=20)
    for part, other in ((ours.backbone, theirs.backbone.body), (ours.fpn, theirs.backbone.fpn)):
        assert kernels(part) == kernels(other)
    for subnet, head in (
        (ours.class_subnet, theirs.head.classification_head),
        (ours.box_subnet, theirs.head.regression_head),
    ):
        assert sum(p.numel() for p in subnet.parameters()) == sum(p.numel() for p in head.parameters())
